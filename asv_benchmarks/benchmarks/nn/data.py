"""The digits: loading, one epoch of batches, and moving every image."""

import numpy as np

from benchmarks.common import Benchmark
from refquant.nn.data import batches, digits, shifted


class Data(Benchmark):
    def setup(self):
        self.x = digits(seed=0).x_train

    def time_digits(self):
        digits(seed=0)

    def time_epoch_of_batches(self):
        rng = np.random.default_rng(0)
        for index in batches(len(self.x), 64, rng=rng):
            self.x[index]

    def time_shifted(self):
        shifted(self.x, rng=np.random.default_rng(0))
