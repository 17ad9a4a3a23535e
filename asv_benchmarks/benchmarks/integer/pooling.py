"""Pools and means of codes."""

import numpy as np

from refquant.integer.convolution import Window
from refquant.integer.pooling import average_pool, max_pool, mean
from refquant.quantizers.uniform import Uniform

from ..common import QUICK, Benchmark

SIZE = 8 if QUICK else 64


class Pooling(Benchmark):
    params = (["refquant"], ["average", "max", "mean"])
    param_names = ("impl", "operation")

    def setup(self, impl: str, operation: str) -> None:
        self.x = np.random.default_rng(0).integers(-128, 128, (1, SIZE, SIZE, 32))
        self.q = Uniform(np.array(0.1), np.array(-3), -128, 127)

    def time_operation(self, impl: str, operation: str) -> None:
        if operation == "mean":
            mean(self.x, (1, 2), self.q, self.q)
        else:
            pool = average_pool if operation == "average" else max_pool
            pool(self.x, (2, 2), Window((2, 2)), self.q)
