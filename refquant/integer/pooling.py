r"""Average, maximum and mean of codes, in integers.

An average of codes is a division of integers, rounded to the nearest, a tie away from
zero *of the stored integer*: whether it goes up or down in real numbers depends on the
zero point. MEAN may also change the scale; it then divides the multiplier instead.
"""

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes
from refquant.integer.arithmetic import (
    QuantizedMultiplier,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
)
from refquant.integer.convolution import Window
from refquant.integer.layers import NONE, clamp, limits
from refquant.integer.requantize import Rule, double_away
from refquant.quantizers.uniform import Uniform

__all__ = ["average_pool", "max_pool", "mean", "mean_in_float32", "mean_over_space"]


def average_pool(
    x: Array,
    kernel: tuple[int, int],
    window: Window,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
) -> Codes:
    r"""Codes of the average over each window, of those places that lie in the image.

    .. math:: y = \lfloor \textstyle\sum x / n \rceil

    Parameters
    ----------
    x : ndarray of int, shape (batch, height, width, channels)
        At the scale and zero point of the output.
    kernel : tuple of int, (height, width)
    window : Window
    y_quantizer : Uniform
    activation : tuple of float
        Real interval to which the operation clips.

    Returns
    -------
    ndarray of int32, shape (batch, rows, columns, channels)

    References
    ----------
    TensorFlow Lite, ``reference_integer_ops::AveragePool``.

    Examples
    --------
    >>> q = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> x = np.array([-4, -2, -1, 0]).reshape(1, 2, 2, 1)
    >>> average_pool(x, (2, 2), Window(), q).ravel()           # -7 / 4
    array([-2], dtype=int32)
    """
    x = _image(x, y_quantizer)
    total = _reduce(x, kernel, window, np.add, 0)
    rows, columns = (
        _inside(x.shape[k + 1], kernel[k], window.strides[k], window.padding[k]) for k in (0, 1))
    count = (rows[:, None] * columns)[..., None]
    if not (count > 0).all():
        raise ValueError(f"`window` must meet the image everywhere; got padding {window.padding}")
    whole = np.sign(total) * ((np.abs(total) + count // 2) // count)
    return clamp(whole, *limits(activation, y_quantizer))


def max_pool(
    x: Array,
    kernel: tuple[int, int],
    window: Window,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
) -> Codes:
    """Largest code of each window.

    Parameters
    ----------
    x : ndarray of int, shape (batch, height, width, channels)
        At the scale and zero point of the output.
    kernel : tuple of int, (height, width)
    window : Window
    y_quantizer : Uniform
    activation : tuple of float
        Real interval to which the operation clips.

    Returns
    -------
    ndarray of int32, shape (batch, rows, columns, channels)

    References
    ----------
    TensorFlow Lite, ``reference_integer_ops::MaxPool``.

    Examples
    --------
    >>> q = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> x = np.array([-4, -2, -1, 0]).reshape(1, 2, 2, 1)
    >>> max_pool(x, (2, 1), Window(), q).ravel()
    array([-1,  0], dtype=int32)
    """
    x = _image(x, y_quantizer)
    largest = _reduce(x, kernel, window, np.maximum, y_quantizer.qmin)
    return clamp(largest, *limits(activation, y_quantizer))


def mean(
    x: Array,
    axis: tuple[int, ...],
    x_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    rule: Rule | None = None,
) -> Codes:
    r"""Codes of the mean over some axes, which are kept with size 1.

    The division by the count N is done on the multiplier, shifted left as far as 64 bits
    allow: :math:`m' = \lfloor m \, 2^h / N \rfloor`, :math:`n' = n - h`, with
    :math:`h = \min(\lfloor \log_2 N \rfloor,\ 32,\ 31 + n)`.

    Parameters
    ----------
    x : ndarray of int
    axis : tuple of int
    x_quantizer, y_quantizer : Uniform
        With one scale each.
    rule : callable, optional
        Another way to multiply, by the real number :math:`s_x / (N s_y)`.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite, ``reference_ops::QuantizedMeanOrSum``.

    Examples
    --------
    >>> x, y = (Uniform(np.array(s, np.float32), np.array(0), -128, 127) for s in (0.05, 0.04))
    >>> codes = np.full((1, 49), 25)
    >>> codes[0, 0] = 34                            # a sum of 1234: exactly 31.48
    >>> mean(codes, (1,), x, y)
    array([[32]], dtype=int32)
    """
    x = require_codes("x", x, x_quantizer.qmin, x_quantizer.qmax).astype(np.int64)
    count = int(np.prod([x.shape[a] for a in axis]))
    sums = x.sum(axis=axis, keepdims=True) - int(x_quantizer.zero_point.item()) * count
    real = float(np.float32(x_quantizer.scale.item())) / float(np.float32(y_quantizer.scale.item()))
    if rule is not None:
        whole = rule(sums, real / count)
    else:
        mantissa, shift = (int(part) for part in quantize_multiplier(real))
        more = min(count.bit_length() - 1, 32, 31 + shift)
        divided = QuantizedMultiplier(
            np.array((mantissa << more) // count), np.array(shift - more))
        whole = multiply_by_quantized_multiplier(sums, divided)
    return clamp(whole + int(y_quantizer.zero_point.item()), y_quantizer.qmin, y_quantizer.qmax)


def mean_over_space(
    x: Array, x_quantizer: Uniform, y_quantizer: Uniform, *, rule: Rule = double_away
) -> Codes:
    r"""Codes of the mean over height and width, the zero point folded into a bias.

    .. math:: y = \mathrm{rule}\Bigl(\sum x,\ \frac{s_x}{N s_y}\Bigr) + z_y -
              \Bigl\lfloor \frac{z_x s_x}{s_y} \Bigr\rceil

    all of the scales in float32. Two numbers are rounded where `mean` rounds one.

    Parameters
    ----------
    x : ndarray of int, shape (batch, height, width, channels)
    x_quantizer, y_quantizer : Uniform
        With one scale each.
    rule : callable
        How the sums are multiplied.

    Returns
    -------
    ndarray of int32, shape (batch, 1, 1, channels)

    References
    ----------
    TensorFlow Lite, ``optimized_integer_ops::Mean``.

    Examples
    --------
    >>> x, y = (Uniform(np.array(s, np.float32), np.array(0), -128, 127) for s in (0.05, 0.04))
    >>> mean_over_space(np.full((1, 7, 7, 1), 25), x, y).ravel()
    array([31], dtype=int32)
    """
    codes = require_codes("x", x, x_quantizer.qmin, x_quantizer.qmax).astype(np.int64)
    count = np.float32(codes.shape[1] * codes.shape[2])
    sx, sy = (np.float32(q.scale.item()) for q in (x_quantizer, y_quantizer))
    zero = np.float32(x_quantizer.zero_point.item()) * sx / sy
    bias = int(y_quantizer.zero_point.item()) - int(
        zero + np.float32(0.5) if zero > 0 else zero - np.float32(0.5))
    whole = rule(codes.sum(axis=(1, 2), keepdims=True), float(sx / (count * sy)))
    return clamp(whole + bias, y_quantizer.qmin, y_quantizer.qmax)


def mean_in_float32(
    x: Array, axis: tuple[int, ...], x_quantizer: Uniform, y_quantizer: Uniform
) -> Codes:
    r"""Codes of the mean over some axes as XNNPACK has them: both zero points in float32.

    .. math:: M = \frac{s_x}{s_y} \cdot \frac{1}{N}, \qquad
              y = \Bigl\lfloor M \sum x + \bigl(z_y - M\,(N z_x)\bigr) \Bigr\rceil

    Every product, quotient and sum is rounded to float32, the last result to even: near a
    half the zero points decide.

    Parameters
    ----------
    x : ndarray of int
    axis : tuple of int
    x_quantizer, y_quantizer : Uniform
        With one scale each.

    Returns
    -------
    ndarray of int32

    References
    ----------
    XNNPACK, ``xnn_create_reduce_nd``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(0), -128, 127)
    >>> mean_in_float32(np.array([[1, 2, 2, 5]]), (1,), q, q)       # 2.5, to even
    array([[2]], dtype=int32)
    >>> x, y = (Uniform(np.array(0.5), np.array(z), -128, 127) for z in (0, 1))
    >>> mean_in_float32(np.array([[1, 2, 2, 5]]), (1,), x, y)       # 3.5, to even
    array([[4]], dtype=int32)
    """
    codes = require_codes("x", x, x_quantizer.qmin, x_quantizer.qmax).astype(np.int64)
    count = int(np.prod([codes.shape[a] for a in axis]))
    sums = codes.sum(axis=axis, keepdims=True).astype(np.float32)
    sx, sy = (np.float32(q.scale.item()) for q in (x_quantizer, y_quantizer))
    zx, zy = (int(q.zero_point.item()) for q in (x_quantizer, y_quantizer))
    multiplier = sx / sy * (np.float32(1) / np.float32(count))
    shift = np.float32(zy) - np.float32(zx * count) * multiplier
    return clamp(np.rint(sums * multiplier + shift), y_quantizer.qmin, y_quantizer.qmax)


def _reduce(
    x: Array, kernel: tuple[int, int], window: Window, combine: np.ufunc, outside: int
) -> Array:
    """Windows reduced, one axis after the other."""
    for axis in (1, 2):
        padding, size, stride = window.padding[axis - 1], kernel[axis - 1], window.strides[axis - 1]
        if any(padding):
            widths = [(0, 0)] * 4
            widths[axis] = padding
            x = np.pad(x, widths, constant_values=outside)
        places = (x.shape[axis] - size) // stride + 1
        if size < 1 or places < 1:
            raise ValueError(f"`kernel` must fit into the image {x.shape}; got {kernel}")
        if places == 1:
            front = x[:, :size] if axis == 1 else x[:, :, :size]
            x = combine.reduce(front, axis=axis, keepdims=True)
            continue
        pick = [slice(None)] * 4
        pick[axis] = slice(0, (places - 1) * stride + 1, stride)
        found = x[tuple(pick)].copy()
        for k in range(1, size):
            pick[axis] = slice(k, k + (places - 1) * stride + 1, stride)
            combine(found, x[tuple(pick)], out=found)
        x = found
    return x


def _inside(n: int, size: int, stride: int, padding: tuple[int, int]) -> Array:
    """How many places of each window lie in the image, along one axis."""
    start = np.arange((n + sum(padding) - size) // stride + 1) * stride - padding[0]
    return np.minimum(start + size, n) - np.maximum(start, 0)


def _image(x: Array, quantizer: Uniform) -> Array:
    array = require_codes("x", x, quantizer.qmin, quantizer.qmax).astype(np.int64)
    if array.ndim != 4:
        raise ValueError(f"`x` must have four axes; got shape {array.shape}")
    return array
