r"""DNAS: let gradient descent choose the bits, by training all choices at once.

In a *supernet* the weight of layer i is a mixture of its quantized versions,

.. math:: \hat w_i = \sum_k m_{ik} Q_k(w_i), \qquad
          m_i = \mathrm{GumbelSoftmax}(\theta_i, \tau)

Convolution is linear in the weight, so one convolution with the mixed weight is exactly the
mixture of all the convolutions, at the price of one. The expected cost
:math:`C = \sum_{ik} m_{ik} c_{ik}` has a gradient too. As the temperature falls, mixtures turn
into choices. Half of the data trains w, the other half :math:`\theta`.

Two ways to make one number of loss and cost:

==============  =========================================  ===============================
objective       formula                                    derivative by the cost
==============  =========================================  ===============================
product         :math:`L\,\beta (\log C)^\gamma`           proportional to L
sum             :math:`L + \lambda C`                      :math:`\lambda`, always
==============  =========================================  ===============================

The published form is the product. On a task that can be learned without error L goes to 0 and
takes the pressure with it: to halve L is then worth any price, and cheap. The sum keeps asking.
"""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_int, require_positive, require_same_shape

__all__ = [
    "Objective",
    "annealed",
    "cost_product",
    "cost_sum",
    "expected_cost",
    "likeliest",
    "mixture",
    "sampled",
]

Pullback: TypeAlias = Callable[[Array], tuple[Array | None, ...]]

#: Loss and cost to one number, and how its gradient passes back to both.
Objective: TypeAlias = Callable[[Array, Array], tuple[Array, Pullback]]


def mixture(
    weight: Array, shares: Array, *, quantize: Sequence[Callable[[Array], Array]]
) -> tuple[Array, Pullback]:
    r"""The quantized versions of a weight, mixed.

    The gradient of each share is the product of the incoming gradient with its version,
    :math:`\langle g, Q_k(w) \rangle`. Each version passes the gradient straight through, and
    shares sum to 1, so the gradient of the weight is g.

    Parameters
    ----------
    weight : ndarray of float, any shape
    shares : ndarray of float, shape (choices,)
        At least 0, sum 1.
    quantize : sequence of callable, ndarray -> ndarray
        One for each choice, values to what their codes stand for.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
    pullback : callable
        Gradients of `weight` and `shares`.

    Raises
    ------
    ValueError
        If there is not one share per choice.

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 5.

    Examples
    --------
    >>> value, pullback = mixture(np.array([0.4, 1.2]), np.array([0.25, 0.75]),
    ...                           quantize=[np.rint, lambda w: np.rint(2 * w) / 2])
    >>> value, pullback(np.array([1.0, 1.0]))
    (array([0.375, 1.   ]), (array([1., 1.]), array([1. , 1.5])))
    """
    require_same_shape("shares", shares, (len(quantize),))
    versions = np.stack([version(weight) for version in quantize])
    value = np.tensordot(shares.astype(versions.dtype), versions, 1)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        per_choice = versions.reshape(len(quantize), -1) @ g.ravel()
        return g * shares.sum().astype(g.dtype), per_choice.astype(shares.dtype)

    return value, pullback


def expected_cost(*shares: Array, costs: Array) -> tuple[Array, Pullback]:
    r"""Cost of a mixture of policies, :math:`\sum_i \langle m_i, c_i \rangle`.

    Parameters
    ----------
    *shares : ndarray of float, shape (choices,)
        One per slot.
    costs : ndarray, shape (slots, choices)
        In any unit; divided by the number of weights, a size is the bits of an average weight.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        A gradient for each of the shares.

    Raises
    ------
    ValueError
        If `costs` has not a row per slot.

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 5.

    Examples
    --------
    >>> value, pullback = expected_cost(np.array([0.5, 0.5]), costs=np.array([[2.0, 8.0]]))
    >>> float(value), pullback(np.array(1.0))
    (5.0, (array([2., 8.]),))
    """
    require_same_shape("costs", costs, (len(shares), len(shares[0])))
    table = costs.astype(shares[0].dtype)
    total = np.sum([m @ c for m, c in zip(shares, table, strict=True)], dtype=table.dtype)
    return np.asarray(total), lambda g: tuple(g * c for c in table)


def cost_sum(loss: Array, cost: Array, *, weight: float) -> tuple[Array, Pullback]:
    r"""Loss plus price, :math:`L + \lambda C`.

    Parameters
    ----------
    loss, cost : ndarray of float, shape ()
    weight : float
        :math:`\lambda`: loss that one unit of cost is worth.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradients of `loss` and `cost`.

    References
    ----------
    Cai, Zhu and Han, 2019, arXiv:1812.00332, section 3.3.

    Examples
    --------
    >>> value, pullback = cost_sum(np.array(0.5), np.array(4.0), weight=0.1)
    >>> float(value), float(pullback(np.array(1.0))[1])
    (0.9, 0.1)
    """
    return np.asarray(loss + weight * cost, loss.dtype), lambda g: (g, g * weight)


def cost_product(
    loss: Array, cost: Array, *, beta: float = 0.1, gamma: float = 0.9
) -> tuple[Array, Pullback]:
    r"""Loss times price, :math:`L\, \beta (\log C)^\gamma`.

    Parameters
    ----------
    loss, cost : ndarray of float, shape ()
        The cost above 1, in a fixed unit: the logarithm makes the unit matter.
    beta, gamma : float
        Scale and bend of the price.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradients of `loss` and `cost`; the second is proportional to the loss.

    Raises
    ------
    ValueError
        If the cost is not above 1.

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 5.

    Examples
    --------
    >>> back = lambda loss: cost_product(np.array(loss), np.array(100.0))[1]
    >>> [round(float(back(loss)(np.array(1.0))[1]), 8) for loss in (1.0, 0.01)]
    [0.00077253, 7.73e-06]
    """
    if not cost > 1:
        raise ValueError(f"`cost` must be above 1, for its logarithm; got {cost}")
    log = np.log(cost)
    price = beta * log**gamma

    def pullback(g: Array) -> tuple[Array | None, ...]:
        return g * price, g * loss * (beta * gamma * log ** (gamma - 1) / cost)

    return np.asarray(loss * price, loss.dtype), pullback


def annealed(first: float, last: float, steps: int) -> Callable[[int], float]:
    r"""Temperature that falls by the same factor at each step.

    .. math:: \tau_t = \tau_0 (\tau_T / \tau_0)^{t / T}

    Parameters
    ----------
    first, last : float
        At step 0, and from step `steps` on; > 0.
    steps : int
        T, at least 1.

    Returns
    -------
    callable, int -> float

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 6; Jang et al., 2017, arXiv:1611.01144,
    section 2.2.

    Examples
    --------
    >>> temperature = annealed(4.0, 0.25, 4)
    >>> [temperature(step) for step in range(6)]
    [4.0, 2.0, 1.0, 0.5, 0.25, 0.25]
    """
    require_int("steps", steps, 1)
    require_positive("first", np.asarray(first))
    require_positive("last", np.asarray(last))
    return lambda step: float(first * (last / first) ** (min(step, steps) / steps))


def likeliest(logits: Sequence[Array], choices: Codes) -> Codes:
    """The policy of the largest logits.

    Parameters
    ----------
    logits : sequence of ndarray, shape (choices,)
        One per slot.
    choices : ndarray of int32, shape (choices,)

    Returns
    -------
    ndarray of int32, shape (slots,)
        The lower width where two are equally likely.

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 4.

    Examples
    --------
    >>> likeliest([np.array([0.0, 1.0]), np.array([2.0, 1.0])], np.array([2, 4]))
    array([4, 2], dtype=int32)
    """
    return np.asarray(choices, np.int32)[[int(np.argmax(theta)) for theta in logits]]


def sampled(logits: Sequence[Array], choices: Codes, *, rng: np.random.Generator) -> Codes:
    r"""A policy drawn from the softmax of the logits: the largest of logit plus Gumbel noise.

    Parameters
    ----------
    logits : sequence of ndarray, shape (choices,)
        One per slot.
    choices : ndarray of int32, shape (choices,)
    rng : numpy.random.Generator
        One Gumbel draw per slot and choice.

    Returns
    -------
    ndarray of int32, shape (slots,)

    References
    ----------
    Maddison, Tarlow and Minka, 2014, arXiv:1411.0030 (the Gumbel-max trick); Wu et al., 2018,
    arXiv:1812.00090, section 4 (sample, then train each).

    Examples
    --------
    >>> sampled([np.array([0.0, 9.0])], np.array([2, 4]), rng=np.random.default_rng(0))
    array([4], dtype=int32)
    """
    return likeliest([theta + rng.gumbel(size=np.shape(theta)) for theta in logits], choices)
