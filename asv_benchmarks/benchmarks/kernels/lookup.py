"""Products by table look-up: beside float BLAS, which they mostly lose to, and torch."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, Quality
from benchmarks.kernels import _peers
from refquant.kernels import lookup


def operands(rows: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (rows, side), dtype=np.int8)
    return x, rng.integers(-1, 2, (side, side), dtype=np.int8)


def _five_trits(x, weight):
    packed = lookup.pack_ternary(weight)
    return lambda: lookup.product(x, packed)


def _two_planes(x, weight):
    packed = lookup.pack(weight, bits=2, signed=True)
    return lambda: lookup.product(x, packed)


IMPL = {
    "refquant": _five_trits,
    "refquant, two planes": _two_planes,
    "float32 BLAS": _peers.sgemm,
    "float32 BLAS, weight first": _peers.sgemm_weight_first,
    "float32 BLAS tiled": _peers.tiled_sgemm,
    "torch int8": _peers.torch_int8,
    "onnxruntime int8": _peers.onnx_int8,
}


@lru_cache(maxsize=4)
def call_of(impl: str, side: int, rows: int) -> Callable[[], object]:
    return IMPL[impl](*operands(rows, side))


class Lookup(_peers._Product):
    """Ternary weights of 4096 x 4096, five trits to a place, by `rows` of int8."""

    params = (list(IMPL), [1, 8, 64], list(OPERANDS))
    param_names = ("impl", "rows", "operands")

    def setup(self, impl, rows, operands):
        self.prepare(call_of, impl, operands, rows)


class LookupQuality(Quality):
    params = (["refquant", "refquant, two planes"],)
    param_names = ("impl",)

    def track_bits_per_weight(self, impl):
        weight = np.zeros((64, 1000), np.int8)
        packed = (lookup.pack_ternary(weight) if impl == "refquant"
                  else lookup.pack(weight, bits=2, signed=True))
        return packed.places.nbytes * 8 / weight.size

    track_bits_per_weight.unit = "bits"
