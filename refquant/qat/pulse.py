r"""Give each jump of a staircase a pulse for a derivative, and let weights hop between states.

The derivative of a step of height 1 is a delta: no width, area 1. A *pulse* keeps the area and
gets a width, so that inputs near the jump learn that moving would matter, and inputs far from it
do not:

.. math:: \text{rectangle}(u) = \frac{1}{2a}\,[|u| \le a], \qquad
          \text{triangle}(u) = \frac{a - |u|}{a^2}\,[|u| \le a] .

With ternary activations trained so, GXNOR-Net keeps no float weights either: a *discrete state
transition* moves each stored weight by whole steps, and by one more with a probability that grows
with what is left over.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_number, require_positive, require_same_shape
from refquant.qat._common import Pullback

__all__ = ["Pulse", "hop_probability", "rectangle", "staircase", "state_transition", "triangle"]

#: (distance from the jump, half-width) -> stand-in for the derivative, of area 1.
Pulse: TypeAlias = Callable[[Array, float], Array]


def rectangle(distance: Array, half_width: float) -> Array:
    """A pulse of one height: the same gradient for everyone near.

    Parameters
    ----------
    distance : ndarray of float
        From the jump.
    half_width : float
        a > 0.

    Returns
    -------
    ndarray, shape of `distance`

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283 (the rectangular window).

    Examples
    --------
    >>> rectangle(np.array([-0.6, 0.0, 0.5]), 0.5)
    array([0., 1., 1.])
    """
    _require_width(half_width)
    return np.where(np.abs(distance) <= half_width, 1 / (2 * half_width), 0).astype(distance.dtype)


def triangle(distance: Array, half_width: float) -> Array:
    """A pulse with a peak at the jump: the nearer, the more gradient.

    Parameters
    ----------
    distance : ndarray of float
        From the jump.
    half_width : float
        a > 0.

    Returns
    -------
    ndarray, shape of `distance`

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283 (the triangular window).

    Examples
    --------
    >>> triangle(np.array([-0.6, 0.0, 0.25]), 0.5)
    array([0., 2., 1.])
    """
    _require_width(half_width)
    return np.maximum(half_width - np.abs(distance), 0) / half_width**2


def staircase(
    x: Array, *, jumps: Array, half_width: float = 0.5, pulse: Pulse = rectangle
) -> tuple[Array, Pullback]:
    r"""Odd steps from -1 to 1, each jump with a pulse of its own area.

    .. math:: \varphi(x) = \mathrm{sgn}(x)\, \frac{\#\{i : |x| > r_i\}}{n}, \qquad
              \frac{\partial\varphi}{\partial x} \approx
              \frac1n \sum_i \text{pulse}(|x| - r_i)

    Parameters
    ----------
    x : ndarray of float
    jumps : ndarray of float, shape (n,), > 0
        r: one entry makes ternary activations, n make 2n + 1 levels.
    half_width : float
        a. As wide as the first jump (the default for ``jumps = [1/2]``), the pulses just meet
        at 0.
    pulse : callable
        `rectangle` or `triangle`.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradient of `x`.

    Raises
    ------
    ValueError
        If a jump or the width is not positive.

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283 (multi-step neurons).

    Examples
    --------
    >>> y, pullback = staircase(np.array([-1.3, -0.75, 0.4, 0.5]), jumps=np.array([0.5]))
    >>> y, pullback(np.ones(4))[0]
    (array([-1., -1.,  0.,  0.]), array([0., 1., 1., 1.]))
    """
    require_positive("jumps", jumps)
    above = np.abs(x)[..., None] - jumps.astype(x.dtype)
    slope = pulse(above, half_width).mean(-1, dtype=x.dtype)
    value = np.sign(x) * (above > 0).mean(-1, dtype=x.dtype)
    return value + 0, lambda g: (g * slope,)        # + 0: no minus zero among the levels


def hop_probability(rest: Array, step: float, *, gain: float = 3.0) -> Array:
    r"""Probability of one more step, for the rest that whole steps leave over.

    .. math:: P = \tanh(m |\nu| / \Delta)

    Parameters
    ----------
    rest : ndarray of float
        :math:`\nu`, less than a step.
    step : float
        :math:`\Delta > 0`.
    gain : float
        m.

    Returns
    -------
    ndarray
        In [0, 1). For m = 3 far above the unbiased probability :math:`|\nu| / \Delta`: a rest of a
        fifth of a step is taken 54 times of a hundred.

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283 (discrete state transition).

    Examples
    --------
    >>> hop_probability(np.array([0.0, 0.2, -1.0]), 1.0).round(2)
    array([0.  , 0.54, 1.  ])
    """
    return np.tanh(gain * np.abs(rest) / step)


def state_transition(
    weight: Array, update: Array, *, step: float, rng: np.random.Generator, gain: float = 3.0
) -> Array:
    r"""Weights after an update, on their grid in [-1, 1] before and after: no float copy is kept.

    .. math:: \rho = \mathrm{clip}(W + \Delta W, -1, 1) - W, \quad
              \kappa = \mathrm{trunc}(\rho / \Delta), \quad \nu = \rho - \kappa\Delta, \quad
              W \leftarrow W + \Delta\,\bigl(\kappa
              + \mathrm{sgn}(\rho)\,\mathrm{Bernoulli}(\tanh(m|\nu|/\Delta))\bigr)

    Parameters
    ----------
    weight : ndarray of float
        On the grid of `step`: for step 1 ternary, for step 2 binary.
    update : ndarray of float, shape of `weight`
        What an optimizer would add.
    step : float
        A power of two of at most 2, so that -1 and 1 are states and sums of steps exact.
    rng : numpy.random.Generator
        One uniform draw per element, in C order.
    gain : float
        m of `hop_probability`.

    Returns
    -------
    ndarray, shape and dtype of `weight`

    Raises
    ------
    ValueError
        If shapes differ, `step` is not such a power, or a weight is not on the grid.

    Notes
    -----
    Not unbiased, unlike stochastic rounding: small updates are boosted on purpose.

    References
    ----------
    Deng et al., 2018, arXiv:1705.09283 (discrete state transition).

    Examples
    --------
    >>> w, rng = np.array([-1.0, 0.0, 1.0]), np.random.default_rng(0)
    >>> state_transition(w, np.array([2.0, 0.0, 0.5]), step=1.0, rng=rng)
    array([1., 0., 1.])
    """
    require_same_shape("update", update, weight.shape)
    require_positive("step", np.array(step))
    if step > 2 or np.frexp(step)[0] != 0.5:
        raise ValueError(f"`step` must be a power of two, at most 2; got {step}")
    if (np.abs(weight) > 1).any() or ((weight + 1) % step).any():
        raise ValueError(f"`weight` must lie in [-1, 1] on the grid of {step} from -1")
    allowed = np.clip(weight + update, -1, 1) - weight
    whole = np.trunc(allowed / step)
    hop = rng.random(weight.shape) < hop_probability(allowed - whole * step, step, gain=gain)
    return (weight + step * (whole + np.sign(allowed) * hop)).astype(weight.dtype)


def _require_width(half_width: float) -> None:
    require_number("half_width", half_width)
    require_positive("half_width", np.array(half_width))
