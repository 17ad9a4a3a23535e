"""AdaQuant: time of a step, and error of the output relative to nearest rounding."""

import numpy as np

from benchmarks.common import Benchmark, Quality
from benchmarks.ptq.adaround import STEPS, layer, share
from refquant.ptq.adaquant import adaquant


class Adaquant(Benchmark):
    params = (["refquant"], [2, 4])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        self.w, self.x, self.q = layer(bits)
        self.target = self.x @ self.w.T

    def time_steps(self, impl, bits):
        adaquant(self.w, self.x, self.target, self.q, rng=np.random.default_rng(0), steps=STEPS)


class AdaquantError(Quality):
    params = (["refquant"], [2, 3, 4])
    param_names = ("impl", "bits")

    def track_error_over_nearest(self, impl, bits):
        w, x, q = layer(bits)
        r = adaquant(w, x, x @ w.T, q, rng=np.random.default_rng(0), steps=STEPS, rate=0.02)
        return share(w, r.weight, x, q)

    track_error_over_nearest.unit = "of nearest rounding's squared error"
