"""Read a float ONNX model as a network of named nodes: what can be trained is what can go back.

An ONNX file says how to run a model, not how a gradient passes through it. Where every operator is
one of a few, the gradient is known, and the model becomes a network of ours, node for node: each
value keeps its name and its layout, so that a plan made for the file fits the network.

===============================================  ==============================================
operators                                        becomes
===============================================  ==============================================
Conv, plain or depthwise                         a convolution between two transpositions
Gemm, MatMul with a constant                     `linear`
Add, Sub, Mul, Div                               of two values, or of a value and a constant
BatchNormalization                               an affine map
Relu, Clip, LeakyRelu, Sigmoid, Tanh             themselves
MaxPool, AveragePool, GlobalAveragePool          pools, without padding
ReduceMean, Flatten, Reshape, Transpose          themselves
Identity, Dropout                                nothing
===============================================  ==============================================

Each layer has two parameters: its weight, outputs first, and a shift of its output that is zero.
The biases of the file are constants of the nodes.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.interop.onnx_float import FloatOnnx, OnnxLayer, require_onnx
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node, Op, Pullback
from refquant.nn.operations import add, average_pool, linear, max_pool, relu

__all__ = ["Imported", "import_onnx", "shift_name"]


class Imported(NamedTuple):
    """A model as a network.

    Attributes
    ----------
    nodes : list of Node
        One for each operator, named as its output.
    values : dict of str to ndarray
        Weights by their names in the file, outputs first and convolutions as (out, height, width,
        in); shifts by `shift_name`.

    References
    ----------
    ONNX specification, "Operators".
    """

    nodes: list[Node]
    values: dict[str, Array]


def shift_name(weight: str) -> str:
    """Name of what is added to the output of a layer.

    Parameters
    ----------
    weight : str

    Returns
    -------
    str

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2 (biases that are corrected).

    Examples
    --------
    >>> shift_name("fc.weight")
    'fc.weight.shift'
    """
    return f"{weight}.shift"


def import_onnx(model: FloatOnnx) -> Imported:
    """The network of a model.

    Parameters
    ----------
    model : FloatOnnx

    Returns
    -------
    Imported
        Computes what the file computes, to rounding.

    Raises
    ------
    ValueError
        If an operator, or a setting of one, has no way back here, or a weight has two readers.

    References
    ----------
    ONNX specification, "Operators", opset 21.
    """
    onnx = require_onnx()
    graph = model.proto.graph
    constants = {t.name: np.asarray(onnx.numpy_helper.to_array(t)) for t in graph.initializer}
    layers = {layer.node: layer for layer in model.layers}
    shared = [w for w, n in Counter(x.weight for x in model.layers).items() if n > 1]
    if shared:
        raise ValueError(f"`model` must read each weight once; got {shared[0]} twice")
    read = _Read([], {}, constants)
    for node in graph.node:
        name = node.name or node.output[0]
        settings = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        try:
            if name in layers:
                read.layer(layers[name], node, settings)
            elif node.op_type in _READERS and node.domain in ("", "ai.onnx"):
                op, inputs = _READERS[node.op_type](read, node, settings)
                read.nodes.append(Node(node.output[0], op, tuple(inputs)))
            else:
                raise _Unreadable("has no way back here")
        except _Unreadable as err:
            raise ValueError(f"`model` must be one that can be trained; got {name}: "
                             f"{node.op_type} {err}") from None
    return Imported(read.nodes, read.values)


class _Unreadable(ValueError):
    """A setting that has no counterpart: the message says which."""


class _Read(NamedTuple):
    """What has been read so far."""

    nodes: list[Node]
    values: dict[str, Array]
    constants: Mapping[str, Array]

    def constant(self, node: Any, place: int, what: str) -> Array | None:
        """An input that is given as a constant; None if it is not given."""
        if len(node.input) <= place or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise _Unreadable(f"computes its {what}")
        return self.constants[node.input[place]]

    def layer(self, layer: OnnxLayer, node: Any, settings: Mapping[str, Any]) -> None:
        """A product with a weight, and a shift of it."""
        bias = None if layer.op == "MatMul" else self.constant(node, 2, "bias")
        weight, out = layer.matrix, len(layer.matrix)
        fixed = np.zeros(out, np.float32) if bias is None else np.float32(
            settings.get("beta", 1.0)) * np.broadcast_to(bias.reshape(-1), (out,))
        op: Op = partial(_linear, fixed=fixed)
        if layer.op == "Conv":
            height, width, stride, padding, depthwise = _window(layer, settings, self.constants)
            weight = weight.reshape(out, height, width, -1)
            op = partial(_convolution, fixed=fixed, stride=stride, padding=padding,
                         function=depthwise_conv2d if depthwise else conv2d)
        self.values[layer.weight] = np.ascontiguousarray(weight)
        self.values[shift_name(layer.weight)] = np.zeros(out, np.float32)
        self.nodes.append(Node(node.output[0], op, (
            layer.reads, layer.weight, shift_name(layer.weight))))


def _window(
    layer: OnnxLayer, settings: Mapping[str, Any], constants: Mapping[str, Array]
) -> tuple[int, int, int, int, bool]:
    """Height, width, stride, padding, and whether each channel stands alone."""
    if layer.window is not None:
        return (*layer.window, False)
    out, inside, height, width = constants[layer.weight].shape
    strides, pads = settings.get("strides", [1, 1]), settings.get("pads", [0] * 4)
    if (settings.get("group", 1) != out or inside != 1 or len({*strides}) > 1
            or len({*pads}) > 1 or {*settings.get("dilations", [1])} != {1}
            or settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")):
        raise _Unreadable("is neither plain nor depthwise, or its sides differ")
    return height, width, int(strides[0]), int(pads[0]), True


# What is computed, and how a gradient passes back.


def _linear(x: Array, weight: Array, shift: Array, *, fixed: Array) -> tuple[Array, Pullback]:
    return linear(x, weight, shift + fixed)


def _convolution(
    x: Array, weight: Array, shift: Array, *, fixed: Array, stride: int, padding: int,
    function: Callable[..., tuple[Array, Pullback]],
) -> tuple[Array, Pullback]:
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    value, back = function(last, weight, shift + fixed, stride=stride, padding=padding)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        dx, *rest = back(np.ascontiguousarray(g.transpose(0, 2, 3, 1)))
        return (None if dx is None else dx.transpose(0, 3, 1, 2), *rest)

    return np.ascontiguousarray(value.transpose(0, 3, 1, 2)), pullback


def _channels_last(
    x: Array, *, function: Callable[..., tuple[Array, Pullback]], size: int, stride: int
) -> tuple[Array, Pullback]:
    value, back = function(np.ascontiguousarray(x.transpose(0, 2, 3, 1)), size=size, stride=stride)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        (dx,) = back(np.ascontiguousarray(g.transpose(0, 2, 3, 1)))
        return (None if dx is None else dx.transpose(0, 3, 1, 2),)

    return np.ascontiguousarray(value.transpose(0, 3, 1, 2)), pullback


def _affine(x: Array, *, factor: Array, offset: Array) -> tuple[Array, Pullback]:
    value = x * factor + offset
    if value.shape != x.shape:
        raise ValueError(f"a constant must not widen what it meets; got {x.shape} to {value.shape}")
    return value, lambda g: (g * factor,)


def _product(x: Array, y: Array) -> tuple[Array, Pullback]:
    if x.shape != y.shape:
        raise ValueError(f"two values that are multiplied must have one shape; got {x.shape} and "
                         f"{y.shape}")
    return x * y, lambda g: (g * y, g * x)


def _shaped(x: Array, *, to: Callable[[Array], Array]) -> tuple[Array, Pullback]:
    return to(x), lambda g: (g.reshape(x.shape),)


def _transposed(x: Array, *, order: tuple[int, ...] | None) -> tuple[Array, Pullback]:
    back = None if order is None else np.argsort(order)
    return x.transpose(order), lambda g: (g.transpose(back),)


def _averaged(x: Array, *, axes: tuple[int, ...], keep: bool) -> tuple[Array, Pullback]:
    value = x.mean(axes, keepdims=keep)
    full = x.mean(axes, keepdims=True).shape

    def pullback(g: Array) -> tuple[Array | None, ...]:
        share = np.asarray(g.reshape(full) * (value.size / x.size), x.dtype)
        return (np.broadcast_to(share, x.shape),)

    return value, pullback


def _clipped(x: Array, *, low: float, high: float) -> tuple[Array, Pullback]:
    return np.clip(x, low, high), lambda g: (g * ((x > low) & (x < high)),)


def _leaky(x: Array, *, alpha: float) -> tuple[Array, Pullback]:
    slope = np.where(x < 0, x.dtype.type(alpha), x.dtype.type(1))
    return x * slope, lambda g: (g * slope,)


def _sigmoid(x: Array) -> tuple[Array, Pullback]:
    value = (1 + np.tanh(x / 2)) / 2
    return value, lambda g: (g * value * (1 - value),)


def _tanh(x: Array) -> tuple[Array, Pullback]:
    value = np.tanh(x)
    return value, lambda g: (g * (1 - value * value),)


def _same(x: Array) -> tuple[Array, Pullback]:
    return x, lambda g: (g,)


# Reading them.

_Reader: TypeAlias = Callable[[_Read, Any, Mapping[str, Any]], tuple[Op, list[str]]]


def _arithmetic(read: _Read, node: Any, settings: Mapping[str, Any]) -> tuple[Op, list[str]]:
    kind, (first, second) = node.op_type, node.input
    left, right = (read.constants.get(n) for n in (first, second))
    if left is None and right is None:
        if kind not in ("Add", "Mul"):
            raise _Unreadable("of two values")
        return (add if kind == "Add" else _product), [first, second]
    one, zero = np.array(1, np.float32), np.array(0, np.float32)
    if right is not None:
        factor, offset = {"Add": (one, right), "Sub": (one, -right), "Mul": (right, zero),
                          "Div": (one / right, zero)}[kind]
        return partial(_affine, factor=factor, offset=offset), [first]
    if kind == "Div":
        raise _Unreadable("divides a constant")
    assert left is not None
    factor, offset = {"Add": (one, left), "Sub": (-one, left), "Mul": (left, zero)}[kind]
    return partial(_affine, factor=factor, offset=offset), [second]


def _norm(read: _Read, node: Any, settings: Mapping[str, Any]) -> tuple[Op, list[str]]:
    given = [read.constant(node, k, "statistics") for k in range(1, 5)]
    gamma, beta, mean, variance = (np.asarray(g, np.float32) for g in given)
    factor = gamma / np.sqrt(variance + np.float32(settings.get("epsilon", 1e-5)))
    column = (-1, 1, 1)
    return partial(_affine, factor=factor.reshape(column),
                   offset=(beta - mean * factor).reshape(column)), [node.input[0]]


def _pool(read: _Read, node: Any, settings: Mapping[str, Any]) -> tuple[Op, list[str]]:
    size, strides = settings["kernel_shape"], settings.get("strides", [1, 1])
    if (len(size) != 2 or len({*size}) > 1 or len({*strides}) > 1 or any(settings.get("pads", [0]))
            or settings.get("ceil_mode", 0) or {*settings.get("dilations", [1])} != {1}
            or settings.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
            or len(node.output) > 1):
        raise _Unreadable("has sides that differ, or padding")
    function = max_pool if node.op_type == "MaxPool" else average_pool
    return partial(_channels_last, function=function, size=int(size[0]),
                   stride=int(strides[0])), [node.input[0]]


def _mean(read: _Read, node: Any, settings: Mapping[str, Any]) -> tuple[Op, list[str]]:
    if node.op_type == "GlobalAveragePool":
        return partial(_averaged, axes=(2, 3), keep=True), [node.input[0]]
    axes = read.constant(node, 1, "axes")
    if axes is None:
        raise _Unreadable("is over all axes")
    return partial(_averaged, axes=tuple(int(a) for a in axes.ravel()),
                   keep=bool(settings.get("keepdims", 1))), [node.input[0]]


def _reshape(read: _Read, node: Any, settings: Mapping[str, Any]) -> tuple[Op, list[str]]:
    if node.op_type == "Flatten":
        axis = settings.get("axis", 1)
        return partial(_shaped, to=lambda x: x.reshape(int(np.prod(x.shape[:axis])), -1)), [
            node.input[0]]
    shape = read.constant(node, 1, "shape")
    if shape is None or settings.get("allowzero", 0):
        raise _Unreadable("allows sizes of zero")
    wanted = [int(n) for n in shape.ravel()]
    return partial(_shaped, to=lambda x: x.reshape(
        [x.shape[i] if n == 0 else n for i, n in enumerate(wanted)])), [node.input[0]]


def _clip(read: _Read, node: Any, settings: Mapping[str, Any]) -> tuple[Op, list[str]]:
    low, high = (read.constant(node, k, "bounds") for k in (1, 2))
    return partial(_clipped, low=-np.inf if low is None else float(low),
                   high=np.inf if high is None else float(high)), [node.input[0]]


def _plain(op: Op) -> _Reader:
    return lambda read, node, settings: (op, [node.input[0]])


_READERS: Mapping[str, _Reader] = {
    **dict.fromkeys(("Add", "Sub", "Mul", "Div"), _arithmetic), "BatchNormalization": _norm,
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), _mean),
    **dict.fromkeys(("Flatten", "Reshape"), _reshape), "Clip": _clip,
    "Relu": _plain(relu), "Sigmoid": _plain(_sigmoid), "Tanh": _plain(_tanh),
    "LeakyRelu": lambda read, node, settings: (
        partial(_leaky, alpha=settings.get("alpha", 0.01)), [node.input[0]]),
    "Transpose": lambda read, node, settings: (partial(
        _transposed, order=tuple(settings["perm"]) if "perm" in settings else None),
        [node.input[0]]),
    **dict.fromkeys(("Identity", "Dropout"), _plain(_same)),
}  # fmt: skip
