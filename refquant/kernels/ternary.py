r"""Ternary products: two bit planes a weight, and one popcount where two seem to be needed.

A weight of -1, 0 or 1 is two bits: *not zero* and *negative*. Against a bit plane
x of the activations the obvious sum counts the positive weights that x selects and
takes off the negative ones, two popcounts. Flip the negative weights in the masked
word instead, and their ones are counted where x is *not*:

.. math:: \mathrm{pop}(pos \wedge x) - \mathrm{pop}(neg \wedge x)
          = \mathrm{pop}\bigl(neg \oplus (nz \wedge x)\bigr) - \mathrm{pop}(neg).

The last term is one number a row, counted when the weight is packed. A pass of
popcounts takes three times as long as a logical one, so this is nearly half the time.

Bits *not zero* and *negative* are the two bits of 0, 1 and -1 in two's complement.
"""

import numpy as np

from refquant._types import Array
from refquant.kernels import bit_serial
from refquant.kernels._planes import (
    Planes,
    Tile,
    add_counts,
    as_rows,
    planes_of,
    require_planes,
    require_sums,
)
from refquant.kernels.packing import unpack_trits

__all__ = ["Trits", "pack", "pack_from_trits", "product", "product_by_unpacking", "unpack"]


class Trits(Planes):
    """Planes *not zero* and *negative* of ternary codes, with coefficients 1 and -2.

    `pack` makes them. Two-bit integers have the same planes, and one code more, -2,
    for which the identity does not hold.

    References
    ----------
    See `pack`.
    """


def pack(codes: Array) -> Trits:
    """Two bit planes of ternary codes: not zero, and negative.

    Parameters
    ----------
    codes : ndarray of int, shape (rows, in)
        Each -1, 0 or 1.

    Returns
    -------
    Trits

    Raises
    ------
    ValueError
        If another code occurs.

    References
    ----------
    Alemdar et al., "Ternary neural networks for resource-efficient AI applications",
    2017, arXiv:1609.00222.

    Examples
    --------
    >>> pack(np.array([[1, 0, -1, -1]])).words[:, 0, 0]
    array([13, 12], dtype=uint64)
    """
    return Trits(*planes_of(as_rows(codes, -1, 1), [_is_not_zero, _is_negative], (1, -2), 0))


def pack_from_trits(packed: Array, n: int) -> Trits:
    """Bit planes of base-3 bytes, which store a weight in 1.6 bits where the planes take 2.

    A fifth less to keep and to load; to multiply, they have to become planes.

    Parameters
    ----------
    packed : ndarray of uint8, shape (rows, ceil(n / 5))
        As `refquant.kernels.packing.pack_trits` makes them.
    n : int
        Codes of a row.

    Returns
    -------
    Trits
        Those of `pack`.

    Raises
    ------
    ValueError
        If the length of a row is not that of `n` codes, or a byte exceeds 242.
    TypeError
        If `packed` is not uint8.

    References
    ----------
    See `refquant.kernels.packing.pack_trits`.

    Examples
    --------
    >>> from refquant.kernels.packing import pack_trits
    >>> codes = np.array([[1, 0, -1, -1, 0, 1]])
    >>> unpack(pack_from_trits(pack_trits(codes), 6))
    array([[ 1,  0, -1, -1,  0,  1]], dtype=int32)
    """
    return pack(unpack_trits(packed, n))


def unpack(planes: Trits) -> Array:
    """Codes of packed ternary rows: the inverse of `pack`.

    Parameters
    ----------
    planes : Trits

    Returns
    -------
    ndarray of int32, shape (rows, in)

    Raises
    ------
    TypeError
        If `planes` are not `Trits`.

    References
    ----------
    See `pack`.

    Examples
    --------
    >>> unpack(pack(np.array([[1, 0, -1, -1]])))
    array([[ 1,  0, -1, -1]], dtype=int32)
    """
    return bit_serial.unpack(_require_trits("planes", planes))


def product(x: Planes, weight: Trits) -> Array:
    """``x @ weight.T`` for activations of a few bits, exactly: one popcount a plane of x.

    Beside the arguments and the result it needs a copy of `x` and 2.4 MB.

    Parameters
    ----------
    x : Planes, of n rows
        Integers of `refquant.kernels.bit_serial.pack`, signs of
        `refquant.kernels.binary.pack`, or ternary codes.
    weight : Trits, of `out` rows

    Returns
    -------
    ndarray of int32, shape (n, out)

    Raises
    ------
    TypeError
        If `weight` is not `Trits`.
    ValueError
        If the rows differ in length, or the sums could leave int32.

    References
    ----------
    Alemdar et al., 2017, arXiv:1609.00222, for the two popcounts; the identity
    saves one of them.

    Examples
    --------
    >>> from refquant.kernels import bit_serial
    >>> x = bit_serial.pack(np.array([[5, -8, 3, 2]]), bits=4, signed=True)
    >>> product(x, pack(np.array([[1, 0, -1, -1], [0, 1, 0, 0]])))
    array([[ 0, -8]], dtype=int32)
    """
    x, weight = require_planes("x", x), _require_trits("weight", weight)
    require_sums(x, -1, 1, weight)
    not_zero, negative = weight.words
    positives = weight.ones[0] - weight.ones[1]
    # With x = sum of a_i x_i + offset: the constant of each plane, and the sum of the weights.
    constant = x.offset * (positives - weight.ones[1]) - sum(x.coefficients) * weight.ones[1]
    y = np.tile(constant.astype(np.int32), (x.words.shape[2], 1))

    def selected_or_flipped(tile: Tile, word: Array, out: Array) -> None:
        np.bitwise_and(not_zero[tile], word, out=out)
        np.bitwise_xor(out, negative[tile], out=out)

    add_counts(y, x, selected_or_flipped, 1)
    return y


def product_by_unpacking(x: Planes, weight: Trits) -> Array:
    """What `product` must return: unpack both, multiply in int64.

    Parameters
    ----------
    x : Planes, of n rows
    weight : Trits, of `out` rows

    Returns
    -------
    ndarray of int64, shape (n, out)

    References
    ----------
    The definition of a matrix product.

    Examples
    --------
    >>> codes = pack(np.array([[1, 0, -1, -1]]))
    >>> product_by_unpacking(codes, codes)
    array([[3]])
    """
    return bit_serial.unpack(x).astype(np.int64) @ unpack(weight).T


def _is_not_zero(codes: Array) -> Array:
    return codes != 0


def _is_negative(codes: Array) -> Array:
    return codes < 0


def _require_trits(name: str, planes: Planes) -> Trits:
    if not isinstance(planes, Trits):
        raise TypeError(
            f"`{name}` must be `Trits`, as `ternary.pack` makes them; got {type(planes).__name__}"
        )
    return require_planes(name, planes)
