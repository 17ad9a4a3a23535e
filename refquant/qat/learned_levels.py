r"""Learn thresholds and levels both: a staircase whose steps have gradients of their own.

.. math:: y = \ell_0 + \sum_{i=1}^{n} (\ell_i - \ell_{i-1})\, H(x - \tau_i)

The gradient of a level needs no trick: it is the sum over the numbers in its bin. That of
a threshold is a jump, which a *pulse* of unit area stands in for: what the derivative of H
is, only wider. Its width decides how many numbers near a threshold can move it.

===============  ==========================  ====================================
pulse            shape                       known from
===============  ==========================  ====================================
`rectangular`    flat                        N2UQ, with the segment as its width
`triangular`     falls to 0 linearly         pulse training
`logistic`       derivative of a sigmoid     Quantization Networks, annealed
===============  ==========================  ====================================
"""

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_no_nan, require_number
from refquant.qat._common import Pullback

__all__ = ["Pulse", "logistic", "ordered", "rectangular", "staircase", "triangular"]

#: Distance from a threshold -> height; of unit area.
Pulse: TypeAlias = Callable[[Array], Array]


def staircase(
    x: Array, thresholds: Array, levels: Array, pulse: Pulse
) -> tuple[Array, Pullback]:
    r"""The level of each x, and a pullback to x, the thresholds and the levels.

    .. math:: g_{\ell_i} = \sum_{x \in \text{bin } i} g, \qquad
              g_{\tau_i} = -\sum_x g\,(\ell_i - \ell_{i-1})\,\kappa(x - \tau_i), \qquad
              g_x = g \sum_i (\ell_i - \ell_{i-1})\,\kappa(x - \tau_i)

    Parameters
    ----------
    x : ndarray of float
    thresholds : ndarray of float, shape (n,)
        :math:`\tau`, ascending; an x on a threshold is below it.
    levels : ndarray of float, shape (n + 1,)
        :math:`\ell`.
    pulse : callable, ndarray -> ndarray
        :math:`\kappa`, of unit area.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable, ``g -> (g_x, g_thresholds, g_levels)``

    Raises
    ------
    ValueError
        If a shape is wrong, the thresholds do not ascend, or `x` has a NaN.

    References
    ----------
    Yang et al., 2019, arXiv:1911.09464, eqs. (2) to (6).

    Examples
    --------
    >>> x = np.array([-1.0, 0.1, 2.0])
    >>> value, pullback = staircase(x, np.array([0.0]), np.array([-1.0, 1.0]),
    ...                             rectangular(0.5))
    >>> value, pullback(np.ones(3))
    (array([-1.,  1.,  1.]), (array([0., 4., 0.]), array([-4.]), array([1., 2.])))
    """
    x, t, levels = as_reals("x", x), as_reals("thresholds", thresholds), as_reals("levels", levels)
    if t.ndim != 1 or levels.shape != (len(t) + 1,):
        raise ValueError(f"`levels` must be one more than `thresholds` of shape (n,); "
                         f"got shapes {levels.shape} and {t.shape}")
    require_no_nan("x", x)
    if not (np.diff(t) >= 0).all():
        raise ValueError("`thresholds` must ascend; got some that do not")
    bins = np.searchsorted(t, x, side="left")
    jumps = np.diff(levels)

    def pullback(g: Array) -> tuple[Array, ...]:
        heights = np.stack([g * jump * pulse(x - place)
                            for jump, place in zip(jumps, t, strict=True)]) if len(t) else (
                                np.zeros((0, *x.shape)))
        each = np.bincount(bins.ravel(), weights=g.ravel(), minlength=len(levels))
        g_thresholds = -heights.sum(axis=tuple(range(1, heights.ndim)))
        return (heights.sum(0).astype(x.dtype), g_thresholds.astype(t.dtype),
                each.astype(levels.dtype))

    return levels[bins].astype(x.dtype, copy=False), pullback


def rectangular(width: float) -> Pulse:
    r"""Flat pulse: 1 / width up to half a width away.

    Parameters
    ----------
    width : float
        Positive, in units of x.

    Returns
    -------
    callable, ndarray -> ndarray

    Raises
    ------
    ValueError
        If `width` is not positive.

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283, eq. (7).

    Examples
    --------
    >>> rectangular(2.0)(np.array([-1.5, 0.0, 0.9]))
    array([0. , 0.5, 0.5])
    """
    return partial(_rectangle, width=_positive(width))


def triangular(width: float) -> Pulse:
    r"""Pulse that falls from 1 / width at the threshold to 0 at one width away.

    Parameters
    ----------
    width : float
        Positive, in units of x.

    Returns
    -------
    callable, ndarray -> ndarray

    Raises
    ------
    ValueError
        If `width` is not positive.

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283, eq. (8).

    Examples
    --------
    >>> triangular(2.0)(np.array([-1.0, 0.0, 3.0]))
    array([0.25, 0.5 , 0.  ])
    """
    return partial(_triangle, width=_positive(width))


def logistic(width: float) -> Pulse:
    r"""Derivative of a sigmoid: :math:`\sigma(t / w) (1 - \sigma(t / w)) / w`.

    Parameters
    ----------
    width : float
        Positive, the temperature; in units of x.

    Returns
    -------
    callable, ndarray -> ndarray

    Raises
    ------
    ValueError
        If `width` is not positive.

    References
    ----------
    Yang et al., 2019, arXiv:1911.09464, eq. (4).

    Examples
    --------
    >>> logistic(1.0)(np.array([0.0]))
    array([0.25])
    """
    return partial(_sigmoid_slope, width=_positive(width))


def ordered(first: Array, raw: Array) -> tuple[Array, Pullback]:
    r"""Thresholds that cannot cross: increments are softplus of unconstrained numbers.

    .. math:: \tau_1 = t, \qquad \tau_{i+1} = \tau_i + \ln(1 + e^{r_i})

    Parameters
    ----------
    first : ndarray of float, shape (1,)
        t.
    raw : ndarray of float, shape (n - 1,)
        r.

    Returns
    -------
    value : ndarray, shape (n,)
        Ascending thresholds.
    pullback : callable, ``g -> (g_first, g_raw)``

    Raises
    ------
    ValueError
        If a shape is wrong.

    References
    ----------
    Dugas et al., 2000, "Incorporating second-order functional knowledge" (softplus).

    Examples
    --------
    >>> value, pullback = ordered(np.array([-1.0]), np.array([0.0, 0.0]))
    >>> value.round(3), pullback(np.ones(3))[1]
    (array([-1.   , -0.307,  0.386]), array([1. , 0.5]))
    """
    first, raw = as_reals("first", first), as_reals("raw", raw)
    if first.shape != (1,) or raw.ndim != 1:
        raise ValueError(f"`first` must have shape (1,) and `raw` (n - 1,); "
                         f"got {first.shape} and {raw.shape}")
    value = first + np.concatenate([np.zeros(1, raw.dtype), np.cumsum(np.logaddexp(0, raw))])

    def pullback(g: Array) -> tuple[Array, ...]:
        after = np.cumsum(g[::-1])[::-1]
        slope = np.exp(raw - np.logaddexp(0, raw))      # the sigmoid, for any size of raw
        return after[:1].astype(first.dtype), (slope * after[1:]).astype(raw.dtype)

    return value, pullback


def _rectangle(t: Array, *, width: float) -> Array:
    return (np.abs(t) <= width / 2) / width


def _triangle(t: Array, *, width: float) -> Array:
    return np.maximum(0, 1 - np.abs(t) / width) / width


def _sigmoid_slope(t: Array, *, width: float) -> Array:
    e = np.exp(-np.abs(t) / width)                      # symmetric, and never overflows
    return e / np.square(1 + e) / width


def _positive(width: float) -> float:
    require_number("width", width)
    if not 0 < width < np.inf:
        raise ValueError(f"`width` must be positive and finite; got {width}")
    return float(width)
