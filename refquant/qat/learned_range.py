r"""Learned ranges: the ends of the range, or a power of two, are trained.

The same grid can be described by its ends, by a step and a zero point, or by a threshold. Each
description gives other gradients, and so does what one chooses to differentiate:

====================  =================  ======================================================
estimator             trained            gradient
====================  =================  ======================================================
`min_max_clip_only`   low, high          clipped elements alone: blind to the step
`min_max`             low, high          through the step and the zero point as well
`scale_zero_point`    step, zero point   the same, one link earlier
`tqt`                 log2 of the bound  the bound is rounded up to a power of two
====================  =================  ======================================================
"""

import math
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_int
from refquant.qat._common import (
    Pullback,
    as_parameter,
    as_positive,
    closed_range,
    gradient_of,
    in_steps,
    rounded,
)
from refquant.qat.lsq import lsq
from refquant.quantizers.uniform import code_range

__all__ = ["Ends", "containing_zero", "min_max", "min_max_clip_only", "scale_zero_point", "tqt"]


def min_max_clip_only(
    x: Array, low: Array, high: Array, *, bits: int, narrow: bool = False
) -> tuple[Array, Pullback]:
    r"""Quantize between trained ends; only what is clipped moves them.

    .. math:: g_x = g\,[\alpha' \le x \le \beta'], \qquad
              g_\alpha = \sum g\,[x < \alpha'], \qquad g_\beta = \sum g\,[x > \beta']

    with :math:`\alpha' = s(q_{min} - z), \beta' = s(q_{max} - z)` the ends after the zero point
    was rounded ("nudged").

    Parameters
    ----------
    x : ndarray of float
    low, high : ndarray of float, broadcastable to `x`
        :math:`\alpha \le 0 \le \beta`, not both 0.
    bits : int
        From 2 to 16.
    narrow : bool
        Codes from 1 instead of 0.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x`, `low` and `high`, which add up to that of the value.

    Raises
    ------
    ValueError
        If 0 is outside the range, the range is empty, or `bits` is out of range.

    Notes
    -----
    TensorFlow rounds the zero point half up; here half to even.

    References
    ----------
    TensorFlow's ``FakeQuantWithMinMaxVars`` and its gradient; Jacob et al., 2018,
    arXiv:1712.05877, section 3.1.

    Examples
    --------
    >>> x, low, high = np.array([-1.0, 0.4, 9.0]), np.array(-0.5), np.array(1.0)
    >>> y, pullback = min_max_clip_only(x, low, high, bits=2)
    >>> y, pullback(np.array([1.0, 2.0, 3.0]))
    (array([-0.5,  0.5,  1. ]), (array([0., 2., 0.]), array(1.), array(3.)))
    """
    x = as_reals("x", x)
    low, high, step, zero, qmin, qmax = _grid(x, low, high, bits, narrow)
    y = _on_grid(x, step, zero, qmin, qmax)

    def pullback(g: Array) -> tuple[Array, ...]:
        below, above = x < step * (qmin - zero), x > step * (qmax - zero)
        g_below, g_above = g * below, g * above
        return g - g_below - g_above, gradient_of(low, g_below), gradient_of(high, g_above)

    return y, pullback


def min_max(x: Array, low: Array, high: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""Quantize between trained ends; what rounding does moves them too.

    With :math:`N = 2^b - 1`, :math:`s = (\beta - \alpha)/N`,
    :math:`z = \lfloor -\alpha/s \rceil` and rounding passed straight through, the chain of
    :math:`\hat x = s(\bar u - z)` is

    .. math:: \delta_s = \sum g \begin{cases} \lfloor x/s \rceil - x/s \\ \bar u - z \end{cases}
              \quad
              \delta_z = \sum g \begin{cases} 0 & \text{inside} \\ -s & \text{clipped} \end{cases}
              \quad
              t = \delta_s + \delta_z \frac{\alpha}{s^2}

    .. math:: g_\alpha = -\frac{\delta_z}{s} - \frac{t}{N}, \qquad g_\beta = \frac{t}{N}

    Parameters
    ----------
    x : ndarray of float
    low, high : ndarray of float, broadcastable to `x`
        :math:`\alpha \le 0 \le \beta`, not both 0.
    bits : int
        b, from 2 to 16.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x`, `low` and `high`, which add up to that of the value: moving all
        three by as much moves the result by as much.

    Raises
    ------
    ValueError
        If 0 is outside the range, the range is empty, or `bits` is out of range.

    References
    ----------
    The chain rule on Jacob et al., 2018, arXiv:1712.05877, eq. (13), with the estimator of
    Bengio et al., 2013, arXiv:1308.3432; learned so in Uhlich et al., 2020, arXiv:1905.11452.

    Examples
    --------
    >>> x, low, high = np.array([-1.0, 0.4, 9.0]), np.array(-0.5), np.array(1.0)
    >>> g = min_max(x, low, high, bits=2)[1](np.array([1.0, 2.0, 3.0]))
    >>> [part.round(6).tolist() for part in g]
    [[0.0, 2.0, 0.0], 0.866667, 3.133333]
    """
    x = as_reals("x", x)
    low, high, step, zero, _, top = _grid(x, low, high, bits, narrow=False)
    y = _on_grid(x, step, zero, 0, top)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_x, d_step, d_zero = _affine_parts(g, x, step, zero, 0, top)
        total = d_step + d_zero * low / step**2
        g_low = gradient_of(low, -d_zero / step - total / top)
        return g_x, g_low, gradient_of(high, total / top)

    return y, pullback


def scale_zero_point(
    x: Array, scale: Array, zero_point: Array, *, qmin: int, qmax: int, factor: float = 1.0
) -> tuple[Array, Pullback]:
    r"""Quantize with a trained step and a trained zero point, rounded on the way forward.

    .. math:: \hat x = s(\bar u - \bar z), \quad
              \bar u = \mathrm{clip}(\lfloor x/s \rceil + \bar z), \quad
              \bar z = \mathrm{clip}(\lfloor z \rceil)

    The gradients are :math:`\delta_s` and :math:`\delta_z` of `min_max`.

    Parameters
    ----------
    x : ndarray of float
    scale : ndarray of float, broadcastable to `x`, > 0
    zero_point : ndarray of float, broadcastable to `x`
        A float: small steps add up until it rounds to another whole number.
    qmin, qmax : int
        ``qmin < qmax``.
    factor : float
        Multiplies both parameter gradients.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x`, `scale` and `zero_point`.

    Raises
    ------
    ValueError
        If a scale is not positive.

    References
    ----------
    PyTorch's ``_fake_quantize_learnable_per_tensor_affine``; Esser et al., 2020,
    arXiv:1902.08153, eq. (3).

    Examples
    --------
    >>> x, s, z = np.array([-1.0, 0.4, 9.0]), np.array(0.5), np.array(1.2)
    >>> y, pullback = scale_zero_point(x, s, z, qmin=0, qmax=3)
    >>> y, [g.round(6).tolist() for g in pullback(np.array([1.0, 2.0, 3.0]))]
    (array([-0.5,  0.5,  1. ]), [[0.0, 2.0, 0.0], 5.4, -2.0])
    """
    x = as_reals("x", x)
    scale = as_positive("scale", scale, x)
    zero_point = as_parameter("zero_point", zero_point, x)
    require_int("qmax", qmax, require_int("qmin", qmin, -(2**24)) + 1, 2**24)
    zero = np.clip(np.rint(zero_point), qmin, qmax)
    y = _on_grid(x, scale, zero, qmin, qmax)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_x, d_step, d_zero = _affine_parts(g, x, scale, zero, qmin, qmax)
        return g_x, gradient_of(scale, factor * d_step), gradient_of(zero_point, factor * d_zero)

    return y, pullback


def tqt(
    x: Array, log2_threshold: Array, *, bits: int, signed: bool = True
) -> tuple[Array, Pullback]:
    r"""Quantize with a step that is a power of two, whose threshold is trained.

    .. math:: s = 2^{\lceil \log_2 t \rceil} / 2^{b-1}, \qquad
              g_{\log_2 t} = s \ln 2 \sum g\,\rho, \quad
              \rho = \begin{cases} \lfloor v \rceil - v & \text{code in range} \\
                                   q_{min} \text{ or } q_{max} & \text{else} \end{cases}

    Rescaling by such a step is a shift. The ceiling passes gradients straight through, so the
    threshold collects small steps until it crosses a power of two.

    Parameters
    ----------
    x : ndarray of float
    log2_threshold : ndarray of float, broadcastable to `x`
        A logarithm: equal steps are equal ratios, whatever the scale of the data.
    bits : int
        b, from 2 to 24.
    signed : bool
        Otherwise codes from 0, and :math:`2^b` in the denominator.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x` and `log2_threshold`.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Jain et al., 2020, arXiv:1903.08066, eqs. (4)-(8).

    Examples
    --------
    >>> x = np.array([-0.75, 0.2, 9.0])
    >>> y, pullback = tqt(x, np.array(0.3), bits=3)
    >>> y, pullback(np.ones(3))[1].round(6)
    (array([-1. ,  0. ,  1.5]), np.float64(0.727805))
    """
    x = as_reals("x", x)
    log2_threshold = as_parameter("log2_threshold", log2_threshold, x)
    require_int("bits", bits, 2, 24)
    qmin, qmax = code_range(bits, signed=signed)
    exponent = np.ceil(log2_threshold) - (bits - signed)
    step = np.exp2(exponent)
    y, plain = lsq(x, step, qmin=qmin, qmax=qmax, mask=rounded)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_x, g_step = plain(g)
        return g_x, np.asarray(g_step * step * math.log(2))

    return y, pullback


class Ends(NamedTuple):
    """Ends of a range.

    Attributes
    ----------
    low, high : ndarray of float

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.1.
    """

    low: Array
    high: Array


def containing_zero(low: Array, high: Array) -> Ends:
    """The ends after a step of training, moved so that zero is a level again.

    Parameters
    ----------
    low, high : ndarray of float

    Returns
    -------
    Ends
        ``min(low, 0)`` and ``max(high, 0)``.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.1: zero must be exact.

    Examples
    --------
    >>> containing_zero(np.array(0.1), np.array(2.0))
    Ends(low=array(0.), high=array(2.))
    """
    return Ends(np.asarray(np.minimum(low, 0)), np.asarray(np.maximum(high, 0)))


def _grid(
    x: Array, low: Array, high: Array, bits: int, narrow: bool
) -> tuple[Array, Array, Array, Array, int, int]:
    """Ends, step, zero point and the range of codes."""
    low, high = as_parameter("low", low, x), as_parameter("high", high, x)
    qmin, qmax = int(narrow), 2 ** require_int("bits", bits, 2, 16) - 1
    if not ((low <= 0) & (high >= 0) & (high > low)).all():
        raise ValueError(
            f"`low` and `high` must hold 0 between them; got {np.ravel(low)} and {np.ravel(high)}")
    require_finite("low", low)
    require_finite("high", high)
    step = (high - low) / (qmax - qmin)
    zero = np.clip(np.rint(qmin - low / step), qmin, qmax)
    return low, high, np.asarray(step), np.asarray(zero), qmin, qmax


def _on_grid(x: Array, step: Array, zero: Array, qmin: int, qmax: int) -> Array:
    """``s (u - z)`` in the dtype of `x`."""
    u = np.clip(np.rint(in_steps(x, step)) + zero, qmin, qmax)
    return (step * (u - zero)).astype(x.dtype, copy=False)


def _affine_parts(
    g: Array, x: Array, step: Array, zero: Array, qmin: int, qmax: int
) -> tuple[Array, Array, Array]:
    """Gradient of `x`, and the terms whose sums are those of step and zero point."""
    v = in_steps(x, step)
    code = np.rint(v) + zero
    inside = closed_range(code, qmin, qmax)
    slope = np.clip(code, qmin, qmax) - zero - v * inside
    g_x = g * inside
    return g_x, g * slope, step * (g_x - g)
