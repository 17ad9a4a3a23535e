r"""N2UQ: learn where to cut the inputs, keep the outputs on a uniform grid.

Non-uniform levels fit the data, and need a table in every product. N2UQ moves the
non-uniformity to the thresholds, which only the encoder sees: the outputs stay
:math:`0, I, 2 I, \ldots`, so the product is one of integers.

A threshold has no derivative. The *generalized* straight-through estimator takes the
slope of an expectation instead: of a quantizer that rounds x up with the probability
of its place in its segment, which is piecewise linear, with slope :math:`I / a_i`.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_int, require_no_nan
from refquant.qat._common import Pullback

__all__ = ["fake_quantize_activation", "fake_quantize_weight", "fake_quantize_weight_released",
           "initial_widths", "thresholds"]

#: Widths below this count as this.
LEAST_WIDTH = 1e-3
#: Length of the interval of outputs.
RANGE = 2.0


def fake_quantize_activation(x: Array, widths: Array, start: Array) -> tuple[Array, Pullback]:
    r"""Cut `x` at learned thresholds to uniform levels in [0, 2]; value and pullback.

    With boundaries :math:`T_i = T_0 + \sum_{j \le i} a_j` of n segments and the step
    :math:`I = 2 / n`, the thresholds are the middles of the segments,

    .. math:: y = I \cdot \#\{i : x > T_{i-1} + a_i / 2\},

    and for x in segment i the pullback multiplies the gradient by

    .. math:: \frac{\partial y}{\partial x} = \frac{I}{a_i}, \quad
              \frac{\partial y}{\partial a_i} = -\frac{I (x - T_{i-1})}{a_i^2}, \quad
              \frac{\partial y}{\partial a_j} = \frac{\partial y}{\partial T_0} = -\frac{I}{a_i}
              \ (j < i),

    all 0 outside of the segments.

    Parameters
    ----------
    x : ndarray of float
    widths : ndarray of float, shape (n,)
        :math:`a_i`, in units of `x`; ``n = 2**bits - 1``. Below 1e-3 they count as 1e-3, and
        get no gradient.
    start : ndarray of float, of one element
        :math:`T_0`.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable, ``g -> (g_x, g_widths, g_start)``

    Raises
    ------
    ValueError
        If `x` has a NaN, `widths` is no row of n, or `start` has not one element.

    References
    ----------
    Liu et al., 2022, arXiv:2111.14826, eqs. (5) to (8).

    Examples
    --------
    >>> x = np.array([0.1, 0.5, 2.5])
    >>> value, pullback = fake_quantize_activation(x, np.full(3, 2 / 3), np.array(0.0))
    >>> value, pullback(np.ones(3))[0]
    (array([0.        , 0.66666667, 2.        ]), array([1., 1., 0.]))
    """
    x, a, start = _checked(x, widths, start)
    used = np.maximum(a, a.dtype.type(LEAST_WIDTH))
    step = x.dtype.type(RANGE / len(a))
    boundary = start.ravel() + np.concatenate([np.zeros(1, a.dtype), np.cumsum(used)])
    value = step * _count_below(x, boundary[:-1] + used / 2).astype(x.dtype)

    def pullback(g: Array) -> tuple[Array, ...]:
        segment = _count_below(x, boundary) - 1         # of T_(i-1) < x <= T_i: i - 1
        inside = (segment >= 0) & (segment < len(a))
        at = np.where(inside, segment, 0)
        slope = np.where(inside, g * step / used[at], 0)
        own = -slope * np.where(inside, x - boundary[at], 0) / used[at]
        per = np.bincount(at.ravel(), weights=slope.ravel(), minlength=len(a))
        later = np.concatenate([np.cumsum(per[::-1])[::-1][1:], np.zeros(1)])
        g_widths = np.bincount(at.ravel(), weights=own.ravel(), minlength=len(a)) - later
        g_widths = np.where(a >= LEAST_WIDTH, g_widths, 0)
        return (slope.astype(x.dtype, copy=False), g_widths.astype(a.dtype),
                np.full(start.shape, -per.sum(), start.dtype))

    return value, pullback


def fake_quantize_weight(w: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""Quantize weights on a scale that keeps the codes equally full; value and pullback.

    .. math:: \hat w = s \Bigl(\frac{2}{n} \Bigl\lfloor \frac n2\,
              \bigl(\mathrm{clip}(w / s, -1, 1) + 1\bigr) \Bigr\rceil - 1\Bigr), \qquad
              s = \frac{2^b - 1}{2^{b-1}}\,\overline{|w|}, \quad n = 2^b - 1

    with one mean for each output channel. The scale counts as a constant: the pullback
    is 1 inside of :math:`|w| \le s` and 0 outside.

    Parameters
    ----------
    w : ndarray of float, shape (out, ...)
    bits : int
        From 1 to 16.

    Returns
    -------
    value : ndarray, shape and dtype of `w`
        Channels of zeros stay zero.
    pullback : callable, ``g -> (g_w,)``

    Raises
    ------
    ValueError
        If `w` has a NaN or no axis, or `bits` is out of range.

    References
    ----------
    Liu et al., 2022, arXiv:2111.14826, eqs. (10) and (11).

    Examples
    --------
    >>> value, pullback = fake_quantize_weight(np.array([[-1.0, 0.2, 0.6]]), bits=2)
    >>> value, pullback(np.ones((1, 3)))[0]
    (array([[-0.9,  0.3,  0.3]]), array([[0., 1., 1.]]))
    """
    value, ratio, _ = _on_scale(w, bits)
    inside = np.abs(ratio) <= 1
    return value, lambda g: (np.where(inside, g, 0).astype(g.dtype, copy=False),)


def fake_quantize_weight_released(w: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""The same value with the pullback of the authors' released code: :math:`1 / s`, no mask.

    There the path of the gradient starts at w / s, not at w, so that it is divided by the
    scale, and clipped weights are not left out.

    Parameters
    ----------
    w : ndarray of float, shape (out, ...)
    bits : int
        From 1 to 16.

    Returns
    -------
    value : ndarray, shape and dtype of `w`
    pullback : callable, ``g -> (g_w,)``
        0 for channels of zeros.

    Raises
    ------
    ValueError
        If `w` has a NaN or no axis, or `bits` is out of range.

    References
    ----------
    github.com/liuzechun/Nonuniform-to-Uniform-Quantization.

    Examples
    --------
    >>> _, pullback = fake_quantize_weight_released(np.array([[-1.0, 0.2, 0.6]]), bits=2)
    >>> pullback(np.ones((1, 3)))[0].round(3)
    array([[1.111, 1.111, 1.111]])
    """
    value, _, scale = _on_scale(w, bits)
    gain = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    return value, lambda g: ((g * gain).astype(g.dtype, copy=False),)


def thresholds(widths: Array, start: Array) -> Array:
    """Where the inputs are cut: the middle of each segment.

    Parameters
    ----------
    widths : ndarray of float, shape (n,)
    start : ndarray of float, of one element

    Returns
    -------
    ndarray, shape (n,)
        Ascending.

    Raises
    ------
    ValueError
        If a shape is wrong.

    References
    ----------
    Liu et al., 2022, arXiv:2111.14826, eq. (6).

    Examples
    --------
    >>> thresholds(np.array([0.5, 0.7, 0.9]), np.array(0.0))
    array([0.25, 0.85, 1.65])
    """
    _, a, start = _checked(np.zeros(0), widths, start)
    used = np.maximum(a, a.dtype.type(LEAST_WIDTH))
    return start.ravel() + np.cumsum(used) - used / 2


def initial_widths(*, bits: int) -> Array:
    """Equal widths: the quantizer is uniform at the start.

    Parameters
    ----------
    bits : int
        From 1 to 8.

    Returns
    -------
    ndarray of float64, shape (2**bits - 1,)

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Liu et al., 2022, arXiv:2111.14826, and the released code.

    Examples
    --------
    >>> initial_widths(bits=2)
    array([0.66666667, 0.66666667, 0.66666667])
    """
    n = 2 ** require_int("bits", bits, 1, 8) - 1
    return np.full(n, RANGE / n)


def _count_below(x: Array, ascending: Array) -> Array:
    """How many of some numbers are below each x: those with ``x > t``."""
    return np.searchsorted(ascending, x, side="left")


def _on_scale(w: Array, bits: int) -> tuple[Array, Array, Array]:
    """Quantized weights, their ratios to the scale, and the scale."""
    n = 2 ** require_int("bits", bits, 1, 16) - 1
    w = as_reals("w", w)
    if w.ndim == 0 or w.size == 0:
        raise ValueError(f"`w` must have output channels of at least one weight; "
                         f"got shape {w.shape}")
    require_finite("w", w)
    mean = np.abs(w).mean(axis=tuple(range(1, w.ndim)), keepdims=True)
    scale = (mean * (n / 2 ** (bits - 1))).astype(w.dtype)
    ratio = np.divide(w, scale, out=np.zeros_like(w), where=np.broadcast_to(scale > 0, w.shape))
    grid = np.rint((np.clip(ratio, -1, 1) + 1) * (n / 2)) * (2 / n) - 1
    return (scale * grid).astype(w.dtype, copy=False), ratio, scale


def _checked(x: Array, widths: Array, start: Array) -> tuple[Array, Array, Array]:
    x, a, start = as_reals("x", x), as_reals("widths", widths), as_reals("start", start)
    if a.ndim != 1 or not a.size:
        raise ValueError(f"`widths` must be one row, a width for each step; got shape {a.shape}")
    if start.size != 1:
        raise ValueError(f"`start` must have one element; got shape {start.shape}")
    require_no_nan("x", x)
    require_finite("widths", a)
    require_finite("start", start)
    return x, a, start
