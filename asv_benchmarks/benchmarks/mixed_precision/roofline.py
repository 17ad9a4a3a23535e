"""The roofline: how much longer real products take than its bound says."""

from time import perf_counter

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.mixed_precision.roofline import Machine, layer_time


class Roofline(Quality):
    params = (["refquant"], ["product", "row"])
    param_names = ("impl", "shape")

    def setup(self, impl, shape):
        n = 256 if QUICK else 1024
        self.rows = n if shape == "product" else 1
        rng = np.random.default_rng(0)
        self.w = rng.standard_normal((n, n), np.float32)
        self.x = rng.standard_normal((self.rows, n), np.float32)
        self.big = rng.standard_normal((n, n), np.float32)
        self.copy = np.empty_like(self.w)

    def track_time_over_bound(self, impl, shape):
        """The machine's two numbers are the best that NumPy itself reaches here."""
        n = len(self.w)
        peak = 2 * n**3 / best(lambda: self.big @ self.w.T)
        bandwidth = 2 * self.w.nbytes / best(lambda: np.copyto(self.copy, self.w))
        moved = 4 * (self.w.size + self.x.size + self.rows * n)
        bound = layer_time(self.rows * n * n, moved, Machine(peak, bandwidth))
        return best(lambda: self.x @ self.w.T) / bound

    track_time_over_bound.unit = "times the bound"


def best(call):
    """Least of some seconds."""
    times = []
    for _ in range(3 if QUICK else 20):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)
