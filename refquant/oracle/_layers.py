"""Integer layers of .tflite models: sums by whole numbers, requantized as four engines do.

The exact derivations use Python's integers and fractions, walk over windows element by
element, and share no line with the layers of the library, which give the second answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant.integer import pooling
from refquant.integer.convolution import Window, convolution, depthwise_convolution, fully_connected
from refquant.integer.engines import ENGINES
from refquant.integer.layers import NONE
from refquant.oracle import _exact as exact
from refquant.oracle import vectors
from refquant.oracle._document import Derivation, Draft, Drafts, Named, Operation, document
from refquant.oracle._exact import F32, F64
from refquant.oracle._requantize import _fixed, _float, _gemmlowp, _half_up
from refquant.quantizers.uniform import Uniform

Params = Mapping[str, Any]
Rule = Callable[[int, Fraction], "int | None"]
LOW, HIGH, INT32 = -128, 127, 2**31


# Python's integers.


def _number(bits: Any) -> Fraction:
    found = F32.number(int(bits))
    assert isinstance(found, Fraction)
    return found


def _f32(x: Fraction) -> Fraction:
    found = F32.rounded(x)
    assert isinstance(found, Fraction)
    return found


def _f64(x: Fraction) -> Fraction:
    found = F64.rounded(x)
    assert isinstance(found, Fraction)
    return found


def _once64(acc: int, m: Fraction) -> int:
    """Half away of the product in float64."""
    return exact.half_away(_f64(acc * m))


class _Arithmetic(NamedTuple):
    """How one engine brings sums to codes: rule of channel c of n, and the multiplier."""

    rule: Callable[[int, int], Rule]
    multiplier: Callable[[Fraction, Fraction, Fraction, bool], Fraction]


def _m64(x: Fraction, w: Fraction, y: Fraction, single: bool) -> Fraction:
    return _f64(x * w / y)


def _m32(x: Fraction, w: Fraction, y: Fraction, single: bool) -> Fraction:
    return _f32(_f32(x * w) / y)


def _m_linear(x: Fraction, w: Fraction, y: Fraction, single: bool) -> Fraction:
    """LiteRT: one scale of weights is multiplied in float32, several in float64."""
    return _f64(_f32(x * w) / y) if single else _f64(x * w / y)


def _always(rule: Rule) -> Callable[[int, int], Rule]:
    return lambda c, n: rule


def _lanes(width: int) -> Callable[[int, int], Rule]:
    return lambda c, n: _half_up if c < n // width * width else _gemmlowp


_DA, _DU = _Arithmetic(_always(_gemmlowp), _m64), _Arithmetic(_always(_half_up), _m64)
_F32 = _Arithmetic(_always(_float), _m32)
#: Layer -> engine -> arithmetic.
_PRODUCTS: Mapping[str, Mapping[str, _Arithmetic]] = {
    "tflite_conv": {"tflm": _DA, "litert_x86": _DU, "xnnpack": _F32},
    "tflite_depthwise": {"tflm": _DA, "litert_x86": _Arithmetic(_lanes(8), _m64),
                         "xnnpack": _F32},
    "tflite_fully_connected": {
        "tflm": _DA, "litert_ref": _Arithmetic(_always(_once64), _m64),
        "litert_x86": _Arithmetic(_always(_half_up), _m_linear), "xnnpack": _F32},
}  # fmt: skip


def _codes(bits: Any, dtype: str = "int8") -> Array:
    return np.asarray(vectors.values(np.asarray(bits), dtype)).astype(np.int64)


def _packed(codes: Any, shape: tuple[int, ...]) -> Named:
    return {"y": (np.array(codes, np.int64).reshape(shape) & 255).astype("u1")}


def _clip(value: int) -> int:
    return min(max(value, LOW), HIGH)


def _window_sums(params: Params, x: Array) -> tuple[dict[tuple[int, ...], int], tuple[int, ...]]:
    """Sum of each output of a convolution, depthwise or not, and the shape of the output."""
    w, zx = _codes(params["w"]), int(params["x_zero_point"])
    (sv, sh), (top, left, bottom, right) = params["strides"].tolist(), params["pads"].tolist()
    depthwise = w.shape[-1] == 1 and x.shape[-1] > 1
    outs, kh, kw, ins = w.shape
    rows, columns = ((n + a + b - k) // s + 1 for n, a, b, k, s in (
        (x.shape[1], top, bottom, kh, sv), (x.shape[2], left, right, kw, sh)))
    shape: tuple[int, ...] = (x.shape[0], rows, columns, outs)
    sums: dict[tuple[int, ...], int] = {}
    for n, i, j, o in product(*map(range, shape)):
        total = int(np.asarray(params["bias"])[o])
        for p, q, c in product(range(kh), range(kw), range(ins)):
            r, s = i * sv + p - top, j * sh + q - left
            if 0 <= r < x.shape[1] and 0 <= s < x.shape[2]:
                total += int(w[o, p, q, c]) * (int(x[n, r, s, o if depthwise else c]) - zx)
        sums[n, i, j, o] = total
    return sums, shape


def _linear_sums(params: Params, x: Array) -> tuple[dict[tuple[int, ...], int], tuple[int, ...]]:
    w, zx = _codes(params["w"]), int(params["x_zero_point"])
    shape = (x.shape[0], w.shape[0])
    return {(n, o): int(np.asarray(params["bias"])[o]) + sum(
        int(a) * (int(b) - zx) for a, b in zip(w[o], x[n], strict=True))
        for n, o in product(*map(range, shape))}, shape


def _slow_product(op: str, engine: str) -> Callable[[Params, Named], Named | None]:
    arithmetic = _PRODUCTS[op][engine]

    def kernel(params: Params, inputs: Named) -> Named | None:
        x = _codes(inputs["x"])
        sums, shape = (_linear_sums if "connected" in op else _window_sums)(params, x)
        w_scales = np.atleast_1d(params["w_scale"])
        x_scale, y_scale = _number(params["x_scale"]), _number(params["y_scale"])
        found = []
        for place, total in sums.items():
            c = place[-1]
            w_scale = _number(w_scales[c if w_scales.size > 1 else 0])
            m = arithmetic.multiplier(x_scale, w_scale, y_scale, w_scales.size == 1)
            code = arithmetic.rule(c, shape[-1])(total, m)
            if code is None:
                return None
            found.append(_clip(code + params["y_zero_point"]))
        return _packed(found, shape)

    return kernel


def _rescaled(acc: int, m: Fraction) -> int:
    found = _gemmlowp(acc, m)
    assert found is not None
    return found


def _slow_add(engine: str) -> Callable[[Params, Named], Named]:
    def kernel(params: Params, inputs: Named) -> Named:
        a, b = _codes(inputs["a"]), _codes(inputs["b"])
        s = [_number(params[f"{k}_scale"]) for k in "aby"]
        z = [int(params[f"{k}_zero_point"]) for k in "aby"]
        pairs = [(int(p) - z[0], int(q) - z[1]) for p, q in zip(a.flat, b.flat, strict=True)]
        if engine == "xnnpack":
            ratios = [_f32(s[k] / s[2]) for k in (0, 1)]
            shift = 20 - exact.exponent(max(ratios))
            one, two = (round(r * 2**shift) for r in ratios)
            whole = [exact.half_up(Fraction(one * p + two * q, 2**shift)) for p, q in pairs]
        else:
            t = _f32(2 * max(s[0], s[1]))
            last = _f64(t / _f32(2**20 * s[2]))
            whole = [_rescaled(_rescaled(p << 20, _f64(s[0] / t))
                               + _rescaled(q << 20, _f64(s[1] / t)), last) for p, q in pairs]
        return _packed([_clip(v + z[2]) for v in whole], a.shape)

    return kernel


def _slow_multiply(engine: str) -> Callable[[Params, Named], Named | None]:
    def kernel(params: Params, inputs: Named) -> Named | None:
        a, b = _codes(inputs["a"]), _codes(inputs["b"])
        s = [_number(params[f"{k}_scale"]) for k in "aby"]
        z = [int(params[f"{k}_zero_point"]) for k in "aby"]
        m = (_m64 if engine == "tflm" else _m32)(s[0], s[1], s[2], True)
        rule: Rule = _float if engine == "xnnpack" else _gemmlowp
        whole = [rule((int(p) - z[0]) * (int(q) - z[1]), m)
                 for p, q in zip(a.flat, b.flat, strict=True)]
        return _packed([_clip((v or 0) + z[2]) for v in whole], a.shape)

    return kernel


def _slow_average(params: Params, inputs: Named) -> Named:
    """Half of the count more, away from zero, and a quotient cut off towards zero."""
    x = _codes(inputs["x"])
    (sv, sh), (top, left, bottom, right) = params["strides"].tolist(), params["pads"].tolist()
    kh, kw = params["window"].tolist()
    rows, columns = ((n + a + b - k) // s + 1 for n, a, b, k, s in (
        (x.shape[1], top, bottom, kh, sv), (x.shape[2], left, right, kw, sh)))
    shape, found = (x.shape[0], rows, columns, x.shape[3]), []
    for n, i, j, c in product(*map(range, shape)):
        seen = [int(x[n, r, s, c]) for p, q in product(range(kh), range(kw))
                for r, s in [(i * sv + p - top, j * sh + q - left)]
                if 0 <= r < x.shape[1] and 0 <= s < x.shape[2]]
        total, half = sum(seen), len(seen) // 2
        found.append(_clip((abs(total) + half) // len(seen) * (1 if total > 0 else -1)))
    return _packed(found, shape)


def _slow_mean(params: Params, inputs: Named) -> Named:
    """Over rows and columns, the divisor folded into the multiplier."""
    x = _codes(inputs["x"])
    count = x.shape[1] * x.shape[2]
    mantissa, shift = _fixed(_f64(_number(params["x_scale"]) / _number(params["y_scale"])))
    more = min(count.bit_length() - 1, 32, 31 + shift)
    mantissa, shift = (mantissa << more) // count, shift - more
    found = []
    for n, c in product(range(x.shape[0]), range(x.shape[3])):
        total = sum(int(v) for v in x[n, :, :, c].flat) - int(params["x_zero_point"]) * count
        high = _srdhm(total << max(shift, 0), mantissa)
        found.append(_clip(_rdbp(high, max(-shift, 0)) + params["y_zero_point"]))
    return _packed(found, (x.shape[0], 1, 1, x.shape[3]))


# gemmlowp's functions, as their text defines them.


def _srdhm(a: int, b: int) -> int:
    if a == b == -INT32:
        return INT32 - 1
    p = a * b
    nudged = p + (2**30 if p >= 0 else 1 - 2**30)
    return abs(nudged) // INT32 * (1 if nudged >= 0 else -1)


def _rdbp(x: int, e: int) -> int:
    return exact.half_away(Fraction(x, 2**e))


def _saturated(x: int) -> int:
    return min(max(x, -INT32), INT32 - 1)


def _exp_on_quarter(a: int) -> int:
    """Exponential of a Q0.31 number in [-1/4, 0)."""
    x = a + 2**28
    x2 = _srdhm(x, x)
    x3, x4 = _srdhm(x2, x), _srdhm(x2, x2)
    t = _rdbp(_srdhm(_rdbp(x4, 2) + x3, 715827883) + x2, 1)
    return _saturated(1895147668 + _srdhm(1895147668, x + t))


_FACTORS = {-2: 1672461947, -1: 1302514674, 0: 790015084, 1: 290630308, 2: 39332535, 3: 720401,
            4: 242}  # fmt: skip


def _exp(a: int, whole_bits: int) -> int:
    """Exponential of a number not positive with so many integer bits, as Q0.31."""
    if a == 0:
        return INT32 - 1
    fraction = 31 - whole_bits
    quarter = 2 ** (fraction - 2)
    rest = a % quarter - quarter                        # in [-1/4, 0)
    found = _exp_on_quarter(_saturated(rest << whole_bits))
    for j, factor in _FACTORS.items():
        if whole_bits > j and (rest - a) >> (fraction + j) & 1:
            found = _srdhm(found, factor)
    return found


def _newton(a: int) -> int:
    """1 / (1 + a) for a in [0, 1), halved: Q2.29 of 2 / (1 + a) after three steps."""
    d = (a + INT32 - 1 + 1) // 2
    x = 1515870810 + _srdhm(d, -1010580540)
    for _ in range(3):
        x += _saturated(_srdhm(x, 2**29 - _srdhm(d, x)) << 2)
    return x


def _reciprocal(a: int) -> int:
    return _saturated(_newton(a) << 1)


def _slow_softmax(params: Params, inputs: Named) -> Named:
    x = _codes(inputs["x"])
    scale = _f64(_number(params["x_scale"]) * 2**26)
    mantissa, left = _fixed(min(scale, Fraction(INT32 - 1)))
    farthest = -(31 * 2**26 // 2**left)
    rows = []
    for row in x.tolist():
        below = [v - max(row) for v in row]
        powers = [_exp(_srdhm(d << left, mantissa), 5) if d >= farthest else None for d in below]
        total = sum(_rdbp(e, 12) for e in powers if e is not None)
        zeros = 32 - total.bit_length()
        r = _reciprocal((total << zeros) - INT32)
        rows.append([_clip(_rdbp(_srdhm(r, e), 12 - zeros + 23) - 128) if e is not None else LOW
                     for e in powers])
    return _packed(rows, x.shape)


def _slow_sigmoid(kind: str) -> Callable[[Params, Named], Named]:
    def kernel(params: Params, inputs: Named) -> Named:
        x = _codes(inputs["x"])
        mantissa, left = _fixed(_f64(_number(params["x_scale"]) * 2**27))
        radius = int(15 * Fraction(2) ** (27 - left))
        found = []
        for code in x.flat:
            v = int(code) - int(params["x_zero_point"])
            if abs(v) >= radius:
                found.append(HIGH if v > 0 else LOW)
                continue
            a = _rescaled(v, Fraction(mantissa, INT32) * Fraction(2) ** left)
            if kind == "logistic":
                p = _reciprocal(_exp(-abs(a), 4))
                q = 2**30 if a == 0 else p if a > 0 else INT32 - 1 - p
                found.append(_clip(_rdbp(q, 23) - 128))
            else:
                t = _saturated((_newton(_exp(-abs(a), 5)) - 2**29) << 2)
                found.append(_clip(_rdbp(0 if a == 0 else t if a > 0 else -t, 24)))
        return _packed(found, x.shape)

    return kernel


def _slow_leaky(engine: str) -> Callable[[Params, Named], Named]:
    def kernel(params: Params, inputs: Named) -> Named:
        x = _codes(inputs["x"])
        s, t, alpha = (_number(params[k]) for k in ("x_scale", "y_scale", "alpha"))
        z = int(params["x_zero_point"])
        if engine == "tflm":
            up, down = _f64(s / t), _f64(_f64(s * alpha) / t)
        else:
            up, down = _f32(s / t), _f32(_f32(s * alpha) / t)
        found = [_clip(_rescaled(int(v) - z, up if v >= z else down) + params["y_zero_point"])
                 for v in x.flat]
        return _packed(found, x.shape)

    return kernel


# The library.


def _uniform(params: Params, name: str) -> Uniform:
    scale = vectors.values(np.asarray(params[f"{name}_scale"]), "float32")
    zero = np.zeros(scale.shape, np.int32) + int(params.get(f"{name}_zero_point", 0))
    return Uniform(scale, zero, LOW, HIGH)


def _fast_product(op: str, engine: str) -> Callable[[Params, Named], Named]:
    record = ENGINES[engine]
    sums = {"tflite_conv": record.convolution, "tflite_depthwise": record.depthwise,
            "tflite_fully_connected": record.fully_connected}[op]

    def kernel(params: Params, inputs: Named) -> Named:
        x, w, y = (_uniform(params, k) for k in ("x", "w", "y"))
        weight, bias, codes = _codes(params["w"]), np.asarray(params["bias"]), _codes(inputs["x"])
        how: dict[str, Any] = {"rule": sums.narrow.rule, "product": sums.narrow.product}
        if op == "tflite_fully_connected":
            layer = fully_connected(weight, bias, x, w, y, activation=NONE, **how)
        else:
            (top, left, bottom, right), strides = params["pads"].tolist(), params["strides"]
            window = Window(strides=tuple(strides.tolist()),
                            padding=((top, bottom), (left, right)))
            make = convolution if op == "tflite_conv" else depthwise_convolution
            layer = make(weight, bias, x, w, y, window, activation=NONE, **how)
        found = layer(codes)
        return _packed(found, found.shape)

    return kernel


def _fast_binary(function: Callable[..., Array]) -> Callable[[Params, Named], Named]:
    def kernel(params: Params, inputs: Named) -> Named:
        quantizers = [_uniform(params, k) for k in "aby"]
        found = function(_codes(inputs["a"]), _codes(inputs["b"]), *quantizers, activation=NONE)
        return _packed(found, found.shape)

    return kernel


def _fast_average(params: Params, inputs: Named) -> Named:
    (top, left, bottom, right), strides = params["pads"].tolist(), params["strides"]
    window = Window(strides=tuple(strides.tolist()), padding=((top, bottom), (left, right)))
    unit = Uniform(np.array(1.0, np.float32), np.array(0), LOW, HIGH)
    found = pooling.average_pool(_codes(inputs["x"]), tuple(params["window"].tolist()), window,
                                 unit, activation=NONE)
    return _packed(found, found.shape)


def _fast_unary(call: Callable[..., Array], *names: str) -> Callable[[Params, Named], Named]:
    """A function of codes and two quantizers; `names` are further parameters, in float32."""

    def kernel(params: Params, inputs: Named) -> Named:
        rest = {k: float(vectors.values(np.asarray(params[k]), "float32")) for k in names}
        found = call(_codes(inputs["x"]), _uniform(params, "x"), _uniform(params, "y"), **rest)
        return _packed(found, found.shape)

    return kernel


def _mean(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Array:
    return ENGINES["tflm"].mean(x, (1, 2), x_quantizer, y_quantizer, keep=True)


def _softmax(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Array:
    return ENGINES["tflm"].softmax(x, x_quantizer, y_quantizer, beta=1.0)


# The dialects.

_SCALES = {"x_scale": "float32", "x_zero_point": "int", "y_scale": "float32",
           "y_zero_point": "int"}  # fmt: skip
_WEIGHTS = {**_SCALES, "w": "int8", "w_scale": "float32", "bias": "int32"}
_PLACES = {"strides": "int32", "pads": "int32"}
_PAIR = {f"{k}_{what}": kind for k in "aby"
         for what, kind in (("scale", "float32"), ("zero_point", "int"))}  # fmt: skip
#: Operation -> inputs and parameters, with their types.
TYPES: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "tflite_conv": (("x",), {**_WEIGHTS, **_PLACES}),
    "tflite_depthwise": (("x",), {**_WEIGHTS, **_PLACES}),
    "tflite_fully_connected": (("x",), _WEIGHTS),
    "tflite_add": (("a", "b"), _PAIR), "tflite_mul": (("a", "b"), _PAIR),
    "tflite_average_pool": (("x",), {"window": "int32", **_PLACES}),
    "tflite_mean": (("x",), _SCALES), "tflite_softmax": (("x",), _SCALES),
    "tflite_logistic": (("x",), _SCALES), "tflite_tanh": (("x",), _SCALES),
    "tflite_leaky_relu": (("x",), {**_SCALES, "alpha": "float32"}),
}  # fmt: skip

_BY = {"tflm": "TensorFlow Lite Micro", "litert_ref": "LiteRT, reference kernels",
       "litert_x86": "LiteRT, optimized kernels on x86 with AVX", "xnnpack": "XNNPACK"}  # fmt: skip
_RULE_OF = {
    "tflite_conv": {"tflm": "DA", "litert_x86": "DU", "xnnpack": "F32"},
    "tflite_depthwise": {"tflm": "DA", "litert_x86": "DU; last c % 8 channels DA",
                         "xnnpack": "F32"},
    "tflite_fully_connected": {"tflm": "DA", "litert_ref": "F64", "litert_x86": "DU",
                               "xnnpack": "F32"},
    "tflite_add": {"tflm": "DA of both inputs at 2**-20, DA of the sum",
                   "xnnpack": "21-bit multipliers, one shift, ties up"},
    "tflite_mul": {"tflm": "DA", "litert_ref": "DA, multiplier in float32", "xnnpack": "F32"},
    "tflite_average_pool": {"tflm": "sum / count, half away from zero"},
    "tflite_mean": {"tflm": "DA of the sum, the count in the mantissa"},
    "tflite_softmax": {"tflm": "gemmlowp: exp in Q5.26, sum in Q12.19, reciprocal by Newton"},
    "tflite_logistic": {"tflm": "gemmlowp: logistic in Q4.27"},
    "tflite_tanh": {"tflm": "gemmlowp: tanh in Q4.27"},
    "tflite_leaky_relu": {"tflm": "DA", "litert_ref": "DA, multipliers in float32"},
}  # fmt: skip


def _pair(op: str, engine: str) -> tuple[Callable[..., Named | None], Callable[..., Named]]:
    """Both derivations of an operation on an engine."""
    record = ENGINES[engine]
    if op in _PRODUCTS:
        return _slow_product(op, engine), _fast_product(op, engine)
    if op == "tflite_add":
        return _slow_add(engine), _fast_binary(record.add)
    if op == "tflite_mul":
        return _slow_multiply(engine), _fast_binary(record.multiply)
    if op == "tflite_leaky_relu":
        return _slow_leaky(engine), _fast_unary(record.leaky_relu, "alpha")
    return {
        "tflite_average_pool": (_slow_average, _fast_average),
        "tflite_mean": (_slow_mean, _fast_unary(_mean)),
        "tflite_softmax": (_slow_softmax, _fast_unary(_softmax)),
        "tflite_logistic": (_slow_sigmoid("logistic"), _fast_unary(record.logistic)),
        "tflite_tanh": (_slow_sigmoid("tanh"), _fast_unary(record.tanh)),
    }[op]


@cache
def derivations(op: str) -> dict[str, Derivation]:
    """Engines that answer a layer."""
    found = {}
    for engine, rule in _RULE_OF[op].items():
        slow, fast = _pair(op, engine)
        found[engine] = Derivation(rule, _BY[engine], {"rule": rule.split(",")[0]}, slow, fast)
    return found


# The questions.


def _bits(value: Any) -> Array:
    return np.asarray(value, np.float32).view(np.uint32)


def _int8(codes: Any) -> Array:
    return (np.asarray(codes, np.int64) & 255).astype("u1")


def _spread(n: int, step: int) -> Array:
    """Codes that visit the range in an order of their own, the same everywhere."""
    return (np.arange(n) * step + 37) % 256 - 128


def _grid(x: tuple[float, int], y: tuple[float, int]) -> dict[str, Any]:
    return {"x_scale": _bits(x[0]), "x_zero_point": x[1], "y_scale": _bits(y[0]),
            "y_zero_point": y[1]}


def _product_groups(op: str) -> Iterator[Drafts]:
    """Multipliers near one, where the engines part most, with tails of channels."""
    for channels, s_y, top in ((9, 0.2, 5), (3, 0.1, 2), (9, 1.1, 127)):
        x, y = (0.125, -3), (s_y, 7)
        scales = np.float32(0.25) * (1 + np.arange(channels, dtype=np.float32) / 16)
        if top == 127:
            scales = scales[:1]             # one for all channels
        ins = {"tflite_conv": 2, "tflite_depthwise": 1, "tflite_fully_connected": 6}[op]
        kernel = () if op == "tflite_fully_connected" else (2, 2)
        w = _spread(channels * int(np.prod(kernel)) * ins, 91) % (2 * top + 1) - top
        bias = _spread(channels, 53) * 2
        group = Drafts({**_grid(x, y), "w": _int8(w.reshape(channels, *kernel, ins)),
                        "w_scale": _bits(scales), "bias": bias.astype(np.int32)},
                       f"{channels} channels, weights to {top}")
        if kernel:
            group.params = {**group.params, "strides": np.array([1, 2]),
                            "pads": np.array([0, 1, 1, 0])}
        for seed in (11, 45, 77, 149):
            shape = (2, 6) if not kernel else (1, 3, 3, channels if ins == 1 else ins)
            codes = _spread(int(np.prod(shape)), seed).reshape(shape)
            if top < 127:
                codes = codes // 4          # small sums, which nothing clips
            flags = ["Placement", "NearTie" if top < 127 else "Saturate"]
            group.cases.append(Draft({"x": _int8(codes)}, [*flags, "Padding"] if kernel else flags))
        yield group


def _pair_groups() -> Iterator[Drafts]:
    for a, b, y in (((0.5, -3), (0.25, 5), (0.6, 2)), ((0.1, 0), (0.1, 0), (0.2, 1)),
                    ((0.03, -128), (0.007, 127), (0.03, 11)), ((0.05, 4), (1.5, -7), (1.3, -128))):
        group = Drafts({f"{k}_{what}": (_bits(v[0]) if what == "scale" else v[1])
                        for k, v in (("a", a), ("b", b), ("y", y))
                        for what in ("scale", "zero_point")}, f"scales {a[0]}, {b[0]}, {y[0]}")
        for seed in (11, 45, 77, 149, 201):
            one, two = _spread(16, seed), _spread(16, seed + 58)
            group.cases.append(Draft({"a": _int8(one), "b": _int8(two)}, ("Placement",)))
            one, two = (np.clip(v // 16 + z[1], LOW, HIGH) for v, z in ((one, a), (two, b)))
            group.cases.append(Draft({"a": _int8(one), "b": _int8(two)}, ("NearTie",)))
        group.cases.append(Draft({"a": _int8([20, -128, 127, -128, 127, 0]),
                                  "b": _int8([-40, -128, 127, 127, -128, 0])}, ("Saturate",)))
        yield group


def _pool_groups() -> Iterator[Drafts]:
    for window, strides, pads in (([2, 2], [2, 2], [0, 0, 0, 0]), ([3, 3], [1, 1], [1, 1, 1, 1]),
                                  ([1, 4], [1, 2], [0, 1, 0, 2])):
        group = Drafts({"window": np.array(window), "strides": np.array(strides),
                        "pads": np.array(pads)}, f"window {window}, strides {strides}")
        for seed in (11, 45, 77):
            codes = _spread(4 * 4 * 2, seed).reshape(1, 4, 4, 2)
            group.cases.append(Draft({"x": _int8(codes)}, ("Placement", "Padding", "Tie")))
        group.cases.append(Draft({"x": _int8(_spread(32, 3).reshape(1, 4, 4, 2) // 43)}, ("Tie",)))
        yield group


def _unary_groups(op: str) -> Iterator[Drafts]:
    fixed = {"tflite_softmax": (1 / 256, -128), "tflite_logistic": (1 / 256, -128),
             "tflite_tanh": (1 / 128, 0)}  # fmt: skip
    for x, y in (((0.0625, 4), (0.04, -7)), ((0.1, -20), (0.1, 3)), ((0.007, 0), (0.011, -128)),
                 ((0.25, 127), (0.19, 64))):
        if op in fixed:
            y = fixed[op]
        group = Drafts(_grid(x, y), f"scale {x[0]}, zero point {x[1]}")
        if op == "tflite_leaky_relu":
            group.params = {**group.params, "alpha": _bits(0.3)}
        if op == "tflite_softmax":
            rows = ([30, 10, -20], [127, 127, 126, -128, 0], [-128, -128], [5])
            drafts = [(np.array([row]), "Placement") for row in rows]
            drafts += [(_spread(12, s).reshape(2, 6), "Placement") for s in (11, 45, 77)]
        elif op == "tflite_mean":
            drafts = [(_spread(h * w * c, s).reshape(1, h, w, c), "Placement")
                      for s, (h, w, c) in ((11, (2, 3, 4)), (45, (7, 7, 1)), (77, (1, 5, 3)),
                                           (31, (4, 4, 2)))]
            drafts.append((np.full((1, 3, 3, 2), 127), "Saturate"))
        else:
            drafts = [(np.arange(-128, 128)[k::8], "Placement") for k in (0, 3, 5, 6)]
        group.cases += [Draft({"x": _int8(codes)}, (flag,)) for codes, flag in drafts]
        yield group


def layer_document(op: str) -> dict[str, Any]:
    """One file: a layer of int8 codes."""
    inputs, params = TYPES[op]
    operation = Operation(op, dict.fromkeys(inputs, "int8"), params, {"y": "int8"})
    groups = (_product_groups(op) if op in _PRODUCTS else
              _pair_groups() if op in ("tflite_add", "tflite_mul") else
              _pool_groups() if op == "tflite_average_pool" else _unary_groups(op))
    return document(f"{op}.int8", operation, derivations(op), "tflm", groups)


def documents() -> Iterator[dict[str, Any]]:
    """A file for each kind of layer."""
    for op in TYPES:
        yield layer_document(op)
