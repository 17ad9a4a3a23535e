"""The tensors of a file, one at a time: ``.onnx``, ``.tflite``, ``.safetensors`` and ``.npz``.

A file is first asked what it holds; a tensor is read when its turn comes and forgotten
afterwards, so memory is bounded by the largest. Only ONNX and TFLite files have to be in
memory as a whole, since they are one record. Nothing is unpickled, no other file is opened but
the weights that lie beside an ONNX model, and no size that a file declares is believed before
it was compared with the bytes there are.
"""

import math
import os
import struct
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from refquant._types import Array
from refquant.interop import safetensors
from refquant.interop._external import Slice, held_outside, require_apart, slice_of
from refquant.interop.onnx_float import read_proto, require_held, require_onnx
from refquant.interop.tflite import read_tflite

__all__ = ["Stored", "npz_member", "npz_names", "tensors_of"]

#: An archive may not grow by more than this when it is unpacked, beyond 16 MB.
MOST_GROWTH = 100

#: What `zipfile` and `zlib` raise for archives that are damaged, encrypted or exotic.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
          OverflowError, struct.error, UnicodeDecodeError, OSError)


CATCHING = threading.Lock()


class Stored(NamedTuple):
    """A tensor that has not been read yet.

    Attributes
    ----------
    name : str
    shape : tuple of int
    read : callable, () -> ndarray
        Can be sent to another process: with the place in a file on a path they share or, of
        ONNX and TFLite, with the numbers that are in the file itself.
    as_is : callable, () -> ndarray or Bits, or None
        The bits of the file, where they may be of a type that NumPy has not.

    References
    ----------
    The formats' own specifications.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Array]
    as_is: Callable[[], Array | safetensors.Bits] | None = None


def tensors_of(path: Path, kind: str | None = None) -> list[Stored]:
    """What a file holds, by the end of its name.

    Parameters
    ----------
    path : Path
    kind : str, optional
        ``.onnx``, ``.tflite``, ``.safetensors`` or ``.npz``; by default the end of the name.

    Returns
    -------
    list of Stored
        In the order of the file. Of TFLite the constants, dequantized.

    Raises
    ------
    ValueError
        If the kind is not known, or the file is not what it says it is.
    ModuleNotFoundError
        If a package is missing.

    References
    ----------
    ONNX, TensorFlow Lite, safetensors and NumPy format specifications.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.npz"
    >>> np.savez(path, w=np.zeros((2, 3)))
    >>> [(t.name, t.shape, t.read().sum()) for t in tensors_of(path)]
    [('w', (2, 3), np.float64(0.0))]
    """
    kinds = {".onnx": _onnx, ".tflite": _tflite, ".safetensors": _safetensors, ".npz": _npz}
    kind = path.suffix if kind is None else kind
    if kind not in kinds:
        raise ValueError(f"`FILE` must end in {', '.join(kinds)}; got {path.name}")
    return kinds[kind](path)


def npz_names(archive: zipfile.ZipFile) -> dict[str, str]:
    """Names of the arrays of an archive, and of their members.

    Parameters
    ----------
    archive : zipfile.ZipFile

    Returns
    -------
    dict of str to str
        Members of other kinds are not there.

    References
    ----------
    NumPy, ``numpy.savez``.
    """
    return {name.removesuffix(".npy"): name for name in archive.namelist()
            if name.endswith(".npy")}


def npz_member(archive: zipfile.ZipFile, name: str) -> Array:
    """One array of an archive, its declared size checked before it is read.

    Parameters
    ----------
    archive : zipfile.ZipFile
    name : str
        Of the member.

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If it is no array, holds Python objects, or declares more than it holds.

    References
    ----------
    NumPy enhancement proposal 1, "A simple file format for NumPy arrays".
    """
    with _sound(name):
        return _member(archive, name)


def _member(archive: zipfile.ZipFile, name: str) -> Array:
    with _opened(archive, name) as (file, shape, fortran, dtype):
        count = math.prod(shape)
        content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError(f"`{_short(name)}` must hold the {count} numbers that it declares; "
                         f"got {len(content)} bytes")
    array = np.frombuffer(content, dtype, count).reshape(shape, order="F" if fortran else "C")
    return array.astype(dtype.newbyteorder("="), copy=False)


@contextmanager
def _opened(
    archive: zipfile.ZipFile, name: str
) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, "np.dtype[np.generic]"]]:
    """A member at its numbers, and what its header says: nothing that it cannot hold."""
    info = archive.getinfo(name)
    growth = info.file_size // max(info.compress_size, 1)
    if growth > MOST_GROWTH and info.file_size > 2**24:
        raise ValueError(f"`{_short(name)}` must not be {growth} times as large unpacked; "
                         f"got {info.file_size} bytes")
    with archive.open(name) as file:
        shape, fortran, dtype = _header(name, file)
        if len(shape) > 64 or any(not 0 <= n < 2**63 for n in shape):
            raise ValueError(f"`{_short(name)}` must have a shape; got {_short(shape)}")
        count = math.prod(shape)
        if count * dtype.itemsize > info.file_size:
            raise ValueError(f"`{_short(name)}` must hold the {count} numbers that it declares; "
                             f"got {info.file_size} bytes")
        yield file, shape, fortran, dtype


def open_npz(path: Path, option: str) -> zipfile.ZipFile:
    """The archive, or a ValueError that names the `option` it came by."""
    try:
        archive = zipfile.ZipFile(path)
    except BROKEN as err:
        raise ValueError(f"`{option}` must be a .npz file; got {_line(err)}") from None
    members = archive.infolist()
    twice = len({info.filename for info in members}) < len(members)
    if twice or sum(info.compress_size for info in members) > path.stat().st_size:
        archive.close()                         # one run of bytes in many members is a bomb
        raise ValueError(f"`{option}` must be a .npz file; got "
                         + ("a name that stands twice" if twice else "members that overlap"))
    return archive


@contextmanager
def _sound(name: str) -> Iterator[None]:
    """All that a broken archive can raise, as a ValueError in one line."""
    try:
        yield
    except BROKEN as err:
        raise ValueError(f"`{name}` must be a .npy array; got {_line(err)}") from None


def _line(err: Exception) -> str:
    return _short(err) or type(err).__name__


def _short(found: object) -> str:
    text = " ".join(str(found).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    try:
        version = read_magic(file)
        read = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
        # Of headers by Python 2, of odd escapes. Two threads at once would leave them caught.
        with CATCHING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shape, fortran, dtype = read(_Start(file))
    except (ValueError, SyntaxError, TypeError, MemoryError, *BROKEN) as err:
        raise ValueError(f"`{_short(name)}` must be a .npy array; got {_line(err)}") from None
    if dtype.kind not in "biufc":
        got = "Python objects" if dtype.hasobject else _short(dtype)
        raise ValueError(f"`{_short(name)}` must hold numbers; got {got}")
    return shape, fortran, dtype


class _Start:
    """The start of a file: a header of gigabytes is not read to be told that it is too long."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, 2**16

    def read(self, size: int = -1, /) -> bytes:
        """At most what is left of the start."""
        found = self.file.read(min(size, self.left))
        self.left -= len(found)
        return found


def _npz(path: Path) -> list[Stored]:
    found = []
    with open_npz(path, "FILE") as archive:
        for name, member in npz_names(archive).items():
            with _sound(member), _opened(archive, member) as (_, shape, _, _):
                pass
            found.append(Stored(name, shape, partial(_npz_read, path.absolute(), member)))
    return found


def _npz_read(path: Path, member: str) -> Array:
    with open_npz(path, "FILE") as archive:
        return npz_member(archive, member)


def _safetensors(path: Path) -> list[Stored]:
    place = os.fspath(path.absolute())
    return [Stored(name, tensor.shape, partial(safetensors.read_tensor, place, tensor),
                   partial(safetensors.read_bits, place, tensor))
            for name, tensor in safetensors.read_header(os.fspath(path)).items()]


def _onnx(path: Path) -> list[Stored]:
    onnx = require_onnx()
    proto, folder, _ = read_proto(path)
    outside: list[Slice] = []

    def reader(tensor: Any) -> Callable[[], Array]:
        if held_outside(tensor):
            outside.append(slice_of(tensor, folder))
            return partial(_beside, tensor, outside[-1])
        require_held(tensor)
        return partial(onnx.numpy_helper.to_array, tensor)

    found = [Stored(t.name, tuple(t.dims), reader(t)) for t in proto.graph.initializer]
    require_apart(outside)
    return found


def _beside(tensor: Any, where: Slice) -> Array:
    """A tensor whose numbers lie in another file."""
    onnx = require_onnx()
    whole = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=where.read())
    return np.asarray(onnx.numpy_helper.to_array(whole))


def _tflite(path: Path) -> list[Stored]:
    model = read_tflite(path.read_bytes())
    return [Stored(t.name, t.data.shape,
                   partial(_dequantized, t.data, t.scale, t.zero_point, t.axis))
            for t in model.tensors if t.data is not None]


def _dequantized(data: Array, scale: Array, zero_point: Array, axis: int) -> Array:
    if not scale.size:
        return data
    shape = [1] * data.ndim
    if scale.size > 1:
        shape[axis] = -1
    return ((data.astype(np.float64) - zero_point.reshape(shape)) * scale.reshape(shape)).astype(
        np.float32)
