"""NF4: the levels and thresholds that are shipped under this name, and the nearest level."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32
from refquant.quantizers.codebook import Codebook
from refquant.quantizers.normal_float import bitsandbytes_nf4, torchao_nf4


def _bits(x: Any) -> list[int]:
    return [int(u) for u in np.asarray(x, np.float32).view(np.uint32).ravel()]


def _levels(table: Codebook) -> list[Fraction]:
    return [Fraction(float(v)) for v in table.levels]


def _by_thresholds(table: Codebook) -> Callable[[Fraction], int]:
    """How many thresholds lie below: on equality down."""
    thresholds = [Fraction(float(t)) for t in table.thresholds]
    return lambda x: sum(x > t for t in thresholds)


def _by_distance(table: Codebook) -> Callable[[Fraction], int]:
    """The nearest level, the lower of two that are equally near."""
    levels = _levels(table)
    return lambda x: min(range(len(levels)), key=lambda i: (abs(x - levels[i]), i))


def _slow(rule: Callable[[Fraction], int]) -> Callable[[Mapping[str, Any], Named], Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        found = []
        for u in inputs["x"].ravel():
            x = F32.number(int(u))
            if x is None:
                return None
            found.append(rule(x) if isinstance(x, Fraction) else 15 if x > 0 else 0)
        return {"q": np.array(found, "u1").reshape(inputs["x"].shape)}

    return kernel


def _fast(table: Codebook) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        return {"q": table.encode(vectors.values(inputs["x"], "float32")).astype("u1")}

    return kernel


def _nearest_fast(params: Mapping[str, Any], inputs: Named) -> Named:
    """Distances in float64: differences of float32 between -1 and 1 are exact there."""
    x = np.clip(vectors.values(inputs["x"], "float32").astype(np.float64), -2, 2)
    away = np.abs(x[..., np.newaxis] - bitsandbytes_nf4().levels.astype(np.float64))
    return {"q": np.argmin(away, axis=-1).astype("u1")}


@cache
def quantize_derivations() -> dict[str, Derivation]:
    """Both tables of NF4, and the exact nearest level of the first."""
    first, second = bitsandbytes_nf4(), torchao_nf4()
    return {
        "bitsandbytes": Derivation("number of float32 thresholds below x / absmax",
                                   "bitsandbytes dQuantizeNF4", {"tie": "down"},
                                   _slow(_by_thresholds(first)), _fast(first)),
        "torchao": Derivation("nearest of the levels of four decimals", "torchao NF4Tensor",
                              {"tie": "down"}, _slow(_by_thresholds(second)), _fast(second)),
        "exact": Derivation("nearest of the levels of bitsandbytes, in real numbers",
                            "the definition", {"tie": "down"}, _slow(_by_distance(first)),
                            _nearest_fast),
    }


def quantize_document() -> dict[str, Any]:
    """Numbers already divided by the largest of their block."""
    cases = []

    def add(bits: int, *flags: str) -> None:
        cases.append(Draft({"x": np.array(bits, "u4")}, flags))

    for table in (bitsandbytes_nf4(), torchao_nf4()):
        for bits in _bits(table.levels):
            add(bits, "Basic")
        for bits in _bits(table.thresholds):
            add(bits, "Tie")
            add(bits - 1, "NearTie")
            add(bits + 1, "NearTie")
    levels = _levels(bitsandbytes_nf4())
    for a, b in pairwise(levels):
        bits = F32.bits(F32.rounded((a + b) / 2))
        for step in (-1, 0, 1):
            add(bits + step, "NearTie")
    for value, flag in ((1.5, "Saturate"), (-1.5, "Saturate"), (1e30, "HugeInput")):
        add(_bits(value)[0], flag)
    for bits, flag in ((0x80000000, "NegZero"), (1, "SubnormalInput"), (0x7F800000, "Infinite"),
                       (0xFF800000, "Infinite")):
        add(bits, flag)
    cases.append(Draft({"x": np.array(0x7FC00000, "u4")}, ("NaN",), "unspecified"))
    operation = Operation("quantize_nf4", {"x": "float32"}, {}, {"q": "uint4"})
    return document("quantize_nf4.float32", operation, quantize_derivations(), "bitsandbytes",
                    [Drafts({}, "a value divided by the largest of its block", cases)])


def _decode_slowly(table: Codebook) -> Callable[[Mapping[str, Any], Named], Named | None]:
    levels = _levels(table)

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        scale, code = F32.number(int(params["scale"])), int(inputs["q"])
        if not isinstance(scale, Fraction):
            return None
        return {"x": np.array(F32.bits(F32.rounded(scale * levels[code])), "u4")}

    return kernel


def _decode_fast(table: Codebook) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        scale = vectors.values(params["scale"], "float32")
        return {"x": np.asarray(scale * table.levels[inputs["q"]]).view(np.uint32)}

    return kernel


@cache
def dequantize_derivations() -> dict[str, Derivation]:
    """One product with a level of either table."""
    tables = {"bitsandbytes": bitsandbytes_nf4(), "torchao": torchao_nf4(),
              "exact": bitsandbytes_nf4()}
    return {name: Derivation("f32(absmax * level)", f"the table of {name}",
                             {"table": name}, _decode_slowly(t), _decode_fast(t))
            for name, t in tables.items()}


def dequantize_document() -> dict[str, Any]:
    """All sixteen codes, for three scales."""
    groups = []
    for scale, word in ((1.0, "1: the table itself"), (0.1, "0.1"), (2.0**-140, "2**-140")):
        flag = "SubnormalOutput" if scale < 1e-38 else "DoubleRounding" if scale < 1 else "Basic"
        groups.append(Drafts(
            {"scale": np.array(_bits(scale)[0], "u4")}, f"scale {word}",
            [Draft({"q": np.array(code, "u1")}, (flag,)) for code in range(16)]))
    operation = Operation("dequantize_nf4", {"q": "uint4"}, {"scale": "float32"}, {"x": "float32"})
    return document("dequantize_nf4.float32", operation, dequantize_derivations(), "bitsandbytes",
                    groups)


def documents() -> Iterator[dict[str, Any]]:
    """Both directions."""
    yield quantize_document()
    yield dequantize_document()
