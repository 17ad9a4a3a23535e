r"""Distilled data (ZeroQ): descend in the *input* until a network sees the statistics it knows.

A batch norm keeps the mean and variance of its input over the whole training set. That is a
description of the data, layer by layer, which ships with the weights. So start from noise and
change the images until what enters each norm has the moments that the norm remembers:

.. math:: \min_x \sum_l \lVert \mu_l(x) - \mu_l \rVert^2 + \lVert \sigma_l(x) - \sigma_l \rVert^2

What a statistic is taken over is a decision, and so a function:

======================  =========================================  ====================
distance                moments of                                  difference
======================  =========================================  ====================
`batch_distance`        the batch, as the paper writes              squares
`sample_distance`       each image alone, as the authors' code      squares
`gaussian_divergence`   the batch                                   Kullback-Leibler
======================  =========================================  ====================

The descent knows no network: it takes a function from images to the loss and its gradient,
such as `refquant.apply.zero_shot.statistics_loss` makes.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_data,
    require_fraction,
    require_int,
    require_positive,
    require_same_shape,
)

__all__ = [
    "Distance",
    "Distillation",
    "LossAndGradient",
    "batch_distance",
    "distill",
    "gaussian_divergence",
    "sample_distance",
    "start",
]

#: Value, means and variances to keep -> (distance, pullback), an operation of a network.
Distance: TypeAlias = Callable[
    [Array, Array, Array], tuple[Array, Callable[[Array], tuple[Array | None, ...]]]]

#: Images -> the loss, and its gradient by the images.
LossAndGradient: TypeAlias = Callable[[Array], tuple[float, Array]]

_FIRST, _SECOND, _TINY = 0.9, 0.999, 1e-8       # Adam's constants
_NOTICEABLE = 1e-4                              # a loss is better if it is better by this share


class Distillation(NamedTuple):
    """Images on their way: all that the next step needs, and so all that a pause must keep.

    Attributes
    ----------
    x : ndarray of float
        The images.
    losses : ndarray of float64, shape (steps,)
        Of the images before each step.
    first, second : ndarray of float64, shape of `x`
        Adam's averages of the gradient and of its square.
    rate : float
        Of the next step.
    best : float
        Least loss so far.
    waited : int
        Steps since it was last bettered.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, section 3.1.
    """

    x: Array
    losses: Array
    first: Array
    second: Array
    rate: float
    best: float
    waited: int


def batch_distance(
    x: Array, mean: Array, variance: Array, *, epsilon: float = 1e-6
) -> tuple[Array, Callable[[Array], tuple[Array | None, ...]]]:
    r"""Squared distance of a batch's means and deviations from those to keep.

    .. math:: D = \sum_c (\mu_c(x) - \mu_c)^2 + (\sigma_c(x) - \sigma_c)^2, \qquad
              \sigma = \sqrt{v + \epsilon}

    with moments over all axes but the last, the variance unbiased as batch norms keep it.

    Parameters
    ----------
    x : ndarray of float, shape (..., channels)
        At least two rows.
    mean, variance : ndarray of float, shape (channels,)
        Running statistics of the norm.
    epsilon : float
        On both sides alike, so that the distance is 0 exactly where the moments agree. It
        keeps the gradient of a constant channel finite: 0, in fact.

    Returns
    -------
    value : ndarray, shape ()
        In the dtype of `x`.
    pullback : callable
        Gradient of `x`; None for the statistics.

    Raises
    ------
    ValueError
        If there is one row, which has no variance, or the shapes do not fit.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, eq. (3).

    Examples
    --------
    >>> x = np.array([[1.0], [3.0]])                    # mean 2, variance 2
    >>> float(batch_distance(x, np.array([2.0]), np.array([2.0]))[0])
    0.0
    >>> round(float(batch_distance(x, np.array([5.0]), np.array([2.0]))[0]), 6)
    9.0
    """
    return _squares(x, mean, variance, tuple(range(x.ndim - 1)), epsilon)


def sample_distance(
    x: Array, mean: Array, variance: Array, *, epsilon: float = 1e-6
) -> tuple[Array, Callable[[Array], tuple[Array | None, ...]]]:
    r"""The same for each image alone, on average over the images.

    .. math:: D = \frac1n \sum_i \sum_c (\mu_c(x_i) - \mu_c)^2 + (\sigma_c(x_i) - \sigma_c)^2

    This asks every image to look like the whole training set, which no real image does.

    Parameters
    ----------
    x : ndarray of float, shape (n, ..., channels)
        At least two positions in each image.
    mean, variance : ndarray of float, shape (channels,)
    epsilon : float

    Returns
    -------
    value : ndarray, shape ()
        In the dtype of `x`.
    pullback : callable
        Gradient of `x`; None for the statistics.

    Raises
    ------
    ValueError
        If images have one position, or the shapes do not fit.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281: the authors' code, where the paper has eq. (3).

    Examples
    --------
    >>> x = np.array([[[1.0], [3.0]], [[5.0], [7.0]]])   # two images of two positions
    >>> round(float(sample_distance(x, np.array([4.0]), np.array([2.0]))[0]), 6)
    4.0
    """
    return _squares(x, mean, variance, tuple(range(1, x.ndim - 1)), epsilon)


def gaussian_divergence(
    x: Array, mean: Array, variance: Array, *, epsilon: float = 1e-6
) -> tuple[Array, Callable[[Array], tuple[Array | None, ...]]]:
    r"""Divergence of normals with the moments of the batch from those with the moments to keep.

    .. math:: D = \sum_c \ln\frac{\sigma_c}{\sigma_c(x)}
              + \frac{\sigma_c(x)^2 + (\mu_c(x) - \mu_c)^2}{2 \sigma_c^2} - \frac12

    A difference counts in units of the channel's own deviation, so that narrow channels count
    as much as wide ones.

    Parameters
    ----------
    x : ndarray of float, shape (..., channels)
        At least two rows.
    mean, variance : ndarray of float, shape (channels,)
    epsilon : float

    Returns
    -------
    value : ndarray, shape ()
        In the dtype of `x`.
    pullback : callable
        Gradient of `x`; None for the statistics.

    Raises
    ------
    ValueError
        If there is one row, or the shapes do not fit.

    References
    ----------
    Haroush et al., 2020, arXiv:1912.01274, section 3.2.

    Examples
    --------
    >>> x = np.array([[1.0], [3.0]])
    >>> round(float(gaussian_divergence(x, np.array([0.0]), np.array([2.0]))[0]), 5)
    1.0
    """
    axes = tuple(range(x.ndim - 1))
    centred, count, off, spread = _moments(x, mean, variance, axes, epsilon)
    wanted = variance.astype(np.float64) + epsilon
    terms = np.log(wanted / spread**2) / 2 + (spread**2 + off**2) / (2 * wanted) - 0.5

    def pullback(g: Array) -> tuple[Array | None, ...]:
        slope = (1 / wanted - 1 / spread**2) / (count - 1)
        dx = off / wanted / count + slope * centred
        return (g * dx).astype(x.dtype), None, None

    return np.asarray(terms.sum(), x.dtype), pullback


def start(x: Array, *, rate: float = 0.5) -> Distillation:
    """Images before the first step.

    Parameters
    ----------
    x : ndarray of float
        Usually standard normal noise.
    rate : float
        Of Adam: the published one is for images of mean 0 and deviation 1.

    Returns
    -------
    Distillation

    Raises
    ------
    ValueError
        If an element is not finite, there is none, or the rate is not positive.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, section 3.1.

    Examples
    --------
    >>> start(np.zeros((2, 4, 4, 1))).rate
    0.5
    """
    x = as_data("x", x)
    require_positive("rate", np.asarray(rate))
    zeros = np.zeros(x.shape)
    return Distillation(x, np.empty(0), zeros, zeros, float(rate), np.inf, 0)


def distill(
    loss_and_gradient: LossAndGradient,
    state: Distillation,
    *,
    steps: int = 500,
    patience: int = 100,
    factor: float = 0.1,
    least: float = 1e-4,
    progress: Callable[[Distillation], None] = lambda state: None,
) -> Distillation:
    r"""Images after some steps of Adam, whose rate falls when the loss stops falling.

    No random number is drawn, and a state is all there is: 200 steps and then 300 are 500, bit
    for bit. Keep what `progress` is shown, and an interrupted descent goes on from there.

    Parameters
    ----------
    loss_and_gradient : callable, ndarray -> (float, ndarray)
    state : Distillation
        From `start`, or from an earlier call.
    steps : int
        To take now.
    patience : int
        Steps without a better loss (by a share of 1e-4) before the rate falls.
    factor : float, in (0, 1]
        What the rate is multiplied by.
    least : float
        Below which it does not fall.
    progress : callable, Distillation -> None
        Hears of each step.

    Returns
    -------
    Distillation

    Raises
    ------
    ValueError
        If a loss or gradient is not finite, or a number is out of range.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, section 3.1 and the authors' code (rate 0.5, 500 steps,
    patience 100); Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> mean, variance = np.array([4.0]), np.array([9.0])
    >>> def loss_and_gradient(x):
    ...     value, pullback = batch_distance(x, mean, variance)
    ...     return float(value), pullback(np.ones(()))[0]
    >>> x = np.random.default_rng(0).standard_normal((50, 1))
    >>> made = distill(loss_and_gradient, start(x)).x
    >>> made.mean().round(3), made.var(ddof=1).round(3)
    (np.float64(4.0), np.float64(9.0))
    """
    require_int("steps", steps, 0)
    require_int("patience", patience, 0)
    require_fraction("factor", factor)
    for _ in range(steps):
        loss, gradient = loss_and_gradient(state.x)
        require_same_shape("gradient", gradient, state.x.shape)
        if not np.isfinite(loss) or not np.isfinite(gradient).all():
            raise ValueError(f"`loss_and_gradient` must stay finite; got loss {loss} at step "
                             f"{len(state.losses)}")
        state = _stepped(state, float(loss), gradient.astype(np.float64), patience, factor, least)
        progress(state)
    return state


def _stepped(
    state: Distillation, loss: float, gradient: Array, patience: int, factor: float, least: float
) -> Distillation:
    """One step of Adam; then perhaps a lower rate."""
    steps = len(state.losses) + 1
    first = _FIRST * state.first + (1 - _FIRST) * gradient
    second = _SECOND * state.second + (1 - _SECOND) * gradient**2
    width = np.sqrt(second / (1 - _SECOND**steps)) + _TINY
    x = state.x - state.rate / (1 - _FIRST**steps) * first / width
    better = loss < state.best * (1 - _NOTICEABLE)
    best, waited = (loss, 0) if better else (state.best, state.waited + 1)
    rate = state.rate
    if waited > patience:
        waited, rate = 0, min(rate, max(rate * factor, least))
    return Distillation(x.astype(state.x.dtype), np.append(state.losses, loss), first, second,
                        rate, best, waited)


def _squares(
    x: Array, mean: Array, variance: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, Callable[[Array], tuple[Array | None, ...]]]:
    """Squared distances of moments over `axes`, summed over channels, on average over the rest."""
    centred, count, off, spread = _moments(x, mean, variance, axes, epsilon)
    wide = spread - np.sqrt(variance.astype(np.float64) + epsilon)
    groups = x.size // (count * x.shape[-1])

    def pullback(g: Array) -> tuple[Array | None, ...]:
        dx = off / count + wide / spread / (count - 1) * centred
        return (g * 2 / groups * dx).astype(x.dtype), None, None

    return np.asarray((off**2 + wide**2).sum() / groups, x.dtype), pullback


def _moments(
    x: Array, mean: Array, variance: Array, axes: tuple[int, ...], epsilon: float
) -> tuple[Array, int, Array, Array]:
    """`x` less its means, elements per mean, means less those to keep, deviations."""
    if x.dtype.kind != "f":                     # a distance in whole numbers, a gradient of 0
        raise TypeError(f"`x` must be floats; got {x.dtype}")
    for name, statistic in (("mean", mean), ("variance", variance)):
        require_same_shape(name, statistic, x.shape[-1:])
    count = int(np.prod([x.shape[axis] for axis in axes]))
    if count < 2:
        raise ValueError(f"`x` must have at least two values per channel, or there is no variance; "
                         f"got shape {x.shape}")
    centre = x.mean(axes, dtype=np.float64, keepdims=True)
    centred = x - centre
    spread = np.sqrt((centred**2).sum(axes, keepdims=True) / (count - 1) + epsilon)
    return centred, count, centre - mean, spread
