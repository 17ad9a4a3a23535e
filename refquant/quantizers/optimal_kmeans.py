r"""Optimal k-means on a line: the best codebook of all, found by dynamic programming.

In one dimension clusters are intervals, so k-means is a choice of k - 1 cuts in
the sorted data. The best m cells for the first j values are the best m - 1 for
the first i, and one cell for the rest:

.. math:: D_m(j) = \min_{i < j} \; D_{m-1}(i) + \mathrm{cost}(i, j)

The best i never decreases with j, so each row of this table is filled by halving:
the answer for the middle j splits the search for all others. That makes
:math:`O(k n \log n)` steps, and no start to choose.
"""

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import as_data, require_int
from refquant.granularity import as_rows
from refquant.quantizers._points import as_weights, cell_means, distinct_points, to_unit
from refquant.quantizers.codebook import Codebook, nearest

__all__ = ["optimal_cuts", "optimal_kmeans"]

#: Up to so many values all cells are listed: n * n / 2 of them, but nothing to organize.
SMALL = 256


def optimal_kmeans(
    x: Array, k: int, *, weights: Array | None = None, axis: Axis = None
) -> Codebook:
    r"""Codebook of at most `k` levels with the least weighted squared error there is.

    .. math:: \min_{c_1 < \dots < c_k} \sum_i h_i \min_j (x_i - c_j)^2,
              \qquad c_j = \frac{\sum_{i \in j} h_i x_i}{\sum_{i \in j} h_i}

    Parameters
    ----------
    x : ndarray of float, not empty, finite
    k : int
        Number of levels, at least 1. With fewer distinct values (of positive
        weight) these are the levels, and the error is 0.
    weights : ndarray of float, shape of `x`, >= 0, optional
        The h. The diagonal of the Hessian of the loss makes it Hessian-weighted
        k-means: an error counts as much as it costs. Without any positive weight
        all count the same.
    axis : int or tuple of int, optional
        Axes that share a codebook (reduced over, kept as size 1); all by default,
        which gives levels of shape ``(k,)``. Otherwise they are ``(k, ...)``, and
        a channel with fewer distinct values repeats its last level.

    Returns
    -------
    Codebook
        With thresholds at the midpoints. Levels in the dtype of `x`. Of equally
        good cuts the leftmost is taken.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, `k` is below 1, a weight is negative, or
        `weights` has another shape.

    References
    ----------
    Wang and Song, "Ckmeans.1d.dp", 2011, doi:10.32614/RJ-2011-015; Choi et al.,
    2017, arXiv:1612.01543, eq. (11), for the weights.

    Examples
    --------
    >>> x = np.array([0.1, 0.2, 0.9, 1.0, 1.1, 3.0, 3.2, 10.0])
    >>> optimal_kmeans(x, 3).levels
    array([ 0.66,  3.1 , 10.  ])
    >>> h = np.array([1.0, 1.0, 10.0, 1.0])
    >>> optimal_kmeans(np.array([0.0, 1.0, 2.0, 10.0]), 2, weights=h).levels
    array([ 1.75, 10.  ])
    """
    x = as_data("x", x)
    if axis is None:
        return nearest(_levels(x, k, weights).astype(x.dtype))
    rows, shape = as_rows(x, axis=axis)
    if weights is None:
        found = [_levels(row, k, None) for row in rows]
    else:
        h, _ = as_rows(as_weights(x, weights), axis=axis)
        found = [_levels(row, k, w) for row, w in zip(rows, h, strict=True)]
    widest = max(map(len, found))
    levels = np.stack([np.pad(level, (0, widest - len(level)), mode="edge") for level in found])
    return nearest(levels.T.reshape(widest, *shape).astype(x.dtype))


def _levels(x: Array, k: int, weights: Array | None) -> Array:
    values, weight = distinct_points(x, weights)
    return cell_means(values, weight, optimal_cuts(values, weight, k))


def optimal_cuts(values: Array, weights: Array, k: int) -> Array:
    r"""Where the best `k` cells begin, and where the last one ends.

    The squared error of a cell is :math:`\sum h x^2 - S^2 / W`, with
    :math:`W = \sum h` and :math:`S = \sum h x`. The first term is the same for
    all partitions; so the sum of the :math:`S^2 / W` is maximized instead, in
    which less cancels.

    Parameters
    ----------
    values : ndarray of float64, shape (n,), strictly ascending
    weights : ndarray of float64, shape (n,), > 0
    k : int
        At least 1; no more than n cells are made.

    Returns
    -------
    ndarray of int, shape (min(k, n) + 1,)
        Ascending from 0 to n: cell m is ``values[cuts[m]:cuts[m + 1]]``.

    Raises
    ------
    ValueError
        If `k` is below 1.

    References
    ----------
    Gronlund et al., "Fast Exact k-Means, k-Medians and Bregman Divergence
    Clustering in 1D", 2017, arXiv:1701.07204, section 2.

    Examples
    --------
    >>> optimal_cuts(np.array([0.0, 1.0, 5.0, 6.0, 9.0]), np.ones(5), 3)
    array([0, 2, 4, 5])
    """
    require_int("k", k, 1)
    n = values.size
    if k >= n:
        return np.arange(n + 1)
    values, weights = to_unit(values)[0], to_unit(weights)[0]
    # About the mean: sums of values far from zero would swamp their differences.
    centred = values - np.average(values, weights=weights)
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * centred)])

    gain = np.full(n + 1, -np.inf)              # of the best m cells for the first j values
    gain[1:] = _gain(moment[1:], mass[1:], mass[-1])
    before = [np.zeros(n + 1, np.intp)]         # the best i for each m and j
    table = _all_gains(mass, moment) if n <= SMALL else None
    for cells in range(2, k + 1):
        if table is not None:
            total = gain + table
            best = total.argmax(axis=1)         # the leftmost, as the halving finds it
            gain = total[np.arange(n + 1), best]
        else:
            first = n if cells == k else cells  # the last row is read at n only
            gain, best = _next_row(gain, mass, moment, before[-1], cells, first)
        before.append(best)

    cuts = [n]
    for best in reversed(before):
        cuts.append(int(best[cuts[-1]]))
    return np.array(cuts[::-1])


def _all_gains(mass: Array, moment: Array) -> Array:
    """Gain of the cell from i to j, at ``[j, i]``; minus infinity where there is none."""
    held = np.tri(mass.size, k=-1, dtype=bool)
    gain = _gain(moment[:, np.newaxis] - moment, mass[:, np.newaxis] - mass, mass[-1])
    return np.where(held, gain, -np.inf)


def _gain(moment: Array, mass: Array, total: float) -> Array:
    """``moment**2 / mass``; next to nothing for a cell that weighs less than a rounding."""
    return moment**2 / np.maximum(mass, total * 2.0**-60)


def _next_row(
    gain: Array, mass: Array, moment: Array, before: Array, cells: int, first: int
) -> tuple[Array, Array]:
    """The table for one cell more, at j from `first` to n: its gain, and the best cut for each."""
    n = mass.size - 1
    row = np.full(n + 1, -np.inf)
    best = np.full(n + 1, cells - 1)
    # Round by round the j halfway between those known, whose cuts enclose the new
    # one; nor does a cut move left when a cell is added (`before`).
    step = 1 << (n - first).bit_length()
    while step:
        j = np.arange(first + step - 1, n + 1, 2 * step)
        low = np.maximum(best[np.maximum(j - step, first - 1)], before[j])
        above = j + step
        high = np.where(above > n, n - 1, best[np.minimum(above, n)])
        row[j], best[j] = _best_cuts(gain, mass, moment, j, low, np.minimum(high, j - 1))
        step //= 2
    return row, best


def _best_cuts(
    gain: Array, mass: Array, moment: Array, j: Array, low: Array, high: Array
) -> tuple[Array, Array]:
    """Greatest gain, and the leftmost cut that has it, of each j over cuts low..high."""
    lengths = high - low + 1
    starts = np.cumsum(lengths) - lengths
    # All candidates of all j in one flat array, the ranges one after the other.
    owner = np.repeat(np.arange(j.size), lengths)
    i = np.arange(owner.size) + (low - starts)[owner]
    last = j[owner]
    total = gain[i] + _gain(moment[last] - moment[i], mass[last] - mass[i], mass[-1])
    greatest = np.maximum.reduceat(total, starts)
    hits = np.flatnonzero(total == greatest[owner])[::-1]
    leftmost = np.empty_like(j)
    leftmost[owner[hits]] = i[hits]             # from the right: the last one written stays
    return greatest, leftmost
