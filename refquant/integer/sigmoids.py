r"""Logistic function and tanh of codes: squash an activation without leaving the integers.

The scale of the result is fixed by its range: 1/256 or 1/128 with 8 bits, 2**-15 with
16. What remains is how a runtime finds the function:

===============  =======================  =================================================
codes            functions                used by
===============  =======================  =================================================
8 bits           ``fixed_...``            TFLite Micro
8 bits           ``float_table_...``      LiteRT, optimized or not: 256 floats, rounded
8 bits           ``even_table_...``       XNNPACK: 256 more exact floats, ties to even
16 bits          ``interpolated_...``     TFLite Micro, LiteRT unless the next applies
16 bits          ``short_...``            LiteRT's optimized kernels, for scales 2**-12
===============  =======================  =================================================

The table between whose 256 entries the third kind interpolates needs no listing. With
:math:`\sigma_i = \sigma(i / 24)` its entries are

.. math:: T_i = \lfloor 2^{16} (\sigma_i + |\sigma''_i| / 9216) \rceil,
          \qquad \sigma'' = \sigma (1 - \sigma)(1 - 2 \sigma) :

a chord of a function that bends down lies below it, by at most :math:`|\sigma''| h^2 / 8`
for a step h = 1/24, and each entry is raised by half of that.
"""

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes
from refquant.integer.arithmetic import (
    QuantizedMultiplier,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from refquant.integer.fixed_point import fixed_logistic, fixed_tanh
from refquant.quantizers.uniform import Uniform
from refquant.rounding import half_away

__all__ = [
    "even_table_logistic",
    "even_table_tanh",
    "fixed_logistic_codes",
    "fixed_tanh_codes",
    "float_table_logistic",
    "float_table_tanh",
    "interpolated_logistic",
    "interpolated_tanh",
    "is_power_of_two",
    "short_logistic",
    "short_tanh",
    "sigmoid_table",
]


def fixed_logistic_codes(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Logistic function of 8-bit codes, by 32-bit integers.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 8 bits.
    x_quantizer : Uniform
        One scale, which is used as float32.
    y_quantizer : Uniform
        Scale 1/256 and zero point -128: nothing else can be represented.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``reference_integer_ops::Logistic`` of int8.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(4), -128, 127)
    >>> y = Uniform(np.array(1 / 256), np.array(-128), -128, 127)
    >>> fixed_logistic_codes(np.array([20]), x, y)                  # of 1; exactly 59.15
    array([59], dtype=int32)
    """
    _require_output(y_quantizer, 1 / 256, -128)
    argument, below, above = _argument(x, x_quantizer)
    y = rounding_divide_by_pot(fixed_logistic(argument, integer_bits=4), 23) - 128
    return _choose(y, below, above, -128, 127)


def fixed_tanh_codes(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Hyperbolic tangent of 8-bit codes, by 32-bit integers.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 8 bits.
    x_quantizer : Uniform
        One scale, which is used as float32.
    y_quantizer : Uniform
        Scale 1/128 and zero point 0: nothing else can be represented.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``reference_integer_ops::Tanh`` of int8.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(4), -128, 127)
    >>> y = Uniform(np.array(1 / 128), np.array(0), -128, 127)
    >>> fixed_tanh_codes(np.array([20]), x, y)                      # of 1; exactly 97.48
    array([97], dtype=int32)
    """
    _require_output(y_quantizer, 1 / 128, 0)
    argument, below, above = _argument(x, x_quantizer)
    y = rounding_divide_by_pot(fixed_tanh(argument, integer_bits=4), 24)
    return _choose(y, below, above, -128, 127)


def float_table_logistic(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Logistic function of 8-bit codes, rounded from float32.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 8 bits.
    x_quantizer, y_quantizer : Uniform
        One scale each, which is used as float32.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer has more than one scale.
    TypeError
        If `x` is not of integers.

    Notes
    -----
    The exponential is that of float64, rounded to float32: the nearest to the C library
    of a runtime, which errs by little more than half a unit of the last place.

    References
    ----------
    TensorFlow Lite, ``PopulateLookupTable`` of the activations.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(4), -128, 127)
    >>> y = Uniform(np.array(1 / 256), np.array(-128), -128, 127)
    >>> float_table_logistic(np.array([20]), x, y)
    array([59], dtype=int32)
    """

    def logistic(value: Array) -> Array:
        one = np.float32(1)
        with np.errstate(over="ignore"):                # to infinity, whose reciprocal is 0
            return one / (one + np.exp(-value.astype(np.float64)).astype(np.float32))

    return _rounded(logistic(_real(x, x_quantizer)), y_quantizer)


def float_table_tanh(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Hyperbolic tangent of 8-bit codes, rounded from float32.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 8 bits.
    x_quantizer, y_quantizer : Uniform
        One scale each, which is used as float32.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer has more than one scale.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``PopulateLookupTable`` of the activations.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(4), -128, 127)
    >>> y = Uniform(np.array(1 / 128), np.array(0), -128, 127)
    >>> float_table_tanh(np.array([20]), x, y)
    array([97], dtype=int32)
    """
    value = np.tanh(_real(x, x_quantizer).astype(np.float64)).astype(np.float32)
    return _rounded(value, y_quantizer)


def even_table_logistic(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    r"""Logistic function of 8-bit codes, found in float64, rounded to float32 and to even.

    .. math:: y = \mathrm{RE}\bigl(\mathrm{f32}(\mathrm{f32}(\sigma(x)) / s_y + z_y)\bigr)

    The zero point is added before the rounding: near it float32 has few bits left, and a
    value beside a tie may become one.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 8 bits.
    x_quantizer, y_quantizer : Uniform
        One scale each, which is used as float32.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer has more than one scale.
    TypeError
        If `x` is not of integers.

    Notes
    -----
    Measured on scales chosen so that codes lie beside ties: of 177,857 values within 0.00003
    of one none differs from XNNPACK in LiteRT 2.3.0; with the other order, or an exponential
    of float32, thousands do.

    References
    ----------
    XNNPACK, operator sigmoid of int8, as LiteRT 2.3.0 runs it.

    Examples
    --------
    >>> x = Uniform(np.array(0.0039062718860805035), np.array(16), -128, 127)
    >>> y = Uniform(np.array(1 / 256), np.array(-128), -128, 127)
    >>> tie = np.array([18])                                        # 128.50000026 - 128
    >>> even_table_logistic(tie, x, y), float_table_logistic(tie, x, y)
    (array([0], dtype=int32), array([1], dtype=int32))
    """
    with np.errstate(over="ignore"):                    # to infinity, whose reciprocal is 0
        value = 1 / (1 + np.exp(-_real(x, x_quantizer).astype(np.float64)))
    return _rounded_to_even(value, y_quantizer)


def even_table_tanh(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Hyperbolic tangent of 8-bit codes, rounded to float32 and then to even.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 8 bits.
    x_quantizer, y_quantizer : Uniform
        One scale each, which is used as float32.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer has more than one scale.
    TypeError
        If `x` is not of integers.

    Notes
    -----
    XNNPACK asks the C library for the tangent, whose last bit is its own: with glibc 2.36 one
    of 20 values within 0.00003 of a tie comes out on its other side, so one in a million codes.

    References
    ----------
    XNNPACK, operator tanh of int8, as LiteRT 2.3.0 runs it.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(4), -128, 127)
    >>> y = Uniform(np.array(1 / 128), np.array(0), -128, 127)
    >>> even_table_tanh(np.array([20]), x, y)
    array([97], dtype=int32)
    """
    return _rounded_to_even(np.tanh(_real(x, x_quantizer).astype(np.float64)), y_quantizer)


def sigmoid_table() -> Array:
    """The logistic function at i / 24, raised a little, in units of 2**-16.

    Returns
    -------
    ndarray of int64, shape (256,)
        Increasing; the last is 65535, as if it were infinitely far.

    References
    ----------
    TensorFlow Lite, ``sigmoid_table_uint16``; the formula is ours, and gives
    the deployed table exactly.

    Examples
    --------
    >>> sigmoid_table()[:5]
    array([32768, 33451, 34133, 34813, 35493])
    """
    sigma = 1 / (1 + np.exp(-np.arange(255) / 24))
    bend = sigma * (1 - sigma) * (2 * sigma - 1)
    return np.append(half_away(65536 * (sigma + bend / 9216)), 65535).astype(np.int64)


def interpolated_logistic(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Logistic function of 16-bit codes, by linear interpolation in `sigmoid_table`.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 16 bits.
    x_quantizer : Uniform
        One scale, which is used as float32; zero point 0.
    y_quantizer : Uniform
        Scale 2**-15 and zero point 0.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`, none negative.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``reference_integer_ops::Logistic`` of int16.

    Examples
    --------
    >>> x = Uniform(np.array(2.0**-12), np.array(0), -32768, 32767)
    >>> y = Uniform(np.array(2.0**-15), np.array(0), -32768, 32767)
    >>> interpolated_logistic(np.array([4096, -4096]), x, y)        # exactly 23955.33, 8812.67
    array([23956,  8812], dtype=int32)
    """
    _require_output(y_quantizer, 2.0**-15, 0)
    multiplier, right = _table_multiplier(x_quantizer, shifts=(0,))
    v = _table_argument(x, x_quantizer, multiplier, right)
    upper = _interpolate(abs(v), 9, 0x7FFF << 10)               # 25 fraction bits
    return np.where(v >= 0, upper + 512, 2**25 - upper + 511).astype(np.int32) >> 10


def interpolated_tanh(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    r"""Hyperbolic tangent of 16-bit codes: :math:`2 \sigma(2 a) - 1` from `sigmoid_table`.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 16 bits.
    x_quantizer : Uniform
        One scale, which is used as float32; zero point 0.
    y_quantizer : Uniform
        Scale 2**-15 and zero point 0.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``reference_integer_ops::Tanh`` of int16.

    Examples
    --------
    >>> x = Uniform(np.array(2.0**-12), np.array(0), -32768, 32767)
    >>> y = Uniform(np.array(2.0**-15), np.array(0), -32768, 32767)
    >>> interpolated_tanh(np.array([4096, -4096]), x, y)            # exactly 24955.92
    array([ 24956, -24956], dtype=int32)
    """
    _require_output(y_quantizer, 2.0**-15, 0)
    multiplier, right = _table_multiplier(x_quantizer, shifts=(0, 1))
    v = _table_argument(x, x_quantizer, multiplier, right)
    upper = _interpolate(abs(v), 8, 0xFFFF << 8) - 2**23        # 23 fraction bits
    return np.where(v >= 0, upper + 128, -upper + 127).astype(np.int32) >> 8


def short_logistic(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Logistic function of 16-bit codes of scale 2**-12, by 16-bit integers.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 16 bits.
    x_quantizer : Uniform
        Scale 2**-12, to a tenth of a percent; zero point 0.
    y_quantizer : Uniform
        Scale 2**-15 and zero point 0.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`, up to 7 from the exact ones.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``optimized_ops::Logistic`` of int16; gemmlowp, ``logistic``.

    Examples
    --------
    >>> x = Uniform(np.array(2.0**-12), np.array(0), -32768, 32767)
    >>> y = Uniform(np.array(2.0**-15), np.array(0), -32768, 32767)
    >>> short_logistic(np.array([4096]), x, y)                      # exactly 23955.33
    array([23952], dtype=int32)
    """
    _require_output(y_quantizer, 2.0**-15, 0)
    codes = require_codes("x", x, -(2**15), 2**15 - 1)
    _short_shift(x_quantizer, (0,))
    return fixed_logistic(codes, integer_bits=3, bits=16).astype(np.int32)


def short_tanh(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """Hyperbolic tangent of 16-bit codes of scale 2**-12 or 2**-11, by 16-bit integers.

    Parameters
    ----------
    x : ndarray of int, any shape
        Codes of `x_quantizer`, 16 bits.
    x_quantizer : Uniform
        Scale 2**-12 or 2**-11, to a tenth of a percent; zero point 0.
    y_quantizer : Uniform
        Scale 2**-15 and zero point 0.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`, up to 12 from the exact ones.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``optimized_ops::Tanh`` of int16; gemmlowp, ``tanh``.

    Examples
    --------
    >>> x = Uniform(np.array(2.0**-12), np.array(0), -32768, 32767)
    >>> y = Uniform(np.array(2.0**-15), np.array(0), -32768, 32767)
    >>> short_tanh(np.array([4096]), x, y)                          # exactly 24955.92
    array([24964], dtype=int32)
    """
    _require_output(y_quantizer, 2.0**-15, 0)
    codes = require_codes("x", x, -(2**15), 2**15 - 1).astype(np.int64)
    doubled = np.clip(codes << _short_shift(x_quantizer, (0, 1)), -(2**15), 2**15 - 1)
    return fixed_tanh(doubled, integer_bits=3, bits=16).astype(np.int32)


def is_power_of_two(scale: float, exponent: int) -> bool:
    """Whether a runtime takes a scale for this power of two: within 0.07 percent.

    Parameters
    ----------
    scale : float
        Greater than 0; used as float32.
    exponent : int

    Returns
    -------
    bool
        True if the logarithm of `scale` to base 2 is within 0.001 of `exponent`.

    References
    ----------
    TensorFlow Lite, ``CheckedLog2``.

    Examples
    --------
    >>> is_power_of_two(2.0**-12, -12), is_power_of_two(0.000244, -12), is_power_of_two(0.1, -3)
    (True, True, False)
    """
    f32 = np.float32
    log2 = np.log(f32(scale)) * (f32(1) / np.log(f32(2)))
    return bool(abs(log2 - f32(exponent)) < f32(1e-3))


def _argument(x: Array, quantizer: Uniform) -> tuple[Array, Array, Array]:
    """8-bit codes as fixed-point numbers in (-15, 15), 27 bits of fraction; what is outside."""
    steps = _steps(x, quantizer, 8)
    # At 2**31 the mantissa is not halved, unlike elsewhere; no float32 scale gets there.
    multiplier = quantize_multiplier(_scale(quantizer).astype(np.float64) * 2.0**27)
    shift = int(multiplier.shift)
    radius = int(15 * 2.0 ** (27 - shift))
    inside = np.clip(steps, min(1 - radius, 0), max(radius - 1, 0))
    if radius == 0:                                     # one step is more than 15
        multiplier = QuantizedMultiplier(multiplier.mantissa, np.array(0))
    argument = multiply_by_quantized_multiplier(inside, multiplier)
    return argument, steps <= -radius, steps >= radius


def _choose(y: Array, below: Array, above: Array, low: int, high: int) -> Codes:
    y = np.clip(y, low, high)
    return np.where(below, low, np.where(above, high, y)).astype(np.int32)


def _real(x: Array, quantizer: Uniform) -> Array:
    return _scale(quantizer) * _steps(x, quantizer, 8).astype(np.float32)


def _rounded(value: Array, quantizer: Uniform) -> Codes:
    inverse = np.float32(1) / _scale(quantizer)
    codes = half_away(value * inverse) + quantizer.zero_point
    return np.clip(codes, quantizer.qmin, quantizer.qmax).astype(np.int32)


def _rounded_to_even(value: Array, quantizer: Uniform) -> Codes:
    inverse = np.float32(1) / _scale(quantizer)
    codes = np.rint(value.astype(np.float32) * inverse + np.float32(quantizer.zero_point.item()))
    return np.clip(codes, quantizer.qmin, quantizer.qmax).astype(np.int32)


def _table_multiplier(quantizer: Uniform, shifts: tuple[int, ...]) -> tuple[int, int]:
    """Factor and right shift to units of 3/2**12 ... of 1/24, of which the table has 2**9."""
    scale = _scale(quantizer)
    for shift in shifts:
        if is_power_of_two(float(scale), shift - 12):
            return 3 << shift, 0
    multiplier, right = float(scale) * 4096 * 3, 0
    while multiplier <= 32767 / 2 and right <= 30:
        multiplier, right = multiplier * 2, right + 1
    return int(multiplier), right


def _table_argument(x: Array, quantizer: Uniform, multiplier: int, right: int) -> Array:
    return (_steps(x, quantizer, 16) * multiplier + (1 << right >> 1)) >> right


def _interpolate(magnitude: Array, bits: int, end: int) -> Array:
    """Between two entries of the table, `bits` bits of the magnitude being the fraction."""
    table = sigmoid_table()
    index = np.minimum(magnitude >> bits, 254)
    slope = table[index + 1] - table[index]
    between = (table[index] << bits) + (magnitude & (2**bits - 1)) * slope
    return np.where(magnitude >> bits >= 255, end, between)


def _short_shift(quantizer: Uniform, shifts: tuple[int, ...]) -> int:
    """The shift to a scale of 2**-12."""
    scale = _scale(quantizer)
    for shift in shifts:
        if is_power_of_two(float(scale), shift - 12):
            return shift
    allowed = " or ".join(f"2**{shift - 12}" for shift in shifts)
    raise ValueError(f"`x_quantizer` must have scale {allowed}; got {scale:g}")


def _steps(x: Array, quantizer: Uniform, bits: int) -> Array:
    if (quantizer.qmin, quantizer.qmax) != (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1):
        raise ValueError(
            f"`x_quantizer` must have the codes of {bits} bits; "
            f"got [{quantizer.qmin}, {quantizer.qmax}]"
        )
    codes = require_codes("x", x, quantizer.qmin, quantizer.qmax).astype(np.int64)
    return codes - int(quantizer.zero_point.item())


def _scale(quantizer: Uniform) -> Array:
    """The one scale of a quantizer, as runtimes store it."""
    return np.asarray(quantizer.scale.astype(np.float32).item(), np.float32)


def _require_output(quantizer: Uniform, scale: float, zero_point: int) -> None:
    got = float(_scale(quantizer)), int(quantizer.zero_point.item())
    if got != (scale, zero_point):
        raise ValueError(
            f"`y_quantizer` must have scale {scale:g} and zero point {zero_point}; "
            f"got {got[0]:g} and {got[1]}"
        )
