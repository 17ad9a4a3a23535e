"""Codebooks of vectors: time to fit, and the error at two bits a weight."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.vector import additive, kmeans, product, residual

#: Each spends two bits a weight on codes.
FITS = {
    "scalar": lambda x, rng: kmeans(x, 4, sub_vector=1, rng=rng),
    "vector": lambda x, rng: kmeans(x, 16, sub_vector=2, rng=rng),
    "product": lambda x, rng: product(x, 16, sub_vector=2, rng=rng),
    "residual": lambda x, rng: residual(x, 16, sub_vector=4, stages=2, rng=rng),
    "additive": lambda x, rng: additive(x, 16, sub_vector=4, stages=2, rng=rng, max_sweeps=3),
}


class Vector(Quality):
    params = (list(FITS),)
    param_names = ("fit",)

    def setup(self, fit):
        self.x = weights("gauss", size(200_000) // 16 * 16).reshape(-1, 16)

    def time_fit(self, fit):
        FITS[fit](self.x, np.random.default_rng(0))

    def peakmem_fit(self, fit):
        FITS[fit](self.x, np.random.default_rng(0))

    def track_relative_mse(self, fit):
        """Error over signal; Lloyd-Max leaves 0.1175 at two bits, Shannon's bound is 0.0625."""
        x_hat = fake_quantize(self.x, FITS[fit](self.x, np.random.default_rng(0)))
        return mse(self.x, x_hat) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"

    def track_bits_per_weight(self, fit):
        return bits_per_element(FITS[fit](self.x, np.random.default_rng(0)), self.x.shape)

    track_bits_per_weight.unit = "bits/weight"
