"""Cutting policies down to the budget."""

import numpy as np

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problem import CHOICES, environment
from refquant.mixed_precision.environment import within_budget


class Environment(Benchmark):
    params = ([3, 6],)
    param_names = ("average_bits",)

    def setup(self, average_bits):
        self.environment = environment(average_bits)
        self.policies = CHOICES[np.random.default_rng(0).integers(7, size=(100, 10))]

    def time_enforce_100_policies(self, average_bits):
        for bits in self.policies:
            within_budget(bits, self.environment)
