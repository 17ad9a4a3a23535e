r"""Read a .tflite file: tensors, operators and how they are connected, with NumPy alone.

The file is a FlatBuffer, a web of offsets. Every one of them is checked, so that a
file that is cut off, damaged or hostile gives a `ValueError` with the offset or the
operator at fault, in memory and time proportional to its length.

===========================  ==========================================================
in real files                what is done
===========================  ==========================================================
a bias with an axis 3        an axis beyond the rank of the tensor is left to the user
no names                     the name is empty; tensors are known by their index
no zero points               0 for every scale
4-bit and 2-bit weights      unpacked to int8, the low bits first
buffers behind the tables    found through their offset from the start of the file
an optional input left out   index -1
a dimension of -1            1: a batch of any size, run one by one
===========================  ==========================================================
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.interop._flatbuffer import FlatBuffer, Table

__all__ = ["Model", "Operator", "Tensor", "read_tflite"]

#: The most elements of one tensor; a file may claim any shape for what it does not store.
MOST_ELEMENTS = 2**26

#: Type code -> name and stored type; None: packed, so many bits each.
_TYPES: dict[int, tuple[str, str]] = {
    0: ("float32", "<f4"), 1: ("float16", "<f2"), 2: ("int32", "<i4"), 3: ("uint8", "u1"),
    4: ("int64", "<i8"), 6: ("bool", "?"), 7: ("int16", "<i2"), 9: ("int8", "i1"),
    10: ("float64", "<f8"), 15: ("uint32", "<u4"), 16: ("uint16", "<u2"),
}
_PACKED = {17: ("int4", 4), 19: ("int2", 2)}

_NAMES = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 14: "LOGISTIC",
    17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 20: "RELU_N1_TO_1", 21: "RELU6", 22: "RESHAPE",
    23: "RESIZE_BILINEAR", 25: "SOFTMAX", 26: "SPACE_TO_DEPTH", 27: "SVDF", 28: "TANH",
    34: "PAD", 36: "GATHER", 37: "BATCH_TO_SPACE_ND", 38: "SPACE_TO_BATCH_ND",
    39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE",
    44: "UNIDIRECTIONAL_SEQUENCE_LSTM", 45: "STRIDED_SLICE", 47: "EXP", 49: "SPLIT",
    53: "CAST", 54: "PRELU", 55: "MAXIMUM", 57: "MINIMUM", 60: "PADV2", 65: "SLICE",
    67: "TRANSPOSE_CONV", 70: "EXPAND_DIMS", 74: "SUM", 77: "SHAPE", 83: "PACK", 88: "UNPACK",
    97: "RESIZE_NEAREST_NEIGHBOR", 98: "LEAKY_RELU", 100: "MIRROR_PAD", 101: "ABS",
    102: "SPLIT_V", 105: "REVERSE_V2", 114: "QUANTIZE", 117: "HARD_SWISH",
    126: "BATCH_MATMUL", 129: "CALL_ONCE", 142: "VAR_HANDLE", 143: "READ_VARIABLE",
    144: "ASSIGN_VARIABLE",
}

_CONVOLUTION = (
    ("padding", 0, "b", 0), ("stride_w", 1, "i", 0), ("stride_h", 2, "i", 0),
    ("activation", 3, "b", 0), ("dilation_w", 4, "i", 1), ("dilation_h", 5, "i", 1))
_POOL = (
    ("padding", 0, "b", 0), ("stride_w", 1, "i", 0), ("stride_h", 2, "i", 0),
    ("filter_w", 3, "i", 0), ("filter_h", 4, "i", 0), ("activation", 5, "b", 0))
_ACTIVATION = (("activation", 0, "b", 0),)
#: Operator -> its options: name, slot, kind, default.
_OPTIONS: dict[str, tuple[tuple[str, int, str, float], ...]] = {
    "CONV_2D": (*_CONVOLUTION, ("bias_type", 6, "b", 0)),
    "DEPTHWISE_CONV_2D": (
        ("padding", 0, "b", 0), ("stride_w", 1, "i", 0), ("stride_h", 2, "i", 0),
        ("depth_multiplier", 3, "i", 0), ("activation", 4, "b", 0),
        ("dilation_w", 5, "i", 1), ("dilation_h", 6, "i", 1)),
    "TRANSPOSE_CONV": (*_CONVOLUTION[:4], ("bias_type", 4, "b", 0)),
    "FULLY_CONNECTED": (("activation", 0, "b", 0), ("weights_format", 1, "b", 0),
                        ("keep_num_dims", 2, "?", 0), ("bias_type", 4, "b", 0)),
    "ADD": (*_ACTIVATION, ("pot_scale_int16", 1, "?", 1)),
    "SUB": (*_ACTIVATION, ("pot_scale_int16", 1, "?", 1)),
    "MUL": _ACTIVATION,
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "MEAN": (("keep_dims", 0, "?", 0),),
    "SOFTMAX": (("beta", 0, "f", 0.0),),
    "LEAKY_RELU": (("alpha", 0, "f", 0.0),),
    "CONCATENATION": (("axis", 0, "i", 0), ("activation", 1, "b", 0)),
    "STRIDED_SLICE": (
        ("begin_mask", 0, "i", 0), ("end_mask", 1, "i", 0), ("ellipsis_mask", 2, "i", 0),
        ("new_axis_mask", 3, "i", 0), ("shrink_axis_mask", 4, "i", 0), ("offset", 5, "?", 0)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        ("activation", 0, "b", 0), ("cell_clip", 1, "f", 0.0), ("proj_clip", 2, "f", 0.0),
        ("time_major", 3, "?", 0)),
    "SVDF": (("rank", 0, "i", 0), ("activation", 1, "b", 0)),
    "SPLIT": (("num_splits", 0, "i", 0),),
    "PACK": (("count", 0, "i", 0), ("axis", 1, "i", 0)),
    "UNPACK": (("count", 0, "i", 0), ("axis", 1, "i", 0)),
    "SQUEEZE": (),
    "RESHAPE": (),
}
_VECTORS = {"SQUEEZE": ("squeeze_dims", 0), "RESHAPE": ("new_shape", 0)}


class Tensor(NamedTuple):
    """A tensor of the file: what it looks like, what it stands for, what it holds.

    Attributes
    ----------
    name : str
        May be empty; not always unique.
    shape : tuple of int
        Empty for a single number.
    dtype : str
        As NumPy names it, or ``"int4"``, ``"int2"``: unpacked to int8 in `data`.
    data : ndarray or None
        Values of a constant, of `shape`.
    scale : ndarray of float32, shape (n,)
        One per tensor or one per slice of `axis`; empty if the tensor has no scale.
    zero_point : ndarray of int64, shape (n,)
    axis : int
        ``quantized_dimension``.
    variable : bool
        Keeps its value from one run to the next.

    References
    ----------
    TensorFlow Lite schema, version 3: tables ``Tensor``, ``QuantizationParameters``.

    Examples
    --------
    >>> Tensor("y", (1, 10), "int8", None, np.float32([0.1]), np.array([3]), 0, False).shape
    (1, 10)
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: Array | None
    scale: Array
    zero_point: Array
    axis: int
    variable: bool


class Operator(NamedTuple):
    """An operator of the file, with the indices of the tensors it reads and writes.

    Attributes
    ----------
    name : str
        As in the schema, ``"CONV_2D"``; ``"CUSTOM name"`` for one of the user's own.
    version : int
    inputs, outputs, intermediates : tuple of int
        Indices of tensors; -1 is an optional input left out.
    options : mapping of str to number or tuple
        Those that the operator has, ``{"stride_w": 1, ...}``.

    References
    ----------
    TensorFlow Lite schema, version 3: tables ``Operator``, ``OperatorCode``.

    Examples
    --------
    >>> Operator("RELU", 1, (0,), (1,), (), {}).outputs
    (1,)
    """

    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    intermediates: tuple[int, ...]
    options: Mapping[str, float | tuple[int, ...]]


class Model(NamedTuple):
    """What a .tflite file holds, or of several subgraphs the first.

    Attributes
    ----------
    tensors : tuple of Tensor
    operators : tuple of Operator
        In the order in which they run.
    inputs, outputs : tuple of int
        Indices of tensors.

    References
    ----------
    TensorFlow Lite schema, version 3: tables ``Model``, ``SubGraph``.

    Examples
    --------
    >>> Model((), (), (), ()).operators
    ()
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(data: bytes) -> Model:
    """Tensors and operators of the first subgraph of a .tflite file.

    Parameters
    ----------
    data : bytes
        The whole file. Constants are views of it.

    Returns
    -------
    Model
        With every index in range; each tensor is written by one operator at most, and
        before it is read.

    Raises
    ------
    ValueError
        If the file is no .tflite file, is cut off, or contradicts itself; the message
        names the offset, the tensor or the operator.

    References
    ----------
    TensorFlow Lite schema, version 3; FlatBuffers, "Internals".

    Examples
    --------
    >>> read_tflite(b"PK...")
    Traceback (most recent call last):
    ValueError: the file must have TFL3 at offset 4, as a .tflite file has; got b'.'
    """
    if data[4:8] != b"TFL3":
        raise ValueError(
            f"the file must have TFL3 at offset 4, as a .tflite file has; got {data[4:8]!r}")
    root = FlatBuffer(data).root()
    graphs = root.tables(2)
    if not graphs:
        raise ValueError("the file must have a subgraph; got none")
    buffers = [_buffer(t, data) for t in root.tables(4)]
    codes = [_code(t) for t in root.tables(1)]
    graph = graphs[0]
    tensors = tuple(_tensor(k, t, buffers) for k, t in enumerate(graph.tables(0)))
    operators = tuple(_operator(k, t, codes) for k, t in enumerate(graph.tables(3)))
    model = Model(tensors, operators, _indices(graph, 1), _indices(graph, 2))
    _require_order(model)
    return model


def _buffer(table: Table, data: bytes) -> Array | None:
    stored = table.view(0)
    offset, size = table.integer(1, "Q"), table.integer(2, "Q")
    if (stored is None or not stored.size) and offset > 1:      # 0 and 1 mark "not outside"
        table.buffer.require(offset, size)
        return np.frombuffer(data, np.uint8, size, offset)
    return stored


def _code(table: Table) -> tuple[str, int]:
    code = max(table.integer(0, "b"), table.integer(3, "i"))
    name = f"CUSTOM {table.text(1)}".strip() if code == 32 else _NAMES.get(code, f"BUILTIN {code}")
    return name, table.integer(2, "i", 1)


def _tensor(index: int, table: Table, buffers: list[Array | None]) -> Tensor:
    shape = tuple(1 if n == -1 else n for n in table.numbers(0, "i").tolist())
    name, kind, where = table.text(3), table.integer(1, "b"), table.integer(2, "I")
    label = f"tensor {index}"
    if any(n < 0 for n in shape) or math.prod(shape) > MOST_ELEMENTS or len(shape) > 8:
        raise ValueError(
            f"{label} must have a shape of at most {MOST_ELEMENTS} elements; got {shape}"[:200])
    if kind not in _TYPES and kind not in _PACKED:
        raise ValueError(f"{label} must be of numbers; got type code {kind}")
    if where >= len(buffers):
        raise ValueError(f"{label} must have one of {len(buffers)} buffers; got {where}")
    scale, zero, axis = _quantization(label, table.table(4))
    variable = bool(table.integer(5, "?"))
    dtype = _TYPES[kind][0] if kind in _TYPES else _PACKED[kind][0]
    data = None if variable else _values(label, buffers[where], kind, shape)
    return Tensor(name, shape, dtype, data, scale, zero, axis, variable)


def _values(label: str, stored: Array | None, kind: int, shape: tuple[int, ...]) -> Array | None:
    if stored is None or not stored.size:
        return None
    count = math.prod(shape)
    bits = 8 * np.dtype(_TYPES[kind][1]).itemsize if kind in _TYPES else _PACKED[kind][1]
    if stored.size != (count * bits + 7) // 8:
        raise ValueError(
            f"{label} must store {count} numbers of {bits} bits; got {stored.size} bytes")
    if kind in _TYPES:
        return stored.view(_TYPES[kind][1]).reshape(shape)
    fields = np.stack([stored >> shift & 2**bits - 1 for shift in range(0, 8, bits)], axis=1)
    codes = fields.ravel()[:count].astype(np.int8)
    return (codes - ((codes >> bits - 1) << bits)).reshape(shape)


def _quantization(label: str, table: Table | None) -> tuple[Array, Array, int]:
    if table is None:
        return np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    scale, zero = table.numbers(2, "f"), table.numbers(3, "q")
    if not (np.isfinite(scale).all() and (scale >= 0).all()):
        raise ValueError(f"{label} must have scales that are finite and not negative")
    if zero.size == 0:
        zero = np.zeros(scale.size, np.int64)
    elif zero.size == 1:
        zero = np.repeat(zero, scale.size)
    if zero.size != scale.size:
        raise ValueError(
            f"{label} must have a zero point per scale; got {zero.size} for {scale.size}")
    return scale, zero, table.integer(6, "i")


def _operator(index: int, table: Table, codes: list[tuple[str, int]]) -> Operator:
    which = table.integer(0, "I")
    if which >= len(codes):
        raise ValueError(f"operator {index} must have one of {len(codes)} codes; got {which}")
    name, version = codes[which]
    options: dict[str, float | tuple[int, ...]] = {}
    stored = table.table(4)
    for option, slot, kind, default in _OPTIONS.get(name, ()):
        options[option] = default if stored is None else stored.number(slot, kind, default)
    if name in _VECTORS and stored is not None:
        option, slot = _VECTORS[name]
        options[option] = tuple(stored.numbers(slot, "i").tolist())
    return Operator(
        name, version, _indices(table, 1), _indices(table, 2), _indices(table, 8), options)


def _indices(table: Table, slot: int) -> tuple[int, ...]:
    return tuple(table.numbers(slot, "i").tolist())


def _require_order(model: Model) -> None:
    """Every index is in range, and every tensor is there before it is read."""
    count = len(model.tensors)
    there = {k for k, t in enumerate(model.tensors) if t.data is not None or t.variable}
    _require_indices("the inputs of the model", model.inputs, count, 0)
    there |= set(model.inputs)
    for k, op in enumerate(model.operators):
        label = f"operator {k} ({op.name})"
        _require_indices(f"the inputs of {label}", op.inputs, count, -1)
        _require_indices(f"the outputs of {label}", op.outputs, count, 0)
        _require_indices(f"the intermediates of {label}", op.intermediates, count, 0)
        early = [i for i in op.inputs if i >= 0 and i not in there]
        if early:
            raise ValueError(f"{label} must read what was written before; got tensor {early[0]}")
        again = [i for i in op.outputs if i in there and not model.tensors[i].variable]
        if again or len(set(op.outputs)) < len(op.outputs):
            raise ValueError(f"{label} must write tensors that have no value yet; got {again[:1]}")
        there |= set(op.outputs)
    _require_indices("the outputs of the model", model.outputs, count, 0)
    missing = [i for i in model.outputs if i not in there]
    if missing:
        raise ValueError(f"output tensor {missing[0]} must be written by an operator; none does")


def _require_indices(label: str, indices: tuple[int, ...], count: int, low: int) -> None:
    bad = [i for i in indices if not low <= i < count]
    if bad:
        raise ValueError(f"{label} must be tensors from {low} to {count - 1}; got {bad[0]}")
