"""How each operator of a .tflite file becomes a function of the tensors it reads.

Every builder looks at the operator once, before any input is known: shapes, options,
constants and quantizers are checked and folded into a function of the remaining inputs.
What does not fit raises `ValueError`; `refquant.interop.tflite_program` adds which operator
it was.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.integer import convolution, movement, pooling
from refquant.integer.engines import Engine, Sums
from refquant.integer.layers import NONE, RELU, RELU6, RELU_N1_TO_1, Rescaled
from refquant.integer.lstm import Lstm, LstmGate, LstmState
from refquant.integer.svdf import Svdf
from refquant.interop.tflite import Model, Operator, Tensor
from refquant.quantizers.uniform import Uniform

#: Codes of the types that hold any.
RANGES = {
    "int8": (-128, 127), "int16": (-(2**15), 2**15 - 1), "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 255), "int4": (-8, 7), "int2": (-2, 1),
}
#: Width of a bias by the type that the options name.
_BIAS_BITS = {2: 32, 4: 64}
ACTIVATIONS = {0: NONE, 1: RELU, 2: RELU_N1_TO_1, 3: RELU6}
#: More products than this in one model are no model but an attack.
MOST_PRODUCTS = 2**35
#: Binary operators on 8-bit codes become a table of 2**16 entries from this size on.
TABLE_FROM = 4096
#: ... but for those that the loops of an engine leave over: it may treat them otherwise.
LANES = 16

#: What a builder gives: a function of the values of the operator's inputs, in their order.
Step = Callable[..., Array | tuple[Array, ...]]


class Node(NamedTuple):
    """An operator with the model and the engine around it."""

    model: Model
    operator: Operator
    engine: Engine

    def tensor(self, k: int) -> Tensor:
        """Input k."""
        inputs = self.operator.inputs
        if k >= len(inputs) or inputs[k] < 0:
            raise ValueError(f"input {k} must be there")
        return self.model.tensors[inputs[k]]

    def has(self, k: int) -> bool:
        """Whether there is an input k."""
        return k < len(self.operator.inputs) and self.operator.inputs[k] >= 0

    def output(self, k: int = 0) -> Tensor:
        """Output k."""
        if k >= len(self.operator.outputs):
            raise ValueError(f"output {k} must be there")
        return self.model.tensors[self.operator.outputs[k]]

    def constant(self, k: int) -> Array:
        """Values of input k, which must stand in the file."""
        data = self.tensor(k).data
        if data is None:
            raise ValueError(f"input {k} must be a constant")
        return data

    def numbers(self, k: int) -> list[int]:
        """A constant vector of whole numbers, or a single one."""
        data = self.constant(k)
        if data.dtype.kind not in "iu" or data.ndim > 2:
            raise ValueError(f"input {k} must be whole numbers; got {data.dtype}")
        return [int(n) for n in data.ravel()]

    def option(self, name: str) -> int:
        """A whole number among the options."""
        value = self.operator.options.get(name, 0)
        return int(value) if isinstance(value, (int, float)) else 0

    def real(self, name: str) -> float:
        """A real number among the options."""
        value = self.operator.options.get(name, 0.0)
        return float(value) if isinstance(value, (int, float)) else 0.0

    @property
    def activation(self) -> tuple[float, float]:
        """The interval of the fused activation."""
        code = self.option("activation")
        if code not in ACTIVATIONS:
            raise ValueError(f"the fused activation must be one of RELU's kin; got {code}")
        return ACTIVATIONS[code]


def quantizer(tensor: Tensor) -> Uniform:
    """The quantizer of a tensor with one scale."""
    return _uniform(tensor, 1)


def _uniform(tensor: Tensor, most: int) -> Uniform:
    if "float" in tensor.dtype:
        raise ValueError(f"float models are not integer programs; got {tensor.dtype}")
    if tensor.dtype not in RANGES:
        raise ValueError(f"a tensor must hold codes; got {tensor.dtype}")
    if tensor.scale.size not in {1, most}:
        raise ValueError(f"a tensor must have one scale; got {tensor.scale.size}")
    scale, zero = tensor.scale, tensor.zero_point
    if tensor.scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    return Uniform(scale, zero, *RANGES[tensor.dtype])


def _activations(node: Node, *indices: int) -> list[Uniform]:
    """Quantizers of inputs, and of the output behind them."""
    tensors = [*(node.tensor(k) for k in indices), node.output()]
    for tensor in tensors:
        if tensor.dtype not in ("int8", "int16", "uint8"):
            _uniform(tensor, 1)
            raise ValueError(f"it must read and write int8 or int16; got {tensor.dtype}")
    return [quantizer(tensor) for tensor in tensors]


def _weights(node: Node, k: int, axis: int) -> tuple[Array, Uniform]:
    """Constant weights with the output channel first, and their quantizer."""
    tensor, data = node.tensor(k), node.constant(k)
    if tensor.dtype not in ("int8", "int4", "int2"):
        _uniform(tensor, 1)
        raise ValueError(f"weights must be int8, int4 or int2; got {tensor.dtype}")
    # A channel of zeros may have scale 0: so small a scale gives the same zeros.
    tensor = tensor._replace(scale=np.maximum(tensor.scale, np.finfo(np.float32).tiny))
    w = _uniform(tensor, tensor.shape[axis] if len(tensor.shape) > axis else 1)
    if w.scale.size > 1 and w.zero_point.any():
        raise ValueError("weights with several scales must have zero point 0")
    return data, w


def _bias(node: Node, k: int, count: int) -> Array | None:
    if not node.has(k):
        return None
    bias = node.constant(k)
    if bias.dtype.kind not in "i" or bias.size != count:
        raise ValueError(f"the bias must be {count} integers; got {bias.dtype} {bias.shape}")
    return bias.ravel()


def _arithmetic(
    node: Node, sums: Sums, x: Uniform, bias: Array | None
) -> dict[str, Callable[..., Array]]:
    """By the width of the codes and of the bias, or of the bias that the options speak of."""
    bits = _BIAS_BITS.get(node.option("bias_type")) if bias is None else 8 * bias.dtype.itemsize
    if x.qmax <= 255:
        chosen = sums.narrow
    elif bits is None or (bits == 32 and bias is None and sums.short is None):
        chosen = sums.bare
    elif bits == 64:
        chosen = sums.wide
    elif sums.short is None:
        raise ValueError("with codes of 16 bits the bias must have 64 bits in "
                         f"{node.engine.name}; got {bits}")
    else:
        chosen = sums.short
    return {"rule": chosen.rule, "product": chosen.product}


def _image_shape(tensor: Tensor) -> tuple[int, int, int, int]:
    if len(tensor.shape) != 4 or 0 in tensor.shape:
        raise ValueError(f"an image must have four axes, none empty; got {tensor.shape}")
    b, h, w, c = tensor.shape
    return b, h, w, c


def _window(
    node: Node, image: Tensor, kernel: tuple[int, int], dilated: bool
) -> convolution.Window:
    strides = node.option("stride_h"), node.option("stride_w")
    dilations = (node.option("dilation_h"), node.option("dilation_w")) if dilated else (1, 1)
    if min(*strides, *dilations, *kernel) < 1 or max(*strides, *dilations, *kernel) > 2**16:
        raise ValueError(
            f"strides, dilations and kernel must be from 1 to 65536; got {strides}, "
            f"{dilations}, {kernel}")
    size = _image_shape(image)[1:3]
    place = convolution.valid if node.option("padding") == 1 else convolution.same
    window = place(size, kernel, strides, dilations)
    grown = [n + sum(p) for n, p in zip(size, window.padding, strict=True)]
    if math.prod(grown) * image.shape[0] * image.shape[3] > 2**26:
        raise ValueError(f"the padded image must be of reasonable size; got {tuple(grown)}")
    return window


def _require_output(node: Node, expected: tuple[int, ...]) -> None:
    """Before anything is computed, and in no time."""
    if node.output().shape != expected:
        raise ValueError(f"the output must have shape {expected}; got {node.output().shape}")


def _require_image(
    node: Node, image: Tensor, kernel: tuple[int, int], window: convolution.Window, depth: int
) -> None:
    """The output of a window that moves over an image."""
    _require_output(node, (image.shape[0], *_places(image.shape[1:3], kernel, window), depth))


def _places(
    size: tuple[int, ...], kernel: tuple[int, int], window: convolution.Window
) -> tuple[int, ...]:
    return tuple(
        (n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, d, s in zip(
            size, window.padding, kernel, window.dilations, window.strides, strict=True))


def _require_work(node: Node, weight: Tensor, per_output: int) -> None:
    products = math.prod(node.output().shape) * per_output
    if products > MOST_PRODUCTS:
        raise ValueError(f"it must take at most 2**35 products; got {products}")


def _convolution(node: Node) -> Rescaled:
    x, y = _activations(node, 0)
    weight, w = _weights(node, 1, 0)
    _, kh, kw, depth = _image_shape(node.tensor(1))
    bias = _bias(node, 2, len(weight))
    channels = node.tensor(0).shape[3] if len(node.tensor(0).shape) == 4 else 0
    if channels % depth or not channels or len(weight) % (channels // depth):
        raise ValueError(
            f"`weight` must divide {channels} channels into groups; got shape {weight.shape}")
    window = _window(node, node.tensor(0), (kh, kw), True)
    _require_image(node, node.tensor(0), (kh, kw), window, len(weight))
    _require_work(node, node.tensor(1), kh * kw * depth)
    return convolution.convolution(
        weight, bias, x, w, y, window, activation=node.activation,
        **_arithmetic(node, node.engine.convolution, x, bias))


def _depthwise(node: Node) -> Rescaled:
    x, y = _activations(node, 0)
    weight, w = _weights(node, 1, 3)
    one, kh, kw, out = _image_shape(node.tensor(1))
    if one != 1:
        raise ValueError(f"depthwise weights must have 1 as their first axis; got {one}")
    bias = _bias(node, 2, out)
    window = _window(node, node.tensor(0), (kh, kw), True)
    if out % node.tensor(0).shape[3]:
        raise ValueError(f"{out} channels must be a multiple of those of the image, "
                         f"{node.tensor(0).shape[3]}")
    _require_image(node, node.tensor(0), (kh, kw), window, out)
    _require_work(node, node.tensor(1), kh * kw)
    return convolution.depthwise_convolution(
        weight.transpose(3, 1, 2, 0), bias, x, w, y, window, activation=node.activation,
        **_arithmetic(node, node.engine.depthwise, x, bias))


def _transposed(node: Node) -> Rescaled:
    x, y = _activations(node, 2)
    weight, w = _weights(node, 1, 0)
    out, kh, kw, depth = _image_shape(node.tensor(1))
    bias = _bias(node, 3, out)
    output, image = node.output(), _image_shape(node.tensor(2))
    window = _window(node, output, (kh, kw), False)
    if node.numbers(0) != list(output.shape):
        raise ValueError(f"the output must have the shape {node.numbers(0)}; got {output.shape}")
    expected = (output.shape[0], *_places(output.shape[1:3], (kh, kw), window), depth)
    if image != expected or output.shape[3] != out:
        raise ValueError(f"the input must have shape {expected}; got {image}")
    _require_work(node, node.tensor(1), kh * kw * depth)
    if math.prod(image) * kh * kw * out > MOST_PRODUCTS:
        raise ValueError("it must take at most 2**35 products")
    short = any(k < s for k, s in zip((kh, kw), window.strides, strict=True))
    apart = short and node.option("padding") == 0
    sums = node.engine.transposed_apart if apart else node.engine.transposed
    return convolution.transposed_convolution(
        weight, bias, x, w, y, window, _image_shape(output)[1:3], activation=node.activation,
        **_arithmetic(node, sums, x, bias))


def _fully_connected(node: Node) -> Rescaled:
    """From rows of the matrix's width; `_flat` brings the input there."""
    x, y = _activations(node, 0)
    if node.option("weights_format"):
        raise ValueError("weights must be in the default format; got a shuffled one")
    weight, w = _weights(node, 1, 0)
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weights must be a matrix; got {weight.shape}")
    bias = _bias(node, 2, len(weight))
    rows, rest = divmod(math.prod(node.tensor(0).shape), weight.shape[1])
    if rest or math.prod(node.output().shape) != rows * len(weight):
        raise ValueError(f"rows of {weight.shape[1]} must become rows of {len(weight)}; got "
                         f"{node.tensor(0).shape} and {node.output().shape}")
    _require_work(node, node.tensor(1), weight.shape[1])
    return convolution.fully_connected(
        weight, bias, x, w, y, activation=node.activation,
        **_arithmetic(node, node.engine.fully_connected, x, bias))


def _flat(node: Node) -> Step:
    layer, size, shape = _fully_connected(node), node.tensor(1).shape[1], node.output().shape
    return lambda x, *constants: layer(x.reshape(-1, size)).reshape(shape)


def _first_only(layer: Step) -> Step:
    return lambda x, *constants: layer(x)


def _third_only(layer: Step) -> Step:
    return lambda shape, weight, x, *bias: layer(x)


def _binary(name: str) -> Callable[[Node], Step]:
    def build(node: Node) -> Step:
        a, b, y = _activations(node, 0, 1)
        function, activation = getattr(node.engine, name), node.activation
        shape = np.broadcast_shapes(node.tensor(0).shape, node.tensor(1).shape)
        _require_output(node, shape)
        narrow = max(a.qmax - a.qmin, b.qmax - b.qmin) == 255

        def direct(first: Array, second: Array) -> Array:
            codes: Array = function(first, second, a, b, y, activation=activation)
            return codes

        alike = node.tensor(0).shape == node.tensor(1).shape
        if not narrow or not alike or math.prod(shape) < TABLE_FROM:
            return direct
        rows, columns = (np.arange(q.qmin, q.qmax + 1) for q in (a, b))
        table = direct(rows.repeat(256), np.tile(columns, 256)).astype(np.int32)
        start, whole = -(a.qmin * 256 + b.qmin), math.prod(shape) // LANES * LANES

        def looked_up(first: Array, second: Array) -> Array:
            codes = table.take((first << 8) + second + start)
            if whole < codes.size:
                rest = first.ravel()[whole:], second.ravel()[whole:]
                codes.reshape(-1)[whole:] = direct(*rest)
            return codes

        return looked_up

    return build


def _table(function: Callable[[Array], Array], x: Uniform) -> Step:
    """One value per code of 8 bits, computed once; wider codes are computed each time."""
    if x.qmax - x.qmin > 255:
        return function
    table, start = function(np.arange(x.qmin, x.qmax + 1)), -x.qmin
    return lambda codes: table.take(codes + start)


def _unary(name: str) -> Callable[[Node], Step]:
    def build(node: Node) -> Step:
        x, y = _activations(node, 0)
        _require_output(node, node.tensor(0).shape)
        function = getattr(node.engine, name)
        return _table(lambda codes: function(codes, x, y), x)

    return build


def _relu(activation: tuple[float, float]) -> Callable[[Node], Step]:
    def build(node: Node) -> Step:
        x, y = _activations(node, 0)
        _require_output(node, node.tensor(0).shape)
        function = node.engine.relu
        return _table(lambda codes: function(codes, x, y, activation=activation), x)

    return build


def _leaky_relu(node: Node) -> Step:
    x, y = _activations(node, 0)
    _require_output(node, node.tensor(0).shape)
    alpha, function = node.real("alpha"), node.engine.leaky_relu
    if not 0 <= alpha < 2**16:
        raise ValueError(f"alpha must be from 0 to 65536; got {alpha}")
    return _table(lambda codes: function(codes, x, y, alpha=alpha), x)


def _softmax(node: Node) -> Step:
    x, y = _activations(node, 0)
    _require_output(node, node.tensor(0).shape)
    beta, function = node.real("beta"), node.engine.softmax
    if not node.tensor(0).shape:
        raise ValueError("softmax must have an axis; got a single number")
    return lambda codes: function(codes, x, y, beta=beta)


def _pool(function: Callable[..., Array]) -> Callable[[Node], Step]:
    def build(node: Node) -> Step:
        x, y = _activations(node, 0)
        if abs(float(x.scale - y.scale)) > 1e-6 or x.zero_point != y.zero_point:
            raise ValueError("a pool must have the same scale and zero point before and after")
        kernel = node.option("filter_h"), node.option("filter_w")
        window, activation = _window(node, node.tensor(0), kernel, False), node.activation
        _require_image(node, node.tensor(0), kernel, window, node.tensor(0).shape[3])
        _require_work(node, node.tensor(0), kernel[0] + kernel[1])
        return lambda codes: function(codes, kernel, window, y, activation=activation)

    return build


def _mean(node: Node) -> Step:
    x, y = _activations(node, 0)
    rank, shape, function = len(node.tensor(0).shape), node.output().shape, node.engine.mean
    axis = _axes(node.numbers(1), rank)
    if 0 in node.tensor(0).shape:
        raise ValueError("a mean must be one of something; got an empty tensor")
    keep = bool(node.option("keep_dims"))
    sizes = [(k, 1 if k in axis else n) for k, n in enumerate(node.tensor(0).shape)]
    _require_output(node, tuple(n for k, n in sizes if keep or k not in axis))
    return lambda codes, *constants: function(codes, axis, x, y, keep=keep).reshape(shape)


def _axes(numbers: list[int], rank: int) -> tuple[int, ...]:
    if any(not -rank <= n < rank for n in numbers):
        raise ValueError(f"axes must lie in a tensor of rank {rank}; got {numbers[:8]}")
    return tuple(sorted({n % rank for n in numbers}))


def _lstm(node: Node) -> Step:
    unsupported = [k for k in (*range(9, 12), 16, 17, *range(20, 24)) if node.has(k)]
    if unsupported:
        raise ValueError(
            f"it must have no peepholes, projection or layer norm; got input {unsupported[0]}")
    x, hidden = (quantizer(t) for t in (node.tensor(0), node.tensor(18)))
    cell, shape = quantizer(node.tensor(19)), node.output().shape
    if len(node.tensor(0).shape) != 3 or 0 in node.tensor(0).shape:
        raise ValueError(f"the input must be a sequence of batches; got {node.tensor(0).shape}")
    _require_output(node, (*node.tensor(0).shape[:2], *node.tensor(19).shape[-1:]))
    gates = []
    for k in range(4):
        weights = [_weights(node, at, 0) for at in (1 + k, 5 + k)]
        if any(w.scale.size > 1 or w.zero_point.any() for _, w in weights):
            raise ValueError("weights of gates must have one scale and zero point 0")
        bias = _bias(node, 12 + k, len(weights[0][0]))
        if bias is None:
            raise ValueError(f"input {12 + k} must be there")
        (first, first_q), (second, second_q) = weights
        gates.append(LstmGate(
            first.astype(np.int64), first_q.scale.item(), second.astype(np.int64),
            second_q.scale.item(), bias.astype(np.int64)))
    clip, product = node.real("cell_clip"), _product_of(node)
    record = Lstm(gates[0], gates[1], gates[2], gates[3], x, hidden, cell, clip, product)
    function, time_first = node.engine.lstm, bool(node.option("time_major"))

    def step(*values: Array) -> tuple[Array, ...]:
        codes = values[0] if time_first else values[0].swapaxes(0, 1)
        found, state = function(codes, record, LstmState(values[18], values[19]))
        found = found if time_first else np.ascontiguousarray(found.swapaxes(0, 1))
        return found.reshape(shape), state.hidden, state.cell

    return step


def _product_of(node: Node) -> Uniform | None:
    """The quantizer of o tanh c, which stands in the fifth intermediate tensor if anywhere."""
    if len(node.operator.intermediates) < 5:
        return None
    tensor = node.model.tensors[node.operator.intermediates[4]]
    if tensor.scale.size != 1:
        return None
    return Uniform(tensor.scale.reshape(()), tensor.zero_point.reshape(()), *RANGES["int8"])


def _svdf(node: Node) -> Step:
    x, state, y = (quantizer(t) for t in (node.tensor(0), node.tensor(4), node.output()))
    feature, feature_q = _weights(node, 1, 0)
    time, time_tensor = node.constant(2), node.tensor(2)
    time_q = quantizer(time_tensor)
    bias = _bias(node, 3, node.output().shape[-1] if node.output().shape else 0)
    if feature.ndim != 2 or time.ndim != 2 or 0 in feature.shape or feature_q.scale.size > 1:
        raise ValueError(f"weights must be matrices of one scale; got {feature.shape}")
    if not node.tensor(4).variable:
        raise ValueError("the state must be a variable tensor")
    units = node.output().shape[-1] if node.output().shape else 0
    layer = Svdf(
        feature.astype(np.int64), feature_q.scale.item(), time.astype(np.int64),
        time_q.scale.item(), np.zeros(units, np.int64) if bias is None else bias.astype(np.int64),
        x, state, y)

    def step(x: Array, feature: Array, weight: Array, bias: Array, state: Array) -> tuple[
            Array, ...]:
        found, after = node.engine.svdf(x, layer, state.reshape(len(x), *time.shape))
        return found, after.reshape(state.shape)

    return step


def _quantize(node: Node) -> Step:
    source, target = node.tensor(0), node.output()
    _require_output(node, source.shape)
    if source.dtype == "float32":
        y, encode = quantizer(target), node.engine.quantize
        return lambda values: encode(values, y)
    x, y = quantizer(source), quantizer(target)
    function = node.engine.requantize
    return lambda codes: function(codes, x, y)


def _dequantize(node: Node) -> Step:
    if node.output().dtype != "float32":
        raise ValueError(f"it must write float32; got {node.output().dtype}")
    _require_output(node, node.tensor(0).shape)
    x, function = quantizer(node.tensor(0)), node.engine.dequantize
    return lambda codes: function(codes, x)


def _require_kept(node: Node, *indices: int) -> None:
    """Data that only moves keeps its type; what its codes stand for no runtime looks at."""
    for k in indices:
        if node.tensor(k).dtype != node.output().dtype:
            raise ValueError(f"input {k} and the output must share their type; got "
                             f"{node.tensor(k).dtype} and {node.output().dtype}")


def _reshape(node: Node) -> Step:
    _require_kept(node, 0)
    before, after = node.tensor(0).shape, node.output().shape
    if math.prod(before) != math.prod(after):
        raise ValueError(f"the shapes must hold the same elements; got {before} and {after}")
    return lambda x, *constants: x.reshape(after)


def _transpose(node: Node) -> Step:
    _require_kept(node, 0)
    order = node.numbers(1)
    if sorted(order) != list(range(len(node.tensor(0).shape))):
        raise ValueError(f"the order of axes must name each once; got {order[:8]}")
    return lambda x, *constants: np.ascontiguousarray(x.transpose(order))


def _pad(node: Node) -> Step:
    _require_kept(node, 0)
    widths = node.constant(1)
    if widths.dtype.kind != "i" or widths.shape != (len(node.tensor(0).shape), 2):
        raise ValueError(f"widths must be a pair per axis; got {widths.dtype} {widths.shape}")
    grown = [n + int(p.sum()) for n, p in zip(node.tensor(0).shape, widths, strict=True)]
    if (widths < 0).any() or grown != list(node.output().shape):
        raise ValueError(f"the padded shape must be {node.output().shape}; got {grown[:8]}")
    if node.tensor(0).dtype == "float32":
        raise ValueError("float models are not integer programs; got float32")
    y = quantizer(node.output())
    code = int(node.constant(2).ravel()[0]) if node.has(2) and node.constant(2).size else None
    return lambda x, *constants: movement.pad(x, widths, y, code=code)


def _concatenation(node: Node) -> Step:
    count, rank = len(node.operator.inputs), len(node.output().shape)
    parts = [node.tensor(k) for k in range(count)]
    (axis,) = _axes([node.option("axis")], rank)
    if any(len(p.shape) != rank for p in parts) or not parts:
        raise ValueError(f"the parts must have rank {rank}; got {[len(p.shape) for p in parts]}")
    if node.option("activation"):
        raise ValueError("joined codes must have no fused activation")
    if parts[0].dtype not in RANGES or not parts[0].scale.size:
        _require_kept(node, *range(count))
        return lambda *values: np.concatenate(values, axis=axis)
    quantizers = [quantizer(t) for t in (*parts, node.output())]
    movement.concatenate([np.zeros(0, np.int32)] * count, quantizers, axis=0)
    return lambda *values: movement.concatenate(values, quantizers, axis=axis)


def _strided_slice(node: Node) -> Step:
    _require_kept(node, 0)
    begin, end, strides = (node.numbers(k) for k in (1, 2, 3))
    masks = {k: node.option(k) for k in ("begin_mask", "end_mask", "shrink_axis_mask")}
    if node.option("ellipsis_mask") or node.option("new_axis_mask") or node.option("offset"):
        raise ValueError("a slice must have no ellipsis, new axis or offset")
    shape = node.output().shape
    empty: Array = np.broadcast_to(np.zeros((), np.int8), node.tensor(0).shape)
    try:
        movement.strided_slice(empty, begin, end, strides, **masks).reshape(shape)
    except IndexError as err:
        raise ValueError(str(err)) from None
    return lambda x, *constants: np.ascontiguousarray(
        movement.strided_slice(x, begin, end, strides, **masks)).reshape(shape)


def _slice(node: Node) -> Step:
    _require_kept(node, 0)
    begin, size = node.numbers(1), node.numbers(2)
    before = node.tensor(0).shape
    if not len(begin) == len(size) == len(before):
        raise ValueError(f"begin and size must have one place per axis; got {begin[:8]}")
    picks = []
    for n, first, count in zip(before, begin, size, strict=True):
        last = n if count == -1 else first + count
        if not 0 <= first <= last <= n:
            raise ValueError(f"a slice must lie in {before}; got {begin} and {size}")
        picks.append(slice(first, last))
    pick = tuple(picks)
    return lambda x, *constants: np.ascontiguousarray(x[pick])


def _shape(node: Node) -> Step:
    """The shape of a tensor, which is known before anything runs."""
    shape = node.tensor(0).shape
    _require_output(node, (len(shape),))
    if node.output().dtype not in ("int32", "int64"):
        raise ValueError(f"a shape must be int32 or int64; got {node.output().dtype}")
    found = np.array(shape, node.output().dtype)
    return lambda x: found.copy()


def _split(node: Node) -> Step:
    rank, count = len(node.tensor(1).shape), len(node.operator.outputs)
    (axis,) = _axes(node.numbers(0)[:1], rank)
    if not count or node.tensor(1).shape[axis] % count:
        raise ValueError(f"{node.tensor(1).shape} must divide into {count} parts")
    return lambda axis_, x: tuple(np.split(x, count, axis))


def _pack(node: Node) -> Step:
    count, rank = len(node.operator.inputs), len(node.output().shape)
    _require_kept(node, *range(count))
    (axis,) = _axes([node.option("axis")], rank)
    return lambda *parts: np.stack(parts, axis)


def _unpack(node: Node) -> Step:
    _require_kept(node, 0)
    shape, count = node.tensor(0).shape, len(node.operator.outputs)
    (axis,) = _axes([node.option("axis")], len(shape))
    if shape[axis] != count:
        raise ValueError(f"axis {axis} of {shape} must have {count} places")
    return lambda x: tuple(np.moveaxis(x, axis, 0))


#: Operators that add up products, as layers whose sums and rules can be looked at.
LAYERS: dict[str, Callable[[Node], Rescaled]] = {
    "CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise, "TRANSPOSE_CONV": _transposed,
    "FULLY_CONNECTED": _fully_connected,
}


def products(node: Node) -> int:
    """How many products of codes an operator of `LAYERS` takes."""
    if node.operator.name not in LAYERS:
        return 0
    weight = node.tensor(1).shape
    if node.operator.name == "TRANSPOSE_CONV":
        return math.prod(node.tensor(2).shape) * math.prod(weight[:3])
    per_output = weight[1:3] if node.operator.name == "DEPTHWISE_CONV_2D" else weight[1:]
    return math.prod(node.output().shape) * math.prod(per_output)


BUILDERS: dict[str, Callable[[Node], Step]] = {
    "CONV_2D": lambda node: _first_only(_convolution(node)),
    "DEPTHWISE_CONV_2D": lambda node: _first_only(_depthwise(node)),
    "TRANSPOSE_CONV": lambda node: _third_only(_transposed(node)),
    "FULLY_CONNECTED": _flat,
    "ADD": _binary("add"),
    "SUB": _binary("subtract"),
    "MUL": _binary("multiply"),
    "AVERAGE_POOL_2D": _pool(pooling.average_pool),
    "MAX_POOL_2D": _pool(pooling.max_pool),
    "MEAN": _mean,
    "SOFTMAX": _softmax,
    "LOGISTIC": _unary("logistic"),
    "TANH": _unary("tanh"),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
    "SVDF": _svdf,
    "RELU": _relu(RELU),
    "RELU_N1_TO_1": _relu(RELU_N1_TO_1),
    "RELU6": _unary("relu6"),
    "LEAKY_RELU": _leaky_relu,
    "PAD": _pad,
    "PADV2": _pad,
    "CONCATENATION": _concatenation,
    "RESHAPE": _reshape,
    "SQUEEZE": _reshape,
    "EXPAND_DIMS": _reshape,
    "TRANSPOSE": _transpose,
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "SPLIT": _split,
    "SHAPE": _shape,
    "PACK": _pack,
    "UNPACK": _unpack,
    "QUANTIZE": _quantize,
    "DEQUANTIZE": _dequantize,
}
