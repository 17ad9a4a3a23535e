"""Stochastic rounding with the random word as an input: the decision is then a function."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import BF16, F32, Number
from refquant.oracle._words import floats

HALF = 2**16

# To bfloat16: the lower 16 bits of a float32 are the fraction, and the word has 16 bits.


def _to_bfloat16(up: Callable[[int, int], bool]) -> Callable[[Mapping[str, Any], Named], Any]:
    """Fraction of the way to the next number away from zero, compared with the word."""

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        bits, word = int(inputs["x"]), int(inputs["word"])
        x = F32.number(bits)
        if x is None:
            return None
        top = bits >> 16
        below = BF16.number(top & 0x7FFF)
        if not isinstance(x, Fraction) or not isinstance(below, Fraction):
            return {"y": np.array(top, "u2")}
        ulp = Fraction(2) ** (max((top >> 7 & 0xFF), 1) - 127 - 7)
        fraction = (abs(x) - below) / ulp * HALF
        return {"y": np.array(top + up(int(fraction), word), "u2")}

    return kernel


def _less(params: Mapping[str, Any], inputs: Named) -> Named:
    """Add the complement of the word: carries iff the word is less than the fraction."""
    return _added(inputs["x"], np.uint32(0xFFFF) - inputs["word"].astype(np.uint32))


def _carry(params: Mapping[str, Any], inputs: Named) -> Named:
    return _added(inputs["x"], inputs["word"].astype(np.uint32))


def _added(bits: Array, word: Array) -> Named:
    carried = (bits.astype(np.uint64) + word) >> 16
    finite = bits & np.uint32(0x7F800000) != np.uint32(0x7F800000)
    return {"y": np.where(finite, carried, bits >> 16).astype("u2")}


@cache
def bfloat16_derivations() -> dict[str, Derivation]:
    """Same distribution, different functions of the word."""
    def less(f: int, r: int) -> bool:
        return r < f

    def carry(f: int, r: int) -> bool:
        return r + f >= HALF

    first = Derivation("up iff r < fraction", "torchao, stochastic rounding of its optimizers",
                       {"random bits": "16, r < fraction, magnitude"}, _to_bfloat16(less), _less)
    return {"torchao": first, "exact": first, "add_truncate": Derivation(
        "(bits + r) >> 16", "add and truncate, as in most kernels on GPUs",
        {"random bits": "16, carry of r + fraction, magnitude"}, _to_bfloat16(carry), _carry)}


def bfloat16_document() -> dict[str, Any]:
    """Words on both sides of each decision."""
    cases = []
    inputs = [0x3F800000, 0x3F808000, 0x3F800001, 0x3F80FFFF, 0xBF808000, 0xBF804000, 0x00000001,
              0x00008000, 0x807FFFFF, 0x7F7FFFFF, 0x7F7F8000, 0x3FFFC000, 0x80000000]
    words = floats(3, low=-20, high=20)
    inputs += [next(words) for _ in range(20)]
    for bits in inputs:
        f = bits % HALF
        for word in sorted({0, 0xFFFF, f, max(f - 1, 0), (HALF - f) % HALF, max(HALF - f - 1, 0)}):
            flags = ["RandomWord"] if f else ["Basic"]
            flags += ["SubnormalInput"] if 0 < bits & 0x7FFFFFFF < 0x00800000 else []
            flags += ["ScaleOverflow"] if bits & 0x7FFF0000 == 0x7F7F0000 else []
            cases.append(Draft({"x": np.array(bits, "u4"), "word": np.array(word, "u2")}, flags))
    cases += [Draft({"x": np.array(bits, "u4"), "word": np.array(0xFFFF, "u2")}, ("Infinite",))
              for bits in (0x7F800000, 0xFF800000)]
    cases.append(Draft({"x": np.array(0x7FC00000, "u4"), "word": np.array(0, "u2")}, ("NaN",),
                       "unspecified"))
    operation = Operation("stochastic_bfloat16", {"x": "float32", "word": "uint16"}, {},
                          {"y": "bfloat16"})
    return document("stochastic_bfloat16.float32", operation, bfloat16_derivations(), "torchao",
                    [Drafts({}, "one number and one word", cases)])


# To whole numbers: U = word / 2**24, a float32 in [0, 1).

UNIT = Fraction(1, 2**24)


def _to_integer(rule: Callable[[Fraction, Fraction], int]) -> Callable[..., Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        x = F32.number(int(inputs["x"]))
        if not isinstance(x, Fraction):
            return None
        return {"q": np.array(rule(x, int(inputs["word"]) * UNIT) % 2**32, "u4")}

    return kernel


def _f(x: Number) -> Fraction:
    found = F32.rounded(x)
    if not isinstance(found, Fraction):
        raise ValueError("`x` must stay finite")
    return found


def _floor_of_sum(x: Fraction, u: Fraction) -> int:
    return _f(x + u).__floor__()


def _floor_of_magnitude(x: Fraction, u: Fraction) -> int:
    return (1 if x >= 0 else -1) * _f(abs(x) + u).__floor__()


def _bernoulli(x: Fraction, u: Fraction) -> int:
    return x.__floor__() + (u < _f(x - x.__floor__()))


def _exactly(x: Fraction, u: Fraction) -> int:
    return x.__floor__() + (u < x - x.__floor__())


def _numpy(rule: Callable[[Array, Array], Array]) -> Callable[..., Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x = vectors.values(inputs["x"], "float32")
        u = inputs["word"].astype(np.float32) * np.float32(2.0**-24)
        return {"q": (np.asarray(rule(x, u)).astype(np.int64) & 0xFFFFFFFF).astype("u4")}

    return kernel


@cache
def integer_derivations() -> dict[str, Derivation]:
    """Three forms in use, and the definition."""
    def axes(domain: str) -> dict[str, str]:
        return {"random bits": f"24, {domain}"}

    return {
        "aimet": Derivation("floor(f32(x + U))", "AIMET", axes("sum, signed"),
                            _to_integer(_floor_of_sum), _numpy(lambda x, u: np.floor(x + u))),
        "microxcaling": Derivation(
            "sign(x) floor(f32(|x| + U))", "microxcaling", axes("sum, magnitude"),
            _to_integer(_floor_of_magnitude),
            _numpy(lambda x, u: np.copysign(np.floor(np.abs(x) + u), x))),
        "brevitas": Derivation("floor(x) + (U < f32(x - floor(x)))", "Brevitas",
                               axes("U < fraction, signed"), _to_integer(_bernoulli),
                               _numpy(lambda x, u: np.floor(x) + (u < x - np.floor(x)))),
        "exact": Derivation(
            "floor(x) + (U < x - floor(x))", "the definition in real numbers",
            axes("U < fraction, signed, unbounded precision"), _to_integer(_exactly),
            _numpy(lambda x, u: np.floor(x) + (u < x.astype(np.float64) - np.floor(x)))),
    }


def integer_document() -> dict[str, Any]:
    """Fractions and words on both sides of each decision."""
    cases = []
    for value in (0.5, -0.5, 0.25, -0.25, 2.75, -2.75, 3.0, -3.0, 0.1, -0.1, 127.3, -127.3,
                  1e-10, -1e-10, -0.3, -0.7, -1e-3, -0.05, -0.01, -1 / 3, 2.0**22 + 0.5,
                  1 - 2.0**-24, -(1 - 2.0**-24)):
        bits = int(np.float32(value).view(np.uint32))
        x = F32.number(bits)
        f = int((x - x.__floor__()) * 2**24) if isinstance(x, Fraction) else 0
        for word in sorted({0, 1, 2**23, 2**24 - 1, f, f - 1, f + 1, 2**24 - f, 2**24 - f - 1}):
            if 0 <= word < 2**24:
                flags = ["Basic" if value == int(value) else "RandomWord"]
                cases.append(Draft({"x": np.array(bits, "u4"), "word": np.array(word, "u4")},
                                   flags))
    operation = Operation("stochastic_integer", {"x": "float32", "word": "uint32"}, {},
                          {"q": "int32"})
    return document("stochastic_integer.float32", operation, integer_derivations(), "exact",
                    [Drafts({}, "U = word / 2**24", cases)])


def documents() -> Iterator[dict[str, Any]]:
    """Both targets."""
    yield bfloat16_document()
    yield integer_document()
