"""Requantization: an int32 accumulator brought to the scale of the output, in eight ways."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.integer.arithmetic import (
    QuantizedMultiplier,
    multiply_by_quantized_multiplier,
    saturating_rounding_doubling_high_mul,
)
from refquant.integer.requantize import reduced_16x8
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32
from refquant.rounding import half_away

INT32 = 2**31


def _fixed(m: Fraction) -> tuple[int, int]:
    """Mantissa of 31 bits and shift, as gemmlowp has them."""
    if not m:
        return 0, 0
    shift = exact.exponent(m) + 1
    mantissa = exact.half_away(m / Fraction(2) ** shift * INT32)
    if mantissa == INT32:
        mantissa, shift = mantissa // 2, shift + 1
    return (0, 0) if shift < -31 else (mantissa, shift)


def _high(a: int, b: int) -> int:
    return min(exact.half_up(Fraction(a * b, INT32)), INT32 - 1)


def _gemmlowp(acc: int, m: Fraction) -> int | None:
    mantissa, shift = _fixed(m)
    if not -INT32 <= acc << max(shift, 0) < INT32:
        return None
    high = _high(acc << max(shift, 0), mantissa)
    return exact.half_away(Fraction(high, 2 ** max(-shift, 0)))


def _half_up(acc: int, m: Fraction) -> int | None:
    mantissa, shift = _fixed(m)
    if not -INT32 <= acc << max(shift, 0) < INT32:
        return None
    return exact.half_up(Fraction(_high(acc << max(shift, 0), mantissa), 2 ** max(-shift, 0)))


def _single(acc: int, m: Fraction) -> int | None:
    mantissa, shift = _fixed(m)
    return exact.half_up(Fraction(acc * mantissa) * Fraction(2) ** (shift - 31))


def _tosa_double(acc: int, m: Fraction) -> int | None:
    """Half a unit of the shift more or less before it, away from zero, then half up."""
    mantissa, shift = _fixed(m)
    down = 31 - shift
    if not 2 <= down <= 62:
        return None
    more = (1 if acc >= 0 else -1) << 30 if down > 31 else 0
    return exact.half_up(Fraction(acc * mantissa + more, 2**down))


def _eight_bits(acc: int, m: Fraction) -> int | None:
    """A multiplier of 8 bits behind the point, for differences of 8-bit codes."""
    if abs(acc) > 255 or not Fraction(1, 256) <= m < 128:
        return None
    return exact.half_up(Fraction(acc * round(256 * m), 256))


def _float(acc: int, m: Fraction) -> int | None:
    """float32 of the accumulator, times the multiplier, rounded to even."""
    x = F32.rounded(exact.product(F32.rounded(Fraction(acc)), m))
    return exact.integer(x, round, -INT32, INT32)


def _double(acc: int, m: Fraction) -> int | None:
    """float64 of the product, half away: LiteRT's reference of fully connected layers."""
    return exact.half_away(Fraction(exact.F64.rounded(acc * m) or 0))


def _exactly(acc: int, m: Fraction) -> int | None:
    return round(acc * m)


def _double_fast(acc: Array, m: np.float32) -> Array:
    return half_away(acc.astype(np.float64) * np.float64(m)).astype(np.int64)


def _float_fast(acc: Array, m: np.float32) -> Array:
    x = np.rint(acc.astype(np.float32) * m)
    return np.clip(x, -(2.0**31), 2.0**31).astype(np.int64)


def _pair(m: np.float32) -> tuple[int, int]:
    """Mantissa and shift by frexp: a float32 has 24 bits, so 31 hold it exactly."""
    fraction, shift = np.frexp(np.float64(m))
    return (int(fraction * 2.0**31), int(shift)) if shift >= -31 else (0, 0)


def _gemmlowp_fast(acc: Array, m: np.float32) -> Array:
    mantissa, shift = _pair(m)
    return multiply_by_quantized_multiplier(
        acc, QuantizedMultiplier(np.array(mantissa), np.array(shift)))


def _half_up_fast(acc: Array, m: np.float32) -> Array:
    mantissa, shift = _pair(m)
    high = saturating_rounding_doubling_high_mul(acc << max(shift, 0), mantissa)
    right = max(-shift, 0)
    return (high + (1 << right >> 1)) >> right


def _single_fast(acc: Array, m: np.float32) -> Array:
    mantissa, shift = _pair(m)
    down = 31 - shift                       # int64 holds the product, and half a unit
    if down <= 0:
        return acc * mantissa << -down
    return (acc * mantissa + (1 << (down - 1))) >> down if down < 63 else acc * 0


def _tosa_fast(acc: Array, m: np.float32) -> Array:
    mantissa, shift = _pair(m)
    down = 31 - shift
    half = np.array(1 << (down - 1))
    if down > 31:
        half = np.where(acc >= 0, half + 2**30, half - 2**30)
    return (acc * mantissa + half) >> down


def _eight_bits_fast(acc: Array, m: np.float32) -> Array:
    return (acc * int(np.rint(256 * np.float64(m))) + 128) >> 8


def _exact_fast(acc: Array, m: np.float32) -> Array:
    """31 bits times 24 need 55: the product as integers, the tie by its remainder."""
    mantissa, shift = _pair(m)
    if not mantissa:                        # so small that nothing but zero remains
        return acc * 0
    down = 31 - shift
    if down <= 0:
        return acc * mantissa << -down
    product = acc * mantissa
    if down >= 63:
        return acc * 0
    floor, rest = product >> down, product & ((1 << down) - 1)
    half = 1 << (down - 1)
    return floor + ((rest > half) | ((rest == half) & (floor & 1 == 1)))


_RULES: Mapping[str, tuple[str, str, str, str, Callable[..., int | None], Callable[..., Array]]] = {
    "onnx": ("rne(f32(f32(acc) * m))", "onnxruntime QLinear operators, FBGEMM", "float32", "even",
             _float, _float_fast),
    "tflite.reference": ("rdbp(srdhm(acc << left, m31), right)",
                         "gemmlowp, TensorFlow Lite MultiplyByQuantizedMultiplier",
                         "fixed_point gemmlowp_double", "up, then away", _gemmlowp, _gemmlowp_fast),
    "tflite.builtin": ("(srdhm(acc << left, m31) + (1 << right >> 1)) >> right",
                       "LiteRT optimized kernels", "fixed_point srdhm_halfup", "up, then up",
                       _half_up, _half_up_fast),
    "tflite.single": ("(acc * m31 + half) >> (31 - shift)",
                      "TFLITE_SINGLE_ROUNDING; TOSA RESCALE with SINGLE_ROUND",
                      "fixed_point single", "up", _single, _single_fast),
    "tosa.double": ("(acc * m31 + half + sign(acc) * 2**30) >> (31 - shift)",
                    "TOSA RESCALE with DOUBLE_ROUND", "fixed_point tosa_double",
                    "up, after half a unit away", _tosa_double, _tosa_fast),
    "xnnpack": ("(acc * rne(256 * m) + 128) >> 8, acc a difference of 8-bit codes",
                "XNNPACK's conversion of 8 bits to 8 bits", "fixed_point xnn8", "up", _eight_bits,
                _eight_bits_fast),
    "tflite.float64": ("away(f64(acc) * f64(m))", "LiteRT reference FULLY_CONNECTED",
                       "float64", "away", _double, _double_fast),
    "exact": ("rne(acc * m)", "the definition in real numbers", "exact", "even", _exactly,
              _exact_fast),
}  # fmt: skip


def _clipped(value: int | None, z: int, low: int, high: int) -> int | None:
    return None if value is None else min(max(value + z, low), high)


def _slow(rule: Callable[..., int | None]) -> Callable[[Mapping[str, Any], Named], Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        m = F32.number(int(params["multiplier"]))
        acc = np.asarray(vectors.values(inputs["acc"], "int32"))
        codes = [_clipped(rule(int(a), m), params["zero_point"], params["qmin"], params["qmax"])
                 for a in acc.ravel()]
        if None in codes:
            return None
        whole = [code % 256 for code in codes if code is not None]
        return {"q": np.array(whole, "u1").reshape(acc.shape)}

    return kernel


def _fast(rule: Callable[..., Array]) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        m = vectors.values(params["multiplier"], "float32")[()]
        acc = vectors.values(inputs["acc"], "int32").astype(np.int64)
        whole = np.asarray(rule(acc, m)) + params["zero_point"]
        return {"q": (np.clip(whole, params["qmin"], params["qmax"]) & 255).astype("u1")}

    return kernel


@cache
def derivations() -> dict[str, Derivation]:
    """Dialects of requantization."""
    return {name: Derivation(f"sat({formula} + z)", by, {"scaling": scaling, "tie": tie,
                                                         "zero_point": "after_round"},
                             _slow(slow), _fast(fast))
            for name, (formula, by, scaling, tie, slow, fast) in _RULES.items()}


#: Real multipliers: powers of two make ties, the others near ties; 3/7 is LiteRT's example.
MULTIPLIERS = {"1/2": 0.5, "1/4": 0.25, "1/256": 2.0**-8, "0.3/0.7": 0.3 / 0.7, "0.0003": 0.0003,
               "1": 1.0, "next below 1": 1 - 2.0**-24, "1.7": 1.7, "2**-20": 2.0**-20,
               "2**-31": 2.0**-31, "0.1": 0.1, "1/3 * 2**-10": 2.0**-10 / 3}  # fmt: skip


def _accumulators(m: Fraction, low: int, high: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    for acc in (0, 1, -1, 2, -2, 3, -3, 100, -100):
        yield acc, ("Basic",)
    for k in (*range(-9, 9), low - 1, low, high - 1, high, 63, -64):
        at = (k + Fraction(1, 2)) / m
        for near in {at.__floor__(), at.__ceil__()}:
            if abs(near) < INT32:
                tie = near == at
                ends = ("Saturate",) if k in (low - 1, low, high - 1, high) else ()
                yield near, ("Tie" if tie else "NearTie", *ends)
    for acc in (INT32 - 1, -INT32, 2**24 + 1, -(2**24) - 1, 2**30):
        yield acc, ("HugeInput",)


def requantize_document(out: str) -> dict[str, Any]:
    """int32 to 8 bits, for some multipliers and zero points."""
    low, high = (-128, 127) if out == "int8" else (0, 255)
    groups = []
    for name, value in MULTIPLIERS.items():
        bits = int(np.float32(value).view(np.uint32))
        for z in ((0, 1) if out == "int8" else (0, 128)):
            group = Drafts({"multiplier": np.array(bits, "u4"), "zero_point": z, "qmin": low,
                            "qmax": high}, f"multiplier {name}")
            ends = low - z, high - z
            for acc, flags in _accumulators(F32.number(bits), *ends):
                odd = ("TieOddZp",) if z % 2 and "Tie" in flags else ()
                pattern = np.array(acc % 2**32, "u4")
                group.cases.append(Draft({"acc": pattern}, (*flags, *odd)))
            groups.append(group)
    operation = Operation("requantize", {"acc": "int32"}, {
        "multiplier": "float32", "zero_point": "int", "qmin": "int", "qmax": "int"}, {"q": out})
    return document(f"requantize.int32.{out}", operation, derivations(), "onnx", groups)


# Sums of 64 bits, of 16-bit activations and 8-bit weights.


def _wide_slow(params: Mapping[str, Any], inputs: Named) -> Named:
    """The multiplier keeps 15 bits, one rounding, ties up."""
    mantissa, shift = _fixed(F32.number(int(params["multiplier"])))
    short = exact.half_up(Fraction(mantissa, 2**16)) if mantissa < 0x7FFF0000 else 0x7FFF
    codes = [min(max(exact.half_up(Fraction(int(acc) * short, 2 ** (15 - shift))), -(2**15)),
                 2**15 - 1) for acc in vectors.values(inputs["acc"], "int64").ravel()]
    return {"q": np.array([code % 2**16 for code in codes], "u2").reshape(inputs["acc"].shape)}


def _wide_fast(params: Mapping[str, Any], inputs: Named) -> Named:
    m = vectors.values(params["multiplier"], "float32")[()]
    whole = reduced_16x8(vectors.values(inputs["acc"], "int64"), np.float64(m))
    return {"q": np.clip(whole, -(2**15), 2**15 - 1).astype("i2").view("u2")}


@cache
def wide_derivations() -> dict[str, Derivation]:
    """Both derivations of the one dialect."""
    return {"tflite.reduced": Derivation(
        "sat((acc * m15 + half) >> (15 - shift)), m15 = (m31 + 2**15) >> 16",
        "TensorFlow Lite, 16-bit activations with 8-bit weights",
        {"scaling": "fixed_point 15 bits", "tie": "up"}, _wide_slow, _wide_fast)}


def wide_document() -> dict[str, Any]:
    """int64 to 16 bits."""
    groups = []
    for name, value in MULTIPLIERS.items():
        if not 2.0**-30 < value < 2.0**6:
            continue
        bits = int(np.float32(value).view(np.uint32))
        m, group = F32.number(bits), Drafts({"multiplier": np.array(bits, "u4")},
                                            f"multiplier {name}")
        for k in (0, 1, -1, 2, -3, 100, -1000, 2**15 - 2, 2**15 - 1, -(2**15), -(2**15) - 1):
            at = (k + Fraction(1, 2)) / m
            for near in {at.__floor__(), at.__ceil__()}:
                if abs(near) < 2**47:
                    ends = ("Saturate",) if abs(k) > 30000 else ()
                    tie = "Tie" if near == at else "NearTie"
                    group.cases.append(Draft({"acc": np.array(near % 2**64, "u8")}, (tie, *ends)))
        for acc in (7, -7, 10**6, -(10**9), 2**47 - 1, -(2**47)):
            flag = "HugeInput" if abs(acc) > 2**31 else "Basic"
            group.cases.append(Draft({"acc": np.array(acc % 2**64, "u8")}, (flag,)))
        groups.append(group)
    operation = Operation("requantize_16x8", {"acc": "int64"}, {"multiplier": "float32"},
                          {"q": "int16"})
    return document("requantize_16x8.int64.int16", operation, wide_derivations(),
                    "tflite.reduced", groups)


def documents() -> Iterator[dict[str, Any]]:
    """All files."""
    for out in ("int8", "uint8"):
        yield requantize_document(out)
    yield wide_document()
