"""Checked reading of a FlatBuffer: every offset and length is looked at before it is used.

A FlatBuffer is a web of relative offsets, and a hostile one points anywhere. Whatever leaves
the file raises `ValueError` with the offset. Vectors that are read again and again cost from a
budget proportional to the file, so that a small file cannot ask for much work.
"""

import struct
from typing import NamedTuple

import numpy as np

from refquant._types import Array

SIZES = {"b": 1, "B": 1, "?": 1, "h": 2, "i": 4, "I": 4, "q": 8, "Q": 8, "f": 4}


class FlatBuffer:
    """Bytes, and how much may still be read from them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.budget = 16 * len(data) + 2**16

    def scalar(self, at: int, kind: str) -> int | float:
        """The little-endian number at an offset."""
        self.require(at, SIZES[kind])
        self._pay(SIZES[kind])
        number: int | float = struct.unpack_from("<" + kind, self.data, at)[0]
        return number

    def integer(self, at: int, kind: str) -> int:
        """The same, of an integer."""
        return int(self.scalar(at, kind))

    def follow(self, at: int) -> int:
        """Where the relative offset at `at` points to."""
        target = at + self.integer(at, "I")
        self.require(target, 4)
        return target

    def require(self, at: int, size: int) -> None:
        """Raise unless `size` bytes at `at` lie in the file."""
        if at < 0 or size < 0 or at + size > len(self.data):
            raise ValueError(
                f"the file must hold {size} bytes at offset {at}; it ends at {len(self.data)}"
            )

    def _pay(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise ValueError(
                "the tables of the file must not be used over and over; "
                f"more than {16 * len(self.data)} bytes were read from {len(self.data)}"
            )

    def array(self, at: int, count: int, kind: str) -> Array:
        """A view of `count` numbers at an offset, which costs nothing but its length."""
        self.require(at, count * SIZES[kind])
        return np.frombuffer(self.data, "<" + kind.replace("?", "B"), count, at)

    def root(self) -> "Table":
        """The root table."""
        return self.table(self.follow(0))

    def table(self, at: int) -> "Table":
        """The table at an offset, its virtual table checked."""
        virtual = at - self.integer(at, "i")
        size = self.integer(virtual, "h") & 0xFFFF
        if size < 4 or size % 2:
            raise ValueError(f"the table at offset {at} must have a sound vtable; got size {size}")
        self.require(virtual, size)
        return Table(self, at, virtual, size)


class Table(NamedTuple):
    """A table of a FlatBuffer: its fields by slot number."""

    buffer: FlatBuffer
    at: int
    virtual: int
    size: int

    def where(self, slot: int) -> int | None:
        """Offset of a field, or None where the file leaves it out."""
        place = 4 + 2 * slot
        if place + 2 > self.size:
            return None
        offset = self.buffer.integer(self.virtual + place, "h") & 0xFFFF
        return self.at + offset if offset else None

    def number(self, slot: int, kind: str, default: float = 0) -> float:
        """A number stored in the table itself."""
        at = self.where(slot)
        return default if at is None else self.buffer.scalar(at, kind)

    def integer(self, slot: int, kind: str, default: int = 0) -> int:
        """The same, of an integer."""
        at = self.where(slot)
        return default if at is None else self.buffer.integer(at, kind)

    def table(self, slot: int) -> "Table | None":
        """The table that a field points to."""
        at = self.where(slot)
        return None if at is None else self.buffer.table(self.buffer.follow(at))

    def text(self, slot: int) -> str:
        """A string; empty where there is none."""
        start, count = self._vector(slot, 1)
        self.buffer._pay(count)
        return self.buffer.data[start : start + count].decode("utf-8", "replace")

    def numbers(self, slot: int, kind: str) -> Array:
        """A vector of numbers; of length 0 where there is none."""
        start, count = self._vector(slot, SIZES[kind])
        self.buffer._pay(count * SIZES[kind])
        return self.buffer.array(start, count, kind)

    def view(self, slot: int) -> Array | None:
        """A vector of bytes as a view of the file, not copied; None where there is none."""
        if self.where(slot) is None:
            return None
        start, count = self._vector(slot, 1)
        return self.buffer.array(start, count, "B")

    def tables(self, slot: int) -> "list[Table]":
        """A vector of tables."""
        start, count = self._vector(slot, 4)
        return [self.buffer.table(self.buffer.follow(start + 4 * k)) for k in range(count)]

    def _vector(self, slot: int, size: int) -> tuple[int, int]:
        at = self.where(slot)
        if at is None:
            return 0, 0
        start = self.buffer.follow(at)
        count = self.buffer.integer(start, "I")
        self.buffer.require(start + 4, count * size)
        return start + 4, count
