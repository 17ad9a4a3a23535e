r"""Multiply without multiplying: look the sums of few products up, in tables made of x.

Five ternary weights can combine five numbers in only :math:`3^5 = 243` ways, eight
weights of one bit in 256. So write all these sums down once for each group of
inputs; the byte that stores the group's weights for an output *is* the place of the
sum it needs:

.. math:: y_j = \sum_g T_g[b_{gj}], \qquad
          T_g[b] = \sum_i digit_i(b)\, x_{g,i}

Weights of more bits are several planes, each looked up and weighted by its power of
two. A processor keeps tables of 16 in a register and looks up 64 places at once;
there, this is among the fastest ways to use two bits. NumPy's `take` fetches one
entry at a time, whatever its size up to 32 bytes, so entries here hold the sums of
up to 8 rows of x side by side. For one row the tables lose to float32 BLAS, and for
many; the benchmark says by how much.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_int, require_kind
from refquant.kernels.packing import pack_trits

__all__ = ["Packed", "pack", "pack_ternary", "product", "unpack"]

#: Rows of x in an entry: 8 sums of 16 bits, as much as `take` copies in one go.
LANES = (1, 2, 4, 8)
#: Outputs at a time, so that places, fetched sums and their total stay in the nearer caches.
OUTPUTS = 4096


class Packed(NamedTuple):
    """Weights as places in tables.

    Attributes
    ----------
    places : ndarray of uint8, shape (planes, groups, out)
    digits : ndarray of int8, shape (places of a table, inputs of a group)
        What each place stands for: the weights of one plane.
    powers : tuple of int
        Weight of each plane in the sum.
    shape : tuple of int
        ``(out, in)`` of the codes.

    References
    ----------
    See `product`.

    Examples
    --------
    >>> pack_ternary(np.array([[1, -1, 0, 0, 1, -1]])).places
    array([[[200],
            [120]]], dtype=uint8)
    """

    places: Array
    digits: Array
    powers: tuple[int, ...]
    shape: tuple[int, int]


def pack_ternary(codes: Array) -> Packed:
    """Ternary weights, five to a place: 1.6 bits each.

    Parameters
    ----------
    codes : ndarray of int, shape (out, in), each -1, 0 or 1

    Returns
    -------
    Packed

    Raises
    ------
    ValueError
        If another code occurs or `codes` is not a matrix.
    TypeError
        If the codes are not integers.

    References
    ----------
    See `product`.

    Examples
    --------
    >>> pack_ternary(np.array([[1, -1, 0, 0, 1, -1]])).digits[200]
    array([ 1, -1,  0,  0,  1], dtype=int8)
    """
    codes = _matrix(codes, -1, 1)
    digits = np.arange(3**5)[:, np.newaxis] // 3 ** np.arange(5) % 3 - 1
    places = np.ascontiguousarray(pack_trits(codes).T)[np.newaxis]
    return Packed(places, digits.astype(np.int8), (1,), codes.shape)


def pack(codes: Array, *, bits: int, signed: bool = False) -> Packed:
    """Weights of 1 to 8 bits as planes, eight bits of a plane to a place.

    Parameters
    ----------
    codes : ndarray of int, shape (out, in)
        From 0 to ``2**bits - 1`` or, with `signed`, in two's complement.
    bits : int
    signed : bool
        The highest plane counts as negative.

    Returns
    -------
    Packed

    Raises
    ------
    ValueError
        If a code does not fit or `codes` is not a matrix.
    TypeError
        If the codes are not integers.

    References
    ----------
    See `product`.

    Examples
    --------
    >>> pack(np.array([[3, -4]]), bits=3, signed=True).powers
    (1, 2, -4)
    """
    bits = require_int("bits", bits, 1, 8)
    low = -(2 ** (bits - 1)) if signed else 0
    codes = _matrix(codes, low, low + 2**bits - 1).astype(np.int64)
    places = np.stack([
        np.packbits((codes >> i & 1).astype(np.uint8), axis=1, bitorder="little").T
        for i in range(bits)
    ])
    digits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, np.newaxis], axis=1,
                           bitorder="little")
    powers = [2**i for i in range(bits)]
    if signed:
        powers[-1] *= -1
    return Packed(np.ascontiguousarray(places), digits.astype(np.int8), tuple(powers), codes.shape)


def unpack(packed: Packed) -> Array:
    """Codes of packed weights: what each place stands for, weighted and added up.

    Parameters
    ----------
    packed : Packed

    Returns
    -------
    ndarray of int64, shape (out, in)

    Raises
    ------
    ValueError
        If the places have not the shape that `packed` asks for, or one does not fit.
    TypeError
        If `packed` is not `Packed`.

    References
    ----------
    See `product`.

    Examples
    --------
    >>> unpack(pack(np.array([[3, -4]]), bits=3, signed=True))
    array([[ 3, -4]])
    """
    _require_places(packed)
    out, n = packed.shape
    codes: Array = np.zeros((out, n), np.int64)
    for power, places in zip(packed.powers, packed.places, strict=True):
        digits = packed.digits[places.T].astype(np.int64)         # (out, groups, of a group)
        codes += power * digits.reshape(out, digits.shape[1] * digits.shape[2])[:, :n]
    return codes


def product(x: Array, packed: Packed) -> Array:
    """Exact ``x @ unpack(packed).T`` by looking sums up.

    Parameters
    ----------
    x : ndarray of int, shape (m, in), from -128 to 255
        Codes of int8 or uint8.
    packed : Packed

    Returns
    -------
    ndarray of int32, shape (m, out)
        Beside it at most 1 megabyte and 4 bytes for each output and row of 8.

    Raises
    ------
    ValueError
        If the shapes do not match, a code or place does not fit, or a sum could
        overflow int32.
    TypeError
        If `x` is not of integers, or `packed` not `Packed`.

    References
    ----------
    Wei et al., "T-MAC", 2024, arXiv:2407.00088.

    Examples
    --------
    >>> product(np.array([[1, 2, 3]]), pack_ternary(np.array([[1, -1, 1], [0, 0, -1]])))
    array([[ 2, -3]], dtype=int32)
    """
    x = require_codes("x", x, -128, 255)
    _require_places(packed)
    out, n = packed.shape
    if x.ndim != 2 or x.shape[1] != n:
        raise ValueError(f"`x` must have rows of {n} codes; got shape {x.shape}")
    if sum(map(abs, packed.powers)) * 255 * n >= 2**31:
        raise ValueError(f"`packed` must leave room in int32 for sums of {n} products")
    y: Array = np.zeros((len(x), out), np.int32)
    for i in range(0, len(x), LANES[-1]):
        rows = x[i : i + LANES[-1]]
        lanes = next(lane for lane in LANES if lane >= len(rows))
        y[i : i + len(rows)] = _sums(rows, packed, lanes)[:, : len(rows)].T
    return y


def _sums(x: Array, packed: Packed, lanes: int) -> Array:
    """Sums (out, lanes) for at most `lanes` rows of x, which share the entries of the tables."""
    size, out = packed.digits.shape[1], packed.shape[0]
    groups = packed.places.shape[1]
    padded: Array = np.zeros((lanes, groups * size), np.float32)
    padded[: len(x), : x.shape[1]] = x
    grouped = padded.reshape(lanes, groups, size).transpose(1, 2, 0)
    digits = packed.digits.astype(np.float32)
    total: Array = np.zeros((out, lanes), np.int32)
    part, term = np.empty((2, min(out, OUTPUTS), lanes), np.int16)
    span = (2**15 - 1) // (size * 255)              # groups until an int16 could overflow
    for g in range(0, groups, span):
        # Sums of at most 8 codes are exact in float32.
        tables = (digits @ grouped[g : g + span]).astype(np.int16)
        for power, places in zip(packed.powers, packed.places, strict=True):
            for c in range(0, out, OUTPUTS):
                here = places[g : g + span, c : c + OUTPUTS]
                added, fetched = part[: here.shape[1]], term[: here.shape[1]]
                added[:] = 0
                for table, place in zip(tables, here, strict=True):
                    # mode="clip" skips the check of each place; all were looked at.
                    added += np.take(table, place, axis=0, out=fetched, mode="clip")
                total[c : c + OUTPUTS] += added if power == 1 else added.astype(np.int32) * power
    return total


def _require_places(packed: Packed) -> None:
    require_kind("packed", packed, Packed)
    (out, n), (entries, size) = packed.shape, packed.digits.shape
    expected = (len(packed.powers), -(-n // size), out)
    if packed.places.dtype != np.uint8 or packed.places.shape != expected:
        raise ValueError(f"`packed` must have places of uint8 and shape {expected}; got "
                         f"{packed.places.dtype}, {packed.places.shape}")
    if entries < 256:
        require_codes("packed.places", packed.places, 0, entries - 1)


def _matrix(codes: Array, low: int, high: int) -> Array:
    codes = require_codes("codes", codes, low, high)
    if codes.ndim != 2:
        raise ValueError(f"`codes` must be a matrix; got shape {codes.shape}")
    return codes
