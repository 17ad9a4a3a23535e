"""Fake quantization: the value in float32, and where the straight-through gradient passes."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._affine import near_ties
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32, Number

#: name: formula, who, axes; exact ratio and NumPy ratio; whether the gradient sees the rounding
_RULES: Mapping[str, tuple[str, str, str, Callable[..., Number], Callable[..., Array], bool]] = {
    "torch.decomposed": (
        "k = rne(f32(x * f32(1 / s))) + z; y = f32((clip(k) - z) * s); passes iff k is a code",
        "torch.fake_quantize_per_tensor_affine and its backward", "mul_recip",
        lambda x, s: F32.rounded(exact.product(x, F32.rounded(1 / s))),
        lambda x, s: x * (1 / s), True),
    "lsq": (
        "v = f32(x / s); y = f32(rne(clip(v)) * s); passes iff qmin - z <= v <= qmax - z",
        "LSQ, arXiv:1902.08153, eq. (3): the clip alone cuts", "div",
        lambda x, s: F32.rounded(exact.quotient(x, s)), lambda x, s: x / s, False),
    "exact": (
        "k = rne(x / s) + z; y = f32((clip(k) - z) * s); passes iff k is a code",
        "the definition in real numbers", "exact", exact.quotient,
        lambda x, s: x.astype(np.float64) / s, True),
}  # fmt: skip


def _slow(name: str) -> Callable[[Mapping[str, Any], Named], Named | None]:
    _, _, _, ratio, _, of_codes = _RULES[name]

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        x, s = F32.number(int(inputs["x"])), F32.number(int(params["scale"]))
        low, high = params["qmin"] - params["zero_point"], params["qmax"] - params["zero_point"]
        v = ratio(x, s)
        if v is None or not isinstance(s, Fraction):
            return None
        if not of_codes and not low and not x:
            return None                         # whether -0 clipped at 0 keeps its sign is open
        step = exact.integer(v, round, low, high)
        finite = isinstance(v, Fraction)
        passes = finite and low <= (round(v) if of_codes else v) <= high
        value = F32.rounded((step or 0) * s)
        # (k - z) is an integer and has no -0; a rounded float keeps its sign.
        minus = value == 0 and not of_codes and bool(int(inputs["x"]) >> 31) and low < 0
        return {"y": np.array(F32.bits(value, negative_zero=minus), "u4"),
                "mask": np.array(passes, "u1")}

    return kernel


def _fast(name: str) -> Callable[[Mapping[str, Any], Named], Named]:
    *_, ratio, of_codes = _RULES[name]

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x, s = vectors.values(inputs["x"], "float32"), vectors.values(params["scale"], "float32")
        low, high = params["qmin"] - params["zero_point"], params["qmax"] - params["zero_point"]
        with np.errstate(all="ignore"):
            v = np.asarray(ratio(x, s))
            whole = np.rint(v)
            passes = (whole >= low) & (whole <= high) if of_codes else (v >= low) & (v <= high)
            steps = np.clip(whole, low, high) if of_codes else np.rint(np.clip(v, low, high))
            steps = steps.astype(np.float32)
            y = (steps + np.float32(0) if of_codes else steps) * s          # -0 + 0 is 0
        return {"y": np.asarray(y, np.float32).view(np.uint32), "mask": passes.astype("u1")}

    return kernel


@cache
def derivations() -> dict[str, Derivation]:
    """Dialects of the forward value and the mask of the backward pass."""
    return {name: Derivation(formula, by, {"scaling": scaling, "tie": "even", "gradient":
                                           "by the code" if of_codes else "by the ratio"},
                             _slow(name), _fast(name))
            for name, (formula, by, scaling, _, _, of_codes) in _RULES.items()}


def gradient_document() -> dict[str, Any]:
    """Both ends of the range from both sides, ties, and values far away."""
    groups = []
    for scale, z, (low, high) in ((1.0, 0, (-128, 127)), (0.1, 3, (-128, 127)), (0.5, 0, (0, 255)),
                                  (0.1, 128, (0, 255)), (1 / 3, -1, (-8, 7))):
        s = int(np.float32(scale).view(np.uint32))
        number = F32.number(s)
        group = Drafts({"scale": np.array(s, "u4"), "zero_point": z, "qmin": low, "qmax": high},
                       f"scale {scale:.3}, codes {low} to {high}, zero point {z}")
        for k, ends in ((Fraction(high - z), 1), (Fraction(low - z), -1)):
            for part in (Fraction(0), Fraction(2, 5), Fraction(1, 2), Fraction(3, 5), Fraction(2)):
                x = F32.bits(F32.rounded((k + ends * part) * number))
                flags = ["Saturate"] + (["Tie"] if part == Fraction(1, 2) else [])
                for step in (-1, 0, 1) if part in (0, Fraction(1, 2)) else (0,):
                    near = [*flags, "NearTie"] if step else flags
                    if x & 0x7FFFFFFF:
                        group.cases.append(Draft({"x": np.array(x + step, "u4")}, near))
        group.cases += [Draft({"x": np.array(u, "u4")}, ("NearTie",))
                        for u in near_ties(s, z, low, high, each=1)]
        for value in (0.5, 1.5, -2.5, 3.0):
            x = F32.bits(F32.rounded(Fraction(value) * number))
            flag = "Basic" if value == 3 else "Tie"
            group.cases.append(Draft({"x": np.array(x, "u4")}, (flag,)))
        for bits, flag in ((0x80000000, "NegZero"), (0x7F800000, "Infinite"),
                           (0xFF800000, "Infinite"), (0x4F32D05E, "HugeInput"),
                           (0xCF32D05E, "HugeInput"), (0x80000001, "SubnormalInput")):
            group.cases.append(Draft({"x": np.array(bits, "u4")}, (flag,)))
        group.cases.append(Draft({"x": np.array(0x7FC00000, "u4")}, ("NaN",), "unspecified"))
        groups.append(group)
    operation = Operation("fake_quantize", {"x": "float32"}, {
        "scale": "float32", "zero_point": "int", "qmin": "int", "qmax": "int"},
        {"y": "float32", "mask": "uint8"})
    return document("fake_quantize.float32", operation, derivations(), "torch.decomposed", groups)


def documents() -> Iterator[dict[str, Any]]:
    """The one file."""
    yield gradient_document()
