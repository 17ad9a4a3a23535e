"""Low-bit products as fields of a float: beside dense float32, torch and onnxruntime."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, QUICK, Benchmark, Quality, matched_share
from benchmarks.kernels import _peers
from refquant.kernels import float_fields

SIDE = 128 if QUICK else 4096

#: low, high, step of the weights, and the largest magnitude of x.
FORMATS = {
    "binary x binary": (-1, 1, 2, 1),
    "ternary x ternary": (-1, 1, 1, 1),
    "ternary x 4 bits": (-1, 1, 1, 8),
    "ternary x 8 bits": (-1, 1, 1, 128),
    "4 bits x 4 bits": (-8, 7, 1, 8),
}


def operands(form: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    low, high, step, x_max = FORMATS[form]
    rng = np.random.default_rng(0)
    weight = low + step * rng.integers(0, (high - low) // step + 1, (SIDE, SIDE))
    if step == 2:
        x = 2 * rng.integers(0, 2, (rows, SIDE)) - 1
    else:
        x = rng.integers(-x_max, x_max + (x_max == 1), (rows, SIDE))
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


@lru_cache(maxsize=2)
def call_of(impl: str, form: str, rows: int) -> Callable[[], object]:
    x, weight = operands(form, rows)
    if impl in PEERS:
        return PEERS[impl](x, weight)
    words = packed(weight, form)
    return lambda: float_fields.product(x, words)


class FloatFields(Benchmark):
    """64 rows of x by a layer of 4096 x 4096."""

    rows = 64
    params = (["refquant", *PEERS], list(FORMATS), list(OPERANDS))
    param_names = ("impl", "format", "operands")
    number, warmup_time = 1, 0.0        # asv calls setup, and so evicts, before each sample

    def setup(self, impl, form, operands_are):
        self.call = call_of(impl, form, self.rows)
        OPERANDS[operands_are](self.call)

    def time_product(self, impl, form, operands_are):
        self.call()

    def peakmem_product(self, impl, form, operands_are):
        self.call()

    def track_time_of_refquant_over_this(self, impl, form, operands_are):
        """Time of refquant over that of `impl`, side by side."""
        return matched_share(call_of("refquant", form, self.rows), self.call, operands_are)

    track_time_of_refquant_over_this.unit = "ratio"


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
