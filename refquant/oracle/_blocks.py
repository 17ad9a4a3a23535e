"""Blocks that share a scale: the MX formats by each rule for the scale, and NVFP4."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._casts import FORMATS, magnitudes, nearest
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32
from refquant.oracle._words import floats
from refquant.quantizers import block
from refquant.quantizers.minifloat import E4M3FN, E8M0
from refquant.rounding import half_away, half_even

#: Type of the elements -> the library's format.
ELEMENTS: Mapping[str, Any] = {
    **{name: FORMATS[name] for name in ("float4_e2m1fn", "float6_e2m3fn", "float6_e3m2fn",
                                        "float8_e4m3fn", "float8_e5m2")},
    "int8": block.MXINT8_ELEMENT,
}  # fmt: skip
MXINT8_MAX = Fraction(127, 64)

#: name: formula, who follows it, rule of the scale, tie of the elements
_RULES: Mapping[str, tuple[str, str, str, str]] = {
    "ocp-mx": ("floor(log2 amax) - emax", "OCP MX 1.0, section 6.3; torchao FLOOR", "floor",
               "even"),
    "nv-rceil": ("ceil(log2(amax / max))", "torchao RCEIL, NVIDIA's MXFP8 recipe", "rceil", "even"),
    "torchao.ceil": ("ceil(log2 amax) - emax", "torchao CEIL", "ceil", "even"),
    "torchao.even": ("log2 of amax rounded to the mantissa, - emax", "torchao EVEN", "even",
                     "even"),
    "microxcaling": ("floor(log2 amax) - emax; elements away from zero, -0 is lost",
                     "microxcaling, its default rounding", "floor", "away"),
    "exact": ("floor(log2 amax) - emax", "as ocp-mx", "floor", "even"),
}  # fmt: skip


def _top(element: str) -> tuple[Fraction, int]:
    """Largest number of an element, and the bits of its mantissa."""
    if element == "int8":
        return MXINT8_MAX, 6
    f = FORMATS[element]
    return magnitudes(element)[f.largest], f.mantissa_bits


def _scale_exponent(amax: Fraction, element: str, rule: str) -> int:
    if not amax:
        return -127
    largest, mantissa = _top(element)
    e = exact.exponent(amax) - exact.exponent(largest)
    if rule == "ceil":
        e += amax > Fraction(2) ** exact.exponent(amax)
    elif rule == "rceil":
        e += amax > largest * Fraction(2) ** e
    elif rule == "even":
        e += amax >= (2 - Fraction(1, 2 ** (mantissa + 1))) * Fraction(2) ** exact.exponent(amax)
    return min(max(e, -127), 127)


def _element(x: Fraction, minus: bool, element: str, tie: str) -> int:
    """Code of a scaled number: bits of the format, or a whole number of sixty-fourths."""
    if element == "int8":
        signed = -x if minus else x
        whole = round(signed * 64) if tie == "even" else exact.half_away(signed * 64)
        return min(max(whole, -128), 127) % 256
    f = FORMATS[element]
    code = min(nearest(magnitudes(element), x, "even" if tie == "even" else "half_up"), f.largest)
    return code if tie == "away" and not code else code | f.sign_bit * minus


def _slow(element: str, dialect: str) -> Callable[[Mapping[str, Any], Named], Named | None]:
    _, _, rule, tie = _RULES[dialect]

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        patterns = [int(u) for u in inputs["x"]]
        x = [F32.number(u) for u in patterns]
        if not all(isinstance(v, Fraction) for v in x):
            return None
        numbers = [v for v in x if isinstance(v, Fraction)]
        e = _scale_exponent(max(abs(v) for v in numbers), element, rule)
        codes = [_element(abs(v) / Fraction(2) ** e, bool(u >> 31), element, tie)
                 for u, v in zip(patterns, numbers, strict=True)]
        return {"scale": np.array(e + 127, "u1"), "codes": np.array(codes, "u1")}

    return kernel


def _fast(element: str, dialect: str) -> Callable[[Mapping[str, Any], Named], Named]:
    _, _, rule, tie = _RULES[dialect]
    of = {"floor": block.floor_rule, "rceil": block.rceil_rule, "ceil": block.ceil_rule,
          "even": block.even_rule}[rule]

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x = vectors.values(inputs["x"], "float32")
        q = block.mx(x, element=ELEMENTS[element], rule=of)
        codes = q.encode(x, rounding=half_even if tie == "even" else half_away)
        if tie == "away" and element != "int8":
            codes = np.where(codes == FORMATS[element].sign_bit, 0, codes)
        return {"scale": E8M0.encode(q.scale).astype("u1").reshape(()),
                "codes": (codes & 255).astype("u1")}

    return kernel


@cache
def quantize_derivations(element: str) -> dict[str, Derivation]:
    """Dialects of the choice of an MX scale."""
    return {
        name: Derivation(f"scale 2**({formula}); element = nearest(x / scale), saturating", by,
                         {"MX scale": rule, "tie": tie, "exponent": "from the bits",
                          "overflow": "saturate"}, _slow(element, name), _fast(element, name))
        for name, (formula, by, rule, tie) in _RULES.items()
    }  # fmt: skip


def _block_of(*numbers: float, scale: float = 1.0) -> Array:
    """32 numbers: those given, then small ones that need no rounding."""
    x = np.zeros(32, np.float32)
    x[: len(numbers)] = np.float32(scale) * np.array(numbers, np.float32)
    return x.view(np.uint32)


def _mx_cases(element: str) -> Iterator[Draft]:
    largest, mantissa = _top(element)
    top = float(largest)
    emax = exact.exponent(largest)
    full = 2.0**emax                                    # the block maximum that gives scale 1
    half = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0] if element == "float4_e2m1fn" else [
        full * (1 + (2 * k + 1) / 2 ** (mantissa + 1)) for k in range(7)]
    yield Draft({"x": _block_of(full, 1, 0.5, -1)}, ("Basic",))
    yield Draft({"x": _block_of(full, *half)}, ("Tie",))
    yield Draft({"x": _block_of(full, *(-v for v in half))}, ("Tie",))
    up = np.nextafter(np.array(half, np.float32), np.float32(np.inf))
    yield Draft({"x": _block_of(full, *up)}, ("NearTie",))
    yield Draft({"x": _block_of(full, *(2 * np.array(half, np.float32) - up))}, ("NearTie",))
    yield Draft({"x": _block_of(*[0.0] * 4)}, ("ZeroRange",))
    yield Draft({"x": _block_of(full, -0.0, 0.0, -1e-30)}, ("NegZero",))
    for factor in (1.0, 1.0625, 1.125, 1.1875, 1.25, 1.5, 1.625, 1.75, 1.875, 1.9375, 1.999):
        flags = ("BlockMaxSaturates",) if factor * full > top else ("Basic",)
        yield Draft({"x": _block_of(factor * full, -factor * full, 0.3 * full)}, flags)
    yield Draft({"x": _block_of(-1.5 * full, 0.3 * full, 0.7)}, ("Basic",))
    yield Draft({"x": _block_of(0.01 * full, -full, 0.26 * full)}, ("Basic",))
    for power in (0, 3, -20, 30):
        for ulps in (1, 3, 17):
            amax = np.float32(2.0**power).view(np.uint32) - np.uint32(ulps)
            yield Draft({"x": _block_of(float(amax.view(np.float32)), 2.0**power / 5)},
                        ("ExponentBoundary",))
    for power in (-149, -140, -128, -127, -126, -125, -119, -118):
        yield Draft({"x": _block_of(2.0**power, -(2.0**power), 2.0 ** max(power - 1, -149))},
                    ("SubnormalScale", "SubnormalInput") if power < -126 else ("SubnormalScale",))
    yield Draft({"x": _block_of(3.4028234e38, -1.7e38, 1e38)}, ("HugeInput",))
    yield Draft({"x": _block_of(2.0**127, 1.5 * 2.0**127, -(2.0**126))}, ("HugeInput",))
    words = floats(7, low=-6, high=2)
    for _ in range(4):
        x = np.array([next(words) for _ in range(32)], np.uint32)
        yield Draft({"x": x}, ("Placement",))
    nan, infinite = _block_of(1, 2, 3), _block_of(1, 2, 3)
    nan[1], infinite[1] = 0x7FC00000, 0xFF800000
    yield Draft({"x": nan}, ("NaN",), "unspecified")
    yield Draft({"x": infinite}, ("Infinite",), "unspecified")


def mx_document(element: str) -> dict[str, Any]:
    """Blocks of 32 to a scale byte and 32 codes."""
    operation = Operation("quantize_mx", {"x": "float32"}, {"block_size": "int"},
                          {"scale": "float8_e8m0fnu", "codes": element})
    group = Drafts({"block_size": 32}, "one block of 32", list(_mx_cases(element)))
    return document(f"quantize_mx.float32.{element}", operation, quantize_derivations(element),
                    "ocp-mx", [group])


def _value(code: int, element: str) -> Fraction | None:
    if element == "int8":
        return Fraction(code - 256 if code >= 128 else code, 64)
    f = FORMATS[element]
    magnitude = code & (f.sign_bit - 1)
    if magnitude > f.largest:
        return None
    return magnitudes(element)[magnitude] * (-1 if code & f.sign_bit else 1)


def _decode_slowly(element: str) -> Callable[[Mapping[str, Any], Named], Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        scale = int(inputs["scale"])
        numbers = [_value(int(c), element) for c in inputs["codes"]]
        if scale == 255 or None in numbers:
            return None
        minus = [element != "int8" and int(c) >= FORMATS[element].sign_bit for c in inputs["codes"]]
        found = [F32.bits(F32.rounded(v * Fraction(2) ** (scale - 127)), negative_zero=m)
                 for v, m in zip(numbers, minus, strict=True) if v is not None]
        return {"x": np.array(found, "u4")}

    return kernel


def _decode_fast(element: str) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        codes = inputs["codes"].view("i1") if element == "int8" else inputs["codes"]
        q = block.Block(E8M0.decode(inputs["scale"]), ELEMENTS[element])
        return {"x": q.decode(codes.astype(np.int32)).view(np.uint32)}

    return kernel


@cache
def dequantize_derivations(element: str) -> dict[str, Derivation]:
    """One product, and it is exact but at the ends of float32."""
    return {name: Derivation("f32(2**(scale - 127) * element)", "OCP MX 1.0, section 6.1",
                             {"subnormals": "gradual", "overflow": "infinity"},
                             _decode_slowly(element), _decode_fast(element))
            for name in ("ocp-mx", "exact")}  # fmt: skip


def mx_decode_document(element: str) -> dict[str, Any]:
    """Scale bytes at both ends, and every code of a short format."""
    f = FORMATS.get(element)
    finite = [c for c in range(256 if f is None else 2**f.code_bits)
              if _value(c, element) is not None]
    picked = finite if len(finite) <= 64 else sorted({*finite[:12], *finite[-12:],
                                                      *finite[:: len(finite) // 40]})[:64]
    picked += [0] * (-len(picked) % 32)
    cases = []
    for scale in (0, 1, 2, 8, 120, 127, 128, 200, 246, 252, 254):
        for start in range(0, len(picked), 32):
            flags = ["SubnormalScale"] if scale == 0 else []
            flags += ["ScaleOverflow"] if scale > 240 else []
            flags += ["SubnormalOutput"] if 0 < scale < 9 else []
            codes = np.array(picked[start : start + 32], "u1")
            cases.append(Draft({"scale": np.array(scale, "u1"), "codes": codes},
                               flags or ["Basic"]))
    last = np.array(picked[::-1][:32], "u1")
    cases.append(Draft({"scale": np.array(0, "u1"), "codes": last}, ("SubnormalScale",)))
    zeros = np.zeros(32, "u1")
    cases.append(Draft({"scale": np.array(255, "u1"), "codes": zeros}, ("NaN",), "unspecified"))
    operation = Operation("dequantize_mx", {"scale": "float8_e8m0fnu", "codes": element},
                          {"block_size": "int"}, {"x": "float32"})
    return document(f"dequantize_mx.{element}.float32", operation, dequantize_derivations(element),
                    "ocp-mx", [Drafts({"block_size": 32}, "one block of 32", cases)])


def _nvfp4_slowly(params: Mapping[str, Any], inputs: Named) -> Named | None:
    rows = [[(int(u) >> 31, F32.number(int(u))) for u in row] for row in inputs["x"]]
    peaks = [max(abs(v) for _, v in row) for row in rows]
    tensor = F32.rounded(Fraction(max(peaks)) / 2688)
    if not isinstance(tensor, Fraction) or tensor < Fraction(2) ** -126:
        return None
    levels, elements = magnitudes("float8_e4m3fn"), magnitudes("float4_e2m1fn")
    scales, codes = [], []
    for row, peak in zip(rows, peaks, strict=True):
        code = max(min(nearest(levels, Fraction(peak) / (6 * tensor)), E4M3FN.largest), 1)
        code = code if peak else 0x38
        scales.append(code)
        step = levels[code] * tensor
        codes.append([min(nearest(elements, abs(Fraction(v)) / step), 7) | 8 * minus
                      for minus, v in row])
    return {"tensor_scale": np.array(F32.bits(tensor), "u4"), "scale": np.array(scales, "u1"),
            "codes": np.array(codes, "u1")}


def _nvfp4_fast(params: Mapping[str, Any], inputs: Named) -> Named:
    x = vectors.values(inputs["x"], "float32")
    q = block.nvfp4(x)
    tensor_scale = np.array(q.tensor_scale, np.float32)
    return {"tensor_scale": tensor_scale.view(np.uint32),
            "scale": E4M3FN.encode(q.scale).astype("u1").reshape(-1),
            "codes": q.encode(x).astype("u1")}


@cache
def nvfp4_derivations() -> dict[str, Derivation]:
    """NVFP4 with the scale of the tensor chosen from its maximum."""
    return {name: Derivation(
        "t = f32(amax / 2688); scale = e4m3(max / (6 t)); element = e2m1(x / (scale t))",
        "arXiv:2509.25149, appendix C, in real numbers",
        {"MX scale": "e4m3 nearest", "tie": "even", "overflow": "saturate"},
        _nvfp4_slowly, _nvfp4_fast) for name in ("nvfp4", "exact")}


def nvfp4_document() -> dict[str, Any]:
    """Tensors of a few blocks of 16."""
    def tensor(*rows: list[float]) -> Array:
        x = np.zeros((len(rows), 16), np.float32)
        for i, row in enumerate(rows):
            x[i, : len(row)] = row
        return x.view(np.uint32)

    grid = [6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -0.25, -2.5, -5.0]
    cases = [
        Draft({"x": tensor([2688, *(448 * v for v in grid[1:])])}, ("Tie",)),
        Draft({"x": tensor([2688.0], grid)}, ("Tie",)),
        Draft({"x": tensor([2688.0], [1e-3, 5e-4], [0.01, -0.02])}, ("SubnormalScale",)),
        Draft({"x": tensor([2688.0], [2e-4, -1e-4])}, ("SubnormalScale",)),
        Draft({"x": tensor([1.0, -1.0, 0.5], [0.0, -0.0], [0.25])}, ("NegZero", "ZeroRange")),
        Draft({"x": tensor([0.0, -0.0], [7.0, -0.0])}, ("NegZero", "ZeroRange")),
        Draft({"x": tensor([3.4e38, 1e38], [1e30, -1e38])}, ("HugeInput",)),
        Draft({"x": tensor([1e-30, 5e-31], [-2e-31])}, ("Basic",)),
    ]
    for k in range(1, 9):                       # block maxima between the scales of E4M3
        m = 6 * (1 + (2 * k - 1) / 16)
        cases.append(Draft({"x": tensor([2688.0], [m, m / 2, -m])}, ("BlockMaxSaturates",)))
    words = floats(11, low=-5, high=1)
    for _ in range(6):
        x = np.array([next(words) for _ in range(48)], np.uint32).reshape(3, 16)
        cases.append(Draft({"x": x}, ("Placement",)))
    operation = Operation("quantize_nvfp4", {"x": "float32"}, {"block_size": "int"},
                          {"tensor_scale": "float32", "scale": "float8_e4m3fn",
                           "codes": "float4_e2m1fn"})
    return document("quantize_nvfp4.float32", operation, nvfp4_derivations(), "nvfp4",
                    [Drafts({"block_size": 16}, "rows of 16", cases)])


def documents() -> Iterator[dict[str, Any]]:
    """All files of blocks."""
    for element in ELEMENTS:
        yield mx_document(element)
        yield mx_decode_document(element)
    yield nvfp4_document()
