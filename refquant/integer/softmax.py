r"""Softmax of codes: exponentials by integers, their sum, and one reciprocal.

.. math:: y_i = \frac{e^{\beta s (q_i - q_{max})}}{\sum_j e^{\beta s (q_j - q_{max})}}

The largest code is subtracted first, so that the zero point never enters and every
exponential lies in (0, 1]. Each row is normalized by the reciprocal of its sum, found
once. Three ways are deployed:

* `fixed_softmax`, codes of 8 bits: 31-bit fixed point throughout;
* `float_table_softmax`, the same on x86: 256 exponentials in float32;
* `table_softmax`, codes of 16 bits: interpolation in tables of 513 entries, one for
  :math:`e^x` and one for :math:`1 / (1 + x)`, built by `interpolation_table`.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import require_codes, require_positive
from refquant.integer.arithmetic import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)
from refquant.integer.fixed_point import exp_of_negative, reciprocal_of_one_plus
from refquant.quantizers.uniform import Uniform
from refquant.rounding import half_away

__all__ = [
    "fixed_softmax",
    "float_table_softmax",
    "interpolation_table",
    "table_softmax",
]

_INT16 = (-(2**15), 2**15 - 1)


def fixed_softmax(
    x: Array, x_quantizer: Uniform, y_quantizer: Uniform, *, beta: float = 1.0
) -> Codes:
    r"""Softmax of the last axis of 8-bit codes, by 32-bit integers.

    Differences from the largest code become numbers with 5 integer bits, exponentials
    numbers with none. Their sum has 13: it is a power of two times a number in [1, 2), of
    which `reciprocal_of_one_plus` takes the reciprocal.

    Parameters
    ----------
    x : ndarray of int, shape (..., n)
        Codes of `x_quantizer`, 8 bits.
    x_quantizer : Uniform
        One scale, which is used as float32; the zero point does not matter.
    y_quantizer : Uniform
        Scale 1/256 and zero point -128 with 8 bits, or 2**-16 and -32768 with 16.
    beta : float
        Factor of the exponents, used as float32; `beta` times the scale is above 2**-26.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`. Exponents below -31 give the code of 0.

    Raises
    ------
    ValueError
        If a code is none or a quantizer not as described; or if a sum of exponentials is
        512 or more with 8-bit results, 8192 with 16, where the runtimes abort.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``reference_ops::Softmax`` of int8.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(0), -128, 127)
    >>> y = Uniform(np.array(1 / 256), np.array(-128), -128, 127)
    >>> fixed_softmax(np.array([30, 10, -20]), x, y)        # exactly 64.42, -72.87, -119.55
    array([  64,  -73, -120], dtype=int32)
    """
    output_bits = _output_bits(y_quantizer)
    step = _step(x_quantizer, beta)
    if step * 2.0**26 <= 1:
        raise ValueError(f"`beta` times the scale must be above 2**-26; got {step}")
    exp = _exponentials(step)[-_below_largest(x, x_quantizer)]
    total = rounding_divide_by_pot(exp, 12).sum(axis=-1, keepdims=True)     # 19 fraction bits
    limit = 512 if output_bits == 8 else 8192
    if total.max(initial=0) >= limit << 19:
        got = total.max() / 2**19
        raise ValueError(f"`x` must have a sum of exponentials below {limit}; got {got:g}")
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)           # from 20 to 32
    reciprocal = reciprocal_of_one_plus((total << (32 - bits)) - 2**31)
    high = saturating_rounding_doubling_high_mul(reciprocal, exp)
    y = rounding_divide_by_pot(high, bits - 20 + 31 - output_bits)
    return np.clip(y + y_quantizer.qmin, y_quantizer.qmin, y_quantizer.qmax).astype(np.int32)


def float_table_softmax(
    x: Array, x_quantizer: Uniform, y_quantizer: Uniform, *, beta: float = 1.0
) -> Codes:
    r"""Softmax of the last axis of 8-bit codes, by a table of exponentials in float32.

    Parameters
    ----------
    x : ndarray of int, shape (..., n)
        Codes of `x_quantizer`, 8 bits.
    x_quantizer : Uniform
        One scale, which is used as float32; the zero point does not matter.
    y_quantizer : Uniform
        Scale 1/256 and zero point -128 with 8 bits, or 2**-16 and -32768 with 16.
    beta : float
        Factor of the exponents, used as float32.

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

    Notes
    -----
    The exponentials are those of float64, rounded to float32: the nearest to the C
    library of a runtime, which errs by little more than half a unit of the last place.
    The sum is formed in float32 from left to right.

    References
    ----------
    TensorFlow Lite, ``optimized_ops::Softmax`` of int8 and
    ``PopulateSoftmaxLookupTable``.

    Examples
    --------
    >>> x = Uniform(np.array(0.0625), np.array(0), -128, 127)
    >>> y = Uniform(np.array(1 / 256), np.array(-128), -128, 127)
    >>> float_table_softmax(np.array([30, 10, -20]), x, y)  # exactly 64.42, -72.87, -119.55
    array([  64,  -73, -120], dtype=int32)
    """
    f32 = np.float32
    _output_bits(y_quantizer)
    slope = -f32(x_quantizer.scale.item()) * f32(beta)
    down = -_below_largest(x, x_quantizer)
    exponents = (slope * np.arange(256, dtype=f32)).astype(np.float64)
    exp = np.exp(exponents).astype(f32)[down]
    total = np.cumsum(exp, axis=-1, dtype=f32)[..., -1:]    # in order, unlike a sum
    inverse = f32(1) / (total * f32(y_quantizer.scale.item()))
    y = half_away(exp * inverse).astype(np.int64) + y_quantizer.qmin
    return np.clip(y, y_quantizer.qmin, y_quantizer.qmax).astype(np.int32)


def table_softmax(
    x: Array,
    x_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    beta: float = 1.0,
    dtype: npt.DTypeLike = np.float64,
) -> Codes:
    r"""Softmax of the last axis of 16-bit codes, by two interpolated tables.

    Differences from the largest code are scaled so that 65535 steps reach from -10 to 0;
    below that the exponential is that of -10.

    Parameters
    ----------
    x : ndarray of int, shape (..., n)
        Codes of `x_quantizer`, 16 bits.
    x_quantizer : Uniform
        One scale, which is used as float32.
    y_quantizer : Uniform
        Scale 2**-15 and zero point 0.
    beta : float
        Factor of the exponents, used as float32.
    dtype : dtype
        In which the tables are built: float64 in LiteRT, float32 in TFLite Micro.

    Returns
    -------
    ndarray of int32, shape of `x`
        Codes of `y_quantizer`, none negative.

    Raises
    ------
    ValueError
        If a code is none, or a quantizer is not as described; or if the scaled differences
        or a sum are not int32.
    TypeError
        If `x` is not of integers.

    References
    ----------
    TensorFlow Lite, ``reference_ops::SoftmaxInt16``.

    Examples
    --------
    >>> x = Uniform(np.array(0.001), np.array(0), -32768, 32767)
    >>> y = Uniform(np.array(2.0**-15), np.array(0), -32768, 32767)
    >>> table_softmax(np.array([3000, 2000, 0]), x, y)      # exactly 23114.04, 8503.18, 1150.78
    array([23114,  8503,  1151], dtype=int32)
    """
    if y_quantizer.scale.item() != 2.0**-15 or y_quantizer.qmin != _INT16[0]:
        raise ValueError(
            f"`y_quantizer` must have 16 bits and scale 2**-15; got {y_quantizer.scale.item()}"
        )
    exps = interpolation_table(np.exp, -10.0, 0.0, dtype=dtype)
    reciprocals = interpolation_table(_reciprocal_of_one_plus, 0.0, 1.0, dtype=dtype)
    scaled = multiply_by_quantized_multiplier(
        _below_largest(x, x_quantizer), quantize_multiplier(_step(x_quantizer, beta) * 6553.5)
    )
    exp = _look_up(exps, np.clip(scaled + 32767, *_INT16))
    total = require_codes("sum", exp.sum(axis=-1, keepdims=True), 0, 2**31 - 1)
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    mantissa = ((total << (31 - bits)) + 2**13) >> 14                       # in [2**16, 2**17]
    reciprocal = _look_up(reciprocals, np.clip(mantissa - 2**16 - 2**15, *_INT16))
    y = (exp * reciprocal + (1 << (bits - 2))) >> (bits - 1)
    return np.clip(y, 0, _INT16[1]).astype(np.int32)


def interpolation_table(
    function: Callable[[Array], Array],
    low: float,
    high: float,
    *,
    dtype: npt.DTypeLike = np.float64,
) -> Array:
    r"""Values of a function at 513 places, moved so that chords between them err less.

    A chord misses the curve by e in the middle; both its ends are moved by -e/2, which
    leaves half of the error in the middle and puts the other half at the ends.

    Parameters
    ----------
    function : callable, ndarray -> ndarray
        With values in [-1, 1].
    low, high : float
        Where the first and the last entry lie.
    dtype : dtype
        In which the function is evaluated.

    Returns
    -------
    ndarray of int64, shape (513,)
        In units of 2**-15, in the range of int16.

    References
    ----------
    TensorFlow Lite, ``LUTPopulate`` for int16.

    Examples
    --------
    >>> interpolation_table(np.exp, -10.0, 0.0)[-3:]
    array([31512, 32133, 32767])
    """

    def at(places: Array) -> Array:
        return function(places.astype(np.float64)).astype(dtype) * 2**15

    step = np.asarray((high - low) / 512, dtype)
    places = np.asarray(low, dtype) + np.arange(513, dtype=dtype) * step
    ends = half_away(at(places))
    middle = half_away((at(places[1:]) + ends[:-1]) / 2)
    error = middle - half_away(at(places[:-1] + step / 2))
    entries = np.append(ends[:-1] - half_away(error / 2), ends[-1])
    return np.clip(entries, *_INT16).astype(np.int64)


def _reciprocal_of_one_plus(x: Array) -> Array:
    return 1 / (1 + x)


def _look_up(table: Array, x: Array) -> Array:
    """Between entries of a table over all 16-bit numbers, 128 to an entry."""
    index = 256 + (x >> 7)
    return table[index] + (((table[index + 1] - table[index]) * (x & 127) + 64) >> 7)


@lru_cache(maxsize=256)
def _exponentials(step: float) -> Array:
    """For 0, 1, ..., 255 steps below the largest code: exponential, or 0 if not counted."""
    multiplier, shift = quantize_multiplier(min(step * 2.0**26, 2.0**31 - 1))
    below = -np.arange(256)
    counted = below >= -int(31 * 2.0 ** (26 - int(shift)))
    scaled = saturating_rounding_doubling_high_mul(
        np.where(counted, below, 0) << int(shift), multiplier
    )
    table = np.where(counted, exp_of_negative(scaled, integer_bits=5), 0)
    table.flags.writeable = False
    return table


def _below_largest(x: Array, quantizer: Uniform) -> Array:
    """Steps from the largest code of a row, not positive."""
    codes = require_codes("x", x, quantizer.qmin, quantizer.qmax).astype(np.int64)
    return codes - codes.max(axis=-1, keepdims=True)


def _step(quantizer: Uniform, beta: float) -> float:
    """The exponent of one step, from what runtimes store in float32."""
    require_positive("beta", np.asarray(beta))
    return float(np.float32(beta)) * float(np.float32(quantizer.scale.item()))


def _output_bits(quantizer: Uniform) -> int:
    """8 or 16, for the two records in which a softmax is returned."""
    bits = quantizer.code_bits
    lowest = -(2 ** (bits - 1))
    got = float(quantizer.scale.item()), int(quantizer.zero_point.item()), quantizer.qmin
    if bits not in (8, 16) or got != (2.0**-bits, lowest, lowest):
        raise ValueError(
            "`y_quantizer` must have scale 2**-8 and zero point -128, or 2**-16 and -32768; "
            f"got {got[0]:g} and {got[1]}"
        )
    return bits
