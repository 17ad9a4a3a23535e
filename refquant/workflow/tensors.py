"""The tensors of a file, one at a time: ``.onnx``, ``.tflite``, ``.safetensors`` and ``.npz``.

A file is first asked what it holds; a tensor is read when its turn comes and forgotten
afterwards, so memory is bounded by the largest. Only ONNX and TFLite files have to be in
memory as a whole, since they are one record. Nothing is unpickled, no other file is opened but
the weights that lie beside an ONNX model, and no size that a file declares is believed before
it was compared with the bytes there are.
"""

import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from refquant._npy import BROKEN, read_array, read_header
from refquant._types import Array
from refquant._validate import short
from refquant.interop import safetensors
from refquant.interop._external import Slice, held_outside, require_apart, slice_of
from refquant.interop.onnx_float import read_proto, require_held, require_onnx
from refquant.interop.tflite import read_tflite

__all__ = ["Stored", "npz_member", "npz_names", "tensors_of"]

#: An archive may not grow by more than this when it is unpacked, beyond 16 MB.
MOST_GROWTH = 100

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
    with _sound(name), _opened(archive, name) as (file, size):
        return read_array(name, file, size)


@contextmanager
def _opened(archive: zipfile.ZipFile, name: str) -> Iterator[tuple[IO[bytes], int]]:
    """A member and its size, which is not out of all proportion."""
    info = archive.getinfo(name)
    growth = info.file_size // max(info.compress_size, 1)
    if growth > MOST_GROWTH and info.file_size > 2**24:
        raise ValueError(f"`{short(name)}` must not be {growth} times as large unpacked; "
                         f"got {info.file_size} bytes")
    with archive.open(name) as file:
        yield file, info.file_size


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
        raise ValueError(f"`{short(name)}` must be a .npy array; got {_line(err)}") from None


def _line(err: Exception) -> str:
    return short(err) or type(err).__name__


def _npz(path: Path) -> list[Stored]:
    found = []
    with open_npz(path, "FILE") as archive:
        for name, member in npz_names(archive).items():
            with _sound(member), _opened(archive, member) as (file, size):
                header = read_header(member, file, size)
            found.append(Stored(name, header.shape, partial(_npz_read, path.absolute(), member)))
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
