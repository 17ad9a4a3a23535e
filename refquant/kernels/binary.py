r"""XNOR products: signs multiplied 64 at a time by one XOR and one popcount.

Two signs agree or differ, and their product is +1 or -1. With the signs as bits,

.. math:: x \cdot w = n - 2\, \mathrm{popcount}(x \oplus w):

of n products, those that differ turn from +1 to -1. The empty bits behind the
last code are 0 in both, hence equal, hence not counted: rows of any length need
no mask. Had the *equal* bits been counted, as the name XNOR suggests, each empty
bit would add one.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import require_kind
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

__all__ = ["pack", "product", "product_by_unpacking", "unpack"]


def pack(codes: Array) -> Planes:
    """One bit plane of signs.

    Parameters
    ----------
    codes : ndarray of int, shape (rows, in)
        1 for plus and 0 for minus: the codes of `refquant.quantizers.binary.Binary`.

    Returns
    -------
    Planes
        One plane; bit b stands for ``2 b - 1``.

    Raises
    ------
    ValueError
        If another code occurs.

    References
    ----------
    Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, section 3.2.

    Examples
    --------
    >>> pack(np.array([[1, 0, 1, 1]])).words
    array([[[13]]], dtype=uint64)
    """
    return planes_of(as_rows(codes, 0, 1), [_is_one], (2,), -1)


def unpack(planes: Planes) -> Array:
    """Codes of packed signs: the inverse of `pack`.

    Parameters
    ----------
    planes : Planes

    Returns
    -------
    ndarray of int32, shape (rows, in)
        1 for plus and 0 for minus.

    Raises
    ------
    ValueError
        If `planes` do not hold signs.

    References
    ----------
    Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, section 3.2.

    Examples
    --------
    >>> unpack(pack(np.array([[1, 0, 1, 1]])))
    array([[1, 0, 1, 1]], dtype=int32)
    """
    return (bit_serial.unpack(_require_signs("planes", planes)) + 1) // 2


def product(x: Planes, weight: Planes) -> Array:
    """``x @ weight.T`` of the signs, exactly.

    Beside the arguments and the result it needs a copy of `x` and 2.4 MB.

    Parameters
    ----------
    x : Planes, of n rows
    weight : Planes, of `out` rows
        Both as `pack` makes them.

    Returns
    -------
    ndarray of int32, shape (n, out)
        Times both scales, the product of the decoded values.

    Raises
    ------
    ValueError
        If an argument does not hold signs, or the rows differ in length.

    References
    ----------
    Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, eq. (10) and section 3.2.

    Examples
    --------
    >>> product(pack(np.array([[1, 0, 1, 1]])), pack(np.array([[1, 1, 1, 1], [0, 1, 0, 0]])))
    array([[ 2, -4]], dtype=int32)
    """
    x, weight = _require_signs("x", x), _require_signs("weight", weight)
    require_sums(x, -1, 1, weight)
    (plane,) = weight.words
    y = np.full((x.words.shape[2], plane.shape[1]), x.length, np.int32)

    def differ(tile: Tile, word: Array, out: Array) -> None:
        np.bitwise_xor(plane[tile], word, out=out)

    add_counts(y, x, differ, -1)                         # and 2 is the coefficient of x
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
    Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, eq. (10).

    Examples
    --------
    >>> signs = pack(np.array([[1, 0, 1, 1]]))
    >>> product_by_unpacking(signs, signs)
    array([[4]])
    """
    return (2 * unpack(x).astype(np.int64) - 1) @ (2 * unpack(weight).T - 1)


def _is_one(codes: Array) -> Array:
    return codes == 1


def _require_signs(name: str, planes: Planes) -> Planes:
    require_kind(name, planes, Planes)
    if planes.coefficients != (2,) or planes.offset != -1:
        raise ValueError(
            f"`{name}` must hold signs; got planes of codes from {planes.bounds[0]} "
            f"to {planes.bounds[1]}"
        )
    return require_planes(name, planes)
