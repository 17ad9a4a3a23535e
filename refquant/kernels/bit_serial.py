r"""Bit-serial products: integers of any few bits multiplied one pair of bit planes at a time.

A code is a sum of powers of two, :math:`x = \sum_i a_i x_i` with bits
:math:`x_i \in \{0, 1\}`, so a product of rows is a sum over pairs of planes,

.. math:: x \cdot w = \sum_i \sum_j a_i c_j\, \mathrm{popcount}(x_i \wedge w_j),

and 64 products of bits are one AND of words. In two's complement the highest
plane counts negative, :math:`a_{b-1} = -2^{b-1}`, and nothing else changes. The
time grows with the product of the two widths: at 8 by 8 bits it has lost long ago.
"""

from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.kernels._planes import (
    Planes,
    Tile,
    add_counts,
    as_rows,
    masks,
    planes_of,
    require_planes,
    require_sums,
)

__all__ = ["Planes", "pack", "product", "product_by_unpacking", "unpack"]


def pack(codes: Array, *, bits: int, signed: bool = False) -> Planes:
    """Bit planes of integer codes.

    Parameters
    ----------
    codes : ndarray of int, shape (rows, in)
        From 0 to ``2**bits - 1``; from ``-2**(bits-1)`` to ``2**(bits-1) - 1``
        if `signed`.
    bits : int
        From 1 to 8.
    signed : bool

    Returns
    -------
    Planes
        ``bits`` planes, the lowest bit first.

    Raises
    ------
    ValueError
        If a code does not fit, or `bits` is out of range.

    References
    ----------
    Umuroglu et al., "BISMO", 2018, arXiv:1806.08862, section II.

    Examples
    --------
    >>> planes = pack(np.array([[1, 2, -3]]), bits=3, signed=True)
    >>> planes.words[:, 0, 0], planes.coefficients
    (array([5, 2, 4], dtype=uint64), (1, 2, -4))
    """
    bits = require_int("bits", bits, 1, 8)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = as_rows(codes, low, high)
    coefficients = [2**i for i in range(bits)]
    if signed:
        coefficients[-1] *= -1
    return planes_of(codes, [_bit(i) for i in range(bits)], tuple(coefficients), 0)


def unpack(planes: Planes) -> Array:
    """Codes of bit planes: the inverse of `pack`, and of the packing of signs in `binary`.

    Parameters
    ----------
    planes : Planes

    Returns
    -------
    ndarray of int32, shape (rows, in)

    Raises
    ------
    ValueError
        If the parts of `planes` do not fit each other.

    References
    ----------
    Umuroglu et al., "BISMO", 2018, arXiv:1806.08862, section II.

    Examples
    --------
    >>> unpack(pack(np.array([[1, 2, -3]]), bits=3, signed=True))
    array([[ 1,  2, -3]], dtype=int32)
    """
    bits = masks(require_planes("planes", planes))
    codes = np.full(bits.shape[1:], planes.offset, np.int32)
    for coefficient, mask in zip(planes.coefficients, bits, strict=True):
        codes += mask * np.int32(coefficient)
    return codes


def product(x: Planes, weight: Planes) -> Array:
    r"""``x @ weight.T`` of the codes, exactly, one AND and one popcount for each pair of planes.

    Beside the arguments and the result it needs a copy of `x` and 2.4 MB.

    Parameters
    ----------
    x : Planes, of n rows
    weight : Planes, of `out` rows

    Returns
    -------
    ndarray of int32, shape (n, out)

    Raises
    ------
    ValueError
        If the rows differ in length, if the sums could leave int32, or if the
        parts of an argument do not fit each other.

    Notes
    -----
    Codes with an offset, such as -1 and +1, add what is constant along a row:
    :math:`x_0 \sum_j c_j |w_j| + c_0 \sum_i a_i |x_i| + x_0 c_0 n`, where
    :math:`|w_j|` is the number of ones in a plane.

    References
    ----------
    Umuroglu et al., "BISMO", 2018, arXiv:1806.08862, algorithm 1.

    Examples
    --------
    >>> x = pack(np.array([[1, 2, -3]]), bits=3, signed=True)
    >>> weight = pack(np.array([[1, 1, 1], [0, 3, 2]]), bits=2)
    >>> product(x, weight)
    array([[0, 0]], dtype=int32)
    """
    x, weight = require_planes("x", x), require_planes("weight", weight)
    require_sums(x, *weight.bounds, weight)
    y = _constants(x, weight)
    for coefficient, plane in zip(weight.coefficients, weight.words, strict=True):

        add_counts(y, x, _both(plane), coefficient)
    return y


def product_by_unpacking(x: Planes, weight: Planes) -> Array:
    """What `product` must return: unpack both, multiply in int64.

    Parameters
    ----------
    x : Planes, of n rows
    weight : Planes, of `out` rows

    Returns
    -------
    ndarray of int64, shape (n, out)

    References
    ----------
    The definition of a matrix product.

    Examples
    --------
    >>> codes = pack(np.array([[1, 2, -3]]), bits=3, signed=True)
    >>> product_by_unpacking(codes, codes)
    array([[14]])
    """
    return unpack(x).astype(np.int64) @ unpack(weight).T


def _bit(i: int) -> Callable[[Array], Array]:
    # Of a negative number, >> is the shift of two's complement.
    return lambda codes: codes >> i & 1


def _both(plane: Array) -> Callable[[Tile, Array, Array], object]:
    return lambda tile, word, out: np.bitwise_and(plane[tile], word, out=out)


def _constants(x: Planes, weight: Planes) -> Array:
    """What the offsets contribute to each element of the product."""
    of_x = weight.offset * (np.array(x.coefficients, np.int64) @ x.ones)
    of_weight = x.offset * (np.array(weight.coefficients, np.int64) @ weight.ones)
    of_weight += x.offset * weight.offset * x.length
    return of_x.astype(np.int32)[:, np.newaxis] + of_weight.astype(np.int32)
