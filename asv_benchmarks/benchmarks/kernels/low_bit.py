"""Bit planes and fields of floats side by side: whether the table chooses the faster one."""

from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS
from benchmarks.kernels._peers import _Product
from refquant.kernels import low_bit
from refquant.kernels.low_bit import SIGNS, TRITS, integers

#: Few enough, or many enough, rows for either kernel.
ROWS_FOR = {"bit planes": 0, "fields of floats": 10_000}
FORMATS = {
    "signs by signs": (SIGNS, SIGNS),
    "trits by trits": (TRITS, TRITS),
    "trits by 4 bits": (TRITS, integers(4)),
    "trits by 8 bits": (TRITS, integers(8)),
    "2 bits by 2 bits": (integers(2), integers(2)),
}


def codes(levels, shape):
    number = (levels.high - levels.low) // levels.step + 1
    return levels.low + levels.step * np.random.default_rng(0).integers(0, number, shape)


@lru_cache(maxsize=4)
def call_of(impl, side, form, rows):
    of, x = FORMATS[form]
    left = codes(x, (rows, side))
    planned = ROWS_FOR.get(impl, rows)
    weight = low_bit.prepare(codes(of, (side, side)), of, x=x, rows=planned)
    return lambda: low_bit.product(left, weight)


class LowBit(_Product):
    """`rows` of x, packed in the call; "refquant" chooses."""

    params = (["refquant", *ROWS_FOR], list(FORMATS), [1, 4, 16, 64])
    param_names = ("impl", "format", "rows")

    def setup(self, impl, form, rows):
        self.prepare(call_of, impl, next(iter(OPERANDS)), form, rows)
