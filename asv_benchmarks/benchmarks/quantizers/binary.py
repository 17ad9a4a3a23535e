"""One bit a weight: time to fit and encode, and the error it leaves."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.binary import xnor


def _naive(x):
    scale = np.abs(x).mean(axis=1, keepdims=True)
    return np.where(x >= 0, scale, -scale)


IMPL = {"refquant": lambda x: fake_quantize(x, xnor(x, axis=1)), "naive": _naive}


class Binary(Quality):
    params = (list(IMPL), ["gauss", "laplace"])
    param_names = ("impl", "data")

    def setup(self, impl, data):
        n = size(1_000_000) // 1000
        self.x = weights(data, n * 1000).reshape(n, 1000)

    def time_fit_and_encode(self, impl, data):
        IMPL[impl](self.x)

    def peakmem_fit_and_encode(self, impl, data):
        IMPL[impl](self.x)

    def track_relative_mse(self, impl, data):
        """Error over signal; 1 - 2/pi for Gaussian weights."""
        return mse(self.x, IMPL[impl](self.x)) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"

    def track_bits_per_weight(self, impl, data):
        return bits_per_element(xnor(self.x, axis=1), self.x.shape)

    track_bits_per_weight.unit = "bits/weight"
