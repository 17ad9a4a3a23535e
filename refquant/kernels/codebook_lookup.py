r"""Encode by any codebook without searching: the top half of a float32 is an index.

The first 16 bits of a float32 (sign, exponent, 7 bits of mantissa) narrow a value
down so far that few thresholds are left, mostly none or one. A table of 65,536
entries holds the code of the lowest value with these bits, and one comparison with
the next threshold settles the rest; codebooks with several thresholds among such
neighbours need as many comparisons, a number known when the table is made. So the
codes are exactly those of the binary search.

Powers of two need no table at all: adding to the bits of a float carries into its
exponent, which is the code.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_unmasked, require_no_nan
from refquant.quantizers.codebook import Codebook
from refquant.quantizers.power_of_two import PowerOfTwo

__all__ = ["LookupTable", "encode_lookup", "encode_power_of_two", "lookup_table"]

TILE = 2**15            # elements at a time: the work arrays stay in the cache


class LookupTable(NamedTuple):
    """What `encode_lookup` needs, made once for a codebook.

    Attributes
    ----------
    lowest : ndarray of uint8, shape (65536,)
        Code of the lowest value for each pattern of the upper 16 bits.
    thresholds : ndarray of float32, shape (256,)
        The thresholds, rounded down, which changes no comparison with a float32;
        infinite after the last.
    comparisons : int
        The most thresholds between two values with the same upper 16 bits.

    References
    ----------
    The table is ours; Gholami et al., 2021, arXiv:2103.13630, eq. (5), is what it
    computes.

    Examples
    --------
    >>> from refquant.quantizers.codebook import nearest
    >>> lookup_table(nearest(np.array([-1.0, 0.0, 1.0]))).comparisons
    1
    """

    lowest: Array
    thresholds: Array
    comparisons: int


def lookup_table(quantizer: Codebook) -> LookupTable:
    """Table for one codebook of at most 256 levels.

    Parameters
    ----------
    quantizer : Codebook
        Its levels have one axis: one codebook for all data.

    Returns
    -------
    LookupTable

    Raises
    ------
    ValueError
        If there are more than 256 levels or more than one codebook.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (5).

    Examples
    --------
    >>> from refquant.quantizers.codebook import nearest
    >>> lookup_table(nearest(np.array([-1.0, 0.0, 1.0]))).lowest[[0, 0x3F80, 0xBF80]]
    array([1, 2, 0], dtype=uint8)
    """
    if quantizer.levels.ndim != 1 or quantizer.levels.size > 256:
        raise ValueError(
            f"`quantizer` must be one codebook of at most 256 levels; "
            f"got levels of shape {quantizer.levels.shape}"
        )
    upper = np.arange(2**16, dtype=np.uint32) << 16
    ends = np.stack([upper, upper | 0xFFFF]).view(np.float32)
    # Patterns of NaN belong to the infinity they follow; NaN itself is refused.
    beyond = np.where(upper >> 31, -np.inf, np.inf)
    ends = np.sort(np.where(np.isnan(ends), beyond.astype(np.float32), ends), axis=0)
    lowest, highest = np.searchsorted(quantizer.thresholds, ends)
    thresholds = np.full(256, np.inf, np.float32)
    with np.errstate(over="ignore", under="ignore"):
        below = quantizer.thresholds.astype(np.float32)
        below = np.where(below > quantizer.thresholds, np.nextafter(below, np.float32(-np.inf)),
                         below)
    thresholds[: below.size] = below
    return LookupTable(lowest.astype(np.uint8), thresholds, int((highest - lowest).max()))


def encode_lookup(x: Array, table: LookupTable) -> Array:
    """Code of each element as one byte: the fast twin of `Codebook.encode`.

    Parameters
    ----------
    x : ndarray of float32, any shape
    table : LookupTable
        Of the codebook.

    Returns
    -------
    ndarray of uint8, shape of `x`
        The values of ``quantizer.encode(x)``.

    Raises
    ------
    TypeError
        If `x` is not float32: rounding float64 first would move values across
        thresholds.
    ValueError
        If `x` has a NaN.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (5).

    Examples
    --------
    >>> from refquant.quantizers.codebook import nearest
    >>> table = lookup_table(nearest(np.array([-1.0, 0.0, 1.0])))
    >>> encode_lookup(np.array([-0.6, 0.5, 0.51], np.float32), table)
    array([0, 1, 2], dtype=uint8)
    """
    flat = _checked(x)
    codes = np.empty(flat.size, np.uint8)
    kinds = (np.uint32, np.intp, np.float32, np.bool_)
    work: list[Array] = [np.empty(min(TILE, flat.size), kind) for kind in kinds]
    for start in range(0, flat.size, TILE):
        values, found = flat[start : start + TILE], codes[start : start + TILE]
        upper, index, threshold, above = (buffer[: values.size] for buffer in work)
        np.right_shift(values.view(np.uint32), 16, out=upper)
        np.copyto(index, upper)
        np.take(table.lowest, index, out=found, mode="clip")
        for _ in range(table.comparisons):
            np.copyto(index, found)
            np.take(table.thresholds, index, out=threshold, mode="clip")
            np.greater(values, threshold, out=above)
            np.add(found, above.view(np.uint8), out=found)
    return codes.reshape(x.shape)


def encode_power_of_two(x: Array, quantizer: PowerOfTwo) -> Array:
    r"""Code of each element as one signed byte: the fast twin of `PowerOfTwo.encode`.

    Adding :math:`2^{23} - t` to the bits of a float32 carries into the exponent
    exactly if its mantissa is at least t; a shift and two clips are left.

    Parameters
    ----------
    x : ndarray of float32, any shape
    quantizer : PowerOfTwo
        With one largest level for all data.

    Returns
    -------
    ndarray of int8, shape of `x`
        The values of ``quantizer.encode(x)``.

    Raises
    ------
    TypeError
        If `x` is not float32.
    ValueError
        If `x` has a NaN, or there is more than one largest level.

    References
    ----------
    Miyashita et al., 2016, arXiv:1603.01025, section 3.2.

    Examples
    --------
    >>> from refquant.quantizers.power_of_two import linear_nearest
    >>> q = linear_nearest(np.array(1.0), bits=3)
    >>> encode_power_of_two(np.array([0.74, 0.76, -9.0], np.float32), q)
    array([ 2,  3, -3], dtype=int8)
    """
    flat = _checked(x)
    if quantizer.largest.size != 1:
        raise ValueError(
            f"`quantizer` must have one largest level; got shape {quantizer.largest.shape}"
        )
    count = 2 ** (quantizer.bits - 1) - 1
    # The exponent field of the level below the smallest, which means zero.
    zero = int(np.frexp(quantizer.largest.item())[1]) + 126 - count
    # Subnormal numbers have no such field to carry into, and no float32 comes near levels
    # beyond infinity: for float64 levels out there the definition must do.
    if not int(quantizer.logarithmic) <= zero <= 255 - count:
        return quantizer.encode(flat).astype(np.int8).reshape(x.shape)
    # 0x3504F4: the first mantissa above sqrt(2); 0x400001: the first above 3/2.
    carry = 2**23 - (0x3504F4 if quantizer.logarithmic else 0x400001)
    half = np.float32(np.ldexp(1.0, zero - 127))
    codes = np.empty(flat.size, np.int8)
    kinds = (np.int32, np.int32, np.float32, np.bool_)
    work: list[Array] = [np.empty(min(TILE, flat.size), kind) for kind in kinds]
    for start in range(0, flat.size, TILE):
        values = flat[start : start + TILE]
        bits, sign, magnitude, above = (buffer[: values.size] for buffer in work)
        np.bitwise_and(values.view(np.int32), 0x7FFFFFFF, out=bits)
        np.add(bits, carry, out=bits)           # infinity plus 2**23 - t: still no overflow
        np.right_shift(bits, 23, out=bits)
        np.subtract(bits, zero, out=bits)
        if not quantizer.logarithmic:           # above half the smallest level: not zero
            np.abs(values, out=magnitude)
            np.greater(magnitude, half, out=above)
            np.maximum(bits, above, out=bits)
        np.clip(bits, 0, count, out=bits)
        np.right_shift(values.view(np.int32), 31, out=sign)         # 0, or -1 for a minus
        np.bitwise_xor(bits, sign, out=bits)
        np.subtract(bits, sign, out=bits)
        np.copyto(codes[start : start + TILE], bits, casting="unsafe")
    return codes.reshape(x.shape)


def _checked(x: Array) -> Array:
    """`x` as one contiguous row, checked."""
    x = as_unmasked("x", x)
    if x.dtype != np.float32:
        raise TypeError(f"`x` must be float32; got {x.dtype}")
    require_no_nan("x", x)
    return np.ascontiguousarray(x).reshape(-1)
