r"""Bias correction: rounding a weight moves the mean of every output; move it back.

With the weight error :math:`\Delta = W_q - W` an output channel shifts by
:math:`E[y_q - y] = \Delta\, E[x]` on the average, a constant for each channel, and
constants are what a bias is for. It costs nothing at run time. Three ways to know it:

====================  ==============================  ===================================
function              knows                           needs
====================  ==============================  ===================================
`empirical`           the outputs of both networks    data
`analytic`            the mean of the input           statistics of the batch norm before
`restore_moments`     nothing but the weight          nothing; but see its notes
====================  ==============================  ===================================

`clipped_normal` gives the mean that `analytic` wants: what a normal variable has left of its
mean after a ReLU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from refquant._types import Array
from refquant._validate import (
    as_data,
    as_reals,
    as_unmasked,
    require_broadcastable,
    require_finite,
    require_int,
    require_nonempty,
    require_number,
    require_same_shape,
    short,
)
from refquant.granularity import all_but

__all__ = ["Restored", "analytic", "clipped_normal", "empirical", "restore_moments", "window_share"]

#: Below this a standard deviation is none: a channel that the batch norm has switched off.
SMALLEST_DEVIATION = 1e-12


class Restored(NamedTuple):
    """A quantized weight whose rows have the mean of the original ones again.

    Attributes
    ----------
    weight : ndarray of float, shape (out, ...)
        ``gain * quantized + offset``.
    gain, offset : ndarray of float, shape (out, 1, ...)

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723, section 4.
    """

    weight: Array
    gain: Array
    offset: Array


def empirical(bias: Array, exact: Array, quantized: Array) -> Array:
    r"""Bias that gives the quantized layer the mean outputs of the float layer.

    .. math:: b' = b - \frac1n \sum_n (y_q - y)

    Correct layer by layer from the input on, each with everything before it quantized and
    corrected already; otherwise shifts that no longer exist are corrected again.

    Parameters
    ----------
    bias : ndarray of float, shape (out,)
    exact, quantized : ndarray of float, shape (..., out)
        Outputs y and y_q of the layer, before its activation, on the same data.

    Returns
    -------
    ndarray of float, shape (out,)

    Raises
    ------
    ValueError
        If shapes differ, there is no data, or a number is not finite.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2 and appendix D.

    Examples
    --------
    >>> empirical(np.zeros(2), np.array([[1.0, 5.0], [3.0, 5.0]]), np.array([[1.5, 5], [3.5, 5]]))
    array([-0.5,  0. ])
    """
    bias, exact = as_reals("bias", bias), as_reals("exact", exact)
    quantized = as_reals("quantized", quantized)
    require_same_shape("quantized", quantized, exact.shape)
    require_same_shape("bias", bias, exact.shape[-1:])
    require_nonempty("exact", exact)
    for name, value in (("bias", bias), ("exact", exact), ("quantized", quantized)):
        require_finite(name, value)
    apart = quantized.astype(np.float64) - exact
    return (bias - apart.reshape(-1, bias.size).mean(0)).astype(bias.dtype)


def analytic(
    bias: Array,
    weight: Array,
    quantized: Array,
    input_mean: Array,
    *,
    share: npt.ArrayLike = 1.0,
) -> Array:
    r"""Bias that makes up for the weight error, from the mean of the input alone.

    .. math:: b'_o = b_o - \sum_{k,l} p_{kl} \sum_i \Delta_{oikl}\, E[x_i]

    Parameters
    ----------
    bias : ndarray of float, shape (out,)
    weight, quantized : ndarray of float, shape (out, in), (out, h, w, in) or (channels, h, w, 1)
        The last of them depthwise: each output sees its own channel alone.
    input_mean : ndarray of float, shape (in,) or (channels,)
        E[x] of each channel.
    share : ndarray of float, shape (h, w)
        p, the share of positions at which this element of the kernel lies on the image and
        not on the padding: see `window_share`. The paper takes 1.

    Returns
    -------
    ndarray of float, shape (out,)

    Raises
    ------
    ValueError
        If the shapes do not fit, or a number is not finite.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2.

    Examples
    --------
    >>> weight, rounded = np.array([[0.75, 0.25]]), np.array([[1.0, 0.0]])
    >>> analytic(np.zeros(1), weight, rounded, np.array([3.0, 1.0]))
    array([-0.5])
    """
    bias, weight = as_reals("bias", bias), as_reals("weight", weight)
    quantized, input_mean = as_reals("quantized", quantized), as_reals("input_mean", input_mean)
    require_same_shape("quantized", quantized, weight.shape)
    require_same_shape("bias", bias, weight.shape[:1])
    if weight.ndim not in (2, 4):
        raise ValueError(f"`weight` must have 2 or 4 axes; got shape {weight.shape}")
    share = as_unmasked("share", share)
    if share.dtype.kind not in "iuf":
        raise TypeError(f"`share` must be real numbers; got {share.dtype}")
    require_broadcastable("share", share, weight.shape[1:3] if weight.ndim == 4 else share.shape)
    for name, value in (("bias", bias), ("weight", weight), ("quantized", quantized),
                        ("input_mean", input_mean), ("share", share)):
        require_finite(name, value)
    delta = quantized.astype(np.float64) - weight
    if weight.ndim == 4:
        delta = (delta * share[..., None]).sum((1, 2))
    depthwise = delta.shape[1] == 1 and len(input_mean) == len(delta)
    require_same_shape("input_mean", input_mean, (len(delta) if depthwise else delta.shape[1],))
    shift = delta[:, 0] * input_mean if depthwise else delta @ input_mean
    return (bias - shift).astype(bias.dtype)


def clipped_normal(
    mean: Array, deviation: Array, *, low: float = -np.inf, high: float = np.inf
) -> tuple[Array, Array]:
    r"""Mean and variance of a normal variable after clipping: ReLU is ``low=0``.

    With :math:`A = (a - \mu) / \sigma`, :math:`B = (b - \mu) / \sigma`,

    .. math:: E = \sigma (\varphi(A) - \varphi(B)) + \mu\, (\Phi(B) - \Phi(A))
              + a\, \Phi(A) + b\, (1 - \Phi(B)) .

    Parameters
    ----------
    mean, deviation : ndarray of float, shape (channels,)
        After a batch norm: beta and :math:`|\gamma|`. Not gamma: a deviation has no sign.
    low, high : float
        a and b; either may be infinite. ReLU6 has 0 and 6.

    Returns
    -------
    mean : ndarray of float64, shape (channels,)
    variance : ndarray of float64, shape (channels,)

    Raises
    ------
    ValueError
        If a deviation is negative, a number is NaN, or `low` is above `high`.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, appendix C.

    Examples
    --------
    >>> relu, spread = clipped_normal(np.array([0.0]), np.array([1.0]), low=0.0)
    >>> relu.round(4), spread.round(4)
    (array([0.3989]), array([0.3408]))
    """
    mean, deviation = as_reals("mean", mean), as_reals("deviation", deviation)
    require_finite("mean", mean)
    require_finite("deviation", deviation)
    require_same_shape("deviation", deviation, mean.shape)
    if (deviation < 0).any():
        raise ValueError(f"`deviation` must not be negative; got {deviation.min()}")
    require_number("low", low)
    require_number("high", high)
    if not low <= high:
        raise ValueError(f"`low` must be at most `high`; got {low} and {high}")
    mu = mean.astype(np.float64)
    sigma = np.maximum(deviation.astype(np.float64), SMALLEST_DEVIATION)
    first, second = np.zeros_like(mu), np.zeros_like(mu)
    below, above = np.zeros_like(mu), np.ones_like(mu)          # Phi at both ends
    for end, sign in ((low, 1.0), (high, -1.0)):
        if not np.isfinite(end):                                # infinity times 0 is no 0
            continue
        z = (end - mu) / sigma
        density = sigma * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
        clipped = ndtr(sign * z)                                # mass beyond this end
        first += sign * density + end * clipped
        second += sign * density * (mu + end) + end * end * clipped
        below, above = (ndtr(z), above) if sign > 0 else (below, ndtr(z))
    inside = above - below
    first += mu * inside
    second += (mu * mu + sigma * sigma) * inside
    return first, np.maximum(second - first * first, 0.0)


def window_share(
    image: tuple[int, int], kernel: tuple[int, int], *, stride: int = 1, padding: int = 0
) -> Array:
    """For each element of a kernel, the share of its positions that are not padding.

    Parameters
    ----------
    image, kernel : tuple of int, (height, width)
    stride, padding : int
        Of the convolution.

    Returns
    -------
    ndarray of float64, shape of the kernel

    Raises
    ------
    ValueError
        If a size or `stride` is below 1, `padding` is negative, or the kernel has no place in
        the image.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, appendix D, takes 1 everywhere; this is the mean
    that a convolution with padding has.

    Examples
    --------
    >>> window_share((8, 8), (3, 3), padding=1)[0]
    array([0.765625, 0.875   , 0.765625])
    """
    require_int("stride", stride, 1)
    require_int("padding", padding, 0)
    shares = []
    for size, width in zip(_pair("image", image), _pair("kernel", kernel), strict=True):
        if width > size + 2 * padding:
            raise ValueError(f"`kernel` must fit into {size} and padding; got {width}")
        starts = np.arange(0, size + 2 * padding - width + 1, stride) - padding
        places = starts[:, None] + np.arange(width)
        shares.append(((places >= 0) & (places < size)).mean(0))
    return np.outer(*shares)


def _pair(name: str, sizes: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or len(sizes) != 2:
        raise TypeError(f"`{name}` must be a height and a width; got {short(repr(sizes))}")
    return require_int(name, sizes[0], 1), require_int(name, sizes[1], 1)


def restore_moments(weight: Array, quantized: Array, *, spread: bool = False) -> Restored:
    r"""Quantized weight with the mean, and perhaps the spread, of each row restored.

    .. math:: w' = \xi_c\,(w_q - E w_q) + E w, \qquad
              \xi_c = \frac{\lVert w - E w \rVert}{\lVert w_q - E w_q \rVert}
              \text{ or } 1

    Parameters
    ----------
    weight, quantized : ndarray of float, shape (out, ...)
    spread : bool
        Restore the norm around the mean as well.

    Returns
    -------
    Restored

    Raises
    ------
    ValueError
        If the shapes differ, a row has no element, or a number is not finite.

    Notes
    -----
    A row of equal codes has no spread to restore: its gain is 1.

    The form of the authors' code; the paper's, :math:`\xi (w_q + E w - E w_q)`, multiplies the
    mean by :math:`\xi`. A gain joins the scale, but an offset does not stay on the grid: it
    adds :math:`d \sum_i x_i` to each output, a sum over the input at run time.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723, section 4.

    Examples
    --------
    >>> restored = restore_moments(np.array([[0.4, 0.8, 1.2]]), np.array([[0.0, 1.0, 1.0]]))
    >>> restored.weight.mean().round(12), restored.offset.round(4)
    (np.float64(0.8), array([[0.1333]]))
    """
    weight, quantized = as_data("weight", weight), as_reals("quantized", quantized)
    require_same_shape("quantized", quantized, weight.shape)
    require_finite("quantized", quantized)
    axes = all_but(0, weight.ndim)
    wide, q = weight.astype(np.float64), quantized.astype(np.float64)
    mean, mean_q = (v.mean(axes, keepdims=True) for v in (wide, q))
    gain = np.ones_like(mean)
    if spread:
        norm = np.sqrt(np.square(wide - mean).sum(axes, keepdims=True))
        norm_q = np.sqrt(np.square(q - mean_q).sum(axes, keepdims=True))
        # Not where the norm is above zero: the mean of equal numbers may be another number.
        varies = (q.max(axes, keepdims=True) > q.min(axes, keepdims=True)) & (norm_q > 0)
        gain = np.divide(norm, norm_q, out=gain, where=varies)
    offset = mean - gain * mean_q
    return Restored((gain * q + offset).astype(weight.dtype), gain, offset)
