"""Fixed-point multiplication: time, and what rounding twice costs."""

import numpy as np

from refquant.integer.arithmetic import multiply_by_quantized_multiplier, quantize_multiplier

from ..common import Benchmark, Quality, size


def accumulators(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**20), 2**20, n)


class Arithmetic(Benchmark):
    params = (["refquant", "float64"],)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.x, self.multiplier = accumulators(size(1_000_000)), quantize_multiplier(0.0003)

    def time_multiply(self, impl: str) -> None:
        if impl == "refquant":
            multiply_by_quantized_multiplier(self.x, self.multiplier)
        else:
            np.rint(self.x * 0.0003)


class ArithmeticQuality(Quality):
    params = ([-1, -2, -4, -8],)
    param_names = ("shift",)

    def track_not_the_nearest(self, shift: int) -> float:
        """Share of products that are not the nearest integer; 2**(shift - 1) is expected."""
        real = 0.5**0.5 * 2.0**shift
        x = accumulators(100_000)
        product = multiply_by_quantized_multiplier(x, quantize_multiplier(real))
        return float((np.abs(product - x * real) > 0.5).mean())

    track_not_the_nearest.unit = "share of products"
