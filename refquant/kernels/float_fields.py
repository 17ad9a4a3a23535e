r"""Multiply several rows of low-bit codes at once, as fields of one float.

The sum of ten thousand products of ternary codes needs 15 bits, that of a hundred
only 8, and a float32 has 24. So let one float carry three rows of the weight, 8
bits apart: a product with it is three products,

.. math:: \sum_k (u_{0k} + 2^8 u_{1k} + 2^{16} u_{2k})\, x_k
          = S_0 + 2^8 S_1 + 2^{16} S_2 ,

and BLAS does a third of the work. (Multiplying polynomials by evaluating them at
a power of two is Kronecker's substitution.) It is exact as long as each
:math:`S_i` stays inside its field, from 0 to :math:`2^8 - 1`. Two things arrange
that. Weights are held as digits :math:`u = (w - low) / step \ge 0`. And a sum of
digits with codes x of both signs lies in
:math:`[-u_{max} N,\ u_{max} P]`, N and P being the sums of the magnitudes of the
negative and of the positive x: one more row of the product, a constant times
:math:`u_{max} N`, moves it to :math:`[0,\ u_{max}(N + P)]`. That costs nothing,
and every partial sum stays inside the float too, whatever the order. Where
:math:`N + P` grows too large a new chunk begins.

Storage is made for decoding without a table. The fields of a word are where those of
the float will be, and the digits of other k fill the field up: one mask isolates
the digits of one k in all fields, times a power of two that x is divided by
beforehand, and the cast of the word to float *is* the decoding.
"""

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_int, require_kind
from refquant.kernels._apart import apart
from refquant.kernels._threads import for_each

__all__ = ["LAYOUTS", "Layout", "Packed", "choose", "pack", "product", "unpack"]

#: Columns of words decoded at a time, and products at most in a chunk: 0.7 megabytes of
#: floats, so that the tile, its words and its sums stay in the nearer caches.
COLUMNS, MOST = 704, 256
#: Multiplications for which OpenBLAS does without a copy of its operands: for few rows of x
#: the chunks are cut to it, unless that makes them shorter than `LEAST`.
DIRECT, LEAST = 10**6, 128
#: Chunks that are added before the fields are taken apart: 24 bits grow to 31.
SPAN = 127
#: Rows of x at a time: the two accumulators of each take as much memory as its result.
X_ROWS = 256
#: Taking the fields of a sum apart takes as long as this many multiplications in float32.
APART = 27


class Layout(NamedTuple):
    """How many fields of how many bits make up one float.

    Attributes
    ----------
    dtype : type
        ``np.float32``, or ``np.float64``, which multiplies half as fast.
    fields : int
        Rows of the weight in one float: 2 or 3.
    width : int
        Bits of a field.

    References
    ----------
    See `choose`.

    Examples
    --------
    >>> Layout(np.float32, 3, 8).fields
    3
    """

    dtype: type
    fields: int
    width: int


#: The layouts that are of use; `choose` takes the cheapest.
LAYOUTS = (
    Layout(np.float32, 3, 8),       # ternary by ternary, binary by binary
    Layout(np.float32, 2, 12),      # ternary by 4 bits
    Layout(np.float64, 3, 17),      # ternary by 8 bits, 4 bits by 4 bits
    Layout(np.float64, 2, 26),      # sums of up to 2**26 without a chunk
)


def choose(u_max: int, x_max: int) -> Layout:
    r"""Layout with the least work for each product.

    A chunk holds :math:`c = \lfloor (2^{width} - 1) / (u_{max} x_{max}) \rfloor`
    products, so the work is, in multiplications of float32,

    .. math:: \frac{t}{fields} \Bigl(1 + \frac{27}{\min(c, 256)}\Bigr),
              \qquad t = 1 \text{ or, for float64, } 2 .

    Parameters
    ----------
    u_max, x_max : int
        Largest digit of a weight, and largest magnitude of a code of `x`.

    Returns
    -------
    Layout

    Raises
    ------
    ValueError
        If the products of one word do not fit a field of 26 bits.

    References
    ----------
    Kronecker substitution: von zur Gathen and Gerhard, "Modern Computer Algebra",
    section 8.4.

    Examples
    --------
    >>> choose(u_max=2, x_max=1)[1:]                # ternary by ternary
    (3, 8)
    >>> choose(u_max=2, x_max=8)[1:]                # ternary by 4 bits
    (2, 12)
    >>> choose(u_max=2, x_max=128)[1:]              # ternary by 8 bits
    (3, 17)
    """
    u_max, x_max = require_int("u_max", u_max, 1), require_int("x_max", x_max, 1)
    bits = u_max.bit_length()

    def work(one: Layout) -> float:
        chunk = min((2**one.width - 1) // (u_max * x_max), MOST)
        if chunk < max(one.width // bits, 1):       # not even the digits of one word
            return math.inf
        return (1 if one.dtype is np.float32 else 2) / one.fields * (1 + APART / chunk)

    best = min(LAYOUTS, key=work)
    if work(best) == math.inf:
        raise ValueError(f"`x_max` must leave room for a word of products in 26 bits; "
                         f"got {x_max} for digits up to {u_max}")
    return best


class Packed(NamedTuple):
    """A weight of low-bit codes in the words that `pack` makes.

    Attributes
    ----------
    words : ndarray of uint32 or uint64, shape (rows * columns,)
        A matrix of ``rows, columns``, 704 columns after the other, so that what is
        decoded together lies together. Word (j, c) holds in field f, at digit p, the
        digit of ``weight[f * columns + c, p * rows + j]``. Higher bits are ignored, and so
        are digits of rows and inputs beyond the last.
    shape : tuple of int
        ``(out, in)`` of the codes.
    low, step : int
        A digit u stands for the code ``low + step * u``.
    u_max : int
        The largest digit.
    x_max : int
        Largest magnitude of a code that the weight may be multiplied with.
    layout : Layout

    References
    ----------
    See `pack`.

    Examples
    --------
    >>> pack(np.array([[1, -1]]), low=-1, high=1, x_max=1).u_max
    2
    """

    words: Array
    shape: tuple[int, int]
    low: int
    step: int
    u_max: int
    x_max: int
    layout: Layout

    @property
    def bits(self) -> int:
        """Bits of a digit."""
        return self.u_max.bit_length()

    @property
    def digits(self) -> int:
        """Digits that fit one field of a word."""
        return self.layout.width // self.bits

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the words."""
        return -(-self.shape[1] // self.digits), -(-self.shape[0] // self.layout.fields)


def pack(codes: Array, *, low: int, high: int, step: int = 1, x_max: int) -> Packed:
    """Words of a weight, for products with codes up to `x_max`.

    Parameters
    ----------
    codes : ndarray of int, shape (out, in)
        Each ``low``, ``low + step``, ..., `high`: -1, 0, 1 for ternary, and with a
        step of 2 only -1 and 1 for binary weights.
    low, high, step : int
    x_max : int
        1 for signs and trits, 2 for 2-bit, 8 for 4-bit, 128 for 8-bit codes.

    Returns
    -------
    Packed
        Of 1.33 bits for a binary, 2.67 for a ternary and 2 to 5.33 for other weights.

    Raises
    ------
    ValueError
        If a code is not of the format, the matrix is none, or a sum of products
        could overflow int32.
    TypeError
        If the codes are not integers.

    References
    ----------
    See `choose`.

    Examples
    --------
    >>> packed = pack(np.array([[1, -1], [0, 0], [-1, 1]]), low=-1, high=1, x_max=1)
    >>> hex(packed.words[0])            # digits 2 and 0, 1 and 1, 0 and 2, the lowest first
    '0x80502'
    """
    low, step = require_int("low", low, -(2**31)), require_int("step", step, 1)
    high, x_max = require_int("high", high, low + step), require_int("x_max", x_max, 1)
    codes = require_codes("codes", codes, low, high, step=step)
    if codes.ndim != 2:
        raise ValueError(f"`codes` must be a matrix; got shape {codes.shape}")
    u_max = (high - low) // step
    layout = choose(u_max, x_max)
    out, n = codes.shape
    if n * max(abs(low), abs(high)) * x_max >= 2**31:
        raise ValueError(f"`codes` must leave room in int32 for sums of {n} products by {x_max}")
    kind = _word(layout)
    packed = Packed(np.empty(0, kind), (out, n), low, step, u_max, x_max, layout)
    rows, columns = packed.grid
    digits: Array = np.zeros((layout.fields * columns, packed.digits * rows), kind)
    digits[:out, :n] = (codes.astype(np.int64) - low) // step
    words: Array = np.zeros((rows, columns), kind)
    for f, p in np.ndindex(layout.fields, packed.digits):
        part = digits[f * columns : (f + 1) * columns, p * rows : (p + 1) * rows]
        words |= part.T << kind(f * layout.width + p * packed.bits)
    tiles = [words[:, c : c + COLUMNS].ravel() for c in range(0, columns, COLUMNS)]
    return packed._replace(words=np.concatenate([np.empty(0, kind), *tiles]))


def unpack(packed: Packed) -> Array:
    """Codes of a packed weight: the inverse of `pack`, and the readable twin's first half.

    Parameters
    ----------
    packed : Packed

    Returns
    -------
    ndarray of int64, shape (out, in)

    Raises
    ------
    ValueError
        If the words have not the dtype and shape that `packed` asks for.
    TypeError
        If `packed` is not `Packed`.

    References
    ----------
    See `choose`.

    Examples
    --------
    >>> unpack(pack(np.array([[1, -1], [0, 0]]), low=-1, high=1, x_max=1))
    array([[ 1, -1],
           [ 0,  0]])
    """
    _require_words(packed)
    kind, layout = packed.words.dtype.type, packed.layout
    words = np.hstack([np.empty((packed.grid[0], 0), kind), *_tiles(packed)])
    digits = [
        np.hstack([
            (words >> kind(f * layout.width + p * packed.bits)).T
            & kind(2**packed.bits - 1)
            for p in range(packed.digits)
        ])
        for f in range(layout.fields)
    ]
    out, n = packed.shape
    return packed.low + packed.step * np.vstack(digits)[:out, :n].astype(np.int64)


def product(x: Array, packed: Packed, *, threads: int = 1) -> Array:
    """Exact ``x @ unpack(packed).T``, several outputs with each multiplication.

    Parameters
    ----------
    x : ndarray of int, shape (m, in)
        Codes up to ``packed.x_max`` in magnitude.
    packed : Packed
    threads : int
        Parts of the weight multiplied at the same time. More than one helps if there are
        some tens of rows of `x`, idle cores, and a BLAS held to one thread.

    Returns
    -------
    ndarray of int32, shape (m, out)
        Beside it there are three copies of up to 256 rows of `x` as floats, and at most
        8 megabytes.

    Raises
    ------
    ValueError
        If the shapes do not match, the words have not the dtype and shape that
        ``packed.shape`` asks for, or a code is too large.
    TypeError
        If `x` is not of integers, or `packed` not `Packed`.

    References
    ----------
    See `choose`.

    Examples
    --------
    >>> packed = pack(np.array([[1, -1], [0, 1]]), low=-1, high=1, x_max=1)
    >>> product(np.array([[1, -1]]), packed)
    array([[ 2, -1]], dtype=int32)
    """
    _require_words(packed)
    x = require_codes("x", x, -packed.x_max, packed.x_max)
    require_int("threads", threads, 1)
    out, n = packed.shape
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"`x` must have rows of {n} codes; got shape {x.shape}")
    packed = _without_dirt(packed)
    result = np.zeros((len(x), out), np.int32)
    for i in range(0, len(x) if packed.words.size else 0, X_ROWS):
        _product(x[i : i + X_ROWS], packed, result[i : i + X_ROWS], threads)
    return result


def _require_words(packed: Packed) -> None:
    require_kind("packed", packed, Packed)
    kind, (rows, columns) = _word(packed.layout), packed.grid
    if packed.words.shape != (rows * columns,) or packed.words.dtype != kind:
        raise ValueError(f"`packed` must have {rows} x {columns} words of {kind.__name__}; "
                         f"got shape {packed.words.shape} and {packed.words.dtype}")


def _word(layout: Layout) -> type:
    return np.uint32 if layout.dtype is np.float32 else np.uint64


def _without_dirt(packed: Packed) -> Packed:
    """Zeros where no row of the weight is: sums of digits that are none could leave the field."""
    (fields, width), (_, columns) = packed.layout[1:], packed.grid
    for row in range(packed.shape[0], fields * columns):        # less than a word of rows
        f, c = divmod(row, columns)
        dirt = packed.words.dtype.type((2**width - 1) << f * width)
        if (_column(packed, c) & dirt).any():
            packed = packed._replace(words=packed.words.copy())
            _column(packed, c)[...] &= ~dirt
    return packed


def _column(packed: Packed, c: int) -> Array:
    """Words of one column, a view."""
    return next(islice(_tiles(packed), c // COLUMNS, None))[:, c % COLUMNS]


def _product(x: Array, packed: Packed, result: Array, threads: int) -> None:
    """Add the products of at most `X_ROWS` rows to `result`, which is zero."""
    layout, (_, columns) = packed.layout, packed.grid
    chunk = (2**layout.width - 1) // (packed.u_max * packed.x_max)      # products
    direct = DIRECT // (len(x) * COLUMNS)
    most = direct if LEAST <= direct < MOST else MOST
    step = max(min(chunk, most) // packed.digits, 1)                    # rows of words
    parts, undo = _parts(x, packed, step)

    def add_tile(tile: tuple[int, Array]) -> None:
        c, words = tile
        for first in range(0, len(parts), SPAN):
            chunks = words[first * step : (first + SPAN) * step]
            taken = _field_sums(chunks, parts[first : first + SPAN], packed, step)
            for f, field in enumerate(taken):
                place = result[:, f * columns + c :][:, : words.shape[1]]
                place += (packed.step * field).T[:, : place.shape[1]]

    for_each(zip(range(0, columns, COLUMNS), _tiles(packed), strict=True), add_tile, threads)
    result += undo[:, np.newaxis]


def _tiles(packed: Packed) -> Iterator[Array]:
    """The words as matrices of at most 704 columns, each in one piece of memory."""
    rows, columns = packed.grid
    for c in range(0, columns, COLUMNS):
        few = min(COLUMNS, columns - c)
        yield packed.words[rows * c : rows * (c + few)].reshape(rows, few)


def _parts(x: Array, packed: Packed, step: int) -> tuple[list[Array], Array]:
    """`x` as one matrix (products, m) for each chunk, and what the sums must be corrected by.

    The last row of each is what lifts the fields above zero.
    """
    dtype, (rows, _), m = packed.layout.dtype, packed.grid, len(x)
    flat: Array = np.zeros((packed.digits * rows, m), dtype)
    flat[: x.shape[1]] = apart(x, dtype).T
    spread = flat.reshape(packed.digits, rows, m)           # the order of digits and words
    starts = np.arange(0, rows, step)
    below = np.add.reduceat(np.minimum(spread, 0).sum(axis=0), starts, axis=0)
    lifts = -packed.u_max * below                           # u_max N
    undo = packed.low * x.sum(axis=1, dtype=np.int64)
    undo -= packed.step * lifts.sum(axis=0, dtype=np.float64).astype(np.int64)
    spread *= dtype(2.0) ** -(packed.bits * np.arange(packed.digits))[:, np.newaxis, np.newaxis]
    parts = [
        np.concatenate([spread[:, s : s + step].reshape(-1, m), lift[np.newaxis]])
        for s, lift in zip(starts, lifts, strict=True)
    ]
    return parts, undo.astype(np.int32)


def _field_sums(
    words: Array, parts: list[Array], packed: Packed, step: int
) -> tuple[Array, ...]:
    """Sums (columns, m) of each field over up to `SPAN` chunks, the lowest field first."""
    (dtype, fields, width), bits = packed.layout, packed.bits
    integer = np.int32 if dtype is np.float32 else np.int64
    unit = sum(2 ** (f * width) for f in range(fields))     # a 1 in every field
    ends = 2**width - 1 if fields == 2 else (2**width - 1) * (1 + 2 ** (2 * width))
    masks = (2**bits - 1) * unit << bits * np.arange(packed.digits, dtype=np.int64)
    masks = masks.astype(integer)[:, np.newaxis, np.newaxis]
    few, m = words.shape[1], parts[0].shape[1]
    tile: Array = np.empty((packed.digits * step + 1, few), dtype)
    sums: Array = np.empty((few, m), dtype)
    whole = np.empty((few, m), integer)
    every, outer = np.zeros((2, few, m), integer)           # all fields; all but the middle one
    for i, part in enumerate(parts):
        # Signed, because NumPy casts these twice as fast; the masks leave no highest bit.
        here = words[i * step : (i + 1) * step].view(integer)
        left = tile[: len(part)]
        # The masked words go to the tile as floats, through NumPy's own small buffer.
        np.bitwise_and(here, masks, out=left[:-1].reshape(packed.digits, *here.shape),
                       dtype=integer, casting="unsafe")
        left[-1] = unit
        np.matmul(left.T, part, out=sums)
        np.copyto(whole, sums, casting="unsafe")
        every += whole
        whole &= integer(ends)
        outer += whole
    # A field of `outer` has the next one's bits to grow into; `every` has them overlap.
    every -= outer
    every >>= integer(width)
    if fields == 2:
        return outer, every
    np.bitwise_and(outer, integer(2 ** (2 * width) - 1), out=whole)
    outer >>= integer(2 * width)
    return whole, every, outer
