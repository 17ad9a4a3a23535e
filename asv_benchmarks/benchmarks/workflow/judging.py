"""Resampling pairs: how long, and how much of the interval is luck of the draws."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.workflow.judging import cosine, paired_drop, parts_of, same


class Judging(Quality):
    params = ([300, 10_000],)
    param_names = ("examples",)

    def setup(self, examples):
        rng = np.random.default_rng(0)
        self.before = (rng.random(examples) < 0.99).astype(np.float64)
        self.after = self.before * (rng.random(examples) < 0.98)
        self.output = rng.standard_normal((examples, 10))
        self.draws = 200 if QUICK else 2000

    def time_parts(self, examples):
        parts_of(examples, rng=np.random.default_rng(0))

    def time_scores(self, examples):
        same(self.output, self.output)
        cosine(self.output, self.output)

    def time_paired_drop(self, examples):
        paired_drop(self.before, self.after, rng=np.random.default_rng(0), draws=self.draws)

    def track_luck(self, examples):
        ends = [paired_drop(self.before, self.after, rng=np.random.default_rng(seed),
                            draws=self.draws).interval for seed in range(2 if QUICK else 8)]
        width = np.mean([high - low for low, high in ends])
        return float(np.std([low for low, _ in ends]) / width)

    track_luck.unit = "of the width of the interval, deviation of its end over seeds"
