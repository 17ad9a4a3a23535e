r"""Data-free quantization, level one: ranges of activations from batch-norm statistics.

A batch norm says what comes out of it: mean beta and standard deviation :math:`|\gamma|`,
channel by channel, and it said so after looking at the whole training set. Take the result
for normal, and a range that contains n standard deviations of every channel is

.. math:: \bigl[\min_c (\beta_c - n |\gamma_c|),\; \max_c (\beta_c + n |\gamma_c|)\bigr],

cut to [0, infinity) by a ReLU. The weights need no data at all. Together with equalization
and bias correction this is DFQ: see `refquant.apply.repair.quantize_without_data`.
"""

import numpy as np
from scipy.special import ndtr

from refquant._types import Array
from refquant._validate import as_data, require_number, require_positive, require_same_shape

__all__ = ["activation_range", "exceedance"]


def activation_range(
    mean: Array,
    deviation: Array,
    *,
    deviations: float = 6.0,
    low: float = -np.inf,
    high: float = np.inf,
) -> tuple[float, float]:
    r"""Range of a value whose channels are normal, after an activation clips it.

    Parameters
    ----------
    mean, deviation : ndarray of float, shape (channels,)
        beta and :math:`|\gamma|` of the batch norm before the activation.
    deviations : float
        n, how many standard deviations of the widest channel to contain.
    low, high : float
        Of the activation: 0 and infinity for a ReLU, 0 and 6 for ReLU6.

    Returns
    -------
    low : float
    high : float

    Raises
    ------
    ValueError
        If a deviation is negative, the shapes differ, `deviations` is not positive, or `low` is
        above `high`.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 5 (n = 6).

    Examples
    --------
    >>> activation_range(np.array([0.0, 1.0]), np.array([1.0, 0.5]), deviations=3.0, low=0.0)
    (0.0, 3.0)
    """
    mean, deviation = as_data("mean", mean), as_data("deviation", deviation)
    require_same_shape("deviation", deviation, mean.shape)
    for name, number in (("deviations", deviations), ("low", low), ("high", high)):
        require_number(name, number)
    require_positive("deviations", np.asarray(deviations))
    if not low <= high:                         # also for NaN
        raise ValueError(f"`low` must be at most `high`; got {low} and {high}")
    if (deviation < 0).any():
        raise ValueError(f"`deviation` must not be negative; got {deviation.min()}")
    reach = deviations * deviation
    ends = float((mean - reach).min()), float((mean + reach).max())
    bottom, top = (min(max(end, low), high) for end in ends)
    return bottom, top


def exceedance(deviations: float) -> float:
    r"""Share of a normal channel above n standard deviations, :math:`1 - \Phi(n)`.

    Parameters
    ----------
    deviations : float
        n.

    Returns
    -------
    float

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 5.

    Examples
    --------
    >>> round(1 / exceedance(3.0)), exceedance(6.0) < 1e-9
    (741, True)
    """
    require_number("deviations", deviations)
    return float(ndtr(-float(deviations)))
