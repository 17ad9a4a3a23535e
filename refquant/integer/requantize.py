r"""Requantize: bring integer sums to the scale of the output, by the rule of a runtime.

A layer adds products of codes; the sum counts steps of :math:`s_x s_w`, its output
counts steps of :math:`s_y`. So every sum is multiplied by the real number
:math:`M = s_x s_w / s_y` and rounded. No two families of kernels do that alike:

===============  =====  =================================================  =================
rule             short  what is rounded                                    met in
===============  =====  =================================================  =================
`double_away`    DA     high half of ``x * m``, ties up; shift, ties away  TFLM, LiteRT ref.
`double_up`      DU     the same, but the shift sends ties up              ruy on x86, NEON
`single_up`      S      ``x * m`` in 64 bits, once, ties up                ruy on Arm
`in_float32`     F32    ``float32(x) * float32(M)``, ties to even          XNNPACK, ONNX
`in_float64`     F64    ``float64(x) * M``, ties away                      LiteRT linear
`reduced_16x8`   -      ``x * m`` with 15 bits of m, ties up               int64 sums
`dyadic`         -      ``x * b / 2**c`` in float64, ties to even          HAWQ-V3
`tosa_single`    -      as S                                               TOSA
`tosa_double`    -      as S, with a nudge by the sign                     TOSA
`qmn`            -      a shift alone, ties up                             old CMSIS-NN
`qmn_truncated`  -      a shift alone, downwards                           the same, opt-in
===============  =====  =================================================  =================

All are functions of the same shape, `Rule`: sums and real multipliers in, whole numbers
out, to which the caller adds the zero point. With a right shift of R two of DA, DU and S
part on :math:`2^{-(R+1)}` of all sums.

The multiplier itself is a product of two float32 scales, and kernels round it
differently: `product_in_float64`, `product_in_float32`, `ratio_in_float32`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.integer.arithmetic import (
    QuantizedMultiplier,
    limit_left_shift,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_shift_right,
    saturating_rounding_doubling_high_mul,
)
from refquant.rounding import half_away

__all__ = [
    "RULES",
    "Lanes",
    "Product",
    "Rule",
    "double_away",
    "double_up",
    "dyadic",
    "in_float32",
    "in_float64",
    "lanes",
    "product_in_float32",
    "product_in_float64",
    "qmn",
    "qmn_truncated",
    "ratio_in_float32",
    "reduced_16x8",
    "single_up",
    "tosa_double",
    "tosa_single",
]

#: ``(sums, real multipliers) -> whole numbers``: int64 from integers and float64, broadcast.
Rule: TypeAlias = Callable[[npt.ArrayLike, npt.ArrayLike], Array]

#: ``(s_x, s_w, s_y) -> M``: the multiplier of a layer from its three scales, as float64.
Product: TypeAlias = Callable[[npt.ArrayLike, npt.ArrayLike, npt.ArrayLike], Array]

_INT32 = (-(2**31), 2**31 - 1)


def double_away(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""DA: the high half of a 64-bit product, then a shift; ties up, then away from zero.

    .. math:: \mathrm{RDBPOT}(\mathrm{SRDHM}(x \, 2^{\max(n, 0)}, m),\ \max(-n, 0))

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
        x. Shifted left by n where n > 0, it must still be an int32.
    real : ndarray of float64, broadcast against `sums`, >= 0
        M, approximately ``m * 2**(n - 31)``.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` or what they are shifted to leaves int32, or `real` is negative or not finite.

    References
    ----------
    gemmlowp ``fixedpoint.h``; TensorFlow Lite ``MultiplyByQuantizedMultiplier``.

    Examples
    --------
    >>> double_away([1, 5, 6, -2, -3, -6], 0.25)        # 1.25 becomes 2
    array([ 1,  2,  2, -1, -1, -2])
    """
    return multiply_by_quantized_multiplier(sums, quantize_multiplier(real))


def double_up(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""DU: the high half of a 64-bit product, then a shift; both send ties up.

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
        Shifted left by n where n > 0, they must still be int32.
    real : ndarray of float64, broadcast against `sums`, >= 0

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` or what they are shifted to leaves int32, or `real` is negative or not finite.

    References
    ----------
    Arm instructions SQRDMULH and SRSHL; ruy, ``kernel_avx512.cc``.

    Examples
    --------
    >>> double_up([1, 5, 6, -2, -3, -6], 0.25)
    array([ 1,  2,  2,  0,  0, -1])
    """
    mantissa, shift = quantize_multiplier(real)
    sums = require_codes("sums", sums, *_INT32).astype(np.int64)
    shifted = require_codes("sums", sums * 2 ** np.maximum(shift, 0), *_INT32)
    high = saturating_rounding_doubling_high_mul(shifted, mantissa)
    return rounding_shift_right(high, np.maximum(-shift, 0))


def single_up(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""S: the 64-bit product rounded once, ties up.

    .. math:: \left\lfloor \frac{x m + 2^{30 - n}}{2^{31 - n}} \right\rfloor

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
        x.
    real : ndarray of float64, broadcast against `sums`, >= 0
        M, approximately ``m * 2**(n - 31)`` with n at most 30.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` leaves int32 or `real` is negative or not finite.

    References
    ----------
    TensorFlow Lite with ``TFLITE_SINGLE_ROUNDING``; ruy, ``apply_multiplier.cc``.

    Examples
    --------
    >>> single_up([1, 5, 6, -2, -3, -6], 0.25)
    array([ 0,  1,  2,  0, -1, -1])
    """
    mantissa, shift = limit_left_shift(quantize_multiplier(real))
    sums = require_codes("sums", sums, *_INT32).astype(np.int64)
    return (sums * mantissa + (1 << (30 - shift))) >> (31 - shift)


def in_float32(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""F32: the sum as a float32 times the multiplier as a float32, ties to even.

    Kernels clamp the product to the codes before they round it. Whole limits make the
    order no difference, so that here the caller clamps, as with every rule.

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
        Above ``2**24`` not all of them are float32: they are rounded.
    real : ndarray of float64, broadcast against `sums`, >= 0

    Returns
    -------
    ndarray of int64
        Held within int32.

    Raises
    ------
    ValueError
        If `sums` leaves int32 or `real` is negative or not finite.

    References
    ----------
    XNNPACK, ``requantization.h``; ONNX operator QLinearConv.

    Examples
    --------
    >>> in_float32([1, 5, 6, -2, -3, -6], 0.25)
    array([ 0,  1,  2,  0, -1, -2])
    """
    sums = require_codes("sums", sums, *_INT32).astype(np.float32)
    return _whole(np.rint(sums * _multiplier(real).astype(np.float32)))


def in_float64(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""F64: the sum times the multiplier in float64, ties away from zero.

    Parameters
    ----------
    sums : ndarray of int, below ``2**53``
    real : ndarray of float64, broadcast against `sums`, >= 0

    Returns
    -------
    ndarray of int64
        Held within int32.

    Raises
    ------
    ValueError
        If `sums` has integers that are no float64, or `real` is negative or not finite.

    References
    ----------
    LiteRT, ``reference_integer_ops::FullyConnected``.

    Examples
    --------
    >>> in_float64([1, 5, 6, -2, -3, -6], 0.25)
    array([ 0,  1,  2, -1, -1, -2])
    """
    sums = require_codes("sums", sums, -(2**53), 2**53).astype(np.float64)
    return _whole(half_away(sums * _multiplier(real)))


def reduced_16x8(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""Sums of 48 bits times a multiplier of 15, rounded once, ties up.

    .. math:: \left\lfloor \frac{x m' + 2^{14 - n}}{2^{15 - n}} \right\rfloor, \qquad
              m' = \lfloor m / 2^{16} \rceil

    Parameters
    ----------
    sums : ndarray of int
        x, in ``[-2**47, 2**47)``.
    real : ndarray of float64, broadcast against `sums`, from 0, below ``2**7``
        M, approximately ``m * 2**(n - 31)``.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` leaves 48 bits, or `real` is out of range.

    References
    ----------
    TensorFlow Lite, ``MultiplyByQuantizedMultiplier`` of int64.

    Examples
    --------
    >>> reduced_16x8([1_000_000], 1518500250 * 2.0**-36)        # 22097.087
    array([22097])
    """
    mantissa, shift = quantize_multiplier(real)
    if (shift >= 8).any():
        raise ValueError(f"`real` must be below 128; got {np.max(real)}")
    short = np.where(mantissa < 0x7FFF0000, (mantissa + 2**15) >> 16, 0x7FFF)
    sums = require_codes("sums", sums, -(2**47), 2**47 - 1).astype(np.int64)
    return (sums * short + (1 << (14 - shift))) >> (15 - shift)


def dyadic(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""Product with the dyadic number :math:`b / 2^c` nearest to M, ties to even.

    .. math:: M = f \, 2^e, \qquad b = \lfloor 2^{31} f + \tfrac12 \rfloor, \qquad c = 31 - e

    Parameters
    ----------
    sums : ndarray of int
        Times b they should stay below ``2**53``: the authors' code, and so this
        function, multiplies in float64.
    real : ndarray of float64, broadcast against `sums`, >= 0
        M.

    Returns
    -------
    ndarray of int64
        Held within int32.

    Raises
    ------
    ValueError
        If `sums` has integers that are no float64, or `real` is negative or not finite.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680, section 3.1; its released code, ``fixedpoint_fn``.

    Examples
    --------
    >>> dyadic([37, 5, -5], [0.3, 0.5, 0.5])
    array([11,  2, -2])
    """
    fraction, exponent = np.frexp(_multiplier(real))
    b = np.floor(fraction * 2.0**31 + 0.5)
    sums = require_codes("sums", sums, -(2**53), 2**53).astype(np.float64)
    return _whole(np.rint(np.ldexp(sums * b, exponent - 31)))


def tosa_single(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    """Result of ``apply_scale_32`` of TOSA: S, for shifts from 2 to 62 alone.

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
    real : ndarray of float64, broadcast against `sums`, from ``2**-32``, below ``2**29``

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` leaves int32 or `real` its range.

    References
    ----------
    TOSA 1.0 specification, ``apply_scale_32`` with ``SINGLE_ROUND``.

    Examples
    --------
    >>> tosa_single([1, 5, -2, -3], 0.25)
    array([ 0,  1,  0, -1])
    """
    mantissa, down, sums = _tosa(sums, real)
    return (sums * mantissa + (1 << (down - 1))) >> down


def tosa_double(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""Result of ``apply_scale_32`` of TOSA with a second rounding folded into the first.

    Multipliers below 1/2 get :math:`2^{30}` more, with the sign of the sum, before
    the one shift: near a tie the result moves away from zero.

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
    real : ndarray of float64, broadcast against `sums`, from ``2**-32``, below ``2**29``

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` leaves int32 or `real` its range.

    References
    ----------
    TOSA 1.0 specification, ``apply_scale_32`` with ``DOUBLE_ROUND``.

    Examples
    --------
    >>> tosa_double([1, 5, -2, -3], 0.25)
    array([ 1,  2, -1, -1])
    """
    mantissa, down, sums = _tosa(sums, real)
    nudge = np.where(down > 31, np.where(sums >= 0, 2**30, -(2**30)), 0)
    return (sums * mantissa + nudge + (1 << (down - 1))) >> down


def qmn(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""Sums of Qm.n numbers shifted to the output's n, ties up.

    .. math:: (x + (2^r \gg 1)) \gg r, \qquad M = 2^{-r}

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
        x.
    real : ndarray of float64, broadcast against `sums`
        M, a power of two from ``2**-31`` to 1.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` leaves int32 or `real` is no such power of two.

    References
    ----------
    Lai, Suda and Chandra, 2018, arXiv:1801.06601; CMSIS 5, kernels ``_q7``.

    Examples
    --------
    >>> qmn([-5760, 384], 2.0**-8)
    array([-22,   2])
    """
    return rounding_shift_right(sums, _right_shift(real))


def qmn_truncated(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    r"""Sums of Qm.n numbers shifted to the output's n, downwards: nothing is added.

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
    real : ndarray of float64, broadcast against `sums`
        A power of two from ``2**-31`` to 1.

    Returns
    -------
    ndarray of int64

    Raises
    ------
    ValueError
        If `sums` leaves int32 or `real` is no such power of two.

    References
    ----------
    CMSIS 5, kernels ``_q7`` with ``ARM_NN_TRUNCATE``.

    Examples
    --------
    >>> qmn_truncated([-5760, 384], 2.0**-8)
    array([-23,   1])
    """
    return require_codes("sums", sums, *_INT32).astype(np.int64) >> _right_shift(real)


@dataclass(frozen=True)
class Lanes:
    """Rule of a vectorized loop: one for whole lanes of the last axis, another for the rest.

    Attributes
    ----------
    vector : callable
        Rule of the first ``width * (n // width)`` of n places.
    scalar : callable
        Rule of those that remain.
    width : int
        Places that the loop takes at once.

    References
    ----------
    LiteRT, ``optimized_integer_ops::DepthwiseConv``: 8 channels at a time.

    Examples
    --------
    >>> rule = lanes(double_up, double_away, width=2)
    >>> rule.at(1, 3) is double_up, rule.at(2, 3) is double_away
    (True, True)
    """

    vector: Rule
    scalar: Rule
    width: int

    def at(self, place: int, places: int) -> Rule:
        """The rule of one of the places of the last axis."""
        return self.vector if place < places // self.width * self.width else self.scalar

    def __call__(self, sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
        """Whole numbers, as `Rule` says."""
        sums = np.asarray(sums)
        real = np.broadcast_to(np.asarray(real, np.float64), sums.shape)
        whole = sums.shape[-1] // self.width * self.width
        parts = self.vector(sums[..., :whole], real[..., :whole]), self.scalar(
            sums[..., whole:], real[..., whole:])
        return np.concatenate(parts, axis=-1)


def lanes(vector: Rule, scalar: Rule, *, width: int) -> Lanes:
    """Rule of a vectorized loop: `vector` for whole lanes of the last axis, `scalar` for the rest.

    Parameters
    ----------
    vector : callable
        Rule of the first ``width * (n // width)`` of n places.
    scalar : callable
        Rule of those that remain.
    width : int
        Places that the loop takes at once, at least 1.

    Returns
    -------
    Lanes
        A `Rule`.

    Raises
    ------
    ValueError
        If `width` is below 1.

    References
    ----------
    LiteRT, ``optimized_integer_ops::DepthwiseConv``: 8 channels at a time.

    Examples
    --------
    >>> lanes(double_up, double_away, width=2)([-2, -2, -2], 0.25)
    array([ 0,  0, -1])
    """
    require_int("width", width, 1)
    return Lanes(vector, scalar, width)


def product_in_float64(
    x_scale: npt.ArrayLike, w_scale: npt.ArrayLike, y_scale: npt.ArrayLike
) -> Array:
    """Multiplier ``float64(s_x) * float64(s_w) / float64(s_y)``.

    Parameters
    ----------
    x_scale, w_scale, y_scale : ndarray of float32, > 0
        Broadcast against each other.

    Returns
    -------
    ndarray of float64

    References
    ----------
    TensorFlow Lite, ``PopulateConvolutionQuantizationParams``.

    Examples
    --------
    >>> float(product_in_float64(0.5, 0.25, 0.75))
    0.16666666666666666
    """
    x, w, y = (np.asarray(s, np.float32).astype(np.float64) for s in (x_scale, w_scale, y_scale))
    return x * w / y


def product_in_float32(
    x_scale: npt.ArrayLike, w_scale: npt.ArrayLike, y_scale: npt.ArrayLike
) -> Array:
    """Multiplier ``float64(float32(s_x * s_w)) / float64(s_y)``: a product rounded on the way.

    Parameters
    ----------
    x_scale, w_scale, y_scale : ndarray of float32, > 0
        Broadcast against each other.

    Returns
    -------
    ndarray of float64

    References
    ----------
    TensorFlow Lite, ``GetQuantizedConvolutionMultipler``.

    Examples
    --------
    >>> scales = np.float32([0.1, 0.3, 0.7])
    >>> float(product_in_float32(*scales) / product_in_float64(*scales)) == 1
    False
    """
    x, w, y = (np.asarray(s, np.float32) for s in (x_scale, w_scale, y_scale))
    return (x * w).astype(np.float64) / y.astype(np.float64)


def ratio_in_float32(
    x_scale: npt.ArrayLike, w_scale: npt.ArrayLike, y_scale: npt.ArrayLike
) -> Array:
    """Multiplier ``float64(float32(float32(s_x * s_w) / s_y))``: rounded twice on the way.

    Parameters
    ----------
    x_scale, w_scale, y_scale : ndarray of float32, > 0
        Broadcast against each other.

    Returns
    -------
    ndarray of float64
        Each of them a float32.

    References
    ----------
    TensorFlow Lite, ``mul.cc``; XNNPACK.

    Examples
    --------
    >>> float(ratio_in_float32(0.5, 0.25, 0.6))
    0.2083333283662796
    """
    x, w, y = (np.asarray(s, np.float32) for s in (x_scale, w_scale, y_scale))
    return (x * w / y).astype(np.float64)


#: The five rules of deployed kernels, by their short names.
RULES: dict[str, Rule] = {
    "DA": double_away, "DU": double_up, "S": single_up, "F32": in_float32, "F64": in_float64,
}


def _multiplier(real: npt.ArrayLike) -> Array:
    real = np.asarray(real, np.float64)
    good = np.isfinite(real) & (real >= 0)
    if not good.all():
        raise ValueError(f"`real` must be finite and not negative; got {real[~good].flat[0]}")
    return real


def _whole(rounded: Array) -> Array:
    """Whole float numbers as int64, held within int32."""
    return np.clip(rounded.astype(np.float64), *_INT32).astype(np.int64)


def _tosa(sums: npt.ArrayLike, real: npt.ArrayLike) -> tuple[Array, Array, Array]:
    multiplier: QuantizedMultiplier = quantize_multiplier(real)
    down = 31 - multiplier.shift
    good = (down >= 2) & (down <= 62) & (multiplier.mantissa > 0)
    if not good.all():
        raise ValueError(f"`real` must have a shift from 2 to 62; got {np.min(real)}")
    return multiplier.mantissa, down, require_codes("sums", sums, *_INT32).astype(np.int64)


def _right_shift(real: npt.ArrayLike) -> Array:
    fraction, exponent = np.frexp(_multiplier(real))
    right = 1 - exponent.astype(np.int64)
    if not ((fraction == 0.5) & (right >= 0) & (right <= 31)).all():
        raise ValueError(f"`real` must be a power of two from 2**-31 to 1; got {np.min(real)}")
    return right
