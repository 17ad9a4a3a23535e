"""Affine quantization and its inverse: ties, near ties, ends, odd scales, boundary pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant.integer import dialects as runtimes
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Kernel, Named, Operation, document
from refquant.oracle._exact import F32, Number
from refquant.rounding import half_away

TINY = 0x00800000                           # the smallest normal float32
PARAMS = {"scale": "float32", "zero_point": "int", "qmin": "int", "qmax": "int"}
GRANULAR = {**PARAMS, "granularity": "text", "axis": "int", "block_size": "int"}

#: Code range of each type.
RANGES: Mapping[str, tuple[int, int]] = {
    "int8": (-128, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15),
    "int2": (-2, 1), "uint2": (0, 3), "int16": (-32768, 32767), "uint16": (0, 65535),
}  # fmt: skip


class Grid(NamedTuple):
    """What a kernel reads of `Uniform`, without its refusal of levels beyond float32."""

    scale: Array
    zero_point: Array
    qmin: int
    qmax: int


_SAME = {"precision": "float32", "clamp": "before the cast", "nan": "unspecified",
         "inf": "saturate", "subnormals": "gradual"}  # fmt: skip


def _axes(scaling: str, zero_point: str, tie: str, **other: str) -> dict[str, str]:
    return {"scaling": scaling, "zero_point": zero_point, "tie": tie, **_SAME, **other}


def _ratio(x: Number, s: Number) -> Number:
    return F32.rounded(exact.quotient(x, s))


def _times_reciprocal(x: Number, s: Number) -> Number:
    return F32.rounded(exact.product(x, _ratio(Fraction(1), s)))


def _onnx(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    return _after(exact.integer(_ratio(x, s), round, low - z, high - z), z)


def _decomposed(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    return _after(exact.integer(_times_reciprocal(x, s), round, low - z, high - z), z)


def _fbgemm(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    fused = exact.total(exact.product(x, _ratio(Fraction(1), s)), Fraction(z))
    return exact.integer(F32.rounded(fused), round, low, high)


def _tflite(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    return _after(exact.integer(_ratio(x, s), exact.half_away, low - z, high - z), z)


def _xnnpack(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    if s < Fraction(2) ** -126:
        return None
    # Its delegate turns subnormal numbers off: 2**127 has no reciprocal but 0.
    product = exact.product(_flushed(x), _flushed(_ratio(Fraction(1), s)))
    return _after(exact.integer(F32.rounded(product), round, low - z, high - z), z)


def _flushed(x: Number) -> Number:
    """Zero in the place of a subnormal float32."""
    return Fraction(0) if isinstance(x, Fraction) and abs(x) < Fraction(2) ** -126 else x


def _brevitas(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    return exact.integer(F32.rounded(exact.total(_ratio(x, s), Fraction(z))), round, low, high)


def _aimet(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    if x is None:
        return None
    bottom, top = F32.rounded(s * (low - z)), F32.rounded(s * (high - z))
    inside = _ratio(min(max(x, bottom), top), s)
    steps = F32.rounded(exact.total(inside, Fraction(z - low)))
    code = exact.integer(steps, exact.half_away, 0, high - low)
    return _after(code, low)


def _exactly(x: Number, s: Number, z: int, low: int, high: int) -> int | None:
    return _after(exact.integer(exact.quotient(x, s), round, low - z, high - z), z)


def _after(code: int | None, z: int) -> int | None:
    return None if code is None else code + z


def _xnnpack_flushing(x: Array, quantizer: Grid) -> Array:
    """The kernel with subnormal numbers off; of scales that it refuses, any answer."""
    s = quantizer.scale.astype(np.float32)
    with np.errstate(all="ignore"):
        reciprocal = _without_subnormals(1 / s)
        whole = np.rint(_without_subnormals(x) * reciprocal)
        codes = np.clip(whole + quantizer.zero_point.astype(np.float32),
                        quantizer.qmin, quantizer.qmax)
        return np.where(np.isnan(codes), 0, codes).astype(int)


def _without_subnormals(x: Array) -> Array:
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.float32(0), x)


def _tflite_saturating(x: Array, quantizer: Grid) -> Array:
    """The reference kernel with its cast to int32 as it is meant, not as C leaves it open."""
    with np.errstate(all="ignore"):
        whole = half_away(x / quantizer.scale.astype(np.float32))
        whole = np.where(np.isnan(whole), np.float32(0), whole)
        # A bound before adding: beyond 2**24 the sum would round, and matters no more.
        whole = np.clip(whole, np.float32(-(2.0**23)), np.float32(2.0**23))
        return np.clip(whole + quantizer.zero_point, quantizer.qmin, quantizer.qmax).astype(int)


#: name: formula, who follows it, axes, exact rule, NumPy rule
_RULES: Mapping[str, tuple[str, str, dict[str, str], Callable[..., int | None], Any]] = {
    "onnx": ("sat(rne(f32(x / s)) + z)", "ONNX QuantizeLinear since opset 10; onnxruntime CPU",
             _axes("div", "after_round", "even"), _onnx, runtimes.ONNXRUNTIME.encode),
    "torch.decomposed": (
        "sat(rne(f32(x * f32(1 / s))) + z)",
        "torch quantized_decomposed, torch.fake_quantize, torchao quantize_affine",
        _axes("mul_recip", "after_round", "even"), _decomposed, runtimes.TORCH_DECOMPOSED.encode),
    "torch.fbgemm": (
        "sat(rne(f32(x * f32(1 / s) + z))), product and sum fused",
        "torch.quantize_per_tensor on x86",
        _axes("fma_recip_zp", "before_round", "even"), _fbgemm, runtimes.TORCH_QUANTIZE.encode),
    "tflite.reference": (
        "sat(half_away(f32(x / s)) + z)", "TensorFlow Lite and LiteRT reference kernels",
        _axes("div", "after_round", "away"), _tflite, _tflite_saturating),
    "xnnpack": (
        "sat(rne(f32(x * f32(1 / s))) + z); subnormal x and 1 / s are 0, subnormal s is refused",
        "XNNPACK, LiteRT's default",
        _axes("mul_recip", "after_round", "even", subnormals="ftz_in, scale refused"), _xnnpack,
        None),
    "brevitas": (
        "rne(sat(f32(f32(x / s) + z)))", "Brevitas IntQuant, QONNX Quant with ROUND",
        _axes("div", "before_round", "even", clamp="before rounding"), _brevitas,
        runtimes.BREVITAS.encode),
    "aimet": (
        "half_away(f32(f32(clip(x, f32(s * (qmin - z)), f32(s * (qmax - z))) / s) + (z - qmin))) "
        "+ qmin", "AIMET's compiled CPU quantizer, nearest: aimet-onnx; aimet-torch is as onnx",
        _axes("div", "before_round", "away", clamp="of the data"), _aimet, runtimes.AIMET.encode),
    "exact": (
        "sat(rne(x / s) + z), nothing rounded on the way", "the definition in real numbers",
        _axes("exact", "after_round", "even", precision="unbounded"), _exactly,
        runtimes.EXACT.encode),
}  # fmt: skip


def quantizer(params: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """Scale and zero point of a group, spread over data of a shape."""
    scale = vectors.values(params["scale"], "float32")
    zero_point = np.asarray(params["zero_point"])
    granularity = params.get("granularity", "per_tensor")
    if granularity == "per_axis":
        along = [1] * len(shape)
        along[params["axis"]] = -1
        scale, zero_point = scale.reshape(along), zero_point.reshape(along)
    elif granularity == "per_block":
        scale, zero_point = (
            np.repeat(p, params["block_size"], params["axis"]).take(
                range(shape[params["axis"]]), params["axis"])
            for p in (scale, zero_point))
    return Grid(np.array(scale), np.array(zero_point), params["qmin"], params["qmax"])


def with_encode(encode: Any, out: str) -> Kernel:
    """Kernel on bits, of an encoder on numbers."""
    width = f"u{vectors.DTYPES[out]}"

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named:
        x = vectors.values(inputs["x"], "float32")
        codes = np.asarray(encode(x, quantizer(params, x.shape)))
        return {"q": (codes.astype(np.int64) & (256 ** vectors.DTYPES[out] - 1)).astype(width)}

    return kernel


def _elementwise(rule: Callable[..., int | None], out: str) -> Callable[..., Named | None]:
    """Exact rule for one number, over the elements of an array."""
    modulus = 256 ** vectors.DTYPES[out]

    def kernel(params: Mapping[str, Any], inputs: Named) -> Named | None:
        x = inputs["x"]
        q = quantizer(params, x.shape)
        scale = np.broadcast_to(vectors.bits(q.scale), x.shape)
        zero = np.broadcast_to(q.zero_point, x.shape)
        codes = [
            rule(F32.number(int(u)), F32.number(int(s)), int(z), q.qmin, q.qmax)
            for u, s, z in zip(x.ravel(), scale.ravel(), zero.ravel(), strict=True)]
        if None in codes:
            return None
        patterns = [code % modulus for code in codes if code is not None]
        return {"q": np.array(patterns, f"u{vectors.DTYPES[out]}").reshape(x.shape)}

    return kernel


@cache
def quantize_derivations(out: str) -> dict[str, Derivation]:
    """Dialects of affine quantization, for codes of a type."""
    found = {}
    for name, (formula, followed_by, axes, rule, encode) in _RULES.items():
        fast = with_encode(encode or _xnnpack_flushing, out)
        found[name] = Derivation(formula, followed_by, axes, _elementwise(rule, out), fast)
    return found


def _f(x: float) -> int:
    """Bits of the float32 nearest to a number of Python."""
    return int(np.float32(x).view(np.uint32))


def _scalar(bits: int, *flags: str) -> Draft:
    return Draft({"x": np.array(bits, np.uint32)}, flags)


def _neighbours(bits: int, steps: int) -> list[int]:
    """A float32 and those up to some units in the last place away, of the same sign."""
    return [bits + k for k in range(-steps, steps + 1) if (bits + k) >> 31 == bits >> 31
            and bits + k & 0x7FFFFFFF < 0x7F800000]


def _tie_point(scale: int, code: int) -> int:
    """Bits of the float32 nearest to ``(code + 1/2) * s``, by exact arithmetic."""
    s = F32.number(scale)
    return F32.bits(F32.rounded(s * (code + Fraction(1, 2))))


def near_ties(scale: int, zero_point: int, low: int, high: int, *, each: int = 2) -> list[int]:
    """Inputs on which the dialects part, found where alone they can: beside the ties.

    Division and multiplication by a reciprocal differ only within 1.5 units in the last
    place of a tie. Of each way to part, the first `each` are kept.
    """
    found: dict[tuple[int | None, ...], list[int]] = {}
    candidates = [
        u for code in range(low - zero_point, high - zero_point)
        for u in _neighbours(_tie_point(scale, code), 2)]
    q: Any = Grid(vectors.values(np.array(scale, np.uint32), "float32"), np.array(zero_point),
                  low, high)
    x = np.array(candidates, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        columns = [np.asarray(encode(x, q)) for _, _, _, _, encode in _RULES.values() if encode]
    for u, *codes in zip(candidates, *columns, strict=True):
        pattern = tuple(int(c) - int(codes[0]) for c in codes)
        if any(pattern):
            found.setdefault(pattern, []).append(u)
    return [u for same in found.values() for u in same[:each]]


def _group(scale: int, z: int, ends: tuple[int, int], comment: str) -> Drafts:
    params = {"scale": np.array(scale, np.uint32), "zero_point": z, "qmin": ends[0],
              "qmax": ends[1], "granularity": "per_tensor"}
    return Drafts(params, comment)


def _unit_scale(ends: tuple[int, int]) -> Drafts:
    low, high = ends
    group = _group(_f(1), 0, ends, "unit scale, zero point 0")
    small = [v for v in (3, -7.25, 1, -1, 0.25, 100.5) if low <= v <= high]
    ties = [v for v in (0.5, 1.5, 2.5, -0.5, -1.5, -2.5) if low - 1 < v < high + 1]
    group.cases += [_scalar(_f(v), "Basic") for v in small]
    group.cases += [_scalar(_f(v), "Tie") for v in ties]
    group.cases += [_scalar(_f(0.5) + k, "NearTie") for k in (1, -1)]
    group.cases += [_scalar(_f(high - 0.5), "Tie", "Saturate"),
                    _scalar(_f(high + 0.5), "Tie", "Saturate"),
                    _scalar(_f(low - 0.5), "Tie", "Saturate"),
                    _scalar(_f(high + 1), "Saturate"), _scalar(_f(low - 1), "Saturate"),
                    _scalar(_f(2 * high + 2.0), "Saturate"), _scalar(_f(high), "Saturate"),
                    _scalar(_f(low), "Saturate")]
    group.cases += [_scalar(0x80000000, "NegZero"), _scalar(1, "SubnormalInput"),
                    _scalar(0x807FFFFF, "SubnormalInput")]
    group.cases += [_scalar(_f(v), "HugeInput") for v in (2.0**31, 3e9, -3e9, 1e38)]
    group.cases += [_scalar(0x7F800000, "Infinite"), _scalar(0xFF800000, "Infinite")]
    group.cases += [Draft({"x": np.array(u, np.uint32)}, flags, "unspecified") for u, flags in (
        (0x7FC00000, ("NaN",)), (0xFFC00000, ("NaN", "NaNPayload")),
        (0x7F800001, ("NaN", "NaNPayload")))]
    return group


def _odd_zero_point(ends: tuple[int, int], z: int) -> Drafts:
    low, high = ends
    group = _group(_f(1), z, ends, f"odd zero point {z}")
    ties = [v for v in (0.5, 1.5, -0.5, -1.5, 2.5) if low - 0.5 <= v + z <= high + 0.5]
    group.cases += [_scalar(_f(v), "Tie", "TieOddZp") for v in ties]
    group.cases += [_scalar(_f(v), "Saturate") for v in (high - z, low - z, high - z + 1.0)]
    group.cases.append(_scalar(0x80000000, "NegZero"))
    group.cases += [_scalar(_f(high - z + 0.5), "Tie", "TieOddZp", "Saturate"),
                    _scalar(_f(3e9), "HugeInput"), _scalar(_f(-3e9), "HugeInput"),
                    # The sum in float32 loses the last bit: just below a half becomes a half.
                    _scalar(_f(0.5) - 1, "NearTie"), _scalar(_f(-0.5) - 1, "NearTie")]
    return group


def _zero_point_at_end(ends: tuple[int, int], z: int) -> Drafts:
    low, high = ends
    group = _group(_f(1), z, ends, "zero point at an end of the range")
    inward = 1 if z == low else -1
    group.cases += [_scalar(_f(v), "ZpEnd", *flags) for v, flags in (
        (0.0, ()), (inward, ()), (-inward, ("Saturate",)), (inward * (high - low), ()),
        (inward * (high - low + 0.5), ("Tie", "Saturate")), (inward * 3e9, ("HugeInput",)),
        (-inward * 3e9, ("HugeInput",)), (0.5 * inward, ("Tie",)))]
    group.cases += [_scalar(0x7F800000, "ZpEnd", "Infinite"),
                    _scalar(0xFF800000, "ZpEnd", "Infinite"),
                    _scalar(0x80000000, "ZpEnd", "NegZero")]
    return group


#: Scales on which division, reciprocal and exact arithmetic part.
SCALES = {"0.1": _f(0.1), "1/3": _f(1 / 3), "0.7": _f(0.7), "0.0235": _f(0.0235),
          "0.00214854861": _f(0.00214854861), "next above 1": 0x3F800001}


def _near(ends: tuple[int, int], zero_points: Sequence[int]) -> Iterator[Drafts]:
    for z in zero_points:
        for name, scale in SCALES.items():
            group = _group(scale, z, ends, f"scale {name}: the ways to compute it part")
            low, high = max(ends[0], -300), min(ends[1], 300)
            group.cases += [_scalar(u, "NearTie") for u in near_ties(scale, z, low, high)]
            yield group


def _odd_scales(ends: tuple[int, int]) -> Iterator[Drafts]:
    tiny = _group(1, 0, ends, "scale 2**-149")
    tiny.cases += [_scalar(u, "SubnormalScale", *flags) for u, flags in (
        (0, ()), (1, ("SubnormalInput",)), (3, ("SubnormalInput",)),
        (0x80000002, ("SubnormalInput",)), (_f(1), ("HugeInput",)), (_f(-1), ("HugeInput",)))]
    yield tiny
    half = _group(0x00400000, 0, ends, "scale 2**-127: the reciprocal is 2**127, still finite")
    half.cases += [_scalar(u, "SubnormalScale", *flags) for u, flags in (
        (0x00400000, ("SubnormalInput",)), (0x00800000, ()),
        (0x00200000, ("SubnormalInput", "Tie")), (0x80600000, ("SubnormalInput", "Tie")))]
    yield half
    smallest = _group(TINY, 0, ends, "scale 2**-126, the smallest normal number")
    smallest.cases += [_scalar(u, *flags) for u, flags in (
        (0x00400000, ("SubnormalInput", "Tie")), (0x00400001, ("SubnormalInput", "NearTie")),
        (0x00C00000, ("Tie",)), (0x80400000, ("SubnormalInput", "Tie")))]
    yield smallest
    huge = _group(_f(2.0**127), 0, ends, "scale 2**127: the reciprocal is subnormal")
    huge.cases += [_scalar(u, *flags) for u, flags in (
        (_f(2.0**127), ("ScaleOverflow",)), (_f(2.0**126), ("Tie",)),
        (0x7F7FFFFF, ("ScaleOverflow",)),
        (_f(-(2.0**127)), ("ScaleOverflow",)), (0x7F800000, ("Infinite",)))]
    yield huge


def _rejected(ends: tuple[int, int]) -> Iterator[Drafts]:
    for bits, word in ((0, "zero"), (0x80000000, "minus zero"), (_f(-1), "negative"),
                       (0x7F800000, "infinite"), (0x7FC00000, "NaN")):
        group = _group(bits, 0, ends, f"scale {word}")
        group.cases.append(Draft({"x": np.array(_f(1), np.uint32)}, ("BadScale",), "reject",
                                 "the scale must be positive and finite"))
        yield group
    for z in (ends[1] + 1, ends[0] - 1):
        group = _group(_f(1), z, ends, "zero point outside the range")
        group.cases.append(Draft({"x": np.array(_f(1), np.uint32)}, ("BadZeroPoint",), "reject",
                                 "the zero point must be a code"))
        yield group


def quantize_document(out: str) -> dict[str, Any]:
    """Vectors of one number each, the scale that of the tensor."""
    ends = RANGES[out]
    middle = (ends[0] + ends[1]) // 2 | 1                   # odd, inside
    groups = [_unit_scale(ends), _odd_zero_point(ends, 1), _odd_zero_point(ends, middle),
              _zero_point_at_end(ends, ends[0]), _zero_point_at_end(ends, ends[1]),
              *_near(ends, (0, middle)), *_odd_scales(ends), *_rejected(ends)]
    operation = Operation("quantize_affine", {"x": "float32"}, GRANULAR, {"q": out})
    return document(f"quantize_affine.float32.{out}", operation, quantize_derivations(out), "onnx",
                    groups)


def granular_document(out: str) -> dict[str, Any]:
    """Vectors of small arrays: a scale for each index of an axis, or for each block."""
    ends = RANGES[out]
    operation = Operation("quantize_affine", {"x": "float32"}, GRANULAR, {"q": out})
    return document(f"quantize_affine.float32.{out}.granular", operation,
                    quantize_derivations(out), "onnx", _granular(ends, _array_of_floats))


def _array_of_floats(shape: tuple[int, ...], scale: Array, zero_point: Array) -> Array:
    """Ties in every place, a different code in each: a wrong axis or order shows."""
    count = int(np.prod(shape))
    steps = (np.arange(count) % 7 - 3 + 0.5 * (np.arange(count) % 2)).reshape(shape)
    return (steps * scale).astype(np.float32).view(np.uint32)


def _granular(
    ends: tuple[int, int], fill: Callable[[tuple[int, ...], Array, Array], Array], key: str = "x"
) -> Iterator[Drafts]:
    low, high = ends
    zeros = np.array([0, 1, high, low])
    scales = np.array([1, 0.5, 0.1, 4], np.float32)
    for shape, axis in (((4, 3), 0), ((3, 4), 1), ((2, 4, 3), 1), ((4, 17), 0), ((4, 0), 0),
                        ((0, 4), 1)):
        along = [1] * len(shape)
        along[axis] = 4
        bits = fill(shape, scales.reshape(along), zeros.reshape(along))
        yield Drafts(
            {"scale": scales.view(np.uint32), "zero_point": zeros, "qmin": low, "qmax": high,
             "granularity": "per_axis", "axis": axis},
            f"a scale for each index of axis {axis} of {shape}",
            [Draft({key: bits}, ("EmptyInput",) if not bits.size else ("Placement",))])
    for shape, axis, block in (((2, 6), 1, 3), ((6, 2), 0, 3), ((2, 7), 1, 4), ((1, 33), 1, 32)):
        blocks = list(shape)
        blocks[axis] = -(-shape[axis] // block)
        pick = np.arange(int(np.prod(blocks))).reshape(blocks) % 4
        spread = [np.repeat(p[pick], block, axis).take(range(shape[axis]), axis)
                  for p in (scales, zeros)]
        yield Drafts(
            {"scale": scales[pick].view(np.uint32), "zero_point": zeros[pick], "qmin": low,
             "qmax": high, "granularity": "per_block", "axis": axis, "block_size": block},
            f"blocks of {block} along axis {axis} of {shape}",
            [Draft({key: fill(shape, *spread)},
                   ("Placement", "OddLength") if shape[axis] % block else ("Placement",))])


#: Scale and zero point of each setting of a boundary file.
BOUNDARIES: Mapping[str, Sequence[tuple[float, int]]] = {
    "int8": (
        (1, 0), (1, 1), (0.1, 3), (1 / 3, -128), (0.7, 5), (0.0235, -77), (0.00214854861, 3),
        (100.1, -1), (1.00000012, 0), (2.0**-126, 1)),
    "uint8": ((0.1, 128), (0.0235, 3)),
    "int4": ((1, 0), (0.1, 1), (1 / 3, 0), (0.7, -8), (0.7, 3), (0.0235, 0), (0.00214854861, 7),
             (100.1, -1), (1.00000012, 1), (2.0**-126, 1)),
    "uint4": ((1, 8), (0.1, 7), (1 / 3, 0), (0.7, 15), (0.0235, 3), (0.00214854861, 8),
              (100.1, 1), (1.00000012, 9)),
    "int16": ((0.1, 1), (1 / 3, 0), (2.0**-15, -32768), (0.0235, 32767)),
    "uint16": ((0.1, 32769), (1 / 3, 0), (0.0235, 65535)),
}  # fmt: skip


def boundary_document(out: str) -> dict[str, Any]:
    """For each setting, the thresholds from both sides: those of a type decide every input.

    Of 16 bits only some, at the ends and around the middle.
    """
    ends = RANGES[out]
    every = np.arange(ends[0] + 1, ends[1] + 1)
    middle = every.size // 2
    targets = every if every.size < 256 else np.concatenate(
        [every[:4], every[middle - 8 : middle + 8], every[-4:]])
    groups = []
    for number, z in BOUNDARIES[out]:
        scale = _f(number)
        group = _group(scale, z, ends, "the last input below each threshold, and the first above")
        first = _thresholds(scale, z, *ends, targets)
        pairs = np.stack([first - 1, first], axis=1).ravel()
        group.cases.append(Draft({"x": _from_ordered(pairs)}, ("Boundary",)))
        groups.append(group)
    operation = Operation("quantize_affine", {"x": "float32"}, GRANULAR, {"q": out})
    return document(f"quantize_affine.float32.{out}.boundaries", operation,
                    quantize_derivations(out), "onnx", groups)


def _thresholds(scale: int, z: int, low: int, high: int, target: Array) -> Array:
    """Ordered index of the smallest float32 that reaches each code of a target."""
    q: Any = Grid(np.array(scale, np.uint32).view(np.float32), np.array(z), low, high)
    below = np.full(target.size, -0x7F800000, np.int64)      # -Inf gives the lowest code
    above = np.full(target.size, 0x7F800000, np.int64)
    while (above - below > 1).any():
        middle = (below + above) // 2
        x = _from_ordered(middle).view(np.float32)
        reached = runtimes.ONNXRUNTIME.encode(x, q) >= target
        below, above = np.where(reached, below, middle), np.where(reached, middle, above)
    return above


def _from_ordered(index: Array) -> Array:
    """Bits of the float32 numbers that many places above zero."""
    return np.where(index < 0, 0x80000000 - index, index).astype(np.uint32)


# The inverse: one product, and every kernel agrees.


def _dequantized(q: int, s: Number, z: int) -> Number:
    return F32.rounded(F32.rounded(Fraction(q - z)) * s)


def dequantize_derivations(of: str) -> dict[str, Derivation]:
    """Dialects of the inverse; only the exact one keeps more than float32 on the way."""
    modulus, (low, _) = 256 ** vectors.DTYPES[of], RANGES[of]

    def slow(params: Mapping[str, Any], inputs: Named) -> Named:
        codes = inputs["q"]
        q = quantizer(params, codes.shape)
        scale = np.broadcast_to(vectors.bits(q.scale), codes.shape)
        zero = np.broadcast_to(q.zero_point, codes.shape)
        found = []
        for u, s, z in zip(codes.ravel(), scale.ravel(), zero.ravel(), strict=True):
            code = int(u) - modulus if low < 0 and int(u) >= modulus // 2 else int(u)
            value = _dequantized(code, F32.number(int(s)), int(z))
            found.append(F32.bits(value, negative_zero=value == 0 and code < int(z)))
        return {"x": np.array(found, np.uint32).reshape(codes.shape)}

    def normal_scales(params: Mapping[str, Any], inputs: Named) -> Named | None:
        subnormal = (np.asarray(params["scale"]) < TINY).any()      # XNNPACK refuses them
        return None if subnormal else slow(params, inputs)

    every = ["onnx", "torch.decomposed", "torch.fbgemm", "tflite.reference", "xnnpack", "exact"]
    return {name: Derivation(
        "f32(f32(q - z) * s)", "ONNX DequantizeLinear, torch, LiteRT: all kernels agree",
        {"scaling": "mul", "precision": "float32", "zero_point": "before", "subnormals": "gradual"},
        normal_scales if name == "xnnpack" else slow, dequantize_kernel(of)) for name in every}


def dequantize_kernel(of: str) -> Kernel:
    """The library's decoder on bits."""

    def fast(params: Mapping[str, Any], inputs: Named) -> Named:
        codes = vectors.values(inputs["q"], of).astype(np.int64)
        with np.errstate(all="ignore"):
            x = runtimes.ONNXRUNTIME.decode(codes, quantizer(params, codes.shape))
        return {"x": np.asarray(x, np.float32).view(np.uint32)}

    return fast


def dequantize_document(of: str) -> dict[str, Any]:
    """Codes at the ends, around the zero point, and scales at the ends of float32."""
    low, high = ends = RANGES[of]
    width = vectors.DTYPES[of]
    inside = {low, low + 1, high, high - 1, 0, 1, (low + high) // 2, (low + high) // 2 + 1}
    groups = []
    for scale, word in ((_f(1), "1"), (_f(0.1), "0.1"), (_f(1 / 3), "1/3"), (1, "2**-149"),
                        (0x00400001, "above 2**-127"), (_f(1e-40), "1e-40"),
                        (0x7F7FFFFF, "the largest number"), (_f(2.0**125), "2**125")):
        for z in sorted({0, low, high, 1}):
            group = _group(scale, z, ends, f"scale {word}")
            for code in sorted(inside):
                flags = ["Basic"] if scale == _f(1) else []
                flags += ["ZpEnd"] if z in ends and z else []
                flags += ["SubnormalScale"] if scale < TINY else []
                value = F32.number(scale) * (code - z)
                flags += ["ScaleOverflow"] if abs(value) >= Fraction(2) ** 127 else []
                flags += ["SubnormalOutput"] if 0 < abs(value) < Fraction(2) ** -126 else []
                inexact = F32.rounded(value) != value
                flags += ["DoubleRounding"] if inexact and scale >= TINY else []
                pattern = np.array(code % 256**width, f"u{width}")
                group.cases.append(Draft({"q": pattern}, flags or ["Basic"]))
            groups.append(group)
    groups += _granular(ends, lambda shape, s, z: (
        (low + np.arange(int(np.prod(shape))) * 3 % (high - low + 1)) % 256**width
    ).reshape(shape).astype(f"u{width}"), "q")
    operation = Operation("dequantize_affine", {"q": of}, GRANULAR, {"x": "float32"})
    return document(f"dequantize_affine.{of}.float32", operation, dequantize_derivations(of),
                    "onnx", groups)


def documents() -> Iterator[dict[str, Any]]:
    """All files of this group."""
    for out in RANGES:
        yield quantize_document(out)
    for out in ("int8", "uint8", "int4"):
        yield granular_document(out)
    for out in BOUNDARIES:
        yield boundary_document(out)
    for of in RANGES:
        yield dequantize_document(of)
