"""Accuracy by subgroup with intervals: time, beside scipy's paired bootstrap of one group."""

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.workflow import fairness

DRAWS = 100 if QUICK else 2000


class Fairness(Benchmark):
    params = (["refquant", "scipy"], [200] if QUICK else [1000, 10_000])
    param_names = ("impl", "n")

    def setup(self, impl, n):
        rng = np.random.default_rng(0)
        self.labels = rng.integers(0, 10, n)
        self.before, self.after = (
            np.where(rng.random(n) < 0.95, self.labels, rng.integers(0, 10, n)) for _ in range(2))
        self.groups = np.zeros(n, int)
        self.run = self.ours if impl == "refquant" else self.theirs

    def ours(self):
        return fairness.by_subgroup(self.labels, self.before, self.after, self.groups,
                                    rng=np.random.default_rng(0), draws=DRAWS)

    def theirs(self):
        from scipy.stats import bootstrap

        right = [(p == self.labels).astype(float) for p in (self.before, self.after)]
        return bootstrap(right, lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True,
                         vectorized=True, n_resamples=DRAWS, method="percentile", batch=100,
                         random_state=np.random.default_rng(0))

    def time_intervals(self, impl, n):
        self.run()
