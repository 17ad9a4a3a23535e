"""Random files of one operator each, with inputs: what the conformance tests run.

A case is a file and the inputs of a few runs in a row; an operator with a state sees them as
time steps. Scales are drawn so that outputs spread over their range and multipliers are
sometimes close to one, where the roundings of the engines part most often.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from _oracles.tflite_builder import TYPES, Operator, Tensor, constant, model

CHANNELS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 24, 33)
RUNS = 3


class Case(NamedTuple):
    """A file, the inputs of each run, and what it is."""

    name: str
    content: bytes
    runs: list[list[np.ndarray]]


def codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: str, high: int = 0) -> Any:
    """All codes alike, or the small ones only."""
    info = np.iinfo(dtype)
    low, top = (max(-high, info.min), high) if high else (info.min, info.max)
    return rng.integers(low, top, shape, dtype, endpoint=True)


def scale_of(rng: np.random.Generator, dtype: str) -> float:
    """Any number; or a short decimal, whose ratios to others lie beside ties."""
    if not rng.integers(3):
        return float(np.float32(rng.choice([0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.06, 0.1])))
    return float(np.float32(2.0 ** rng.uniform(-8, -2) / (256 if dtype == "int16" else 1)))


def zero_of(rng: np.random.Generator, dtype: str) -> int:
    if dtype == "int16":
        return 0
    info = np.iinfo(dtype)
    middle = 0 if info.min else 128
    return int(rng.choice([info.min, middle, int(rng.integers(info.min, info.max))]))


def value(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Tensor:
    return Tensor(shape, dtype, scale_of(rng, dtype), zero_of(rng, dtype))


def _case(rng: np.random.Generator, kind: str, tensors: list[Tensor], options: dict[str, Any],
          version: int, *, feeds: int = 1, inputs: Any = None, runs: int = RUNS) -> Case:
    """The last tensor is the output, the first `feeds` are given."""
    last = len(tensors) - 1
    given = list(range(feeds))
    step = Operator(kind, list(range(last)) if inputs is None else inputs, [last], options, version)
    content = model(tensors, [step], given, [last])
    fed = [[_values(rng, tensors[i]) for i in given] for _ in range(runs)]
    return Case(f"{kind} {tensors[0].dtype}", content, fed)


def _values(rng: np.random.Generator, tensor: Tensor) -> np.ndarray:
    if tensor.dtype == "float32":
        return rng.normal(0, 3, tensor.shape).astype(np.float32)
    high = int(rng.choice([0, 0, 9, 90]))
    return codes(rng, tensor.shape, tensor.dtype, high)


def _output_scale(rng: np.random.Generator, terms: int, weight: int, x: Tensor, s_w: Any) -> float:
    """So that a sum of `terms` products fills the codes of the output, more or less."""
    spread = {"int8": 73, "uint8": 73, "int16": 18000}[x.dtype]
    sums = spread * max(weight / 1.7, 1) * np.sqrt(terms) * x.scale * np.median(s_w)
    return float(np.float32(sums / spread * rng.choice([0.3, 1.0, 2.0]) * rng.uniform(0.7, 1.4)))


def _weighted(rng: np.random.Generator, dtype: str, shape: tuple[int, ...], terms: int,
              channels: int, axis: int, x: Tensor, *, per_channel: bool, wide: bool,
              ) -> tuple[Tensor, Tensor, float]:
    """Weights, bias and the scale of the output."""
    top = int(rng.choice([1, 3, 15, 127]))
    count = channels if per_channel else 1
    s_w = (2.0 ** rng.uniform(-9, -5) * rng.uniform(0.4, 1.6, count)).astype(np.float32)
    weight = constant(codes(rng, shape, "int8", top), "int8", s_w, 0, axis)
    s_o = _output_scale(rng, terms, top, x, s_w)
    room = int(10 * s_o / (x.scale * float(s_w.min()))) + 1
    b = rng.integers(-room, room + 1, channels)
    bias = constant(b, "int64" if wide else "int32", np.float32(x.scale) * s_w, 0, 0)
    return weight, bias, s_o


def _window(rng: np.random.Generator, *, dilate: bool) -> tuple[Any, ...]:
    """Input and output sizes, kernel and the options of a window on an image."""
    size = rng.integers(3, 10, 2)
    kernel = rng.integers(1, 4, 2)
    stride = rng.integers(1, 4, 2)
    dilation = rng.integers(1, 3, 2) if dilate else np.array([1, 1])
    if (dilation > 1).any():                            # XNNPACK and others want one of the two
        stride = np.array([1, 1])
    padding = int(rng.integers(2))
    span = (kernel - 1) * dilation + 1
    if padding and (span > size).any():
        padding = 0
    out = (size - span) // stride + 1 if padding else -(-size // stride)
    options = {"padding": padding, "stride_h": int(stride[0]), "stride_w": int(stride[1]),
               "fused": int(rng.choice([0, 0, 1, 3]))}
    if dilate:
        options |= {"dilation_h": int(dilation[0]), "dilation_w": int(dilation[1])}
    return tuple(map(int, size)), tuple(map(int, out)), tuple(map(int, kernel)), options


def _wide(rng: np.random.Generator, dtype: str, options: dict[str, Any]) -> bool:
    """Whether the bias has 64 bits; for codes of 16 the options have to say which."""
    wide = dtype == "int16" and bool(rng.integers(2))
    if dtype == "int16":
        options["bias_type"] = TYPES["int64" if wide else "int32"]
    return wide


def conv(rng: np.random.Generator, dtype: str) -> Case:
    size, out, kernel, options = _window(rng, dilate=True)
    c_in, c_out, batch = (int(rng.choice(v)) for v in (CHANNELS, CHANNELS, (1, 1, 2)))
    x = value(rng, (batch, *size, c_in), dtype)
    w, b, s = _weighted(rng, dtype, (c_out, *kernel, c_in), kernel[0] * kernel[1] * c_in, c_out, 0,
                        x, per_channel=bool(rng.integers(4)), wide=_wide(rng, dtype, options))
    y = Tensor((batch, *out, c_out), dtype, s, zero_of(rng, dtype))
    bare = not rng.integers(5)
    return _case(rng, "CONV_2D", [x, w, b, y], options, 4 if dtype == "int16" else 3,
                 inputs=[0, 1, -1] if bare else None)


def depthwise(rng: np.random.Generator, dtype: str) -> Case:
    size, out, kernel, options = _window(rng, dilate=True)
    c_in, multiplier, batch = (int(rng.choice(v)) for v in (CHANNELS, (1, 1, 1, 2, 3), (1, 1, 2)))
    channels = c_in * multiplier
    x = value(rng, (batch, *size, c_in), dtype)
    w, b, s = _weighted(rng, dtype, (1, *kernel, channels), kernel[0] * kernel[1], channels, 3, x,
                        per_channel=bool(rng.integers(4)), wide=dtype == "int16")
    y = Tensor((batch, *out, channels), dtype, s, zero_of(rng, dtype))
    options |= {"multiplier": multiplier}
    return _case(rng, "DEPTHWISE_CONV_2D", [x, w, b, y], options, 5 if dtype == "int16" else 3)


def transposed(rng: np.random.Generator, dtype: str) -> Case:
    size, out, kernel, options = _window(rng, dilate=False)
    if options["padding"]:                              # the largest image that gives this
        size = tuple((o - 1) * options[k] + w for o, k, w in
                     zip(out, ("stride_h", "stride_w"), kernel, strict=True))
    c_in, c_out = int(rng.choice(CHANNELS)), int(rng.choice(CHANNELS))
    x = value(rng, (1, *out, c_in), dtype)
    w, b, s = _weighted(rng, dtype, (c_out, *kernel, c_in), kernel[0] * kernel[1] * c_in, c_out, 0,
                        x, per_channel=bool(rng.integers(4)), wide=_wide(rng, dtype, options))
    shape = constant([1, *size, c_out], "int32")
    y = Tensor((1, *size, c_out), dtype, s, zero_of(rng, dtype))
    options["fused"] = 0
    return _case(rng, "TRANSPOSE_CONV", [x, shape, w, b, y], options, 3, inputs=[1, 2, 0, 3])


def dense(rng: np.random.Generator, dtype: str) -> Case:
    terms, channels = int(rng.integers(1, 70)), int(rng.choice(CHANNELS))
    rows: tuple[int, ...] = [(1,), (2,), (5,), (1, 3), (1, 1, 2)][rng.integers(5)]
    x = value(rng, (*rows, terms), dtype)
    per_channel = bool(rng.integers(2))
    keep = bool(rng.integers(2))
    options = {"fused": int(rng.choice([0, 0, 1, 3])), "keep_num_dims": keep}
    w, b, s = _weighted(rng, dtype, (channels, terms), terms, channels, 0, x,
                        per_channel=per_channel, wide=_wide(rng, dtype, options))
    y = Tensor((*rows, channels) if keep else (int(np.prod(rows)), channels), dtype, s,
               zero_of(rng, dtype))
    version = 12 if per_channel else 7 if dtype == "int16" else 5
    bare = not rng.integers(5)
    return _case(rng, "FULLY_CONNECTED", [x, w, b, y], options, version,
                 inputs=[0, 1, -1] if bare else None)


def _elementwise(kind: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, dtype: str) -> Case:
        shape = (1, int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.choice(CHANNELS)))
        thin = [(1, 1, 1, shape[-1]), (*shape[:3], 1), (1, shape[1], 1, shape[-1])]
        other = shape if rng.integers(3) else thin[rng.integers(3)]
        a, b = value(rng, shape, dtype), value(rng, other, dtype)
        if dtype == "int16":                            # LiteRT: all alike, or powers of two
            b = b._replace(scale=float(np.float32(a.scale * rng.uniform(0.2, 4))))
        reach = (18000 if dtype == "int16" else 73) * a.scale * b.scale if kind == "MUL" else (
            max(a.scale, b.scale))
        ratio = rng.choice([0.5, 1, 1.25, 1.5, 2]) if rng.integers(2) else rng.uniform(0.5, 2.5)
        s = float(np.float32(reach * ratio))
        y = Tensor(shape, dtype, s, zero_of(rng, dtype))
        options: dict[str, Any] = {"fused": int(rng.choice([0, 0, 1, 3]))}
        if kind != "MUL":
            options["pot_scale_int16"] = False
        return _case(rng, kind, [a, b, y], options, 2, feeds=2)

    return make


def _pool(kind: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, dtype: str) -> Case:
        size, out, kernel, options = _window(rng, dilate=False)
        channels = int(rng.choice(CHANNELS))
        x = value(rng, (1, *size, channels), dtype)
        y = x._replace(shape=(1, *out, channels))
        options |= {"filter_height": kernel[0], "filter_width": kernel[1]}
        return _case(rng, kind, [x, y], options, 3 if dtype == "int16" else 2)

    return make


def mean(rng: np.random.Generator, dtype: str) -> Case:
    shape = (1, int(rng.integers(1, 9)), int(rng.integers(1, 9)), int(rng.choice(CHANNELS)))
    axes, keep = [([1, 2], True), ([2, 1], True), ([1, 2], False), ([3], True), ([2], False),
                  ([1, 2, 3], True), ([-1], True)][rng.integers(7)]
    x = value(rng, shape, dtype)
    gone = {i % 4 for i in axes}
    kept = [n for i, n in enumerate(shape) if i not in gone]
    out = tuple(1 if i in gone else n for i, n in enumerate(shape)) if keep else tuple(kept)
    ratio = [rng.uniform(0.3, 1.2), 0.5, 2 / 3, 0.8, 4 / 3][rng.integers(5)]    # halves, nearly
    y = Tensor(out, dtype, float(np.float32(x.scale * ratio)), zero_of(rng, dtype))
    return _case(rng, "MEAN", [x, constant(axes, "int32"), y], {"keep": keep}, 2, inputs=[0, 1])


def softmax(rng: np.random.Generator, dtype: str) -> Case:
    ahead: tuple[int, ...] = [(1,), (3,), (1, 2), (1, 2, 2)][rng.integers(4)]
    x = value(rng, (*ahead, int(rng.integers(1, 40))), dtype)
    x = x._replace(scale=float(np.float32(x.scale * rng.choice([1, 4]))))
    out, s, z = ("int16", 1 / 32768, 0) if dtype == "int16" else (
        "int8", 1 / 256, -128) if rng.integers(2) else ("int16", 1 / 65536, -32768)
    if dtype == "int8" and out == "int16" and rng.integers(2):
        out, s, z = "int8", 1 / 256, -128
    beta = float(np.float32(rng.choice([1.0, 1.0, 0.7, 2.5])))
    return _case(rng, "SOFTMAX", [x, Tensor(x.shape, out, s, z)], {"beta": beta}, 2)


def _squash(kind: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, dtype: str) -> Case:
        x = value(rng, (1, 256 if dtype == "int8" else 600), dtype)
        steps = (256, 128) if dtype == "int8" else (32768, 32768)
        s = 1 / steps[kind == "TANH"]
        if dtype == "int16":
            scales = (2.0**-12, 2.0**-11) if kind == "TANH" else (2.0**-12,)
            x = x._replace(scale=float(rng.choice([*scales, x.scale])))
        y = Tensor(x.shape, dtype, s, -128 if (kind, dtype) == ("LOGISTIC", "int8") else 0)
        case = _case(rng, kind, [x, y], {}, 3 if dtype == "int16" else 2)
        if dtype == "int8":
            case.runs[0][0][:] = np.arange(-128, 128)
        return case

    return make


def _clamp(kind: str) -> Callable[[np.random.Generator, str], Case]:
    def make(rng: np.random.Generator, dtype: str) -> Case:
        x = value(rng, (1, 300), dtype)
        y = Tensor(x.shape, dtype, float(np.float32(x.scale * rng.uniform(0.4, 2.5))),
                   zero_of(rng, dtype))
        if kind == "RELU6":
            y = y._replace(scale=x.scale, zero_point=x.zero_point)
        options = {"alpha": float(np.float32(rng.uniform(0.01, 0.9)))}
        return _case(rng, kind, [x, y], options if kind == "LEAKY_RELU" else {}, 2)

    return make


def pad(rng: np.random.Generator, dtype: str) -> Case:
    shape = (1, int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(1, 9)))
    x = value(rng, shape, dtype)
    widths = np.array([[0, 0], *rng.integers(0, 3, (2, 2)), rng.integers(0, 2, 2)])
    out = tuple(int(n + a + b) for n, (a, b) in zip(shape, widths, strict=True))
    y = Tensor(out, dtype, x.scale, x.zero_point)
    return _case(rng, "PAD", [x, constant(widths, "int32"), y], {}, 2, inputs=[0, 1])


def padv2(rng: np.random.Generator, dtype: str) -> Case:
    shape = (1, int(rng.integers(1, 5)), int(rng.integers(1, 5)), int(rng.integers(1, 9)))
    x = value(rng, shape, dtype)
    widths = np.array([[0, 0], *rng.integers(0, 3, (2, 2)), [0, 0]])
    out = tuple(int(n + a + b) for n, (a, b) in zip(shape, widths, strict=True))
    y = Tensor(out, dtype, x.scale, x.zero_point)
    fill = constant(codes(rng, (1,), dtype), dtype, x.scale, x.zero_point)
    return _case(rng, "PADV2", [x, constant(widths, "int32"), fill, y], {}, 2, inputs=[0, 1, 2])


def concatenation(rng: np.random.Generator, dtype: str) -> Case:
    axis = int(rng.integers(1, 4))
    shape = [1, *map(int, rng.integers(1, 5, 3))]
    one = value(rng, tuple(shape), dtype)
    parts = []
    for _ in range(int(rng.integers(2, 5))):
        shape[axis] = int(rng.integers(1, 5))
        parts.append(one._replace(shape=tuple(shape)))
    shape[axis] = sum(p.shape[axis] for p in parts)
    return _case(rng, "CONCATENATION", [*parts, one._replace(shape=tuple(shape))],
                 {"axis": axis if rng.integers(2) else axis - 4}, 2, feeds=len(parts))


def reshape(rng: np.random.Generator, dtype: str) -> Case:
    x = value(rng, (1, 2, 3, 4), dtype)
    new = [(1, 24), (1, 6, 4), (1, 4, 3, 2)][rng.integers(3)]
    return _case(rng, "RESHAPE", [x, constant(new, "int32"), x._replace(shape=new)],
                 {"new_shape": np.array(new, "<i4")}, 1, inputs=[0, 1])


def transpose(rng: np.random.Generator, dtype: str) -> Case:
    x = value(rng, (1, *map(int, rng.integers(1, 6, 3))), dtype)
    order = rng.permutation(4)
    y = x._replace(shape=tuple(x.shape[i] for i in order))
    return _case(rng, "TRANSPOSE", [x, constant(order, "int32"), y], {}, 2, inputs=[0, 1])


def strided_slice(rng: np.random.Generator, dtype: str) -> Case:
    shape = (1, 5, 6, 4)
    x = value(rng, shape, dtype)
    begin = [0, *(int(rng.integers(-3, 2)) for _ in range(3))]
    end = [1, *(int(rng.integers(-1, n + 3)) for n in shape[1:])]
    step = [1, *(int(rng.choice([1, 1, 2, -1])) for _ in range(3))]
    masks = int(rng.integers(16)), int(rng.integers(16))
    shrink = int(rng.choice([0, 0, 2]))                         # the second axis as one index
    parts: list[Any] = []
    for i, n in enumerate(shape):
        if shrink >> i & 1:
            begin[i], end[i], step[i] = 2, 3, 1
            masks = masks[0] & ~(1 << i), masks[1] & ~(1 << i)
            parts.append(2)
            continue
        b = None if masks[0] >> i & 1 else begin[i]
        e = None if masks[1] >> i & 1 else end[i]
        parts.append(slice(b, e, step[i]))
        assert n
    y = np.empty(shape)[tuple(parts)].shape
    if 0 in y:
        return strided_slice(rng, dtype)
    given = [constant(v, "int32") for v in (begin, end, step)]
    options = {"begin_mask": masks[0], "end_mask": masks[1], "shrink_axis_mask": shrink}
    return _case(rng, "STRIDED_SLICE", [x, *given, x._replace(shape=y)], options, 2,
                 inputs=[0, 1, 2, 3])


def quantize(rng: np.random.Generator, dtype: str) -> Case:
    shape = (1, int(rng.integers(250, 300)))
    y = value(rng, shape, dtype)
    others = ("int8", "uint8", "int16") if dtype == "int8" else ("int16", "int8", "int32")
    source = "float32" if rng.integers(2) else str(rng.choice(others))
    x = Tensor(shape, source)
    if source != "float32":
        wide = {"int8": 256, "uint8": 256, "int16": 65536, "int32": 2**26}
        ratio = wide[dtype] / wide[source] * rng.uniform(0.3, 3)
        x = Tensor(shape, source, float(np.float32(y.scale * ratio)),
                   0 if source in ("int16", "int32") else zero_of(rng, source))
    case = _case(rng, "QUANTIZE", [x, y], {}, 2)
    if source == "int32":
        case.runs[:] = [[r[0] >> 6] for r in case.runs]
    return case


def dequantize(rng: np.random.Generator, dtype: str) -> Case:
    x = value(rng, (1, 300), dtype)
    version = 3 if dtype == "int16" else 2
    return _case(rng, "DEQUANTIZE", [x, Tensor(x.shape, "float32")], {}, version)


def svdf(rng: np.random.Generator, dtype: str) -> Case:
    """`dtype` is that of the state."""
    batch, n, units, rank, memory = 1, *map(int, (rng.integers(1, 20), rng.integers(1, 10),
                                                  rng.integers(1, 3), rng.integers(1, 8)))
    filters = units * rank
    x = value(rng, (batch, n), "int8")
    s_f, s_t, top = 2.0**-7, *((2.0**-8, 127) if dtype == "int8" else (2.0**-14, 9000))
    s_st = float(np.float32(x.scale * s_f * 40 * np.sqrt(n) / (1 if dtype == "int8" else 200)))
    feature = constant(codes(rng, (filters, n), "int8", 127), "int8", s_f)
    time = constant(codes(rng, (filters, memory), dtype, top), dtype, s_t)
    bias = constant(rng.integers(-500, 500, units), "int32", np.float32(s_st) * np.float32(s_t))
    state = Tensor((batch, memory * filters), dtype, s_st, 0, variable=True)
    unit = 60 if dtype == "int8" else 6000 * 60
    s_o = float(np.float32(s_st * s_t * unit * np.sqrt(memory * rank)))
    y = Tensor((batch, units), "int8", s_o, zero_of(rng, "int8"))
    case = _case(rng, "SVDF", [x, feature, time, bias, state, y], {"rank": rank, "fused": 1},
                 3 if dtype == "int16" else 4, runs=memory + 3)
    return case._replace(name=f"SVDF {dtype}")


def lstm(rng: np.random.Generator, dtype: str) -> Case:
    n, times, cells = int(rng.integers(1, 12)), int(rng.integers(1, 6)), int(rng.choice([1, 3, 9]))
    x = value(rng, (1, times, n), "int8")
    x = x._replace(scale=float(np.float32(rng.uniform(0.005, 0.03))))
    s_h, z_h = float(np.float32(1 / 128)), int(rng.integers(-20, 20))
    tensors = [x]
    for width in (n, cells):
        tensors += [constant(codes(rng, (cells, width), "int8", 127), "int8",
                             float(np.float32(rng.uniform(0.002, 0.012)))) for _ in range(4)]
    for gate in range(4):
        s = np.float32(x.scale) * np.float32(tensors[1 + gate].scale)
        tensors.append(constant(rng.integers(-3000, 3000, cells), "int32", s))
    tensors.append(Tensor((1, cells), "int8", s_h, z_h, variable=True))
    tensors.append(Tensor((1, cells), "int16", 2.0 ** -int(rng.integers(9, 13)), 0, variable=True))
    tensors += [Tensor((0,), "int16", 2.0**-12, 0) for _ in range(4)]
    tensors.append(Tensor((0,), "int8", s_h, z_h))
    tensors.append(Tensor((1, times, cells), "int8", s_h, z_h))
    inputs = [*range(9), -1, -1, -1, 9, 10, 11, 12, -1, -1, 13, 14, -1, -1, -1, -1]
    clip = float(rng.choice([0.0, 10.0, 0.5]))
    step = Operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [20],
                    {"fused": 4, "cell_clip": clip, "proj_clip": 0.0, "time_major": False}, 1,
                    [15, 16, 17, 18, 19])
    content = model(tensors, [step], [0], [20])
    return Case("UNIDIRECTIONAL_SEQUENCE_LSTM int8", content,
                [[_values(rng, x)] for _ in range(RUNS)])


#: Name -> maker, and the types of activations it is made for.
OPERATORS: dict[str, tuple[Callable[[np.random.Generator, str], Case], tuple[str, ...]]] = {
    "CONV_2D": (conv, ("int8", "int16")),
    "DEPTHWISE_CONV_2D": (depthwise, ("int8", "int16")),
    "TRANSPOSE_CONV": (transposed, ("int8", "int16")),
    "FULLY_CONNECTED": (dense, ("int8", "int16")),
    **{kind: (_elementwise(kind), ("int8", "int16")) for kind in ("ADD", "SUB", "MUL")},
    **{kind: (_pool(kind), ("int8", "int16")) for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D")},
    "MEAN": (mean, ("int8", "int16")),
    "SOFTMAX": (softmax, ("int8", "int16")),
    **{kind: (_squash(kind), ("int8", "int16")) for kind in ("LOGISTIC", "TANH")},
    **{kind: (_clamp(kind), ("int8",)) for kind in ("RELU", "RELU6")},
    "LEAKY_RELU": (_clamp("LEAKY_RELU"), ("int8", "int16")),
    "PAD": (pad, ("int8", "int16")), "PADV2": (padv2, ("int8", "int16")),
    "CONCATENATION": (concatenation, ("int8", "int16")),
    "RESHAPE": (reshape, ("int8", "int16")), "TRANSPOSE": (transpose, ("int8", "int16")),
    "STRIDED_SLICE": (strided_slice, ("int8", "int16")),
    "QUANTIZE": (quantize, ("int8", "int16")), "DEQUANTIZE": (dequantize, ("int8", "int16")),
    "SVDF": (svdf, ("int16", "int8")), "UNIDIRECTIONAL_SEQUENCE_LSTM": (lstm, ("int8",)),
}  # fmt: skip


def cases(kind: str, dtype: str, count: int, seed: int = 0) -> list[Case]:
    """Some settings of an operator, always the same for a seed."""
    make, _ = OPERATORS[kind]
    rng = np.random.default_rng([seed, *map(ord, kind + dtype)])
    return [make(rng, dtype) for _ in range(count)]
