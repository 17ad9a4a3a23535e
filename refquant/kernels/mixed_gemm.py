r"""Multiply float or int8 activations by int4 weights that have a scale for each group.

A weight of 4 bits with a scale and a zero point for every group of 128 inputs is a
seventh of the float32 it stands for. The product never needs the values of the
weights: within a group the scale is one number, so it can wait,

.. math:: y_j = \sum_g s_{jg} \Bigl(\sum_{k \in g} u_{jk} x_k - z_{jg} \sum_{k \in g} x_k\Bigr)

and what BLAS multiplies are the digits u themselves. They are decoded into a tile
that stays in the cache. Four digits share a word of 16 bits; a mask isolates one,
times 1, 16, 256 or 4096, which x is divided by beforehand: no shift. The zero
points are one more row of the tile, multiplied by minus the sum of x over the group.

With codes for x the sums in parentheses are integers, exact in float32; only the
scales round.

==========================  ====================================================
operands                    order of work
==========================  ====================================================
float32, groups below 64,   scale the tile, then one product for several groups
more than 8 rows
all others                  a product for each group, then scale it
==========================  ====================================================
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import (
    as_unmasked,
    require_codes,
    require_finite,
    require_int,
    require_kind,
    require_same_shape,
)
from refquant.kernels._threads import for_each

__all__ = ["Packed", "dequantize", "integer_product", "pack", "product"]

#: Outputs decoded at a time: with a group of 128 a quarter of a megabyte of floats, and few
#: enough that OpenBLAS multiplies 8 rows without copying the tile (m n k <= 10**6).
COLUMNS = 512
#: Up to this many rows of x a call does so little that several groups share each.
FEW_ROWS, SHARE = 8, 4
#: For more rows, groups below this size are scaled before the product, and as many as make
#: up `TOGETHER` inputs multiplied at once: short sums cost BLAS more than a pass over the tile.
SMALL_GROUP, TOGETHER = 64, 256
#: Rows of x at a time.
X_ROWS = 256
#: Digits of 4 bits in a word of 16.
DIGITS = 4

_Multiply: TypeAlias = Callable[[Array, Array, Array, Array], Array]


class Packed(NamedTuple):
    """A weight of int4 codes with their scales.

    Attributes
    ----------
    words : ndarray of uint16
        For each 512 outputs a matrix (groups, rows, outputs), rows = ceil(group / 4),
        whose word holds at digit p the code of input ``p * rows + row`` of the group.
    scale : ndarray of float32, shape (groups, out)
    zero_point : ndarray of uint8, shape (groups, out)
    shape : tuple of int
        ``(out, in)`` of the codes.
    group_size : int

    References
    ----------
    See `pack`.

    Examples
    --------
    >>> pack(np.array([[7, 9]]), np.array([[0.5]]), group_size=2).zero_point
    array([[8]], dtype=uint8)
    """

    words: Array
    scale: Array
    zero_point: Array
    shape: tuple[int, int]
    group_size: int


def pack(
    codes: Array, scale: Array, zero_point: npt.ArrayLike = 8, *, group_size: int = 128
) -> Packed:
    """Words of int4 codes, in the order that the product decodes them in.

    Parameters
    ----------
    codes : ndarray of int, shape (out, in), from 0 to 15
        Signed codes plus 8. The last group may be shorter.
    scale : ndarray of float, broadcastable to (out, groups)
        ``groups = ceil(in / group_size)``; kept as float32, which must hold it.
    zero_point : ndarray of int, broadcastable to (out, groups), from 0 to 15
    group_size : int
        More than ``in`` counts as ``in``.

    Returns
    -------
    Packed
        Of 4.31 bits a weight for groups of 128, 5.25 for groups of 32.

    Raises
    ------
    ValueError
        If a code or zero point does not fit, a scale is not finite in float32, or a
        shape does not match.
    TypeError
        If codes or zero points are not integers, or scales not real numbers.

    References
    ----------
    Frantar et al., "GPTQ", 2023, arXiv:2210.17323, for groups and their scales.

    Examples
    --------
    >>> packed = pack(np.array([[7, 9, 8, 8, 15]]), np.array([[0.5, 2]]), group_size=4)
    >>> [hex(word) for word in packed.words], packed.scale.ravel()
    (['0x8897', '0xf'], array([0.5, 2. ], dtype=float32))
    """
    group_size = require_int("group_size", group_size, 1)
    codes = require_codes("codes", codes, 0, 15)
    if codes.ndim != 2:
        raise ValueError(f"`codes` must be a matrix; got shape {codes.shape}")
    single = _as_float32("scale", scale)
    zero_point = require_codes("zero_point", zero_point, 0, 15)
    out, n = codes.shape
    group_size = min(group_size, max(n, 1))         # or a short row would be filled up to it
    groups, rows = -(-n // group_size), -(-group_size // DIGITS)
    full = np.zeros((out, groups * group_size), np.uint16)
    full[:, :n] = codes
    digits = np.zeros((out, groups, DIGITS * rows), np.uint16)
    digits[..., :group_size] = full.reshape(out, groups, group_size)
    digits = digits.reshape(out, groups, DIGITS, rows)
    words = digits[:, :, 0].copy()
    for p in range(1, DIGITS):
        words |= digits[:, :, p] << np.uint16(4 * p)
    tiles = [words[c : c + COLUMNS].transpose(1, 2, 0).ravel() for c in range(0, out, COLUMNS)]
    return Packed(
        np.concatenate([np.empty(0, np.uint16), *tiles]),
        _by_group("scale", single, (out, groups)),
        _by_group("zero_point", zero_point, (out, groups)).astype(np.uint8),
        (out, n),
        group_size,
    )


def dequantize(packed: Packed) -> Array:
    """Values of the weight in float64, where ``scale * (code - zero_point)`` is exact.

    Parameters
    ----------
    packed : Packed

    Returns
    -------
    ndarray of float64, shape (out, in)

    Raises
    ------
    ValueError
        If `packed` has not the words, scales and zero points that its shape asks for.
    TypeError
        If `packed` is not `Packed`.

    References
    ----------
    See `pack`.

    Examples
    --------
    >>> dequantize(pack(np.array([[7, 9, 8, 8, 15]]), np.array([[0.5, 2]]), group_size=4))
    array([[-0.5,  0.5,  0. ,  0. , 14. ]])
    """
    _require_parts(packed)
    codes = _codes(packed).astype(np.float64)
    values = (codes - packed.zero_point.T[..., np.newaxis]) * packed.scale.T[..., np.newaxis]
    (out, n), (_, groups, size) = packed.shape, values.shape
    return values.reshape(out, groups * size)[:, :n]


def product(x: Array, packed: Packed, *, threads: int = 1) -> Array:
    r"""Product ``x @ dequantize(packed).T`` of float32 activations and int4 weights.

    Parameters
    ----------
    x : ndarray of float32, shape (m, in)
    packed : Packed
    threads : int
        Parts of the weight multiplied at the same time. More than one helps if there are
        some tens of rows of `x`, idle cores, and a BLAS held to one thread.

    Returns
    -------
    ndarray of float32, shape (m, out)
        Within :math:`(G + groups + 4)\, 2^{-24} \sum_k s_k (u_k + z_k) |x_k|` of the exact
        product, G being the group size, unless a float underflows or overflows (which
        NumPy warns of). Beside it and two copies of up to 256 rows of `x` at most 2
        megabytes are in use for groups of 128.

    Raises
    ------
    ValueError
        If the shapes do not match, `x` is not finite, or `packed` has not the words
        that its shape asks for.
    TypeError
        If `x` is not float32, or `packed` not `Packed`.

    References
    ----------
    See `pack`.

    Examples
    --------
    >>> packed = pack(np.array([[7, 9, 8, 8, 15]]), np.array([[0.5, 2]]), group_size=4)
    >>> product(np.array([[1, 2, 3, 4, 5]], np.float32), packed)
    array([[70.5]], dtype=float32)
    """
    x = as_unmasked("x", x)
    if x.dtype != np.float32:
        raise TypeError(f"`x` must be float32; got {x.dtype}")
    require_finite("x", x)
    _require_parts(packed)
    small = packed.group_size < SMALL_GROUP and x.shape[:1] > (FEW_ROWS,)
    return _product(x, packed, _scaled_before if small else _scaled_after, threads)


def integer_product(x: Array, packed: Packed, *, threads: int = 1) -> Array:
    """Product of int8 codes and int4 weights: exact sums of each group, then the scales.

    Parameters
    ----------
    x : ndarray of int, shape (m, in), from -128 to 127
        Codes of the activations; their own scale is the caller's.
    packed : Packed
        Of groups of at most 4096.
    threads : int
        As in `product`.

    Returns
    -------
    ndarray of float32, shape (m, out)
        The sums of the groups are exact integers; each is multiplied by its scale in
        float32, and the products are added in float32 in the order of the groups.

    Raises
    ------
    ValueError
        If a code does not fit, the shapes do not match, or the groups are too large.
    TypeError
        If `x` is not of integers, or `packed` not `Packed`.

    References
    ----------
    See `pack`.

    Examples
    --------
    >>> packed = pack(np.array([[7, 9, 8, 8, 15]]), np.array([[0.5, 2]]), group_size=4)
    >>> integer_product(np.array([[1, 2, 3, 4, 5]], np.int8), packed)
    array([[70.5]], dtype=float32)
    """
    x = require_codes("x", x, -128, 127)
    _require_parts(packed)
    if packed.group_size > 4096:        # 4096 (15 + 15) 128 < 2**24, digits and zero points
        raise ValueError(
            f"`packed` must have groups of at most 4096 to be exact; got {packed.group_size}")
    return _product(x, packed, _scaled_after, threads)


def _product(x: Array, packed: Packed, multiply: _Multiply, threads: int) -> Array:
    """All tiles of the product, in float32."""
    (out, n), size = packed.shape, packed.group_size
    groups, rows = -(-n // size), -(-size // DIGITS)
    require_int("threads", threads, 1)
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"`x` must have rows of {n} elements; got shape {x.shape}")
    y = np.zeros((len(x), out), np.float32)
    for i in range(0, len(x), X_ROWS):
        parts, some = _by_digit(x[i : i + X_ROWS], groups, size), y[i : i + X_ROWS]

        def write_columns(c: int, parts: Array = parts, some: Array = some) -> None:
            few = min(COLUMNS, out - c)
            words = packed.words[groups * rows * c : groups * rows * (c + few)]
            some[:, c : c + few] = multiply(
                parts, words.reshape(groups, 1, rows, few),
                packed.scale[:, c : c + few], packed.zero_point[:, c : c + few])

        for_each(range(0, out, COLUMNS), write_columns, threads)
    return y


def _require_parts(packed: Packed) -> None:
    """Raise unless the arrays of a packed weight have the dtypes and shapes it asks for."""
    require_kind("packed", packed, Packed)
    (out, n), size = packed.shape, require_int("packed.group_size", packed.group_size, 1)
    groups, rows = -(-n // size), -(-size // DIGITS)
    if packed.words.shape != (groups * rows * out,) or packed.words.dtype != np.uint16:
        raise ValueError(f"`packed` must have {groups * rows * out} words of uint16; "
                         f"got {packed.words.shape} and {packed.words.dtype}")
    require_same_shape("packed.scale", packed.scale, (groups, out))
    require_same_shape("packed.zero_point", packed.zero_point, (groups, out))


def _by_digit(x: Array, groups: int, size: int) -> Array:
    """`x` as (groups, m, digits * rows + 1): over 1, 16, 256, 4096, and minus its sum."""
    m, rows = len(x), -(-size // DIGITS)
    full: Array = np.zeros((m, groups * size), np.float32)
    full[:, : x.shape[1]] = x
    grouped = full.reshape(m, groups, size).swapaxes(0, 1)
    parts: Array = np.zeros((groups, m, DIGITS * rows + 1), np.float32)
    parts[..., :size] = grouped
    for p in range(1, DIGITS):
        parts[..., p * rows : (p + 1) * rows] *= np.float32(2.0 ** (-4 * p))
    parts[..., -1] = -grouped.sum(axis=-1)
    return parts


def _scaled_after(parts: Array, words: Array, scale: Array, zero_point: Array) -> Array:
    """Products of some outputs: decode, multiply, scale, and add up the groups in order."""
    _, m, length = parts.shape
    y: Array = np.zeros((m, words.shape[-1]), np.float32)
    share = SHARE if m <= FEW_ROWS and length <= 4 * TOGETHER else 1
    for here, tile in _decoded(words, zero_point, length, share):
        sums = np.matmul(parts[here], tile)
        sums *= scale[here, np.newaxis]
        for term in sums:
            y += term
    return y


def _scaled_before(parts: Array, words: Array, scale: Array, zero_point: Array) -> Array:
    """Products of some outputs: decode, scale, and multiply several groups at once."""
    _, m, length = parts.shape
    y: Array = np.zeros((m, words.shape[-1]), np.float32)
    rows_of_x = parts.swapaxes(0, 1).reshape(m, -1)
    for here, tile in _decoded(words, zero_point, length, -(-TOGETHER // length)):
        tile *= scale[here, np.newaxis]
        y += rows_of_x[:, here.start * length : here.stop * length] @ tile.reshape(-1, y.shape[1])
    return y


def _decoded(
    words: Array, zero_point: Array, length: int, share: int
) -> Iterator[tuple[slice, Array]]:
    """Some groups at a time, and their digits and zero points as floats: one tile, used again."""
    groups, _, rows, few = words.shape
    masks = np.uint16(15) << np.arange(0, 16, 4, dtype=np.uint16)[:, np.newaxis, np.newaxis]
    tile: Array = np.empty((share, length, few), np.float32)
    digits = tile[:, :-1].reshape(share, DIGITS, rows, few)
    for g in range(0, groups, share):
        here = slice(g, min(g + share, groups))
        now = here.stop - g
        # The masked words go to the tile as floats, through NumPy's own small buffer.
        np.bitwise_and(words[here], masks, out=digits[:now], dtype=np.uint16, casting="unsafe")
        tile[:now, -1] = zero_point[here]
        yield here, tile[:now]


def _codes(packed: Packed) -> Array:
    """Codes (out, groups, group) of all words, those beyond the last input included."""
    (out, n), size = packed.shape, packed.group_size
    groups, rows = -(-n // size), -(-size // DIGITS)
    tiles, start = [np.empty((0, groups, rows), np.uint16)], 0
    while start < out:
        few = min(COLUMNS, out - start)
        words = packed.words[groups * rows * start : groups * rows * (start + few)]
        tiles.append(words.reshape(groups, rows, few).transpose(2, 0, 1))
        start += few
    words = np.concatenate(tiles)
    digits = [words >> np.uint16(4 * p) & np.uint16(15) for p in range(DIGITS)]
    return np.concatenate(digits, axis=-1)[..., :size]


def _as_float32(name: str, values: npt.ArrayLike) -> Array:
    array = as_unmasked(name, values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be real numbers; got {array.dtype}")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32)
    require_finite(name, single)
    return single


def _by_group(name: str, values: npt.ArrayLike, shape: tuple[int, int]) -> Array:
    """`values` for each group and output, transposed to (groups, out)."""
    try:
        return np.ascontiguousarray(np.broadcast_to(values, shape).T)
    except ValueError:
        raise ValueError(
            f"`{name}` must broadcast to (out, groups) = {shape}; got {np.shape(values)}"
        ) from None
