r"""Percentile: cover all but the rarest values, and give the rest finer steps.

Four definitions are in use, and they differ wherever the tail is thin:

============================  ==============================================
function                      the bound is
============================  ==============================================
`percentile`                  both ends; linear between order statistics
`percentile_bound`            one bound on \|x\|; linear, as NumPy
`percentile_bound_higher`     the order statistic at or above: a value seen
`percentile_bound_histogram`  lower edge of the bin where the counts reach p
============================  ==============================================

Linear interpolation is the reference. With ``p=1`` the first three are
min-max. Where a few large values carry the signal (transformer activations),
any percentile destroys it: look before clipping.
"""

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import as_data, require_fraction
from refquant.calibration.statistics import Histogram, Range

__all__ = [
    "percentile",
    "percentile_bound",
    "percentile_bound_higher",
    "percentile_bound_histogram",
]


def percentile(x: Array, p: float, *, axis: Axis = None) -> Range:
    r"""Range that holds the share `p` of the values, as much cut at either end.

    .. math:: \alpha = Q\!\left(\tfrac{1 - p}{2}\right), \qquad
              \beta = Q\!\left(1 - \tfrac{1 - p}{2}\right)

    with Q the quantile function, linear between the order statistics.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    p : float
        Share of the values inside, in (0, 1]; 0.999 is common.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    Range
        In the dtype of `x`; wider for larger `p`, min-max for 1.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `p` not in (0, 1].

    References
    ----------
    Wu et al., 2020, arXiv:2004.09602; McKinstry et al., 2018, arXiv:1809.04191.

    Examples
    --------
    >>> percentile(np.arange(11.0), 0.8)
    Range(low=array([1.]), high=array([9.]))
    """
    x = as_data("x", x, axis=axis)
    require_fraction("p", p)
    cut = (1 - p) / 2
    # Two calls: the upper quantile must be 1 - cut exactly, for the symmetry of -x.
    low, high = (np.quantile(x, q, axis=axis, keepdims=True) for q in (cut, 1 - cut))
    return Range(low.astype(x.dtype), high.astype(x.dtype))


def percentile_bound(x: Array, p: float, *, axis: Axis = None) -> Array:
    """Bound on the absolute value that the share `p` of the elements respects.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    p : float
        Share of the absolute values at or below the bound, in (0, 1].
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray
        In the dtype of `x`; linear between the order statistics of ``|x|``.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `p` not in (0, 1].

    References
    ----------
    Wu et al., 2020, arXiv:2004.09602 (percentile calibration).

    Examples
    --------
    >>> float(percentile_bound(np.arange(11.0), 0.95)[0])
    9.5
    """
    return _absolute_quantile(x, p, axis, "linear")


def percentile_bound_higher(x: Array, p: float, *, axis: Axis = None) -> Array:
    """Bound on the absolute value, taken from the values themselves.

    The smallest order statistic at or above the position ``p * (n - 1)``: never
    below `percentile_bound`, at most one gap above.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    p : float
        Share of the absolute values at or below the bound, in (0, 1].
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray
        In the dtype of `x`; an element of ``|x|``.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `p` not in (0, 1].

    References
    ----------
    Hyndman and Fan, 1996, "Sample Quantiles in Statistical Packages", The
    American Statistician 50(4), for the definitions in use.

    Examples
    --------
    >>> float(percentile_bound_higher(np.arange(11.0), 0.95)[0])
    10.0
    """
    return _absolute_quantile(x, p, axis, "higher")


def percentile_bound_histogram(histogram: Histogram, p: float) -> float:
    """Lower edge of the bin in which the cumulated counts reach the share `p`.

    For data gone by, of which a histogram remains. Too low by less than a bin,
    and for ``p=1`` still below the largest value: that is what runtimes do.

    Parameters
    ----------
    histogram : Histogram
        Of the absolute values.
    p : float
        Share of the counts, in (0, 1].

    Returns
    -------
    float
        An edge of the histogram, in units of the data.

    Raises
    ------
    ValueError
        If `p` is not in (0, 1].

    References
    ----------
    NVIDIA pytorch-quantization and onnxruntime, histogram calibrators.

    Examples
    --------
    >>> percentile_bound_histogram(Histogram.of(np.arange(11.0), bins=16), 0.95)
    10.0
    """
    require_fraction("p", p)
    cumulated = np.cumsum(histogram.counts)
    # The share as a count: dividing the counts would round before the comparison.
    return float(histogram.edges()[np.searchsorted(cumulated, p * cumulated[-1])])


def _absolute_quantile(x: Array, p: float, axis: Axis, method: str) -> Array:
    x = as_data("x", x, axis=axis)
    require_fraction("p", p)
    absolute = np.abs(x)
    bound = np.quantile(
        absolute,
        p,
        axis=axis,
        keepdims=True,
        overwrite_input=True,
        method=method,  # type: ignore[call-overload]
    )
    return bound.astype(x.dtype)
