"""Sums and products of codes: time, and how often they miss the nearest code."""

import numpy as np

from refquant.integer.elementwise import add, add_shifted, multiply, requantize, requantize_shifted
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality, size

OPERATIONS = {"add": add, "add_shifted": add_shifted, "multiply": multiply}
A, B, Y = (Uniform(np.array(s, np.float32), np.array(z), -128, 127)
           for s, z in ((0.05, -3), (0.03, 5), (0.06, 2)))


def codes(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-128, 128, (2, n))


class Elementwise(Benchmark):
    params = (["refquant"], list(OPERATIONS))
    param_names = ("impl", "operation")

    def setup(self, impl: str, operation: str) -> None:
        self.a, self.b = codes(size(500_000))

    def time_operation(self, impl: str, operation: str) -> None:
        OPERATIONS[operation](self.a, self.b, A, B, Y)


class ElementwiseQuality(Quality):
    params = (["requantize", "requantize_shifted"],)
    param_names = ("way",)

    def track_not_the_nearest(self, way: str) -> float:
        x = np.arange(-100, 100)
        real = (x + 3) * (float(A.scale) / float(Y.scale)) + 2
        got = {"requantize": requantize, "requantize_shifted": requantize_shifted}[way](x, A, Y)
        return float((np.abs(got - real) > 0.5).mean())

    track_not_the_nearest.unit = "share of codes"
