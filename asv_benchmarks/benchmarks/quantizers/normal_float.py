"""4-bit blocks of 64: NF4 against integers and against levels found from the data."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.granularity import group
from refquant.kernels.histogram_kmeans import histogram_kmeans
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.normal_float import block_absmax, torchao_nf4
from refquant.quantizers.uniform import symmetric


def integers(x):
    return symmetric(np.abs(x).max(axis=-1, keepdims=True), bits=4)


def found(x):
    """The optimal codebook of the scaled values: the same storage as NF4."""
    scaled = x / np.abs(x).max(axis=-1, keepdims=True)
    return block_absmax(x, codebook=histogram_kmeans(scaled, 16))


FITS = {"bitsandbytes": block_absmax, "integers": integers, "k-means": found,
        "torchao": lambda x: block_absmax(x, codebook=torchao_nf4())}


class NormalFloat(Quality):
    params = (list(FITS), ["gauss", "laplace"])
    param_names = ("levels", "data")

    def setup(self, levels, data):
        self.x = group(weights(data, size(1_024_000) // 64 * 64), 64)
        self.fit = FITS[levels]

    def time_fit_and_encode(self, levels, data):
        self.fit(self.x).encode(self.x)

    def track_relative_mse(self, levels, data):
        error = mse(self.x, fake_quantize(self.x, self.fit(self.x)))
        return error / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"
