"""Sensitivity: time of a divergence and of the error of the weights, beside the networks' runs."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.mixed_precision.sensitivity import (
    fisher_diagonal,
    prediction_divergence,
    weighted_error,
)


class Sensitivity(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        n = size(200_000)
        self.w = weights("gauss", n)
        self.candidates = [[self.w.round(b) for b in (0, 1, 2)]]
        self.logits = weights("gauss", n)[: n // 10 * 10].reshape(-1, 10)
        self.other = np.roll(self.logits, 1, axis=0)

    def time_divergence(self, impl):
        prediction_divergence(self.logits, self.other)

    def time_weighted_error(self, impl):
        weighted_error([self.w], self.candidates)

    def time_fisher_diagonal(self, impl):
        fisher_diagonal([self.w] * 8)
