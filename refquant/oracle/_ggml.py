"""The blocks of ggml: bytes of Q8_0, Q4_0, TQ1_0 and TQ2_0, and numbers of bytes."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F16, F32, Number
from refquant.oracle._words import floats, splitmix64
from refquant.quantizers import ggml
from refquant.rounding import half_even

LAYOUTS: Mapping[str, ggml.Layout] = {
    "q8_0": ggml.Q8_0, "q4_0": ggml.Q4_0, "tq1_0": ggml.TQ1_0, "tq2_0": ggml.TQ2_0,
}  # fmt: skip


def _reciprocal(d: Number) -> Number:
    return Fraction(0) if d == 0 else F32.rounded(exact.quotient(Fraction(1), d))


def _ratio(x: Fraction, factor: Number) -> Fraction:
    """Product in float32; 0 for what is not finite, as x86 casts."""
    value = F32.rounded(exact.product(x, factor))
    return value if isinstance(value, Fraction) else Fraction(0)


def _scale_and_codes(layout: str, x: list[Fraction], avx2: bool) -> tuple[Any, list[int]]:
    amax = max(abs(v) for v in x)
    if layout == "q4_0":
        extreme = next(v for v in x if abs(v) == amax)
        d = F32.rounded(extreme / -8)
        factor = _reciprocal(d)
        shifted = [F32.rounded(exact.total(F32.rounded(exact.product(v, factor)), Fraction(17, 2)))
                   for v in x]
        return d, [min(int(v), 15) if isinstance(v, Fraction) else 0 for v in shifted]
    d = F32.rounded(amax / (127 if layout == "q8_0" else 1))
    if avx2:
        factor = _reciprocal(amax)
        factor = F32.rounded(exact.quotient(Fraction(127), amax)) if amax else Fraction(0)
        return d, [round(_ratio(v, factor)) for v in x]
    factor = _reciprocal(d)
    return d, [exact.half_away(_ratio(v, factor)) for v in x]


def _pack(layout: str, codes: list[int]) -> list[int]:
    if layout == "q8_0":
        return [c % 256 for c in codes]
    if layout == "q4_0":
        return [codes[j] + 16 * codes[j + 16] for j in range(16)]
    trits = [c + 1 for c in codes]
    if layout == "tq2_0":
        return [sum(trits[128 * half + 32 * k + j] * 4**k for k in range(4))
                for half in range(2) for j in range(32)]
    found, start = [], 0
    for digits, width in ((5, 32), (5, 16), (4, 4)):
        for j in range(width):
            value = sum(trits[start + i * width + j] * 3 ** (4 - i) for i in range(digits))
            found.append(-(-256 * value // 243))
        start += digits * width
    return found


def _slow(layout: str, *, avx2: bool = False) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x = [F32.number(int(u)) for u in inputs["x"]]
        numbers = [v for v in x if isinstance(v, Fraction)]
        d, codes = _scale_and_codes(layout, numbers, avx2)
        first_is_plus = not int(inputs["x"][0]) >> 31
        zero = layout == "q4_0" and not any(numbers) and first_is_plus
        half = F16.bits(F16.rounded(d), negative_zero=zero or _falls_below(d))
        scale, packed = [half % 256, half // 256], _pack(layout, codes)
        raw = [*scale, *packed] if layout[0] == "q" else [*packed, *scale]
        return {"bytes": np.array(raw, "u1")}

    return kernel


def _falls_below(d: Number) -> bool:
    """Whether a negative scale rounds to zero and keeps its sign."""
    return isinstance(d, Fraction) and d < 0 and F16.rounded(d) == 0


def _fast(layout: str) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        return {"bytes": LAYOUTS[layout].pack(vectors.values(inputs["x"], "float32"))}

    return kernel


def _avx2(params: Mapping[str, Any], inputs: Named) -> Named:
    """The vector kernel of Q8_0: 127 / amax instead of 1 / (amax / 127), ties to even."""
    x = vectors.values(inputs["x"], "float32")
    amax = np.abs(x).max()
    with np.errstate(all="ignore"):
        factor = np.float32(127) / amax if amax else np.float32(0)
        whole = half_even(x * factor)
        scale = (amax / np.float32(127)).astype("<f2")
    codes = np.where(np.isfinite(whole), whole, 0).astype("i1").view("u1")
    return {"bytes": np.concatenate([np.frombuffer(scale.tobytes(), "u1"), codes])}


@cache
def quantize_derivations(layout: str) -> dict[str, Derivation]:
    """The reference of ggml; Q8_0 also has a vector kernel that differs."""
    tie = "up, of shifted codes" if layout == "q4_0" else "away"
    axes = {"scaling": "mul_recip", "tie": tie, "precision": "float32, scale stored as float16",
            "pack": layout}
    reference = Derivation("codes by f32(x * f32(1 / d)), d stored as float16",
                           "ggml-quants.c quantize_row_*_ref; gguf-py", axes, _slow(layout),
                           _fast(layout))
    found = {"ggml": reference, "exact": reference}
    if layout == "q8_0":
        found["ggml.avx2"] = Derivation(
            "rne(f32(x * f32(127 / amax)))", "ggml's AVX2 quantizer of activations",
            {**axes, "tie": "even"}, _slow(layout, avx2=True), _avx2)
    return found


def _cases(layout: str) -> Iterator[Draft]:
    n = LAYOUTS[layout].block_size

    def draft(numbers: Any, *flags: str) -> Draft:
        x = np.zeros(n, np.float32)
        x[: len(numbers)] = np.array(numbers, np.float32)
        return Draft({"x": x.view(np.uint32)}, flags)

    whole = {"q8_0": 127.0, "q4_0": -8.0}.get(layout, 1.0)
    if layout[0] == "q":
        ties = [whole, *(k + 0.5 for k in range(-6, 6))]
    else:
        ties = [1.0, 0.5, -0.5, 0.3, -0.3, 0.75, -1.0]
    yield draft(ties, "Tie")
    yield draft([-v for v in ties], "Tie")
    near = np.nextafter(np.array(ties[1:], np.float32), np.float32(0))
    yield draft([whole, *near], "NearTie")
    yield draft([], "ZeroRange")
    yield draft([-0.0] * n, "ZeroRange", "NegZero")
    yield draft([whole, -whole], "Saturate")
    yield draft([-whole, whole], "Saturate")
    yield draft([whole * 2.0**-24 * 0.3], "SubnormalScale", "ScaleOverflow")
    yield draft([whole * 2.0**-20, -whole * 2.0**-21], "SubnormalScale")
    yield draft([abs(whole) * 65519, -abs(whole) * 1e4], "HugeInput")
    yield draft([abs(whole) * 65521, -abs(whole) * 1e4], "ScaleOverflow")
    yield draft([1e-40, -5e-41], "SubnormalInput", "SubnormalScale")
    yield draft([-3e-41, 1e-41], "SubnormalInput", "SubnormalScale")
    yield draft(np.arange(n) % 15 - 7, "Layout")
    yield draft(np.arange(n) * 7 % 31 - 15, "Layout", "Placement")
    yield draft((np.arange(n) % 3 - 1) * 1.5, "Layout")
    words = floats(13, low=-4, high=1)
    for _ in range(8 if n == 32 else 3):
        yield Draft({"x": np.array([next(words) for _ in range(n)], np.uint32)},
                    ("Placement", "NearTie"))


def quantize_document(layout: str) -> dict[str, Any]:
    """One block to its bytes."""
    n = LAYOUTS[layout].block_size
    operation = Operation("quantize_ggml", {"x": "float32"}, {"layout": "text"},
                          {"bytes": "uint8"})
    group = Drafts({"layout": layout}, f"one block of {n}", list(_cases(layout)))
    return document(f"quantize_ggml.{layout}", operation, quantize_derivations(layout), "ggml",
                    [group])


def _unpack(layout: str, raw: list[int]) -> list[int]:
    if layout == "q8_0":
        return [b - 256 if b >= 128 else b for b in raw]
    if layout == "q4_0":
        return [b % 16 - 8 for b in raw] + [b // 16 - 8 for b in raw]
    if layout == "tq2_0":
        return [raw[32 * half + j] >> 2 * k & 3 for half in range(2) for k in range(4)
                for j in range(32)]
    found, start = [], 0
    for digits, width in ((5, 32), (5, 16), (4, 4)):
        found += [raw[start + j] * 3**i % 256 * 3 // 256 for i in range(digits)
                  for j in range(width)]
        start += width
    return found


def _decode_slowly(layout: str) -> Callable[[Mapping[str, Any], Named], Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        raw = [int(b) for b in inputs["bytes"]]
        scale, packed = (raw[:2], raw[2:]) if layout[0] == "q" else (raw[-2:], raw[:-2])
        half = scale[0] + 256 * scale[1]
        d, codes = F16.number(half), _unpack(layout, packed)
        if layout[0] == "t":
            codes = [c - 1 for c in codes]
        found = []
        for code in codes:
            value = F32.rounded(exact.product(d, Fraction(code)))
            if value is None:
                return None
            minus = bool(half >> 15) != (code < 0)
            found.append(F32.bits(value, negative_zero=value == 0 and minus))
        return {"x": np.array(found, "u4")}

    return kernel


def _decode_fast(layout: str) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        return {"x": LAYOUTS[layout].unpack(inputs["bytes"]).view(np.uint32)}

    return kernel


@cache
def dequantize_derivations(layout: str) -> dict[str, Derivation]:
    """One exact product."""
    return {name: Derivation("f32(d) * code", "ggml-quants.c dequantize_row_*; gguf-py",
                             {"pack": layout, "precision": "exact"}, _decode_slowly(layout),
                             _decode_fast(layout)) for name in ("ggml", "exact")}


def dequantize_document(layout: str) -> dict[str, Any]:
    """Bytes of every kind, with scales at the ends of float16."""
    size, words, cases = LAYOUTS[layout].block_bytes, splitmix64(17), []
    for scale, *flags in ((0x3C00, "Basic"), (0xBC00, "Basic"), (0x0001, "SubnormalScale"),
                          (0x8000, "NegZero"), (0x7BFF, "ScaleOverflow"), (0x2E66, "Layout")):
        for _ in range(2):
            packed = np.array([next(words) % 256 for _ in range(size - 2)], "u1")
            if layout == "tq1_0":                   # what packing can give, nothing else
                packed = -(-256 * (packed.astype(int) % 243) // 243)
                packed[48:] = -(-256 * (packed[48:] * 243 // 256 // 3 * 3) // 243)
            stored = np.array([scale % 256, scale // 256])
            parts = [stored, packed] if layout[0] == "q" else [packed, stored]
            if layout == "tq2_0":                   # the field 3 stands for no trit
                parts[0] = packed & ~((packed & packed >> 1) & 0x55)
            cases.append(Draft({"bytes": np.concatenate(parts).astype("u1")}, flags))
    operation = Operation("dequantize_ggml", {"bytes": "uint8"}, {"layout": "text"},
                          {"x": "float32"})
    return document(f"dequantize_ggml.{layout}", operation, dequantize_derivations(layout), "ggml",
                    [Drafts({"layout": layout}, "one block", cases)])


def documents() -> Iterator[dict[str, Any]]:
    """Both directions of each layout."""
    for layout in LAYOUTS:
        yield quantize_document(layout)
        yield dequantize_document(layout)
