"""Mean and spread of what layers of an ONNX file put out, and their repair in the file.

The file measures itself: behind each layer stand a few operators that bring its output back to the
mean and deviation that the float model's has on the same batch, so that a layer is measured with
all before it repaired, in one run; what a batch norm does in training. Since it is that of the same
batch, a batch may be of any size, of one example too. The factors go into the scales of the
weights, the rest into biases, and the operators are not in the file that is kept.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.repair import MOST_GAIN
from refquant.interop.onnx_float import FloatOnnx, OnnxLayer, require_onnx, run_values

__all__ = ["Moments", "Repair", "moments_of", "repairs", "with_shifts"]

#: A variance below is none: the channel is switched off.
SMALLEST = 1e-12


class Moments(NamedTuple):
    """Of each channel of a layer's output, how many axes that has, and those of each batch."""

    mean: Array
    deviation: Array
    rank: int
    batches: list[tuple[Array, Array]]


class Repair(NamedTuple):
    """What the weights of each channel are multiplied with, and what is added to its output."""

    gain: Array
    shift: Array


def moments_of(
    model: FloatOnnx, batches: Sequence[Mapping[str, Array]]
) -> dict[str, Moments]:
    """Of the float model, by the name of the weight; of layers whose weight has one reader."""
    nodes = _nodes(model)
    names = {w: node.output[0] for w, node in nodes.items()}
    found: dict[str, list[tuple[Array, Array, int]]] = {w: [] for w in nodes}
    for values in run_values(model, batches, list(names.values())):
        for weight, name in names.items():
            value = np.asarray(values[name], np.float64)
            axes = _axes(nodes[weight].op_type, value.ndim)
            found[weight].append((value.mean(axes), value.var(axes), value.ndim))
    return {w: Moments(np.mean([m for m, _, _ in rows], axis=0),
                       np.sqrt(np.mean([v for _, v, _ in rows], axis=0)
                               + np.var([m for m, _, _ in rows], axis=0)), rows[0][2],
                       [(m, np.sqrt(v)) for m, v, _ in rows])
            for w, rows in found.items() if rows}


def repairs(
    model: FloatOnnx, content: bytes, wanted: Mapping[str, Moments],
    batches: Sequence[Mapping[str, Array]],
) -> dict[str, Repair]:
    """What gives the layers of a quantized file the moments of the float model, in one run.

    `wanted` was measured on the same batches.
    """
    onnx = require_onnx()
    proto = onnx.ModelProto.FromString(content)
    outputs = {name: [f"{name}.measured.{k}" for k in ("mean", "variance")]
               for name in wanted}
    slots = {name: _slot(model, name) for name in wanted}
    nodes_of = _nodes(model)
    layers = {_name(node): weight for weight, node in nodes_of.items()}
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    fed: list[dict[str, Array]] = [dict(batch) for batch in batches]
    for node in nodes:
        proto.graph.node.append(node)
        weight = layers.get(_name(node), "")
        if weight in wanted:
            to = wanted[weight]
            alone = slots[weight] is None           # its bias cannot be multiplied: only the mean
            for batch, (centre, spread) in zip(fed, to.batches, strict=True):
                batch[f"{weight}.to.mean"] = centre.astype(np.float32)
                batch[f"{weight}.to.deviation"] = (0 * spread if alone else spread).astype(
                    np.float32)
            proto.graph.node.extend(_renormed(
                proto.graph, proto.graph.node[-1], weight, to.rank, outputs[weight], onnx))
    measured = model._replace(proto=proto)
    names = [n for pair in outputs.values() for n in pair]
    rows = list(run_values(measured, fed, names))
    found = {}
    for weight, (mean, variance) in outputs.items():
        means = np.array([np.ravel(r[mean]) for r in rows], np.float64)
        inner = np.array([np.ravel(r[variance]) for r in rows], np.float64)
        m, to = means.mean(0), wanted[weight]
        g = _gain(to.deviation, inner.mean(0) + means.var(0))
        slot = slots[weight]
        if slot is None:
            g = np.ones(len(m))
        # What stands in an Add behind the layer was not in what was measured.
        inside = slot is not None and slot.node == _name(nodes_of[weight])
        bias = slot.bias.astype(np.float64) if inside and slot and slot.bias is not None else 0.0
        found[weight] = Repair(g, (g - 1) * bias + to.mean - g * m)
    return found


def with_shifts(model: FloatOnnx, content: bytes, shifts: Mapping[str, Array]) -> bytes:
    """The file with something added to the output of layers: to a bias, where there is one."""
    onnx = require_onnx()
    proto = onnx.ModelProto.FromString(content)
    at = {_name(node): i for i, node in enumerate(proto.graph.node)}
    late: list[tuple[int, Any]] = []
    old: set[str] = set()
    for weight, shift in shifts.items():
        node, slot, name = _nodes(model)[weight], _slot(model, weight), f"{weight}.shift"
        here = proto.graph.node[at[_name(node)]]
        if slot is not None and slot.bias is not None:
            total = slot.bias.astype(np.float64) + shift
            inputs = proto.graph.node[at[slot.node]].input
            old.add(inputs[slot.place])
            inputs[slot.place] = name
        else:
            total = shift
            if slot is not None and slot.place == len(here.input):
                here.input.append(name)
            else:
                output = here.output[0]
                here.output[0] = f"{output}.unshifted"
                column = (-1, 1, 1) if here.op_type == "Conv" else (-1,)
                total = total.reshape(column)
                late.append((at[_name(node)] + 1, onnx.helper.make_node(
                    "Add", [here.output[0], name], [output], name=f"refquant:{weight}:Add")))
        proto.graph.initializer.append(
            onnx.numpy_helper.from_array(total.astype(np.float32), name))
    for i, node in sorted(late, key=lambda pair: -pair[0]):
        proto.graph.node.insert(i, node)
    read = {i for node in proto.graph.node for i in node.input}
    for tensor in [t for t in proto.graph.initializer if t.name in old and t.name not in read]:
        proto.graph.initializer.remove(tensor)
    return bytes(proto.SerializeToString())


class _Slot(NamedTuple):
    """Where the bias of a layer is: node, number of the input, and its value if it has one."""

    node: str
    place: int
    bias: Array | None


def _slot(model: FloatOnnx, weight: str) -> _Slot | None:
    """None where nothing can take a shift, or what is there is not constant."""
    onnx, node = require_onnx(), _nodes(model)[weight]
    constants = {t.name: t for t in model.proto.graph.initializer}
    out = len(model.by_weight[weight].matrix)

    def constant(name: str) -> Array | None:
        tensor = constants.get(name)
        if tensor is None or tensor.data_type != onnx.TensorProto.FLOAT:
            return None
        array = np.asarray(onnx.numpy_helper.to_array(tensor))
        return array.ravel() if array.size == out and array.shape[-1:] == (out,) else None

    if node.op_type in ("Conv", "Gemm"):
        beta = next((a.f for a in node.attribute if a.name == "beta"), 1.0)
        if len(node.input) < 3 or not node.input[2]:
            return _Slot(_name(node), 2, None) if len(node.input) < 3 else None
        bias = constant(node.input[2])
        return None if bias is None or beta != 1 else _Slot(_name(node), 2, bias)
    readers = [n for n in model.proto.graph.node if node.output[0] in n.input]
    known = node.output[0] in model.outputs
    if len(readers) == 1 and readers[0].op_type == "Add" and not known:
        index = 1 - list(readers[0].input).index(node.output[0])
        bias = constant(readers[0].input[index])
        if bias is not None:
            return _Slot(_name(readers[0]), index, bias)
    return _Slot(_name(node), -1, None)


def _renormed(
    graph: Any, node: Any, weight: str, rank: int, outputs: Sequence[str], onnx: Any
) -> list[Any]:
    """Operators that give the output of a node moments that are fed, and tell which it had."""
    name, (mean, variance) = node.output[0], outputs
    shape = [1] * rank
    shape[1 if node.op_type == "Conv" else -1] = -1

    def constant(key: str, array: Array) -> str:
        graph.initializer.append(onnx.numpy_helper.from_array(array, f"{name}.measured.{key}"))
        return f"{name}.measured.{key}"

    def given(key: str) -> str:
        graph.input.append(onnx.helper.make_tensor_value_info(
            f"{weight}.to.{key}", onnx.TensorProto.FLOAT, [None]))
        return op("Reshape", [graph.input[-1].name, where])

    def op(kind: str, inputs: Sequence[str], output: str = "", **settings: Any) -> str:
        output = output or f"{name}.measured.{len(made)}"
        made.append(onnx.helper.make_node(kind, list(inputs), [output], **settings))
        return output

    made: list[Any] = []
    node.output[0] = f"{name}.measured"
    axes = constant("axes", np.array(_axes(node.op_type, rank), np.int64))
    where = constant("shape", np.array(shape, np.int64))
    to, deviation = given("mean"), given("deviation")
    least, low, high = (constant(k, np.array(v, np.float32)) for k, v in (
        ("least", SMALLEST), ("low", 1 / MOST_GAIN), ("high", MOST_GAIN)))
    op("ReduceMean", [node.output[0], axes], mean, keepdims=1)
    centred = op("Sub", [node.output[0], mean])
    op("ReduceMean", [op("Mul", [centred, centred]), axes], variance, keepdims=1)
    ratio = op("Div", [deviation, op("Sqrt", [op("Max", [variance, least])])])
    varies = op("And", [op("Greater", [variance, least]), op("Greater", [deviation, least])])
    one = constant("one", np.array(1, np.float32))
    gain = op("Where", [varies, op("Clip", [ratio, low, high]), one])
    op("Add", [op("Mul", [centred, gain]), to], name)
    return made


def _gain(deviation: Array, variance: Array) -> Array:
    """What brings a variance to a deviation, as the operators of `_renormed` do; 1 without any."""
    varies = (variance > SMALLEST) & (deviation > SMALLEST)
    ratio = deviation / np.sqrt(np.maximum(variance, SMALLEST))
    return np.where(varies, np.clip(ratio, 1 / MOST_GAIN, MOST_GAIN), 1.0)


def _axes(kind: str, rank: int) -> tuple[int, ...]:
    """All but that of the channels."""
    channel = 1 if kind == "Conv" else rank - 1
    return tuple(i for i in range(rank) if i != channel)


def _nodes(model: FloatOnnx) -> dict[str, Any]:
    """The node of each weight that a single layer reads."""
    count = Counter(x.weight for x in model.layers)
    by_name: dict[str, OnnxLayer] = {x.node: x for x in model.layers if count[x.weight] == 1}
    return {by_name[_name(n)].weight: n for n in model.proto.graph.node if _name(n) in by_name}


def _name(node: Any) -> str:
    return str(node.name or node.output[0])
