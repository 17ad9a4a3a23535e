r"""Learned step size: the scale is a parameter, and has a gradient.

Differentiate :math:`\hat x = s \lfloor \mathrm{clip}(x/s) \rceil` by the product rule and let the
rounding pass straight through: what is left is the rounding error, in steps. So a step grows where
rounding up hurts, and shrinks where rounding down does; at a clipped element, it moves the end of
the range.

=============  =====================================================
`lsq`          the step itself
`lsq_log2`     its logarithm, which cannot become negative
`lsq_plus`     a step and an offset, for activations that go below zero
=============  =====================================================
"""

import math
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import as_data, as_reals, require_finite, require_int
from refquant.granularity import as_rows
from refquant.qat._common import (
    Mask,
    Pullback,
    as_parameter,
    as_positive,
    gradient_of,
    in_steps,
    open_range,
)
from refquant.quantizers._scale import usable

__all__ = ["Affine", "gradient_factor", "initial_affine", "initial_scale", "initial_scale_plus",
           "lsq", "lsq_log2", "lsq_plus"]


def lsq(
    x: Array, scale: Array, *, qmin: int, qmax: int, factor: float = 1.0, mask: Mask = open_range
) -> tuple[Array, Pullback]:
    r"""Quantize with a trained step.

    .. math:: \hat x = s \lfloor \mathrm{clip}(v, q_{min}, q_{max}) \rceil, \quad v = x / s,
              \qquad
              \frac{\partial \hat x}{\partial s} =
              \begin{cases} \lfloor v \rceil - v & q_{min} < v < q_{max} \\
                            q_{min} \text{ or } q_{max} & \text{otherwise} \end{cases}

    Parameters
    ----------
    x : ndarray of float
    scale : ndarray of float, broadcastable to `x`, > 0
        s, in units of `x`: one, or one for each channel.
    qmin, qmax : int
        ``qmin <= 0 < qmax``.
    factor : float
        Multiplies the gradient of `scale`: see `gradient_factor`. 1 is the plain estimator.
    mask : callable, (ratio, qmin, qmax) -> ndarray of bool
        Where the gradient passes to `x`: a function of `refquant.qat.straight_through`.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
        What ``Uniform(scale, 0, qmin, qmax)`` makes of `x`.
    pullback : callable
        Gradients of `x` and `scale`.

    Raises
    ------
    ValueError
        If a scale is not positive: the rate was too high for it.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, eqs. (1)-(3) and (5).

    Examples
    --------
    >>> x = np.array([-1.0, 0.2, 0.4, 3.0])
    >>> y, pullback = lsq(x, np.array(0.5), qmin=-2, qmax=1)
    >>> y, pullback(np.ones(4))
    (array([-1. ,  0. ,  0.5,  0.5]), (array([0., 1., 1., 0.]), array(-1.2)))
    """
    x = as_reals("x", x)
    scale = as_positive("scale", scale, x)
    require_int("qmin", qmin, -(2**31), 0)
    require_int("qmax", qmax, 1)
    v = in_steps(x, scale)
    q = np.asarray(np.clip(v, qmin, qmax))
    np.rint(q, out=q)

    def pullback(g: Array) -> tuple[Array, ...]:
        inside = mask(v, qmin, qmax)
        slope = q - v * inside                  # q - v inside, q where clipped
        return g * inside, np.asarray(factor * gradient_of(scale, g * slope))

    return (scale * q).astype(x.dtype, copy=False), pullback


def lsq_log2(
    x: Array, log2_scale: Array, *, qmin: int, qmax: int, factor: float = 1.0,
    mask: Mask = open_range,
) -> tuple[Array, Pullback]:
    r"""Quantize with the step :math:`2^\ell`, whose logarithm is trained.

    .. math:: \frac{\partial \hat x}{\partial \ell}
              = s \ln 2\, \frac{\partial \hat x}{\partial s}

    Parameters
    ----------
    x : ndarray of float
    log2_scale : ndarray of float, broadcastable to `x`
        Any real number stands for a positive step.
    qmin, qmax : int
        ``qmin <= 0 < qmax``.
    factor : float
        Multiplies the gradient of `log2_scale`.
    mask : callable, (ratio, qmin, qmax) -> ndarray of bool

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x` and `log2_scale`.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, eq. (3), and Jain et al., 2020, arXiv:1903.08066,
    section 3.2, for the logarithm.

    Examples
    --------
    >>> y, pullback = lsq_log2(np.array([0.4, 3.0]), np.array(-1.0), qmin=-2, qmax=1)
    >>> y, pullback(np.ones(2))[1].round(6)
    (array([0.5, 0.5]), np.float64(0.415888))
    """
    x = as_reals("x", x)
    log2_scale = as_parameter("log2_scale", log2_scale, x)
    scale = np.exp2(log2_scale)
    y, plain = lsq(x, scale, qmin=qmin, qmax=qmax, factor=factor, mask=mask)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_x, g_scale = plain(g)
        return g_x, np.asarray(g_scale * scale * math.log(2))

    return y, pullback


def lsq_plus(
    x: Array, scale: Array, offset: Array, *, qmin: int, qmax: int, factor: float = 1.0,
    mask: Mask = open_range,
) -> tuple[Array, Pullback]:
    r"""Quantize with a trained step and a trained offset, a real number.

    .. math:: \hat x = s \lfloor \mathrm{clip}(v, q_{min}, q_{max}) \rceil + \beta, \quad
              v = \frac{x - \beta}{s}, \qquad
              \frac{\partial \hat x}{\partial \beta} = [v \le q_{min} \text{ or } v \ge q_{max}]

    Parameters
    ----------
    x : ndarray of float
    scale : ndarray of float, broadcastable to `x`, > 0
    offset : ndarray of float, broadcastable to `x`
        :math:`\beta`, the value of code 0. A layer on codes adds its product with the sum of
        the weights to the bias.
    qmin, qmax : int
        ``qmin <= 0 < qmax``.
    factor : float
        Multiplies the gradients of `scale` and `offset`.
    mask : callable, (ratio, qmin, qmax) -> ndarray of bool

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x`, `scale` and `offset`. With `factor` 1, those of `x` and `offset`
        add up to that of the value: a shift of both shifts the result.

    Raises
    ------
    ValueError
        If a scale is not positive.

    References
    ----------
    Bhalgat et al., 2020, arXiv:2004.09576, eqs. (3)-(7).

    Examples
    --------
    >>> x, s, b = np.array([-0.3, 0.2, 9.0]), np.array(0.25), np.array(-0.25)
    >>> y, pullback = lsq_plus(x, s, b, qmin=0, qmax=3)
    >>> y, [g.round(3).tolist() for g in pullback(np.ones(3))]
    (array([-0.25,  0.25,  0.5 ]), [[0.0, 1.0, 0.0], 3.2, 2.0])
    """
    x = as_reals("x", x)
    offset = as_parameter("offset", offset, x)
    require_finite("offset", offset)
    y, plain = lsq(x - offset, scale, qmin=qmin, qmax=qmax, factor=factor, mask=mask)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_x, g_scale = plain(g)
        g_offset = np.asarray(factor * gradient_of(offset, g - g_x))
        return g_x.astype(g.dtype, copy=False), g_scale, g_offset

    return (y + offset).astype(x.dtype, copy=False), pullback


def gradient_factor(elements: int, qmax: int) -> float:
    r"""What keeps the steps of scales in proportion to those of weights.

    .. math:: \gamma = \frac{1}{\sqrt{N\, q_{max}}}

    The gradient of a scale is a sum over N elements, and a code of size q multiplies it.
    Adam divides by the size of the gradient and undoes any factor; plain descent needs it.

    Parameters
    ----------
    elements : int
        N: weights that share the scale; for activations, values of *one sample* that do.
    qmax : int

    Returns
    -------
    float

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, section 2.2.

    Examples
    --------
    >>> gradient_factor(144, 1), gradient_factor(100, 4)
    (0.08333333333333333, 0.05)
    """
    require_int("elements", elements, 1)
    require_int("qmax", qmax, 1)
    return 1 / math.sqrt(elements * qmax)


def initial_scale(x: Array, *, qmax: int, axis: Axis = None) -> Array:
    r"""Step to start from: the paper's.

    .. math:: s = \frac{2\,\overline{|x|}}{\sqrt{q_{max}}}

    Parameters
    ----------
    x : ndarray of float
        The weights, or activations of the first batch.
    qmax : int
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray of float
        1 for a block of zeros.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, section 2.1.

    Examples
    --------
    >>> initial_scale(np.array([-1.0, 0.5, 0.0, 0.5]), qmax=4)
    array([0.5])
    """
    x = as_data("x", x, axis=axis)
    require_int("qmax", qmax, 1)
    rows, kept = as_rows(x, axis=axis)
    return usable(2 * np.abs(rows).mean(1) / math.sqrt(qmax), x.dtype).reshape(kept)


def initial_scale_plus(w: Array, *, bits: int, axis: Axis = None) -> Array:
    r"""Step of weights to start from: three standard deviations of them fit.

    .. math:: s = \frac{\max(|\mu - 3\sigma|, |\mu + 3\sigma|)}{2^{b-1}}

    Parameters
    ----------
    w : ndarray of float
    bits : int
        b, at least 2.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray of float
        1 for a block of zeros.

    Raises
    ------
    ValueError
        If `w` is empty or not finite, or `bits` is below 2.

    References
    ----------
    Bhalgat et al., 2020, arXiv:2004.09576, section 3.2, eq. (8).

    Examples
    --------
    >>> initial_scale_plus(np.array([-1.0, 1.0]), bits=3)
    array([0.75])
    """
    w = as_data("w", w, axis=axis)
    require_int("bits", bits, 2, 32)
    rows, kept = as_rows(w, axis=axis)
    bound = np.abs(rows.mean(1)) + 3 * rows.std(1)      # the larger of the two
    return usable(bound / 2 ** (bits - 1), w.dtype).reshape(kept)


class Affine(NamedTuple):
    """A step and an offset.

    Attributes
    ----------
    scale : ndarray of float, shape ()
    offset : ndarray of float, shape ()
        The value of code 0.

    References
    ----------
    Bhalgat et al., 2020, arXiv:2004.09576, eq. (3).
    """

    scale: Array
    offset: Array


def initial_affine(x: Array, *, qmin: int, qmax: int, candidates: int = 30) -> Affine:
    """Step and offset of activations to start from: least squares over shares of the range.

    Both ends of the range are tried at `candidates` places between the median and the
    extreme, each with each. The full range is one of them, so its error is never exceeded.

    Parameters
    ----------
    x : ndarray of float
        Activations of the first batch.
    qmin, qmax : int
    candidates : int
        Of each end.

    Returns
    -------
    Affine

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Bhalgat et al., 2020, arXiv:2004.09576, section 3.2, eqs. (9) and (10).

    Examples
    --------
    >>> x = np.array([-0.2, 0.1, 0.4, 0.7])
    >>> [float(p.round(6)) for p in initial_affine(x, qmin=0, qmax=3)]
    [0.3, -0.2]
    """
    x = as_data("x", x)
    qmin = require_int("qmin", qmin, -(2**31), 0)
    qmax = require_int("qmax", qmax, 1)
    require_int("candidates", candidates, 1)
    values = x.astype(np.float64).ravel()
    low, middle, high = values.min(), float(np.median(values)), values.max()
    best, found = math.inf, (1.0, float(low) - qmin)
    shares = np.arange(candidates, 0, -1) / candidates
    for bottom in middle + shares * (low - middle):
        for top in middle + shares * (high - middle):
            if top > bottom:
                step = (top - bottom) / (qmax - qmin)
                codes = np.clip(np.rint((values - bottom) / step), 0, qmax - qmin)
                error = float(np.square(bottom + step * codes - values).sum())
                if error < best:
                    best, found = error, (step, bottom - qmin * step)
    scale, offset = (np.asarray(p, x.dtype) for p in found)
    return Affine(scale, offset)
