"""Bit planes in words of 64, and the one loop that all popcount products share."""

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_kind, require_same_shape

Tile: TypeAlias = tuple[slice, slice]

WORD = 64

#: Words of a tile, 256 kB: two planes of the weight and the scratch share a cache of a megabyte,
#: while all words of x pass over them.
TILE = 2**15
#: Counts kept until they are summed, 2 MB: of eight planes and 64 words, one sum instead of eight.
COUNTS = 2**21
#: Rows of a weight side by side in a tile, along which each word of x is broadcast.
ROWS = 2**12
#: Words of a row in a tile: the sum of their counts fits 16 bits.
MOST_WORDS = (2**16 - 1) // WORD


class Planes(NamedTuple):
    r"""Rows of small codes, one bit plane after the other, 64 codes to a word.

    .. math:: \text{code} = \text{offset}
              + \sum_i \text{coefficients}_i\, \text{bit}_i

    Attributes
    ----------
    words : ndarray of uint64, shape (planes, ceil(in / 64), rows)
        Bit k of word w of a row is that of code ``64 w + k``. The rows lie side
        by side, so that one word of x meets the same word of all of them.
        Bits beyond the last code are ignored, whatever they are.
    ones : ndarray of int32, shape (planes, rows)
        Ones of each plane of each row: the constant terms of a product.
    coefficients : tuple of int
        What a one adds to the code, for each plane.
    offset : int
        The code whose bits are all zero.
    length : int
        Codes of a row, ``in``.

    References
    ----------
    Umuroglu et al., "BISMO", 2018, arXiv:1806.08862, section II.
    """

    words: Array
    ones: Array
    coefficients: tuple[int, ...]
    offset: int
    length: int

    @property
    def bounds(self) -> tuple[int, int]:
        """Least and largest code."""
        low = self.offset + sum([c for c in self.coefficients if c < 0])
        return low, low + sum(map(abs, self.coefficients))


_P = TypeVar("_P", bound=Planes)


def as_rows(codes: Array, low: int, high: int) -> Array:
    """`codes` as a matrix of integers in ``[low, high]``."""
    codes = require_codes("codes", codes, low, high)
    if codes.ndim != 2:
        raise ValueError(f"`codes` must have shape (rows, in); got {codes.shape}")
    return codes


def planes_of(
    codes: Array,
    bits: Sequence[Callable[[Array], Array]],
    coefficients: tuple[int, ...],
    offset: int,
) -> Planes:
    """Planes of `codes`, each made by its function from codes to a mask."""
    rows, length = codes.shape
    words = np.zeros((len(bits), -(-length // WORD), rows), np.uint64)
    step = max(TILE // max(length, 1), 1)         # rows at a time, to need little memory beside
    padded = np.zeros((step, words.shape[1] * WORD // 8), np.uint8)
    for start in range(0, rows, step):
        part = codes[start : start + step]
        for i, bit in enumerate(bits):
            packed = np.packbits(bit(part).astype(bool), axis=1, bitorder="little")
            padded[: len(part), : packed.shape[1]] = packed
            words[i, :, start : start + step] = padded[: len(part)].view("<u8").T
    ones = np.bitwise_count(words).sum(axis=1, dtype=np.int32)
    return Planes(words, ones, coefficients, offset, length)


def masks(planes: Planes) -> Array:
    """Bits of each plane as 0 and 1, shape (planes, rows, in): the inverse of packing."""
    packed = np.ascontiguousarray(planes.words.swapaxes(1, 2)).astype("<u8", copy=False)
    unpacked = np.unpackbits(packed.view(np.uint8), axis=2, bitorder="little")
    return unpacked[..., : planes.length]


def require_planes(name: str, planes: _P) -> _P:
    """`planes` without dirt beyond the last code; raise unless its parts fit each other."""
    require_kind(name, planes, Planes)
    words, length = planes.words, planes.length
    if words.dtype != np.uint64:
        raise TypeError(f"`{name}.words` must be uint64; got {words.dtype}")
    n = -(-length // WORD)
    if words.ndim != 3 or words.shape[:2] != (len(planes.coefficients), n):
        raise ValueError(
            f"`{name}.words` must have {len(planes.coefficients)} planes of {n} words "
            f"for {length} codes; got shape {words.shape}"
        )
    require_same_shape(f"{name}.ones", planes.ones, (len(words), words.shape[2]))
    used = np.uint64(2 ** (length % WORD) - 1)
    if used and (words[:, -1] & ~used).any():
        words = words.copy()
        words[:, -1] &= used
        return planes._replace(words=words)
    return planes


def require_sums(x: Planes, low: int, high: int, weight: Planes) -> None:
    """Raise unless x and a weight with codes in [low, high] match, and each sum fits int32."""
    if x.length != weight.length:
        raise ValueError(
            f"`x` must have rows of {weight.length} codes, like `weight`; got {x.length}"
        )
    most = max(map(abs, x.bounds)) * max(abs(low), abs(high)) * x.length
    if most >= 2**31:
        raise ValueError(f"`x` and `weight` must have sums that fit int32; got up to {most}")


def add_counts(
    y: Array, x: Planes, meet: Callable[[Tile, Array, Array], object], factor: int
) -> None:
    """Add the popcounts of what x and a weight have in common to `y`, plane by plane of x.

    ``meet(tile, word, out)`` writes what a tile of the weight, indexed by
    [words, rows], makes of the words of one row of x, a column. The count of
    plane i is added `factor` times its coefficient of x.
    """
    n, rows = y.shape
    planes, words, _ = x.words.shape
    columns = x.words.transpose(2, 0, 1).reshape(n * planes, words, 1)
    side, together = max(min(rows, ROWS), 1), min(n * planes, COUNTS // TILE)
    step = TILE // side
    deep = min(max(COUNTS // (side * max(together, 1)) // step, 1) * step, MOST_WORDS)
    scratch = np.empty((step, side), np.uint64)
    numbers = np.empty((together, min(deep, words), side), np.uint8)
    with np.errstate():                            # on leaving, it restores the buffer as well
        # numpy copies an operand that is broadcast along less than a buffer, 8192 elements by
        # default, word by word: twice the time of the logical operation.
        np.setbufsize(max(side // 16 * 16, 16))
        for across, some, block in product(
            _pieces(0, rows, side), _pieces(0, len(columns), together), _pieces(0, words, deep)
        ):
            counts = numbers[: some.stop - some.start, : block.stop - block.start]
            counts = counts[:, :, : across.stop - across.start]
            for down in _pieces(block.start, block.stop, step):
                common = scratch[: down.stop - down.start, : counts.shape[2]]
                here = slice(down.start - block.start, down.stop - block.start)
                for column, counted in zip(columns[some], counts, strict=True):
                    meet((down, across), column[down], common)
                    np.bitwise_count(common, out=counted[here])
            for i, counted in enumerate(counts, some.start):
                total = np.add.reduce(counted, axis=0, dtype=np.uint16).astype(np.int32)
                # In int32, which wraps: the final sum fits, so nothing is lost.
                total *= factor * x.coefficients[i % planes]
                y[i // planes, across] += total


def _pieces(start: int, stop: int, most: int) -> list[slice]:
    return [slice(i, min(i + most, stop)) for i in range(start, stop, max(most, 1))]
