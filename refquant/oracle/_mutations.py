"""The mistakes themselves: for each operation, what a plausible wrong kernel answers.

Every kernel maps parameters and inputs in bits to outputs in bits. Some are other dialects,
right under their own name and wrong under that of the file. Some compute as they should, and
refuse too little or too much: these are told by what they refuse.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.oracle import _affine, _half, _layers, vectors
from refquant.oracle._casts import FORMATS, OVERFLOWS, ROUNDINGS
from refquant.oracle._derivations import derivations
from refquant.oracle._document import Kernel, Named
from refquant.oracle._layer_mutations import layer_mutations, wide_mutations
from refquant.oracle._packing import code_range, number_of_bytes
from refquant.oracle.vectors import VectorFile, values
from refquant.quantizers import block, ggml
from refquant.quantizers.minifloat import E2M1, E4M3FN, ieee, saturating
from refquant.quantizers.normal_float import bitsandbytes_nf4, torchao_nf4
from refquant.rounding import ceil, floor, half_away, half_even, half_up, toward_zero

F32 = np.float32


def mutations(file: VectorFile) -> dict[str, Kernel]:
    """Wrong kernels that apply to a file, by name."""
    return MAKERS[file.op](file)


#: What an implementation refuses, from parameters and inputs.
Refusal = Callable[[Mapping[str, Any], Named], bool]


def refusals(file: VectorFile) -> dict[str, Refusal]:
    """Wrong refusals that apply to a file, by name; what is not refused is computed rightly."""
    checks = CHECKS.get(file.op, {})
    found: dict[str, Refusal] = {}
    if any(case.status == "reject" for case in file):
        for name in checks:
            others = [check for key, check in checks.items() if key != name]
            found[f"{name} not checked"] = _any(*others)
    if "BadScale" in file.notes:
        zero_point = checks["zero point"]
        found["scale below 0 refused alone"] = _any(
            zero_point, lambda p, inputs: bool((values(p["scale"], "float32") < 0).any()))
        found["scale up to 0 refused alone"] = _any(
            zero_point, lambda p, inputs: bool((values(p["scale"], "float32") <= 0).any()))
    if "EmptyInput" in file.notes:
        found["no elements are an error"] = _any(
            *checks.values(), lambda p, inputs: any(not v.size for v in inputs.values()))
    return found


def _any(*checks: Refusal) -> Refusal:
    return lambda params, inputs: any(check(params, inputs) for check in checks)


def _bad_scale(params: Mapping[str, Any], inputs: Named) -> bool:
    scale = values(params["scale"], "float32")
    return not bool((np.isfinite(scale) & (scale > 0)).all())


def _bad_zero_point(params: Mapping[str, Any], inputs: Named) -> bool:
    z = np.asarray(params["zero_point"])
    return bool(((z < params["qmin"]) | (z > params["qmax"])).any())


def _swapped_ends(params: Mapping[str, Any], inputs: Named) -> bool:
    return bool(values(inputs["low"], "float32") > values(inputs["high"], "float32"))


def _code_too_wide(params: Mapping[str, Any], inputs: Named) -> bool:
    low, high = code_range(params["layout"], params["bits"], bool(params["signed"]))
    codes = inputs["codes"].view("i1" if params["signed"] else "u1")
    return bool(((codes < low) | (codes > high)).any())


def _bytes_missing(params: Mapping[str, Any], inputs: Named) -> bool:
    needed = number_of_bytes(params["layout"], params["bits"], params["length"])
    return inputs["bytes"].size < needed


#: Operation -> what must be checked of its arguments.
CHECKS: Mapping[str, Mapping[str, Refusal]] = {
    "quantize_affine": {"scale": _bad_scale, "zero point": _bad_zero_point},
    "quantization_parameters": {"order of the ends": _swapped_ends},
    "pack": {"code": _code_too_wide}, "unpack": {"number of bytes": _bytes_missing},
}


def _others(file: VectorFile, *dialects: str) -> dict[str, Kernel]:
    """Other dialects of the file as mutants."""
    types = {**file.inputs, **file.params, **file.outputs}
    params = file.groups[0].params
    found = derivations(file.op, types, params)
    return {f"as {name}": found[name].fast for name in dialects if name in found}


def _bfloat16(x: Array) -> Array:
    """To bfloat16 and back, to even."""
    u = np.ascontiguousarray(x, F32).view(np.uint32)
    return ((u + 0x7FFF + (u >> 16 & 1)) & np.uint32(0xFFFF0000)).view(F32)


def _flushed(x: Array) -> Array:
    return np.where(np.abs(x) < F32(2.0**-126), np.copysign(F32(0), x), x).astype(F32)


def _int32(x: Array) -> Array:
    fits = (x >= -(2.0**31)) & (x < 2.0**31)
    return np.where(fits, x, -(2.0**31)).astype(np.int64)


def _whole(x: Array) -> Array:
    """A float as an integer of any size that matters, NaN as 0."""
    return np.clip(np.nan_to_num(x), -(2.0**40), 2.0**40).astype(np.int64)


def _pattern(codes: Array, dtype: str) -> Array:
    width = vectors.DTYPES[dtype]
    return (np.asarray(codes).astype(np.int64) & (256**width - 1)).astype(f"u{width}")


def _half_down(x: Array) -> Array:
    return -half_up(-x)


# Affine quantization: numbers x, s, z, the ends of the range -> codes.


def _affine_quantize(file: VectorFile) -> dict[str, Kernel]:
    Rule = Callable[[Array, Array, Array, int, int], Array]
    signed = file.outputs["q"][0] == "i"

    def clip(v: Array, z: Array, low: int, high: int) -> Array:
        return np.clip(_whole(v) + z, low, high)

    def with_rounding(rule: Callable[[Array], Array]) -> Rule:
        return lambda x, s, z, low, high: clip(rule(x / s), z, low, high)

    def first(rule: Callable[[Array], Array]) -> Rule:
        return lambda x, s, z, low, high: np.clip(_whole(rule(x / s + F32(1) * z.astype(F32))),
                                                  low, high)

    def tail(x: Array, s: Array, z: Array, low: int, high: int) -> Array:
        body = np.arange(x.size).reshape(x.shape) < x.size // 8 * 8
        return clip(np.where(body, np.rint(x / s), half_away(x / s)), z, low, high)

    rules: dict[str, Rule] = {
        "ties away": with_rounding(half_away), "ties up": with_rounding(half_up),
        "ties down": with_rounding(_half_down), "truncated": with_rounding(toward_zero),
        "rounded down": with_rounding(floor),
        "reciprocal": lambda x, s, z, low, high: clip(np.rint(x * (F32(1) / s)), z, low, high),
        "zero point first": first(half_even), "zero point first, ties away": first(half_away),
        "float64 division": lambda x, s, z, low, high: clip(
            np.rint(x.astype(np.float64) / s), z, low, high),
        "int32 before the clip": lambda x, s, z, low, high: np.clip(
            (_int32(np.rint(x / s)) + z + 2**31) % 2**32 - 2**31, low, high),
        "narrow range": lambda x, s, z, low, high: clip(np.rint(x / s), z, low + 1, high),
        "largest code missing": lambda x, s, z, low, high: clip(np.rint(x / s), z, low, high - 1),
        "clipped before the zero point": lambda x, s, z, low, high: np.clip(
            _whole(np.rint(x / s)), low, high) + z,
        "wraps": lambda x, s, z, low, high: (_whole(np.rint(x / s)) + z - low)
        % (high - low + 1) + low,
        "subnormals are zero": lambda x, s, z, low, high: clip(
            np.rint(_flushed(x) / s), z, low, high),
        "bfloat16 ratio": lambda x, s, z, low, high: clip(
            np.rint(_bfloat16(x / s)), z, low, high),
        "zero point subtracted": lambda x, s, z, low, high: clip(np.rint(x / s), -z, low, high),
        "minus zero is below zero": lambda x, s, z, low, high: clip(
            np.rint(x / s) - ((x == 0) & np.signbit(x)), z, low, high),
        "range of the other sign": lambda x, s, z, low, high: (
            clip(np.rint(x / s), z, 0, high - low) if signed
            else clip(np.rint(x / s), z, -(high + 1) // 2, high // 2)),
    }
    if "granular" in file.name:
        keep = {"ties away", "zero point first", "narrow range", "zero point subtracted",
                "ties up", "truncated", "reciprocal"}
        rules = {name: rule for name, rule in rules.items() if name in keep - {"reciprocal"}}
        rules["tail unlike the body"] = tail
    if "boundaries" in file.name:
        keep = {"reciprocal", "float64 division", "ties away", "zero point first", "narrow range",
                "largest code missing", "zero point subtracted", "bfloat16 ratio", "truncated"}
        rules = {name: rule for name, rule in rules.items() if name in keep}

    def kernel(rule: Rule) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x = values(inputs["x"], "float32")
            q = _affine.quantizer(params, x.shape)
            codes = rule(x, q.scale.astype(F32), q.zero_point.astype(np.int64), q.qmin, q.qmax)
            return {"q": _pattern(codes, file.outputs["q"])}
        return answer

    found = {name: kernel(rule) for name, rule in rules.items()}
    if "granular" in file.name:
        def reversed_scales(params: Mapping[str, Any], inputs: Named) -> Named:
            turned = {**params, "scale": np.flip(params["scale"]).copy()}
            return kernel(with_rounding(half_even))(turned, inputs)
        found["scales in reverse"] = reversed_scales
    return found


def _affine_dequantize(file: VectorFile) -> dict[str, Kernel]:
    Rule = Callable[[Array, Array, Array], Array]
    of = file.inputs["q"]
    low, high = _affine.RANGES[of]
    n = high - low + 1
    rules: dict[str, Rule] = {
        "zero point ignored": lambda q, s, z: q.astype(F32) * s,
        "zero point added": lambda q, s, z: (q + z).astype(F32) * s,
        "difference wraps": lambda q, s, z: ((q - z - low) % n + low).astype(F32) * s,
        "two products": lambda q, s, z: q.astype(F32) * s - z.astype(F32) * s,
        "divided by the reciprocal": lambda q, s, z: (q - z).astype(F32) / (F32(1) / s),
        "bfloat16 scale": lambda q, s, z: (q - z).astype(F32) * _bfloat16(s),
        "subnormal results are zero": lambda q, s, z: _flushed((q - z).astype(F32) * s),
        "subnormal scales are zero": lambda q, s, z: (q - z).astype(F32) * _flushed(s),
        "through bfloat16": lambda q, s, z: _bfloat16((q - z).astype(F32) * s),
        "other sign": lambda q, s, z: (np.where(q < 0, q + n, q) if low else
                                       np.where(q > high // 2, q - n, q) - z).astype(F32) * s,
    }

    def kernel(rule: Rule) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            codes = np.asarray(values(inputs["q"], of)).astype(np.int64)
            grid = _affine.quantizer(params, codes.shape)
            x = rule(codes, grid.scale.astype(F32), grid.zero_point.astype(np.int64))
            return {"x": np.asarray(x, F32).view(np.uint32)}
        return answer

    return {name: kernel(rule) for name, rule in rules.items()}


def _cast(file: VectorFile) -> dict[str, Kernel]:
    source, target = file.inputs["x"], file.outputs["y"]
    f = FORMATS[target]

    def encode(x: Array, params: Mapping[str, Any], *, rounding: Any = None,
               overflow: Any = None) -> Array:
        return f.encode(np.asarray(x), rounding=rounding or ROUNDINGS[params["rounding"]],
                        overflow=overflow or OVERFLOWS[params["overflow"]],
                        keep_nan=f.nan is not None)

    Rule = Callable[[Array, Mapping[str, Any]], Array]
    rules: dict[str, Rule] = {
        "ties away": lambda x, p: encode(x, p, rounding=half_away),
        "toward zero": lambda x, p: encode(x, p, rounding=toward_zero),
        "always up": lambda x, p: encode(
            x, p, rounding=lambda v: np.copysign(ceil(np.abs(v)), v)),
    }
    if source == "float32":
        if file.name.endswith("bfloat16"):
            rules["bits cut off"] = lambda x, p: x.view(np.uint32) >> 16
        else:
            rules["through bfloat16"] = lambda x, p: encode(_bfloat16(x), p)
        if f.signed:
            rules["sign of zero lost"] = lambda x, p: np.where(
                encode(x, p) == f.sign_bit, 0, encode(x, p)) if f.nan != f.sign_bit else np.where(
                x == 0, np.where(np.signbit(x), f.sign_bit, 0), encode(x, p))
            rules["sign ignored"] = lambda x, p: encode(np.abs(x), p)
            rules["subnormals are zero"] = lambda x, p: np.where(
                encode(x, p) & (f.sign_bit - 1) < 2**f.mantissa_bits,
                encode(np.copysign(F32(0), x), p), encode(x, p))
        else:
            rules["sign ignored"] = lambda x, p: encode(np.abs(x), p)
            rules["least is zero"] = lambda x, p: np.where(encode(x, p) == 0, 255, encode(x, p))
        rules["largest code missing"] = lambda x, p: encode(x, p) - (
            (encode(x, p) & (f.sign_bit - 1)) == f.largest)
        if f.nan is not None and f.signed:
            rules["other overflow"] = lambda x, p: encode(
                x, p, overflow=ieee if p["overflow"] == "saturate" else saturating)
            rules["NaN is a number"] = lambda x, p: encode(np.where(np.isnan(x), F32(0), x), p)
            if f.nan != f.sign_bit:
                rules["NaN without sign"] = lambda x, p: np.where(
                    np.isnan(x), f.nan or 0, encode(x, p))
    else:
        rules["through float32"] = lambda x, p: encode(x.astype(F32), p)

    def kernel(rule: Rule) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x = values(inputs["x"], source)
            known = x if f.nan is not None else np.where(np.isnan(x), x.dtype.type(0), x)
            return {"y": _pattern(rule(known, params), target)}
        return answer

    return {name: kernel(rule) for name, rule in rules.items()}


def _parameters(file: VectorFile) -> dict[str, Kernel]:
    Rule = Callable[[Array, Array, int, int], tuple[Array, Array]]

    def base(low: Array, high: Array, qmin: int, qmax: int, *, n: int = 0,
             rule: Any = half_even, widen: bool = True, zero: float = 1.0,
             clip: bool = True) -> tuple[Array, Array]:
        if widen:
            low, high = np.minimum(low, F32(0)), np.maximum(high, F32(0))
        scale = (high - low) / F32(n or qmax - qmin)
        scale = np.where(high == low, F32(zero), scale)
        start = F32(qmin) - low / scale
        return scale, rule(np.clip(start, qmin, qmax) if clip else start)

    def at_the_top(low: Array, high: Array, qmin: int, qmax: int) -> tuple[Array, Array]:
        scale, _ = base(low, high, qmin, qmax)
        return scale, np.clip(half_even(qmax - np.maximum(high, F32(0)) / scale), qmin, qmax)

    rules: dict[str, Rule] = {
        "zero point away": lambda a, b, lo, hi: base(a, b, lo, hi, rule=half_away),
        "zero point truncated": lambda a, b, lo, hi: base(a, b, lo, hi, rule=toward_zero),
        "range not widened": lambda a, b, lo, hi: base(a, b, lo, hi, widen=False),
        "256 steps": lambda a, b, lo, hi: base(a, b, lo, hi, n=256),
        "zero range gives 0": lambda a, b, lo, hi: base(a, b, lo, hi, zero=0.0),
        "zero point from the top": at_the_top,
        "ends swapped": lambda a, b, lo, hi: base(-b, -a, lo, hi),
        "scale of magnitudes": lambda a, b, lo, hi: base(
            -np.maximum(np.abs(a), np.abs(b)), np.maximum(np.abs(a), np.abs(b)), lo, hi),
    }

    def kernel(rule: Rule) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            low, high = (values(inputs[key], "float32") for key in ("low", "high"))
            scale, z = rule(low, high, params["qmin"], params["qmax"])
            return {"scale": np.asarray(scale, F32).view(np.uint32),
                    "zero_point": _pattern(_whole(z), "uint8")}
        return answer

    def one_by_one(other: Kernel) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            found = []
            for low, high in zip(inputs["low"], inputs["high"], strict=True):
                try:
                    found.append(other(params, {"low": low, "high": high}))
                except ValueError:                      # a scale of zero is refused
                    found.append({"scale": np.array(0, "u4"), "zero_point": np.array(0, "u1")})
            return {key: np.array([v[key] for v in found]) for key in found[0]}
        return answer

    others = _others(file, "onnx.reference", "onnxruntime.tool", "torch.decomposed", "torchao",
                     "tflite.reference")
    return {**{name: kernel(rule) for name, rule in rules.items()},
            **{name: one_by_one(other) for name, other in others.items()}}


def _requantize(file: VectorFile) -> dict[str, Kernel]:
    Rule = Callable[[Array, Array], Array]
    rules: dict[str, Rule] = {
        "ties away": lambda acc, m: half_away(acc.astype(F32) * m),
        "ties up": lambda acc, m: half_up(acc.astype(F32) * m),
        "truncated": lambda acc, m: toward_zero(acc.astype(F32) * m),
        "rounded down": lambda acc, m: floor(acc.astype(F32) * m),
        "float64": lambda acc, m: np.rint(acc.astype(np.float64) * m),
        "bfloat16 multiplier": lambda acc, m: np.rint(acc.astype(F32) * _bfloat16(m)),
    }

    def kernel(rule: Rule, *, first: bool = False, wraps: bool = False,
               narrow: int = 0) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            acc = np.asarray(values(inputs["acc"], "int32")).astype(np.int64)
            m, z = values(params["multiplier"], "float32"), params["zero_point"]
            if first:
                whole = _whole(half_even(acc.astype(F32) * m + F32(z)))
            else:
                whole = _whole(rule(acc, m)) + z
            codes = whole if wraps else np.clip(whole, params["qmin"] + narrow, params["qmax"])
            return {"q": _pattern(codes, "uint8")}
        return answer

    nearest: Rule = lambda acc, m: np.rint(acc.astype(F32) * m)          # noqa: E731
    found = {name: kernel(rule) for name, rule in rules.items()}
    if any(p.params["zero_point"] % 2 for p in file.groups):
        found["zero point first"] = kernel(nearest, first=True)
    found["wraps"] = kernel(nearest, wraps=True)
    found["narrow range"] = kernel(nearest, narrow=1)
    others = _others(file, "tflite.reference", "tflite.single", "exact")
    return {**found, **{name: _acc_by_acc(other) for name, other in others.items()}}


def _acc_by_acc(other: Kernel) -> Kernel:
    """One at a time, so that what one kernel refuses does not stop the others."""
    def answer(params: Mapping[str, Any], inputs: Named) -> Named:
        found = []
        for acc in inputs["acc"]:
            try:
                found.append(int(other(params, {"acc": acc})["q"]))
            except ValueError:              # it leaves int32 when shifted: C would wrap
                found.append(0)
        return {"q": np.array(found, "u1")}
    return answer


def _packing(file: VectorFile) -> dict[str, Kernel]:
    out = next(iter(file.outputs))
    right = derivations(file.op, {}, {})["exact"].fast

    def swapped(params: Mapping[str, Any], inputs: Named) -> Named:
        given = dict(inputs)
        if file.op == "unpack":
            given["bytes"] = (given["bytes"] >> 4 | given["bytes"] << 4).astype("u1")
            return _forgiving(right, params, given, inputs)
        packed = right(params, given)["bytes"]
        return {"bytes": (packed >> 4 | packed << 4).astype("u1")}

    def backwards(params: Mapping[str, Any], inputs: Named) -> Named:
        key = next(iter(inputs))
        turned = {key: np.ascontiguousarray(inputs[key][::-1])}
        return _forgiving(right, params, turned, inputs)

    def one_too_many(params: Mapping[str, Any], inputs: Named) -> Named:
        answer = right(params, inputs)[out]
        return {out: (answer + 1).astype("u1")}

    def last_byte_dropped(params: Mapping[str, Any], inputs: Named) -> Named:
        answer = right(params, inputs)[out].copy()
        if params["length"] * params["bits"] % 8:
            answer[-1:] = 0
        return {out: answer}

    found: dict[str, Kernel] = {
        "nibbles swapped": swapped, "order turned round": backwards, "off by one": one_too_many,
        "rest dropped": last_byte_dropped,
    }
    if file.op == "unpack":
        def unmasked(params: Mapping[str, Any], inputs: Named) -> Named:
            answer = right(params, inputs)["codes"].copy()
            used = params["length"] * params["bits"] % 8
            bits = params["bits"]
            if used and params["layout"] in ("low_first",) and 8 % bits == 0 and answer.size:
                answer[-1] = inputs["bytes"][-1] >> (used - bits)
            return {"codes": answer}
        found["last code not masked"] = unmasked
        if file.outputs["codes"][0] == "i":
            found["no sign"] = lambda params, inputs: {"codes": (
                right(params, inputs)["codes"] & (2 ** params["bits"] - 1)).astype("u1")}
    elif file.inputs["codes"][0] == "i":
        def unmasked_pack(params: Mapping[str, Any], inputs: Named) -> Named:
            if params["layout"] != "low_first" or params["bits"] == 3:
                return right(params, inputs)
            per = 8 // params["bits"]
            codes = inputs["codes"].astype(np.int64)
            rows = np.zeros(-(-codes.size // per) * per, np.int64)
            rows[: codes.size] = codes
            shifts = np.arange(per) * params["bits"]
            packed = np.bitwise_or.reduce(rows.reshape(-1, per) << shifts, axis=1)
            return {"bytes": (packed & 255).astype("u1")}
        found["sign bits not masked"] = unmasked_pack
    return found


def _forgiving(kernel: Kernel, params: Mapping[str, Any], given: Named, inputs: Named) -> Named:
    """A refusal is a wrong answer too."""
    try:
        return kernel(params, given)
    except ValueError:
        return {"codes": np.array([], "u1"), "bytes": np.array([], "u1")}


def _mx(file: VectorFile) -> dict[str, Kernel]:
    from refquant.oracle._blocks import ELEMENTS

    element = ELEMENTS[file.outputs["codes"]]
    top = int(np.floor(np.log2(element.max_value)))

    def by_logarithm(amax: Array, _: Any) -> Array:
        return np.floor(np.log2(amax.astype(F32))).astype(np.int64) - top

    def kernel(*, rule: Any = block.floor_rule, rounding: Any = half_even, least: int = -127,
               bias: int = 127, peak: Any = np.abs, wraps: bool = False,
               signless_zero: bool = False, flush: bool = False) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x = values(inputs["x"], "float32")
            x = _flushed(x) if flush else x
            amax = np.max(peak(x))
            e = int(rule(np.array(amax), element)) if amax > 0 else -127
            e = min(max(e, -127), 127)
            scaled = x.astype(np.float64) / 2.0 ** max(e, least)
            codes = element.encode(scaled, rounding=rounding)
            if wraps:
                over = np.abs(scaled) > element.max_value
                codes = np.where(over, 0, codes)
            if signless_zero:
                codes = np.where(codes == getattr(element, "sign_bit", -1), 0, codes)
            return {"scale": np.array((e + bias) % 256, "u1"), "codes": _pattern(codes, "uint8")}
        return answer

    found = {
        "scale by ceil": kernel(rule=block.ceil_rule),
        "scale by rceil": kernel(rule=block.rceil_rule),
        "scale by even": kernel(rule=block.even_rule),
        "exponent by a float32 logarithm": kernel(rule=by_logarithm),
        "ties away": kernel(rounding=half_away), "truncated": kernel(rounding=toward_zero),
        "least scale 2**-126": kernel(least=-126), "bias 126": kernel(bias=126),
        "maximum with its sign": kernel(peak=lambda x: x),
        "subnormals are zero": kernel(flush=True),
        "overflow is zero": kernel(wraps=True),
        "scale one binade up": kernel(rule=lambda a, f: block.floor_rule(a, f) + 1),
    }
    if hasattr(element, "sign_bit"):
        found["sign of zero lost"] = kernel(signless_zero=True)
    return found


def _mx_decode(file: VectorFile) -> dict[str, Kernel]:
    from refquant.oracle._blocks import ELEMENTS

    of = file.inputs["codes"]

    def kernel(*, least: int = -127, bias: int = 127, flush: bool = False, mask: int = 255,
               bfloat16: bool = False, zero: bool = False) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            codes = inputs["codes"] & mask
            numbers = ELEMENTS[of].decode(
                (codes.view("i1") if of == "int8" else codes).astype(np.int32))
            scale = int(inputs["scale"])
            x = (numbers.astype(np.float64) * 2.0 ** max(scale - bias, least)).astype(F32)
            x = _flushed(x) if flush else x
            x = _bfloat16(x * F32(1)) if bfloat16 else x
            x = np.zeros_like(x) if zero and not scale else x
            return {"x": x.view(np.uint32)}
        return answer

    width = ELEMENTS[of].code_bits
    return {
        "least scale 2**-126": kernel(least=-126), "bias 128": kernel(bias=128),
        "bias 126": kernel(bias=126), "subnormal results are zero": kernel(flush=True),
        "sign ignored": kernel(mask=2 ** (width - 1) - 1),
        "least scale is zero": kernel(zero=True),
        "last bit ignored": kernel(mask=254),
    }


def _nvfp4(file: VectorFile) -> dict[str, Kernel]:
    def kernel(*, largest: float = 2688.0, scale_rounding: Any = half_even, least: int = 1,
               rounding: Any = half_even, one_scale: bool = False, zero: int = 0x38,
               signless: bool = False, stored: bool = True) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x = values(inputs["x"], "float32")
            peaks = np.abs(x).max(axis=1, keepdims=True)
            tensor = F32(1) if one_scale else F32(peaks.max() / F32(largest))
            wanted = peaks.astype(np.float64) / (6 * np.float64(tensor))
            scale = np.maximum(E4M3FN.encode(wanted, rounding=scale_rounding), least)
            scale = np.where(peaks > 0, scale, zero)
            step = E4M3FN.decode(scale).astype(np.float64) * tensor
            if not stored:
                step = np.where(peaks > 0, peaks / 6, 1.0)
            codes = E2M1.encode(x / np.where(step > 0, step, 1), rounding=rounding)
            codes = np.where(codes == 8, 0, codes) if signless else codes
            return {"tensor_scale": np.asarray(tensor).view(np.uint32),
                    "scale": scale.astype("u1").reshape(-1), "codes": codes.astype("u1")}
        return answer

    return {
        "no scale of the tensor": kernel(one_scale=True), "tensor over 6 x 512": kernel(
            largest=3072.0),
        "scale rounded up": kernel(scale_rounding=ceil), "scale truncated": kernel(
            scale_rounding=toward_zero),
        "ties away": kernel(rounding=half_away), "truncated": kernel(rounding=toward_zero),
        "scale of small blocks zero": kernel(least=0), "sign of zero lost": kernel(signless=True),
        "scale of empty blocks zero": kernel(zero=0), "scale not stored": kernel(stored=False),
    }


def _ggml(file: VectorFile) -> dict[str, Kernel]:
    name = file.groups[0].params["layout"]
    layout = {"q8_0": ggml.Q8_0, "q4_0": ggml.Q4_0, "tq1_0": ggml.TQ1_0, "tq2_0": ggml.TQ2_0}[name]
    steps = {"q8_0": 127, "q4_0": 8}.get(name, 1)

    def kernel(*, rounding: Any = half_away, of_stored: bool = False, divide: bool = False,
               magnitude: bool = False, shifted: float = 8.5, last: int = 15,
               of_zeros: float = 0.0, of_infinity: float = 0.0,
               change: Callable[[Array], Array] = lambda raw: raw) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x = values(inputs["x"], "float32")
            extreme = x[np.argmax(np.abs(x))]
            d = np.abs(extreme) / F32(steps)
            if name == "q4_0":
                d = (np.abs(extreme) if magnitude else extreme) / F32(-8)
            d = F32(of_zeros) if of_zeros and not d else d
            used = d.astype(np.float16).astype(F32) if of_stored else d
            ratio = x / used if divide else x * (F32(0) if used == 0 else F32(1) / used)
            ratio = np.where(np.isfinite(ratio), ratio, np.copysign(F32(of_infinity), x))
            if name == "q4_0":
                codes = np.clip(np.floor(ratio + F32(shifted)), 0, last) - 8
            else:
                limit = 127 if name == "q8_0" else 1
                codes = np.clip(rounding(ratio), -limit, limit)
            blocks = ggml.Blocks(np.array([[d]]).astype(np.float16),
                                 codes.astype(np.int32).reshape(1, -1))
            return {"bytes": change(layout.to_bytes(blocks).reshape(-1))}
        return answer

    def moved(raw: Array) -> Array:
        return np.roll(raw, -2 if layout.scale_first else 2)

    def swapped_scale(raw: Array) -> Array:
        at = [0, 1] if layout.scale_first else [len(raw) - 2, len(raw) - 1]
        raw = raw.copy()
        raw[at] = raw[at[::-1]]
        return raw

    found = {"codes by the stored scale": kernel(of_stored=True),
             "scale on the other side": kernel(change=moved),
             "scale bytes swapped": kernel(change=swapped_scale),
             "codes turned round": _turned(layout), "scale 1 of zeros": kernel(of_zeros=1.0),
             "infinite ratios saturate": kernel(of_infinity=500.0)}
    if name == "q4_0":
        found["scale by magnitude"] = kernel(magnitude=True)
        found["shifted by 8"] = kernel(shifted=8.0)
        found["symmetric"] = kernel(last=14)
        found["nibbles swapped"] = kernel(change=lambda raw: np.concatenate(
            [raw[:2], raw[2:] >> 4 | raw[2:] << 4]).astype("u1"))
    else:
        found["ties to even"] = kernel(rounding=half_even)
        found["truncated"] = kernel(rounding=toward_zero)
        if name != "q8_0":
            found["every sign counts"] = kernel(rounding=np.sign)
            del found["codes by the stored scale"]
    return found


def _turned(layout: ggml.Layout) -> Kernel:
    def answer(params: Mapping[str, Any], inputs: Named) -> Named:
        blocks = layout.quantize(values(inputs["x"], "float32"))
        turned = ggml.Blocks(blocks.scale, blocks.codes[..., ::-1])
        return {"bytes": layout.to_bytes(turned).reshape(-1)}
    return answer


def _ggml_decode(file: VectorFile) -> dict[str, Kernel]:
    name = file.groups[0].params["layout"]
    layout = {"q8_0": ggml.Q8_0, "q4_0": ggml.Q4_0, "tq1_0": ggml.TQ1_0, "tq2_0": ggml.TQ2_0}[name]

    def kernel(change: Callable[[Array, Array], tuple[Array, Array]]) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            blocks = layout.from_bytes(inputs["bytes"])
            scale, codes = change(blocks.scale, blocks.codes)
            return {"x": layout.dequantize(ggml.Blocks(scale, codes)).view(np.uint32)}
        return answer

    return {
        "order turned round": kernel(lambda d, q: (d, q[..., ::-1])),
        "codes off by one": kernel(lambda d, q: (d, q + 1)),
        "sign of the scale ignored": kernel(lambda d, q: (np.abs(d), q)),
        "subnormal scales are zero": kernel(lambda d, q: (
            np.where(np.abs(d.astype(F32)) < 2.0**-14, d * np.float16(0), d), q)),
        "scale bytes swapped": kernel(lambda d, q: (d.byteswap(), q)),
        "neighbours swapped": kernel(lambda d, q: (
            d, q.reshape(*q.shape[:-1], -1, 2)[..., ::-1].reshape(q.shape))),
    }


def _nf4(file: VectorFile) -> dict[str, Kernel]:
    table = bitsandbytes_nf4()
    levels = table.levels.astype(np.float64)

    def kernel(rule: Callable[[Array], Array]) -> Kernel:
        return lambda params, inputs: {
            "q": _pattern(rule(values(inputs["x"], "float32")), "uint8")}

    return {
        **_others(file, "torchao", "exact"),
        "up on equality": kernel(lambda x: np.searchsorted(table.thresholds, x, side="right")),
        "float16 thresholds": kernel(lambda x: np.searchsorted(
            table.thresholds.astype(np.float16).astype(F32), x)),
        "level below": kernel(lambda x: np.clip(np.searchsorted(levels, x, "right") - 1, 0, 15)),
        "uniform": kernel(lambda x: np.clip(np.rint((x + 1) * F32(7.5)), 0, 15)),
        "mirrored": kernel(lambda x: 15 - np.searchsorted(table.thresholds, -x)),
        "sign and magnitude": kernel(lambda x: np.searchsorted(table.thresholds, np.abs(x))),
        "wraps": kernel(lambda x: np.where(np.abs(x) > 1, 7, np.searchsorted(table.thresholds, x))),
        "smallest are one level": kernel(lambda x: np.searchsorted(
            table.thresholds, np.where(np.abs(x) < F32(1e-3), F32(1), x))),
    }


def _nf4_decode(file: VectorFile) -> dict[str, Kernel]:
    levels = bitsandbytes_nf4().levels

    def kernel(rule: Callable[[Array, Array], Array]) -> Kernel:
        return lambda params, inputs: {"x": np.asarray(rule(
            inputs["q"], values(params["scale"], "float32")), F32).view(np.uint32)}

    return {
        **_others(file, "torchao"),
        "float16 levels": kernel(lambda q, s: levels.astype(np.float16).astype(F32)[q] * s),
        "levels turned round": kernel(lambda q, s: levels[15 - q] * s),
        "subnormal results are zero": kernel(lambda q, s: _flushed(levels[q] * s)),
        "bfloat16 scale": kernel(lambda q, s: levels[q] * _bfloat16(s)),
        "through bfloat16": kernel(lambda q, s: _bfloat16(levels[q] * s)),
        "own table, torchao's middle": kernel(
            lambda q, s: np.where((q > 3) & (q < 12), torchao_nf4().levels[q], levels[q]) * s),
    }


def _stochastic_bfloat16(file: VectorFile) -> dict[str, Kernel]:
    def kernel(rule: Callable[[Array, Array], Array]) -> Kernel:
        return lambda params, inputs: {"y": _pattern(
            rule(inputs["x"].astype(np.int64), inputs["word"].astype(np.int64)), "uint16")}

    def up(u: Array, decision: Array) -> Array:
        return (u >> 16) + (decision & (u & 0x7F800000 != 0x7F800000))

    return {
        **_others(file, "add_truncate"),
        "word may equal the fraction": kernel(lambda u, r: up(u, (r <= u % 65536)
                                                              & (u % 65536 > 0))),
        "nearest": kernel(lambda u, r: up(u, u % 65536 > 32768)),
        "truncated": kernel(lambda u, r: u >> 16),
        "15 bits of the word": kernel(lambda u, r: up(u, r >> 1 < u % 65536 >> 1)),
        "infinity is rounded": kernel(lambda u, r: (u >> 16) + (
            (r < u % 65536) | (u & 0x7FFFFFFF == 0x7F800000))),
        "subnormals are zero": kernel(lambda u, r: np.where(
            u & 0x7F800000 == 0, u >> 16 & 0x8000, up(u, r < u % 65536))),
        "largest saturates": kernel(lambda u, r: np.where(
            (u & 0x7FFF0000) == 0x7F7F0000, u >> 16, up(u, r < u % 65536))),
        "whole numbers move": kernel(lambda u, r: up(u, (r < u % 65536) | (
            (u % 65536 == 0) & (r == 0)))),
    }


def _stochastic_integer(file: VectorFile) -> dict[str, Kernel]:
    def kernel(rule: Callable[[Array, Array], Array]) -> Kernel:
        return lambda params, inputs: {"q": _pattern(rule(
            values(inputs["x"], "float32"), inputs["word"] * 2.0**-24), "uint32")}

    return {
        **_others(file, "aimet", "microxcaling", "brevitas"),
        "word may equal the fraction": kernel(
            lambda x, u: np.floor(x) + (u <= x.astype(np.float64) - np.floor(x))),
        "nearest": kernel(lambda x, u: np.rint(x)), "rounded down": kernel(
            lambda x, u: np.floor(x)),
        "always up": kernel(lambda x, u: np.ceil(x)),
        "complement of the word": kernel(
            lambda x, u: np.floor(x) + (1 - u < x.astype(np.float64) - np.floor(x))),
        "magnitude": kernel(lambda x, u: np.copysign(
            np.floor(np.abs(x)) + (u < np.abs(x) - np.floor(np.abs(x))), x)),
    }


def _fake_quantize(file: VectorFile) -> dict[str, Kernel]:
    def kernel(*, rounding: Any = half_even, ratio: Any = lambda x, s: x * (F32(1) / s),
               first: bool = False, all_pass: bool = False, strict: bool = False,
               unclipped: bool = False, keep_minus: bool = False, int32: bool = False,
               codes: bool = False) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x, s = values(inputs["x"], "float32"), values(params["scale"], "float32")
            z, low, high = params["zero_point"], params["qmin"], params["qmax"]
            v = ratio(x, s)
            whole = rounding(v + F32(z)) if first else rounding(v) + z
            if int32:
                whole = (_int32(whole) + 2**31) % 2**32 - 2**31
            inside = (whole > low) & (whole < high) if strict else (whole >= low) & (whole <= high)
            steps = (whole if unclipped else np.clip(whole, low, high)) - z * (not codes)
            y = steps.astype(F32) * s
            y = np.copysign(y, x) if keep_minus else y + F32(0)
            mask = np.ones_like(inside) if all_pass else inside
            return {"y": y.astype(F32).view(np.uint32), "mask": mask.astype("u1")}
        return answer

    return {
        **_others(file, "lsq", "exact"), "ties away": kernel(rounding=half_away),
        "truncated": kernel(rounding=toward_zero), "zero point first": kernel(first=True),
        "division": kernel(ratio=lambda x, s: x / s), "gradient everywhere": kernel(all_pass=True),
        "no gradient at the ends": kernel(strict=True), "value not clipped": kernel(unclipped=True),
        "minus zero kept": kernel(keep_minus=True),
        "int32 before the clip": kernel(int32=True),
        "zero point left in": kernel(codes=True),
        "subnormals are infinite": kernel(
            ratio=lambda x, s: np.where((x != 0) & (np.abs(x) < F32(2.0**-126)),
                                        F32(np.inf), x * (F32(1) / s))),
    }


def _half_quantize(file: VectorFile) -> dict[str, Kernel]:
    def off(change: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Kernel:
        right = _half.quantizing(lambda x, s: x / s)
        return lambda params, inputs: right({**params, **change(params)}, inputs)

    def ratio(rule: Any, rounding: Any = np.rint) -> Kernel:
        made: Kernel = _half.quantizing(rule, rounding)
        return made

    return {
        **_others(file, "onnxruntime", "exact"),
        "ties away": ratio(lambda x, s: x / s, half_away),
        "truncated": ratio(lambda x, s: x / s, toward_zero),
        "rounded down": ratio(lambda x, s: x / s, floor),
        "reciprocal": ratio(lambda x, s: x * (np.float16(1) / s)),
        "subnormals are infinite": ratio(lambda x, s: np.where(
            (x != 0) & (np.abs(x) < np.float16(2.0**-14)), np.copysign(np.inf, x), x / s)),
        "zero point ignored": off(lambda p: {"zero_point": 0}),
        "narrow range": off(lambda p: {"qmin": p["qmin"] + 1}),
        "largest code missing": off(lambda p: {"qmax": p["qmax"] - 1}),
        "infinities are zero": ratio(lambda x, s: np.where(np.isinf(x), 0, x / s)),
        "minus zero is below zero": ratio(lambda x, s: x / s - ((x == 0) & np.signbit(x))),
        "subnormal scales are 1": ratio(lambda x, s: x / np.where(
            s < np.float16(2.0**-14), np.float16(1), s)),
    }


def _rescale(file: VectorFile) -> dict[str, Kernel]:
    def kernel(rounding: Any = half_even, *, first: bool = False, wraps: bool = False,
               narrow: int = 0, swapped: bool = False, unsigned: bool = False,
               short: bool = False) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            s1, s2 = (values(params[k], "float32") for k in ("input_scale", "scale"))
            z1, z2 = params["input_zero_point"], params["zero_point"]
            if swapped:
                z1, z2 = z2, z1
            q = (inputs["x"] if unsigned else values(inputs["x"], "int8")).astype(np.int64)
            steps = (q - z1).astype(F32) * s1 / s2
            steps = _bfloat16(steps) if short else steps
            whole = _whole(rounding(steps + F32(z2))) if first else _whole(rounding(steps)) + z2
            codes = whole if wraps else np.clip(whole, params["qmin"] + narrow, params["qmax"])
            return {"q": _pattern(codes, "uint8")}
        return answer

    return {
        **_others(file, "tflite.reference", "tflite.builtin", "xnnpack"),
        "ties away": kernel(half_away), "truncated": kernel(toward_zero),
        "rounded down": kernel(floor), "zero point first": kernel(first=True),
        "wraps": kernel(wraps=True), "narrow range": kernel(narrow=1),
        "zero points exchanged": kernel(swapped=True), "codes unsigned": kernel(unsigned=True),
        "bfloat16 ratio": kernel(short=True),
    }


def _integer_product(file: VectorFile) -> dict[str, Kernel]:
    """Sums of products: what is done to the operands, the padding and the sum."""
    right = derivations(file.op, {**file.inputs, **file.outputs}, {})["onnx"].fast
    left, other = file.inputs

    def changed(**zero: Any) -> Kernel:
        return lambda params, inputs: right({**params, **zero}, inputs)

    def mirrored(params: Mapping[str, Any], inputs: Named) -> Named:
        pattern = inputs[other]
        turned = pattern[..., ::-1, ::-1] if pattern.ndim == 4 else pattern[::-1]
        return right(params, {**inputs, other: np.ascontiguousarray(turned)})

    def other_sign(key: str) -> Kernel:
        return lambda params, inputs: right(params, {**inputs, key: inputs[key] ^ np.uint8(128)})

    def wrapped(params: Mapping[str, Any], inputs: Named) -> Named:
        sums = right(params, inputs)["y"].view("i4")
        return {"y": sums.astype("i2").astype("i4").view("u4")}

    found = {
        f"zero point of {left} ignored": changed(**{f"{left}_zero_point": 0}),
        f"zero point of {other} ignored": changed(**{f"{other}_zero_point": 0}),
        "right operand turned round": mirrored, f"{left} of the other sign": other_sign(left),
        f"{other} of the other sign": other_sign(other),
        "one too many": lambda params, inputs: {"y": right(params, inputs)["y"] + np.uint32(1)},
    }
    if all(not np.any(g.params[f"{other}_zero_point"]) for g in file.groups):
        del found[f"zero point of {other} ignored"]
    if file.op == "matmul_integer":
        found["sums of 16 bits"] = wrapped
        if (file.inputs[left], file.inputs[other]) == ("uint8", "int8"):
            found["pairs saturate in int16"] = _saturating_pairs
    else:
        found |= _wrong_windows(right)
    return found


def _saturating_pairs(params: Mapping[str, Any], inputs: Named) -> Named:
    a, b = values(inputs["a"], "uint8").astype(np.int64), values(inputs["b"], "int8").astype(
        np.int64) - np.asarray(params["b_zero_point"])
    terms = (a - params["a_zero_point"])[:, :, None] * b[None]
    terms = np.pad(terms, [(0, 0), (0, terms.shape[1] % 2), (0, 0)])
    pairs = np.clip(terms[:, ::2] + terms[:, 1::2], -(2**15), 2**15 - 1)
    return {"y": pairs.sum(axis=1).astype("i4").view("u4")}


def _wrong_windows(right: Kernel) -> dict[str, Kernel]:
    def padded_with_code_0(params: Mapping[str, Any], inputs: Named) -> Named:
        top, left, bottom, after = np.asarray(params["pads"]).tolist()
        x = np.pad(inputs["x"], [(0, 0), (0, 0), (top, bottom), (left, after)])
        return right({**params, "pads": np.zeros(4, np.int64)}, {**inputs, "x": x})

    def exchanged(key: str, order: list[int]) -> Kernel:
        return lambda params, inputs: _of_shape(right, {
            **params, key: np.asarray(params[key])[order]}, inputs)

    return {"padded with code 0": padded_with_code_0,
            "strides exchanged": exchanged("strides", [1, 0]),
            "dilations exchanged": exchanged("dilations", [1, 0]),
            "pads exchanged": exchanged("pads", [2, 3, 0, 1])}


def _of_shape(right: Kernel, params: Mapping[str, Any], inputs: Named) -> Named:
    """An answer, or a code 0 where the kernel does not fit the data."""
    try:
        return right(params, inputs)
    except ValueError:
        return {"y": np.zeros((), "u1")}


def _qlinear(file: VectorFile) -> dict[str, Kernel]:
    """Sums brought back to codes: the mistakes of both."""
    types = {**file.inputs, **file.outputs}
    right = derivations(file.op, types, {})["onnx"].fast
    left, other = list(file.inputs)[:2]
    low, high = _affine.RANGES[file.outputs["y"]]
    sums_of = derivations("conv_integer" if "conv" in file.op else "matmul_integer",
                          {**types, "y": "int32"}, {})["onnx"].fast

    def kernel(rounding: Any = half_even, *, first: bool = False, wraps: bool = False,
               narrow: int = 0, biased: bool = True, scaled: Any = lambda m: m) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            sums = sums_of(params, inputs)["y"].view("i4").astype(np.int64)
            if biased and "bias" in inputs:
                sums = sums + values(inputs["bias"], "int32").reshape(1, -1, 1, 1)
            a, b, y = (values(params[f"{k}_scale"], "float32") for k in (left, other, "y"))
            b = b.reshape(-1, 1, 1) if b.ndim and "conv" in file.op else b
            z = params["y_zero_point"]
            steps = sums.astype(F32) * scaled(a * b / y)
            whole = _whole(rounding(steps + F32(z))) if first else _whole(rounding(steps)) + z
            return {"y": _pattern(whole if wraps else np.clip(whole, low + narrow, high), "uint8")}
        return answer

    def changed(params_of: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> Kernel:
        return lambda params, inputs: right({**params, **params_of(params)}, inputs)

    found = {
        "ties away": kernel(half_away), "truncated": kernel(toward_zero),
        "rounded down": kernel(floor), "zero point first": kernel(first=True),
        "wraps": kernel(wraps=True),
        "bfloat16 multiplier": kernel(scaled=_bfloat16),
        f"zero point of {left} ignored": changed(lambda p: {f"{left}_zero_point": 0}),
        "zero point of y ignored": changed(lambda p: {"y_zero_point": 0}),
        "scales in reverse": changed(lambda p: {
            f"{other}_scale": np.flip(p[f"{other}_scale"]).copy()}),
    }
    if "conv" in file.op:
        for unseen in ("bfloat16 multiplier", "wraps"):
            del found[unseen]
        found |= {"bias forgotten": kernel(biased=False), **_wrong_windows(right)}
    else:
        found["narrow range"] = kernel(narrow=1)
        found["as exact"] = derivations(file.op, types, {})["exact"].fast
        if (file.inputs[left], file.inputs[other]) == ("uint8", "int8"):
            found["pairs saturate in int16"] = lambda params, inputs: _codes_of_pairs(
                params, inputs, low, high)
    return found


def _codes_of_pairs(params: Mapping[str, Any], inputs: Named, low: int, high: int) -> Named:
    sums = _saturating_pairs(params, inputs)["y"].view("i4")
    a, b, y = (values(params[f"{k}_scale"], "float32") for k in "aby")
    codes = np.clip(_whole(np.rint(sums.astype(F32) * (a * b / y))) + params["y_zero_point"],
                    low, high)
    return {"y": _pattern(codes, "uint8")}


def _dynamic(file: VectorFile) -> dict[str, Kernel]:
    def kernel(rounding: Any = half_even, *, widen: bool = True, steps: int = 255,
               zero: float = 1.0, start: Any = half_even, first: bool = False,
               reciprocal: bool = False) -> Kernel:
        def answer(params: Mapping[str, Any], inputs: Named) -> Named:
            x = values(inputs["x"], "float32")
            low, high = x.min(), x.max()
            if widen:
                low, high = min(low, F32(0)), max(high, F32(0))
            s = F32((high - low) / F32(steps)) if high > low else F32(zero)
            z = start(np.clip(F32(0) - low / s, 0, 255))
            ratio = x * (F32(1) / s) if reciprocal else x / s
            whole = rounding(ratio + z) if first else rounding(ratio) + z
            return {"y": _pattern(np.clip(_whole(whole), 0, 255), "uint8"),
                    "scale": np.array(s, F32).view(np.uint32),
                    "zero_point": _pattern(_whole(z), "uint8")}
        return answer

    return {
        **_others(file, "onnx.reference"), "ties away": kernel(half_away),
        "ties up": kernel(half_up), "truncated": kernel(toward_zero),
        "zero point away": kernel(start=half_away), "256 steps": kernel(steps=256),
        "range not widened": kernel(widen=False), "zero range gives 0.1": kernel(zero=0.1),
        "zero point first": kernel(first=True), "reciprocal": kernel(reciprocal=True),
    }


MAKERS: Mapping[str, Callable[[VectorFile], dict[str, Kernel]]] = {
    "quantize_affine": _affine_quantize, "dequantize_affine": _affine_dequantize, "cast": _cast,
    "quantization_parameters": _parameters, "requantize": _requantize, "pack": _packing,
    "unpack": _packing, "quantize_mx": _mx, "dequantize_mx": _mx_decode, "quantize_nvfp4": _nvfp4,
    "quantize_ggml": _ggml, "dequantize_ggml": _ggml_decode, "quantize_nf4": _nf4,
    "dequantize_nf4": _nf4_decode, "stochastic_bfloat16": _stochastic_bfloat16,
    "quantize_affine_float16": _half_quantize, "stochastic_integer": _stochastic_integer,
    "fake_quantize": _fake_quantize, "requantize_affine": _rescale, "dynamic_quantize": _dynamic,
    "matmul_integer": _integer_product, "conv_integer": _integer_product,
    "qlinear_matmul": _qlinear, "qlinear_conv": _qlinear,
    **dict.fromkeys(_layers.TYPES, layer_mutations), "requantize_16x8": wide_mutations,
}  # fmt: skip
