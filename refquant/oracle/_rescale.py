"""Codes of one scale and zero point to codes of another: QUANTIZE of int8 in TensorFlow Lite."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.integer.arithmetic import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    saturating_rounding_doubling_high_mul,
)
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32, F64
from refquant.oracle._requantize import _gemmlowp, _half_up

PARAMS = {"input_scale": "float32", "input_zero_point": "int", "scale": "float32",
          "zero_point": "int", "qmin": "int", "qmax": "int"}  # fmt: skip


def _ratio(s1: Fraction, s2: Fraction) -> Fraction:
    """In float64, as the kernels divide."""
    return Fraction(F64.rounded(s1 / s2))


def _reference(v: int, s1: Fraction, s2: Fraction) -> int | None:
    return _gemmlowp(v, _ratio(s1, s2))


def _builtin(v: int, s1: Fraction, s2: Fraction) -> int | None:
    return _half_up(v, _ratio(s1, s2))


def _xnnpack(v: int, s1: Fraction, s2: Fraction) -> int | None:
    ratio = F32.rounded(s1 / s2)
    if not Fraction(1, 256) <= ratio <= 128:
        return None                             # left to the builtin kernel
    return exact.half_up(Fraction(v * round(256 * ratio), 256))


def _onnx(v: int, s1: Fraction, s2: Fraction) -> int | None:
    x = F32.rounded(F32.rounded(Fraction(v)) * s1)
    return exact.integer(F32.rounded(exact.quotient(x, s2)), round, -(2**31), 2**31)


def _exactly(v: int, s1: Fraction, s2: Fraction) -> int | None:
    return round(v * s1 / s2)


def _reference_fast(v: Array, s1: np.float32, s2: np.float32) -> Array:
    return multiply_by_quantized_multiplier(v, quantize_multiplier(np.float64(s1) / np.float64(s2)))


def _builtin_fast(v: Array, s1: np.float32, s2: np.float32) -> Array:
    m = quantize_multiplier(np.float64(s1) / np.float64(s2))
    left, right = max(int(m.shift), 0), max(-int(m.shift), 0)
    high = saturating_rounding_doubling_high_mul(v << left, m.mantissa)
    return (high + (1 << right >> 1)) >> right


def _xnnpack_fast(v: Array, s1: np.float32, s2: np.float32) -> Array:
    return (v * int(np.rint(np.float32(256) * (s1 / s2))) + 128) >> 8


def _onnx_fast(v: Array, s1: np.float32, s2: np.float32) -> Array:
    return np.rint(v.astype(np.float32) * s1 / s2).astype(np.int64)


def _exact_fast(v: Array, s1: np.float32, s2: np.float32) -> Array:
    """A quotient of whole numbers: the tie by its remainder."""
    (a, b), (c, d) = float(s1).as_integer_ratio(), float(s2).as_integer_ratio()
    n, down = v.astype(object) * (a * d), b * c
    floor, rest = n // down, 2 * (n % down)
    return (floor + ((rest > down) | ((rest == down) & (floor % 2 == 1)))).astype(np.int64)


_RULES: Mapping[str, tuple[str, str, str, str, Callable[..., int | None], Callable[..., Array]]] = {
    "onnx": ("rne(f32(f32((q - z1) * s1) / s2))",
             "DequantizeLinear, then QuantizeLinear: onnxruntime, onnx ReferenceEvaluator",
             "float32", "even", _onnx, _onnx_fast),
    "tflite.reference": ("rdbp(srdhm((q - z1) << left, m31), right), m = f64(s1 / s2)",
                         "TensorFlow Lite and LiteRT reference QUANTIZE",
                         "fixed_point gemmlowp_double", "up, then away", _reference,
                         _reference_fast),
    "tflite.builtin": ("(srdhm((q - z1) << left, m31) + (1 << right >> 1)) >> right",
                       "LiteRT optimized QUANTIZE", "fixed_point srdhm_halfup", "up, then up",
                       _builtin, _builtin_fast),
    "xnnpack": ("((q - z1) * rne(256 * f32(s1 / s2)) + 128) >> 8", "XNNPACK, LiteRT's default",
                "fixed_point xnn8", "up", _xnnpack, _xnnpack_fast),
    "exact": ("rne((q - z1) * s1 / s2)", "the definition in real numbers", "exact", "even",
              _exactly, _exact_fast),
}  # fmt: skip


def _numbers(params: Mapping[str, Any]) -> tuple[int, int, int, int]:
    return tuple(int(params[k]) for k in ("input_zero_point", "zero_point", "qmin", "qmax"))  # type: ignore[return-value]


def _slow(rule: Callable[..., int | None]) -> Callable[..., Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        z1, z2, low, high = _numbers(params)
        s1, s2 = (F32.number(int(params[k])) for k in ("input_scale", "scale"))
        codes = []
        for q in np.asarray(vectors.values(inputs["x"], "int8")).ravel().tolist():
            steps = rule(q - z1, s1, s2)
            if steps is None:
                return None
            codes.append(min(max(steps + z2, low), high) % 256)
        return {"q": np.array(codes, "u1").reshape(inputs["x"].shape)}

    return kernel


def _fast(rule: Callable[..., Array]) -> Callable[..., Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        z1, z2, low, high = _numbers(params)
        s1, s2 = (vectors.values(params[k], "float32")[()] for k in ("input_scale", "scale"))
        v = np.asarray(vectors.values(inputs["x"], "int8")).astype(np.int64) - z1
        return {"q": (np.clip(np.asarray(rule(v, s1, s2)) + z2, low, high) & 255).astype("u1")}

    return kernel


@cache
def derivations() -> dict[str, Derivation]:
    """Dialects of a change of scale."""
    return {name: Derivation(f"sat({formula} + z2)", by, {"scaling": scaling, "tie": tie,
                                                          "zero_point": "after_round"},
                             _slow(slow), _fast(fast))
            for name, (formula, by, scaling, tie, slow, fast) in _RULES.items()}


#: Scale and zero point of the input, and of the output; LiteRT's own example first.
SETTINGS = (((0.3, 0), (0.7, 0)), ((0.5, 3), (1, -3)), ((1, -128), (0.5, 127)),
            ((0.1, 5), (0.1, 5)), ((0.0235, 127), (0.1, 0)), ((0.7, -1), (0.3, 1)),
            ((0.25, 0), (2, 1)))  # fmt: skip


def documents() -> Iterator[dict[str, Any]]:
    """All 256 codes for each setting: what is found there is found for good."""
    groups = []
    for (s1, z1), (s2, z2) in SETTINGS:
        bits = [np.array(np.float32(s).view(np.uint32)) for s in (s1, s2)]
        group = Drafts({"input_scale": bits[0], "input_zero_point": z1, "scale": bits[1],
                        "zero_point": z2, "qmin": -128, "qmax": 127},
                       f"scale {s1} to {s2}, zero point {z1} to {z2}")
        ratio = Fraction(*float(np.float32(s1)).as_integer_ratio()) / Fraction(
            *float(np.float32(s2)).as_integer_ratio())
        ties = any((2 * v * ratio).denominator == 1 and 2 * v * ratio % 2 for v in range(1, 9))
        for start in (-128, 0):
            codes = np.arange(start, start + 128) & 255
            flags = ["Tie" if ties else "NearTie"]
            flags += ["TieOddZp"] if ties and z2 % 2 else []
            flags += ["ZpEnd"] if z1 in (-128, 127) else []
            flags += ["Saturate"] if ratio > 1 else []
            group.cases.append(Draft({"x": codes.astype("u1")}, flags))
        groups.append(group)
    operation = Operation("requantize_affine", {"x": "int8"}, PARAMS, {"q": "int8"})
    yield document("requantize_affine.int8.int8", operation, derivations(), "onnx", groups)
