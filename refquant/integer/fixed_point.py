r"""Exponential, reciprocal, logistic and tanh of integers, as gemmlowp computes them.

A raw integer r of `bits` bits stands for :math:`r \, 2^{k + 1 - bits}`, where k
is the number of its integer bits: with k = 0 for a number in [-1, 1), with k = 4
for one in [-16, 16). No table is needed and nothing is floating point:

================================  ==================================================
function                          idea
================================  ==================================================
:math:`e^a`, a in [-1/4, 0)       four terms of the Taylor series around -1/8
:math:`e^a`, a <= 0               bits of -a above 1/4 select factors exp(-2**j)
:math:`1 / (1 + a)`, a in [0, 1]  Newton's iteration, three steps
logistic, tanh                    from :math:`e^{-|a|}`, resp. :math:`e^{-2|a|}`
================================  ==================================================

The product of two such numbers is the rounded high half of their double product,
and their integer bits add. Constants are real numbers rounded to 31 bits; the 16-bit
versions round those again.
"""

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.integer.arithmetic import rounding_divide_by_pot

__all__ = [
    "exp_of_last_quarter",
    "exp_of_negative",
    "fixed_logistic",
    "fixed_tanh",
    "one_minus_over_one_plus",
    "reciprocal_of_one_plus",
]

_EXP_EIGHTH = 1895147668                # exp(-1/8), no integer bits
_THIRD = 715827883                      # 1/3, no integer bits
#: exp(-2**j), no integer bits.
_EXP_POWERS = {
    -2: 1672461947, -1: 1302514674, 0: 790015084, 1: 290630308, 2: 39332535, 3: 720401, 4: 242,
}  # fmt: skip
_NEWTON_START = 1515870810              # 48/17, two integer bits
_NEWTON_SLOPE = -1010580540             # -32/17, two integer bits


def exp_of_last_quarter(a: npt.ArrayLike, *, bits: int = 32) -> Array:
    r"""Exponential of numbers in [-1/4, 0), none of whose bits are integer bits.

    .. math:: e^{-1/8} \Bigl(1 + x + \tfrac12\bigl(x^2 + \tfrac13(x^3 +
              \tfrac14 x^4)\bigr)\Bigr), \qquad x = a + \tfrac18

    Parameters
    ----------
    a : ndarray of int
        Raw, from ``-2**(bits - 3)`` to 0, a unit being ``2**(1 - bits)``.
    bits : int
        Of the word: 16 or 32.

    Returns
    -------
    ndarray of int64
        Raw, no integer bits.

    Raises
    ------
    ValueError
        If `a` is out of range or `bits` neither 16 nor 32.
    TypeError
        If `a` is not of integers.

    References
    ----------
    gemmlowp, ``exp_on_interval_between_negative_one_quarter_and_0_excl``.

    Examples
    --------
    >>> exp_of_last_quarter([-(2**29), -(2**28)]) / 2**31          # exp(-1/4), exp(-1/8)
    array([0.778801 , 0.8824969])
    """
    _require_word(bits)
    a = require_codes("a", a, -(2 ** (bits - 3)), 0).astype(np.int64)
    base = _constant(_EXP_EIGHTH, bits)
    x = a + 2 ** (bits - 4)
    x2 = _mul(x, x, bits)
    x3, x4 = _mul(x2, x, bits), _mul(x2, x2, bits)
    third = _mul(rounding_divide_by_pot(x4, 2) + x3, _constant(_THIRD, bits), bits)
    series = x + rounding_divide_by_pot(third + x2, 1)
    return np.minimum(base + _mul(base, series, bits), _one(bits))


def exp_of_negative(a: npt.ArrayLike, *, integer_bits: int, bits: int = 32) -> Array:
    r"""Exponential of numbers that are not positive.

    With :math:`-a = r + \sum_j b_j 2^j`, where r is in (0, 1/4] and j at least -2,

    .. math:: e^a = e^{-r} \prod_{j :\, b_j = 1} e^{-2^j} .

    Parameters
    ----------
    a : ndarray of int
        Raw, from ``-2**(bits - 1)`` to 0, a unit being ``2**(integer_bits + 1 - bits)``.
    integer_bits : int
        k: the numbers lie in ``[-2**k, 0]``.
    bits : int
        Of the word: 16 or 32.

    Returns
    -------
    ndarray of int64
        Raw, no integer bits. Exactly 0 gives the largest number below 1; numbers below
        -32 give 0.

    Raises
    ------
    ValueError
        If `a` or `integer_bits` is out of range, or `bits` neither 16 nor 32.
    TypeError
        If `a` is not of integers.

    References
    ----------
    gemmlowp, ``exp_on_negative_values``.

    Examples
    --------
    >>> exp_of_negative([-(2**26)], integer_bits=5)         # -1
    array([790015308])
    >>> 790015308 / 2**31                                   # exp(-1) is 0.36787944
    0.3678795...
    """
    _require_word(bits)
    require_int("integer_bits", integer_bits, 0, bits - 4)
    a = require_codes("a", a, -(2 ** (bits - 1)), 0).astype(np.int64)
    fraction_bits = bits - 1 - integer_bits
    quarter = 2 ** (fraction_bits - 2)
    rest = (a & (quarter - 1)) - quarter                    # in [-1/4, 0)
    result = exp_of_last_quarter(rest * 2**integer_bits, bits=bits)
    quarters = rest - a                                     # a multiple of 1/4, not negative
    for power, factor in _EXP_POWERS.items():
        if power < integer_bits:
            chosen = quarters & 2 ** (fraction_bits + power) != 0
            result = np.where(chosen, _mul(result, _constant(factor, bits), bits), result)
    if integer_bits > 5:                                    # no factor is left for 2**5
        result = np.where(a < -(2 ** (fraction_bits + 5)), 0, result)
    return np.where(a == 0, _one(bits), result)


def reciprocal_of_one_plus(a: npt.ArrayLike, *, bits: int = 32) -> Array:
    r"""Numbers :math:`1 / (1 + a)` for a in [0, 1].

    Parameters
    ----------
    a : ndarray of int
        Raw, not negative, a unit being ``2**(1 - bits)``.
    bits : int
        Of the word: 16 or 32.

    Returns
    -------
    ndarray of int64
        Raw, no integer bits; the largest number stands for 1.

    Raises
    ------
    ValueError
        If `a` is out of range or `bits` neither 16 nor 32.
    TypeError
        If `a` is not of integers.

    References
    ----------
    gemmlowp, ``one_over_one_plus_x_for_x_in_0_1``.

    Examples
    --------
    >>> reciprocal_of_one_plus([0, 2**30]) / 2**31
    array([1.        , 0.66666667])
    """
    return _saturate(_twice_reciprocal(a, bits) * 2, bits)


def one_minus_over_one_plus(a: npt.ArrayLike, *, bits: int = 32) -> Array:
    r"""Numbers :math:`(1 - a) / (1 + a)` for a in [0, 1].

    Parameters
    ----------
    a : ndarray of int
        Raw, not negative, a unit being ``2**(1 - bits)``.
    bits : int
        Of the word: 16 or 32.

    Returns
    -------
    ndarray of int64
        Raw, no integer bits.

    Raises
    ------
    ValueError
        If `a` is out of range or `bits` neither 16 nor 32.
    TypeError
        If `a` is not of integers.

    References
    ----------
    gemmlowp, ``one_minus_x_over_one_plus_x_for_x_in_0_1``.

    Examples
    --------
    >>> one_minus_over_one_plus([0, 2**30]) / 2**31
    array([1.        , 0.33333333])
    """
    return _saturate((_twice_reciprocal(a, bits) - 2 ** (bits - 3)) * 4, bits)


def fixed_logistic(a: npt.ArrayLike, *, integer_bits: int, bits: int = 32) -> Array:
    r"""Logistic function :math:`1 / (1 + e^{-a})`.

    Parameters
    ----------
    a : ndarray of int
        Raw, any word; a unit is ``2**(integer_bits + 1 - bits)``.
    integer_bits : int
        k: the numbers lie in ``[-2**k, 2**k)``.
    bits : int
        Of the word: 16 or 32.

    Returns
    -------
    ndarray of int64
        Raw, no integer bits. For -a the result is ``2**(bits - 1) - 1`` less that for a.

    Raises
    ------
    ValueError
        If `a` or `integer_bits` is out of range, or `bits` neither 16 nor 32.
    TypeError
        If `a` is not of integers.

    References
    ----------
    gemmlowp, ``logistic``.

    Examples
    --------
    >>> fixed_logistic([2**27], integer_bits=4) / 2**31             # of 1; exactly 0.73105858
    array([0.73105852])
    """
    a = _word(a, bits)
    exp = exp_of_negative(-abs(a), integer_bits=integer_bits, bits=bits)
    upper = reciprocal_of_one_plus(exp, bits=bits)
    result = np.where(a > 0, upper, _one(bits) - upper)
    return np.where(a == 0, 2 ** (bits - 2), result)


def fixed_tanh(a: npt.ArrayLike, *, integer_bits: int, bits: int = 32) -> Array:
    r"""Hyperbolic tangent :math:`(1 - e^{-2a}) / (1 + e^{-2a})`, an odd function.

    Parameters
    ----------
    a : ndarray of int
        Raw, any word; a unit is ``2**(integer_bits + 1 - bits)``.
    integer_bits : int
        k: the numbers lie in ``[-2**k, 2**k)``.
    bits : int
        Of the word: 16 or 32.

    Returns
    -------
    ndarray of int64
        Raw, no integer bits.

    Raises
    ------
    ValueError
        If `a` or `integer_bits` is out of range, or `bits` neither 16 nor 32.
    TypeError
        If `a` is not of integers.

    References
    ----------
    gemmlowp, ``tanh``.

    Examples
    --------
    >>> fixed_tanh([2**27, -(2**27)], integer_bits=4) / 2**31       # of 1; exactly 0.76159416
    array([ 0.7615941, -0.7615941])
    """
    a = _word(a, bits)
    # One integer bit more makes the same raw number twice as large.
    exp = exp_of_negative(-abs(a), integer_bits=integer_bits + 1, bits=bits)
    return np.sign(a) * one_minus_over_one_plus(exp, bits=bits)


def _twice_reciprocal(a: npt.ArrayLike, bits: int) -> Array:
    """Newton's x = 1 / d for d = (1 + a) / 2; x has two integer bits."""
    one = _one(bits)
    a = require_codes("a", _word(a, bits), 0, one)
    half = (a + one + 1) >> 1                               # d, in [1/2, 1]
    start, slope = _constant(_NEWTON_START, bits), _constant(_NEWTON_SLOPE, bits)
    x = start + _mul(half, slope, bits)
    for _ in range(3):
        short = 2 ** (bits - 3) - _mul(half, x, bits)       # 1 - d x
        x = x + _saturate(_mul(x, short, bits) * 4, bits)   # the product has four integer bits
    return x


def _constant(raw: int, bits: int) -> int:
    """A constant of 31 bits in a word of `bits` bits."""
    return int(rounding_divide_by_pot(raw, 32 - bits))


def _mul(a: npt.ArrayLike, b: npt.ArrayLike, bits: int) -> Array:
    """Product of raw numbers; no operand here is -1, so that it cannot saturate."""
    return (np.multiply(a, b, dtype=np.int64) + 2 ** (bits - 2)) >> (bits - 1)


def _saturate(x: Array, bits: int) -> Array:
    return np.clip(x, -(2 ** (bits - 1)), _one(bits))


def _one(bits: int) -> int:
    """The largest word: what stands for 1 when there are no integer bits."""
    return int(2 ** (bits - 1) - 1)


def _word(a: npt.ArrayLike, bits: int) -> Array:
    _require_word(bits)
    return require_codes("a", a, -(2 ** (bits - 1)), _one(bits)).astype(np.int64)


def _require_word(bits: int) -> None:
    if bits not in (16, 32):
        raise ValueError(f"`bits` must be 16 or 32; got {bits}")
