"""The corrected folded norm: its operations beside the norm that it stands for."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, share_of_time
from refquant.nn.normalization import batch_norm_training
from refquant.qat.batchnorm import batch_mean, batch_variance, corrected

SHAPE = (4, 8, 8, 16) if QUICK else (64, 8, 8, 16)


class Batchnorm(Benchmark):
    def setup(self):
        rng = np.random.default_rng(0)
        self.y, self.g = rng.standard_normal((2, *SHAPE)).astype(np.float32)
        self.one = np.ones(16, np.float32)

    def folded(self):
        mean, of_mean = batch_mean(self.y)
        variance, of_variance = batch_variance(self.y)
        _, pullback = corrected(self.y, self.one, self.one, mean, variance, self.one)
        parts = pullback(self.g)
        return of_mean(parts[3]), of_variance(parts[4])

    def plain(self):
        return batch_norm_training(self.y, self.one, self.one)[1](self.g)

    def time_forward_and_backward(self):
        self.folded()

    def track_time_over_the_norm(self):
        return share_of_time(self.folded, self.plain)

    track_time_over_the_norm.unit = "ratio"
