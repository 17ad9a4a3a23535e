"""Three levels: what the exact optimum costs and gains over the rules of thumb."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.ternary import absmean, optimal, twn

FITS = {"optimal": optimal, "twn": twn, "absmean": absmean}


class Ternary(Quality):
    params = (list(FITS), ["gauss", "laplace"])
    param_names = ("fit", "data")

    def setup(self, fit, data):
        n = size(1_000_000) // 1000
        self.x = weights(data, n * 1000).reshape(n, 1000)
        self.fit = FITS[fit]

    def time_fit_and_encode(self, fit, data):
        fake_quantize(self.x, self.fit(self.x, axis=1))

    def peakmem_fit_and_encode(self, fit, data):
        fake_quantize(self.x, self.fit(self.x, axis=1))

    def track_relative_mse(self, fit, data):
        """Error over signal; 0.1902 is the Gaussian optimum."""
        x_hat = fake_quantize(self.x, self.fit(self.x, axis=1))
        return mse(self.x, x_hat) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"
