"""k-means of many values fast: sort them into bins, and solve the bins.

Sorting ten million values takes longer than everything after it. So count them in
equal bins instead, with the sum of each: its mean then stands for all its values.
Dynamic programming finds the optimum for a hundred or so runs of neighbouring bins;
a second and a third one, among the cuts close to those, put it in place. What is
lost is that no bin is split.

Values of 16 bits need no approximation: there are at most 65,536 different ones.
"""

from itertools import pairwise

import numpy as np

from refquant._types import Array
from refquant._validate import as_data, as_reals, require_int
from refquant.kernels.histogram import ValueHistogram
from refquant.quantizers._points import cell_means, settle
from refquant.quantizers.codebook import Codebook, nearest
from refquant.quantizers.optimal_kmeans import optimal_cuts

__all__ = ["histogram_kmeans", "kmeans_of_16_bits"]

BINS = 2**14            # their counts and sums fit the second-level cache beside a piece
REACH = 16              # steps that a cut may move when it is refined
SWEEPS = 300            # of Lloyd's algorithm at the end; it needs a few


def histogram_kmeans(x: Array, k: int, *, points: int = 2**7) -> Codebook:
    """Codebook of at most `k` levels, near the optimum: for large arrays.

    Parameters
    ----------
    x : ndarray of float, not empty, finite
    k : int
        Number of levels, at least 1.
    points : int
        How many runs of bins the dynamic programming decides about; at least 4 to a
        level are taken. With 16,384 it alone decides.

    Returns
    -------
    Codebook
        A local optimum of the bins, from the global optimum of the runs. Levels in
        the dtype of `x`.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `k` or `points` is below 1.

    Notes
    -----
    Error and time are measured by ``kernels.histogram_kmeans.HistogramKmeans``.
    Values of which most share one bin (a far outlier) are seen coarsely: use
    `refquant.quantizers.optimal_kmeans` for these.

    References
    ----------
    Wang and Song, "Ckmeans.1d.dp", 2011, doi:10.32614/RJ-2011-015, for the
    optimum; the bins are ours.

    Examples
    --------
    >>> x = np.random.default_rng(0).normal(size=100_000)
    >>> histogram_kmeans(x, 2).levels.round(2)
    array([-0.79,  0.8 ])
    """
    require_int("k", k, 1)
    require_int("points", points, 1)
    x = as_reals("x", x)
    histogram = ValueHistogram.of(x, bins=BINS)
    held = histogram.counts > 0
    counts = histogram.counts[held].astype(np.float64)
    means = histogram.sums[held] / counts
    runs = _runs(np.flatnonzero(held), max(points, 4 * k))
    coarse = cell_means(means, counts, runs)
    cuts = runs[optimal_cuts(coarse, np.add.reduceat(counts, runs[:-1]), k)]
    for step in (16, 1):
        cuts = _moved_cuts(means, counts, cuts, step)
    levels, _, _ = settle(means, counts, cell_means(means, counts, cuts), SWEEPS)
    return nearest(levels.astype(x.dtype))


def kmeans_of_16_bits(x: Array, k: int) -> Codebook:
    """Codebook of the global optimum for values that float16 or bfloat16 hold exactly.

    Parameters
    ----------
    x : ndarray of float32, not empty, finite
        All bfloat16, or all float16, in float32 as everywhere in this library.
    k : int
        Number of levels, at least 1.

    Returns
    -------
    Codebook
        The same, bit for bit, as ``optimal_kmeans(x, k)``.

    Raises
    ------
    ValueError
        If a value needs more than 16 bits, `x` is empty or not finite, or `k` is
        below 1.
    TypeError
        If `x` is not float32.

    References
    ----------
    Wang and Song, "Ckmeans.1d.dp", 2011, doi:10.32614/RJ-2011-015.

    Examples
    --------
    >>> kmeans_of_16_bits(np.array([0.5, 0.75, 4.0, 4.0], np.float32), 2).levels
    array([0.625, 4.   ], dtype=float32)
    """
    require_int("k", k, 1)
    x = as_data("x", x)
    if x.dtype != np.float32:
        raise TypeError(f"`x` must be float32; got {x.dtype}")
    values, counts = _patterns(np.ascontiguousarray(x).reshape(-1))
    cuts = optimal_cuts(values, counts, k)
    return nearest(cell_means(values, counts, cuts).astype(np.float32))


def _runs(bins: Array, points: int) -> Array:
    """Starts of the runs of held bins that share a stretch of the line, and the end."""
    if bins.size <= points:
        return np.arange(bins.size + 1)
    stretch = bins // -(-BINS // points)
    return np.concatenate([[0], np.flatnonzero(np.diff(stretch)) + 1, [bins.size]])


def _moved_cuts(values: Array, weights: Array, cuts: Array, step: int) -> Array:
    """The best cuts among those at most 16 steps from each given one."""
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * (values - values.mean()))])
    steps = step * np.arange(-REACH, REACH + 1)
    choices = [cuts[:1], *np.clip(cuts[1:-1, np.newaxis] + steps, 0, values.size), cuts[-1:]]
    gain, before = np.zeros(1), []
    for i, j in pairwise(choices):
        width = mass[j, np.newaxis] - mass[i]
        total = gain + (moment[j, np.newaxis] - moment[i]) ** 2 / np.where(width > 0, width, 1)
        total[width <= 0] = -np.inf             # no cell is empty
        before.append(total.argmax(axis=1))
        gain = total.max(axis=1)
    moved, place = [], 0
    for choice, best in zip(reversed(choices), [*reversed(before), None], strict=True):
        moved.append(int(choice[place]))
        place = 0 if best is None else int(best[place])
    return np.array(moved[::-1])


def _patterns(x: Array) -> tuple[Array, Array]:
    """Distinct values of `x` in ascending order, and how often each occurs; both float64."""
    codes = np.arange(2**16, dtype=np.uint16)
    bits = x.view(np.uint32)
    if not (bits & 0xFFFF).any():                               # bfloat16: the upper half
        counts = np.bincount(bits >> 16, minlength=codes.size)
        values = (codes.astype(np.uint32) << 16).view(np.float32)
    else:
        with np.errstate(over="ignore"):
            half = x.astype(np.float16)
        if not np.array_equal(half, x):
            bad = x[half != x][0]
            raise ValueError(f"`x` must hold float16 or bfloat16 values; got {bad!r}")
        counts = np.bincount(half.view(np.uint16), minlength=codes.size)
        values = codes.view(np.float16)
    counts[0] += counts[2**15]                                  # -0 is 0
    counts[2**15] = 0
    held = counts > 0
    order = np.argsort(values[held])
    return (values[held][order].astype(np.float64), counts[held][order].astype(np.float64))
