r"""Fixed-point arithmetic: multiply by a real number with integers alone.

An integer-only layer sums products of codes in int32 and must bring the sum to
the scale of its output: multiply by :math:`M = s_x s_w / s_y`. The multiplier
is stored as 31 bits and a shift,

.. math:: M \approx m \, 2^{n - 31}, \qquad 2^{30} \le m < 2^{31},

and applied in two steps, each of which rounds: the high half of a 64-bit
product (a tie goes up), then a shift (a tie goes away from zero). Rounding
twice is not rounding once: a quarter of 1 becomes 1.

Everything is computed in int64 and every operand checked to be an int32: where
C would wrap around silently, these functions raise.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes
from refquant.rounding import half_away

__all__ = [
    "QuantizedMultiplier",
    "limit_left_shift",
    "multiply_by_quantized_multiplier",
    "quantize_multiplier",
    "rounding_divide_by_pot",
    "rounding_half_sum",
    "rounding_shift_right",
    "saturating_rounding_doubling_high_mul",
    "saturating_shift_left",
]

_INT32 = (-(2**31), 2**31 - 1)


class QuantizedMultiplier(NamedTuple):
    r"""The real number :math:`m \, 2^{n - 31}` as two integers.

    Attributes
    ----------
    mantissa : ndarray of int64
        m, in ``[2**30, 2**31)``, or 0.
    shift : ndarray of int64
        n: a left shift if positive, a right shift if negative.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (6), with n counted the other way.

    Examples
    --------
    >>> mantissa, shift = QuantizedMultiplier(np.array(2**30), np.array(1))
    >>> float(mantissa * 2.0**(shift - 31))
    1.0
    """

    mantissa: Array
    shift: Array


def quantize_multiplier(real: npt.ArrayLike) -> QuantizedMultiplier:
    r"""Nearest 31-bit mantissa and shift of nonnegative real numbers.

    .. math:: M = f \, 2^n,\ f \in [\tfrac12, 1) \quad\Rightarrow\quad
              m = \lfloor 2^{31} f \rceil

    Parameters
    ----------
    real : ndarray of float64, any shape, >= 0; or QuantizedMultiplier
        M. Multipliers below about ``2**-32`` become 0: every product with an
        int32 would be shifted out. One that is made of integers is returned as it is.

    Returns
    -------
    QuantizedMultiplier
        Within ``2**-31`` of M, relatively.

    Raises
    ------
    ValueError
        If `real` is negative or not finite.

    References
    ----------
    TensorFlow Lite, ``QuantizeMultiplier``; Jacob et al., 2018,
    arXiv:1712.05877, section 2.2.

    Examples
    --------
    >>> mantissa, shift = quantize_multiplier(0.0003)
    >>> int(mantissa), int(shift)
    (1319413953, -11)
    """
    if isinstance(real, QuantizedMultiplier):
        return real
    real = np.asarray(real, np.float64)
    good = np.isfinite(real) & (real >= 0)
    if not good.all():
        raise ValueError(f"`real` must be finite and not negative; got {real[~good].flat[0]}")
    fraction, exponent = np.frexp(real)
    mantissa = half_away(fraction * 2.0**31).astype(np.int64)
    shift = exponent.astype(np.int64)
    full = mantissa == 2**31            # f rounded up to 1: halve it
    mantissa, shift = np.where(full, 2**30, mantissa), shift + full
    lost = shift < -31
    return QuantizedMultiplier(np.where(lost, 0, mantissa), np.where(lost, 0, shift))


def limit_left_shift(multiplier: QuantizedMultiplier) -> QuantizedMultiplier:
    r"""Multiplier for a single 64-bit rounding, whose left shift ends at 30.

    A larger one becomes the largest that fits, :math:`(2^{31} - 1) \, 2^{-1}`.

    Parameters
    ----------
    multiplier : QuantizedMultiplier

    Returns
    -------
    QuantizedMultiplier

    References
    ----------
    TensorFlow Lite, ``QuantizeMultiplier`` with ``TFLITE_SINGLE_ROUNDING``.

    Examples
    --------
    >>> mantissa, shift = limit_left_shift(quantize_multiplier(2.0**40))
    >>> int(mantissa) == 2**31 - 1, int(shift)
    (True, 30)
    """
    far = multiplier.shift > 30
    return QuantizedMultiplier(
        np.where(far, 2**31 - 1, multiplier.mantissa), np.minimum(multiplier.shift, 30)
    )


def multiply_by_quantized_multiplier(x: npt.ArrayLike, multiplier: QuantizedMultiplier) -> Array:
    r"""Product of int32 numbers and a real multiplier, by integers and rounded twice.

    .. math:: \mathrm{RDBP}\bigl(\mathrm{SRDHM}(x \, 2^{\max(n, 0)}, m),\ \max(-n, 0)\bigr)

    Parameters
    ----------
    x : ndarray of int, in the range of int32
        Accumulators.
    multiplier : QuantizedMultiplier
        Broadcastable to `x`, e.g. ``(out, 1)`` for one multiplier per channel.

    Returns
    -------
    ndarray of int64
        In the range of int32; less than 1 from the exact product, not always the nearest.

    Raises
    ------
    ValueError
        If `x` or `x` shifted left leaves the range of int32.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``MultiplyByQuantizedMultiplier`` without
    ``TFLITE_SINGLE_ROUNDING``.

    Examples
    --------
    >>> multiply_by_quantized_multiplier([5000, -5000, 12345], quantize_multiplier(0.0003))
    array([ 2, -2,  4])
    """
    left, right = np.maximum(multiplier.shift, 0), np.maximum(-multiplier.shift, 0)
    x = _int32("x", x)
    limit = 1 << np.maximum(31 - left, 0)
    # Before shifting, since int64 overflows too; beyond 31 bits nothing but 0 fits.
    outside = (x < -limit) | (x >= limit) | ((left > 31) & (x != 0))
    if outside.any():
        bad = np.broadcast_to(x, outside.shape)[outside].flat[0]
        raise ValueError(f"`x` must stay an int32 when shifted left by `shift`; got {bad}")
    high = saturating_rounding_doubling_high_mul(x * 2**left, multiplier.mantissa)
    return rounding_divide_by_pot(high, right)


def saturating_rounding_doubling_high_mul(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    r"""High half of twice the 64-bit product: :math:`\lfloor ab / 2^{31} \rceil`, ties up.

    As fractions of :math:`2^{31}`, this is the product of two numbers in [-1, 1).
    The one product that leaves it, -1 times -1, saturates to ``2**31 - 1``.

    Parameters
    ----------
    a, b : ndarray of int, in the range of int32
        Broadcast against each other.

    Returns
    -------
    ndarray of int64
        In the range of int32.

    Raises
    ------
    ValueError
        If an operand is not an int32.
    TypeError
        If an operand is not of integers.

    References
    ----------
    gemmlowp, ``SaturatingRoundingDoublingHighMul``; Arm instruction VQRDMULH.

    Examples
    --------
    >>> saturating_rounding_doubling_high_mul([5, -5, 1, -1], 2**30)     # halves
    array([ 3, -2,  1,  0])
    """
    product = _int32("a", a) * _int32("b", b)       # at most 2**62
    return np.minimum((product + 2**30) >> 31, 2**31 - 1)


def rounding_divide_by_pot(x: npt.ArrayLike, exponent: npt.ArrayLike) -> Array:
    r"""Quotient by a power of two, :math:`\lfloor x / 2^e \rceil`, ties away from zero.

    Parameters
    ----------
    x : ndarray of int, in the range of int32
    exponent : ndarray of int
        e, from 0 to 31; broadcast against `x`.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `x` is not an int32 or `exponent` is out of range.
    TypeError
        If an operand is not of integers.

    References
    ----------
    gemmlowp, ``RoundingDivideByPOT``.

    Examples
    --------
    >>> rounding_divide_by_pot([5, -5, 6, -6], [1, 1, 2, 2])
    array([ 3, -3,  2, -2])
    """
    x = _int32("x", x)
    exponent = require_codes("exponent", exponent, 0, 31).astype(np.int64)
    half = 2**exponent // 2             # 0 for e = 0
    # A shift is a floor, so adding half sends ties up; below zero one less sends them down.
    return (x + half - ((x < 0) & (exponent > 0))) >> exponent


def rounding_shift_right(x: npt.ArrayLike, exponent: npt.ArrayLike) -> Array:
    r"""Quotient by a power of two, :math:`\lfloor x / 2^e + \tfrac12 \rfloor`: ties go up.

    Parameters
    ----------
    x : ndarray of int, in the range of int32
    exponent : ndarray of int
        e, from 0 to 31; broadcast against `x`.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `x` is not an int32 or `exponent` is out of range.
    TypeError
        If an operand is not of integers.

    References
    ----------
    Arm instructions VRSHL and SRSHL with a negative count.

    Examples
    --------
    >>> rounding_shift_right([5, -5, 6, -6], [1, 1, 2, 2])
    array([ 3, -2,  2, -1])
    """
    x = _int32("x", x)
    exponent = require_codes("exponent", exponent, 0, 31).astype(np.int64)
    return (x + 2**exponent // 2) >> exponent


def rounding_half_sum(a: npt.ArrayLike, b: npt.ArrayLike) -> Array:
    r"""Half of a sum, :math:`\lfloor (a + b) / 2 \rceil`, ties away from zero.

    Parameters
    ----------
    a, b : ndarray of int, in the range of int32
        Broadcast against each other.

    Returns
    -------
    ndarray of int64
        In the range of int32.

    Raises
    ------
    ValueError
        If an operand is not an int32.
    TypeError
        If an operand is not of integers.

    References
    ----------
    gemmlowp, ``RoundingHalfSum``. Arm's VRHADD sends ties up instead.

    Examples
    --------
    >>> rounding_half_sum([2, -2, 3], [3, -3, 3])
    array([ 3, -3,  3])
    """
    total = _int32("a", a) + _int32("b", b)
    return (total + (total >= 0)) >> 1      # the floor sends a negative tie down by itself


def saturating_shift_left(x: npt.ArrayLike, exponent: npt.ArrayLike) -> Array:
    r"""Product with a power of two, :math:`x \, 2^e`, held within int32.

    Parameters
    ----------
    x : ndarray of int, in the range of int32
    exponent : ndarray of int
        e, from 0 to 31; broadcast against `x`.

    Returns
    -------
    ndarray of int64
        In the range of int32.

    Raises
    ------
    ValueError
        If `x` is not an int32 or `exponent` is out of range.
    TypeError
        If an operand is not of integers.

    References
    ----------
    gemmlowp, ``SaturatingRoundingMultiplyByPOT`` with a positive exponent.

    Examples
    --------
    >>> saturating_shift_left([3, -3, 2**30], 2)
    array([        12,        -12, 2147483647])
    """
    exponent = require_codes("exponent", exponent, 0, 31).astype(np.int64)
    return np.clip(_int32("x", x) << exponent, *_INT32)


def _int32(name: str, x: npt.ArrayLike) -> Array:
    return require_codes(name, x, *_INT32).astype(np.int64)
