r"""Target propagation: hand each layer a value to reach instead of a slope to follow.

A layer that rounds, :math:`h_i = f_i(h_{i-1})`, blocks gradients. So give it a learned way back,
:math:`g_i \approx f_i^{-1}`. The loss moves the last hidden value a little downhill, and that
*target* is carried down by the inverses:

.. math:: \hat h_{i-1} = h_{i-1} + g_i(\hat h_i) - g_i(h_i) .

The difference cancels what the inverse gets wrong: a target that asks for no change asks for none
below. Each layer then learns to hit its target, each inverse to undo its layer near the data, and
no derivative crosses a layer. For layers that end in a sign there is also the *feasible* choice of
targets in {-1, +1}, one per sign of the gradient.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_same_shape
from refquant.qat._common import Pullback

__all__ = ["Inverse", "difference_targets", "feasible_targets", "inverse_error",
           "local_gradients", "plain_targets", "soft_hinge", "top_target"]

#: Value of a layer -> guess of the layer's input.
Inverse: TypeAlias = Callable[[Array], Array]


def top_target(hidden: Array, gradient: Array, *, rate: float) -> Array:
    r"""The last hidden value, moved downhill: :math:`\hat h = h - \hat\eta\,\partial L/\partial h`.

    Parameters
    ----------
    hidden, gradient : ndarray of float, one shape
        h and the gradient of the loss by it; the layers above have derivatives.
    rate : float
        :math:`\hat\eta > 0`, in units of h per gradient.

    Returns
    -------
    ndarray, shape of `hidden`

    References
    ----------
    Lee et al., 2015, arXiv:1412.7525, section 2.

    Examples
    --------
    >>> top_target(np.array([1.0, -1.0]), np.array([0.5, 0.0]), rate=0.2)
    array([ 0.9, -1. ])
    """
    require_same_shape("gradient", gradient, hidden.shape)
    return np.asarray(hidden - rate * gradient)


def difference_targets(
    hidden: Sequence[Array], inverses: Sequence[Inverse], target: Array
) -> list[Array]:
    r"""Targets of all hidden values, from the target of the last.

    .. math:: \hat h_{i-1} = h_{i-1} + g_i(\hat h_i) - g_i(h_i)

    Parameters
    ----------
    hidden : sequence of ndarray
        :math:`h_1, \dots, h_n`, as the network computed them.
    inverses : sequence of callable
        :math:`g_2, \dots, g_n`: entry i guesses ``hidden[i]`` from ``hidden[i + 1]``.
    target : ndarray, shape of the last hidden value

    Returns
    -------
    list of ndarray
        One target per hidden value, of its shape; the last is `target`.

    Raises
    ------
    ValueError
        If there is not one inverse between each two values, or a shape does not fit.

    References
    ----------
    Lee et al., 2015, arXiv:1412.7525, section 2.3 and algorithm 1.

    Examples
    --------
    >>> halve = lambda h: h / 2                     # the layer doubles
    >>> below, top = difference_targets([np.ones(1), 2 * np.ones(1)], [halve], 3 * np.ones(1))
    >>> below, 2 * below == top
    (array([1.5]), array([ True]))
    """
    guesses = _guesses(hidden, inverses, target)
    # In these brackets a target equal to the value leaves the value below exactly alone.
    return _downward(
        hidden, target, lambda i, t: hidden[i] + (guesses[i](t) - guesses[i](hidden[i + 1])))


def plain_targets(
    hidden: Sequence[Array], inverses: Sequence[Inverse], target: Array
) -> list[Array]:
    r"""Targets without the correction, :math:`\hat h_{i-1} = g_i(\hat h_i)`.

    Right when the inverses are exact; otherwise their errors become orders to the layers below,
    even when the top is content.

    Parameters
    ----------
    hidden, inverses : sequence
    target : ndarray
        All as in `difference_targets`.

    Returns
    -------
    list of ndarray

    Raises
    ------
    ValueError
        As in `difference_targets`.

    References
    ----------
    Lee et al., 2015, arXiv:1412.7525, section 2.2.

    Examples
    --------
    >>> h = [np.ones(1), 2 * np.ones(1)]
    >>> off = lambda h: h / 2 + 1                   # a poor inverse, and a content top
    >>> plain_targets(h, [off], h[1])[0], difference_targets(h, [off], h[1])[0]
    (array([2.]), array([1.]))
    """
    guesses = _guesses(hidden, inverses, target)
    return _downward(hidden, target, lambda i, t: guesses[i](t))


def local_gradients(
    below: Array, slope: Array, hidden: Array, target: Array
) -> tuple[Array, Array]:
    r"""Gradients of a layer's weight and bias toward its target; nothing passes further down.

    For :math:`h = f(a)`, :math:`a = W h_{below} + b`, where f may end in a rounding,

    .. math:: \delta = (h - \hat h) \circ s, \qquad
              \bar W = \delta^T h_{below} / n, \qquad \bar b = \textstyle\sum \delta / n .

    Parameters
    ----------
    below : ndarray of float, shape (n, in)
    slope : ndarray of float, shape (n, out)
        s: derivative of the smooth part of f, e.g. :math:`1 - \tanh^2 a` for a sign of tanh.
    hidden, target : ndarray of float, shape (n, out)
        What the layer sends up, rounded, and what it should have sent.

    Returns
    -------
    weight : ndarray, shape (out, in)
    bias : ndarray, shape (out,)

    Notes
    -----
    The error is that of the value *sent*. With the smooth value in its place, a layer whose
    output equals its target would still be pushed about.

    References
    ----------
    Lee et al., 2015, arXiv:1412.7525, section 2, and section 3.2 for discrete messages.

    Examples
    --------
    >>> x, slope = np.array([[1.0, 2.0]]), np.array([[0.5]])
    >>> local_gradients(x, slope, np.array([[1.0]]), np.array([[-1.0]]))
    (array([[1., 2.]]), array([1.]))
    """
    require_same_shape("target", target, hidden.shape)
    require_same_shape("slope", slope, hidden.shape)
    delta = (hidden - target) * slope / len(hidden)
    return delta.T @ below, delta.sum(0)


def inverse_error(
    inverse: Inverse, layer: Callable[[Array], Array], below: Array, *, noise: Array
) -> Array:
    r"""How far the inverse misses near the data, :math:`g(f(h + \varepsilon)) - (h + \varepsilon)`.

    Its square is what an inverse learns to make small. The noise makes it learn a neighbourhood,
    where the targets will lie, and not only the data.

    Parameters
    ----------
    inverse, layer : callable
        g and f.
    below : ndarray of float, shape (n, in)
        h.
    noise : ndarray of float, shape of `below`
        :math:`\varepsilon`, drawn anew each step.

    Returns
    -------
    ndarray, shape of `below`

    References
    ----------
    Lee et al., 2015, arXiv:1412.7525, section 2.2.

    Examples
    --------
    >>> inverse_error(lambda y: y / 2, lambda x: 2 * x, np.ones(2), noise=np.array([0.1, -0.1]))
    array([0., 0.])
    """
    moved = below + noise
    return np.asarray(inverse(layer(moved)) - moved)


def feasible_targets(gradient: Array) -> Array:
    """Targets that a sign can reach: against the gradient of the loss above.

    Parameters
    ----------
    gradient : ndarray of float
        Of the loss by the signs.

    Returns
    -------
    ndarray
        -1 where the gradient is positive, +1 where negative, 0 (no wish) where 0.

    References
    ----------
    Friesen and Domingos, 2018, arXiv:1710.11573 (heuristic choice of targets).

    Examples
    --------
    >>> feasible_targets(np.array([0.3, -2.0]))
    array([-1.,  1.])
    """
    return np.asarray(-np.sign(gradient))


def soft_hinge(z: Array, target: Array) -> tuple[Array, Pullback]:
    r"""Loss of a unit that should have the sign of its target, :math:`\tanh(1 - t z) + 1`.

    Between 0 and 2, so that a unit far on the wrong side is given up instead of dragged. By its
    slope, :math:`-t\,(1 - \tanh^2(1 - tz))`, a layer of signs learns by itself; the straight-
    through estimator that saturates is the same with another loss.

    Parameters
    ----------
    z : ndarray of float
        Before the sign.
    target : ndarray of float, shape of `z`
        t, from `feasible_targets`.

    Returns
    -------
    value : ndarray, shape of `z`
        Loss of each unit.
    pullback : callable
        Gradient of `z`.

    References
    ----------
    Friesen and Domingos, 2018, arXiv:1710.11573 (the soft hinge loss).

    Examples
    --------
    >>> loss, pullback = soft_hinge(np.array([3.0, -3.0]), np.ones(2))
    >>> loss.round(2), pullback(np.ones(2))[0].round(2)
    (array([0.04, 2.  ]), array([-0.07, -0.  ]))
    """
    z, target = as_reals("z", z), as_reals("target", target)
    require_same_shape("target", target, z.shape)
    level = np.tanh(1 - target * z)
    return level + 1, lambda g: (np.asarray(-g * target * (1 - level**2)),)


def _guesses(
    hidden: Sequence[Array], inverses: Sequence[Inverse], target: Array
) -> Sequence[Inverse]:
    """The inverses, if there is one between each two values and the target fits the last."""
    if len(inverses) != len(hidden) - 1:
        raise ValueError(
            f"`inverses` must be one fewer than {len(hidden)} hidden values; got {len(inverses)}")
    require_same_shape("target", target, hidden[-1].shape)
    return inverses


def _downward(
    hidden: Sequence[Array], target: Array, one: Callable[[int, Array], Array]
) -> list[Array]:
    """``target`` and, below it, ``one(i, target of i + 1)``."""
    targets = [target]
    for i in reversed(range(len(hidden) - 1)):
        new = one(i, targets[0])
        require_same_shape(f"inverses[{i}] of the target", new, hidden[i].shape)
        targets.insert(0, new)
    return targets
