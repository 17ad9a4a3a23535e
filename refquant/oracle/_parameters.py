"""Scale and zero point of a range: rounding of the scale, ties of the zero point, no range."""

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import islice
from typing import Any

import numpy as np

from refquant.integer import dialects as runtimes
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32, F64, Binary
from refquant.oracle._words import floats

EPSILON, TINY = Fraction(1, 2**23), Fraction(1, 2**126)

#: A scale and a zero point, or None where a dialect leaves them open.
Found = tuple[Fraction, int] | None


def _sub(kind: Binary, a: Fraction, b: Fraction) -> Any:
    return kind.rounded(a - b)


def _div(kind: Binary, a: Any, b: Any) -> Any:
    return kind.rounded(exact.quotient(a, b))


def _dynamic(low: Fraction, high: Fraction, qmin: int, qmax: int, empty: Fraction) -> Found:
    """ONNX: float32 throughout; the zero point clipped, then rounded."""
    steps = Fraction(qmax - qmin)
    width = _sub(F32, high, low) if high > low else empty
    scale = _div(F32, width, steps)
    if not isinstance(scale, Fraction) or not scale:
        return None
    start = F32.rounded(exact.total(Fraction(qmin), -_div(F32, low, scale)))
    return scale, exact.integer(start, round, qmin, qmax) or 0


def _onnx(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    return _dynamic(low, high, qmin, qmax, Fraction(qmax - qmin))


def _onnx_reference(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    return _dynamic(low, high, qmin, qmax, Fraction(1))


def _observer(low: Fraction, high: Fraction, qmin: int, qmax: int, least: Fraction) -> Found:
    """MinMaxObserver: a floor for the scale, the ratio rounded before it is subtracted."""
    scale = _div(F32, _sub(F32, high, low), Fraction(qmax - qmin))
    if not isinstance(scale, Fraction):
        return None
    scale = max(scale, least)
    zero_point = qmin - round(_div(F32, low, scale))
    return scale, min(max(zero_point, qmin), qmax)


def _torch(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    return _observer(low, high, qmin, qmax, EPSILON)


def _torchao(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    return _observer(low, high, qmin, qmax, TINY)


def _tool(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    """The offline tool of onnxruntime: float64, the scale cast at the end."""
    scale = _div(F64, _sub(F64, high, low), Fraction(qmax - qmin))
    if scale < TINY:
        return Fraction(1), 0
    zero_point = round(F64.rounded(Fraction(qmin) - _div(F64, low, scale)))
    stored = F32.rounded(scale)
    return (stored, zero_point) if qmin <= zero_point <= qmax else None


def _tflite(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    """From the end of the range that loses less, in float64; a tie away from zero."""
    scale = _div(F64, _sub(F64, high, low), Fraction(qmax - qmin))
    stored = F32.rounded(scale)
    if not scale or not stored:
        return None
    bottom, top = _div(F64, low, scale), _div(F64, high, scale)
    of_low = F64.rounded(abs(qmin) + abs(bottom)) < F64.rounded(abs(qmax) + abs(top))
    start = F64.rounded(qmin - bottom) if of_low else F64.rounded(qmax - top)
    return stored, exact.integer(start, exact.half_away, qmin, qmax) or 0


def _exactly(low: Fraction, high: Fraction, qmin: int, qmax: int) -> Found:
    scale = (high - low) / (qmax - qmin)
    stored = F32.rounded(scale) if scale else None
    if not isinstance(stored, Fraction) or not stored:
        return None
    return stored, min(max(round(qmin - low / scale), qmin), qmax)


def _torchao_parameters(low: Any, high: Any, *, bits: int, signed: bool) -> Any:
    ends = np.minimum(low, np.float32(0)), np.maximum(high, np.float32(0))
    qmin = -(2 ** (bits - 1)) if signed else 0
    qmax = qmin + 2**bits - 1
    scale = np.maximum((ends[1] - ends[0]) / np.float32(qmax - qmin), np.finfo(np.float32).tiny)
    zero_point = np.clip(qmin - np.rint(ends[0] / scale), qmin, qmax)
    return scale, zero_point


def _exact_parameters(low: Any, high: Any, *, bits: int, signed: bool) -> Any:
    """Here float64 holds the difference of two float32, and its ratio to small integers."""
    low, high = (end.astype(np.float64) for end in (np.minimum(low, 0), np.maximum(high, 0)))
    qmin = -(2 ** (bits - 1)) if signed else 0
    steps = 2**bits - 1
    width = high - low
    return (width / steps).astype(np.float32), np.clip(np.rint(qmin - low * steps / width), qmin,
                                                       qmin + steps)


_RULES: Mapping[str, tuple[str, str, str, Callable[..., Found], Callable[..., Any]]] = {
    "onnx": ("s = f32(f32(high - low) / n); z = rne(clip(f32(qmin - f32(low / s))))",
             "ONNX DynamicQuantizeLinear as onnxruntime computes it", "1",
             _onnx, runtimes.ONNXRUNTIME.parameters),
    "onnx.reference": ("as onnx; without a range s = f32(1 / n)", "onnx ReferenceEvaluator",
                       "1/(n-1)", _onnx_reference, runtimes.ONNX_REFERENCE.parameters),
    "onnxruntime.tool": ("float64; s is cast to float32 at the end", "onnxruntime quant_utils",
                         "1", _tool, runtimes.onnxruntime_tool_parameters),
    "torch.decomposed": ("s = max(f32(f32(high - low) / n), 2**-23); z = qmin - rne(f32(low / s))",
                         "torch MinMaxObserver and quantized_decomposed", "2**-23", _torch,
                         runtimes.TORCH_DECOMPOSED.parameters),
    "torchao": ("as torch.decomposed with 2**-126", "torchao choose_qparams_affine", "2**-126",
                _torchao, _torchao_parameters),
    "tflite.reference": ("float64; z from the end that loses less, ties away from zero",
                         "TensorFlow Lite ChooseQuantizationParams", "0: left open", _tflite,
                         runtimes.LITERT_REFERENCE.parameters),
    "exact": ("s = f32((high - low) / n); z = clip(rne(qmin - low * n / (high - low)))",
              "the definition in real numbers", "left open", _exactly, _exact_parameters),
}  # fmt: skip


def _slow(rule: Callable[..., Found], out: str) -> Callable[[Mapping[str, Any], Named], Any]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        low, high = (F32.number(int(inputs[key])) for key in ("low", "high"))
        if not isinstance(low, Fraction) or not isinstance(high, Fraction) or low > high:
            return None
        found = rule(min(low, Fraction(0)), max(high, Fraction(0)), params["qmin"], params["qmax"])
        if found is None:
            return None
        return {"scale": np.array(F32.bits(found[0]), "u4"),
                "zero_point": np.array(found[1] % 256, "u1")}

    return kernel


def _fast(rule: Callable[..., Any], out: str) -> Callable[[Mapping[str, Any], Named], Named]:
    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        low, high = (vectors.values(inputs[key], "float32") for key in ("low", "high"))
        with np.errstate(all="ignore"):
            found = rule(low, high, bits=8, signed=out == "int8")
        scale, z = found if isinstance(found, tuple) else (found.scale, found.zero_point)
        return {"scale": np.asarray(scale, np.float32).view(np.uint32),
                "zero_point": (np.asarray(z).astype(np.int64) & 255).astype("u1")}

    return kernel


def derivations(out: str) -> dict[str, Derivation]:
    """Dialects of the choice of parameters."""
    return {
        name: Derivation(formula, by, {"zero range": zero, "tie": "away" if "tflite" in name
                                       else "even"}, _slow(slow, out), _fast(fast, out))
        for name, (formula, by, zero, slow, fast) in _RULES.items()
    }


def _bits(x: float) -> int:
    return int(np.float32(x).view(np.uint32))


def _draft(low: int, high: int, flags: tuple[str, ...], status: str = "defined") -> Draft:
    return Draft({"low": np.array(low, "u4"), "high": np.array(high, "u4")}, flags, status)


def _parting(out: str, qmin: int, qmax: int) -> Iterator[Draft]:
    """Ranges on which the dialects part, a few for each way to part."""
    seen: dict[tuple[bool, ...], int] = {}
    rules = [rule for *_, rule, _ in _RULES.values()]
    ends = [(a, b) for a, b in zip(
        islice(floats(1, low=-12, high=3), 500), islice(floats(2, low=-12, high=3), 500),
        strict=True)]
    ties = [(_bits(-(k + 0.5) * s), _bits((254.5 - k) * s))
            for k in range(0, 254, 9) for s in (1, 0.25, 3)]
    for a, b in ties + ends:
        x, y = sorted([F32.number(a), F32.number(b)])
        low, high = min(x, Fraction(0)), max(y, Fraction(0))
        answers = [rule(low, high, qmin, qmax) for rule in rules]
        pattern = tuple(answer != answers[0] for answer in answers)
        if any(pattern) and seen.get(pattern, 0) < 4:
            seen[pattern] = seen.get(pattern, 0) + 1
            yield _draft(F32.bits(x), F32.bits(y), ("Tie" if (a, b) in ties else "NearTie",))


def parameters_document(out: str) -> dict[str, Any]:
    """Vectors for codes of 8 bits."""
    qmin, qmax = (-128, 127) if out == "int8" else (0, 255)
    cases = [_draft(_bits(a), _bits(b), flags) for a, b, flags in (
        (-1, 1, ("Basic",)), (0, 2, ("Basic", "ZpEnd")), (-3, 0, ("Basic", "ZpEnd")),
        (1, 3, ("ZpEnd",)), (-3, -1, ("ZpEnd",)), (-0.5, 254.5, ("Tie",)), (-1.5, 253.5, ("Tie",)),
        (-2.5, 252.5, ("Tie",)), (0, 0, ("ZeroRange",)), (-1e-38, 2e-38, ("SubnormalScale",)),
        (0, 1e-38, ("SubnormalScale",)), (-1e-30, 1e-30, ("SubnormalOutput",)),
        (0, 1e38, ("HugeInput",)),
        (-1.5e38, 1.5e38, ("HugeInput",)))]
    cases += [_draft(0x80000000, 0x80000000, ("ZeroRange", "NegZero"))]
    cases += list(_parting(out, qmin, qmax))
    left = [(_bits(-3e38), _bits(3e38), "ScaleOverflow"), (1, 2, "SubnormalScale"),
            (_bits(1), 0x7FC00000, "NaN"), (0xFF800000, 0x7F800000, "Infinite")]
    cases += [_draft(a, b, (flag,), "unspecified") for a, b, flag in left]
    cases += [Draft({"low": np.array(_bits(low), "u4"), "high": np.array(_bits(high), "u4")},
                    ("BadRange",), "reject", "the ends of the range are swapped")
              # Widened to hold zero, the second pair looks like a range.
              for low, high in ((1, -1), (3, 2))]
    group = Drafts({"qmin": qmin, "qmax": qmax}, "range widened to hold zero", cases)
    operation = Operation("quantization_parameters", {"low": "float32", "high": "float32"},
                          {"qmin": "int", "qmax": "int"}, {"scale": "float32", "zero_point": out})
    return document(f"quantization_parameters.float32.{out}", operation, derivations(out), "onnx",
                    [group])


def documents() -> Iterator[dict[str, Any]]:
    """Both files."""
    for out in ("uint8", "int8"):
        yield parameters_document(out)
