r"""ONNX's quantization operators on elements: QuantizeLinear, DequantizeLinear, Cast.

An ONNX tensor of a short type is held here as int32 codes, and a *format* that
says what they stand for. The codes of an `IntegerFormat` are the integers
themselves; those of a `Minifloat` are bit patterns.

=========================  ================================================
operator                   function
=========================  ================================================
``QuantizeLinear``         `quantize_linear`
``DequantizeLinear``       `dequantize_linear`
``DynamicQuantizeLinear``  `dynamic_quantize` of `refquant.integer.dialects`,
                           with ``ONNXRUNTIME``
``Cast``, ``CastLike``     `cast_to_codes`, `cast_to_values`, `cast_integers`
``QLinearMatMul``, ...     `refquant.integer.onnx_products`
=========================  ================================================

The text of the standard leaves some answers open. What is done there is said in
the docstring of each function, under Notes. bfloat16, which NumPy does not have,
is left out.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes, Rounding
from refquant._validate import (
    require_broadcastable,
    require_codes,
    require_finite,
    require_int,
    require_positive,
)
from refquant.integer.dialects import ONNXRUNTIME
from refquant.quantizers.minifloat import E8M0, Minifloat, ieee, saturating
from refquant.quantizers.uniform import Uniform, code_range
from refquant.rounding import ceil

__all__ = [
    "INT2",
    "INT4",
    "INT8",
    "INT16",
    "INT32",
    "UINT2",
    "UINT4",
    "UINT8",
    "UINT16",
    "Format",
    "IntegerFormat",
    "cast_integers",
    "cast_to_codes",
    "cast_to_values",
    "dequantize_linear",
    "quantize_linear",
]

_SHORT: tuple[type, ...] = (np.float32, np.float16)         # what the operators calculate in
_ANY: tuple[type, ...] = (*_SHORT, np.float64)


class IntegerFormat(NamedTuple):
    """All integers of so many bits, in two's complement if signed.

    Attributes
    ----------
    bits : int
        From 2 to 32; to 31 without a sign.
    signed : bool

    References
    ----------
    ONNX operator QuantizeLinear, "Saturation is done according to".

    Examples
    --------
    >>> INT4.qmin, INT4.qmax
    (-8, 7)
    """

    bits: int
    signed: bool

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return code_range(self.bits, signed=self.signed)[0]

    @property
    def qmax(self) -> int:
        """Largest code."""
        return code_range(self.bits, signed=self.signed)[1]


#: What codes stand for.
Format: TypeAlias = IntegerFormat | Minifloat

INT2, UINT2 = IntegerFormat(2, True), IntegerFormat(2, False)
INT4, UINT4 = IntegerFormat(4, True), IntegerFormat(4, False)
INT8, UINT8 = IntegerFormat(8, True), IntegerFormat(8, False)
INT16, UINT16 = IntegerFormat(16, True), IntegerFormat(16, False)
#: Of biases, which DequantizeLinear takes as well.
INT32 = IntegerFormat(32, True)


def quantize_linear(
    x: Array,
    scale: Array,
    zero_point: npt.ArrayLike | None = None,
    *,
    output: Format = UINT8,
    axis: int = 1,
    block_size: int = 0,
    precision: npt.DTypeLike | None = None,
    saturate: bool = True,
) -> Codes:
    r"""Code of each element, the operator QuantizeLinear.

    .. math:: y = \mathrm{saturate}(\lfloor x / s \rceil + z)
              \quad\text{or}\quad y = \mathrm{cast}(x / s)

    for an integer and a floating-point `output`. Ties go to even.

    Parameters
    ----------
    x : ndarray of float32 or float16, any shape
    scale : ndarray of float32 or float16, > 0
        s. One number for the tensor; a vector for one number per slice of `axis`;
        an array in the shape of `x`, but with one number per block of `axis`.
    zero_point : ndarray of int or None
        z, of `output`, in the shape of `scale`; 0 for a floating-point `output`.
    output : IntegerFormat or Minifloat
        Also what ONNX calls ``output_dtype``.
    axis : int
        Of `x`; negative counts from the last.
    block_size : int
        Elements per block, of which the last block may have fewer; 0 if `scale`
        has no blocks.
    precision : dtype or None
        In which `x` is divided by `scale`; None: that of `scale`.
    saturate : bool
        Whether a float8 too large becomes the largest number, or infinity or NaN.

    Returns
    -------
    ndarray of int32, shape of `x`

    Raises
    ------
    TypeError
        If `x`, `scale` or `precision` is not float32 or float16.
    ValueError
        If a scale is not positive, or the shapes do not fit.

    Notes
    -----
    NaN, of whose integer code the standard says nothing, becomes the smallest
    code, as in onnxruntime; for floating-point outputs see `cast_to_codes`. A zero
    point of 0 makes -0 a +0 in 4 and 6 bits, as in the tests of the standard; with
    8 bits runtimes do not add it.

    References
    ----------
    ONNX operator QuantizeLinear, opset 28.

    Examples
    --------
    >>> x = np.array([[0.5, 1.5, 2.5], [3.0, -4.0, 900.0]], np.float32)
    >>> quantize_linear(x, np.array([1, 2], np.float32), [3, 3], axis=0)
    array([[  3,   5,   5],
           [  5,   1, 255]], dtype=int32)
    """
    x, scale = _float("x", x), _float("scale", scale)
    require_positive("scale", scale)
    work = _dtype("precision", scale.dtype if precision is None else precision)
    divisor = _spread("scale", scale, x.shape, axis, block_size)
    with np.errstate(all="ignore"):         # an infinite quotient saturates
        ratio = x.astype(work) / divisor.astype(work)
    given = _zero_point(0 if zero_point is None else zero_point, output)
    zero = _spread("zero_point", given, x.shape, axis, block_size)
    if isinstance(output, Minifloat):
        if zero_point is not None and output.nan is None:
            ratio = ratio + zero.astype(work)               # -0 + 0 is +0
        return cast_to_codes(ratio, output, saturate=saturate)
    return ONNXRUNTIME.encode(ratio.astype(np.float32), _unit_steps(zero, output))


def dequantize_linear(
    codes: Array,
    scale: Array,
    zero_point: npt.ArrayLike = 0,
    *,
    source: Format = UINT8,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: npt.DTypeLike | None = None,
) -> Array:
    r"""Value of each code, the operator DequantizeLinear: :math:`s\,(q - z)`.

    Parameters
    ----------
    codes : ndarray of int, any shape
    scale : ndarray of float32 or float16, > 0
        For the tensor, per slice of `axis`, or per block: see `quantize_linear`.
    zero_point : ndarray of int
        In the shape of `scale`; 0 for a floating-point `source`.
    source : IntegerFormat or Minifloat
        Format of `codes`.
    axis, block_size : int
        As in `quantize_linear`.
    output_dtype : dtype or None
        float32 or float16; None: that of `scale`.

    Returns
    -------
    ndarray of `output_dtype`, shape of `codes`

    Raises
    ------
    TypeError
        If `codes` is not of integers, or `scale` not float32 or float16.
    ValueError
        If a code is not one of `source`, or the shapes do not fit.

    Notes
    -----
    The difference is exact (rounded to float32 if above ``2**24``), the product
    one of float32, rounded once more if the output is float16.

    References
    ----------
    ONNX operator DequantizeLinear, opset 28.

    Examples
    --------
    >>> blocks = np.array([[0.5, 2.0]], np.float32)
    >>> dequantize_linear(np.array([[8, 9, 10, 11]]), blocks, [[8, 8]], block_size=2)
    array([[0. , 0.5, 4. , 6. ]], dtype=float32)
    """
    codes, scale = np.asarray(codes), _float("scale", scale)
    require_positive("scale", scale)
    factor = _spread("scale", scale, codes.shape, axis, block_size)
    zero = _spread(
        "zero_point", _zero_point(zero_point, source), codes.shape, axis, block_size
    )
    if isinstance(source, Minifloat):
        steps = source.decode(codes)
    else:
        whole = require_codes("codes", codes, source.qmin, source.qmax).astype(np.int64)
        steps = (whole - zero).astype(np.float32)
    to = _dtype("output_dtype", scale.dtype if output_dtype is None else output_dtype)
    with np.errstate(all="ignore"):         # products beyond the range are infinite
        return (steps * factor.astype(np.float32)).astype(to)


def cast_to_codes(
    x: Array, output: Format, *, saturate: bool = True, rounding: Rounding = ceil
) -> Codes:
    r"""Code of each value, the operators Cast and CastLike to a short type.

    Parameters
    ----------
    x : ndarray of float32, float16 or float64, any shape
    output : IntegerFormat or Minifloat
        To an integer, the fraction is dropped; to a float, ties go to even.
    saturate : bool
        Whether a float8 out of range becomes the number at that end of the range,
        or infinity or NaN. Formats with neither always saturate.
    rounding : callable, ndarray -> ndarray
        To powers of two alone (`E8M0`): `ceil`, `floor` or `half_up`, ONNX's up,
        down and nearest.

    Returns
    -------
    ndarray of int32, shape of `x`

    Raises
    ------
    TypeError
        If `x` is not of floats.
    ValueError
        If `x` is not finite and `output` an integer: the result is undefined.

    Notes
    -----
    Undefined as well is a finite number that the integers do not contain. Here
    it wraps, as the tests of the standard expect: its lowest bits are kept. NaN
    in a format without one becomes -0, as in those tests and in the text on 6-bit
    floats; the text on 4-bit floats says 6.

    References
    ----------
    ONNX operator Cast, opset 28; ONNX technical details, "Float stored in 4 bits"
    and "Float stored in 6 bits".

    Examples
    --------
    >>> from refquant.quantizers.minifloat import E4M3FN
    >>> x = np.array([-1.9, 9.0, 500.0], np.float32)
    >>> cast_to_codes(x, INT4), cast_to_codes(x, E8M0)
    (array([-1, -7,  4], dtype=int32), array([  0, 131, 136], dtype=int32))
    >>> cast_to_codes(x, E4M3FN, saturate=False)    # 127 is NaN
    array([191,  81, 127], dtype=int32)
    """
    x = _float("x", x, _ANY)
    real = x.astype(np.float64)                             # exact
    if isinstance(output, IntegerFormat):
        require_finite("x", x)
        return _lowest_bits(np.trunc(real), output)
    if output.nan is None:
        return output.encode(np.where(np.isnan(x), -0.0, real))
    overflow = saturating if saturate else ieee
    if output != E8M0:
        return output.encode(real, overflow=overflow, keep_nan=True)
    if not saturate:                                        # there is no zero either
        real = np.where(real < 2.0**-127, np.nan, real)
    return output.encode(real, overflow=overflow, keep_nan=True, rounding=rounding)


def cast_to_values(codes: Array, source: Format, dtype: npt.DTypeLike = np.float32) -> Array:
    """Value of each code, the operators Cast and CastLike from a short type.

    Parameters
    ----------
    codes : ndarray of int, any shape
    source : IntegerFormat or Minifloat
        Format of `codes`.
    dtype : dtype
        float32, float16 or float64.

    Returns
    -------
    ndarray of `dtype`, shape of `codes`
        Rounded if `dtype` is too short for a value; infinite beyond its range.

    Raises
    ------
    TypeError
        If `codes` is not of integers.
    ValueError
        If a code is not one of `source`.

    References
    ----------
    ONNX operator Cast, opset 28.

    Examples
    --------
    >>> cast_to_values(np.array([127, 160]), E8M0, np.float16)
    array([ 1., inf], dtype=float16)
    """
    to = _dtype("dtype", dtype, _ANY)
    if isinstance(source, IntegerFormat):
        values = require_codes("codes", codes, source.qmin, source.qmax)
    else:
        values = source.decode(codes)
    with np.errstate(over="ignore"):
        return values.astype(to)


def cast_integers(codes: Array, output: IntegerFormat) -> Codes:
    """Integer of each integer, its higher bits dropped: Cast between integer types.

    Parameters
    ----------
    codes : ndarray of int, any shape
        Up to 32 bits.
    output : IntegerFormat

    Returns
    -------
    ndarray of int32, shape of `codes`

    Raises
    ------
    TypeError
        If `codes` is not of integers.
    ValueError
        If a code is not an int32.

    References
    ----------
    ONNX operator Cast, opset 28: "discard higher bits and reinterpret".

    Examples
    --------
    >>> cast_integers(np.array([200, -1]), INT8), cast_integers(np.array([200, -1]), UINT4)
    (array([-56,  -1], dtype=int32), array([ 8, 15], dtype=int32))
    """
    return _lowest_bits(require_codes("codes", codes, INT32.qmin, INT32.qmax), output)


def _lowest_bits(whole: Array, output: IntegerFormat) -> Codes:
    """Whole numbers, of any kind, modulo ``2**bits``: exact in float64 too."""
    low = np.mod(whole.astype(np.float64), 2.0**output.bits)
    return np.where(low > output.qmax, low - 2.0**output.bits, low).astype(np.int32)


def _unit_steps(zero_point: Array, output: IntegerFormat) -> Uniform:
    """What is left of a quantizer once the division is done."""
    return Uniform(np.ones(zero_point.shape, np.float32), zero_point, output.qmin, output.qmax)


def _zero_point(zero_point: npt.ArrayLike, number_format: Format) -> Array:
    if isinstance(number_format, IntegerFormat):
        return require_codes("zero_point", zero_point, number_format.qmin, number_format.qmax)
    return require_codes("zero_point", zero_point, 0, 0)    # ONNX: "usually not used"


def _spread(
    name: str, parameter: Array, shape: tuple[int, ...], axis: int, block_size: int
) -> Array:
    """A parameter of ONNX's three granularities, broadcastable to the data."""
    if parameter.size == 1:
        return parameter.reshape(())
    rank = len(shape)
    require_int("axis", axis, -rank, rank - 1)
    axis %= rank
    if block_size:
        require_int("block_size", block_size, 1)
        blocks = (*shape[:axis], -(-shape[axis] // block_size), *shape[axis + 1 :])
        if parameter.shape != blocks:
            raise ValueError(
                f"`{name}` must have one element per block, {blocks}; got {parameter.shape}"
            )
        every = np.arange(shape[axis]) // block_size        # the last block may be short
        return parameter.take(every, axis=axis)
    if parameter.ndim == 1:
        parameter = parameter.reshape(-1, *(1,) * (rank - 1 - axis))
    require_broadcastable(name, parameter, shape)
    return parameter


def _float(name: str, x: npt.ArrayLike, allowed: tuple[type, ...] = _SHORT) -> Array:
    array = np.asarray(x)
    _dtype(name, array.dtype, allowed)
    return array


def _dtype(
    name: str, dtype: npt.DTypeLike, allowed: tuple[type, ...] = _SHORT
) -> np.dtype[Any]:
    dtype = np.dtype(dtype)
    if dtype not in allowed:
        names = " or ".join(np.dtype(t).name for t in allowed)
        raise TypeError(f"`{name}` must be {names}; got {dtype}")
    return dtype
