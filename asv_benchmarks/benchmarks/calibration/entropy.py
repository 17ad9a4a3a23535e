"""Entropy calibration: the definition candidate by candidate, and all at once."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, size, weights
from refquant.calibration.entropy import candidate_divergences, entropy
from refquant.calibration.statistics import Histogram

BINS = 256 if QUICK else 2048


class Entropy(Benchmark):
    params = (["refquant", "naive"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.x = weights("laplace", size(1_000_000))

    def time_entropy(self, impl):
        if impl == "refquant":
            entropy(self.x, bins=BINS)
        else:
            counts = Histogram.of(np.abs(self.x), bins=BINS).counts
            np.argmin(candidate_divergences(counts))
