"""Periodic penalties: time forward and back; how near descent brings weights to the grid."""

import numpy as np

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.qat.periodic import on_grid, sinreq, waveq


class Periodic(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.w = weights("gauss", size(200_000)) / 8
        self.g = np.ones_like(self.w)

    def time_sinreq(self, impl):
        sinreq(self.w, np.array(0.25, np.float32))[1](self.g)

    def time_waveq(self, impl):
        waveq(self.w, np.array(3.0, np.float32))[1](self.g)


class PeriodicRest(Quality):
    params = (["refquant"],)
    param_names = ("impl",)

    def track_error_after_descent(self, impl):
        """Squared rounding error after 100 steps on the penalty alone, over that before."""
        start = np.clip(weights("gauss", size(20_000), "float64") / 3, -1, 1)
        beta, w = np.array(3.0), start
        for _ in range(100):
            w = w - 0.002 * waveq(w, beta)[1](np.ones_like(w))[0]
        return float(np.mean((w - on_grid(w, beta)) ** 2)
                     / np.mean((start - on_grid(start, beta)) ** 2))

    track_error_after_descent.unit = "of the error before"
