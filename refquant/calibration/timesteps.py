r"""Timesteps: calibrate a network that runs in a loop at every hour of its loop.

A diffusion model is one network, used some fifty times in a row on values that change all the
way: noise at the start, an image at the end. Its ranges change with them. Three questions follow.

=============================  ======================================================
which steps are looked at      `evenly` over the whole chain, or `drawn` at random
one range, or many             `joined` over steps, or each step `with_neighbours`
a value made of two            `range_of_parts`: a range for each part
=============================  ======================================================

The statistics of single steps are those of `refquant.calibration.statistics`, which merge; so
a range for all steps, for each, or for any group of them comes from the same one run.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import Protocol, Self, TypeVar

import numpy as np

from refquant._types import Array
from refquant._validate import as_data, require_finite, require_int
from refquant.calibration.statistics import Range

__all__ = ["drawn", "evenly", "joined", "range_of_parts", "with_neighbours"]


class _Joins(Protocol):
    """A statistic that joins with another of its kind."""

    def merge(self, other: Self, /) -> Self:
        """Statistic of the data of both."""


_S = TypeVar("_S", bound=_Joins)


def evenly(steps: Array, count: int) -> Array:
    r"""Some of the steps, evenly spread over the chain.

    .. math:: i_k = \lfloor k N / n \rfloor, \qquad k = 0, \ldots, n - 1

    Parameters
    ----------
    steps : ndarray of int, shape (N,)
        The steps of the sampler in the order of the run, the noisiest first.
    count : int
        The n of the equation, at most N.

    Returns
    -------
    ndarray of int, shape (count,)
        In the order of `steps`; the first of them is among them.

    Raises
    ------
    ValueError
        If there are fewer than `count` steps.

    References
    ----------
    Li et al., 2023, arXiv:2302.04304 (Q-Diffusion): calibration data from every (N / n)-th
    step.

    Examples
    --------
    >>> evenly(np.array([800, 600, 400, 200, 0]), 2)
    array([800, 400])
    """
    steps = _as_steps(steps)
    require_int("count", count, 1, len(steps))
    return steps[np.arange(count) * len(steps) // count]


def drawn(
    steps: Array, size: int, *, rng: np.random.Generator, mean: float = 0.4, std: float = 0.4
) -> Array:
    r"""Steps drawn from a normal distribution that leans towards the image.

    .. math:: t = \mathrm{clip}(\lfloor N z \rfloor, 0, N - 1), \qquad z \sim N(\mu, \sigma^2)

    counted from the image: t = 0 is the last of `steps`. The clip collects what falls below
    zero, 16 of 100 draws with the defaults, on that last step.

    Parameters
    ----------
    steps : ndarray of int, shape (N,)
        The steps of the sampler in the order of the run, the noisiest first.
    size : int
        How many to draw, with repetition.
    rng : numpy.random.Generator
        One standard normal draw per step.
    mean, std : float
        In units of the length of the chain; `std` not negative.

    Returns
    -------
    ndarray of int, shape (size,)
        In the order of the draws.

    Raises
    ------
    ValueError
        If there is no step, `std` is negative, or a number is not finite.

    Notes
    -----
    The paper speaks of a skewed normal; the authors' code draws a plain one and clips it, with
    mean 0.4 and standard deviation 0.4 in its scripts. This is the code.

    References
    ----------
    Shang et al., 2023, arXiv:2211.15736 (PTQ4DM), and its code.

    Examples
    --------
    >>> drawn(np.array([800, 600, 400, 200, 0]), 6, rng=np.random.default_rng(0))
    array([400, 200, 600, 400,   0, 400])
    """
    steps = _as_steps(steps)
    require_int("size", size, 1)
    require_finite("mean", np.asarray(mean))
    require_finite("std", np.asarray(std))
    if std < 0:
        raise ValueError(f"`std` must not be negative; got {std}")
    place = np.floor(len(steps) * (mean + std * rng.standard_normal(size)))
    return steps[::-1][np.clip(place, 0, len(steps) - 1).astype(np.int64)]


def joined(by_step: Mapping[int, _S], steps: Iterable[int]) -> _S:
    r"""One statistic of all these steps.

    .. math:: S = \mathrm{merge}_{t} \, S_t

    Parameters
    ----------
    by_step : mapping of int to statistic
        Statistic of each step.
    steps : iterable of int
        Which to join, at least one; twice the same is once, so that counts stay counts.

    Returns
    -------
    statistic
        As if the values of these steps had been seen at once.

    Raises
    ------
    ValueError
        If there is no step, or one without a statistic.

    References
    ----------
    Li et al., 2023, arXiv:2302.04304 (timestep-aware calibration).

    Examples
    --------
    >>> ranges = {t: Range(np.array([0.0]), np.array([float(t)])) for t in (3, 2, 1)}
    >>> joined(ranges, [1, 2]).high
    array([2.])
    """
    wanted = list(dict.fromkeys(int(t) for t in steps))
    if not wanted:
        raise ValueError("`steps` must hold at least one step; got none")
    missing = [t for t in wanted if t not in by_step]
    if missing:
        raise ValueError(f"`steps` must have been observed; got {missing[0]}")
    return reduce(lambda a, b: a.merge(b), (by_step[t] for t in wanted))


def with_neighbours(by_step: Mapping[int, _S], reach: int) -> dict[int, _S]:
    r"""Each step's statistic joined with those of the steps just before and after it.

    .. math:: S'_{i} = \mathrm{merge}(S_{i - r}, \ldots, S_{i + r})

    A single step has seen little data, and its range is that much too small; neighbours lend
    theirs.

    Parameters
    ----------
    by_step : mapping of int to statistic
        In the order of the run.
    reach : int
        The r of the equation; 0 leaves all as it is.

    Returns
    -------
    dict of int to statistic
        In the same order. At the ends there are fewer neighbours.

    Raises
    ------
    ValueError
        If `reach` is negative.

    References
    ----------
    Wang et al., 2023, arXiv:2305.18723, for quantizers shared by groups of steps.

    Examples
    --------
    >>> ranges = {t: Range(np.array([0.0]), np.array([float(t)])) for t in (3, 2, 1)}
    >>> [float(r.high[0]) for r in with_neighbours(ranges, 1).values()]
    [3.0, 3.0, 2.0]
    """
    require_int("reach", reach, 0)
    order = list(by_step)
    return {
        t: joined(by_step, order[max(i - reach, 0) : i + reach + 1]) for i, t in enumerate(order)
    }


def range_of_parts(x: Array, sizes: Sequence[int]) -> Range:
    """Range of each part of a value that was joined from parts along its last axis.

    What enters after a shortcut is often two tensors side by side, of different scale. Here
    each part keeps its range, repeated over its columns; a quantizer made from it has a step
    for each part, and the layer behind is two products, added.

    Parameters
    ----------
    x : ndarray of float, shape (..., columns)
        Finite values, at least one.
    sizes : sequence of int
        Columns of each part; they sum to `columns`.

    Returns
    -------
    Range
        Of shape (1, ..., 1, columns).

    Raises
    ------
    ValueError
        If the sizes are not positive or do not sum to the columns.

    References
    ----------
    Li et al., 2023, arXiv:2302.04304 (shortcut-splitting quantization).

    Examples
    --------
    >>> range_of_parts(np.array([[1.0, 2.0, 9.0]]), [2, 1]).high
    array([[2., 2., 9.]])
    """
    x = as_data("x", x)
    for size in sizes:
        require_int("sizes", size, 1)
    if x.ndim == 0 or sum(sizes) != x.shape[-1]:
        raise ValueError(
            f"`sizes` must sum to the columns of data of shape {x.shape}; got {list(sizes)}"
        )
    parts = np.split(x, np.cumsum(sizes)[:-1], axis=-1)
    ranges = [Range.of(part) for part in parts]
    low, high = (
        np.concatenate([np.repeat(end, n, axis=-1) for end, n in zip(ends, sizes, strict=True)],
                       axis=-1)
        for ends in ([r.low for r in ranges], [r.high for r in ranges])
    )
    return Range(low, high)


def _as_steps(steps: Array) -> Array:
    """`steps` as a vector of whole numbers with at least one of them."""
    steps = np.asarray(steps)
    if not np.issubdtype(steps.dtype, np.integer):
        raise TypeError(f"`steps` must be integers; got {steps.dtype}")
    if steps.ndim != 1 or steps.size == 0:
        raise ValueError(f"`steps` must be a vector of at least one step; got shape {steps.shape}")
    return steps
