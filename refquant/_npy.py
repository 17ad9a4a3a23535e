"""The header of an array in NumPy's format, believed only as far as the bytes behind it go."""

import lzma
import math
import struct
import threading
import tokenize
import warnings
import zipfile
import zlib
from typing import IO, NamedTuple

import numpy as np
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from refquant._types import Array
from refquant._validate import short

__all__ = ["BROKEN", "Header", "read_array", "read_header"]

#: What `zipfile` and the decompressors raise for archives that are damaged, encrypted or exotic.
BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError,
          RuntimeError, OverflowError, struct.error, UnicodeDecodeError, OSError)

_CATCHING = threading.Lock()


class Header(NamedTuple):
    """Shape, order and type of an array, and its numbers."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: "np.dtype[np.generic]"

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """And their bytes."""
        return self.size * self.dtype.itemsize


def read_header(name: str, file: IO[bytes], size: int) -> Header:
    """The header at the start of a file of `size` bytes, which then stands at the numbers.

    Anything but numbers, and more of them than the file can hold, is a ValueError in one line.
    """
    name = short(name)
    try:
        version = read_magic(file)
        read = read_array_header_1_0 if version == (1, 0) else read_array_header_2_0
        # Of headers by Python 2, of odd escapes. Two threads at once would leave them caught.
        with _CATCHING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = Header(*read(_Start(file)))
    except (ValueError, SyntaxError, TypeError, MemoryError, tokenize.TokenError, *BROKEN) as err:
        raise ValueError(f"`{name}` must be a .npy array; "
                         f"got {short(err) or type(err).__name__}") from None
    if header.dtype.kind not in "biufc":
        got = "Python objects" if header.dtype.hasobject else short(header.dtype)
        raise ValueError(f"`{name}` must hold numbers; got {got}")
    if len(header.shape) > 64 or any(type(n) is not int or not 0 <= n < 2**63
                                     for n in header.shape):
        raise ValueError(f"`{name}` must have a shape; got {short(header.shape)}")
    if header.nbytes > size:
        raise ValueError(f"`{name}` must hold the {header.size} numbers that it declares; "
                         f"got {size} bytes")
    return header


def read_array(name: str, file: IO[bytes], size: int) -> Array:
    """The numbers of such a file, in the machine's byte order."""
    header = read_header(name, file, size)
    content = file.read(header.nbytes)
    if len(content) < header.nbytes:
        raise ValueError(f"`{short(name)}` must hold the {header.size} numbers that it declares; "
                         f"got {len(content)} bytes")
    flat = np.frombuffer(content, header.dtype, header.size)
    array = flat.reshape(header.shape, order="F" if header.fortran else "C")
    return array.astype(header.dtype.newbyteorder("="), copy=False)


class _Start:
    """The start of a file: a header of gigabytes is not read to be told that it is too long."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.left = file, 2**16

    def read(self, size: int = -1, /) -> bytes:
        """At most what is left of the start."""
        found = self.file.read(min(size, self.left))
        self.left -= len(found)
        return found
