"""Products of codes: matrix products and convolutions of ONNX, as sums and as codes again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any

import numpy as np

from refquant._types import Array
from refquant.integer import onnx_products as library
from refquant.integer.dialects import EXACT, ONNX_REFERENCE, ONNXRUNTIME, dynamic_quantize
from refquant.oracle import _exact as exact
from refquant.oracle import _parameters, vectors
from refquant.oracle._affine import RANGES
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32, F64
from refquant.quantizers.uniform import Uniform

Params = Mapping[str, Any]
#: Type of the left and of the right operand.
PAIRS = (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8"))
MATMUL = {"a_scale": "float32", "a_zero_point": "int", "b_scale": "float32", "b_zero_point": "int",
          "y_scale": "float32", "y_zero_point": "int"}  # fmt: skip
GEOMETRY = {"strides": "int", "pads": "int", "dilations": "int", "group": "int"}
CONV = {"x_scale": "float32", "x_zero_point": "int", "w_scale": "float32", "w_zero_point": "int",
        "y_scale": "float32", "y_zero_point": "int", **GEOMETRY}  # fmt: skip


def _bits(x: Any) -> Array:
    return np.asarray(x, np.float32).view(np.uint32)


def _codes(pattern: Array, dtype: str) -> Array:
    return np.asarray(vectors.values(np.asarray(pattern), dtype)).astype(np.int64)


# The sums, with Python's integers.


def _matmul_slowly(types: Mapping[str, str], params: Params, inputs: Named) -> Array:
    """Element by element; one zero point of b, or one for each column."""
    a, b = (_codes(inputs[k], types[k]).tolist() for k in ("a", "b"))
    n, inner, m = len(a), np.shape(inputs["a"])[1], np.shape(inputs["b"])[1]
    za = int(params["a_zero_point"])
    zb = np.broadcast_to(params["b_zero_point"], m).tolist()
    sums = [[sum((a[i][t] - za) * (b[t][j] - zb[j]) for t in range(inner)) for j in range(m)]
            for i in range(n)]
    return np.array(sums, object).reshape(n, m)


def _conv_slowly(types: Mapping[str, str], params: Params, inputs: Named) -> Array:
    """Each output is a walk over the kernel; beside the data lies the zero point of x."""
    x, w = (_codes(inputs[k], types[k]) for k in ("x", "w"))
    zx = int(params["x_zero_point"])
    zw = np.broadcast_to(params["w_zero_point"], w.shape[0]).tolist()
    (top, left, bottom, right), group = np.asarray(params["pads"]).tolist(), params["group"]
    strides, dilations = (np.asarray(params[k]).tolist() for k in ("strides", "dilations"))
    count, _, height, width = x.shape
    outs, ins, kh, kw = w.shape
    rows = (height + top + bottom - (kh - 1) * dilations[0] - 1) // strides[0] + 1
    columns = (width + left + right - (kw - 1) * dilations[1] - 1) // strides[1] + 1
    sums = np.zeros((count, outs, rows, columns), object)
    for n, o, i, j in product(*map(range, sums.shape)):
        first = o // (outs // group) * ins
        for c, p, q in product(range(ins), range(kh), range(kw)):
            r = i * strides[0] + p * dilations[0] - top
            s = j * strides[1] + q * dilations[1] - left
            if 0 <= r < height and 0 <= s < width:
                sums[n, o, i, j] += (int(x[n, first + c, r, s]) - zx) * (int(w[o, c, p, q]) - zw[o])
    if "bias" in inputs:
        sums = sums + _codes(inputs["bias"], "int32").astype(object).reshape(1, -1, 1, 1)
    return sums


# From a sum to a code.


def _onnx_code(total: int, scales: Sequence[Fraction], z: int, low: int, high: int) -> int:
    m = _multiplier(scales)
    steps = F32.rounded(exact.product(F32.rounded(Fraction(total)), m))
    return (exact.integer(steps, round, low - z, high - z) or 0) + z


def _reference_code(total: int, scales: Sequence[Fraction], z: int, low: int, high: int) -> int:
    steps = F64.rounded(exact.product(Fraction(total), _multiplier(scales)))
    return exact.integer(F64.rounded(exact.total(steps, Fraction(z))), round, low, high) or 0


def _exact_code(total: int, scales: Sequence[Fraction], z: int, low: int, high: int) -> int:
    left, right, out = scales
    return min(max(round(total * left * right / out) + z, low), high)


def _multiplier(scales: Sequence[Fraction]) -> Any:
    left, right, out = scales
    return F32.rounded(exact.quotient(F32.rounded(left * right), out))


_RULES: Mapping[str, tuple[str, str, dict[str, str], Callable[..., int]]] = {
    "onnx": ("sat(rne(f32(f32(S) * m)) + z), m = f32(f32(sa * sb) / sy)",
             "ONNX QLinearMatMul and QLinearConv, text; onnxruntime CPU",
             {"precision": "float32", "zero_point": "after_round", "tie": "even"}, _onnx_code),
    "onnx.reference": ("rne(sat(f64(f64(S * m) + z))), m = f32(f32(sa * sb) / sy)",
                       "the ReferenceEvaluator of onnx",
                       {"precision": "float64", "zero_point": "before_round", "tie": "even"},
                       _reference_code),
    "exact": ("sat(rne(S * sa * sb / sy) + z)", "the definition in real numbers",
              {"precision": "unbounded", "zero_point": "after_round", "tie": "even"}, _exact_code),
}  # fmt: skip


def _scales_of(params: Params) -> tuple[str, str]:
    return ("a_scale", "b_scale") if "a_scale" in params else ("x_scale", "w_scale")


def _along(op: str, parameter: Any) -> Array:
    """A parameter of the right operand: one for all, or one for each column or channel."""
    found = np.asarray(parameter)
    return found.reshape(-1, 1, 1, 1) if found.ndim and "conv" in op else found


def _slow(op: str, types: Mapping[str, str], rule: Callable[..., int]) -> Callable[..., Named]:
    out, sums_of = types["y"], _conv_slowly if "conv" in op else _matmul_slowly

    def kernel(params: Params, inputs: Named) -> Named:
        sums = sums_of(types, params, inputs)
        if op in ("matmul_integer", "conv_integer"):
            return {"y": np.array([s % 2**32 for s in sums.ravel()], "u4").reshape(sums.shape)}
        left, right = _scales_of(params)
        axis = 1 if "conv" in op else -1
        shape = [1] * sums.ndim
        shape[axis] = -1
        rights = np.broadcast_to(np.asarray(params[right]).reshape(
            shape if np.ndim(params[right]) else ()), sums.shape)
        fixed = [F32.number(int(params[k])) for k in (left, "y_scale")]
        z, (low, high) = int(params["y_zero_point"]), RANGES[out]
        found = [rule(int(s), (fixed[0], F32.number(int(r)), fixed[1]), z, low, high) % 256
                 for s, r in zip(sums.ravel(), rights.ravel(), strict=True)]
        return {"y": np.array(found, "u1").reshape(sums.shape)}

    return kernel


# The same by the library.


def _geometry(params: Params) -> library.ConvGeometry:
    strides, dilations, pads = (
        tuple(np.asarray(params[k]).tolist()) for k in ("strides", "dilations", "pads"))
    return library.ConvGeometry(params["group"], strides, dilations, pads)


def _library_sums(op: str, types: Mapping[str, str], params: Params, inputs: Named) -> Array:
    left, right = ("x", "w") if "conv" in op else ("a", "b")
    a, b = _codes(inputs[left], types[left]), _codes(inputs[right], types[right])
    za, zb = params[f"{left}_zero_point"], _along(op, params[f"{right}_zero_point"])
    if "conv" in op:
        return library.conv_integer(a, b, za, zb, geometry=_geometry(params))
    return library.matmul_integer(a, b, za, zb)


def _integer_fast(op: str, types: Mapping[str, str]) -> Callable[..., Named]:
    def kernel(params: Params, inputs: Named) -> Named:
        return {"y": _library_sums(op, types, params, inputs).astype(np.int64).astype("u4")}

    return kernel


def _onnx_fast(op: str, types: Mapping[str, str]) -> Callable[..., Named]:
    def grid(name: str, dtype: str, params: Params) -> Uniform:
        scale, zero = (_along(op, p) if name in "wb" else np.asarray(p) for p in (
            vectors.values(params[f"{name}_scale"], "float32"), params[f"{name}_zero_point"]))
        return Uniform(scale, zero, *RANGES[dtype])

    def kernel(params: Params, inputs: Named) -> Named:
        left, right = ("x", "w") if "conv" in op else ("a", "b")
        a, b = _codes(inputs[left], types[left]), _codes(inputs[right], types[right])
        grids = grid(left, types[left], params), grid(right, types[right], params)
        y = grid("y", types["y"], params)
        if "conv" in op:
            bias = _codes(inputs["bias"], "int32")
            codes = library.qlinear_conv(a, grids[0], b, grids[1], y, bias,
                                         geometry=_geometry(params))
        else:
            codes = library.qlinear_matmul(a, grids[0], b, grids[1], y)
        return {"y": (codes & 255).astype("u1")}

    return kernel


def _wide_fast(op: str, types: Mapping[str, str], *, first: bool) -> Callable[..., Named]:
    """The evaluator, in float64 and zero point first; or the definition, by a remainder."""
    def kernel(params: Params, inputs: Named) -> Named:
        sums = _library_sums(op, types, params, inputs).astype(np.int64)
        if "bias" in inputs:
            sums = sums + _codes(inputs["bias"], "int32").reshape(1, -1, 1, 1)
        left, right = (vectors.values(params[k], "float32") for k in _scales_of(params))
        right = right.reshape(-1, 1, 1) if right.ndim and "conv" in op else right
        out, z = vectors.values(params["y_scale"], "float32"), int(params["y_zero_point"])
        low, high = RANGES[types["y"]]
        if first:
            codes = np.rint(sums * (left * right / out).astype(np.float64) + z)
            return {"y": (np.clip(codes, low, high).astype(np.int64) & 255).astype("u1")}
        exactly = [_half_even(int(s) * n, d) for s, (n, d) in zip(
            sums.ravel(), _ratios(left, np.broadcast_to(right, sums.shape), out), strict=True)]
        return {"y": (np.clip(np.array(exactly, object) + z, low, high).astype(np.int64) & 255
                      ).astype("u1").reshape(sums.shape)}

    return kernel


def _ratios(left: Array, rights: Array, out: Array) -> Iterator[tuple[int, int]]:
    a, c = float(left).as_integer_ratio(), float(out).as_integer_ratio()
    for right in rights.ravel():
        b = float(right).as_integer_ratio()
        yield a[0] * b[0] * c[1], a[1] * b[1] * c[0]


def _half_even(n: int, d: int) -> int:
    floor, rest = divmod(n, d)
    return floor + (2 * rest > d or (2 * rest == d and floor % 2 == 1))


@cache
def _cached(op: str, types: tuple[tuple[str, str], ...]) -> dict[str, Derivation]:
    named = dict(types)
    if op in ("matmul_integer", "conv_integer"):
        sums = Derivation("sum over k of (a - za) (b - zb), an int32",
                          "ONNX MatMulInteger and ConvInteger", {"precision": "int32"},
                          _slow(op, named, _exact_code), _integer_fast(op, named))
        return {"onnx": sums, "exact": sums}
    fast = {"onnx": _onnx_fast(op, named), "onnx.reference": _wide_fast(op, named, first=True),
            "exact": _wide_fast(op, named, first=False)}
    return {name: Derivation(formula, by, axes, _slow(op, named, rule), fast[name])
            for name, (formula, by, axes, rule) in _RULES.items()}


def derivations(op: str, types: Mapping[str, str]) -> dict[str, Derivation]:
    """Dialects of a product."""
    kept = {k: v for k, v in types.items() if k in ("a", "b", "x", "w", "y", "bias")}
    return _cached(op, tuple(sorted(kept.items())))


# The questions.


def _pattern(shape: tuple[int, ...], dtype: str, seed: int, *, span: int = 256) -> Array:
    """Codes all over the range, another in each place."""
    i = np.arange(int(np.prod(shape)), dtype=np.int64) + seed
    low, high = RANGES[dtype]
    middle = (low + high + 1) // 2
    codes = middle + (i * i * 7 + i * 13 + i // 3) % span - span // 2
    return (codes & 255).astype("u1").reshape(shape)


def _flat(values: Sequence[Any], dtype: str) -> Array:
    return (np.array(values, np.int64) & 255).astype("u1")


def _dot_cases(left: str, right: str, za: int, zb: int, sums: Sequence[int]) -> Iterator[Named]:
    """One sum each, made of two products: 1 * (s - s // 2) + 1 * (s // 2)."""
    for s in sums:
        halves = (s - s // 2, s // 2)
        yield {"a": _flat([[za + 1, za + 1]], left).reshape(1, 2),
               "b": _flat([[zb + halves[0]], [zb + halves[1]]], right).reshape(2, 1)}


def _qlinear_matmul_groups(left: str, right: str, out: str) -> Iterator[Drafts]:
    low, _ = RANGES[out]
    za, zb = (1 if left == "uint8" else -3), (128 if right == "uint8" else 0)
    middle = 128 if out == "uint8" else 0

    def group(scales: Sequence[Any], zy: int, word: str, **other: Any) -> Drafts:
        return Drafts({"a_scale": _bits(scales[0]), "a_zero_point": za, "b_scale": _bits(scales[1]),
                       "b_zero_point": zb, "y_scale": _bits(scales[2]), "y_zero_point": zy,
                       **other}, word)

    for zy in (middle, middle + 1):
        ties = group((0.5, 1, 1), zy, f"half a step for each unit of the sum, y zero point {zy}")
        odd = ("TieOddZp",) if zy % 2 else ()
        ties.cases += [Draft(given, ("Tie", *odd)) for given in _dot_cases(
            left, right, za, zb, (1, 3, 5, -1, -3, 7, 9, -5))]
        ties.cases += [Draft(given, ("Basic",)) for given in _dot_cases(
            left, right, za, zb, (0, 2, -4, 10))]
        yield ties
    for scales in ((0.1, 0.7, 0.14), (0.1, 0.1, 0.02), (1 / 3, 0.1, 0.7)):
        near = group(scales, middle, "scales " + ", ".join(f"{s:.3g}" for s in scales))
        m = [F32.number(int(_bits(s))) for s in scales]
        ratio = m[0] * m[1] / m[2]
        wanted = {int((k + Fraction(1, 2)) / ratio) + d for k in range(-9, 9) for d in (0, 1)}
        near.cases += [Draft(given, ("NearTie",)) for given in _dot_cases(
            left, right, za, zb, sorted(s for s in wanted if abs(s) < 120))]
        yield near
    far = group((1, 1, 1), middle, "sums beyond the codes")
    for shape, seed in (((2, 3, 2), 3), ((1, 4, 3), 50)):
        far.cases.append(Draft({"a": _pattern(shape[:2], left, seed),
                                "b": _pattern(shape[1:], right, seed + 1)}, ("Saturate",)))
    yield far
    exact_ties = group((2.0**-10, 2.0**-9, 2.0**-14), middle + 1, "sums that make ties")
    for seed in (5, 6, 7, 8):
        exact_ties.cases.append(Draft({"a": _pattern((3, 4), left, seed, span=16),
                                       "b": _pattern((4, 3), right, seed + 9, span=16)},
                                      ("Placement",)))
    yield exact_ties
    ends = group((0.25, 0.5, 4), low, "zero points at the ends")
    ends.params = {**ends.params, "a_zero_point": RANGES[left][1], "b_zero_point": RANGES[right][0]}
    for seed in (11, 12):
        ends.cases.append(Draft({"a": _pattern((2, 5), left, seed),
                                 "b": _pattern((5, 2), right, seed)}, ("ZpEnd", "Saturate")))
    yield ends
    zeros = [zb, zb + 1, zb - 1]
    columns = group((0.02, [0.1, 0.05, 0.3], 0.1), middle, "a scale and zero point for each column",
                    b_zero_point=np.array(zeros))
    for seed in (21, 22, 23):
        columns.cases.append(Draft({"a": _pattern((2, 4), left, seed, span=64),
                                    "b": _pattern((4, 3), right, seed, span=64)}, ("Placement",)))
    yield columns
    if (left, right) == ("uint8", "int8"):
        pairs = group((2.0**-7, 2.0**-7, 4), middle, "two products beyond an int16")
        pairs.params = {**pairs.params, "a_zero_point": 0}
        pairs.cases += [Draft(_pairs(n), ("PairOverflow",)) for n in (2, 8, 64)]
        yield pairs
    empty = group((1, 1, 1), middle, "no rows, no columns")
    empty.cases += _empty(left, right)
    yield empty


def _empty(left: str, right: str) -> list[Draft]:
    return [Draft({"a": np.zeros((0, 3), "u1"), "b": _pattern((3, 2), right, 1)}, ("EmptyInput",)),
            Draft({"a": _pattern((2, 3), left, 1), "b": np.zeros((3, 0), "u1")}, ("EmptyInput",))]


def _pairs(n: int) -> Named:
    """255 times 127, and 255 times -128, of which two exceed an int16."""
    return {"a": np.full((2, n), 255, "u1"),
            "b": np.stack([np.full(n, 127), np.full(n, 128)], axis=1).astype("u1")}


def _matmul_integer_groups(left: str, right: str) -> Iterator[Drafts]:
    for za, zb, flag in ((0, 0, "Basic"), (3 if left == "uint8" else -3, 5, "Basic"),
                         (RANGES[left][1], RANGES[right][0], "ZpEnd"),
                         (RANGES[left][0], RANGES[right][1], "ZpEnd")):
        group = Drafts({"a_zero_point": za, "b_zero_point": zb}, f"zero points {za} and {zb}")
        for shape, seed in (((1, 1, 1), 2), ((2, 3, 4), 30), ((3, 5, 1), 31), ((1, 17, 2), 32)):
            group.cases.append(Draft({"a": _pattern(shape[:2], left, seed),
                                      "b": _pattern(shape[1:], right, seed + 5)},
                                     (flag, "Placement") if max(shape) > 1 else (flag,)))
        yield group
    group = Drafts({"a_zero_point": 7, "b_zero_point": np.array([0, 1, 100])},
                   "a zero point for each column")
    for seed in (40, 41):
        group.cases.append(Draft({"a": _pattern((2, 4), left, seed),
                                  "b": _pattern((4, 3), right, seed)}, ("Placement",)))
    yield group
    if (left, right) == ("uint8", "int8"):
        group = Drafts({"a_zero_point": 0, "b_zero_point": 0}, "two products beyond an int16")
        group.cases += [Draft(_pairs(n), ("PairOverflow",)) for n in (2, 4, 8, 32, 64)]
        yield group
    group = Drafts({"a_zero_point": 0, "b_zero_point": 0}, "no rows, no columns")
    group.cases += _empty(left, right)
    yield group


#: Shapes of x and w, strides, pads (top, left, bottom, right), dilations, group.
_CONVOLUTIONS: tuple[tuple[Any, ...], ...] = (
    ((1, 1, 4, 4), (1, 1, 2, 2), (1, 1), (0, 0, 0, 0), (1, 1), 1),
    ((1, 2, 3, 5), (2, 2, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    ((2, 1, 5, 4), (2, 1, 3, 2), (2, 1), (1, 0, 0, 1), (1, 1), 1),
    ((1, 4, 3, 3), (4, 1, 2, 2), (1, 2), (0, 1, 1, 0), (1, 1), 4),
    ((1, 1, 5, 5), (1, 1, 2, 2), (1, 1), (0, 0, 0, 0), (2, 3), 1),
    ((1, 4, 2, 2), (2, 2, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 2),
)


def _conv_groups(left: str, right: str, out: str | None) -> Iterator[Drafts]:
    low, _ = RANGES[left]
    zx, zw = low + 131, (0 if right == "int8" else 120)
    for i, (x, w, strides, pads, dilations, group) in enumerate(_CONVOLUTIONS):
        for per_channel in (False, True) if w[0] > 1 else (False,):
            zeros = np.array([zw + k for k in range(w[0])]) if per_channel else zw
            if per_channel and right == "int8":
                zeros = np.zeros(w[0], np.int64)
            params = {"x_zero_point": zx, "w_zero_point": zeros, "strides": np.array(strides),
                      "pads": np.array(pads), "dilations": np.array(dilations), "group": group}
            if out is not None:
                scale = 0.25 * 2.0 ** np.arange(w[0]) if per_channel else 0.5
                params |= {"x_scale": _bits(0.125), "w_scale": _bits(scale), "y_scale": _bits(2),
                           "y_zero_point": RANGES[out][0] + 129 - i % 2}
            elif per_channel:
                continue                        # no runtime here takes them
            drafts = Drafts(params, f"kernel {w[2]}x{w[3]}, {w[0]} channels, {group} groups"
                            + (", a scale for each channel" if per_channel else ""))
            flags = ["Placement"] + (["Padding"] if any(pads) else [])
            for seed in (60 + i, 81 + i):
                span = 256 if out is None else 32       # small sums, so that ties are many
                given = {"x": _pattern(x, left, seed, span=span),
                         "w": _pattern(w, right, seed + 3, span=32)}
                if out is not None:
                    bias = (np.arange(w[0]) * 37 - 50) * (seed % 2)
                    given["bias"] = bias.astype(np.int64).astype("u4")
                drafts.cases.append(Draft(given, flags))
            yield drafts


def _documents_of_matmul() -> Iterator[dict[str, Any]]:
    for left, right in PAIRS:
        out = left
        operation = Operation("qlinear_matmul", {"a": left, "b": right}, MATMUL, {"y": out})
        yield document(f"qlinear_matmul.{left}.{right}", operation, derivations(
            "qlinear_matmul", {"a": left, "b": right, "y": out}), "onnx",
            _qlinear_matmul_groups(left, right, out))
    for left, right in PAIRS:
        operation = Operation("matmul_integer", {"a": left, "b": right}, {
            "a_zero_point": "int", "b_zero_point": "int"}, {"y": "int32"})
        yield document(f"matmul_integer.{left}.{right}", operation, derivations(
            "matmul_integer", {"a": left, "b": right, "y": "int32"}), "onnx",
            _matmul_integer_groups(left, right))


def _documents_of_conv() -> Iterator[dict[str, Any]]:
    for left, right in (("uint8", "int8"), ("uint8", "uint8")):
        types = {"x": left, "w": right, "bias": "int32"}
        operation = Operation("qlinear_conv", types, CONV, {"y": left})
        yield document(f"qlinear_conv.{left}.{right}", operation,
                       derivations("qlinear_conv", {**types, "y": left}), "onnx",
                       _conv_groups(left, right, left))
        operation = Operation("conv_integer", {"x": left, "w": right}, {
            "x_zero_point": "int", "w_zero_point": "int", **GEOMETRY}, {"y": "int32"})
        yield document(f"conv_integer.{left}.{right}", operation, derivations(
            "conv_integer", {"x": left, "w": right, "y": "int32"}), "onnx",
            _conv_groups(left, right, None))


# Quantization of activations with a range of their own: DynamicQuantizeLinear.


def _dynamic_slowly(rule: Callable[..., Any], *, exactly: bool = False) -> Callable[..., Any]:
    def kernel(params: Params, inputs: Named) -> Named | None:
        x = [F32.number(int(u)) for u in inputs["x"].ravel()]
        if not all(isinstance(v, Fraction) for v in x):
            return None
        found = rule(min(*x, Fraction(0)), max(*x, Fraction(0)), 0, 255)
        if found is None:
            return None
        scale, z = found
        ratios = [exact.quotient(v, scale) for v in x]
        codes = [(exact.integer(r if exactly else F32.rounded(r), round, -z, 255 - z) or 0) + z
                 for r in ratios]
        return {"y": np.array(codes, "u1").reshape(inputs["x"].shape),
                "scale": np.array(F32.bits(scale), "u4"), "zero_point": np.array(z, "u1")}

    return kernel


def _dynamic_fast(runtime: Any) -> Callable[..., Named]:
    def kernel(params: Params, inputs: Named) -> Named:
        found = dynamic_quantize(vectors.values(inputs["x"], "float32"), runtime)
        q = found.quantizer
        return {"y": found.codes.astype("u1"), "scale": _bits(q.scale).reshape(()),
                "zero_point": np.asarray(q.zero_point).astype("u1").reshape(())}

    return kernel


def _dynamic_exactly(params: Params, inputs: Named) -> Named:
    x = vectors.values(inputs["x"], "float32")
    scale, z = _parameters._exact_parameters(x.min(), x.max(), bits=8, signed=False)
    y = EXACT.encode(x, Uniform(np.asarray(scale), np.asarray(z).astype(int), 0, 255))
    return {"y": y.astype("u1"), "scale": _bits(scale).reshape(()),
            "zero_point": np.asarray(z).astype("u1").reshape(())}


@cache
def dynamic_derivations() -> dict[str, Derivation]:
    """Two evaluators of one operator, which part where there is no range; and the definition."""
    formula = ("s = f32(f32(max - min) / 255), {} without a range; z = rne(clip(f32(-min / s))); "
               "y = sat(rne(f32(x / s)) + z)")
    return {
        "onnx": Derivation(
            formula.format(1), "ONNX DynamicQuantizeLinear as onnxruntime computes it",
            {"zero range": "1", "tie": "even"}, _dynamic_slowly(_parameters._onnx),
            _dynamic_fast(ONNXRUNTIME)),
        "onnx.reference": Derivation(
            formula.format("1 / 255"), "the ReferenceEvaluator of onnx",
            {"zero range": "1/(n-1)", "tie": "even"}, _dynamic_slowly(_parameters._onnx_reference),
            _dynamic_fast(ONNX_REFERENCE)),
        "exact": Derivation(
            "s = f32((max - min) / 255); z = clip(rne(-255 min / (max - min))); "
            "y = sat(rne(x / s) + z)", "the definition in real numbers",
            {"zero range": "left open", "tie": "even"},
            _dynamic_slowly(_parameters._exactly, exactly=True), _dynamic_exactly)}


def dynamic_document() -> dict[str, Any]:
    """Data whose range, zero point and codes fall on ties, and none at all."""
    def data(*numbers: float) -> Array:
        return _bits(numbers)

    cases = [Draft({"x": data(*numbers)}, flags) for numbers, flags in (
        ((0, 2, -3, -2.5, 1.34, 0.5), ("Basic",)), ((-1, -2.1, -1.3, -2.5, -3.34, -4), ("ZpEnd",)),
        ((1, 2.1, 1.3, 2.5, 3.34, 4), ("ZpEnd",)), ((0, 0, 0), ("ZeroRange",)),
        ((-0.0, -0.0), ("ZeroRange", "NegZero")), ((0,), ("ZeroRange",)),
        ((-0.5, 254.5, 0.5, 1.5, 2.5, 3.5), ("Tie",)), ((-1.5, 253.5, 0.5, 7.5), ("Tie",)),
        ((-2.5, 252.5, 0.5, 1.5, -0.5), ("Tie",)),
        ((-4, 251, 0.5, 1.5, 2.5, -0.5), ("Tie",)), ((0, 255, 0.5, 1.5, 2.5), ("Tie", "ZpEnd")),
        ((-1, 254, 0.5, 1.5, -0.5), ("TieOddZp", "Tie")),
        ((-129, 126, 0.5, 1.5, 2.5, -0.5), ("TieOddZp", "Tie")),
        ((0, 25.5, 0.05, 0.15, 0.25, 0.35, 0.45, 12.75), ("NearTie",)),
        ((-8.5, 17, -0.05, 0.05, 0.15, 3.35, 3.45), ("NearTie",)),
        ((0, 17.85, 0.035, 0.105, 0.175, 0.245), ("NearTie",)),
        ((-1e30, 1e30, 1e29), ("HugeInput",)), ((1e38, 0, -1e37), ("HugeInput",)),
        ((1e-30, -1e-30, 5e-31), ("Basic",)), ((0, 1e-36, 1e-45, -0.0), ("SubnormalInput",)))]
    cases += [Draft({"x": data(*numbers)}, (flag,), "unspecified") for numbers, flag in (
        ((1, float("nan"), 3), "NaN"), ((-float("inf"), float("inf")), "Infinite"),
        ((-3e38, 3e38), "ScaleOverflow"), ((1e-45, 3e-45), "SubnormalScale"))]
    operation = Operation("dynamic_quantize", {"x": "float32"}, {},
                          {"y": "uint8", "scale": "float32", "zero_point": "uint8"})
    return document("dynamic_quantize.float32.uint8", operation, dynamic_derivations(), "onnx",
                    [Drafts({}, "all data at once", cases)])


def documents() -> Iterator[dict[str, Any]]:
    """All files of this group."""
    yield from _documents_of_matmul()
    yield from _documents_of_conv()
    yield dynamic_document()
