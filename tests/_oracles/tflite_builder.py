"""Small .tflite files written from scratch: a FlatBuffer is tables of slots, parents first.

Nothing here reads `refquant`: what the readers of others accept is the judge of these files.
A table is a dict of slot number -> value; a value is a ``(format of struct, number)``, a bytes
(vector of bytes), a str, a list of dicts (vector of tables), an array (vector of numbers) or
a dict (another table).
"""

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int16": 7,
         "int8": 9, "float64": 10, "int4": 17}

CODES = {
    "ADD": 0, "AVERAGE_POOL_2D": 1, "CONCATENATION": 2, "CONV_2D": 3, "DEPTHWISE_CONV_2D": 4,
    "DEQUANTIZE": 6, "FULLY_CONNECTED": 9, "LOGISTIC": 14, "MAX_POOL_2D": 17, "MUL": 18,
    "RELU": 19, "RELU_N1_TO_1": 20, "RELU6": 21, "RESHAPE": 22, "SOFTMAX": 25, "SVDF": 27,
    "TANH": 28, "PAD": 34, "TRANSPOSE": 39, "MEAN": 40, "SUB": 41,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 44, "STRIDED_SLICE": 45, "PADV2": 60, "TRANSPOSE_CONV": 67,
    "LEAKY_RELU": 98, "QUANTIZE": 114,
}  # fmt: skip

_POOL = ("padding:b", "stride_w:i", "stride_h:i", "filter_width:i", "filter_height:i", "fused:b")
#: Operator -> number in the union of options, and the fields in the order of their slots.
OPTIONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "CONV_2D": (1, ("padding:b", "stride_w:i", "stride_h:i", "fused:b", "dilation_w:i",
                    "dilation_h:i", "bias_type:b")),
    "DEPTHWISE_CONV_2D": (2, ("padding:b", "stride_w:i", "stride_h:i", "multiplier:i", "fused:b",
                              "dilation_w:i", "dilation_h:i")),
    "AVERAGE_POOL_2D": (5, _POOL), "MAX_POOL_2D": (5, _POOL),
    "SVDF": (6, ("rank:i", "fused:b")),
    "FULLY_CONNECTED": (8, ("fused:b", "weights_format:b", "keep_num_dims:?", "asymmetric:?",
                            "bias_type:b")),
    "SOFTMAX": (9, ("beta:f",)), "CONCATENATION": (10, ("axis:i", "fused:b")),
    "ADD": (11, ("fused:b", "pot_scale_int16:?")), "RESHAPE": (17, ("new_shape:*",)),
    "MUL": (21, ("fused:b",)), "PAD": (22, ()), "TRANSPOSE": (26, ()), "MEAN": (27, ("keep:?",)),
    "SUB": (28, ("fused:b", "pot_scale_int16:?")),
    "STRIDED_SLICE": (32, ("begin_mask:i", "end_mask:i", "ellipsis_mask:i", "new_axis_mask:i",
                           "shrink_axis_mask:i", "offset:?")),
    "DEQUANTIZE": (38, ()), "PADV2": (43, ()),
    "TRANSPOSE_CONV": (49, ("padding:b", "stride_w:i", "stride_h:i", "fused:b", "bias_type:b")),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (71, ("fused:b", "cell_clip:f", "proj_clip:f",
                                          "time_major:?")),
    "LEAKY_RELU": (75, ("alpha:f",)), "QUANTIZE": (89, ()),
}  # fmt: skip


class Tensor(NamedTuple):
    """A value of the graph: constant if it has data, a state if it is variable."""

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: Any = None                       # a number, or one per slice of `axis`
    zero_point: Any = 0
    axis: int = 0
    data: Any = None
    variable: bool = False
    name: str = ""


class Operator(NamedTuple):
    """One step; inputs and outputs are numbers of tensors, -1 for one left out."""

    kind: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    options: Mapping[str, Any] = MappingProxyType({})
    version: int = 1
    intermediates: Sequence[int] = ()


def constant(
    data: Any, dtype: str, scale: Any = None, zero_point: Any = 0, axis: int = 0
) -> Tensor:
    """A tensor whose values are in the file."""
    data = np.asarray(data)
    return Tensor(data.shape, dtype, scale, zero_point, axis, data)


def model(
    tensors: Sequence[Tensor], operators: Sequence[Operator], inputs: Sequence[int],
    outputs: Sequence[int],
) -> bytes:
    """The bytes of a file of one subgraph."""
    buffers: list[dict[int, Any]] = [{}]
    rows = []
    for number, tensor in enumerate(tensors):
        row = {0: np.array(tensor.shape, "<i4"), 1: ("b", TYPES[tensor.dtype]),
               3: tensor.name or f"t{number}"}
        if tensor.data is not None:
            row[2] = ("I", len(buffers))
            buffers.append({0: np.ascontiguousarray(tensor.data, tensor.dtype).tobytes()})
        if tensor.scale is not None:
            scale = np.atleast_1d(np.asarray(tensor.scale, "<f4"))
            zero = np.broadcast_to(np.asarray(tensor.zero_point, "<i8"), scale.shape)
            row[4] = {2: scale, 3: np.ascontiguousarray(zero), 6: ("i", tensor.axis)}
        if tensor.variable:
            row[5] = ("?", True)
        rows.append(row)
    kinds = sorted({(o.kind, o.version) for o in operators})
    codes = [{0: ("b", CODES[kind]), 2: ("i", version), 3: ("i", CODES[kind])}
             for kind, version in kinds]
    steps = []
    for o in operators:
        step = {0: ("I", kinds.index((o.kind, o.version))), 1: np.array(o.inputs, "<i4"),
                2: np.array(o.outputs, "<i4")}
        if o.kind in OPTIONS:
            step[3], step[4] = ("B", OPTIONS[o.kind][0]), _options(o)
        if o.intermediates:
            step[8] = np.array(o.intermediates, "<i4")
        steps.append(step)
    graph = {0: rows, 1: np.array(inputs, "<i4"), 2: np.array(outputs, "<i4"), 3: steps}
    return flatbuffer({0: ("I", 3), 1: codes, 2: [graph], 4: buffers}, b"TFL3")


def _options(operator: Operator) -> dict[int, Any]:
    fields = [field.split(":") for field in OPTIONS[operator.kind][1]]
    unknown = set(operator.options) - {name for name, _ in fields}
    assert not unknown, f"{operator.kind} has no {unknown}"
    return {slot: operator.options[name] if form == "*" else (form, operator.options[name])
            for slot, (name, form) in enumerate(fields) if name in operator.options}


def flatbuffer(root: dict[int, Any], identifier: bytes) -> bytes:
    """A whole file: where the root is, four letters, then the tables."""
    out = bytearray(4) + identifier
    struct.pack_into("<I", out, 0, _table(out, root))
    return bytes(out)


def _align(out: bytearray, size: int, ahead: int = 0) -> None:
    """Zeros until the byte `ahead` of the end lies on a multiple of `size`."""
    out += bytes(-(len(out) + ahead) % size)


def _table(out: bytearray, table: dict[int, Any]) -> int:
    """Place of a table, written with all it refers to."""
    inline = {slot: value if isinstance(value, tuple) else ("I", 0)
              for slot, value in table.items()}
    places, size = {}, 4
    for slot, (form, _) in sorted(inline.items(), key=lambda i: -struct.calcsize(i[1][0])):
        width = struct.calcsize(form)
        size += -size % width
        places[slot], size = size, size + width
    slots = max(table, default=-1) + 1
    _align(out, 2)
    head = 4 + 2 * slots
    _align(out, 8, head)                    # the table itself: 8 serves every scalar
    vtable = len(out)
    out += struct.pack(f"<{2 + slots}H", head, size, *(places.get(s, 0) for s in range(slots)))
    start = len(out)
    out += bytes(size)
    struct.pack_into("<i", out, start, start - vtable)
    for slot, (form, value) in inline.items():
        struct.pack_into(f"<{form}", out, start + places[slot], value)
    for slot, value in table.items():
        if not isinstance(value, tuple):
            at = start + places[slot]
            struct.pack_into("<I", out, at, _object(out, value) - at)
    return start


def _object(out: bytearray, value: Any) -> int:
    """Place of a string, a vector or a table."""
    if isinstance(value, dict):
        return _table(out, value)
    if isinstance(value, str):
        return _vector(out, value.encode() + b"\0", len(value.encode()), 4)
    if isinstance(value, bytes):
        return _vector(out, value, len(value), 16)
    if isinstance(value, np.ndarray):
        return _vector(out, value.tobytes(), value.size, max(4, value.itemsize))
    start = _vector(out, bytes(4 * len(value)), len(value), 4)
    for i, item in enumerate(value):
        at = start + 4 + 4 * i
        struct.pack_into("<I", out, at, _object(out, item) - at)
    return start


def _vector(out: bytearray, data: bytes, count: int, alignment: int) -> int:
    _align(out, alignment, 4)
    start = len(out)
    out += struct.pack("<I", count) + data
    return start
