"""Write codes into an ONNX model: QDQ, the form that every runtime of ONNX understands.

A quantized weight is stored as codes, and a DequantizeLinear in front of its reader turns
them into floats again, ``scale * (q - zero_point)``; runtimes fuse the two. A quantized
activation passes a QuantizeLinear and a DequantizeLinear. A division in front of a layer
(AWQ, SmoothQuant) is one Mul by the reciprocal.

=============  ======================================  ============================
weight of      stored as                               scales
=============  ======================================  ============================
2 to 4 bits    INT4 or UINT4, two codes in a byte      (out) or (out, groups)
5 to 8 bits    INT8 or UINT8                           (out) or (out, groups)
=============  ======================================  ============================

Groups run along the inputs; a convolution has one scale for each filter.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_int
from refquant.interop._external import within_protobuf
from refquant.interop.onnx_float import FloatOnnx, OnnxLayer, require_onnx
from refquant.kernels.packing import pack
from refquant.quantizers.uniform import Uniform

__all__ = ["CodedWeight", "weight_bytes", "with_codes"]


class CodedWeight(NamedTuple):
    """A weight as integers.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
        As `OnnxLayer.matrix`.
    scale : ndarray of float32, shape (out, groups)
    zero_point : ndarray of int32, shape (out, groups)
        Of float32 where it need not be whole (HQQ): not for ONNX.
    bits : int
        From 2 to 8.
    signed : bool

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).
    """

    codes: Codes
    scale: Array
    zero_point: Array
    bits: int
    signed: bool

    def decoded(self) -> Array:
        """What the codes stand for, as DequantizeLinear computes it: in float32."""
        groups = self.scale.shape[1]
        size = -(-self.codes.shape[1] // groups)
        scale, zero = (np.repeat(p, size, axis=1)[:, : self.codes.shape[1]]
                       for p in (self.scale, self.zero_point))
        return (self.codes - zero).astype(np.float32) * scale


def with_codes(
    model: FloatOnnx,
    weights: Mapping[str, CodedWeight],
    activations: Mapping[str, Uniform] | None = None,
    multiplied: Mapping[str, Array] | None = None,
) -> bytes:
    """The model with codes for weights, and values quantized on the way.

    Parameters
    ----------
    model : FloatOnnx
        Is not changed.
    weights : mapping of str to CodedWeight
        By the name of the constant.
    activations : mapping of str to Uniform, optional
        By the name of the value that layers read; one scale, 8 bits. Only the layers of
        `model.layers` read the quantized value.
    multiplied : mapping of str to ndarray, optional
        By the name of the value: what its last axis is multiplied with before the layers
        of `model.layers` read it (and before it is quantized).

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If a name is not known, or a record does not fit its layer.

    References
    ----------
    ONNX specification, QuantizeLinear and DequantizeLinear, opset 21; onnxruntime,
    "Quantize ONNX models", QDQ.
    """
    onnx = require_onnx()
    activations, multiplied = activations or {}, multiplied or {}
    layers = model.by_weight
    read = {layer.reads for layer in model.layers}
    for name in (*activations, *multiplied):
        if name not in read:
            raise ValueError(f"`{name}` must be read by a layer; got no layer that does")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    new: list[Any] = []
    renamed: dict[str, str] = {}
    for name, coded in weights.items():
        if name not in layers:
            raise ValueError(f"`{name}` must be the weight of a layer; got no such layer")
        new.append(_store(graph, layers[name], coded, onnx))
        renamed[name] = f"{name}.dequantized"
    before = {name: _enter(graph, name, activations.get(name), multiplied.get(name), onnx)
              for name in dict.fromkeys((*activations, *multiplied))}
    nodes, done = list(graph.node), set()
    del graph.node[:]
    graph.node.extend(new)
    names = {layer.node for layer in model.layers}
    for node in nodes:
        if (node.name or node.output[0]) in names:
            entered = node.input[0]
            if entered in before:
                if entered not in done:
                    graph.node.extend(before[entered])
                    done.add(entered)
                node.input[0] = before[entered][-1].output[0]
        for i, name in enumerate(node.input):
            if name in renamed:
                node.input[i] = renamed[name]
        graph.node.append(node)
    inside = _read_inside(nodes) | {o.name for o in graph.output}   # there, it keeps its name
    kept = [t for t in graph.initializer if t.name not in renamed or t.name in inside]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    stale = [v for v in graph.value_info if v.name in renamed]
    for value in stale:
        graph.value_info.remove(value)
    return within_protobuf(proto)


def weight_bytes(coded: CodedWeight) -> int:
    """Bytes of a weight in the file: codes, scales and zero points that are not 0.

    Parameters
    ----------
    coded : CodedWeight

    Returns
    -------
    int

    References
    ----------
    ONNX specification, "TensorProto".

    Examples
    --------
    >>> zeros = np.zeros((4, 2), np.int32)
    >>> scale = np.ones((4, 2), np.float32)
    >>> coded = CodedWeight(np.zeros((4, 64), np.int32), scale, zeros, bits=4, signed=True)
    >>> weight_bytes(coded)
    160
    """
    width = 4 if coded.bits <= 4 else 8
    size = -(-coded.codes.size * width // 8) + 4 * coded.scale.size
    return size + (-(-coded.zero_point.size * width // 8) if coded.zero_point.any() else 0)


def _read_inside(nodes: Iterable[Any]) -> set[str]:
    """Names that the branches and loop bodies of nodes read, at any depth."""
    bodies = [g for node in nodes for a in node.attribute
              for g in (*a.graphs, *([a.g] if a.HasField("g") else []))]
    found: set[str] = set()
    for body in bodies:
        found |= {name for node in body.node for name in node.input}
        found |= {o.name for o in body.output} | _read_inside(body.node)
    return found


def _store(graph: Any, layer: OnnxLayer, coded: CodedWeight, onnx: Any) -> Any:
    """Codes and scales as constants, and the node that decodes them."""
    require_int("bits", coded.bits, 2, 8)
    out, n = layer.matrix.shape
    groups = coded.scale.shape[1] if coded.scale.ndim == 2 else 0
    if coded.codes.shape != (out, n) or coded.scale.shape != (out, groups) or not (
            coded.zero_point.shape == coded.scale.shape) or not groups:
        raise ValueError(f"`{layer.weight}` must have codes of shape {(out, n)} and scales "
                         f"(out, groups); got {coded.codes.shape} and {coded.scale.shape}")
    if coded.zero_point.dtype.kind not in "iu":
        raise ValueError(f"`{layer.weight}` must have whole zero points in an ONNX file; "
                         f"got {coded.zero_point.dtype}")
    if groups > 1 and layer.op == "Conv":
        raise ValueError(f"`{layer.weight}` must have one scale per filter of a convolution; "
                         f"got {groups} groups")
    codes = coded.codes
    if layer.op == "Conv":
        shape = tuple(next(t for t in graph.initializer if t.name == layer.weight).dims)
        kernel = (out, *shape[2:], shape[1])
        codes = codes.reshape(kernel).transpose(0, 3, 1, 2)
    elif layer.transposed:
        codes = codes.T
    graph.initializer.append(_tensor(layer.weight + ".codes", codes, coded, onnx))
    scale, zero = coded.scale.astype(np.float32), coded.zero_point
    axis = 1 if layer.transposed else 0
    settings = {"axis": axis}
    if groups == 1:
        scale, zero = scale[:, 0], zero[:, 0]
    else:
        settings = {"axis": 1 - axis, "block_size": -(-n // groups)}
        if layer.transposed:
            scale, zero = scale.T, zero.T
    inputs = [layer.weight + ".codes", layer.weight + ".scale"]
    graph.initializer.append(
        onnx.numpy_helper.from_array(np.ascontiguousarray(scale), inputs[1]))
    if coded.zero_point.any():
        inputs.append(layer.weight + ".zero_point")
        graph.initializer.append(_tensor(inputs[2], zero, coded, onnx))
    return onnx.helper.make_node("DequantizeLinear", inputs, [layer.weight + ".dequantized"],
                                 name=f"refquant:{layer.weight}:DequantizeLinear", **settings)


def _tensor(name: str, codes: Array, coded: CodedWeight, onnx: Any) -> Any:
    """Codes in the smallest type that holds them, two to a byte up to 4 bits."""
    kinds = onnx.TensorProto
    flat = np.ascontiguousarray(codes).ravel()
    low, high = (-(2 ** (coded.bits - 1)), 2 ** (coded.bits - 1) - 1) if coded.signed else (
        0, 2**coded.bits - 1)
    if flat.size and (flat.min() < low or flat.max() > high):
        raise ValueError(f"`{name}` must hold codes from {low} to {high}; "
                         f"got {flat.min()} to {flat.max()}")
    if coded.bits <= 4:
        kind = kinds.INT4 if coded.signed else kinds.UINT4
        raw = pack(flat & 15, bits=4, signed=False).tobytes()
    else:
        kind = kinds.INT8 if coded.signed else kinds.UINT8
        raw = flat.astype(np.int8 if coded.signed else np.uint8).tobytes()
    tensor = kinds(name=name, data_type=kind, raw_data=raw)
    tensor.dims.extend(codes.shape)
    return tensor


def _enter(
    graph: Any, name: str, quantizer: Uniform | None, factor: Array | None, onnx: Any
) -> list[Any]:
    """The nodes between a value and the layers that read it."""
    made, value = [], name
    constant = onnx.numpy_helper.from_array
    if factor is not None:
        graph.initializer.append(constant(np.asarray(factor, np.float32), f"{name}.factor"))
        value = f"{name}.multiplied"
        made.append(onnx.helper.make_node("Mul", [name, f"{name}.factor"], [value],
                                          name=f"refquant:{name}:Mul"))
    if quantizer is None:
        return made
    signed, bits = quantizer.qmin < 0, quantizer.code_bits
    if quantizer.scale.size != 1 or bits > 8 or quantizer.qmin != (-128 if signed else 0):
        raise ValueError(f"`{name}` must have one scale and the codes of int8 or uint8; "
                         f"got {quantizer.scale.size} scales and codes from {quantizer.qmin}")
    dtype = np.int8 if signed else np.uint8
    graph.initializer.append(constant(
        np.asarray(quantizer.scale.reshape(()), np.float32), f"{name}.scale"))
    graph.initializer.append(constant(
        np.asarray(quantizer.zero_point.reshape(()), dtype), f"{name}.zero"))
    for kind, output in (("QuantizeLinear", f"{name}.codes"),
                         ("DequantizeLinear", f"{name}.quantized")):
        made.append(onnx.helper.make_node(kind, [value, f"{name}.scale", f"{name}.zero"],
                                          [output], name=f"refquant:{name}:{kind}"))
        value = output
    return made
