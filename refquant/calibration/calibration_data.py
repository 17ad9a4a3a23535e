"""How much calibration data is enough, and ranges chosen for the network as a whole.

A range learned from few samples is too narrow, and grows with every new
extreme; statistics that ignore extremes settle sooner. `ranges_by_samples`
shows where the growth ends.

The error of one tensor is only a proxy. What counts is the loss of the whole
network, and `coordinate_search` shrinks the ranges of all tensors, one after
the other, to lower just that.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import as_data, require_int
from refquant.calibration.minmax import Range, minmax

__all__ = ["CoordinateSearch", "coordinate_search", "ranges_by_samples"]


def ranges_by_samples(
    x: Array, counts: Sequence[int], calibrate: Callable[[Array], Range] = minmax
) -> Range:
    """Range learned from the first samples, for several numbers of them.

    Parameters
    ----------
    x : ndarray of float, shape (samples, ...)
        Finite values, at least one.
    counts : sequence of int
        How many of the first samples to use, from 1 to all.
    calibrate : callable, ndarray -> Range
        How a range is found, per tensor.

    Returns
    -------
    Range
        Two arrays of shape (counts,). With `minmax` and growing counts the
        range can only grow.

    Raises
    ------
    ValueError
        If a count is out of range, or `x` is empty or not finite.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-B; Nagel et al., 2021,
    arXiv:2106.08295, section 3.1 (small calibration sets).

    Examples
    --------
    >>> low, high = ranges_by_samples(np.array([[1.0], [-2.0], [3.0]]), [1, 2, 3])
    >>> low, high
    (array([ 1., -2., -2.]), array([1., 1., 3.]))
    """
    x = as_data("x", x)
    ranges = []
    for count in counts:
        require_int("counts", count, 1, len(x))
        ranges.append([end.item() for end in calibrate(x[:count])])
    low, high = np.array(ranges, x.dtype).reshape(-1, 2).T
    return Range(low, high)


class CoordinateSearch(NamedTuple):
    """Where the search came to rest.

    Attributes
    ----------
    shares : ndarray of float64, shape (tensors,)
        The chosen share of the full range of each tensor.
    losses : ndarray of float64, shape (sweeps + 1,)
        Loss before the first sweep and after each; never increasing.
    converged : bool
        False if the last sweep still changed something.

    References
    ----------
    Nahshan et al., "Loss Aware Post-Training Quantization", 2019,
    arXiv:1911.07190.

    Examples
    --------
    >>> coordinate_search(lambda shares: 1.0, 2).losses
    array([1., 1.])
    """

    shares: Array
    losses: Array
    converged: bool


def coordinate_search(
    loss: Callable[[Array], float],
    tensors: int,
    *,
    candidates: npt.ArrayLike = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
    sweeps: int = 3,
) -> CoordinateSearch:
    r"""Share of the full range for each tensor that lowers the loss of the network.

    .. math:: f_k \leftarrow \arg\min_{f \in C} L(f_1, \dots, f_{k-1}, f, f_{k+1}, \dots)

    for k = 1, 2, ..., again and again. Errors of different layers can cancel or
    add up, which no tensor sees on its own; a joint optimum is not promised.

    Parameters
    ----------
    loss : callable, ndarray of shape (tensors,) -> float
        Loss of the network with every range multiplied by its share. Deterministic.
    tensors : int
        How many there are.
    candidates : ndarray of float, shape (candidates,)
        The set C; the first is where every tensor starts. A change needs a
        strictly lower loss.
    sweeps : int
        Most passes over all tensors.

    Returns
    -------
    CoordinateSearch
        With a loss no higher than at the start.

    Raises
    ------
    ValueError
        If `tensors` or `sweeps` is below 1 or a candidate is not finite.

    References
    ----------
    Nahshan et al., 2019, arXiv:1911.07190, which follows it with Powell's
    method; Wu et al., "EasyQuant", 2020, arXiv:2006.16669.

    Examples
    --------
    >>> target = np.array([0.9, 0.5])
    >>> found = coordinate_search(lambda shares: float(np.sum((shares - target) ** 2)), 2)
    >>> found.shares, found.converged
    (array([0.9, 0.5]), True)
    """
    require_int("tensors", tensors, 1)
    require_int("sweeps", sweeps, 1)
    choices = as_data("candidates", np.asarray(candidates, np.float64)).reshape(-1)
    shares = np.full(tensors, choices[0])
    losses, converged = [loss(shares.copy())], False
    while not converged and len(losses) <= sweeps:
        least, before = losses[-1], shares.copy()
        for k in range(tensors):
            for choice in choices[choices != shares[k]]:
                trial = shares.copy()
                trial[k] = choice
                if (value := loss(trial.copy())) < least:
                    least, shares = value, trial
        losses.append(least)
        converged = np.array_equal(before, shares)
    return CoordinateSearch(shares, np.array(losses), converged)
