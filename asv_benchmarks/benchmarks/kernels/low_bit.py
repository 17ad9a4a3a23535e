"""Bit planes, fields of floats and dense floats side by side: does the table choose well?"""

from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS
from benchmarks.kernels._peers import _Product, sgemm, sgemm_weight_first
from refquant.kernels import low_bit
from refquant.kernels.low_bit import SIGNS, TRITS, integers

#: Few enough, or many enough, rows for either kernel.
ROWS_FOR = {"bit planes": 0, "fields of floats": 10_000}
PEERS = {"float32 BLAS": sgemm, "float32 BLAS, weight first": sgemm_weight_first}
FORMATS = {
    "signs by signs": (SIGNS, SIGNS),
    "trits by trits": (TRITS, TRITS),
    "trits by 4 bits": (TRITS, integers(4)),
    "trits by 8 bits": (TRITS, integers(8)),
}


def codes(levels, shape):
    number = (levels.high - levels.low) // levels.step + 1
    drawn = np.random.default_rng(0).integers(0, number, shape)
    return (levels.low + levels.step * drawn).astype(np.int8)


@lru_cache(maxsize=4)
def call_of(impl, side, form, rows):
    of, x = FORMATS[form]
    left, weight = codes(x, (rows, side)), codes(of, (side, side))
    if impl in PEERS:
        return PEERS[impl](left, weight)
    ready = low_bit.prepare(weight, of, x=x, rows=ROWS_FOR.get(impl, rows))
    return lambda: low_bit.product(left, ready)


class LowBit(_Product):
    """`rows` of x, cold and packed in the call; "refquant" chooses."""

    params = (["refquant", *ROWS_FOR, *PEERS], list(FORMATS), [1, 16, 64])
    param_names = ("impl", "format", "rows")

    def setup(self, impl, form, rows):
        self.prepare(call_of, impl, next(iter(OPERANDS)), form, rows)
