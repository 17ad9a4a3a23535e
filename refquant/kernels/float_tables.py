"""Table look-up for number formats of up to 8 bits: a float32 in, one byte out.

Rounding to a short format needs little of a float32: its top 16 bits, and
whether any of the others is set ("sticky"). That is a table of 131,072 bytes.
The premise, that every midpoint between two levels has 16 zero bits at the end,
is checked when a table is built, and the table is filled from exact fractions;
so it is also a complete certificate: `refquant.quantizers.minifloat` equals it on
every entry, hence on all 2**32 inputs.
"""

from fractions import Fraction
from functools import lru_cache

import numpy as np

from refquant._types import Array
from refquant._validate import as_unmasked, require_codes, require_no_nan
from refquant.quantizers.minifloat import Minifloat, Overflow, saturating

__all__ = ["decode_bytes", "encode_bytes", "encode_table"]

TILE = 2**18            # elements at a time: everything but input and output stays in cache
ALARM = 255             # what NaN becomes where it must raise: the maximum is quick to find


def encode_bytes(
    x: Array,
    number_format: Minifloat,
    *,
    overflow: Overflow = saturating,
    keep_nan: bool = False,
) -> Array:
    """Code of each element as one byte: the fast twin of `Minifloat.encode`.

    Parameters
    ----------
    x : ndarray of float32, any shape
    number_format : Minifloat
        Of at most 8 bits.
    overflow : callable, Minifloat -> int
        `saturating` or `ieee`.
    keep_nan : bool
        NaN becomes the NaN of the format instead of an error.

    Returns
    -------
    ndarray of uint8, shape of `x`
        The values of ``number_format.encode(x)``, in C order.

    Raises
    ------
    TypeError
        If `x` is not float32: float64 does not fit a table, and going through
        float32 would round twice.
    ValueError
        If `x` has a NaN without `keep_nan`, or the format is too long.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3 (the formats).

    Examples
    --------
    >>> from refquant.quantizers.minifloat import E4M3FN
    >>> encode_bytes(np.array([1.0, -0.1, 1e9], np.float32), E4M3FN)
    array([ 56, 157, 126], dtype=uint8)
    """
    x = as_unmasked("x", x)
    if x.dtype != np.float32:
        raise TypeError(f"`x` must be float32; got {x.dtype}")
    if keep_nan and number_format.nan is None:
        raise ValueError("`keep_nan` must be False: the format has no NaN")
    table = encode_table(number_format, overflow)
    alarmed = None if keep_nan else _table_with_alarm(number_format, overflow)
    if alarmed is not None:
        table = alarmed
    elif not keep_nan:
        require_no_nan("x", x)
    flat = np.ascontiguousarray(x).reshape(-1)
    bits = flat.view(np.uint32)
    codes = np.empty(flat.size, np.uint8)
    tile = min(TILE, flat.size)
    key, index = np.empty(tile, np.uint32), np.empty(tile, np.intp)
    for start in range(0, flat.size, TILE):
        piece = slice(start, start + TILE)
        k, i = key[: bits[piece].size], index[: bits[piece].size]
        # The addition carries into bit 15 unless the 15 bits below are all zero:
        # after the shift, bit 0 says "anything below the top 16 bits".
        np.bitwise_and(bits[piece], 0x7FFF, out=k)
        np.add(k, 0x7FFF, out=k)
        np.bitwise_or(k, bits[piece], out=k)
        np.right_shift(k, 15, out=i)
        table.take(i, out=codes[piece], mode="clip")        # "clip" spares a check, i fits
        if alarmed is not None and codes[piece].max() == ALARM:
            require_no_nan("x", flat[piece])
    return codes.reshape(x.shape)


def decode_bytes(codes: Array, number_format: Minifloat) -> Array:
    """Number that each byte stands for: the fast twin of `Minifloat.decode`.

    Two codes are looked up at a time.

    Parameters
    ----------
    codes : ndarray of uint8, any shape
    number_format : Minifloat
        Of at most 8 bits.

    Returns
    -------
    ndarray of float32, shape of `codes`

    Raises
    ------
    TypeError
        If `codes` is not uint8.
    ValueError
        If a code has more bits than the format, or the format is too long.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3 (the formats).

    Examples
    --------
    >>> from refquant.quantizers.minifloat import E2M1
    >>> decode_bytes(np.arange(5, dtype=np.uint8), E2M1)
    array([0. , 0.5, 1. , 1.5, 2. ], dtype=float32)
    """
    codes = as_unmasked("codes", codes)
    if codes.dtype != np.uint8:
        raise TypeError(f"`codes` must be uint8; got {codes.dtype}")
    pairs = _decode_table(number_format)
    if number_format.code_bits < 8:
        require_codes("codes", codes, 0, 2**number_format.code_bits - 1)
    flat = np.ascontiguousarray(codes).reshape(-1)
    x = np.empty(flat.size, np.float32)
    even = flat.size // 2 * 2
    two, out = flat[:even].view(np.uint16), x[:even].view(np.uint64)
    for start in range(0, two.size, TILE):
        piece = slice(start, start + TILE)
        pairs.take(two[piece], out=out[piece], mode="clip")
    x[even:] = number_format.decode(flat[even:])
    return x.reshape(codes.shape)


@lru_cache(maxsize=64)
def encode_table(number_format: Minifloat, overflow: Overflow = saturating) -> Array:
    """Code for each possible top half of a float32 and sticky bit.

    Parameters
    ----------
    number_format : Minifloat
        Of at most 8 bits.
    overflow : callable, Minifloat -> int
        `saturating` or `ieee`.

    Returns
    -------
    ndarray of uint8, shape (131072,)
        Read-only. Entry ``2 * t + s`` serves the float32 numbers whose upper 16
        bits are t; s is 0 for the one whose lower 16 bits are zero and 1 for
        the others. In a format without NaN, the entries of NaN are 0.

    Raises
    ------
    ValueError
        If the format has more than 8 bits, or a midpoint between two levels
        needs more than the upper 16 bits of a float32.

    References
    ----------
    IEEE 754-2019, section 4.3.1: nearest, ties to the even code.

    Examples
    --------
    >>> from refquant.quantizers.minifloat import E4M3FN
    >>> table = encode_table(E4M3FN)
    >>> one = int(np.array(1.0625, np.float32).view(np.uint32)) >> 15   # a tie, then just above
    >>> table[one], table[one + 1]
    (np.uint8(56), np.uint8(57))
    """
    _require_bytes(number_format)
    first = [_first_entry(number_format, code + 1) for code in range(number_format.largest + 1)]
    infinity, half = 2 * 0x7F80, 2**16
    plus = np.searchsorted(first, np.arange(half), side="right")
    beyond = overflow(number_format)
    plus[plus > number_format.largest] = beyond
    plus[infinity + 1 :] = number_format.nan or 0
    if number_format.signed:
        minus = plus | number_format.sign_bit
        if number_format.nan == number_format.sign_bit:
            minus[plus == 0] = 0                            # the only zero is unsigned
    else:
        minus = np.full(half, 0 if beyond == number_format.largest else beyond)
        minus[0] = 0
        minus[infinity + 1 :] = plus[infinity + 1 :]
    table = np.concatenate([plus, minus]).astype(np.uint8)
    table.flags.writeable = False
    return table


@lru_cache(maxsize=64)
def _table_with_alarm(number_format: Minifloat, overflow: Overflow) -> Array | None:
    """The table with the entries of NaN replaced by `ALARM`; None if that is a code in use."""
    table = encode_table(number_format, overflow).copy()
    is_nan = np.arange(table.size) % 2**16 > 2 * 0x7F80
    if (table[~is_nan] == ALARM).any():
        return None
    table[is_nan] = ALARM
    return table


@lru_cache(maxsize=32)
def _decode_table(number_format: Minifloat) -> Array:
    """Both numbers of two neighbouring bytes, as the 64 bits that hold them."""
    _require_bytes(number_format)
    one = number_format.levels().repeat(2 ** (8 - number_format.code_bits))
    one[: 2**number_format.code_bits] = number_format.levels()
    two = np.arange(2**16, dtype=np.uint16).view(np.uint8)
    return one[two].view(np.uint64)


def _first_entry(number_format: Minifloat, code: int) -> int:
    """First table entry that rounds to `code` or above, among the nonnegative ones."""
    middle = (_level(number_format, code - 1) + _level(number_format, code)) / 2
    single = np.float32(float(middle))
    top, low = divmod(int(single.view(np.uint32)), 2**16)
    if Fraction(float(single)) != middle or low:
        raise ValueError(
            "`number_format` must have its midpoints in the top 16 bits of float32; "
            f"got {float(middle)!r}"
        )
    return 2 * top + code % 2                               # the tie itself goes to the even code


def _level(number_format: Minifloat, code: int) -> Fraction:
    """Exact value of a code without sign, as if the format went on beyond its largest."""
    field, fraction = divmod(code, 2**number_format.mantissa_bits)
    if field == 0 and number_format.subnormals:
        field, hidden = 1, 0
    else:
        hidden = 2**number_format.mantissa_bits
    return (hidden + fraction) * Fraction(2) ** (
        field - number_format.bias - number_format.mantissa_bits
    )


def _require_bytes(number_format: Minifloat) -> None:
    if number_format.code_bits > 8:
        raise ValueError(
            f"`number_format` must have at most 8 bits; got {number_format.code_bits}"
        )
