"""XNOR products of a 4096 x 4096 layer, beside the products of floats and of bytes."""

from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, Quality
from benchmarks.kernels._peers import DENSE, SIDE, _Product, scratch
from refquant.kernels import binary


def refquant(x, weight):
    left, right = binary.pack((x + 1) // 2), binary.pack((weight + 1) // 2)
    return lambda: binary.product(left, right)


def packing_too(x, weight):
    codes, right = (x + 1) // 2, binary.pack((weight + 1) // 2)
    return lambda: binary.product(binary.pack(codes), right)


IMPL = {"refquant": refquant, "refquant, packing x too": packing_too, **DENSE}


def signs(rows, side):
    return 2 * np.random.default_rng(0).integers(0, 2, (rows, side), dtype=np.int8) - 1


@lru_cache(maxsize=4)
def call_of(impl, side, rows):
    return IMPL[impl](signs(rows, side), signs(side, side))


class Binary(_Product):
    """`rows` of x; both operands packed before, as the peers hold theirs in their own types."""

    params = (list(IMPL), [1, 8, 64], list(OPERANDS))
    param_names = ("impl", "rows", "operands")

    def setup(self, impl, rows, operands):
        self.prepare(call_of, impl, operands, rows)


class BinaryMemory(Quality):
    params = (["refquant", "float32 BLAS"],)
    param_names = ("impl",)

    def track_bits_per_weight(self, impl):
        weight = signs(8, SIDE)
        planes = binary.pack((weight + 1) // 2)
        held = planes.words.nbytes if impl == "refquant" else weight.astype(np.float32).nbytes
        return 8 * held / weight.size

    track_bits_per_weight.unit = "bits"

    def track_scratch(self, impl):
        """Of a product with 8 rows."""
        return scratch(call_of(impl, SIDE, 8))

    track_scratch.unit = "megabytes"
