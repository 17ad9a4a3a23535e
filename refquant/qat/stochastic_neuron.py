r"""Train through a coin: four ways to get a gradient for a neuron that fires at random.

The neuron is :math:`b \sim \mathrm{Bernoulli}(p)`, :math:`p = \sigma(a)`, and the loss is known
only at the b that was drawn. What one wants is :math:`dE[L]/da = p(1-p)\,(L(1) - L(0))`.

==================  ===========================  ======================================
estimator           gradient by a                bias and variance
==================  ===========================  ======================================
`score`             (L - c) (b - p)              none; variance down to 0 at the best c
`straight_through`  dL/db                        biased; the variance of dL/db
`sloped`            dL/db p (1 - p)              none if L is linear; less variance
`smooth_part`       of ``b sqrt(p)``, b fixed    another neuron, half of it is smooth
==================  ===========================  ======================================

Stochastic rounding is the same neuron between two levels: `round_stochastically`.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_no_nan
from refquant.qat._common import Pullback, as_positive
from refquant.rounding import stochastic

__all__ = ["best_baseline", "fire", "firing_probability", "round_stochastically", "score",
           "score_variance", "sloped", "smooth_part", "straight_through"]


def firing_probability(a: Array) -> Array:
    r"""Probability that the neuron fires, :math:`\sigma(a)`.

    Parameters
    ----------
    a : ndarray of float

    Returns
    -------
    ndarray
        In [0, 1], shape and dtype of `a`.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432 (stochastic binary neurons).

    Examples
    --------
    >>> firing_probability(np.array([-800.0, 0.0, 0.4])).round(3)
    array([0.   , 0.5  , 0.599])
    """
    a = as_reals("a", a)
    return np.asarray((1 + np.tanh(a / 2)) / 2)       # exp would overflow


def fire(a: Array, *, rng: np.random.Generator) -> Array:
    """What the neuron does: 1 where a uniform draw lies below the probability, else 0.

    Parameters
    ----------
    a : ndarray of float
    rng : numpy.random.Generator
        One uniform draw per element, in C order.

    Returns
    -------
    ndarray
        0 and 1, shape and dtype of `a`.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432 (stochastic binary neurons).

    Examples
    --------
    >>> float(fire(np.full(100_000, 0.4), rng=np.random.default_rng(0)).mean().round(2))
    0.6
    """
    a = as_reals("a", a)
    require_no_nan("a", a)
    return (rng.random(a.shape) < firing_probability(a)).astype(a.dtype)


def score(loss: Array, fired: Array, a: Array, *, baseline: Array) -> Array:
    r"""REINFORCE: an unbiased gradient from losses alone, with no derivative of the loss.

    .. math:: \hat g = (L - c)\,(b - \sigma(a)), \qquad E[\hat g] = \frac{dE[L]}{da}

    for every c that does not depend on b.

    Parameters
    ----------
    loss : ndarray of float, broadcastable with `fired`
        L of each draw, e.g. shape (draws, 1) for a network of several neurons.
    fired : ndarray of float
        b, from `fire`.
    a : ndarray of float, broadcastable to `fired`
    baseline : ndarray of float, broadcastable to `fired`
        c: zero, a running mean of the loss, or `best_baseline`.

    Returns
    -------
    ndarray, shape of `fired`

    References
    ----------
    Williams, 1992, Machine Learning 8; Bengio et al., 2013, arXiv:1308.3432 (the unbiased
    estimator).

    Examples
    --------
    >>> a, rng = np.full(100_000, 0.4), np.random.default_rng(0)
    >>> b = fire(a, rng=rng)
    >>> float(score((b - 0.3) ** 2, b, a, baseline=np.array(0.0)).mean().round(3))
    0.096
    """
    return np.asarray((loss - baseline) * (fired - firing_probability(a)))


def best_baseline(loss: Array, fired: Array, a: Array) -> Array:
    r"""The baseline of least variance, estimated from draws along the first axis.

    .. math:: c^\star = \frac{E[(b - p)^2 L]}{E[(b - p)^2]}

    Parameters
    ----------
    loss, fired, a : ndarray of float
        As in `score`; the first axis of `fired` counts draws.

    Returns
    -------
    ndarray, shape of `fired` without its first axis
        One baseline per neuron. 0 where every draw has b = p.

    Notes
    -----
    It must be estimated from other draws than it is used on, or the estimate is biased.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432 (the baseline of minimum variance).

    Examples
    --------
    >>> a, rng = np.full((100_000, 1), 0.4), np.random.default_rng(0)
    >>> b = fire(a, rng=rng)
    >>> best_baseline((b - 0.3) ** 2, b, a).round(2)        # (1 - p) 0.49 + p 0.09
    array([0.25])
    """
    square = (fired - firing_probability(a)) ** 2
    total = square.sum(0)
    return np.asarray((square * loss).sum(0) / np.where(total == 0, 1, total))


def score_variance(a: Array, loss_off: Array, loss_on: Array, baseline: Array) -> Array:
    r"""Variance of `score` for one neuron, exactly: it takes two values.

    .. math:: \mathrm{Var}[\hat g] = p(1-p)\,\bigl((1-p) L(1) + p L(0) - c\bigr)^2

    So one neuron has *no* variance at the best baseline :math:`(1-p) L(1) + p L(0)`. With several
    neurons the others make L random, and what is left is their noise.

    Parameters
    ----------
    a : ndarray of float
    loss_off, loss_on : ndarray of float
        L(0) and L(1).
    baseline : ndarray of float
        c.

    Returns
    -------
    ndarray
        Shape of the arguments, broadcast.

    References
    ----------
    Two-point variance, ``p (1 - p) (u - v)**2``; compare Bengio et al., 2013,
    arXiv:1308.3432.

    Examples
    --------
    >>> off, on = np.array(0.09), np.array(0.49)
    >>> score_variance(np.array(0.0), off, on, np.array([0.0, 0.29])).round(3)
    array([0.021, 0.   ])
    """
    p = firing_probability(a)
    return np.asarray(p * (1 - p) * ((1 - p) * loss_on + p * loss_off - baseline) ** 2)


def straight_through(a: Array, *, rng: np.random.Generator) -> tuple[Array, Pullback]:
    """A draw of the neuron, and the gradient as if it were the identity.

    Parameters
    ----------
    a : ndarray of float
    rng : numpy.random.Generator
        As in `fire`.

    Returns
    -------
    value : ndarray, shape of `a`
        0 and 1.
    pullback : callable
        Gradient of `a`: the gradient of the value.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432 (the straight-through estimator).

    Examples
    --------
    >>> b, pullback = straight_through(np.array([-50.0, 50.0]), rng=np.random.default_rng(0))
    >>> b, pullback(np.array([0.5, 2.0]))[0]
    (array([0., 1.]), array([0.5, 2. ]))
    """
    return fire(a, rng=rng), lambda g: (g,)


def sloped(a: Array, *, rng: np.random.Generator) -> tuple[Array, Pullback]:
    r"""A draw of the neuron, and the gradient of its probability, :math:`\sigma'(a)`.

    Parameters
    ----------
    a : ndarray of float
    rng : numpy.random.Generator
        As in `fire`.

    Returns
    -------
    value : ndarray, shape of `a`
        0 and 1.
    pullback : callable
        Gradient of `a`, times p (1 - p). Unbiased where the loss is linear in the value.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432 (straight-through, times the slope).

    Examples
    --------
    >>> b, pullback = sloped(np.array([0.0, 50.0]), rng=np.random.default_rng(0))
    >>> pullback(np.array([1.0, 1.0]))[0].round(3)
    array([0.25, 0.  ])
    """
    p = firing_probability(a)
    return fire(a, rng=rng), lambda g: (np.asarray(g * p * (1 - p)),)


def smooth_part(a: Array, *, rng: np.random.Generator) -> tuple[Array, Pullback]:
    r"""Smooth times stochastic: :math:`h = b \sqrt p`, whose mean is :math:`p^{3/2}`.

    The draw decides whether, the smooth part by how much; the gradient takes b as given,
    :math:`\partial h / \partial a = \frac{b}{2} \sqrt p\,(1 - p)`. That is a third of
    :math:`dE[h]/da = \frac32 p^{3/2} (1 - p)` on the average: the direction is right and the
    draw's own part is missing.

    Parameters
    ----------
    a : ndarray of float
    rng : numpy.random.Generator
        As in `fire`.

    Returns
    -------
    value : ndarray, shape of `a`
    pullback : callable
        Gradient of `a`.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432 (stochastic times smooth units).

    Examples
    --------
    >>> h, pullback = smooth_part(np.array([50.0, 0.0]), rng=np.random.default_rng(0))
    >>> h.round(3), pullback(np.ones(2))[0].round(3)
    (array([1.   , 0.707]), array([0.   , 0.177]))
    """
    root, fired = np.sqrt(firing_probability(a)), fire(a, rng=rng)
    return fired * root, lambda g: (np.asarray(g * fired * root * (1 - root**2) / 2),)


def round_stochastically(
    x: Array, *, step: Array, rng: np.random.Generator
) -> tuple[Array, Pullback]:
    r"""A neuron between two levels: up with probability of the fraction, gradient 1.

    With q the value and f the fraction of x / s, :math:`E[q] = x`, so for a loss linear in q the
    gradient is exact. For a curved one

    .. math:: E[L(q)] = L(x) + \tfrac12 L'' s^2 f (1 - f), \qquad
              \frac{d}{dx} E[L(q)] = L'(x) + \tfrac12 L'' s\, (1 - 2f),

    while the pullback gives :math:`E[L'(q)] = L'(x)`: it differentiates the smooth loss and not
    the ripple of period s, whose mean over f is 0.

    Parameters
    ----------
    x : ndarray of float
    step : ndarray of float, broadcastable to `x`, > 0
    rng : numpy.random.Generator
        One uniform draw per element, in C order.

    Returns
    -------
    value : ndarray, shape of `x`
        A multiple of the step on either side of x, or x itself.
    pullback : callable
        Gradient of `x`: that of the value.

    Raises
    ------
    ValueError
        If `step` is not positive or does not broadcast, or `x` has a NaN.

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3; Bengio et al., 2013, arXiv:1308.3432.

    Examples
    --------
    >>> x = np.full(100_000, 0.3)
    >>> q, _ = round_stochastically(x, step=np.array(1.0), rng=np.random.default_rng(0))
    >>> np.unique(q), float(q.mean().round(2))
    (array([0., 1.]), 0.3)
    """
    x = as_reals("x", x)
    step = as_positive("step", step, x)
    value = (stochastic(x / step, rng=rng) * step).astype(x.dtype)
    return value, lambda g: (g,)
