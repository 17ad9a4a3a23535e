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
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import short
from refquant._whole import whole

__all__ = ["Bits", "Tensor", "as_numbers", "read", "read_bits", "read_header", "read_metadata",
           "read_tensor", "write"]

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
    "BOOL": "|b1", "F8_E4M3": "|u1", "F8_E5M2": "|u1",
}
#: Of these NumPy has only the bits.
_UNNAMED = ("BF16", "F8_E4M3", "F8_E5M2")
#: The format's own limit.
_HEADER_LIMIT = 100_000_000
#: The one name that is no tensor's.
_METADATA = "__metadata__"
#: NumPy's own limit.
_MOST_AXES = 64
#: Bytes copied at a time.
_PIECE = 2**22


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


class Bits(NamedTuple):
    """Numbers of a type of the format, which NumPy may not have.

    Attributes
    ----------
    dtype : str
        The format's name, e.g. ``"BF16"``.
    array : ndarray
        Of BF16 and eight-bit floats their bits, as unsigned integers.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).
    """

    dtype: str
    array: Array


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
    table, start, size = _table(path)
    found = {name: _tensor(f"{path}: {short(repr(name))}", entry, start, size)
             for name, entry in table.items() if name != _METADATA}
    at = start
    for name, tensor in sorted(found.items(), key=lambda item: item[1][2:]):
        if tensor.begin != at:              # else a small file could hold many large tensors
            raise ValueError(f"{path}: {short(repr(name))} must begin where the one before ends, "
                             f"at {at - start}; got {tensor.begin - start}")
        at = tensor.end
    if at != size:
        raise ValueError(f"{path} must end with its last tensor; got {size - at} bytes more")
    return found


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """What a file says about itself: texts by name.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    dict of str to str

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is cut short, or these are no texts.

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> write(path, {"w": np.ones(2)}, {"format": "np"})
    >>> read_metadata(path)
    {'format': 'np'}
    """
    found = _table(path)[0].get(_METADATA, {})
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError(f"{path} must have texts as metadata; got something else")
    return found


def _table(path: str | os.PathLike[str]) -> tuple[dict[str, object], int, int]:
    """The header, where the numbers begin, and the size of the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"{path} must hold the header it declares, of {length} bytes; "
                             f"got a file of {size}")
        raw = file.read(length)
    try:
        table = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as err:      # of text, of JSON, of long numbers
        raise ValueError(f"{path} must begin with a JSON header; got {err}") from None
    if not isinstance(table, dict):
        raise ValueError(f"{path} must begin with a JSON object; got {type(table).__name__}")
    return table, 8 + length, size


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
    return as_numbers(read_bits(path, tensor))


def read_bits(path: str | os.PathLike[str], tensor: Tensor) -> Bits:
    """One tensor as it lies in the file, to be written to another as it is.

    Parameters
    ----------
    path : path-like
    tensor : Tensor
        From `read_header` of the same file.

    Returns
    -------
    Bits

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
    >>> write(path, [("w", Bits("BF16", np.array([0x3F80], np.uint16)))])
    >>> read_bits(path, read_header(path)["w"])
    Bits(dtype='BF16', array=array([16256], dtype=uint16))
    """
    stored = np.dtype(_DTYPES[tensor.dtype])
    count = (tensor.end - tensor.begin) // stored.itemsize
    with open(path, "rb") as file:
        file.seek(tensor.begin)
        flat = np.fromfile(file, stored, count)
    if len(flat) < count:
        raise ValueError(f"{path} must hold {count} numbers at {tensor.begin}; got {len(flat)}")
    return Bits(tensor.dtype, flat.reshape(tensor.shape))


def as_numbers(bits: Bits) -> Array:
    """The numbers that they stand for, as `read_tensor` gives them.

    Parameters
    ----------
    bits : Bits

    Returns
    -------
    ndarray

    References
    ----------
    Hugging Face, "Safetensors: format" (documentation).

    Examples
    --------
    >>> as_numbers(Bits("BF16", np.array([0x3F80], np.uint16)))
    array([1.], dtype=float32)
    """
    array = bits.array
    if bits.dtype == "BF16":                # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


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


def write(
    file: str | os.PathLike[str] | IO[bytes],
    tensors: Mapping[str, Array] | Iterable[tuple[str, Array | Bits]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write arrays to a file, all of it or nothing; the same arrays give the same bytes.

    Parameters
    ----------
    file : path-like, or binary file
        An open file gets the bytes where it stands.
    tensors : mapping of str to ndarray, or iterable of (str, ndarray or Bits)
        Floats of 16, 32 or 64 bits, integers, booleans. Of an iterable one is in memory
        at a time.
    metadata : mapping of str to str, optional
        Looked at after the last tensor.

    Raises
    ------
    TypeError
        If a dtype has no name in the format.
    ValueError
        If a name stands twice, or is ``__metadata__``.

    Notes
    -----
    Wide elements come first, so that each lies at a multiple of its size: readers that map
    the file need that.

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
    if isinstance(file, (str, os.PathLike)):
        with whole(Path(file)) as new:
            write(new, tensors, metadata)
        return
    pairs = tensors.items() if isinstance(tensors, Mapping) else tensors
    rows: dict[str, tuple[str, list[int], int, int]] = {}
    # Sizes are known at the end; until then the numbers lie in a file without a name.
    folder = Path(file.name).parent if _named(file) else None
    with tempfile.TemporaryFile(dir=folder, prefix=".refquant.", suffix=".part") as spool:
        for name, value in pairs:
            if name in rows or name == _METADATA:
                raise ValueError(f"`tensors` must have names of their own; got {name!r} again")
            dtype, stored = _as_stored(value)
            rows[name] = dtype, list(stored.shape), spool.tell(), stored.nbytes
            spool.write(stored.reshape(-1).view(np.uint8).data)
        order = sorted(rows, key=lambda n: (-np.dtype(_DTYPES[rows[n][0]]).itemsize, n))
        table: dict[str, object] = {_METADATA: dict(metadata)} if metadata else {}
        at = 0
        for name in order:
            dtype, shape, _, size = rows[name]
            table[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
        header = json.dumps(table, separators=(",", ":")).encode()
        header += b" " * (-len(header) % 8)     # the numbers begin at a multiple of 8
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            spool.seek(rows[name][2])
            left = rows[name][3]
            while left:
                piece = spool.read(min(left, _PIECE))
                file.write(piece)
                left -= len(piece)


def _named(file: IO[bytes]) -> bool:
    return isinstance(getattr(file, "name", None), str)


def _as_stored(value: Array | Bits) -> tuple[str, Array]:
    """Name of the type, and the numbers as they lie in the file."""
    if isinstance(value, Bits):
        kind, shape = _DTYPES[value.dtype], value.array.shape
        return value.dtype, np.ascontiguousarray(value.array, kind).reshape(shape)
    array = np.asarray(value)
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape)
    name = next((name for name, code in _DTYPES.items()
                 if name not in _UNNAMED and np.dtype(code) == stored.dtype), None)
    if name is None:
        raise TypeError(f"`tensors` must be numbers or booleans; got {stored.dtype}")
    return name, stored


def _tensor(name: str, entry: object, start: int, size: int) -> Tensor:
    """One row of the table, held against the size of the file."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]  # type: ignore[index]
        whole = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise ValueError(f"{name} must have dtype, shape and data_offsets; "
                         f"got {short(entry)}") from None
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name} must be of {', '.join(_DTYPES)}; got {short(dtype)}")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or any(
            isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < 2**63 for n in whole):
        raise ValueError(f"{name} must have whole, nonnegative numbers, at most {_MOST_AXES}; "
                         f"got {short(whole)}")
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
