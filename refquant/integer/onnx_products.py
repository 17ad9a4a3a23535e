r"""ONNX's products of codes: matrix products and convolutions, with integers inside.

.. math:: S = \sum_k (a_k - z_a)(b_k - z_b), \qquad
          y = \mathrm{saturate}(\lfloor M S \rceil + z_y), \quad M = s_a s_b / s_y

`matmul_integer` and `conv_integer` end with S. `qlinear_matmul` and
`qlinear_conv` go on to y: M is rounded to float32 twice, S once, and so is their
product; then a tie goes to even, and only then the zero point is added.

Sums are formed in int64, where nothing is lost, and then checked to be int32.
The standard lets a sum of 32 bits overflow, and runtimes wrap; these functions
raise. Before that, nothing may overflow; yet onnxruntime 1.31.1, on x86 without
VNNI instructions, adds products of uint8 and int8 in pairs, in int16, and
saturates: measured, and nearly every sum of 256 random products is wrong.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import require_broadcastable, require_codes
from refquant.integer._onnx_windows import window_sums
from refquant.integer.dialects import ONNXRUNTIME
from refquant.quantizers.uniform import Uniform

__all__ = [
    "AutoPad",
    "ConvGeometry",
    "conv_integer",
    "matmul_integer",
    "qlinear_conv",
    "qlinear_matmul",
    "same_lower",
    "same_upper",
]

#: How much of the padding of an axis comes before the data.
AutoPad: TypeAlias = Callable[[int], int]


def same_upper(total: int) -> int:
    """Half of the padding, the odd element left for the end.

    Parameters
    ----------
    total : int
        Elements of padding, of both ends of an axis.

    Returns
    -------
    int
        Those at the beginning.

    References
    ----------
    ONNX operator Conv, attribute ``auto_pad``, ``SAME_UPPER``.

    Examples
    --------
    >>> same_upper(3)
    1
    """
    return total // 2


def same_lower(total: int) -> int:
    """Half of the padding, the odd element included.

    Parameters
    ----------
    total : int
        Elements of padding, of both ends of an axis.

    Returns
    -------
    int
        Those at the beginning.

    References
    ----------
    ONNX operator Conv, attribute ``auto_pad``, ``SAME_LOWER``.

    Examples
    --------
    >>> same_lower(3)
    2
    """
    return total - total // 2


class ConvGeometry(NamedTuple):
    """Which inputs an output of a convolution sees: the attributes of ONNX.

    Attributes
    ----------
    group : int
        Parts into which the channels are divided, each convolved by itself.
    strides : tuple of int
        Between neighbouring outputs, for each spatial axis; empty: 1.
    dilations : tuple of int
        Between neighbouring inputs of one output; empty: 1.
    pads : tuple of int
        Real zeros before the data, for each spatial axis, then those behind it;
        empty: none.
    auto_pad : callable, int -> int, or None
        `same_upper` or `same_lower`: as many zeros, instead of `pads`, as give
        one output per stride.

    References
    ----------
    ONNX operator ConvInteger, opset 10.

    Examples
    --------
    >>> ConvGeometry(strides=(2, 2)).strides
    (2, 2)
    """

    group: int = 1
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    auto_pad: AutoPad | None = None


_PLAIN = ConvGeometry()


def matmul_integer(
    a: Array, b: Array, a_zero_point: npt.ArrayLike = 0, b_zero_point: npt.ArrayLike = 0
) -> Codes:
    r"""Sums of the products of codes, zero points subtracted: the operator MatMulInteger.

    Parameters
    ----------
    a : ndarray of int, shape (..., n, k)
        Codes of 8 bits, signed or not.
    b : ndarray of int, shape (..., k, m)
        Likewise.
    a_zero_point : ndarray of int, broadcastable to `a`
        One for all, or (n, 1) for one per row.
    b_zero_point : ndarray of int, broadcastable to `b`
        One for all, or (1, m) for one per column.

    Returns
    -------
    ndarray of int32, shape (..., n, m)

    Raises
    ------
    ValueError
        If a code or zero point has more than 8 bits, or a sum is not an int32.
    TypeError
        If something is not of integers.

    References
    ----------
    ONNX operator MatMulInteger, opset 10.

    Examples
    --------
    >>> matmul_integer(np.array([[11, 7, 3]]), np.array([[1], [5], [2]]), 12, 0)
    array([[-44]], dtype=int32)
    """
    return _int32("a @ b", np.matmul(_steps("a", a, a_zero_point), _steps("b", b, b_zero_point)))


def conv_integer(
    x: Array,
    w: Array,
    x_zero_point: npt.ArrayLike = 0,
    w_zero_point: npt.ArrayLike = 0,
    *,
    geometry: ConvGeometry = _PLAIN,
) -> Codes:
    """Sums of the products of codes under a sliding window: the operator ConvInteger.

    Parameters
    ----------
    x : ndarray of int, shape (n, in, spatial...)
        Codes of 8 bits, signed or not; padded with the zero point.
    w : ndarray of int, shape (out, in / group, kernel...)
        Likewise.
    x_zero_point : int
    w_zero_point : ndarray of int, broadcastable to `w`
        One for all, or (out, 1, ..., 1) for one per output channel.
    geometry : ConvGeometry

    Returns
    -------
    ndarray of int32, shape (n, out, spatial...)

    Raises
    ------
    ValueError
        If the shapes do not fit, a code or zero point has more than 8 bits, or a
        sum is not an int32.
    TypeError
        If something is not of integers.

    References
    ----------
    ONNX operator ConvInteger, opset 10.

    Examples
    --------
    >>> x = np.arange(2, 11).reshape(1, 1, 3, 3)
    >>> conv_integer(x, np.ones((1, 1, 2, 2), int), 1)
    array([[[[12, 16],
             [24, 28]]]], dtype=int32)
    """
    steps = _steps("x", x, x_zero_point), _steps("w", w, w_zero_point)
    return _int32("conv(x, w)", window_sums(*steps, geometry))


def qlinear_matmul(a: Array, a_quantizer: Uniform, b: Array, b_quantizer: Uniform,
                   y_quantizer: Uniform) -> Codes:  # fmt: skip
    """Codes of a matrix product of codes: the operator QLinearMatMul.

    Parameters
    ----------
    a : ndarray of int, shape (..., n, k)
        Codes of `a_quantizer`.
    a_quantizer : Uniform
        Scale and zero point of shape (), or (n, 1) for one per row.
    b : ndarray of int, shape (..., k, m)
        Codes of `b_quantizer`.
    b_quantizer : Uniform
        Scale and zero point of shape (), or (1, m) for one per column.
    y_quantizer : Uniform
        Of the product.

    Returns
    -------
    ndarray of int32, shape (..., n, m)
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If a code is not one of its quantizer, a scale runs along k, or a sum is
        not an int32.
    TypeError
        If codes are not integers.

    Notes
    -----
    Scales are used as float32, also where a model has them in float16.

    References
    ----------
    ONNX operator QLinearMatMul, opset 21.

    Examples
    --------
    >>> half = Uniform(np.array(0.5, np.float32), np.array(1), 0, 255)
    >>> qlinear_matmul(np.array([[2, 4]]), half, np.array([[3], [2]]), half, half)     # 2.5 steps
    array([[3]], dtype=int32)
    """
    _require_kept("a_quantizer", a_quantizer, -1)
    _require_kept("b_quantizer", b_quantizer, -2)
    left, right = _steps_of("a", a, a_quantizer), _steps_of("b", b, b_quantizer)
    sums = _int32("a @ b", np.matmul(left, right))
    return _requantize(sums, a_quantizer.scale, b_quantizer.scale, y_quantizer)


def qlinear_conv(
    x: Array,
    x_quantizer: Uniform,
    w: Array,
    w_quantizer: Uniform,
    y_quantizer: Uniform,
    bias: npt.ArrayLike = 0,
    *,
    geometry: ConvGeometry = _PLAIN,
) -> Codes:
    """Codes of a convolution of codes: the operator QLinearConv.

    Parameters
    ----------
    x : ndarray of int, shape (n, in, spatial...)
        Codes of `x_quantizer`; padded with its zero point.
    x_quantizer : Uniform
        Scale and zero point of shape ().
    w : ndarray of int, shape (out, in / group, kernel...)
        Codes of `w_quantizer`.
    w_quantizer : Uniform
        Scale and zero point of shape (), or (out, 1, ..., 1) for one per channel.
    y_quantizer : Uniform
        Of the output; scale and zero point of shape ().
    bias : ndarray of int, shape (out,)
        In units of the two scales' product: one is one step of the sums.
    geometry : ConvGeometry

    Returns
    -------
    ndarray of int32, shape (n, out, spatial...)
        Codes of `y_quantizer`.

    Raises
    ------
    ValueError
        If the shapes do not fit, a code is not one of its quantizer, or a sum is
        not an int32.
    TypeError
        If codes or bias are not integers.

    References
    ----------
    ONNX operator QLinearConv, opset 10.

    Examples
    --------
    >>> unit = Uniform(np.array(1.0, np.float32), np.array(0), 0, 255)
    >>> y = Uniform(np.array(4.0, np.float32), np.array(10), 0, 255)
    >>> qlinear_conv(np.array([[[2, 4, 6]]]), unit, np.array([[[1, 1]]]), unit, y, [4])
    array([[[12, 14]]], dtype=int32)
    """
    for axis in range(1, np.ndim(w)):
        _require_kept("w_quantizer", w_quantizer, axis - np.ndim(w))
    sums = window_sums(_steps_of("x", x, x_quantizer), _steps_of("w", w, w_quantizer), geometry)
    per_channel = (-1, *(1,) * (sums.ndim - 2))
    sums = _int32("conv(x, w) + bias", sums + _codes32("bias", bias).reshape(per_channel))
    w_scale = w_quantizer.scale.reshape(per_channel)
    return _requantize(sums, x_quantizer.scale, w_scale, y_quantizer)


def _requantize(sums: Codes, a_scale: Array, b_scale: Array, y: Uniform) -> Codes:
    """Codes of sums whose unit is the product of two scales."""
    f32 = np.float32
    multiplier = a_scale.astype(f32) * b_scale.astype(f32) / y.scale.astype(f32)
    unit_steps = Uniform(np.ones(y.scale.shape, f32), y.zero_point, y.qmin, y.qmax)
    return ONNXRUNTIME.encode(sums.astype(f32) * multiplier, unit_steps)


def _steps(name: str, codes: npt.ArrayLike, zero_point: npt.ArrayLike) -> Array:
    """Codes of 8 bits less their zero point, in int64."""
    codes = require_codes(name, codes, -128, 255).astype(np.int64)
    zero = require_codes(f"{name}_zero_point", zero_point, -128, 255).astype(np.int64)
    require_broadcastable(f"{name}_zero_point", zero, codes.shape)
    return codes - zero


def _steps_of(name: str, codes: npt.ArrayLike, quantizer: Uniform) -> Array:
    codes = require_codes(name, codes, quantizer.qmin, quantizer.qmax).astype(np.int64)
    require_broadcastable("scale", quantizer.scale, codes.shape)
    return codes - quantizer.zero_point


def _require_kept(name: str, quantizer: Uniform, axis: int) -> None:
    """Raise if a scale changes from term to term of one sum: it could not be factored out."""
    shape = quantizer.scale.shape
    if len(shape) >= -axis and shape[axis] != 1:
        raise ValueError(f"`{name}` must have one scale along axis {axis}; got shape {shape}")


def _codes32(name: str, sums: npt.ArrayLike) -> Array:
    return require_codes(name, sums, -(2**31), 2**31 - 1).astype(np.int64)


def _int32(name: str, sums: Array) -> Codes:
    return _codes32(name, sums).astype(np.int32)
