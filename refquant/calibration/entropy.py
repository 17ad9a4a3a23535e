r"""Entropy calibration: clip where a histogram in few levels is most like the original.

Made popular by TensorRT for activations. Cut the histogram of \|x\| at some
bin, add what was cut to the last bin kept (saturation), merge the rest into as
many levels as the quantizer has, and measure by the Kullback-Leibler
divergence how much of the distribution is lost. The cut with the least wins.

It judges counts only: how far a value moves plays no part, nor where in a
level the quantizer puts its value. That makes it robust to a few huge
outliers, and wrong whenever those matter.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_counts, require_int
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Histogram
from refquant.kernels.histogram import kl_divergences
from refquant.metrics import kl_divergence

__all__ = ["LeastDivergence", "candidate_divergences", "entropy", "least_divergence"]


class LeastDivergence(NamedTuple):
    """The cut that loses least.

    Attributes
    ----------
    bins : int
        Bins kept, from zero up.
    bound : float
        Upper edge of the last bin kept, in units of the data.
    divergence : float
        In nats; 0 if no level holds two different counts, which says nothing.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Examples
    --------
    >>> LeastDivergence(bins=640, bound=1.875, divergence=0.01).bound
    1.875
    """

    bins: int
    bound: float
    divergence: float


def entropy(x: Array, *, levels: int = 128, bins: int = 2048) -> Array:
    r"""Bound on the absolute value with the least divergence, one for all of `x`.

    .. math:: T = w\, \arg\min_i \mathrm{KL}(P_i \,\|\, Q_i)

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    levels : int
        Levels on one side of zero: 128 for 8 bits, signed.
    bins : int
        Most bins of the histogram, a power of two.

    Returns
    -------
    ndarray
        One element with the rank and dtype of `x`, at most ``absmax(x)``. Zero
        if all values are; ``symmetric`` then takes scale 1.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `levels` below 1.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Examples
    --------
    >>> x = np.random.default_rng(0).laplace(size=100_000)
    >>> bool(entropy(x)[0] < 0.9 * np.abs(x).max())
    True
    """
    largest = absmax(x)
    least = least_divergence(Histogram.of(np.abs(x), bins=bins), levels=levels)
    # In float64: above the largest float32 the edge of the last bin is no float32.
    return np.minimum(least.bound, largest.astype(np.float64)).astype(largest.dtype)


def least_divergence(histogram: Histogram, *, levels: int = 128) -> LeastDivergence:
    """Best cut of a histogram; the first of equal ones.

    Parameters
    ----------
    histogram : Histogram
        Of absolute values. Only the ratios of the counts matter.
    levels : int
        Levels on one side of zero.

    Returns
    -------
    LeastDivergence
        No cut at all if there are no more bins than levels.

    Raises
    ------
    ValueError
        If the histogram has bins below zero, or `levels` is below 1.

    Notes
    -----
    Candidates run up to all the bins, so that not clipping is one of them; the
    TensorRT slides stop one short, and place the bound half a bin higher.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Examples
    --------
    >>> least_divergence(Histogram(np.array([5, 4, 3, 3, 0, 0, 1]), 0, 0.5), levels=2).bins
    4
    """
    require_int("levels", levels, 1)
    if histogram.start < 0:
        raise ValueError(f"`histogram` must be of absolute values; got start {histogram.start}")
    counts = np.concatenate([np.zeros(histogram.start, np.int64), histogram.counts])
    if counts.size <= levels:
        return LeastDivergence(counts.size, counts.size * histogram.width, 0.0)
    divergences = kl_divergences(counts, levels=levels)
    first = int(np.argmin(divergences))
    bins = levels + first
    return LeastDivergence(bins, bins * histogram.width, float(divergences[first]))


def candidate_divergences(counts: Array, *, levels: int = 128) -> Array:
    r"""Divergence of every cut: the definition, one candidate at a time.

    For i bins kept, with h the counts:

    * :math:`P = h_{<i}`, and :math:`\sum h_{\ge i}` added to :math:`P_{i-1}`;
    * bin j belongs to level :math:`\lfloor L j / i \rfloor`;
    * Q spreads the counts of a level (without those added) evenly over its
      bins that are not empty;
    * :math:`\mathrm{KL} = \sum_j p_j \ln (p_j / q_j)` of both, normalized, with
      :math:`0 \ln 0 = 0`, and infinite where p > 0 = q.

    Parameters
    ----------
    counts : ndarray of int, shape (bins,)
        At least zero each, not all zero.
    levels : int
        The L above, at most the number of bins.

    Returns
    -------
    ndarray of float64, shape (bins - levels + 1,)
        For i = levels, ..., bins. `refquant.kernels.histogram.kl_divergences` is
        its closed form.

    Raises
    ------
    ValueError
        If there are fewer bins than levels, or the counts are not counts.

    Notes
    -----
    Runtimes differ: MXNet and onnxruntime give every level ``i // L`` bins and
    the last level the remainder, and onnxruntime truncates Q to integers.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017.

    Examples
    --------
    >>> candidate_divergences(np.array([4, 4, 1, 3]), levels=2).round(4)
    array([0.0566, 0.1744, 0.0436])
    """
    counts = require_counts("counts", counts)
    require_int("levels", levels, 1, len(counts))
    divergences = []
    for i in range(levels, len(counts) + 1):
        kept, tail = counts[:i], counts[i:].sum()
        before = kept.copy()
        before[-1] += tail
        level = levels * np.arange(i) // i
        held = kept > 0
        mass, occupied = np.bincount(level, kept), np.bincount(level, held)
        after = np.where(held, (mass / np.maximum(occupied, 1))[level], 0)
        divergences.append(kl_divergence(before, after) if held.any() else np.inf)
    return np.array(divergences)
