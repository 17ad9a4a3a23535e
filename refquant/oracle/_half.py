"""Quantizing float16: the ratio is rounded to 11 bits before it is rounded to a code."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F16, F32, Number

F16_MIN = 0x0400                            # the smallest normal float16


def _slow(ratio: Callable[[Number, Number], Number]) -> Callable[..., Named | None]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        x, s = F16.number(int(inputs["x"])), F16.number(int(params["scale"]))
        z, low, high = params["zero_point"], params["qmin"], params["qmax"]
        step = exact.integer(ratio(x, s), round, low - z, high - z)
        return None if step is None else {"q": np.array((step + z) % 256, "u1")}

    return kernel


def quantizing(ratio: Callable[[Array, Array], Array], rounding: Any = np.rint) -> Any:
    """Kernel on bits, of a ratio on float16 numbers."""
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x, s = vectors.values(inputs["x"], "float16"), vectors.values(params["scale"], "float16")
        z, low, high = params["zero_point"], params["qmin"], params["qmax"]
        with np.errstate(all="ignore"):
            whole = np.nan_to_num(rounding(np.asarray(ratio(x, s)).astype(np.float64)))
        codes = np.clip(whole, low - z, high - z) + z
        return {"q": (codes.astype(np.int64) & 255).astype("u1")}

    return kernel


def _wide(x: Array) -> Array:
    return np.asarray(x).astype(np.float32)


@cache
def derivations() -> dict[str, Derivation]:
    """The type of the scale is that of the division, or it is wider."""
    return {
        "onnx": Derivation(
            "sat(rne(f16(x / s)) + z)", "ONNX QuantizeLinear, in the type of its scale",
            {"scaling": "div", "precision": "float16", "zero_point": "after_round", "tie": "even"},
            _slow(lambda x, s: F16.rounded(exact.quotient(x, s))), quantizing(lambda x, s: x / s)),
        "onnxruntime": Derivation(
            "sat(rne(f32(x / s)) + z)", "onnxruntime, which widens float16 first",
            {"scaling": "div", "precision": "float32", "zero_point": "after_round", "tie": "even"},
            _slow(lambda x, s: F32.rounded(exact.quotient(x, s))),
            quantizing(lambda x, s: _wide(x) / _wide(s))),
        "exact": Derivation(
            "sat(rne(x / s) + z)", "the definition in real numbers",
            {"scaling": "exact", "zero_point": "after_round", "tie": "even"},
            _slow(exact.quotient),
            quantizing(lambda x, s: np.asarray(x).astype(np.float64) / s)),
    }


def _bits(x: float) -> int:
    return int(np.float16(x).view(np.uint16))


def _near_ties(scale: int, z: int, low: int, high: int) -> Iterator[int]:
    """Inputs beside ties: first where the precisions part, then some of the others."""
    s, seen = F16.number(scale), {True: 0, False: 0}
    for code in range(low - z, high - z):
        at = F16.bits(F16.rounded(s * (code + Fraction(1, 2))))
        for bits in (at - 1, at, at + 1):
            ratio = F16.number(bits) / s
            parts = round(F16.rounded(ratio)) != round(ratio)
            seen[parts] += 1
            if seen[parts] < (24 if parts else 12):
                yield bits


def half_document(out: str) -> dict[str, Any]:
    """float16 to 8 bits."""
    low, high = (-128, 127) if out == "int8" else (0, 255)
    groups = []
    for scale in (1.0, 0.1, 1 / 3, 0.7, 2.0**-20, 3.0):
        for z in (0, 3):
            s = _bits(scale)
            params = {"scale": np.array(s, "u2"), "zero_point": z, "qmin": low, "qmax": high,
                      "granularity": "per_tensor"}
            group = Drafts(params, f"scale {scale:.3}, zero point {z}")

            def add(bits: int, *flags: str, status: str = "defined", to: Drafts = group) -> None:
                to.cases.append(Draft({"x": np.array(bits, "u2")}, flags, status))

            for bits, *flags in ((0x8000, "NegZero"), (1, "SubnormalInput"),
                                 (0x8003, "SubnormalInput"), (0x7C00, "Infinite"),
                                 (0xFC00, "Infinite"), (0x7BFF, "Saturate"), (0xFBFF, "Saturate")):
                add(bits, *flags, *(["SubnormalScale"] if s < F16_MIN else []))
            add(0x7E00, "NaN", status="unspecified")
            for k in (0.5, 1.5, 2.5, -0.5, -1.5):
                if scale == 1 and low <= k + z:
                    add(_bits(k), "Tie", *(["TieOddZp"] if z % 2 else []))
            for bits in _near_ties(s, z, low, high):
                if bits & 0x7FFF:
                    add(bits, "NearTie")
            for k in (3, -2, 100):
                add(F16.bits(F16.rounded(k * F16.number(s))), "Basic")
            groups.append(group)
    operation = Operation("quantize_affine_float16", {"x": "float16"}, {
        "scale": "float16", "zero_point": "int", "qmin": "int", "qmax": "int",
        "granularity": "text"}, {"q": out})
    return document(f"quantize_affine.float16.{out}", operation, derivations(), "onnx", groups)


def documents() -> Iterator[dict[str, Any]]:
    """Both files."""
    for out in ("int8", "uint8"):
        yield half_document(out)
