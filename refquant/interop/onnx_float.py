"""Open a float ONNX model: its layers with weights, and every value that enters them.

What can be quantized is a product with a constant matrix: MatMul, Gemm and Conv. Each
becomes an `OnnxLayer` with its weight turned to our convention, outputs first, so that every
method of `refquant.ptq` applies. What has a constant and cannot be read this way is listed with
the reason, and stays float.

Values are computed by onnxruntime where it is installed, else by the evaluator of `onnx`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import short
from refquant.interop._external import MOST, bring_in, declared_bits, within_protobuf
from refquant.nn.convolution import patches

__all__ = ["FloatOnnx", "OnnxLayer", "input_rows", "open_float", "run_values"]

#: Models are written in this opset, and lifted to it: blocks and 4-bit integers came with it.
OPSET = 21


class OnnxLayer(NamedTuple):
    """One product with a constant weight.

    Attributes
    ----------
    node : str
        Name of the node, or of its first output.
    op : str
        ``MatMul``, ``Gemm`` or ``Conv``.
    weight : str
        Name of the constant.
    reads : str
        Name of the other factor.
    matrix : ndarray of float32, shape (out, in)
        The weight; of a convolution each row is a filter as (height, width, channels).
    transposed : bool
        The file has it as (in, out).
    window : tuple of int, or None
        Height, width, stride and padding of a convolution whose inputs can be cut into
        rows; None for one that cannot, and for products.

    References
    ----------
    ONNX specification, operators MatMul, Gemm and Conv.
    """

    node: str
    op: str
    weight: str
    reads: str
    matrix: Array
    transposed: bool
    window: tuple[int, int, int, int] | None = None


class FloatOnnx(NamedTuple):
    """A model, its layers, and what stays float.

    Attributes
    ----------
    proto : onnx.ModelProto
    layers : list of OnnxLayer
    left : dict of str to str
        Why each other node with a constant matrix stays as it is.
    inputs : dict of str to (dtype, tuple)
        What must be given; None where a size is open.
    outputs : list of str

    References
    ----------
    ONNX specification, "Graphs".
    """

    proto: Any
    layers: list[OnnxLayer]
    left: dict[str, str]
    inputs: dict[str, tuple["np.dtype[Any]", tuple[int | None, ...]]]
    outputs: list[str]

    @property
    def by_weight(self) -> dict[str, OnnxLayer]:
        """The first reader of each weight: it says which way up the codes are."""
        found: dict[str, OnnxLayer] = {}
        for layer in self.layers:
            found.setdefault(layer.weight, layer)
        return found


def open_float(file: Path | bytes) -> FloatOnnx:
    """The model of a file, lifted to opset 21.

    Parameters
    ----------
    file : Path or bytes
        Weights may lie in files beside it, in its own folder; not beside bytes.

    Returns
    -------
    FloatOnnx
        With all weights inside, at most 2 GB.

    Raises
    ------
    ValueError
        If this is no ONNX model, a constant does not hold what it declares, weights lie
        outside of the folder, or it cannot be lifted.
    ModuleNotFoundError
        If the package `onnx` is not installed.

    References
    ----------
    ONNX specification, "Models" and "Version conversion".

    Examples
    --------
    >>> open_float(b"not a model")                          # doctest: +SKIP
    Traceback (most recent call last):
    ValueError: `file` must be an ONNX model; got something else
    """
    onnx = require_onnx()
    proto = _lifted(parse_onnx(file), onnx)
    graph = proto.graph
    if not graph.output:
        raise ValueError("`file` must have outputs; got a model with none")
    constants = {t.name: t for t in graph.initializer}
    for value in [v for v in graph.input if v.name in constants]:
        graph.input.remove(value)       # before IR version 4, a constant is an input as well
    layers: list[OnnxLayer] = []
    left: dict[str, str] = {}
    for node in graph.node:
        if not node.output or (node.op_type in _READERS and len(node.input) < 2):
            raise ValueError("`file` must have nodes with inputs and outputs; got "
                             f"{short(node.op_type)} {short(node.name)} without")
        name = node.name or node.output[0]
        if node.op_type in _READERS and node.domain in ("", "ai.onnx"):
            found = _READERS[node.op_type](name, node, constants, onnx)
            if isinstance(found, OnnxLayer):
                layers.append(found)
            elif found:
                left[name] = found
        elif node.op_type not in _HARMLESS and any(
                len(constants[i].dims) > 1 for i in node.input if i in constants):
            left[name] = f"{node.op_type} has a constant matrix and no quantized form here"
    given = {i.name: _slot(i, onnx) for i in graph.input}
    return FloatOnnx(proto, layers, left, given, [o.name for o in graph.output])


def run_values(
    model: FloatOnnx, batches: Sequence[Mapping[str, Array]], names: Sequence[str]
) -> Iterator[dict[str, Array]]:
    """The named values for each batch of inputs, one batch at a time.

    Parameters
    ----------
    model : FloatOnnx
    batches : sequence of mapping of str to ndarray
    names : sequence of str
        Inputs, outputs or anything between.

    Yields
    ------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If the runtime refuses the model or the inputs.

    References
    ----------
    onnxruntime, ``InferenceSession.run``.
    """
    onnx = require_onnx()
    wanted = [n for n in dict.fromkeys(names) if n not in model.inputs]
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    known = {o.name for o in proto.graph.output}
    for name in wanted:
        if name not in known:
            proto.graph.output.append(onnx.ValueInfoProto(name=name))
    run = _runner(within_protobuf(proto), onnx)
    for batch in batches:
        try:
            # Asked for no names, runtimes compute every output.
            made = run(wanted, dict(batch)) if wanted else ()
            values = dict(zip(wanted, made, strict=True))
        except Exception as err:                        # whatever the runtime raises
            raise ValueError(f"`inputs` must be what the model takes; got {_line(err)}") from None
        yield values | {n: batch[n] for n in names if n in model.inputs}


def input_rows(layer: OnnxLayer, value: Array) -> Array:
    """What a layer multiplies its weight with, as rows: ``rows @ matrix.T`` is its product.

    Parameters
    ----------
    layer : OnnxLayer
        With a `window` if it is a convolution.
    value : ndarray of float32
        What it reads.

    Returns
    -------
    ndarray, shape (rows, in)

    Raises
    ------
    ValueError
        If the inputs of this convolution cannot be cut into rows.

    References
    ----------
    Chellapilla et al., 2006, "High performance convolutional neural networks for
    document processing", section 4.

    Examples
    --------
    >>> layer = OnnxLayer("n", "MatMul", "w", "x", np.eye(3), True)
    >>> input_rows(layer, np.ones((2, 4, 3))).shape
    (8, 3)
    """
    if layer.op != "Conv":
        return value.reshape(-1, layer.matrix.shape[1])
    if layer.window is None:
        raise ValueError(f"`layer` must have square strides and pads and one group; "
                         f"got {layer.node}")
    height, width, stride, padding = layer.window
    cut = patches(value.transpose(0, 2, 3, 1), (height, width), stride=stride, padding=padding)
    return cut.reshape(-1, layer.matrix.shape[1])


def require_onnx() -> Any:
    """The package `onnx`, or how to get it."""
    try:
        import onnx
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            "ONNX models need onnx; `python -m pip install onnx onnxruntime` brings it") from err
    return onnx


#: Operators that only move or look up a constant matrix, or add it: nothing to multiply.
_HARMLESS = {"Gather", "Add", "Mul", "Sub", "Div", "Reshape", "Slice", "Where", "Concat",
             "Transpose", "Expand", "Equal", "Pad", "Unsqueeze", "Squeeze", "Cast", "Identity",
             "QuantizeLinear", "DequantizeLinear", "PRelu"}


def parse_onnx(file: Path | bytes) -> Any:
    """The protocol buffer, constants checked; those beside the model are in it afterwards."""
    proto, folder, size = read_proto(file)
    bring_in(proto, folder, size)
    for tensor in proto.graph.initializer:
        require_held(tensor)
    return proto


def read_proto(file: Path | bytes) -> tuple[Any, Path | None, int]:
    """The protocol buffer as it is, the folder of its file, and its size; no other file is read."""
    onnx = require_onnx()
    folder = None if isinstance(file, bytes) else file.parent
    size = len(file) if isinstance(file, bytes) else file.stat().st_size
    if size > MOST:
        raise ValueError("`file` must have at most 2 GB, which is what a protocol buffer holds; "
                         f"got {size / 1e9:.2f} GB")
    content = file if isinstance(file, bytes) else file.read_bytes()
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except Exception:                                   # of protobuf, whose classes move
        raise ValueError("`file` must be an ONNX model; got something else") from None
    if not proto.graph.node:
        raise ValueError("`file` must be an ONNX model with nodes; got none")
    for node in list(proto.graph.node):                 # constants as nodes become initializers
        if node.op_type == "Constant" and len(node.attribute) == 1 and node.output and (
                node.attribute[0].name == "value"):
            tensor = proto.graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            proto.graph.node.remove(node)
    return proto, folder, size


def require_held(tensor: Any) -> None:
    """Raise unless a constant holds as many numbers as its shape declares."""
    count = 1
    for n in tensor.dims:
        count *= int(n)
        if n < 0:
            raise ValueError(f"`{short(tensor.name)}` must have a shape; "
                             f"got {short(list(tensor.dims))}")
    size = declared_bits(tensor)
    if tensor.HasField("raw_data"):
        held = len(tensor.raw_data) * 8 // size
        good = len(tensor.raw_data) == -(-count * size // 8)
    else:
        held = max(len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data),
                   len(tensor.double_data), len(tensor.uint64_data), len(tensor.string_data))
        good = held >= (count if size > 4 else -(-count // 2)) or count == 0
    if not good:
        raise ValueError(f"`{short(tensor.name)}` must hold the {count} numbers of its shape "
                         f"{short(list(tensor.dims))}; got {held}")


def settings_of(node: Any) -> dict[str, Any]:
    """The attributes of a node; a ValueError for those that only a function could have."""
    import onnx

    try:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    except ValueError as err:
        raise ValueError(f"`file` must have nodes with settings of their own; got {short(err)} "
                         f"in {short(node.op_type)}") from None


def _lifted(proto: Any, onnx: Any) -> Any:
    """The same model at `OPSET`, or at its own if that is newer."""
    versions = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise ValueError("`file` must import an opset of ONNX; got none")
    if versions[0] < OPSET:
        try:
            proto = onnx.version_converter.convert_version(proto, OPSET)
        except Exception as err:
            raise ValueError(f"`file` must be liftable from opset {versions[0]} to {OPSET}; "
                             f"got {_line(err)}") from None
    proto.ir_version = max(proto.ir_version, 10)        # the first with 4-bit integers
    return proto


def _runner(content: bytes, onnx: Any) -> Any:
    """A function (names, inputs) -> values on onnxruntime, else on the evaluator of onnx."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(content).run
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]).run
    except Exception as err:
        raise ValueError(f"`file` must be a model that onnxruntime loads; "
                         f"got {_line(err)}") from None


def _line(err: Exception) -> str:
    """The first line of a message, not too long."""
    return " ".join(str(err).split())[:200] or type(err).__name__


def _slot(value: Any, onnx: Any) -> tuple["np.dtype[Any]", tuple[int | None, ...]]:
    kind = value.type.tensor_type
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
    except Exception:
        raise ValueError(f"`{value.name}` must be a tensor; got another kind of input") from None
    return np.dtype(dtype), tuple(
        d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def _floats(name: str, constants: Mapping[str, Any], rank: int, onnx: Any) -> Array | str:
    """A constant as float32, or why it cannot be taken."""
    tensor = constants[name]
    if tensor.data_type != onnx.TensorProto.FLOAT:
        return f"its weight {name} is not float32"
    if len(tensor.dims) != rank:
        return f"its weight {name} has {len(tensor.dims)} axes, not {rank}"
    array = onnx.numpy_helper.to_array(tensor)
    if not array.size:
        return f"its weight {name} is empty"
    if not np.isfinite(array).all():
        return f"its weight {name} is not finite"
    return np.asarray(array)


def _matmul(name: str, node: Any, constants: Mapping[str, Any], onnx: Any) -> OnnxLayer | str:
    x, w = node.input[:2]
    if w not in constants:
        return f"its left factor {x} is the constant" if x in constants else ""
    array = _floats(w, constants, 2, onnx)
    return array if isinstance(array, str) else OnnxLayer(name, "MatMul", w, x, array.T, True)


def _gemm(name: str, node: Any, constants: Mapping[str, Any], onnx: Any) -> OnnxLayer | str:
    x, w = node.input[:2]
    settings = settings_of(node)
    if w not in constants:
        return ""
    if settings.get("transA", 0) or settings.get("alpha", 1.0) != 1.0:
        return "its first factor is transposed or scaled"
    array = _floats(w, constants, 2, onnx)
    if isinstance(array, str):
        return array
    straight = bool(settings.get("transB", 0))
    return OnnxLayer(name, "Gemm", w, x, array if straight else array.T, not straight)


def _conv(name: str, node: Any, constants: Mapping[str, Any], onnx: Any) -> OnnxLayer | str:
    x, w = node.input[:2]
    if w not in constants:
        return ""
    array = _floats(w, constants, 4, onnx)
    if isinstance(array, str):
        return array
    out, _, height, width = array.shape
    matrix = array.transpose(0, 2, 3, 1).reshape(out, -1)
    s = settings_of(node)
    strides, pads = s.get("strides", [1, 1]), s.get("pads", [0] * 4)
    lists = (strides, pads, s.get("dilations", [1]))
    if not all(isinstance(v, list) and v and all(isinstance(n, int) for n in v) for v in lists):
        raise ValueError(f"`file` must have convolutions with whole numbers as strides, pads and "
                         f"dilations; got others in {short(name)}")
    plain = (len(set(strides)) == 1 and len(set(pads)) == 1 and s.get("group", 1) == 1
             and set(s.get("dilations", [1])) == {1}
             and s.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID"))
    window = (height, width, int(strides[0]), int(pads[0])) if plain else None
    return OnnxLayer(name, "Conv", w, x, matrix, False, window)


_READERS = {"MatMul": _matmul, "Gemm": _gemm, "Conv": _conv}
