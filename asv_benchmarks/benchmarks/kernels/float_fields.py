"""Low-bit products as fields of a float: beside dense float32, torch and onnxruntime."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, Quality
from benchmarks.kernels import _peers
from refquant.kernels import float_fields

#: low, high, step of the weights, and the largest magnitude of x.
FORMATS = {
    "binary x binary": (-1, 1, 2, 1),
    "ternary x ternary": (-1, 1, 1, 1),
    "ternary x 4 bits": (-1, 1, 1, 8),
    "ternary x 8 bits": (-1, 1, 1, 128),
    "4 bits x 4 bits": (-8, 7, 1, 8),
}


def operands(form: str, rows: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    low, high, step, x_max = FORMATS[form]
    rng = np.random.default_rng(0)
    weight = low + step * rng.integers(0, (high - low) // step + 1, (side, side))
    if step == 2:
        x = 2 * rng.integers(0, 2, (rows, side)) - 1
    else:
        x = rng.integers(-x_max, x_max + (x_max == 1), (rows, side))
    return x.astype(np.int8), weight.astype(np.int8)


def packed(weight: np.ndarray, form: str) -> float_fields.Packed:
    low, high, step, x_max = FORMATS[form]
    return float_fields.pack(weight, low=low, high=high, step=step, x_max=x_max)


PEERS = {
    "float32 BLAS": _peers.sgemm,
    "float32 BLAS, weight first": _peers.sgemm_weight_first,
    "float32 BLAS tiled": _peers.tiled_sgemm,
    "torch int8": _peers.torch_int8,
    "onnxruntime int8": _peers.onnx_int8,
}


@lru_cache(maxsize=4)
def call_of(impl: str, side: int, form: str, rows: int) -> Callable[[], object]:
    x, weight = operands(form, rows, side)
    if impl in PEERS:
        return PEERS[impl](x, weight)
    words = packed(weight, form)
    return lambda: float_fields.product(x, words)


class FloatFields(_peers._Product):
    """64 rows of x by a layer of 4096 x 4096."""

    rows = 64
    params = (["refquant", *PEERS], list(FORMATS), list(OPERANDS))
    param_names = ("impl", "format", "operands")

    def setup(self, impl, form, operands):
        self.prepare(call_of, impl, operands, form, self.rows)


class FloatFieldsFewRows(FloatFields):
    """8 rows of x: decoding the weight is half the work."""

    rows = 8


class FloatFieldsQuality(Quality):
    params = (["refquant"], list(FORMATS))
    param_names = ("impl", "format")

    def track_bits_per_weight(self, impl, form):
        weight = np.ones((768, 1056), np.int8)
        return packed(weight, form).words.nbytes * 8 / weight.size

    track_bits_per_weight.unit = "bits"
