"""Powers of two, plain and additive: what they cost and how they compare with 4-bit integers."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.power_of_two import apot, linear_nearest, log_nearest
from refquant.quantizers.uniform import symmetric

FITS = {"log_nearest": log_nearest, "linear_nearest": linear_nearest, "apot": apot,
        "uniform": symmetric}


class PowerOfTwo(Quality):
    params = (list(FITS), ["gauss", "laplace"])
    param_names = ("fit", "data")

    def setup(self, fit, data):
        self.x = weights(data, size(100_000))
        self.fit = lambda bound: FITS[fit](np.asarray(bound, np.float32), bits=4)
        self.q = self.fit(3)

    def time_encode(self, fit, data):
        self.q.encode(self.x)

    def peakmem_encode(self, fit, data):
        self.q.encode(self.x)

    def track_relative_mse(self, fit, data):
        """Error over signal at the best of 40 bounds."""
        bounds = np.linspace(0.5, 8, 40)
        found = min(mse(self.x, fake_quantize(self.x, self.fit(bound))) for bound in bounds)
        return found / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"
