"""Write a network of ours as a float ONNX model, so that other runtimes can run it.

Each node becomes the few operators of ONNX that compute the same, and its value keeps its
name; so a tap here and an added output there show the same tensor. Images stay
``(batch, height, width, channels)`` between nodes: a convolution stands between two
transpositions, which runtimes remove. Batch norms become a product and a sum.

=====================================  ====================================================
operation                              operators
=====================================  ====================================================
linear                                 MatMul with the weight as (in, out), Add
conv2d, depthwise_conv2d               Transpose, Conv, Transpose
batch_norm                             Mul, Add
relu, relu6, add, flatten              Relu, Clip, Add, Flatten
pools                                  ReduceMean; Transpose, AveragePool or MaxPool
layer_norm, gelu                       LayerNormalization; Div, Erf, Add, Mul
attention, embedding, sentence         Gather, Reshape, Transpose, MatMul, Where, Softmax
=====================================  ====================================================
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.interop.onnx_float import OPSET, require_onnx
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node
from refquant.nn.normalization import batch_norm
from refquant.nn.operations import (
    add,
    average_pool,
    flatten,
    global_average_pool,
    linear,
    max_pool,
    relu,
    relu6,
)
from refquant.nn.transformer import (
    attend,
    attention_weights,
    embed_tokens,
    gelu,
    layer_norm,
    sentence_embedding,
)

__all__ = ["OPSET", "export_onnx"]


def export_onnx(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    inputs: Mapping[str, tuple[type[np.generic], Sequence[int | str]]],
    outputs: Sequence[str],
) -> bytes:
    """The file of a network, ready for any runtime of ONNX.

    Parameters
    ----------
    nodes : sequence of Node
        In evaluation form.
    values : mapping of str to ndarray
        Parameters and statistics.
    inputs : mapping of str to (dtype, shape)
        A string in a shape names a size that is left open: ``("batch", 8, 8, 1)``.
    outputs : sequence of str
        Names of nodes.

    Returns
    -------
    bytes
        The same for the same network.

    Raises
    ------
    ValueError
        If an operation has no counterpart, or a name is not known.
    ModuleNotFoundError
        If the package `onnx` is not installed.

    References
    ----------
    ONNX specification, "Operators", opset 21.

    Examples
    --------
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> x = {"x": (np.float32, ("batch", 8, 8, 1))}
    >>> len(export_onnx(model.nodes, model.values, x, ["logits"]))   # doctest: +SKIP
    117462
    """
    onnx = require_onnx()
    graph = _Graph(values)
    known = {*values, *inputs}
    for node in nodes:
        function, settings = function_of(node.op), settings_of(node.op)
        if function not in _WRITERS:
            raise ValueError(f"`nodes` must have counterparts in ONNX; got {node.name} by "
                             f"{getattr(function, '__name__', function)}")
        unknown = sorted(set(node.inputs) - known)
        if unknown:
            raise ValueError(f"`{unknown[0]}` must be an input, a value or an earlier node; "
                             "got nothing of that name")
        _WRITERS[function](graph, node, settings)
        known.add(node.name)
    missing = sorted(set(outputs) - {n.name for n in nodes})
    if missing:
        raise ValueError(f"`outputs` must name nodes; got {missing[0]!r}")
    make = onnx.helper
    of_type = make.np_dtype_to_tensor_dtype
    made = make.make_graph(
        graph.nodes, "refquant",
        [make.make_tensor_value_info(name, of_type(np.dtype(kind)), list(shape))
         for name, (kind, shape) in inputs.items()],
        [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        graph.constants(onnx))
    model = make.make_model(made, opset_imports=[make.make_opsetid("", OPSET)],
                            producer_name="refquant")
    model.ir_version = 10
    inferred = onnx.shape_inference.infer_shapes(model).graph.output
    for output, known_shape in zip(model.graph.output, inferred, strict=True):
        output.CopyFrom(known_shape)
    return bytes(model.SerializeToString())


class _Graph:
    """Operators so far, and the constants they read."""

    def __init__(self, values: Mapping[str, Array]) -> None:
        self.values = values
        self.nodes: list[Any] = []
        self.used: dict[str, Array] = {}

    def constants(self, onnx: Any) -> list[Any]:
        return [onnx.numpy_helper.from_array(np.ascontiguousarray(a), n)
                for n, a in self.used.items()]

    def constant(self, name: str, array: Array) -> str:
        """A constant of this content; a name that has another content already gets a mark."""
        while name in self.used and not _same(self.used[name], array):
            name += "_"
        self.used[name] = array
        return name

    def value(self, name: str) -> str:
        """A value by name: a constant if it is one of ours."""
        return self.constant(name, self.values[name]) if name in self.values else name

    def op(self, kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        make = require_onnx().helper.make_node
        self.nodes.append(make(kind, list(inputs), [output], name=f"{output}:{kind}", **attributes))
        return output

    def chain(self, node: Node, *steps: tuple[str, Sequence[str], dict[str, Any]]) -> None:
        """Operators one behind the other; "" among their inputs is the one before."""
        before = ""
        for i, (kind, inputs, attributes) in enumerate(steps):
            last = i == len(steps) - 1
            output = node.name if last else f"{node.name}/{i}"
            before = self.op(kind, [n or before for n in inputs], output, **attributes)


def _same(a: Array, b: Array) -> bool:
    return a.dtype == b.dtype and np.array_equal(a, b)


_Writer: TypeAlias = Callable[[_Graph, Node, Mapping[str, Any]], None]
_WRITERS: dict[Callable[..., Any], _Writer] = {}


def _writes(*functions: Callable[..., Any]) -> Callable[[_Writer], _Writer]:
    def note(writer: _Writer) -> _Writer:
        _WRITERS.update(dict.fromkeys(functions, writer))
        return writer

    return note


@_writes(linear)
def _linear(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    x, weight, *bias = node.inputs
    w = g.constant(weight, g.values[weight].T)
    steps: list[tuple[str, Sequence[str], dict[str, Any]]] = [("MatMul", [g.value(x), w], {})]
    if bias:
        steps.append(("Add", ["", g.value(bias[0])], {}))
    g.chain(node, *steps)


@_writes(conv2d, depthwise_conv2d)
def _convolution(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    x, weight, *bias = node.inputs
    array = g.values[weight]
    depthwise = function_of(node.op) is depthwise_conv2d
    w = g.constant(weight, array.transpose(0, 3, 1, 2))
    stride, padding = settings.get("stride", 1), settings.get("padding", 0)
    g.chain(
        node, ("Transpose", [g.value(x)], {"perm": [0, 3, 1, 2]}),
        ("Conv", ["", w, *map(g.value, bias)], {
            "kernel_shape": list(array.shape[1:3]), "strides": [stride] * 2,
            "pads": [padding] * 4, "group": len(array) if depthwise else 1}),
        ("Transpose", [""], {"perm": [0, 2, 3, 1]}))


@_writes(batch_norm)
def _normalization(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    gamma, beta, mean, variance = (g.values[n] for n in node.inputs[1:])
    gain = (gamma / np.sqrt(variance + settings.get("epsilon", 1e-5))).astype(gamma.dtype)
    shift = (beta - mean * gain).astype(gamma.dtype)
    g.chain(node, ("Mul", [node.inputs[0], g.constant(f"{node.name}.gain", gain)], {}),
            ("Add", ["", g.constant(f"{node.name}.shift", shift)], {}))


@_writes(relu, add, gelu, relu6)
def _elementwise(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    function, x = function_of(node.op), g.value(node.inputs[0])
    if function is relu:
        g.chain(node, ("Relu", [x], {}))
    elif function is add:
        g.chain(node, ("Add", [x, g.value(node.inputs[1])], {}))
    elif function is relu6:
        ends = [g.constant(f"clip.{v}", np.array(v, np.float32)) for v in (0, 6)]
        g.chain(node, ("Clip", [x, *ends], {}))
    else:
        root, one, half = (g.constant(f"gelu.{n}", np.array(v, np.float32))
                           for n, v in (("root2", 2**0.5), ("one", 1), ("half", 0.5)))
        g.chain(node, ("Div", [x, root], {}), ("Erf", [""], {}), ("Add", ["", one], {}),
                ("Mul", ["", x], {}), ("Mul", ["", half], {}))


@_writes(flatten, global_average_pool, average_pool, max_pool)
def _shape(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    function, x = function_of(node.op), g.value(node.inputs[0])
    if function is flatten:
        g.chain(node, ("Flatten", [x], {"axis": 1}))
    elif function is global_average_pool:
        axes = g.constant("axes.image", np.array([1, 2]))
        g.chain(node, ("ReduceMean", [x, axes], {"keepdims": 0}))
    else:
        size = settings["size"]
        stride = settings.get("stride") or size
        kind = "AveragePool" if function is average_pool else "MaxPool"
        g.chain(node, ("Transpose", [x], {"perm": [0, 3, 1, 2]}),
                (kind, [""], {"kernel_shape": [size] * 2, "strides": [stride] * 2}),
                ("Transpose", [""], {"perm": [0, 2, 3, 1]}))


@_writes(layer_norm)
def _layer_norm(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    g.chain(node, ("LayerNormalization", list(map(g.value, node.inputs)),
                   {"axis": -1, "epsilon": settings.get("epsilon", 1e-12)}))


@_writes(embed_tokens)
def _embedding(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    tokens, words, positions, kind = map(g.value, node.inputs)
    zero, one = (g.constant(f"index.{n}", np.array([n])) for n in (0, 1))
    length = g.op("Shape", [tokens], f"{node.name}/length", start=1, end=2)
    rows = g.op("Slice", [positions, zero, length, zero, one], f"{node.name}/rows")
    first = g.op("Slice", [kind, zero, one, zero, one], f"{node.name}/kind")
    g.chain(node, ("Gather", [words, tokens], {"axis": 0}), ("Add", ["", rows], {}),
            ("Add", ["", first], {}))


@_writes(attention_weights)
def _attention(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    query, key, mask = node.inputs
    heads = int(settings["heads"])
    split = g.constant(f"shape.split{heads}", np.array([0, 0, heads, -1]))
    q, k = (g.op("Transpose", [g.op("Reshape", [g.value(n), split], f"{node.name}/{n}.split")],
                 f"{node.name}/{n}.heads", perm=perm)
            for n, perm in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1])))
    size = g.op("Shape", [q], f"{node.name}/size", start=3, end=4)
    width = g.op("Cast", [size], f"{node.name}/width", to=1)
    root = g.op("Sqrt", [width], f"{node.name}/root")
    axes = g.constant("axes.heads", np.array([1, 2]))
    seen = g.op("Cast", [g.op("Unsqueeze", [mask, axes], f"{node.name}/mask")],
                f"{node.name}/seen", to=9)
    least = g.constant("least", np.array(np.finfo(np.float32).min))
    g.chain(node, ("MatMul", [q, k], {}), ("Div", ["", root], {}),
            ("Where", [seen, "", least], {}), ("Softmax", [""], {"axis": -1}))


@_writes(attend)
def _attend(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    weights, value = node.inputs
    size = g.op("Shape", [weights], f"{node.name}/heads", start=1, end=2)
    zeros, rest = (g.constant(f"shape.{n}", np.array(v)) for n, v in (("00", [0, 0]), ("-1", [-1])))
    split = g.op("Concat", [zeros, size, rest], f"{node.name}/split", axis=0)
    v = g.op("Transpose", [g.op("Reshape", [value, split], f"{node.name}/parts")],
             f"{node.name}/value", perm=[0, 2, 1, 3])
    joined = g.constant("shape.joined", np.array([0, 0, -1]))
    g.chain(node, ("MatMul", [weights, v], {}), ("Transpose", [""], {"perm": [0, 2, 1, 3]}),
            ("Reshape", ["", joined], {}))


@_writes(sentence_embedding)
def _sentence(g: _Graph, node: Node, settings: Mapping[str, Any]) -> None:
    hidden, mask = node.inputs
    one, last = (g.constant(f"axes.{n}", np.array([n])) for n in (1, 2))
    counted = g.op("Cast", [mask], f"{node.name}/counted", to=1)
    total = g.op("ReduceSum", [counted, one], f"{node.name}/total", keepdims=1)
    share = g.op("Unsqueeze", [g.op("Div", [counted, total], f"{node.name}/share"), last],
                 f"{node.name}/column")
    weighed = g.op("Mul", [hidden, share], f"{node.name}/weighed")
    mean = g.op("ReduceSum", [weighed, one], f"{node.name}/mean", keepdims=0)
    norm = g.op("ReduceL2", [mean, one], f"{node.name}/norm", keepdims=1)
    g.op("Div", [mean, norm], node.name)
