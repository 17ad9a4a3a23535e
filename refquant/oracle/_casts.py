"""Casts to short floats: tables that decide all 2**32 inputs, and cases beside midpoints."""

import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array, Rounding
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Disagreement, Draft, Drafts, Named, Operation
from refquant.oracle._document import document as assembled
from refquant.oracle._exact import BF16 as BF16_BITS
from refquant.oracle._exact import F16, F32, F64, Binary
from refquant.quantizers import minifloat
from refquant.quantizers.minifloat import Minifloat, ieee, saturating
from refquant.rounding import ceil, half_even, half_up

#: Type in the files -> format.
FORMATS: Mapping[str, Minifloat] = {
    "float8_e4m3fn": minifloat.E4M3FN, "float8_e5m2": minifloat.E5M2,
    "float8_e4m3fnuz": minifloat.E4M3FNUZ, "float8_e5m2fnuz": minifloat.E5M2FNUZ,
    "float6_e3m2fn": minifloat.E3M2, "float6_e2m3fn": minifloat.E2M3,
    "float4_e2m1fn": minifloat.E2M1, "float8_e8m0fnu": minifloat.E8M0,
    "float16": minifloat.FP16, "bfloat16": minifloat.BF16,
}  # fmt: skip
SOURCES: Mapping[str, Binary] = {"float32": F32, "float64": F64, "float16": F16,
                                 "bfloat16": BF16_BITS}  # fmt: skip
OVERFLOWS = {"saturate": saturating, "ieee": ieee}
#: Rounding of magnitudes: to nearest with ties to the even code or up, or always up.
ROUNDINGS: Mapping[str, Rounding] = {"even": half_even, "half_up": half_up, "up": ceil}


def policies(target: str) -> list[str]:
    """What a format can do beyond its largest number."""
    both = FORMATS[target].nan is not None and target != "float8_e8m0fnu"
    return ["saturate", "ieee"] if both else ["saturate"]


def roundings(target: str) -> list[str]:
    """A scale is often rounded up; of other formats we ask for the nearest."""
    return ["even", "half_up", "up"] if target == "float8_e8m0fnu" else ["even"]


@cache
def magnitudes(target: str) -> tuple[Fraction, ...]:
    """Exact values of the codes without sign, with one more than the largest."""
    f = FORMATS[target]
    found = []
    for code in range(f.largest + 2):
        field, fraction = divmod(code, 2**f.mantissa_bits)
        hidden = 2**f.mantissa_bits if field or not f.subnormals else 0
        power = max(field, 1 if f.subnormals else 0) - f.bias - f.mantissa_bits
        found.append((hidden + fraction) * Fraction(2) ** power)
    return tuple(found)


def nearest(levels: Sequence[Fraction], x: Fraction, rounding: str = "even") -> int:
    """Index of the level that a rule chooses for a magnitude; beyond all, the last."""
    below = max(bisect_right(levels, x) - 1, 0)
    if below == len(levels) - 1 or x <= levels[below]:
        return below
    low, high = levels[below], levels[below + 1]
    twice = 2 * x - low - high
    up = {"even": twice > 0 or (twice == 0 and below % 2 == 1),
          "half_up": twice >= 0, "up": True}[rounding]  # fmt: skip
    return below + up


def _exactly(source: str, target: str) -> Callable[[Mapping[str, Any], Named], Named | None]:
    f, binary, levels = FORMATS[target], SOURCES[source], magnitudes(target)
    top = binary.exponent_bits + binary.mantissa_bits

    def one(bits: int, overflow: str, rounding: str) -> int | None:
        x, minus = binary.number(bits), bool(bits >> top)
        sign = f.sign_bit if minus else 0
        if x is None:
            if f.nan is None:
                return None
            return f.nan if f.nan == f.sign_bit else f.nan | sign
        beyond = OVERFLOWS[overflow](f)
        if not f.signed and x < 0:
            return 0 if beyond == f.largest else beyond
        code = len(levels) if not isinstance(x, Fraction) else nearest(levels, abs(x), rounding)
        code = beyond if code > f.largest else code
        return code if f.nan == f.sign_bit and code == 0 else code | sign

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        x = inputs["x"]
        codes = [one(int(u), params["overflow"], params["rounding"]) for u in x.ravel()]
        if None in codes:
            return None
        return {"y": np.array(codes, f"u{vectors.DTYPES[target]}").reshape(x.shape)}

    return kernel


def _fast(source: str, target: str) -> Callable[[Mapping[str, Any], Named], Named]:
    f = FORMATS[target]

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x = vectors.values(inputs["x"], source)
        wide = x if x.dtype == np.float64 else x.astype(np.float32)
        codes = f.encode(wide, rounding=ROUNDINGS[params["rounding"]],
                         overflow=OVERFLOWS[params["overflow"]], keep_nan=f.nan is not None)
        return {"y": codes.astype(f"u{vectors.DTYPES[target]}")}

    return kernel


def _no_nan_code(kernel: Callable[..., Named | None], source: str) -> Callable[..., Named | None]:
    """NaN left open: nothing but a table of a library says which NaN it is."""
    binary = SOURCES[source]

    def without(params: Mapping[str, Any], inputs: Named) -> Named | None:
        if any(binary.number(int(u)) is None for u in inputs["x"].ravel()):
            return None
        return kernel(params, inputs)

    return without


@cache
def derivations(source: str, target: str) -> dict[str, Derivation]:
    """Dialects of a cast: they agree but for the code of a NaN."""
    slow, fast = _exactly(source, target), _fast(source, target)
    axes = {"tie": "as the parameter says", "overflow": "as the parameter says",
            "precision": "one rounding", "subnormals": "gradual"}  # fmt: skip
    return {
        "onnx": Derivation("nearest level; NaN keeps its sign, payload of the official tests",
                           "ONNX Cast since opset 19, onnxruntime",
                           {**axes, "nan": "one code and the sign"}, slow, fast),
        "exact": Derivation("nearest level; the code of a NaN is left open", "IEEE 754",
                            {**axes, "nan": "unspecified"}, _no_nan_code(slow, source), fast),
    }  # fmt: skip


def _pattern(source: str, x: Fraction, *, minus: bool = False) -> int:
    binary = SOURCES[source]
    bits = binary.bits(binary.rounded(x))
    return bits | (1 << (binary.exponent_bits + binary.mantissa_bits)) * minus


def _cases(source: str, target: str, overflow: str, rounding: str) -> Iterator[Draft]:
    f, levels = FORMATS[target], magnitudes(target)
    width, kept = f"u{vectors.DTYPES[source]}", overflow == "saturate"

    def draft(bits: int, *flags: str) -> Draft:
        return Draft({"x": np.array(bits, width)}, flags)

    codes = _sample(f.largest)
    for code in codes if kept else codes[-6:]:
        middle, minus = (levels[code] + levels[code + 1]) / 2, code % 3 == 2 and f.signed
        at = _pattern(source, middle, minus=minus)
        last = code == f.largest
        flags = ["Saturate"] if last else []
        yield draft(at, "Tie", *flags)
        for step in (-1, 1):
            yield draft(at + step, "NearTie", *flags)
        if code % 8 == 1 or code > f.largest - 2 or not code:
            yield draft(_pattern(source, levels[code], minus=minus), "Basic", *flags)
    if not kept:
        beyond = _pattern(source, levels[f.largest + 1])    # rounds beyond, is no number here
        for bits in (beyond - 1, beyond, beyond + 1, _pattern(source, levels[f.largest] * 3)):
            yield draft(bits, "Saturate")
    sign = 1 << (8 * vectors.DTYPES[source] - 1)
    infinity = _infinity(source)
    for pattern, *flags in (
        (0, "Basic"), (_pattern(source, Fraction(-1)), "Basic"), (sign, "NegZero"),
        (1, "SubnormalInput"), (sign | 1, "SubnormalInput"),
        (infinity, "Infinite", "Saturate"), (infinity | sign, "Infinite", "Saturate"),
        (infinity - 1, "HugeInput", "Saturate"), ((infinity - 1) | sign, "HugeInput", "Saturate"),
    ):
        yield draft(pattern, *flags)
    for k in range(1, 4):                               # powers of two from below
        power = Fraction(2) ** exact.exponent(levels[f.largest] / 2**k)
        yield draft(_pattern(source, power) - 1, "ExponentBoundary")
    status = "unspecified" if f.nan is None else "defined"
    quiet = infinity | (1 << (SOURCES[source].mantissa_bits - 1))
    for pattern, *flags in ((quiet, "NaN"), (quiet | sign, "NaN", "NaNPayload"),
                            (infinity | 1, "NaN", "NaNPayload")):
        yield Draft({"x": np.array(pattern, width)}, flags, status)


def _sample(largest: int) -> list[int]:
    """Codes whose upper midpoints are asked for: all of a short format, some of a long one."""
    if largest < 40:
        return list(range(largest + 1))
    step = max(1, largest // 40)
    ends = [*range(9), *range(largest - 8, largest + 1)]
    return sorted({*ends, *range(0, largest, step)})


def _infinity(source: str) -> int:
    binary = SOURCES[source]
    return (2**binary.exponent_bits - 1) << binary.mantissa_bits


def cast_document(source: str, target: str) -> dict[str, Any]:
    """The cases beside midpoints, at the ends, and what is no number."""
    groups = [
        Drafts({"overflow": overflow, "rounding": rounding},
               f"beyond the largest: {overflow}; rounding: {rounding}",
               list(_cases(source, target, overflow, rounding)))
        for overflow in policies(target) for rounding in roundings(target)]
    operation = Operation("cast", {"x": source}, {"overflow": "text", "rounding": "text"},
                          {"y": target})
    return assembled(f"cast.{source}.{target}", operation, derivations(source, target), "onnx",
                     groups)


def double_rounding_document(target: str) -> dict[str, Any]:
    """float64 beside midpoints, nearer than float32 can see: one rounding, not two."""
    levels, cases = magnitudes(target), []
    for code in _sample(FORMATS[target].largest)[::3]:
        middle = (levels[code] + levels[code + 1]) / 2
        at = _pattern("float64", middle)
        cases += [Draft({"x": np.array(at + step, "u8")}, ("DoubleRounding", "NearTie"))
                  for step in (-4096, -1, 1, 4096)]
        cases.append(Draft({"x": np.array(at, "u8")}, ("Tie",)))
    groups = [Drafts({"overflow": "saturate", "rounding": "even"}, "beside midpoints", cases)]
    operation = Operation("cast", {"x": "float64"}, {"overflow": "text", "rounding": "text"},
                          {"y": target})
    return assembled(f"cast.float64.{target}", operation, derivations("float64", target), "onnx",
                     groups)


def documents() -> Iterator[dict[str, Any]]:
    """All files of casts."""
    for target in FORMATS:
        yield cast_document("float32", target)
    for target in ("float8_e4m3fn", "float8_e5m2", "float4_e2m1fn", "float16", "bfloat16"):
        yield double_rounding_document(target)


def tables() -> Iterator[tuple[str, bytes]]:
    """Name and compressed content of each conversion table."""
    for target, f in FORMATS.items():
        if f.code_bits > 8:
            continue
        for overflow in policies(target):
            for rounding in roundings(target):
                kind = "" if rounding == "even" else f".{rounding}"
                table = table_of(target, overflow, rounding)
                yield f"{target}.{overflow}{kind}", zlib.compress(table.tobytes(), 9)


def table_of(target: str, overflow: str, rounding: str) -> Array:
    """Code for each top half of a float32 and sticky bit, derived twice.

    First from the thresholds between neighbours, as fractions, of which each must have 16
    zero bits at its end (the premise of the table). Then by the encoder of the library, on
    the smallest and the largest number that share an entry.
    """
    f, levels, half = FORMATS[target], magnitudes(target), 2**16
    first = []
    for code in range(f.largest + 1):
        turn = levels[code]
        if rounding != "up":
            turn = (turn + levels[code + 1]) / 2
        bits = F32.bits(turn)
        if bits % half:
            raise Disagreement(f"{target}: {turn} needs more than 16 bits, no table can hold it")
        above = rounding == "up" or (rounding == "even" and code % 2 == 0)
        first.append(2 * (bits // half) + above)
    plus = np.searchsorted(first, np.arange(half), side="right")
    beyond = OVERFLOWS[overflow](f)
    plus[plus > f.largest] = beyond
    nan = slice(2 * 0x7F80 + 1, None)
    plus[nan] = f.nan or 0
    minus = plus | f.sign_bit
    if f.nan == f.sign_bit:
        minus[plus == 0] = 0
    if not f.signed:
        minus = np.full(half, 0 if beyond == f.largest else beyond)
        minus[nan] = plus[nan]
    if f.nan is None:
        minus[nan] = 0
    table = np.concatenate([plus, minus]).astype(np.uint8)
    index = np.arange(2 * half, dtype=np.uint32)
    for low in (1, 0xFFFF):
        x = (index >> 1 << 16 | (index & 1) * np.uint32(low)).view(np.float32)
        known = ~np.isnan(x)
        codes = f.encode(np.where(known, x, np.float32(0)), rounding=ROUNDINGS[rounding],
                         overflow=OVERFLOWS[overflow])
        if not np.array_equal(codes[known], table[known]):
            raise Disagreement(f"{target}.{overflow}.{rounding}: thresholds and encoder differ")
    return table
