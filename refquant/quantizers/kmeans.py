"""k-means weight sharing: let the weights choose the levels, then train the levels.

Lloyd's algorithm alternates two steps, neither of which can raise the squared
error: give each value to its nearest level, move each level to the mean of its
values. It ends in a *local* optimum; which one is decided by where it starts:

==============  =================================================================
start           where the levels are at first
==============  =================================================================
``linear``      evenly from the least to the greatest value: keeps the tails
``density``     at quantiles: many levels where there are many values
``forgy``       at random values of the data
``plus_plus``   at random values, far from those already chosen more likely
==============  =================================================================

`refquant.quantizers.optimal_kmeans` needs no start and finds the global optimum.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_data, as_reals, require_codes, require_int
from refquant.quantizers._points import distinct_points, settle, to_unit
from refquant.quantizers.codebook import Codebook, nearest

__all__ = ["Clustered", "centroid_gradients", "density", "forgy", "linear", "lloyd", "plus_plus"]


class Clustered(NamedTuple):
    """What Lloyd's algorithm returns.

    Attributes
    ----------
    quantizer : Codebook
        The levels, with thresholds at the midpoints.
    sweeps : int
        How many times the levels moved.
    converged : bool
        Whether the cells stood still at the end: levels are then the means of
        their cells.

    References
    ----------
    Lloyd, "Least squares quantization in PCM", 1982, doi:10.1109/TIT.1982.1056489.

    Examples
    --------
    >>> lloyd(np.array([0.0, 1.0, 5.0]), np.array([0.0, 1.0])).converged
    True
    """

    quantizer: Codebook
    sweeps: int
    converged: bool


def lloyd(
    x: Array, levels: Array, *, weights: Array | None = None, sweeps: int = 300
) -> Clustered:
    r"""Codebook at a local minimum of the weighted squared error, from given levels.

    .. math:: c_j \leftarrow \frac{\sum_{i \in j} h_i x_i}{\sum_{i \in j} h_i},
              \qquad i \in j \iff |x_i - c_j| \text{ is least}

    Parameters
    ----------
    x : ndarray of float, not empty, finite
    levels : ndarray of float, shape (k,), ascending
        Where to start, e.g. ``linear(x, k)``.
    weights : ndarray of float, shape of `x`, >= 0, optional
        The h, for instance the diagonal of the Hessian of the loss.
    sweeps : int
        The most that are made. Stopping when the levels hardly move would be wrong:
        for a Gaussian and 256 levels their last step is 7e-6 while the error is
        still visibly above the optimum.

    Returns
    -------
    Clustered
        A level without values stays where it is.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, the levels do not ascend, or a weight is
        negative.

    References
    ----------
    Lloyd, "Least squares quantization in PCM", 1982, doi:10.1109/TIT.1982.1056489;
    Han et al., "Deep Compression", 2016, arXiv:1510.00149, eq. (2).

    Examples
    --------
    >>> x = np.array([0.1, 0.2, 0.9, 1.0, 1.1, 3.0, 3.2, 10.0])
    >>> lloyd(x, linear(x, 3)).quantizer.levels.round(3)
    array([ 0.66,  3.1 , 10.  ])
    """
    require_int("sweeps", sweeps, 1)
    x = as_data("x", x)
    start = nearest(levels).levels              # checked: float, ascending
    if start.ndim != 1:
        raise ValueError(f"`levels` must have one axis; got shape {start.shape}")
    values, weight = distinct_points(x, weights)
    found, made, converged = settle(values, weight, start.astype(np.float64), sweeps)
    return Clustered(nearest(found.astype(x.dtype)), made, converged)


def linear(x: Array, k: int) -> Array:
    r"""Levels evenly spaced from the least value to the greatest, both included.

    Large weights are few, yet matter; here they have levels from the beginning.

    Parameters
    ----------
    x : ndarray of float, not empty, finite
    k : int
        Number of levels, at least 1 (one level is the least value).

    Returns
    -------
    ndarray of float, shape (k,), dtype of `x`

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `k` is below 1.

    References
    ----------
    Han et al., "Deep Compression", 2016, arXiv:1510.00149, section 3.2.

    Examples
    --------
    >>> linear(np.array([0.0, 0.1, 3.0]), 4)
    array([0., 1., 2., 3.])
    """
    x = _data(x, k)
    low, high = float(x.min()), float(x.max())
    factor = 1.0 if np.isfinite(high - low) else 2.0    # halves, where the range overflows
    return (np.linspace(low / factor, high / factor, k) * factor).astype(x.dtype)


def density(x: Array, k: int) -> Array:
    r"""Levels at the quantiles :math:`(j + 1/2) / k` of the data.

    Parameters
    ----------
    x : ndarray of float, not empty, finite
    k : int
        Number of levels, at least 1.

    Returns
    -------
    ndarray of float, shape (k,), dtype of `x`
        Repeated where one value holds several quantiles.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `k` is below 1.

    References
    ----------
    Han et al., "Deep Compression", 2016, arXiv:1510.00149, section 3.2, which
    leaves the offset 1/2 open.

    Examples
    --------
    >>> density(np.array([0.0, 1.0, 2.0, 3.0, 100.0]), 2)
    array([1., 3.])
    """
    x = _data(x, k)
    unit, exponent = to_unit(x.astype(np.float64))
    return np.ldexp(np.quantile(unit, (np.arange(k) + 0.5) / k), exponent).astype(x.dtype)


def forgy(x: Array, k: int, *, rng: np.random.Generator) -> Array:
    """Levels at `k` different values drawn from the data.

    Parameters
    ----------
    x : ndarray of float, at least `k` distinct values, finite
    k : int
        Number of levels, at least 1.
    rng : numpy.random.Generator
        One permutation of the elements.

    Returns
    -------
    ndarray of float, shape (k,), dtype of `x`

    Raises
    ------
    ValueError
        If `x` is empty, not finite, or has fewer than `k` distinct values.

    References
    ----------
    Forgy, "Cluster analysis of multivariate data", 1965, Biometrics 21, 768; Han
    et al., 2016, arXiv:1510.00149, section 3.2.

    Examples
    --------
    >>> forgy(np.array([5.0, 5.0, 1.0]), 2, rng=np.random.default_rng(0))
    array([1., 5.])
    """
    x = _data(x, k)
    values, first = np.unique(rng.permutation(x.ravel()), return_index=True)
    _require_distinct(k, values.size)
    return np.sort(values[np.argsort(first)[:k]])


def plus_plus(x: Array, k: int, *, rng: np.random.Generator) -> Array:
    r"""Levels drawn from the data one by one, far from the earlier ones more likely.

    .. math:: P(x_i) \propto \min_j (x_i - c_j)^2

    The error after this start alone is, in the mean, within a factor
    :math:`8 (\ln k + 2)` of the best.

    Parameters
    ----------
    x : ndarray of float, at least `k` distinct values, finite
    k : int
        Number of levels, at least 1.
    rng : numpy.random.Generator
        One uniform draw for each level.

    Returns
    -------
    ndarray of float, shape (k,), dtype of `x`

    Raises
    ------
    ValueError
        If `x` is empty, not finite, or has fewer than `k` distinct values.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++", 2007, theorem 1.1.

    Examples
    --------
    >>> plus_plus(np.array([5.0, 5.0, 1.0]), 2, rng=np.random.default_rng(0))
    array([1., 5.])
    """
    x = _data(x, k)
    values, counts = np.unique(x, return_counts=True)
    _require_distinct(k, values.size)
    # Relative to the spread, whose square can neither overflow nor vanish.
    at, _ = to_unit(values.astype(np.float64))
    at = (at - at[0]) / max(at[-1] - at[0], np.finfo(np.float64).smallest_normal)
    chosen = np.zeros(k, np.intp)
    distance = np.ones_like(at)                 # none is farther than this
    for j in range(k):
        odds = np.cumsum(counts * distance)
        drawn = np.searchsorted(odds, rng.random() * odds[-1], side="right")
        chosen[j] = min(drawn, at.size - 1)     # the product may round up to the sum
        distance = np.minimum(distance, (at - at[chosen[j]]) ** 2)
    return values[np.sort(chosen)]


def centroid_gradients(gradient: Array, codes: Array, k: int) -> Array:
    r"""Gradient of the loss for each level: the *sum* over the weights that share it.

    .. math:: \frac{\partial L}{\partial c_j} = \sum_{i:\,q_i = j} \frac{\partial L}{\partial w_i}

    Parameters
    ----------
    gradient : ndarray of float
        Of the loss, for each weight.
    codes : ndarray of int, shape of `gradient`, from 0 to k - 1
    k : int
        Number of levels.

    Returns
    -------
    ndarray of float, shape (k,), dtype of `gradient`
        Summed in float64; 0 for a level that no weight uses. NaN and infinities of
        the gradient are passed on to their level.

    Raises
    ------
    ValueError
        If the shapes differ or a code is out of range.

    Notes
    -----
    Some implementations take the mean, which is the gradient divided by the number
    of weights: another step size for each level.

    References
    ----------
    Han et al., "Deep Compression", 2016, arXiv:1510.00149, eq. (3).

    Examples
    --------
    >>> centroid_gradients(np.array([0.1, 0.2, -0.5]), np.array([0, 0, 2]), 3).round(9)
    array([ 0.3,  0. , -0.5])
    """
    gradient = as_reals("gradient", gradient)
    require_int("k", k, 1)
    codes = require_codes("codes", codes, 0, k - 1)
    if codes.shape != gradient.shape:
        raise ValueError(
            f"`codes` must have the shape of `gradient`, {gradient.shape}; got {codes.shape}"
        )
    sums = np.bincount(codes.ravel(), weights=gradient.ravel(), minlength=k)
    with np.errstate(over="ignore"):            # a sum beyond float32 is infinite
        return sums.astype(gradient.dtype)


def _data(x: Array, k: int) -> Array:
    require_int("k", k, 1)
    return as_data("x", x)


def _require_distinct(k: int, distinct: int) -> None:
    if k > distinct:
        raise ValueError(f"`k` must not exceed the {distinct} distinct values of `x`; got {k}")
