"""int4 weights in groups: beside dense float32, onnxruntime's MatMulNBits and gguf."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from benchmarks.common import OPERANDS, Quality
from benchmarks.kernels import _peers
from refquant.kernels import mixed_gemm


@lru_cache(maxsize=2)
def weight_of(side: int, group: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (side, side), dtype=np.uint8)
    return codes, rng.uniform(0.5, 1, (side, side // group)).astype(np.float32)


def activations(rows: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((rows, side)).astype(np.float32)


def _values(codes, scale, group):
    grouped = codes.reshape(len(codes), -1, group).astype(np.float32) - 8
    return (grouped * scale[..., np.newaxis]).reshape(codes.shape)


def _refquant(x, codes, scale, group):
    packed = mixed_gemm.pack(codes, scale, group_size=group)
    return lambda: mixed_gemm.product(x, packed)


def _two_threads(x, codes, scale, group):
    packed = mixed_gemm.pack(codes, scale, group_size=group)
    return lambda: mixed_gemm.product(x, packed, threads=2)


def _refquant_int8(x, codes, scale, group):
    packed = mixed_gemm.pack(codes, scale, group_size=group)
    q = np.clip(np.rint(x * 32), -128, 127).astype(np.int8)
    return lambda: mixed_gemm.integer_product(q, packed)


def _dequantize_and_multiply(x, codes, scale, group):
    pairs = codes.reshape(len(codes), -1, 2)
    packed = pairs[..., 0] | pairs[..., 1] << 4

    def run():
        digits = np.stack([packed & 15, packed >> 4], axis=-1).reshape(codes.shape)
        return x @ _values(digits, scale, group).T

    return run


def _dense(peer):
    return lambda x, codes, scale, group: peer(x, _values(codes, scale, group))


IMPL = {
    "refquant": _refquant,
    "refquant, int8 x": _refquant_int8,
    "refquant, 2 threads": _two_threads,
    "dequantize, multiply": _dequantize_and_multiply,
    "float32 BLAS": _dense(_peers.sgemm),
    "float32 BLAS, weight first": _dense(_peers.sgemm_weight_first),
    "float32 BLAS tiled": _dense(_peers.tiled_sgemm),
    "torch float32": _dense(_peers.torch_float32),
    "onnxruntime MatMulNBits": _peers.onnx_4_bits,
}


@lru_cache(maxsize=4)
def call_of(impl: str, side: int, rows: int, group: int) -> Callable[[], object]:
    x, weight = activations(rows, side), weight_of(side, group)
    if impl == "gguf":
        return _peers.gguf_4_bits(x, _values(*weight, group))
    return IMPL[impl](x, *weight, group)


class MixedGemm(_peers._Product):
    """A layer of 4096 x 4096 with groups of 128; `rows` of x."""

    group = 128
    params = (list(IMPL), [1, 8, 64], list(OPERANDS))
    param_names = ("impl", "rows", "operands")

    def setup(self, impl, rows, operands):
        self.prepare(call_of, impl, operands, rows, self.group)


class MixedGemmSmallGroups(MixedGemm):
    """The same with groups of 32, those of gguf's Q4_0."""

    group = 32
    params = ([*IMPL, "gguf"], [1, 8, 64], list(OPERANDS))


class MixedGemmQuality(Quality):
    params = (["refquant"], [32, 128])
    param_names = ("impl", "group")

    def track_bits_per_weight(self, impl, group):
        packed = mixed_gemm.pack(np.zeros((512, 1024), int), np.array(1.0), group_size=group)
        return sum(part.nbytes for part in packed[:3]) * 8 / (512 * 1024)

    track_bits_per_weight.unit = "bits"

    def track_error_in_ulps(self, impl, group):
        """Error of the float product, in float32 roundings of the sum of magnitudes."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((8, 1024)).astype(np.float32)
        codes = rng.integers(0, 16, (64, 1024))
        packed = mixed_gemm.pack(codes, rng.random((64, 1024 // group)), group_size=group)
        values, wide = mixed_gemm.dequantize(packed), x.astype(np.float64)
        error = np.abs(mixed_gemm.product(x, packed) - wide @ values.T)
        return float((error / (np.abs(wide) @ np.abs(values).T)).max() * 2**24)

    track_error_in_ulps.unit = "2**-24 of the sum of magnitudes"
