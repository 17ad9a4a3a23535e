r"""Pruning: leave weights out, one by one, in a pattern, or whole channels at a time.

A weight that is zero need not be stored, and with hardware that knows the pattern not be
multiplied. *Which* ones is a score, *how many* the sparsity, and a mask says where:

=========================  ==========================================================
mask                       which weights stay
=========================  ==========================================================
`keep_largest`             the largest scores of one array
`keep_largest_of_all`      of several arrays together: each gets what it deserves
`keep_n_of_m`              the n largest of every m neighbours (2:4 sparse cores)
``channel_scores``         whole channels, which `cut_channels` then takes away
=========================  ==========================================================

The score of magnitude pruning is ``abs(weight)``; any other array of the same shape will do,
such as `surgeon_scores`, or random numbers for a baseline. Ties are kept in C order, so the
sparsity is met exactly.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_no_nan,
    require_nonempty,
    require_number,
    require_same_shape,
)

__all__ = [
    "Cut",
    "channel_scores",
    "cut_channels",
    "gradual",
    "keep_largest",
    "keep_largest_of_all",
    "keep_n_of_m",
    "surgeon_scores",
]


class Cut(NamedTuple):
    """Two layers after channels between them have been taken away.

    Attributes
    ----------
    first : ndarray of float, shape (kept, ...)
    bias : ndarray of float, shape (kept,)
    second : ndarray of float, shape (..., kept)

    References
    ----------
    Li et al., 2017, arXiv:1608.08710, figure 1.
    """

    first: Array
    bias: Array
    second: Array


def keep_largest(scores: Array, sparsity: float) -> Array:
    """Mask of the weights that stay: all but the smallest scores.

    Parameters
    ----------
    scores : ndarray of float
        For example ``abs(weight)``.
    sparsity : float, in [0, 1]
        Share that goes. Exactly ``round(sparsity * scores.size)`` go, also where scores tie
        (then the later ones).

    Returns
    -------
    ndarray of bool, shape of `scores`

    Raises
    ------
    ValueError
        If `sparsity` lies outside of [0, 1], or a score is NaN.

    References
    ----------
    Han et al., 2015, arXiv:1506.02626, section 3 (with a quantile for a threshold); Janowsky,
    1989, Phys. Rev. A 39, 6600.

    Examples
    --------
    >>> keep_largest(np.array([3.0, 0.1, 2.0, 0.1]), 0.25)
    array([ True,  True,  True, False])
    """
    return keep_largest_of_all([scores], sparsity)[0]


def keep_largest_of_all(scores: Sequence[Array], sparsity: float) -> list[Array]:
    """Masks of several arrays, with one threshold for all of them.

    Layers that can spare more give more; a small layer may vanish altogether.

    Parameters
    ----------
    scores : sequence of ndarray of float
    sparsity : float, in [0, 1]
        Share that goes, of all arrays together.

    Returns
    -------
    list of ndarray of bool, shapes of `scores`

    Raises
    ------
    ValueError
        If `sparsity` lies outside of [0, 1], or a score is NaN.

    References
    ----------
    Blalock et al., 2020, arXiv:2003.03033, section 7.1 (global magnitude pruning).

    Examples
    --------
    >>> keep_largest_of_all([np.array([3.0, 0.1]), np.array([2.0, 1.0])], 0.5)
    [array([ True, False]), array([ True, False])]
    """
    require_number("sparsity", sparsity)
    if not 0 <= sparsity <= 1:
        raise ValueError(f"`sparsity` must lie in [0, 1]; got {sparsity}")
    arrays = [as_reals("scores", s) for s in scores]
    joined = np.concatenate([s.ravel() for s in arrays] or [np.empty(0)])
    require_no_nan("scores", joined)
    mask = np.zeros(joined.size, bool)
    kept = joined.size - round(sparsity * joined.size)
    mask[np.argsort(-joined, kind="stable")[:kept]] = True
    ends = np.cumsum([s.size for s in arrays])
    return [mask[end - s.size : end].reshape(s.shape) for s, end in zip(arrays, ends, strict=True)]


def keep_n_of_m(scores: Array, n: int, m: int) -> Array:
    """Mask of the n largest of every m neighbours along the last axis.

    Parameters
    ----------
    scores : ndarray of float, shape (..., in)
    n, m : int
        ``1 <= n <= m``, and m divides ``in``.

    Returns
    -------
    ndarray of bool, shape of `scores`
        Exactly n in each group of m.

    Raises
    ------
    ValueError
        If m does not divide the last axis, or a score is NaN.

    References
    ----------
    Mishra et al., 2021, arXiv:2104.08378, section 3 (2:4).

    Examples
    --------
    >>> keep_n_of_m(np.array([4.0, 1.0, 3.0, 2.0]), 2, 4)
    array([ True, False,  True, False])
    """
    scores = as_reals("scores", scores)
    require_int("m", m, 1)
    require_int("n", n, 1, m)
    require_no_nan("scores", scores)
    if scores.ndim == 0 or scores.shape[-1] % m:
        raise ValueError(f"`m` must divide the last axis of shape {scores.shape}; got {m}")
    groups = scores.reshape(*scores.shape[:-1], -1, m)
    order = np.argsort(-groups, axis=-1, kind="stable")
    mask = np.zeros(groups.shape, bool)
    np.put_along_axis(mask, order[..., :n], True, axis=-1)
    return mask.reshape(scores.shape)


def gradual(start: float, end: float, steps: int, step: int) -> float:
    r"""Sparsity at a step: fast while much is superfluous, slow where it begins to hurt.

    .. math:: s_t = s_f + (s_i - s_f) \left(1 - \frac{t}{T}\right)^3

    Parameters
    ----------
    start, end : float
        :math:`s_i` and :math:`s_f`.
    steps : int, at least 1
        T; from there on the sparsity is `end`.
    step : int, at least 0
        t.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `steps` is below 1 or `step` below 0.

    References
    ----------
    Zhu and Gupta, 2017, arXiv:1710.01878, eq. (1).

    Examples
    --------
    >>> [round(gradual(0.0, 0.8, 4, t), 4) for t in range(6)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8, 0.8]
    """
    require_int("steps", steps, 1)
    require_int("step", step, 0)
    return float(end + (start - end) * (1 - min(step / steps, 1.0)) ** 3)


def surgeon_scores(weight: Array, hessian: Array) -> Array:
    r"""What the layer's output loses with each weight, if the rest of its row makes up for it.

    .. math:: s_{ij} = \frac{w_{ij}^2}{2\,[H^{-1}]_{jj}}

    A small weight on an input that nothing else can stand in for is worth more than a large
    one whose input its neighbours know already.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive definite
        Second moment of the inputs, damped if need be.

    Returns
    -------
    ndarray of float64, shape (out, in)

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `hessian` is not positive definite.

    References
    ----------
    Hassibi and Stork, 1992, "Second order derivatives for network pruning", eq. (5); Frantar
    and Alistarh, 2022, arXiv:2208.11580, eq. (3).

    Examples
    --------
    >>> surgeon_scores(np.array([[2.0, 2.0]]), np.array([[2.0, 0.0], [0.0, 1.0]]))
    array([[4., 2.]])
    """
    weight, hessian = as_reals("weight", weight), as_reals("hessian", hessian)
    if weight.ndim != 2:
        raise ValueError(f"`weight` must have shape (out, in); got {weight.shape}")
    require_same_shape("hessian", hessian, (weight.shape[1],) * 2)
    require_finite("weight", weight)
    require_finite("hessian", hessian)
    try:
        factor = cho_factor(hessian.astype(np.float64))
    except np.linalg.LinAlgError:
        raise ValueError("`hessian` must be positive definite; got one that is not: add to its "
                         "diagonal") from None
    inverse = np.diag(cho_solve(factor, np.eye(len(hessian))))
    return weight.astype(np.float64) ** 2 / (2 * inverse)


def channel_scores(first: Array, second: Array) -> Array:
    r"""Size of each channel between two layers, out of the first and into the second.

    .. math:: s_i = \sum_j |W^{(1)}_{ij}| \; \sum_k |W^{(2)}_{ki}|

    The norm of the first layer's filters alone, as published, changes when a factor is moved
    from one layer to the other, though the network stays the same; the product does not.

    Parameters
    ----------
    first : ndarray of float, shape (channels, ...)
    second : ndarray of float, shape (..., channels)

    Returns
    -------
    ndarray of float64, shape (channels,)

    Raises
    ------
    ValueError
        If the channels of the two do not agree.

    References
    ----------
    Li et al., 2017, arXiv:1608.08710, section 3.1 (the L1 norm of the first factor).

    Examples
    --------
    >>> channel_scores(np.array([[1.0], [4.0]]), np.array([[2.0, 0.5]]))
    array([2., 2.])
    """
    first, second = _pair(first, second)
    sizes = (np.abs(w, dtype=np.float64).reshape(len(first), -1).sum(1)
             for w in (first, np.moveaxis(second, -1, 0)))
    return np.multiply(*sizes)


def cut_channels(first: Array, bias: Array, second: Array, keep: Array) -> Cut:
    """Two layers without the channels that do not stay.

    Parameters
    ----------
    first : ndarray of float, shape (channels, ...)
    bias : ndarray of float, shape (channels,)
    second : ndarray of float, shape (..., channels)
    keep : ndarray of bool, shape (channels,)
        For example ``keep_largest(channel_scores(first, second), 0.5)``; at least one.

    Returns
    -------
    Cut
        Dense and smaller: no sparse arithmetic is needed to profit.

    Raises
    ------
    ValueError
        If the channels do not agree, or none is kept.
    TypeError
        If `keep` is not a mask.

    References
    ----------
    Li et al., 2017, arXiv:1608.08710, section 3.1.

    Examples
    --------
    >>> cut_channels(np.array([[1.0], [4.0]]), np.array([0.0, 1.0]), np.array([[2.0, 0.5]]),
    ...              np.array([False, True]))
    Cut(first=array([[4.]]), bias=array([1.]), second=array([[0.5]]))
    """
    first, second = _pair(first, second)
    bias, keep = as_reals("bias", bias), np.asarray(keep)
    require_same_shape("bias", bias, (len(first),))
    if keep.dtype != bool:
        raise TypeError(f"`keep` must be a mask of bool; got {keep.dtype}")
    require_same_shape("keep", keep, (len(first),))
    require_nonempty("keep", keep[keep])
    return Cut(first[keep], bias[keep], second[..., keep])


def _pair(first: Array, second: Array) -> tuple[Array, Array]:
    first, second = as_reals("first", first), as_reals("second", second)
    if first.ndim == 0 or second.ndim == 0 or len(first) != second.shape[-1]:
        raise ValueError(f"`second` must end in the channels of `first`, shape {first.shape}; "
                         f"got {second.shape}")
    return first, second
