"""The round trip through codes: time and memory of the definition, for several quantizers."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.codebook import Codebook
from refquant.quantizers.uniform import asymmetric, symmetric


def codebook(x):
    levels = np.linspace(x.min(), x.max(), 16, dtype=x.dtype)
    return Codebook(levels, (levels[:-1] + levels[1:]) / 2)


FITS = {
    "symmetric": lambda x: symmetric(np.abs(x).max(), bits=4),
    "asymmetric": lambda x: asymmetric(x.min(), x.max(), bits=4),
    "codebook": codebook,
}


class Quantizer(Quality):
    params = (list(FITS), ["gauss", "outlier"])
    param_names = ("quantizer", "data")

    def setup(self, name, data):
        self.x = weights(data, size(1_000_000))
        self.quantizer = FITS[name](self.x)

    def time_fake_quantize(self, name, data):
        fake_quantize(self.x, self.quantizer)

    def peakmem_fake_quantize(self, name, data):
        fake_quantize(self.x, self.quantizer)

    def track_relative_mse(self, name, data):
        noise = mse(self.x, fake_quantize(self.x, self.quantizer))
        return noise / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"

    def track_bits_per_element(self, name, data):
        return bits_per_element(self.quantizer, self.x.shape)

    track_bits_per_element.unit = "bits/element"
