"""Two rules on the same sums: what the comparison costs, and how good the law is."""

import numpy as np

from refquant.integer.difference import compare_rules, work_out
from refquant.integer.requantize import double_away, double_up, single_up

from ..common import Benchmark, Quality, size


def sums(n: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-(2**20), 2**20, n)


class Difference(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.sums = sums(size(200_000))

    def time_compare_rules(self, impl: str) -> None:
        compare_rules(self.sums, 0.1, double_away, double_up)

    def time_work_out_one_sum(self, impl: str) -> None:
        work_out(-39, 1 / 6, double_away)


class DifferenceLaw(Quality):
    """Distance of the measured rate from 2**-(R + 1), as a share of it."""

    params = ([1, 2, 4, 8],)
    param_names = ("right_shift",)

    def track_error_of_the_law(self, right_shift: int) -> float:
        found = compare_rules(sums(200_000), 0.7 * 2.0**-right_shift, double_away, single_up)
        return abs(float(found.apart.mean() / found.expected.mean()) - 1)

    track_error_of_the_law.unit = "relative error"
