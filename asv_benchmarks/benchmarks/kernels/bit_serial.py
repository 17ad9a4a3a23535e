"""Products of bit planes: where a few bits by a few bits stop paying."""

from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS
from benchmarks.kernels._peers import DENSE, _Product
from refquant.kernels import bit_serial

IMPL = ["refquant", "float32 BLAS", "numpy int32", "torch int8", "onnxruntime int8"]


def codes(shape, bits):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    return np.random.default_rng(0).integers(low, high, shape, dtype=np.int8)


@lru_cache(maxsize=4)
def call_of(impl, side, bits):
    x, weight = codes((1, side), bits), codes((side, side), bits)
    if impl != "refquant":
        return DENSE[impl](x, weight)
    left, right = (bit_serial.pack(c, bits=bits, signed=True) for c in (x, weight))
    return lambda: bit_serial.product(left, right)


class BitSerial(_Product):
    """One row of x by a 4096 x 4096 weight, both of `bits` bits, packed before."""

    params = (IMPL, [1, 2, 3, 4, 8], list(OPERANDS))
    param_names = ("impl", "bits", "operands")

    def setup(self, impl, bits, operands):
        self.prepare(call_of, impl, operands, bits)
