"""Safetensors: a JSON table of names, types, shapes and offsets, and then the bytes.

The whole format is an unsigned 64-bit length, a JSON object of that length, and one
block of little-endian numbers in which the tensors lie one after the other. So a
reader of its own costs less than a dependency, and can read one tensor at a time:
`read_tensor` needs the memory of that tensor and no more.

Everything a file declares is checked against its size before anything is
allocated; nothing in a file is ever executed.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array

__all__ = ["Tensor", "read", "read_header", "read_tensor", "write"]

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
    "BOOL": "|b1", "F8_E4M3": "|u1", "F8_E5M2": "|u1",
}
#: The format's own limit.
_HEADER_LIMIT = 100_000_000


class Tensor(NamedTuple):
    """Where a tensor lies in a file, and what its bytes mean.

    Attributes
    ----------
    dtype : str
        The format's name, e.g. ``"F32"``.
    shape : tuple of int
    begin, end : int
        First byte, and the one after the last, from the start of the file.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def read_header(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """What a file holds, without its numbers.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict of str to Tensor
        In the order of the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, or declares what it does not hold.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, {"w": np.zeros((2, 3), np.float32)})
    >>> read_header(path)["w"].shape
    (2, 3)
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"{path} must hold the header it declares, of {length} bytes; "
                             f"got a file of {size}")
        raw = file.read(length)
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as err:
        raise ValueError(f"{path} must begin with a JSON header; got {err}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} must begin with a JSON object; got {type(table).__name__}")
    return {name: _tensor(f"{path}: {name!r}", entry, 8 + length, size)
            for name, entry in table.items() if name != "__metadata__"}


def read_tensor(path: str | os.PathLike[str], tensor: Tensor) -> Array:
    """The numbers of one tensor.

    Parameters
    ----------
    path : path-like
    tensor : Tensor
        From `read_header` of the same file.

    Returns
    -------
    ndarray
        In the machine's byte order. BF16 becomes float32, exactly; eight-bit floats
        stay codes, as uint8.

    Raises
    ------
    ValueError
        If the file is shorter than it was.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, {"w": np.arange(3, dtype=np.int8)})
    >>> read_tensor(path, read_header(path)["w"])
    array([0, 1, 2], dtype=int8)
    """
    stored = np.dtype(_DTYPES[tensor.dtype])
    count = (tensor.end - tensor.begin) // stored.itemsize
    with open(path, "rb") as file:
        file.seek(tensor.begin)
        flat = np.fromfile(file, stored, count)
    if len(flat) < count:
        raise ValueError(f"{path} must hold {count} numbers at {tensor.begin}; got {len(flat)}")
    if tensor.dtype == "BF16":          # the upper half of a float32
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(tensor.shape)


def read(path: str | os.PathLike[str]) -> dict[str, Array]:
    """All tensors of a file.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, or declares what it does not hold.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, {"w": np.ones(2)})
    >>> read(path)
    {'w': array([1., 1.])}
    """
    return {name: read_tensor(path, tensor) for name, tensor in read_header(path).items()}


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array]) -> None:
    """Write arrays to a file, all of it or nothing; the same arrays give the same bytes.

    Parameters
    ----------
    path : path-like
    tensors : mapping of str to ndarray
        Floats of 16, 32 or 64 bits, integers, booleans.

    Raises
    ------
    TypeError
        If a dtype has no name in the format.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, {"w": np.ones(2)})
    >>> path.stat().st_size % 8
    0
    """
    names = {np.dtype(code): name for name, code in _DTYPES.items()
             if name not in ("BF16", "F8_E4M3", "F8_E5M2")}
    table: dict[str, object] = {}
    at, parts = 0, []
    for name, array in sorted(tensors.items()):
        stored = np.asarray(array).astype(np.asarray(array).dtype.newbyteorder("<"))
        if stored.dtype not in names:
            raise TypeError(f"`tensors` must be numbers or booleans; got {stored.dtype}")
        parts.append(np.ascontiguousarray(stored).tobytes())
        table[name] = {"dtype": names[stored.dtype], "shape": list(stored.shape),
                       "data_offsets": [at, at + len(parts[-1])]}
        at += len(parts[-1])
    header = json.dumps(table, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)         # the numbers begin at a multiple of 8
    part = Path(path).with_name(Path(path).name + ".part")
    try:
        part.write_bytes(len(header).to_bytes(8, "little") + header + b"".join(parts))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _tensor(name: str, entry: object, start: int, size: int) -> Tensor:
    """One row of the table, held against the size of the file."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        whole = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{name} must have dtype, shape and data_offsets; got {entry}") from None
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name} must be of {', '.join(_DTYPES)}; got {dtype!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in whole):
        raise ValueError(f"{name} must have whole, nonnegative numbers; got {whole}")
    needed = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if end - begin != needed or start + end > size:
        raise ValueError(f"{name} must lie in the file with {needed} bytes; "
                         f"got offsets {begin} to {end} in {size - start}")
    return Tensor(dtype, tuple(shape), start + begin, start + end)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """A JSON object in which no name stands twice."""
    table = dict(pairs)
    if len(table) < len(pairs):
        raise json.JSONDecodeError("a name that stands twice", "", 0)
    return table
