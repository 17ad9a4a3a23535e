r"""Convolution and matrix product on codes: exact sums in integers.

.. math:: \mathrm{acc}_{ijo} = b_o + \sum_{k, l, c} w_{oklc}\,
          (x_{i s + k d,\ j s + l d,\ c} - z_x)

Outside the image the codes are the zero point, which adds nothing. Images are
``(batch, height, width, channels)``, weights ``(out, height, width, channels)``;
those of a depthwise convolution, of which each filter sees one channel, are
``(channels * multiplier, height, width, 1)``.

The functions named after the operation (`convolve`, ...) are the definition, in int64.
Those named after the layer (`convolution`, ...) make a `Rescaled`, which computes the
same codes through float32 products wherever a bound proves them exact.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes
from refquant.integer import _fast
from refquant.integer.layers import NONE, Rescaled, limits
from refquant.integer.requantize import Product, Rule, double_away, product_in_float64
from refquant.quantizers.uniform import Uniform

__all__ = [
    "Window",
    "convolution",
    "convolve",
    "convolve_depthwise",
    "convolve_transposed",
    "depthwise_convolution",
    "fully_connected",
    "multiply_matrix",
    "same",
    "transposed_convolution",
    "valid",
]


class Window(NamedTuple):
    """How a kernel moves over an image.

    Attributes
    ----------
    strides, dilations : tuple of int, (vertical, horizontal)
    padding : tuple, ((above, below), (left, right))
        Rows and columns added around the image.

    References
    ----------
    Dumoulin and Visin, 2016, arXiv:1603.07285.

    Examples
    --------
    >>> Window().padding
    ((0, 0), (0, 0))
    """

    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))


def valid(
    image: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
) -> Window:
    """Window that stays inside the image.

    Parameters
    ----------
    image, kernel : tuple of int, (height, width)
    strides, dilations : tuple of int

    Returns
    -------
    Window

    References
    ----------
    TensorFlow, padding ``VALID``.

    Examples
    --------
    >>> valid((5, 5), (3, 3), (2, 2))
    Window(strides=(2, 2), dilations=(1, 1), padding=((0, 0), (0, 0)))
    """
    return Window(strides, dilations)


def same(
    image: tuple[int, int],
    kernel: tuple[int, int],
    strides: tuple[int, int] = (1, 1),
    dilations: tuple[int, int] = (1, 1),
) -> Window:
    r"""Window that starts at every place of the image, or at every `strides`-th.

    .. math:: p = \max\bigl((\lceil n / s \rceil - 1) s + (k - 1) d + 1 - n,\ 0\bigr)

    of which the larger half comes at the end.

    Parameters
    ----------
    image, kernel : tuple of int, (height, width)
        n and k.
    strides, dilations : tuple of int
        s and d.

    Returns
    -------
    Window

    References
    ----------
    TensorFlow, padding ``SAME``.

    Examples
    --------
    >>> same((4, 5), (3, 3), (2, 2)).padding
    ((0, 1), (1, 1))
    """
    total = [max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
             for n, k, s, d in zip(image, kernel, strides, dilations, strict=True)]
    vertical, horizontal = ((p // 2, p - p // 2) for p in total)
    return Window(strides, dilations, (vertical, horizontal))


def convolve(steps: npt.ArrayLike, weight: npt.ArrayLike, window: Window) -> Array:
    """Exact sums of a convolution, in int64.

    Parameters
    ----------
    steps : ndarray of int, shape (batch, height, width, in)
        Codes less their zero point.
    weight : ndarray of int, shape (out, height, width, in / groups)
        Output channels are split evenly over the groups.
    window : Window

    Returns
    -------
    ndarray of int64, shape (batch, rows, columns, out)

    Raises
    ------
    ValueError
        If the channels do not divide into groups, or the kernel does not fit.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.3.

    Examples
    --------
    >>> convolve(np.ones((1, 3, 3, 1), int), np.ones((1, 3, 3, 1), int), Window())
    array([[[[9]]]])
    """
    steps, weight = _image("steps", steps), _image("weight", weight)
    (out, kh, kw, depth), channels = weight.shape, steps.shape[3]
    groups = channels // depth if depth else 0
    if not groups or channels % depth or out % groups:
        raise ValueError(
            f"`weight` must divide {channels} channels into groups; got shape {weight.shape}")
    patches = _patches(steps, (kh, kw), window)                 # batch, row, column, kh, kw, in
    parts = [
        np.tensordot(patches[..., g * depth : (g + 1) * depth],
                     weight[g * out // groups : (g + 1) * out // groups], ((3, 4, 5), (1, 2, 3)))
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=-1)


def convolve_depthwise(steps: npt.ArrayLike, weight: npt.ArrayLike, window: Window) -> Array:
    """Exact sums of a depthwise convolution, in int64: each filter sees one channel.

    Parameters
    ----------
    steps : ndarray of int, shape (batch, height, width, in)
        Codes less their zero point.
    weight : ndarray of int, shape (in * multiplier, height, width, 1)
        Filter o sees channel ``o // multiplier``.
    window : Window

    Returns
    -------
    ndarray of int64, shape (batch, rows, columns, in * multiplier)

    Raises
    ------
    ValueError
        If the filters are no multiple of the channels, or the kernel does not fit.

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861.

    Examples
    --------
    >>> x = np.array([[[[1, 10]]]])
    >>> convolve_depthwise(x, np.array([2, 3, 4, 5]).reshape(4, 1, 1, 1), Window())
    array([[[[ 2,  3, 40, 50]]]])
    """
    steps, weight = _image("steps", steps), _image("weight", weight)
    (out, kh, kw, depth), channels = weight.shape, steps.shape[3]
    if depth != 1 or not channels or out % channels:
        raise ValueError(
            f"`weight` must have filters of one channel for each of {channels}; "
            f"got shape {weight.shape}")
    patches = _patches(steps, (kh, kw), window)
    filters = weight.reshape(channels, out // channels, kh, kw)
    sums = np.einsum("nijklc,cmkl->nijcm", patches, filters)
    return sums.reshape(*sums.shape[:3], out)


def convolve_transposed(
    steps: npt.ArrayLike, weight: npt.ArrayLike, window: Window, shape: tuple[int, int]
) -> Array:
    """Exact sums of a transposed convolution, in int64: every code is spread by the kernel.

    Parameters
    ----------
    steps : ndarray of int, shape (batch, height, width, in)
        Codes less their zero point.
    weight : ndarray of int, shape (out, height, width, in)
    window : Window
        Of the convolution from output to input.
    shape : tuple of int, (rows, columns)
        Of the output.

    Returns
    -------
    ndarray of int64, shape (batch, rows, columns, out)

    Raises
    ------
    ValueError
        If the channels differ.

    References
    ----------
    Dumoulin and Visin, 2016, arXiv:1603.07285, section 4.

    Examples
    --------
    >>> x = np.array([1, 2]).reshape(1, 1, 2, 1)
    >>> w = np.array([1, 10, 100]).reshape(1, 1, 3, 1)
    >>> convolve_transposed(x, w, Window((1, 2)), (1, 5)).ravel()
    array([  1,  10, 102,  20, 200])
    """
    steps, weight = _image("steps", steps), _image("weight", weight)
    if steps.shape[3] != weight.shape[3]:
        raise ValueError(
            f"`weight` must have {steps.shape[3]} channels; got shape {weight.shape}")
    (batch, height, width, _), (out, kh, kw, _) = steps.shape, weight.shape
    (above, below), (left, right) = window.padding
    (sv, sh), (dv, dh) = window.strides, window.dilations
    rows = max(shape[0] + above + below, (height - 1) * sv + (kh - 1) * dv + 1)
    columns = max(shape[1] + left + right, (width - 1) * sh + (kw - 1) * dh + 1)
    sums = np.zeros((batch, rows, columns, out), np.int64)
    for k in range(kh):
        for j in range(kw):
            here = sums[:, k * dv :, j * dh :][:, : (height - 1) * sv + 1 : sv,
                                               : (width - 1) * sh + 1 : sh]
            here += steps @ weight[:, k, j].T
    return sums[:, above : above + shape[0], left : left + shape[1]]


def multiply_matrix(steps: npt.ArrayLike, weight: npt.ArrayLike) -> Array:
    """Exact sums of a fully connected layer, in int64.

    Parameters
    ----------
    steps : ndarray of int, shape (n, in)
        Codes less their zero point.
    weight : ndarray of int, shape (out, in)

    Returns
    -------
    ndarray of int64, shape (n, out)

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (4).

    Examples
    --------
    >>> multiply_matrix([[11, -2]], [[2, -5]])
    array([[32]])
    """
    steps = require_codes("steps", steps, -(2**31), 2**31 - 1).astype(np.int64)
    return steps @ require_codes("weight", weight, -(2**31), 2**31 - 1).astype(np.int64).T


def convolution(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    x: Uniform,
    w: Uniform,
    y: Uniform,
    window: Window,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Rescaled:
    """Layer that convolves codes.

    Parameters
    ----------
    weight : ndarray of int, shape (out, height, width, in / groups)
    bias : ndarray of int, shape (out,), or None
        At the scale of the sums.
    x, y : Uniform
        Of input and output, with one scale each.
    w : Uniform
        Of the weights: one scale, or one per output channel, zero point 0.
    window : Window
    activation : tuple of float
        Real interval to which the layer clips.
    rule, product : callable
        How the sums are multiplied, and by what.

    Returns
    -------
    Rescaled
        From codes ``(batch, height, width, in)`` to ``(batch, rows, columns, out)``.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, sections 2.3 and 2.4.

    Examples
    --------
    >>> x, w, y = (Uniform(np.array(s), np.array(z), -128, 127)
    ...            for s, z in ((0.5, -1), (0.25, 0), (0.75, 4)))
    >>> layer = convolution([[[[2, -5]]]], [7], x, w, y, Window())
    >>> layer.accumulate(np.array([[[[10, -3]]]])), layer(np.array([[[[10, -3]]]]))
    (array([[[[39]]]]), array([[[[11]]]], dtype=int32))
    """
    weight, bias = _image("weight", weight), _bias(bias)
    zero = int(x.zero_point.item())

    def accumulate(codes: Array) -> Array:
        return convolve(np.asarray(codes, np.int64) - zero, weight, window) + bias

    layer = Rescaled(
        accumulate, _multiplier(x, w, y, product), rule, y, limits(activation, y))
    return _fast.convolution(layer, weight, bias, x, window)


def depthwise_convolution(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    x: Uniform,
    w: Uniform,
    y: Uniform,
    window: Window,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Rescaled:
    """Layer that convolves each channel of codes by itself.

    Parameters
    ----------
    weight : ndarray of int, shape (in * multiplier, height, width, 1)
    bias : ndarray of int, shape (in * multiplier,), or None
        At the scale of the sums.
    x, y : Uniform
        Of input and output, with one scale each.
    w : Uniform
        Of the weights: one scale, or one per output channel, zero point 0.
    window : Window
    activation : tuple of float
        Real interval to which the layer clips.
    rule, product : callable
        How the sums are multiplied, and by what.

    Returns
    -------
    Rescaled
        From codes ``(batch, height, width, in)`` to ``(batch, rows, columns, out)``.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, sections 2.3 and 2.4.

    Examples
    --------
    >>> q = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> layer = depthwise_convolution([[[[2]]], [[[3]]]], None, q, q, q, Window())
    >>> layer(np.array([[[[10, -3]]]]))
    array([[[[20, -9]]]], dtype=int32)
    """
    weight, bias = _image("weight", weight), _bias(bias)
    zero = int(x.zero_point.item())

    def accumulate(codes: Array) -> Array:
        return convolve_depthwise(np.asarray(codes, np.int64) - zero, weight, window) + bias

    layer = Rescaled(
        accumulate, _multiplier(x, w, y, product), rule, y, limits(activation, y))
    return _fast.depthwise(layer, weight, bias, x, window)


def transposed_convolution(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    x: Uniform,
    w: Uniform,
    y: Uniform,
    window: Window,
    shape: tuple[int, int],
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Rescaled:
    """Layer that spreads codes by a kernel: the transpose of a convolution.

    Parameters
    ----------
    weight : ndarray of int, shape (out, height, width, in)
    bias : ndarray of int, shape (out,), or None
        At the scale of the sums.
    x, y : Uniform
        Of input and output, with one scale each.
    w : Uniform
        Of the weights: one scale, or one per output channel, zero point 0.
    window : Window
        Of the convolution from output to input.
    shape : tuple of int, (rows, columns)
        Of the output.
    activation : tuple of float
        Real interval to which the layer clips.
    rule, product : callable
        How the sums are multiplied, and by what.

    Returns
    -------
    Rescaled
        From codes ``(batch, height, width, in)`` to ``(batch, rows, columns, out)``.

    References
    ----------
    Dumoulin and Visin, 2016, arXiv:1603.07285, section 4.

    Examples
    --------
    >>> q = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> w = np.array([1, 2, 3]).reshape(1, 1, 3, 1)
    >>> layer = transposed_convolution(w, None, q, q, q, Window((1, 2)), (1, 5))
    >>> layer(np.array([10, 20]).reshape(1, 1, 2, 1)).ravel()
    array([10, 20, 50, 40, 60], dtype=int32)
    """
    weight, bias = _image("weight", weight), _bias(bias)
    zero = int(x.zero_point.item())

    def accumulate(codes: Array) -> Array:
        steps = np.asarray(codes, np.int64) - zero
        return convolve_transposed(steps, weight, window, shape) + bias

    return Rescaled(
        accumulate, _multiplier(x, w, y, product), rule, y, limits(activation, y))


def fully_connected(
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None,
    x: Uniform,
    w: Uniform,
    y: Uniform,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Rescaled:
    """Layer that multiplies codes by a matrix.

    Parameters
    ----------
    weight : ndarray of int, shape (out, in)
    bias : ndarray of int, shape (out,), or None
        At the scale of the sums.
    x, y : Uniform
        Of input and output, with one scale each.
    w : Uniform
        Of the weights: one scale, perhaps with a zero point, or one per output, zero point 0.
    activation : tuple of float
        Real interval to which the layer clips.
    rule, product : callable
        How the sums are multiplied, and by what.

    Returns
    -------
    Rescaled
        From codes ``(n, in)`` to ``(n, out)``.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (4).

    Examples
    --------
    >>> x, w, y = (Uniform(np.array(s), np.array(z), -128, 127)
    ...            for s, z in ((0.5, -1), (0.25, 0), (0.75, 4)))
    >>> fully_connected([[2, -5]], [7], x, w, y)(np.array([[10, -3]]))
    array([[11]], dtype=int32)
    """
    weight = require_codes("weight", weight, -(2**31), 2**31 - 1).astype(np.int64)
    weight, bias = weight - w.zero_point.reshape(-1, 1), _bias(bias)
    zero = int(x.zero_point.item())

    def accumulate(codes: Array) -> Array:
        return multiply_matrix(np.asarray(codes, np.int64) - zero, weight) + bias

    layer = Rescaled(
        accumulate, _multiplier(x, w, y, product), rule, y, limits(activation, y))
    return _fast.fully_connected(layer, weight, bias, x)


def _multiplier(x: Uniform, w: Uniform, y: Uniform, product: Product) -> Array:
    real = product(x.scale.item(), w.scale.ravel(), y.scale.item())
    return real[0] if real.size == 1 else real


def _patches(steps: Array, kernel: tuple[int, int], window: Window) -> Array:
    """A view of the padded image: what each place of the kernel sees."""
    padded = np.pad(steps, ((0, 0), *window.padding, (0, 0)))
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, window.dilations, strict=True))
    if any(n < e for n, e in zip(padded.shape[1:3], extent, strict=True)):
        raise ValueError(
            f"`steps` must be as large as the kernel, {extent}; got shape {padded.shape}")
    view = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(1, 2))
    (sv, sh), (dv, dh) = window.strides, window.dilations
    return np.moveaxis(view[:, ::sv, ::sh, :, ::dv, ::dh], 3, -1)


def _image(name: str, codes: npt.ArrayLike) -> Array:
    array = require_codes(name, codes, -(2**31), 2**31 - 1).astype(np.int64)
    if array.ndim != 4:
        raise ValueError(f"`{name}` must have four axes; got shape {array.shape}")
    return array


def _bias(bias: npt.ArrayLike | None) -> Array:
    if bias is None:
        return np.zeros(1, np.int64)
    return require_codes("bias", bias, -(2**62), 2**62).astype(np.int64)
