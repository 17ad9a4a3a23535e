r"""Share a budget between channels: more levels where the range is wider.

Channel i with bound :math:`\alpha_i` and :math:`B_i` levels has the rounding
noise :math:`\alpha_i^2 / 3 B_i^2`. What is scarce decides the law:

===================  =========================  ====================================
function             the sum is fixed of        optimum
===================  =========================  ====================================
`channel_levels`     levels                     :math:`B_i \propto \alpha_i^{2/3}`
`channel_bits`       levels, rounded to bits    the same, corrected for the rounding
`water_filling`      bits                       :math:`2^{M_i} \propto \alpha_i`
===================  =========================  ====================================

The first is the published one; storage costs bits, and for a budget of bits
its slope 2/3 is not optimal.
"""

import numpy as np

from refquant._types import Array, Codes, Rounding
from refquant._validate import as_data, require_finite, require_int, require_number
from refquant.rounding import half_even

__all__ = ["channel_bits", "channel_levels", "water_filling"]


def channel_levels(bounds: Array, *, bits: float) -> Array:
    r"""Number of levels per channel with the least noise, for a fixed sum of levels.

    .. math:: B_i = n\, 2^M \frac{\alpha_i^{2/3}}{\sum_j \alpha_j^{2/3}}

    Parameters
    ----------
    bounds : ndarray of float, shape (channels,)
        The alpha of each channel, >= 0, at least one above 0.
    bits : float
        M, such that :math:`2^M` is the average number of levels.

    Returns
    -------
    ndarray of float, shape (channels,)
        Real numbers; they sum to n times :math:`2^M`.

    Raises
    ------
    ValueError
        If a bound is negative or not finite, or all are zero, or `bits` is not finite.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (per-channel bit allocation).

    Examples
    --------
    >>> channel_levels(np.array([1.0, 8.0]), bits=4)
    array([ 6.4, 25.6])
    """
    bounds = _bounds(bounds)
    require_number("bits", bits)
    require_finite("bits", np.asarray(bits))
    if bits > 1000:
        raise ValueError(f"`bits` must be at most 1000; got {bits}")
    # Cube root of the square: power 2/3 would not be exact for whole cubes.
    share = np.cbrt(np.square(bounds / bounds.max()))
    return bounds.size * 2.0**bits * share / share.sum()


def channel_bits(
    bounds: Array,
    *,
    bits: float,
    rounding: Rounding = half_even,
    largest: int = 8,
    max_iterations: int = 10,
) -> Codes:
    r"""Whole bits per channel whose average comes near the budget.

    Rounds :math:`\log_2 B_i`, clips to [0, `largest`], and moves the target by
    half of what the average misses, until it misses by less than 0.01.

    Parameters
    ----------
    bounds : ndarray of float, shape (channels,)
        The alpha of each channel, >= 0, at least one above 0.
    bits : float
        M, the average wanted.
    rounding : callable, ndarray -> ndarray
        The authors offer nearest and ``ceil``.
    largest : int
        Most bits for one channel.
    max_iterations : int
        At least 1; the average may still be off by then.

    Returns
    -------
    ndarray of int32, shape (channels,)
        A channel with 0 bits is to be replaced by its mean.

    Raises
    ------
    ValueError
        If a bound is negative or not finite, or all are zero.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723, authors' code.

    Examples
    --------
    >>> channel_bits(np.array([1.0, 1.0, 8.0, 8.0]), bits=4)
    array([3, 3, 5, 5], dtype=int32)
    """
    require_int("largest", largest, 1, 32)
    require_int("max_iterations", max_iterations, 1)
    target = bits
    for _ in range(max_iterations):
        with np.errstate(divide="ignore"):  # no levels: minus infinity bits, clipped
            wanted = np.log2(channel_levels(bounds, bits=target))
        allocated = np.clip(rounding(wanted), 0, largest).astype(np.int32)
        miss = bits - float(allocated.mean())
        if abs(miss) < 0.01:
            break
        target += miss / 2
    return allocated


def water_filling(bounds: Array, *, bits: float) -> Array:
    r"""Width in bits per channel with the least noise, for a fixed sum of bits.

    .. math:: M_i = \max(0, \log_2 \alpha_i - \lambda), \qquad \sum_i M_i = n M

    Every channel with bits ends up with the same noise; one whose range lies
    under that "water level" gets none.

    Parameters
    ----------
    bounds : ndarray of float, shape (channels,)
        The alpha of each channel, >= 0, at least one above 0.
    bits : float
        M, the average, >= 0.

    Returns
    -------
    ndarray of float, shape (channels,)
        Real numbers >= 0 with the average M.

    Raises
    ------
    ValueError
        If a bound or `bits` is negative or not finite, or all bounds are zero.

    References
    ----------
    Cover and Thomas, "Elements of Information Theory", 2nd ed., 2006,
    theorem 10.3.3 (reverse water-filling).

    Examples
    --------
    >>> water_filling(np.array([1.0, 8.0]), bits=4)
    array([2.5, 5.5])
    >>> water_filling(np.array([1.0, 1024.0]), bits=3)
    array([0., 6.])
    """
    bounds = _bounds(bounds)
    require_number("bits", bits)
    if not 0 <= bits < np.inf:
        raise ValueError(f"`bits` must be finite and not negative; got {bits}")
    with np.errstate(divide="ignore"):
        logs = np.log2(bounds)
    # The k widest channels share the budget, for the largest k that leaves all of them some.
    widest = np.sort(logs[np.isfinite(logs)])[::-1]
    count = np.arange(1, widest.size + 1)
    levels = (np.cumsum(widest) - bounds.size * bits) / count
    last = np.flatnonzero(widest >= levels)[-1]
    return np.maximum(logs - levels[last], 0)


def _bounds(bounds: Array) -> Array:
    bounds = as_data("bounds", bounds)
    if bounds.ndim != 1 or (bounds < 0).any() or not bounds.any():
        raise ValueError(
            "`bounds` must be one row of numbers >= 0, not all 0; "
            f"got shape {bounds.shape}, least {bounds.min()}, largest {bounds.max()}"
        )
    return bounds
