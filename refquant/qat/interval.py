r"""QIL: learn which interval of the numbers deserves codes; below it is zero, above it is the end.

A transformer maps the interval :math:`[c - d, c + d]` of magnitudes to [0, 1], and a
plain uniform discretizer follows. What the two learned numbers do:

=====================  ===================================================
``c - d`` grows        small weights become zero: pruning
``c + d`` shrinks      large weights share the last level: clipping
``gamma`` leaves 1     levels crowd at one end of the interval: non-uniform
=====================  ===================================================

The survey of Gholami et al. calls this paper QIT.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_int, require_nonempty
from refquant.qat._common import Pullback, as_parameter, as_positive, sum_to_shape

__all__ = ["Interval", "fake_quantize_activation", "fake_quantize_weight", "initial_interval"]


class Interval(NamedTuple):
    """Where the codes go: magnitudes from ``center - half_width`` to ``center + half_width``.

    Attributes
    ----------
    center, half_width : ndarray of float

    References
    ----------
    Jung et al., 2019, arXiv:1808.05779, section 3.2.
    """

    center: Array
    half_width: Array


def fake_quantize_weight(
    w: Array, center: Array, half_width: Array, gamma: Array, *, bits: int
) -> tuple[Array, Pullback]:
    r"""Quantize `w` in a learned interval; return the value and its pullback.

    With :math:`u = \tfrac12 + \tfrac12 (|w| - c) / d` and :math:`n = 2^{b-1} - 1`,

    .. math:: \hat w = \frac{\mathrm{sgn}(w)}{n} \bigl\lfloor n\,t \bigr\rceil, \qquad
              t = \begin{cases} 0 & |w| \le c - d \\ u^\gamma & |w| \le c + d \\ 1 & \text{else}
              \end{cases}

    and the rounding is the identity on the way back, so that inside the interval, with
    :math:`f = \gamma u^{\gamma - 1}`,

    .. math:: \frac{\partial \hat w}{\partial w} = \frac{f}{2 d}, \quad
              \frac{\partial \hat w}{\partial c} = -\frac{\mathrm{sgn}(w) f}{2 d}, \quad
              \frac{\partial \hat w}{\partial d} =
              -\frac{\mathrm{sgn}(w) f\,(|w| - c)}{2 d^2}, \quad
              \frac{\partial \hat w}{\partial \gamma} = \mathrm{sgn}(w)\,u^\gamma \ln u .

    Parameters
    ----------
    w : ndarray of float
    center, half_width : ndarray of float, broadcastable to `w`
        c and d > 0, in units of `w`.
    gamma : ndarray of float, broadcastable to `w`
        Exponent :math:`\gamma > 0`.
    bits : int
        At least 2.

    Returns
    -------
    value : ndarray, shape of `w`
        Multiples of 1 / n in [-1, 1]: the scale of the layer is learned elsewhere (a
        batch norm follows).
    pullback : callable, ``g -> (g_w, g_center, g_half_width, g_gamma)``

    Raises
    ------
    ValueError
        If `half_width` or `gamma` is not positive, or `bits` is below 2.

    References
    ----------
    Jung et al., 2019, arXiv:1808.05779, eqs. (2) and (3).

    Examples
    --------
    >>> w = np.array([-0.9, 0.1, 0.5])
    >>> value, pullback = fake_quantize_weight(w, np.array(0.5), np.array(0.3), np.array(1.0),
    ...                                        bits=3)
    >>> value, pullback(np.ones(3))[0]
    (array([-1.        ,  0.        ,  0.66666667]), array([0.        , 0.        , 1.66666667]))
    """
    require_int("bits", bits, 2, 16)
    w, c, d = _checked("w", w, center, half_width)
    exponent = as_positive("gamma", gamma, w)
    n = w.dtype.type(2 ** (bits - 1) - 1)
    sign = np.sign(w)
    u, inside = _mapped(np.abs(w), c, d)
    t = u**exponent

    def pullback(g: Array) -> tuple[Array, ...]:
        at = np.where(inside, u, 1)                     # ln 0 and 0**negative are never needed
        slope = np.where(inside, g * exponent * at ** (exponent - 1) / (2 * d), 0)
        signed = sign * slope
        g_gamma = np.where(inside, sign * g * at**exponent * np.log(at), 0)
        return (
            slope.astype(w.dtype, copy=False),
            sum_to_shape(-signed, c.shape).astype(c.dtype, copy=False),
            sum_to_shape(-signed * (np.abs(w) - c) / d, d.shape).astype(d.dtype, copy=False),
            sum_to_shape(g_gamma, exponent.shape).astype(exponent.dtype, copy=False),
        )

    return (sign * np.rint(t * n) / n).astype(w.dtype, copy=False), pullback


def fake_quantize_activation(
    x: Array, center: Array, half_width: Array, *, bits: int
) -> tuple[Array, Pullback]:
    r"""Quantize the input of a layer in a learned interval; gamma is 1, and there are no signs.

    .. math:: \hat x = \frac{1}{n} \Bigl\lfloor n\,
              \mathrm{clip}\bigl(\tfrac12 + \tfrac12 (x - c) / d,\ 0,\ 1\bigr) \Bigr\rceil,
              \qquad n = 2^b - 1

    Parameters
    ----------
    x : ndarray of float
        What is below the interval, negative numbers too, becomes 0.
    center, half_width : ndarray of float, broadcastable to `x`
        c and d > 0, in units of `x`.
    bits : int

    Returns
    -------
    value : ndarray, shape of `x`
        Multiples of 1 / n in [0, 1].
    pullback : callable, ``g -> (g_x, g_center, g_half_width)``

    Raises
    ------
    ValueError
        If `half_width` is not positive, or `bits` is below 1.

    References
    ----------
    Jung et al., 2019, arXiv:1808.05779, eqs. (2) and (3).

    Examples
    --------
    >>> x = np.array([-1.0, 0.5, 3.0])
    >>> value, pullback = fake_quantize_activation(x, np.array(1.0), np.array(1.0), bits=2)
    >>> value, pullback(np.ones(3))[0]
    (array([0.        , 0.33333333, 1.        ]), array([0. , 0.5, 0. ]))
    """
    require_int("bits", bits, 1, 16)
    x, c, d = _checked("x", x, center, half_width)
    n = x.dtype.type(2**bits - 1)
    u, inside = _mapped(x, c, d)

    def pullback(g: Array) -> tuple[Array, ...]:
        slope = np.where(inside, g / (2 * d), 0)
        return (
            slope.astype(x.dtype, copy=False),
            sum_to_shape(-slope, c.shape).astype(c.dtype, copy=False),
            sum_to_shape(-slope * (x - c) / d, d.shape).astype(d.dtype, copy=False),
        )

    return (np.rint(u * n) / n).astype(x.dtype, copy=False), pullback


def initial_interval(x: Array) -> Interval:
    """Interval to start from: nothing is pruned, nothing is clipped.

    Parameters
    ----------
    x : ndarray of float
        At least one number that is not 0.

    Returns
    -------
    Interval
        From 0 to the largest magnitude.

    Raises
    ------
    ValueError
        If `x` is empty or all zero.

    References
    ----------
    Jung et al., 2019, arXiv:1808.05779, section 4.1.

    Examples
    --------
    >>> initial_interval(np.array([-3.0, 1.0]))
    Interval(center=array(1.5), half_width=array(1.5))
    """
    x = as_reals("x", x)
    require_nonempty("x", x)
    half = np.asarray(np.abs(x).max() / 2)
    if not half > 0:
        raise ValueError("`x` must have a number that is not 0; got none")
    return Interval(half, half.copy())


def _mapped(magnitude: Array, c: Array, d: Array) -> tuple[Array, Array]:
    """Place in the interval, clipped to [0, 1], and whether it is inside."""
    u = 0.5 + 0.5 * (magnitude - c) / d
    return np.clip(u, 0, 1), (u > 0) & (u <= 1)


def _checked(name: str, x: Array, center: Array, half_width: Array) -> tuple[Array, Array, Array]:
    values = as_reals(name, x)
    require_finite(name, values)
    c = as_parameter("center", center, values)
    require_finite("center", c)
    return values, c, as_positive("half_width", half_width, values)
