r"""Search clipping ranges fast: ask the histogram, not the data.

Two thousand candidate ranges on ten million values are twenty thousand million
roundings. One pass over the data is enough. Between two neighbouring levels
:math:`y` and :math:`y + s` the squared errors differ by :math:`2 s (t - x)`,
with t their midpoint; so moving every value up from the level below, midpoint
by midpoint, gives the whole error of a uniform quantizer as

.. math:: \sum_i (x_i - \hat x_i)^2 = \sum_i (x_i - y_{max})^2 - 2 s \sum_k R(t_k),
          \qquad R(t) = \sum_i \max(t - x_i, 0).

One function R of one variable answers for all candidates. At the edges of the
bins its value and its slope (the number of values below) are known exactly; in
between a cubic is drawn through them.
"""

from typing import NamedTuple, Self

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_counts,
    require_finite,
    require_int,
    require_nonempty,
)
from refquant.quantizers.uniform import Uniform

__all__ = ["ValueHistogram", "kl_divergences", "uniform_errors"]

#: Elements at a time, so that work arrays stay in the cache.
PIECE = 2**16


class ValueHistogram(NamedTuple):
    """Counts and sums of values in equal bins from the lowest value to the highest.

    Attributes
    ----------
    low, width : float
        Where the first bin begins, and what a bin spans, in units of the data.
    counts : ndarray of int64, shape (bins,)
        Values in each bin.
    sums : ndarray of float64, shape (bins,)
        Sums of the values in each bin: their means need not be the centres.
    square_sum : float
        Sum of all squares, in float64: it nearly cancels later.

    References
    ----------
    The one-pass form is ours; PyTorch's HistogramObserver keeps 2048 counts.

    Examples
    --------
    >>> histogram = ValueHistogram.of(np.array([0.0, 0.5, 1.0]))
    >>> held = histogram.counts > 0
    >>> histogram.counts[held], histogram.sums[held], histogram.square_sum
    (array([1, 1, 1]), array([0. , 0.5, 1. ]), 1.25)
    """

    low: float
    width: float
    counts: Array
    sums: Array
    square_sum: float

    @classmethod
    def of(cls, x: Array, *, bins: int = 2**16) -> Self:
        """Histogram of all elements of `x`, in one pass after that for the ends.

        Parameters
        ----------
        x : ndarray of float, any shape
            Finite values, at least one.
        bins : int
            At least 256. More make `uniform_errors` finer, and leave the cache.

        Returns
        -------
        ValueHistogram
            Whose counts sum to ``x.size``.

        Raises
        ------
        ValueError
            If `x` is empty or not finite, or spans more than a float64 can hold.
        """
        require_int("bins", bins, 256, 2**24)
        flat = as_reals("x", x).reshape(-1)
        require_nonempty("x", flat)
        low, high = flat.min(), flat.max()
        require_finite("x", np.array([low, high]))
        low, spread = float(low), float(high) - float(low)
        require_finite("max(x) - min(x)", np.array(spread))
        # With 65535 bins over the spread, 8 bits would have 257 bins to a step: every midpoint
        # would cut its bin in the same place, and the errors of all cuts would add up. This
        # leaves a fraction for 254, 255, 14 and 15 steps alike, and the top bins empty.
        width = max(spread / (bins - 97.4), 1e-300)
        # In float32 where neither the difference nor the reciprocal can overflow. A value
        # at an edge may fall on its other side, by 2**-7 of a bin: sums and means stay true.
        small = flat.dtype == np.float32 and 1e-30 < width < spread < 1e38
        size = max(PIECE, bins)  # every piece adds an array of all bins
        work = np.empty(size, np.float32 if small else np.float64)
        origin, rate = work.dtype.type(low), work.dtype.type(1 / width)
        bin_of, exact = np.empty(size, np.intp), np.empty(size)
        counts, sums, square_sum = np.zeros(bins, np.int64), np.zeros(bins), 0.0
        for start in range(0, flat.size, size):
            piece = flat[start : start + size]
            w, k, e = (buffer[: piece.size] for buffer in (work, bin_of, exact))
            np.subtract(piece, origin, out=w, dtype=work.dtype)
            np.multiply(w, rate, out=w)
            np.copyto(k, w, casting="unsafe")
            np.copyto(e, piece)
            counts += np.bincount(k, minlength=bins)
            sums += np.bincount(k, weights=e, minlength=bins)
            square_sum += float(np.dot(e, e))
        return cls(low, width, counts, sums, square_sum)


def uniform_errors(histogram: ValueHistogram, quantizer: Uniform, *, p: float = 2.0) -> Array:
    r"""Error of many uniform quantizers on the data of a histogram, one number each.

    Parameters
    ----------
    histogram : ValueHistogram
        Of the data.
    quantizer : Uniform
        Many candidates in one: scales of shape (candidates,).
    p : float
        Power of the error; 2 is least squares.

    Returns
    -------
    ndarray of float64, shape (candidates,)
        Sums of :math:`|x - \hat x|^p` over the data.

    Raises
    ------
    ValueError
        If the scales are not one row.

    Notes
    -----
    For p = 2 a midpoint that cuts a bin with c values contributes at most
    :math:`s w c / 2` of error, and values spread smoothly in the bin far less:
    with 16 values and more to a bin, 1e-7 relative at 4 bits with 65536 bins, at
    8 bits with 262144. Other powers are evaluated at the means of the bins, and
    are good to 1e-6.

    References
    ----------
    Choukroun et al., 2019, arXiv:1902.06822, for the search; the closed form is
    ours.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> histogram = ValueHistogram.of(np.array([-1.0, 0.3, 1.0]))
    >>> uniform_errors(histogram, symmetric(np.array([1.0, 0.9]), bits=2)).round(6)
    array([0.09, 0.11])
    """
    if quantizer.scale.ndim != 1:
        raise ValueError(f"`scale` must be one row; got shape {quantizer.scale.shape}")
    scales = quantizer.scale.astype(np.float64)
    zeros = quantizer.zero_point.astype(np.float64)
    if p != 2:
        return _errors_at_means(histogram, scales, zeros, quantizer.qmin, quantizer.qmax, p)
    below = _Below.of(histogram)
    n, total = below.counts[-1], below.sums[-1]
    half_steps = np.arange(quantizer.qmin, quantizer.qmax) + 0.5
    errors = np.empty(scales.size)
    rows = max(PIECE // half_steps.size, 1)
    for start in range(0, scales.size, rows):
        s, z = (array[start : start + rows, None] for array in (scales, zeros))
        top = (s * (quantizer.qmax - z))[:, 0]
        gained = 2 * s[:, 0] * below.shortfall(s * (half_steps - z)).sum(axis=1)
        errors[start : start + rows] = histogram.square_sum - 2 * top * total + n * top**2 - gained
    return np.maximum(errors, 0)


def kl_divergences(counts: Array, *, levels: int = 128) -> Array:
    r"""Divergence of every cut of a histogram, all cuts at once.

    With :math:`g(c) = c \ln c`, N counts in all and :math:`m_l` of them, in
    :math:`o_l` bins that are not empty, in level l of the i bins kept:

    .. math:: \mathrm{KL}_i = \frac1N \Bigl[ \sum_{j < i-1} g(h_j) + g(P_{i-1})
              - \sum_l m_l \ln \frac{m_l}{o_l} - t \ln \frac{m_L}{o_L} \Bigr]
              + \ln \frac{\sum_{j<i} h_j}{N}

    where t is what was cut and :math:`P_{i-1} = h_{i-1} + t`.

    Parameters
    ----------
    counts : ndarray of int, shape (bins,)
        At least zero each, not all zero.
    levels : int
        Levels on one side of zero, at most the number of bins.

    Returns
    -------
    ndarray of float64, shape (bins - levels + 1,)
        Equal to `refquant.calibration.entropy.candidate_divergences`, to 1e-12.

    Raises
    ------
    ValueError
        If there are fewer bins than levels, or the counts are not counts.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017; the closed form is ours.

    Examples
    --------
    >>> kl_divergences(np.array([4, 4, 1, 3]), levels=2).round(4)
    array([0.0566, 0.1744, 0.0436])
    """
    counts = require_counts("counts", counts)
    require_int("levels", levels, 1, len(counts))
    total = counts.sum()
    kept = np.arange(levels, len(counts) + 1)
    cumulated, occupied = (np.concatenate([[0], np.cumsum(c)]) for c in (counts, counts > 0))
    entropy = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    divergences = np.empty(kept.size)
    rows = max(PIECE // (levels + 1), 1)
    for start in range(0, kept.size, rows):
        i = kept[start : start + rows]
        # Level l begins at the first bin j with floor(L j / i) = l, that is ceil(l i / L).
        edges = -(-np.arange(levels + 1) * i[:, None] // levels)
        mass = np.diff(cumulated[edges], axis=1).astype(np.float64)
        spread = np.log(np.maximum(mass, 1) / np.maximum(np.diff(occupied[edges], axis=1), 1))
        tail, last = total - cumulated[i], counts[i - 1]
        before = entropy[i - 1] + _x_log_x(last + tail)
        after = np.sum(mass * spread, axis=1) + tail * spread[:, -1]
        with np.errstate(divide="ignore"):
            shift = np.log(cumulated[i] / total)
        lost = (tail > 0) & (last == 0)  # counts moved into a bin that Q leaves empty
        divergences[start : start + rows] = np.where(lost, np.inf, (before - after) / total + shift)
    return divergences


class _Below(NamedTuple):
    """How many values lie below each edge, and their sum."""

    low: float
    width: float
    counts: Array
    sums: Array

    @classmethod
    def of(cls, histogram: ValueHistogram) -> Self:
        counts, sums = (np.concatenate([[0.0], np.cumsum(c)]) for c in histogram[2:4])
        return cls(histogram.low, histogram.width, counts, sums)

    def shortfall(self, t: Array) -> Array:
        """``R(t)``: the sum of ``t - x`` over all x below t."""
        position = (t - self.low) / self.width
        k = np.clip(position, 0, self.counts.size - 2).astype(np.intp)
        f = np.clip(position - k, 0, 1)
        here, after = self.counts[k], self.counts[k + 1]
        edge = self.low + self.width * k
        # Values and slopes at both edges, and the cubic (Hermite) between them.
        start = edge * here - self.sums[k]
        rise = edge * (after - here) - (self.sums[k + 1] - self.sums[k]) + self.width * after
        bend = rise - self.width * here
        twist = self.width * (after - here) - 2 * bend
        cubic = start + f * (self.width * here + f * (bend - twist * (1 - f)))
        # Beyond the data the function is straight: 0 on the left, slope n on the right.
        return cubic + np.where(position > k + 1, (t - edge - self.width) * after, 0)


def _errors_at_means(
    histogram: ValueHistogram, scales: Array, zeros: Array, qmin: int, qmax: int, p: float
) -> Array:
    held = histogram.counts > 0
    counts = histogram.counts[held].astype(np.float64)
    means = histogram.sums[held] / counts
    errors = np.empty(scales.size)
    for j, (s, z) in enumerate(zip(scales, zeros, strict=True)):
        steps = np.clip(np.rint(means / s), qmin - z, qmax - z)
        errors[j] = counts @ np.abs(means - s * steps) ** p
    return errors


def _x_log_x(c: Array) -> Array:
    return c * np.log(np.maximum(c, 1))
