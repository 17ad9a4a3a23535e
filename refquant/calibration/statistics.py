r"""Remember what calibration needs, not the data: statistics that merge.

Activations come in batches, perhaps on several machines, and are gone
afterwards. Each statistic here is a monoid: `of` sees a batch, `merge` joins
two, and joining equals having seen everything at once:

.. math:: \mathrm{merge}(\mathrm{of}(a), \mathrm{of}(b)) = \mathrm{of}(a \cup b).

==============  ==========================  ==================================
statistic       serves                      the law holds
==============  ==========================  ==================================
`Range`         min-max                     exactly
`Histogram`     percentile, KL              exactly: bins nest, counts are whole
`Moments`       mean and variance           to rounding
==============  ==========================  ==================================

The mean absolute deviation of ACIQ has no such statistic: every element's
share changes with the mean. Take it from a histogram, or from one batch.
"""

import math
from typing import NamedTuple, Self

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import (
    as_data,
    as_reals,
    require_axis,
    require_finite,
    require_int,
    require_nonempty,
    require_same_shape,
)
from refquant.calibration._blocks import block_sums

__all__ = ["Histogram", "Moments", "Range"]


class Range(NamedTuple):
    """Smallest and largest value seen.

    Attributes
    ----------
    low, high : ndarray of float, same shape
        With the rank of the data, size 1 along the axes reduced over.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-B.

    Examples
    --------
    >>> Range.of(np.array([0.5, -1.0])).merge(Range.of(np.array([2.0])))
    Range(low=array([-1.]), high=array([2.]))
    """

    low: Array
    high: Array

    @classmethod
    def of(cls, x: Array, *, axis: Axis = None) -> Self:
        """Range of one batch.

        Parameters
        ----------
        x : ndarray of float, any shape
            Finite values, at least one.
        axis : int, tuple of int or None
            The axes reduced over; they stay with size 1.

        Returns
        -------
        Range
            In the dtype of `x`.

        Raises
        ------
        ValueError
            If `x` is empty or not finite.
        """
        x = as_reals("x", x)
        require_nonempty("x", x)
        require_axis(axis, x.ndim)
        # NaN and infinities survive into the extremes, so checking those is enough.
        low, high = (extreme(x, axis=axis, keepdims=True) for extreme in (np.min, np.max))
        require_finite("x", low)
        require_finite("x", high)
        return cls(low, high)

    def merge(self, other: Self) -> Self:
        """Range of the data of both.

        Parameters
        ----------
        other : Range
            Of the same shape, or one that broadcasts.

        Returns
        -------
        Range
            The smallest one that holds both.

        Raises
        ------
        ValueError
            If the shapes do not broadcast.
        """
        try:
            np.broadcast_shapes(np.shape(self.low), np.shape(other.low))
        except ValueError:
            raise ValueError(
                f"`other` must broadcast to shape {np.shape(self.low)}; got {np.shape(other.low)}"
            ) from None
        return type(self)(np.minimum(self.low, other.low), np.maximum(self.high, other.high))


class Moments(NamedTuple):
    r"""Count, mean and sum of squared deviations, in float64.

    .. math:: M_2 = \sum_i (x_i - \bar x)^2, \qquad
              M_2^{ab} = M_2^a + M_2^b + (\bar x^b - \bar x^a)^2 \frac{n_a n_b}{n_a + n_b}

    Sums of plain squares would merge as easily, and lose the variance of data
    that lies far from zero to cancellation.

    Attributes
    ----------
    size : int
        Elements that each mean is over.
    mean : ndarray of float64
        With the rank of the data, size 1 along the axes reduced over.
    m2 : ndarray of float64
        Sum of squared deviations from the mean, in the shape of `mean`.

    References
    ----------
    Chan, Golub and LeVeque, 1983, "Algorithms for Computing the Sample
    Variance", The American Statistician 37(3).

    Examples
    --------
    >>> both = Moments.of(np.array([1.0, 2.0])).merge(Moments.of(np.array([6.0])))
    >>> both.size, float(both.mean[0]), float(both.m2[0])
    (3, 3.0, 14.0)
    """

    size: int
    mean: Array
    m2: Array

    @classmethod
    def of(cls, x: Array, *, axis: Axis = None) -> Self:
        """Moments of one batch.

        Parameters
        ----------
        x : ndarray of float, any shape
            Finite values, at least one.
        axis : int, tuple of int or None
            The axes reduced over; they stay with size 1.

        Returns
        -------
        Moments
            In float64 whatever the dtype of `x`.

        Raises
        ------
        ValueError
            If `x` is empty or not finite.
        """
        x = as_data("x", x, axis=axis)
        mean = np.mean(x, axis=axis, keepdims=True, dtype=np.float64)
        mean = np.asarray(mean)
        m2 = block_sums(x, np.square, axis=axis, origin=mean)
        return cls(x.size // mean.size, mean, m2)

    def merge(self, other: Self) -> Self:
        """What the moments of the data of both are.

        Parameters
        ----------
        other : Moments
            Of the same shape.

        Returns
        -------
        Moments
            What `of` gives for the concatenated data, to rounding.

        Raises
        ------
        ValueError
            If the shapes differ.
        """
        require_same_shape("other", other.mean, np.shape(self.mean))
        size = self.size + other.size
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.size / size)
        m2 = self.m2 + other.m2 + shift**2 * (self.size * other.size / size)
        return type(self)(size, mean, m2)

    def std(self) -> Array:
        """Standard deviation, with n - 1 in the denominator (n if n is 1).

        Returns
        -------
        ndarray of float64
            In the shape of `mean`.
        """
        return np.sqrt(self.m2 / max(self.size - 1, 1))


class Histogram(NamedTuple):
    r"""Counts of values in bins of equal width, growing at both ends.

    Bin k holds :math:`k w \le x < (k + 1) w`. `of` takes for w the power of two
    that lays at most `bins` bins between zero and the largest absolute value.
    So any two histograms nest: the finer one is brought to the coarser width by
    adding neighbours, which moves no value across an edge. No count is ever
    split, rescaled or lost, and the memory stays bounded however far the range
    grows.

    Attributes
    ----------
    counts : ndarray of int64, shape (bins,)
        Values in each bin, from the lowest bin seen to the highest.
    start : int
        The k of the first count.
    width : float
        The w of every bin, in units of the data.

    References
    ----------
    Migacz, "8-bit Inference with TensorRT", GTC 2017, for the use; the dyadic
    rule is ours: runtimes stretch their bins and lose counts to rounding.

    Examples
    --------
    >>> a = Histogram.of(np.array([0.1, 0.9]), bins=4)
    >>> a.counts, a.width
    (array([1, 0, 0, 1]), 0.25)
    >>> both = a.merge(Histogram.of(np.array([1.9]), bins=4))
    >>> both.counts, both.width
    (array([1, 1, 0, 1]), 0.5)
    """

    counts: Array
    start: int
    width: float

    @classmethod
    def of(cls, x: Array, *, bins: int = 2048) -> Self:
        """Histogram of one batch.

        Parameters
        ----------
        x : ndarray of float, any shape
            Finite values, at least one. Take ``np.abs`` first for one-sided use.
        bins : int
            Most bins on either side of zero, a power of two from 1 to 65536.

        Returns
        -------
        Histogram
            Whose counts sum to ``x.size``.

        Raises
        ------
        ValueError
            If `x` is empty or not finite, or `bins` not a power of two.
        """
        require_int("bins", bins, 1, 65536)
        if bins & (bins - 1):
            raise ValueError(f"`bins` must be a power of two; got {bins}")
        low, high = (float(end.item()) for end in Range.of(x))
        bound = max(-low, high)
        # bound < 2**exponent, so no value lies on the last edge. The floor keeps the width
        # normal, and gives zeros, which carry no scale, a histogram that nests in all others.
        exponent = max(math.frexp(bound)[1], -900) if bound else -900
        width = math.ldexp(1.0, exponent - (int(bins).bit_length() - 1))
        start = math.floor(low / width)
        counts = np.zeros(math.floor(high / width) - start + 1, np.int64)
        flat, piece = np.asarray(x).reshape(-1), 2**16
        for at in range(0, flat.size, piece):
            # In float64 dividing by a power of two is exact.
            bin_of = np.floor(flat[at : at + piece].astype(np.float64) / width).astype(np.int64)
            counts += np.bincount(bin_of - start, minlength=counts.size)
        return cls(counts, start, width)

    def merge(self, other: Self) -> Self:
        """Histogram of the data of both.

        Parameters
        ----------
        other : Histogram
            With the same width, or one that differs by a power of two.

        Returns
        -------
        Histogram
            With the coarser of the two widths, over the union of the bins.

        Raises
        ------
        ValueError
            If the widths do not nest.
        """
        (mantissa, exponent), (mantissa_other, exponent_other) = map(
            math.frexp, (self.width, other.width)
        )
        if mantissa != mantissa_other:
            raise ValueError(
                f"`width` must differ by a power of two; got {self.width} and {other.width}"
            )
        if exponent > exponent_other:
            return other.merge(self)
        mine, first = _coarser(self.counts, self.start, exponent_other - exponent)
        start = min(first, other.start)
        stop = max(first + mine.size, other.start + other.counts.size)
        counts = np.zeros(stop - start, np.int64)
        counts[first - start :][: mine.size] += mine
        counts[other.start - start :][: other.counts.size] += other.counts
        return type(self)(counts, start, other.width)

    def edges(self) -> Array:
        """Every edge of the bins, one more than there are counts.

        Returns
        -------
        ndarray of float64, shape (bins + 1,)
            In units of the data; infinite where float64 ends.
        """
        with np.errstate(over="ignore"):
            return (self.start + np.arange(self.counts.size + 1)) * self.width


def _coarser(counts: Array, start: int, halvings: int) -> tuple[Array, int]:
    """Counts, and the first bin, after joining ``2**halvings`` neighbours each."""
    step = 1 << min(halvings, 62)
    first = start // step
    joined = np.zeros((start + counts.size - 1) // step - first + 1, np.int64)
    np.add.at(joined, (start + np.arange(counts.size)) // step - first, counts)
    return joined, first
