"""Weights of an ONNX model that lie in a file beside it, found without leaving its folder.

A constant may name a file, an offset and a length instead of holding its numbers. A name from
a stranger's file is followed only to a regular file inside of the model's own folder, and only
as far as the constant's shape and the file's size allow.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from refquant._validate import short

__all__ = ["Slice", "bring_in", "declared_bits", "held_outside", "slice_of",
           "weights_beside", "within_protobuf"]

#: What a protocol buffer may have at most.
MOST = 2**31 - 1


class Slice(NamedTuple):
    """Bytes of a file."""

    path: Path
    offset: int
    length: int

    def read(self) -> bytes:
        """Those bytes, or a ValueError."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.length)
        except OSError as err:
            raise ValueError(f"{self.path.name} must be a file that can be read; "
                             f"got {err.strerror}") from None
        if len(content) < self.length:
            raise ValueError(f"{self.path.name} must hold {self.length} bytes at {self.offset}; "
                             f"got {len(content)}")
        return content


def bring_in(proto: Any, folder: Path | None, size: int) -> None:
    """Every constant of a model, at any depth, holds its numbers itself afterwards.

    `folder` is that of the model, None for one that is no file; `size` the model's own bytes.
    """
    found = [(tensor, slice_of(tensor, folder)) for tensor in _tensors(proto)
             if held_outside(tensor)]
    total = size + sum(one.length for _, one in found)
    if total > MOST:
        raise ValueError("`file` must have at most 2 GB with its weights, which is what a protocol "
                         f"buffer holds; got {total / 1e9:.2f} GB")
    require_apart([one for _, one in found])
    for tensor, one in found:
        tensor.raw_data = one.read()
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def weights_beside(proto: Any, folder: Path | None) -> set[Path]:
    """The files in which constants of a model lie."""
    return {slice_of(tensor, folder).path for tensor in _tensors(proto) if held_outside(tensor)}


def require_apart(slices: list[Slice]) -> None:
    """Raise if constants take more than their file has: the same bytes, many times."""
    taken: dict[Path, int] = {}
    for one in slices:
        taken[one.path] = taken.get(one.path, 0) + one.length
    for path, length in taken.items():
        if length > path.stat().st_size:
            raise ValueError(f"{path.name} must hold the weights that lie in it, {length} bytes; "
                             f"got {path.stat().st_size}")


def held_outside(tensor: Any) -> bool:
    """Whether the numbers of a constant are somewhere else."""
    return bool(tensor.data_location == 1 or tensor.external_data)


def slice_of(tensor: Any, folder: Path | None) -> Slice:
    """Where the numbers of a constant lie, everything checked; a ValueError in one line."""
    name = short(tensor.name)
    if folder is None:
        raise ValueError(f"`file` must hold its weights itself; got {name} outside")
    entries = {e.key: e.value for e in tensor.external_data}
    if not all(isinstance(text, str) for text in (*entries, *entries.values())):
        raise ValueError(f"`{name}` must say in UTF-8 where it lies; got other bytes")
    place = entries.get("location", "")
    if not place or "\0" in place or Path(place).is_absolute() or ".." in Path(place).parts or (
            "\\" in place):
        raise ValueError(f"`{name}` must lie in a file of the model's folder; "
                         f"got {short(place)!r}")
    try:
        home, path = folder.resolve(), (folder / place).resolve()
        if not path.is_relative_to(home):
            raise ValueError(f"`{name}` must lie in a file of the model's folder; got a link out "
                             f"of it, {short(place)!r}")
        if not path.is_file():
            raise ValueError(f"`{name}` must lie in a file beside the model; got no file "
                             f"{short(place)!r}")
        size = os.path.getsize(path)
    except (OSError, RuntimeError) as err:              # too long, a loop of links
        raise ValueError(f"`{name}` must lie in a file of the model's folder; "
                         f"got {short(getattr(err, 'strerror', err))}") from None
    needed = -(-math.prod(_shape(tensor)) * declared_bits(tensor) // 8)
    offset = _number(name, "offset", entries.get("offset", "0"))
    length = _number(name, "length", entries["length"]) if "length" in entries else needed
    if length != needed:
        raise ValueError(f"`{name}` must have the {needed} bytes of its shape; got {length}")
    if offset + length > size:
        raise ValueError(f"`{name}` must lie in {path.name}, which has {size} bytes; "
                         f"got {offset} to {offset + length}")
    return Slice(path, offset, length)


def declared_bits(tensor: Any) -> int:
    """Bits of one number of a constant; a ValueError for types that ONNX does not know."""
    import onnx

    kinds = onnx.TensorProto
    for bits, names in ((4, ("INT4", "UINT4", "FLOAT4E2M1")), (2, ("INT2", "UINT2"))):
        if tensor.data_type in [getattr(kinds, n, None) for n in names]:
            return bits
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except Exception:
        dtype = None
    if dtype is None or (dtype.hasobject and held_outside(tensor)):
        raise ValueError(f"`{short(tensor.name)}` must have an element type of ONNX; "
                         f"got {tensor.data_type}")
    return 8 * int(dtype.itemsize)


def within_protobuf(proto: Any) -> bytes:
    """The bytes of a model, or a ValueError if it has become too large for one record."""
    if proto.ByteSize() > MOST:
        raise ValueError("the model must have at most 2 GB with its weights, which is what a "
                         f"protocol buffer holds; got {proto.ByteSize() / 1e9:.2f} GB")
    return bytes(proto.SerializeToString())


def _shape(tensor: Any) -> list[int]:
    shape = [int(n) for n in tensor.dims]
    if any(n < 0 for n in shape):
        raise ValueError(f"`{short(tensor.name)}` must have a shape; got {short(shape)}")
    return shape


def _number(name: str, key: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,19}", text, re.ASCII):
        raise ValueError(f"`{name}` must have a whole number as {key}; got {short(text)!r}")
    return int(text)


def _tensors(proto: Any) -> Iterator[Any]:
    """All constants of a model."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)
    for training in proto.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Any) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor")
                             else []), *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _of_graph(graph)
