r"""Pull weights toward their levels a little more each step, instead of rounding them at once.

A penalty with its minima on the levels, W-shaped for the levels -1 and +1, is added to the loss.
It has a kink on each level, so gradient descent would chatter about it. The *proximal* step does
not: it goes to the point that trades the penalty against the distance moved,

.. math:: \mathrm{prox}_{\lambda R}(\theta) = \arg\min_z \; \tfrac12 (z - \theta)^2 + \lambda R(z),

and lands on the level exactly once the pull is strong enough. Two methods share the map:

=============  ==============================  ============================
method         gradient taken at               what the step replaces
=============  ==============================  ============================
ProxQuant      the weight itself               the weight: ``prox(w - step)``
BinaryRelax    the pulled weight               nothing: the latent goes on
=============  ==============================  ============================

At no pull both are plain training; at infinite pull BinaryRelax is BinaryConnect.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_broadcastable, require_int, require_number
from refquant.qat._common import Pullback, sum_to_shape

__all__ = ["Projection", "binary_relax", "geometric", "pull_to", "pull_to_binary", "ramp",
           "w_shape"]

#: Weights to the nearest ones allowed, e.g. ``lambda w: fake_quantize(w, twn(w))``.
Projection: TypeAlias = Callable[[Array], Array]


def w_shape(weight: Array, level: Array) -> tuple[Array, Pullback]:
    r"""Distance of each weight from the nearer of two levels, :math:`\bigl||w| - \alpha\bigr|`.

    Parameters
    ----------
    weight : ndarray of float
    level : ndarray of float, broadcastable to `weight`
        :math:`\alpha \ge 0`.

    Returns
    -------
    value : ndarray, shape of `weight`
    pullback : callable
        Gradients of `weight` and `level`; 0 by the weight at 0 and on the levels.

    References
    ----------
    Bai et al., 2019, arXiv:1810.00861, section 2 (the W-shaped regularizer).

    Examples
    --------
    >>> w_shape(np.array([-1.3, 0.0, 0.4, 1.0]), np.array(1.0))[0].round(1)
    array([0.3, 1. , 0.6, 0. ])
    """
    require_broadcastable("level", level, weight.shape)
    off = np.abs(weight) - level

    def pullback(g: Array) -> tuple[Array, ...]:
        outward = g * np.sign(off)
        return outward * np.sign(weight), sum_to_shape(-outward, level.shape)

    return np.abs(off), pullback


def pull_to_binary(weight: Array, strength: float, *, level: Array) -> Array:
    r"""Exact prox of `w_shape`: each weight moves by `strength` toward its level, and stops there.

    .. math:: \mathrm{prox}(\theta) = \mathrm{sgn}(\theta)
              \bigl(\alpha + S_\lambda(|\theta| - \alpha)\bigr), \qquad
              S_\lambda(u) = \mathrm{sgn}(u) \max(|u| - \lambda, 0)

    Parameters
    ----------
    weight : ndarray of float
    strength : float
        :math:`\lambda \ge 0`.
    level : ndarray of float, broadcastable to `weight`
        :math:`\alpha \ge 0`: 1, or the mean magnitude of each channel.

    Returns
    -------
    ndarray, shape and dtype of `weight`
        All on the levels once ``strength >= max(abs(abs(weight) - level))``.

    Raises
    ------
    ValueError
        If `strength` is negative or `level` does not broadcast.

    Notes
    -----
    It jumps at 0, where both sides are minima; 0 counts as positive, as everywhere here.

    References
    ----------
    Bai et al., 2019, arXiv:1810.00861, section 3 (the binary case).

    Examples
    --------
    >>> pull_to_binary(np.array([-1.6, -0.3, 0.0, 0.9]), 0.25, level=np.array(1.0))
    array([-1.35, -0.55,  0.25,  1.  ])
    """
    _require_strength(strength)
    require_broadcastable("level", level, weight.shape)
    off = np.abs(weight) - level
    left = np.sign(off) * np.maximum(np.abs(off) - strength, 0)
    return (np.where(weight >= 0, 1, -1) * (level + left)).astype(weight.dtype)


def pull_to(weight: Array, strength: float, *, project: Projection) -> Array:
    r"""Prox of half the squared distance from a set: a mean of the weight and its projection.

    .. math:: \mathrm{prox}(\theta) = \frac{\theta + \lambda\,\Pi(\theta)}{1 + \lambda}

    For any set of levels: ternary, several bits, levels fitted to the weights. The penalty is
    smooth on the levels, so they are reached only in the limit.

    Parameters
    ----------
    weight : ndarray of float
    strength : float
        :math:`\lambda \ge 0`, or infinity.
    project : callable, ndarray -> ndarray
        :math:`\Pi`: the nearest point of the set.

    Returns
    -------
    ndarray, shape and dtype of `weight`

    Raises
    ------
    ValueError
        If `strength` is negative.

    References
    ----------
    Yin et al., 2018, arXiv:1801.06313, section 3; Bai et al., 2019, arXiv:1810.00861, section 3.

    Examples
    --------
    >>> pull_to(np.array([-0.75, 0.25]), 3.0, project=np.rint)
    array([-0.9375,  0.0625])
    """
    _require_strength(strength)
    share = 1.0 if np.isinf(strength) else strength / (1 + strength)
    target = project(weight)
    # The sum of parts, not weight + share * (target - weight): exact at both ends.
    return np.asarray((1 - share) * weight + share * target).astype(weight.dtype)


def binary_relax(
    weight: Array, strength: Array, *, project: Projection
) -> tuple[Array, Callable[[Array], tuple[Array, None]]]:
    r"""BinaryRelax: compute with the pulled weight, train the latent one.

    .. math:: x_t = \frac{y_t + \lambda_t \Pi(y_t)}{1 + \lambda_t}, \qquad
              y_{t+1} = y_t - \eta\, \nabla L(x_t)

    The value is `pull_to`; the gradient found there is applied to the latent unchanged. (The chain
    rule would scale it by :math:`1/(1 + \lambda)`, as `refquant.qat.blending` does.)

    Parameters
    ----------
    weight : ndarray of float
        The latent y.
    strength : ndarray of float, shape ()
        :math:`\lambda`: an array, so that a schedule can be an input of the network.
    project : callable, ndarray -> ndarray
        :math:`\Pi`.

    Returns
    -------
    value : ndarray, shape of `weight`
    pullback : callable
        Gradient of `weight`: that of the value; None for `strength`.

    Raises
    ------
    ValueError
        If `strength` is negative.

    References
    ----------
    Yin et al., 2018, arXiv:1801.06313, section 3, algorithm 1.

    Examples
    --------
    >>> x, pullback = binary_relax(np.array([0.2, -0.8]), np.array(1.0), project=np.sign)
    >>> x, pullback(np.array([0.5, 0.5]))[0]
    (array([ 0.6, -0.9]), array([0.5, 0.5]))
    """
    return pull_to(weight, float(strength), project=project), lambda g: (g, None)


def ramp(step: int, *, rate: float) -> float:
    r"""ProxQuant's homotopy, :math:`\lambda_t = \mathrm{rate} \cdot t`.

    Parameters
    ----------
    step : int
    rate : float
        Growth per step. As in the authors' code, not multiplied by the learning rate.

    Returns
    -------
    float

    References
    ----------
    Bai et al., 2019, arXiv:1810.00861, and the released code (``reg_rate``).

    Examples
    --------
    >>> [round(ramp(t, rate=1e-4), 4) for t in (0, 1, 200)]
    [0.0, 0.0001, 0.02]
    """
    return require_int("step", step, 0) * rate


def geometric(step: int, *, start: float = 1.0, growth: float, until: int) -> float:
    r"""BinaryRelax's schedule, :math:`\lambda_t = \lambda_0 \rho^t`, and infinity in phase 2.

    Parameters
    ----------
    step : int
    start : float
        :math:`\lambda_0 > 0`.
    growth : float
        :math:`\rho`, slightly above 1.
    until : int
        First step of phase 2, where the weight used is the projection itself.

    Returns
    -------
    float

    References
    ----------
    Yin et al., 2018, arXiv:1801.06313, section 3.

    Examples
    --------
    >>> [geometric(t, growth=2.0, until=3) for t in range(5)]
    [1.0, 2.0, 4.0, inf, inf]
    """
    return start * growth ** require_int("step", step, 0) if step < until else np.inf


def _require_strength(strength: float) -> None:
    require_number("strength", strength)
    if not strength >= 0:                       # also for NaN
        raise ValueError(f"`strength` must be at least 0; got {strength}")
