"""Exact int8 products: beside float BLAS, NumPy's integers, torch and onnxruntime."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, Quality
from benchmarks.kernels import _peers
from refquant.kernels import int8_gemm


def operands(rows: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes over the whole range: the hardest, since the sums need the most chunks."""
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (rows, side), dtype=np.int8)
    return x, rng.integers(-128, 128, (side, side), dtype=np.int8)


def refquant(x, weight):
    return lambda: int8_gemm.gemm(x, weight)


def two_threads(x, weight):
    return lambda: int8_gemm.gemm(x, weight, threads=2)


def prepared(x, weight):
    ready = int8_gemm.prepare(weight)
    return lambda: int8_gemm.gemm_prepared(x, ready)


IMPL = {
    "refquant": refquant,
    "refquant prepared": prepared,
    "refquant, 2 threads": two_threads,
    "float32 BLAS": _peers.sgemm,
    "float32 BLAS, weight first": _peers.sgemm_weight_first,
    "float32 BLAS tiled": _peers.tiled_sgemm,
    "numpy int32": _peers.numpy_int32,
    "numpy int32, (in, out)": _peers.numpy_int32_in_out,
    "torch float32": _peers.torch_float32,
    "torch int8": _peers.torch_int8,
    "onnxruntime int8": _peers.onnx_int8,
    "onnxruntime int8, both given": _peers.onnx_int8_dynamic,
}


@lru_cache(maxsize=6)
def call_of(impl: str, side: int, rows: int) -> Callable[[], object]:
    return IMPL[impl](*operands(rows, side))


class Int8Gemm(_peers._Product):
    """A layer of 4096 x 4096; `rows` of x. Weights of refquant are int8, prepared ones float32."""

    params = (list(IMPL), [1, 64], list(OPERANDS))
    param_names = ("impl", "rows", "operands")

    def setup(self, impl, rows, operands):
        self.prepare(call_of, impl, operands, rows)

    def track_time_of_prepared_over_this(self, *params):
        """Time of refquant with prepared weights over that of `impl`, side by side."""
        return self.share("refquant prepared")

    track_time_of_prepared_over_this.unit = "ratio"


class Int8GemmFewRows(Int8Gemm):
    """The same for 8 rows of x, where casting the weight is most of the work."""

    params = (list(IMPL), [8], list(OPERANDS))


class Int8GemmQuality(Quality):
    params = (["refquant", "float32 BLAS"],)
    param_names = ("impl",)

    def track_wrong_sums(self, impl):
        """Share of sums of 4096 products of the largest codes, less one, that are not exact."""
        x = np.full((4, 4096), -128, np.int8)
        weight = np.full((64, 4096), -128, np.int8)
        weight[:, 0] = np.arange(64) - 127
        product = IMPL[impl](x, weight)()
        return float((product != int8_gemm.gemm_definition(x, weight)).mean())

    track_wrong_sums.unit = "share of sums"
