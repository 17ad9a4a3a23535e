"""Requantization: time of each rule, and how often it misses the nearest integer."""

import numpy as np

from refquant.integer.requantize import RULES

from ..common import Benchmark, Quality, size


def sums(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**20), 2**20, n)


class Requantize(Benchmark):
    params = (["refquant", "float64"], list(RULES))
    param_names = ("impl", "rule")

    def setup(self, impl: str, rule: str) -> None:
        self.x = sums(size(1_000_000)).reshape(-1, 50)
        self.real = np.random.default_rng(1).uniform(2.0**-12, 2.0**-8, 50)
        self.rule = RULES[rule] if impl == "refquant" else lambda x, m: np.rint(x * m)

    def time_rule(self, impl: str, rule: str) -> None:
        self.rule(self.x, self.real)


class RequantizeQuality(Quality):
    params = (list(RULES), [1, 4, 8])
    param_names = ("rule", "right_shift")

    def track_not_the_nearest(self, rule: str, right_shift: int) -> float:
        x, real = sums(100_000), 0.5**0.5 * 2.0**-right_shift
        return float((np.abs(RULES[rule](x, real) - x * real) > 0.5).mean())

    track_not_the_nearest.unit = "share of sums"
