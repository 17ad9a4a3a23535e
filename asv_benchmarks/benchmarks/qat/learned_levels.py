"""A staircase with learned thresholds and levels: forward and backward."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.qat.learned_levels import logistic, staircase


class LearnedLevels(Benchmark):
    params = (["refquant"], [2, 4])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        self.x = weights("gauss", size(200_000))
        n = 2**bits
        self.levels = np.linspace(-2, 2, n, dtype=np.float32)
        self.thresholds = (self.levels[1:] + self.levels[:-1]) / 2
        self.g = np.ones_like(self.x)

    def time_forward_and_backward(self, impl, bits):
        staircase(self.x, self.thresholds, self.levels, logistic(0.1))[1](self.g)
