r"""XNOR-Net: signs times one scale per filter, and signs times one scale per pixel.

Of all :math:`\alpha B` with signs B the nearest to a filter W is its signs times its mean
magnitude. The same for each window of the input gives the map K; then the convolution is one of
signs, which logic gates compute, and the scales come back at the end:

.. math:: I * W \approx (\mathrm{sign}(I) \circledast \mathrm{sign}(W)) \odot K \alpha.

==================  ====================================================================
`binary_weight`     the gradient is what the chain rule says: the scale, too, depends on w
`printed_weight`    the gradient as the paper prints it, one element at a time
`window_scales`     K
==================  ====================================================================

The signs of the input are `refquant.qat.straight_through.sign_hardtanh`, behind a batch norm
and before the convolution: a pooling between would find +1 in every window.
"""

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import as_reals, require_int
from refquant.qat._common import Pullback
from refquant.quantizer import fake_quantize
from refquant.quantizers.binary import sign, xnor

__all__ = ["binary_weight", "printed_weight", "window_scales"]


def binary_weight(weight: Array, *, axis: Axis = None) -> tuple[Array, Pullback]:
    r"""Signs times the mean magnitude, with the gradient of the chain rule.

    With :math:`\hat w_i = \alpha\,\mathrm{sign}(w_i)`, :math:`\alpha = \|w\|_1 / n`, and a
    clipped line in place of the sign,

    .. math:: g_{w_i} = \frac{\mathrm{sign}(w_i)}{n} \sum_j g_j\,\mathrm{sign}(w_j)
                        + \alpha\,[\,|w_i| \le 1\,]\,g_i .

    The first term is the exact derivative by way of the scale: every gradient of a filter
    reaches every weight of it.

    Parameters
    ----------
    weight : ndarray of float, not empty
    axis : int or tuple of int, optional
        Axes that share a scale, e.g. ``(1, 2, 3)`` for one per filter; all by default.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
    pullback : callable
        Gradient of `weight`.

    Raises
    ------
    ValueError
        If `weight` is empty or not finite.

    References
    ----------
    Rastegari et al., 2016, arXiv:1603.05279, eqs. (2)-(6); for the gradient, the product rule.

    Examples
    --------
    >>> y, pullback = binary_weight(np.array([1.0, -0.5, 0.0]))
    >>> y, pullback(np.array([1.0, 0.0, 0.0]))[0].round(4)
    (array([ 0.5, -0.5,  0.5]), array([ 0.8333, -0.3333,  0.3333]))
    """
    weight = as_reals("weight", weight)
    q = xnor(weight, axis=axis)
    signs, inside, n = sign(weight), np.abs(weight) <= 1, weight.size // q.scale.size

    def pullback(g: Array) -> tuple[Array, ...]:
        by_scale = signs * (np.sum(g * signs, axis=axis, keepdims=True) / n)
        return (by_scale + q.scale * inside * g,)

    return signs * q.scale, pullback


def printed_weight(weight: Array, *, axis: Axis = None) -> tuple[Array, Pullback]:
    r"""The same value, with the gradient that the paper prints.

    .. math:: g_{w_i} = g_i \left(\frac1n + [\,|w_i| \le 1\,]\,\alpha\right)

    It is the chain rule with all terms of the sum but the own one left out. The two differ much
    for a single weight and little in where they lead.

    Parameters
    ----------
    weight : ndarray of float, not empty
    axis : int or tuple of int, optional
        Axes that share a scale; all by default.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
    pullback : callable
        Gradient of `weight`.

    Raises
    ------
    ValueError
        If `weight` is empty or not finite.

    References
    ----------
    Rastegari et al., 2016, arXiv:1603.05279, section 3.1, "Training Binary-Weights-Networks".

    Examples
    --------
    >>> _, pullback = printed_weight(np.array([1.0, -0.5, 0.0]))
    >>> pullback(np.array([1.0, 0.0, 0.0]))[0].round(4)
    array([0.8333, 0.    , 0.    ])
    """
    weight = as_reals("weight", weight)
    q = xnor(weight, axis=axis)
    slope = weight.dtype.type(q.scale.size / weight.size) + (np.abs(weight) <= 1) * q.scale
    return fake_quantize(weight, q), lambda g: (g * slope,)


def window_scales(
    x: Array, *, size: int, stride: int = 1, padding: int = 0
) -> tuple[Array, Pullback]:
    r"""The map K: mean magnitude of each window that the convolution will see.

    .. math:: K = A * k, \qquad A = \frac1c \sum_i |I_{:,:,i}|, \qquad k_{ij} = \frac{1}{wh}

    One mean over the channels and one box filter serve all windows, which overlap.

    Parameters
    ----------
    x : ndarray of float, shape (n, height, width, channels)
        I, before the sign.
    size, stride, padding : int
        Of the convolution. The frame counts as zeros.

    Returns
    -------
    value : ndarray, shape (n, out_height, out_width, 1)
        To multiply the convolution of signs with.
    pullback : callable
        Gradient of `x`; K is a sum of magnitudes, so it is exact except at zeros, which get
        the slope +1 of their sign.

    Raises
    ------
    ValueError
        If `x` has not four axes or the window is larger than the framed image.

    References
    ----------
    Rastegari et al., 2016, arXiv:1603.05279, eqs. (7)-(11).

    Examples
    --------
    >>> x = np.array([[1.0, -3.0], [5.0, 7.0]]).reshape(1, 2, 2, 1)
    >>> k, pullback = window_scales(x, size=2)
    >>> k.ravel(), pullback(np.ones_like(k))[0].ravel()
    (array([4.]), array([ 0.25, -0.25,  0.25,  0.25]))
    """
    x = as_reals("x", x)
    if x.ndim != 4 or not x.shape[3]:
        raise ValueError(f"`x` must have shape (n, height, width, channels); got {x.shape}")
    require_int("padding", padding, 0)
    require_int("stride", stride, 1)
    require_int("size", size, 1, min(x.shape[1:3]) + 2 * padding)
    frame = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    mean = np.pad(np.abs(x).mean(axis=3, keepdims=True, dtype=x.dtype), frame)
    rows, columns = (n - size + 1 for n in mean.shape[1:3])
    views = [(slice(None), slice(i, i + rows, stride), slice(j, j + columns, stride))
             for i in range(size) for j in range(size)]
    value = sum((mean[view] for view in views[1:]), start=mean[views[0]]) / len(views)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_mean = np.zeros_like(mean)
        for view in views:
            g_mean[view] += g / len(views)
        inner = g_mean[:, padding : padding + x.shape[1], padding : padding + x.shape[2]]
        return (sign(x) * (inner / x.shape[3]),)

    return value, pullback
