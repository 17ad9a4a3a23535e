"""Lloyd from each start: what it takes, and how far above the optimum it ends."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.kmeans import density, forgy, linear, lloyd, plus_plus
from refquant.quantizers.optimal_kmeans import optimal_kmeans

STARTS = {
    "linear": linear,
    "density": density,
    "forgy": lambda x, k: forgy(x, k, rng=np.random.default_rng(0)),
    "plus_plus": lambda x, k: plus_plus(x, k, rng=np.random.default_rng(0)),
}


class Kmeans(Quality):
    params = (list(STARTS), ["gauss", "outlier"])
    param_names = ("start", "data")

    def setup(self, start, data):
        self.x = weights(data, size(20_000))
        self.fit = lambda: lloyd(self.x, STARTS[start](self.x, 16)).quantizer

    def time_fit(self, start, data):
        self.fit()

    def track_excess_error(self, start, data):
        """Error over the global optimum, minus one."""
        found = mse(self.x, fake_quantize(self.x, self.fit()))
        best = mse(self.x, fake_quantize(self.x, optimal_kmeans(self.x, 16)))
        return max(found / best - 1, 0.0)

    track_excess_error.unit = "of the optimum"
