r"""Codes in files of tensors: a ``.safetensors`` or ``.npz`` whose matrices are integers.

A matrix ``w`` of ``out`` rows lies in the file as three arrays, and everything else as it was:

================  ==================  ====================================================
array             shape               what it holds
================  ==================  ====================================================
``w.codes``       (out, bytes)        uint8: up to 4 bits packed, low bits first, each row
                                      from a whole byte; int8 or uint8 above, one a byte
``w.scale``       (out, groups)       float32
``w.zero_point``  (out, groups)       uint8, or float32 where it is not whole; left out
                                      where it is 0
================  ==================  ====================================================

What they stand for is ``scale * (codes - zero_point)`` in float32, a row cut into `groups`
equal parts. Bits, sign and the tensor's shape are a JSON text under the name ``refquant``: in
the metadata of safetensors, in a ``.npz`` as the bytes of an array ``__metadata__``. ``order``
says in which order the axes of the tensor lie in the rows of codes: (1, 0) for a matrix that a
model keeps as (in, out).

Nothing that a file declares is believed before it is compared with what it holds.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import short
from refquant._whole import whole
from refquant.interop import safetensors
from refquant.interop.qdq import CodedWeight
from refquant.interop.safetensors import Bits
from refquant.kernels.packing import pack, unpack
from refquant.workflow.tensors import Stored, tensors_of

__all__ = ["CodedTensor", "dequantized", "read_coded", "write_coded"]

_NOTES, _METADATA, _VERSION = "refquant", "__metadata__", 1
_CONVENTION = "scale * (codes - zero_point) in float32; packed low bits first, rows from a byte"
#: Numbers decoded at a time.
_PART = 2**20


class CodedTensor(NamedTuple):
    """A tensor whose numbers are codes.

    Attributes
    ----------
    weight : CodedWeight
        Codes of shape (out, in), of any type of integers; groups of equal length.
    shape : tuple of int
        Of the tensor.
    order : tuple of int
        Its axes in the order in which they lie in the codes, that of the rows first.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> one = np.ones((2, 1), np.float32)
    >>> w = CodedWeight(np.array([[1, 2, 3], [4, 5, 6]], np.int32), one, 0 * one, 4, False)
    >>> CodedTensor(w, (3, 2), (1, 0)).decoded().tolist()
    [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    """

    weight: CodedWeight
    shape: tuple[int, ...]
    order: tuple[int, ...]

    def decoded(self) -> Array:
        """The float32 numbers that the codes stand for, in the tensor's shape."""
        codes, scale, zero, *_ = self.weight
        made = np.empty(codes.shape, np.float32)
        step = max(_PART // max(codes.shape[1], 1), 1)
        for i in range(0, len(codes), step):
            rows = slice(i, i + step)
            part = self.weight._replace(codes=codes[rows].astype(np.int32), scale=scale[rows],
                                        zero_point=zero[rows])
            with np.errstate(over="ignore", invalid="ignore"):      # a file may ask for infinity
                made[rows] = part.decoded()
        laid = made.reshape([self.shape[axis] for axis in self.order])
        return np.ascontiguousarray(laid.transpose(np.argsort(self.order)))


def write_coded(
    path: Path, tensors: Iterable[tuple[str, CodedTensor | Array | Bits]],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write codes and other arrays, one at a time, and read them back before the file is named.

    Parameters
    ----------
    path : Path
        Ends in ``.safetensors`` or ``.npz``. The same tensors give the same bytes.
    tensors : iterable of (str, CodedTensor or ndarray or Bits)
    metadata : mapping of str to str, optional
        Goes into the file beside the layout.

    Raises
    ------
    ValueError
        If two arrays have one name, or a record does not fit itself.
    TypeError
        If the format has no name for a type.

    References
    ----------
    Hugging Face, "Safetensors: format"; NumPy enhancement proposal 1; ONNX, "4-bit integer
    types" (the order in a byte).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.npz"
    >>> write_coded(path, [("bias", np.ones(2))])
    >>> dict(read_coded(path))
    {'bias': array([1., 1.])}
    """
    kind = _kind(path)
    rows: dict[str, Any] = {}
    sums: dict[str, bytes] = {}
    notes: dict[str, str] = dict(metadata or {})

    def parts() -> Iterator[tuple[str, Array | Bits]]:
        for name, tensor in tensors:
            sums[name] = _sum(tensor)
            if isinstance(tensor, CodedTensor):
                rows[name] = _row(name, tensor)
                yield from _arrays_of(name, tensor)
            else:
                yield name, tensor
        notes[_NOTES] = json.dumps({"version": _VERSION, "convention": _CONVENTION,
                                    "tensors": rows}, separators=(",", ":"), sort_keys=True)

    with whole(path) as file:
        if kind == ".npz":
            _write_npz(file, parts(), notes)
        else:
            safetensors.write(file, parts(), notes)
        file.flush()
        found = {name: _sum(tensor) for name, tensor in read_coded(Path(file.name), kind)}
        if found != sums:
            raise ValueError(f"`{path.name}` must read back as it was written; got other numbers")


def read_coded(path: Path, kind: str | None = None) -> Iterator[tuple[str, CodedTensor | Array]]:
    """What a file holds, one tensor at a time: codes as records, the rest as it is.

    Parameters
    ----------
    path : Path
    kind : str, optional
        ``.safetensors`` or ``.npz``; by default the end of the name.

    Yields
    ------
    tuple of str and (CodedTensor or ndarray)

    Raises
    ------
    ValueError
        If the file is damaged, or its layout does not fit its arrays.

    References
    ----------
    Hugging Face, "Safetensors: format"; NumPy enhancement proposal 1.
    """
    kind = _kind(path) if kind is None else kind
    stored = {t.name: t for t in tensors_of(path, kind)}
    rows = _rows(path, kind, stored)
    inside = {f"{name}.{part}" for name in rows for part in ("codes", "scale", "zero_point")}
    for name in rows:
        try:
            tensor = _tensor(name, rows[name], stored)
        except (KeyError, TypeError) as err:
            raise ValueError(f"`{short(name)}` must have codes, scales and a layout; "
                             f"got no {short(err.args[0])}") from None
        yield name, tensor
    for name, one in stored.items():
        if name not in inside and not (kind == ".npz" and name == _METADATA):
            yield name, one.read()


def dequantized(path: Path) -> Iterator[tuple[str, Array]]:
    """What a file holds as numbers: codes as the float32 that they stand for.

    Parameters
    ----------
    path : Path

    Yields
    ------
    tuple of str and ndarray

    Raises
    ------
    ValueError
        If the file is damaged, or its layout does not fit its arrays.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.safetensors"
    >>> one = np.ones((1, 1), np.float32)
    >>> w = CodedWeight(np.array([[1, 2, 3]], np.int32), one / 2, one, 2, False)
    >>> write_coded(path, [("w", CodedTensor(w, (1, 3), (0, 1)))])
    >>> [(name, array.tolist()) for name, array in dequantized(path)]
    [('w', [[0.0, 0.5, 1.0]])]
    """
    for name, tensor in read_coded(path):
        yield name, tensor.decoded() if isinstance(tensor, CodedTensor) else tensor


def is_coded(path: Path) -> bool:
    """Whether a file has a layout of codes."""
    kind = _kind(path)
    return bool(_rows(path, kind, {t.name: t for t in tensors_of(path, kind)}))


def coded_bytes(tensor: CodedTensor) -> int:
    """Bytes of a tensor in a file: codes, scales and zero points that are not all 0."""
    _, scale, zero, bits, _ = tensor.weight
    out, n = tensor.weight.codes.shape
    size = out * (-(-n * bits // 8) if bits <= 4 else n) + 4 * scale.size
    return size + (zero.size * (4 if zero.dtype.kind == "f" else 1) if zero.any() else 0)


def _kind(path: Path) -> str:
    if path.suffix not in (".safetensors", ".npz"):
        raise ValueError(f"`path` must end in .safetensors or .npz; got {path.name}")
    return path.suffix


def _row(name: str, tensor: CodedTensor) -> dict[str, object]:
    """The layout of a tensor, its record held against itself."""
    weight, shape, order = tensor
    out, n = weight.codes.shape
    groups = weight.scale.shape[1]
    sizes = [shape[axis] for axis in order] if sorted(order) == list(range(len(shape))) else []
    if not groups or n % groups or weight.scale.shape != weight.zero_point.shape or (
            not 2 <= weight.bits <= 8) or len(weight.scale) != out or not sizes or (
            sizes[0] != out or math.prod(sizes[1:]) != n):
        raise ValueError(f"`{name}` must have codes, scales and zero points that fit its shape "
                         f"{shape}; got {weight.codes.shape}, {weight.scale.shape} and "
                         f"{weight.zero_point.shape}")
    return {"bits": weight.bits, "group": n // groups, "signed": weight.signed,
            "shape": list(shape), "order": list(order)}


def _arrays_of(name: str, tensor: CodedTensor) -> Iterator[tuple[str, Array]]:
    codes, scale, zero, bits, signed = tensor.weight
    if bits <= 4:
        yield f"{name}.codes", pack(codes, bits=bits, signed=signed)
    else:
        yield f"{name}.codes", codes.astype(np.int8 if signed else np.uint8)
    yield f"{name}.scale", scale.astype(np.float32)
    if zero.any():
        yield f"{name}.zero_point", zero.astype(np.float32 if zero.dtype.kind == "f" else np.uint8)


def _rows(path: Path, kind: str, stored: Mapping[str, Stored]) -> dict[str, Any]:
    """The layout in a file; of a file of plain tensors an empty one."""
    if kind == ".safetensors":
        text: str | None = safetensors.read_metadata(path).get(_NOTES)
    else:
        notes = _json(bytes(stored[_METADATA].read())) if _METADATA in stored else {}
        text = notes.get(_NOTES)
    if text is None:
        return {}
    if not isinstance(text, str):
        raise ValueError(f"{path.name} must have texts as metadata; got something else")
    found = _json(text.encode())
    rows = found.get("tensors")
    if found.get("version") != _VERSION or not isinstance(rows, dict):
        raise ValueError(f"{path.name} must have a layout of version {_VERSION}; "
                         f"got {short(found.get('version'))}")
    return rows


def _json(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise ValueError(f"the layout must be JSON; got {short(err)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"the layout must be a JSON object; got {type(found).__name__}")
    return found


def _tensor(name: str, row: Any, stored: Mapping[str, Stored]) -> CodedTensor:
    """Codes, scales and layout of one tensor, held against each other."""
    bits, group, signed = row["bits"], row["group"], row["signed"]
    shape, order = row["shape"], row["order"]
    whole_numbers = [bits, group, *shape, *order]
    if not isinstance(signed, bool) or any(type(n) is not int or not 0 <= n < 2**48
                                           for n in whole_numbers):
        raise ValueError(f"`{short(name)}` must have a layout of whole numbers; "
                         f"got {short(row)}")
    if not 2 <= bits <= 8 or len(shape) > 64 or not shape or (
            sorted(order) != list(range(len(shape)))):
        raise ValueError(f"`{short(name)}` must have 2 to 8 bits and an order of its axes; "
                         f"got {short(row)}")
    sizes = [shape[axis] for axis in order]
    out, n = sizes[0], math.prod(sizes[1:])
    if not group or not n or n % group:
        raise ValueError(f"`{short(name)}` must have groups that divide its {n} columns; "
                         f"got {group}")
    many = (out, n // group)
    held = _of(name, "codes", stored, (out, -(-n * bits // 8) if bits <= 4 else n),
               "u1" if bits <= 4 or not signed else "i1")
    codes = unpack(held, n, bits=bits, signed=signed) if bits <= 4 else held
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if codes.size and (codes.min() < low or codes.max() > high):
        raise ValueError(f"`{short(name)}` must have codes from {low} to {high}; got "
                         f"{codes.min()} to {codes.max()}")
    scale = _of(name, "scale", stored, many, "f4")
    zero = np.zeros(many, np.int32)
    if f"{name}.zero_point" in stored:
        zero = _of(name, "zero_point", stored, many, "u1", "f4")
    if not np.isfinite(scale).all() or not np.isfinite(zero).all():
        raise ValueError(f"`{short(name)}` must have finite scales and zero points; got others")
    zero = zero if zero.dtype.kind == "f" else zero.astype(np.int32)
    return CodedTensor(CodedWeight(codes, scale, zero, bits, signed),
                       tuple(shape), tuple(order))


def _of(name: str, part: str, stored: Mapping[str, Stored], shape: tuple[int, int],
        *kinds: str) -> Array:
    one = stored[f"{name}.{part}"]
    if one.shape != shape:
        raise ValueError(f"`{short(one.name)}` must have shape {shape}; got {one.shape}")
    array = one.read()
    if array.dtype not in [np.dtype(kind) for kind in kinds]:
        raise ValueError(f"`{short(one.name)}` must be {' or '.join(kinds)}; got {array.dtype}")
    return array


def _write_npz(
    file: IO[bytes], arrays: Iterable[tuple[str, Array | Bits]], notes: Mapping[str, str]
) -> None:
    """A ``.npz`` that depends on the arrays alone; one at a time in memory."""
    names: set[str] = set()

    def add(name: str, array: Array) -> None:
        if name in names:
            raise ValueError(f"`tensors` must have names of their own; got {name!r} again")
        names.add(name)
        info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
        info.create_system = 3                  # the default differs on Windows
        with archive.open(info, "w", force_zip64=True) as member:
            np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)

    with zipfile.ZipFile(file, "w") as archive:
        for name, value in arrays:
            if isinstance(value, Bits) and value.dtype.startswith("F8"):
                raise ValueError(f"`{name}` must have a type that NumPy knows; got {value.dtype}: "
                                 "a .safetensors file can hold it")
            add(name, safetensors.as_numbers(value) if isinstance(value, Bits) else value)
        text = json.dumps(notes, separators=(",", ":"), sort_keys=True)
        add(_METADATA, np.frombuffer(text.encode(), np.uint8))


def _sum(tensor: CodedTensor | Array | Bits) -> bytes:
    """A checksum of the numbers, whatever file they lie in."""
    array = (tensor.decoded() if isinstance(tensor, CodedTensor)
             else safetensors.as_numbers(tensor) if isinstance(tensor, Bits)
             else np.asarray(tensor))
    native = np.ascontiguousarray(array, array.dtype.newbyteorder("="))
    about = f"{native.dtype.str} {array.shape}".encode()
    return hashlib.blake2b(native.reshape(-1).view(np.uint8).data, person=b"refquant",
                           key=hashlib.blake2b(about, digest_size=32).digest()).digest()
