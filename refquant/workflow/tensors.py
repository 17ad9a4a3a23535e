"""The tensors of a file, one at a time: ``.onnx``, ``.tflite``, ``.safetensors`` and ``.npz``.

A file is first asked what it holds; a tensor is read when its turn comes and forgotten
afterwards, so memory is bounded by the largest. Only ONNX and TFLite files have to be in
memory as a whole, since they are one record. Nothing is unpickled, no other file is opened,
and no size that a file declares is believed before it was compared with the bytes there are.
"""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from refquant._types import Array
from refquant.interop import safetensors
from refquant.interop.onnx_float import parse_onnx, require_onnx
from refquant.interop.tflite import read_tflite

__all__ = ["Stored", "npz_member", "npz_names", "tensors_of"]

#: An archive may not grow by more than this when it is unpacked, beyond 16 MB.
MOST_GROWTH = 1000

#: What `zipfile` and `zlib` raise for archives that are damaged, encrypted or exotic.
BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
          OverflowError, struct.error, UnicodeDecodeError, OSError)


class Stored(NamedTuple):
    """A tensor that has not been read yet.

    Attributes
    ----------
    name : str
    shape : tuple of int
    read : callable, () -> ndarray

    References
    ----------
    The formats' own specifications.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Array]


def tensors_of(path: Path) -> list[Stored]:
    """What a file holds, by the end of its name.

    Parameters
    ----------
    path : Path

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
    if path.suffix not in kinds:
        raise ValueError(f"`FILE` must end in {', '.join(kinds)}; got {path.name}")
    return kinds[path.suffix](path)


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
    info = archive.getinfo(name)
    if info.file_size > MOST_GROWTH * max(info.compress_size, 1) and info.file_size > 2**24:
        raise ValueError(f"`{name}` must not be {info.file_size // max(info.compress_size, 1)} "
                         f"times as large unpacked; got {info.file_size} bytes")
    with archive.open(name) as file:
        shape, fortran, dtype = _header(name, file)
        count = _count(name, shape)
        if count * dtype.itemsize > info.file_size:
            raise ValueError(f"`{name}` must hold the {count} numbers that it declares; "
                             f"got {info.file_size} bytes")
        content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise ValueError(f"`{name}` must hold the {count} numbers that it declares; "
                         f"got {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")


def open_npz(path: Path, option: str) -> zipfile.ZipFile:
    """The archive, or a ValueError that names the `option` it came by."""
    try:
        return zipfile.ZipFile(path)
    except BROKEN as err:
        raise ValueError(f"`{option}` must be a .npz file; got {_line(err)}") from None


@contextmanager
def _sound(name: str) -> Iterator[None]:
    """All that a broken archive can raise, as a ValueError in one line."""
    try:
        yield
    except BROKEN as err:
        raise ValueError(f"`{name}` must be a .npy array; got {_line(err)}") from None


def _line(err: Exception) -> str:
    return " ".join(str(err).split())[:100] or type(err).__name__


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    try:
        version = read_magic(file)
        read = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, SyntaxError, *BROKEN) as err:
        raise ValueError(f"`{name}` must be a .npy array; got {_line(err)}") from None
    if dtype.hasobject:
        raise ValueError(f"`{name}` must hold numbers; got Python objects")
    return shape, fortran, dtype


def _count(name: str, shape: tuple[int, ...]) -> int:
    count = 1
    for n in shape:
        if n < 0:
            raise ValueError(f"`{name}` must have a shape; got {shape}")
        count *= int(n)
    return count


def _npz(path: Path) -> list[Stored]:
    found = []
    with open_npz(path, "FILE") as archive:
        for name, member in npz_names(archive).items():
            with _sound(member), archive.open(member) as file:
                shape, _, _ = _header(member, file)

            def read(member: str = member) -> Array:
                with open_npz(path, "FILE") as again:
                    return npz_member(again, member)

            found.append(Stored(name, shape, read))
    return found


def _safetensors(path: Path) -> list[Stored]:
    def reader(tensor: safetensors.Tensor) -> Callable[[], Array]:
        return lambda: safetensors.read_tensor(os.fspath(path), tensor)

    return [Stored(name, tensor.shape, reader(tensor))
            for name, tensor in safetensors.read_header(os.fspath(path)).items()]


def _onnx(path: Path) -> list[Stored]:
    onnx = require_onnx()
    proto = parse_onnx(path)

    def reader(tensor: object) -> Callable[[], Array]:
        return lambda: np.asarray(onnx.numpy_helper.to_array(tensor))

    return [Stored(t.name, tuple(t.dims), reader(t)) for t in proto.graph.initializer]


def _tflite(path: Path) -> list[Stored]:
    model = read_tflite(path.read_bytes())
    found = []
    for tensor in model.tensors:
        data = tensor.data
        if data is None:
            continue

        def read(data: Array = data, scale: Array = tensor.scale, zero: Array = tensor.zero_point,
                 axis: int = tensor.axis) -> Array:
            if not scale.size:
                return data
            shape = [1] * data.ndim
            if scale.size > 1:
                shape[axis] = -1
            return ((data.astype(np.float64) - zero.reshape(shape)) * scale.reshape(shape)).astype(
                np.float32)

        found.append(Stored(tensor.name, data.shape, read))
    return found
