"""Padding, joining and cutting codes."""

import numpy as np

from refquant.integer.movement import concatenate, pad, strided_slice
from refquant.quantizers.uniform import Uniform

from ..common import QUICK, Benchmark

SIZE = 8 if QUICK else 112


class Movement(Benchmark):
    params = (["refquant"], ["pad", "concatenate", "strided_slice"])
    param_names = ("impl", "operation")

    def setup(self, impl: str, operation: str) -> None:
        self.x = np.random.default_rng(0).integers(-128, 128, (1, SIZE, SIZE, 32), np.int32)
        self.q = Uniform(np.array(0.1), np.array(-3), -128, 127)

    def time_operation(self, impl: str, operation: str) -> None:
        if operation == "pad":
            pad(self.x, [[0, 0], [0, 1], [0, 1], [0, 0]], self.q)
        elif operation == "concatenate":
            concatenate([self.x, self.x], [self.q] * 3, axis=3)
        else:
            np.ascontiguousarray(strided_slice(self.x, [0, 0], [1, SIZE], [1, 2]))
