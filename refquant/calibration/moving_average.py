"""Moving average: follow the range of the batches, and forget old extremes.

While a network still trains, its activations drift, and the range of an early
batch would otherwise stay for ever. The price is that the result depends on
the order of the batches, and that the latest extremes are clipped.
"""

from collections.abc import Iterable

import numpy as np

from refquant._validate import require_fraction, require_same_shape
from refquant.calibration.statistics import Range

__all__ = ["moving_average", "update"]


def update(average: Range | None, batch: Range, *, rate: float = 0.01) -> Range:
    r"""Average after one more batch.

    .. math:: m \leftarrow m + c\,(m_t - m), \qquad m_0 = \text{first batch}

    Parameters
    ----------
    average : Range or None
        The average so far, None before the first batch. Starting from zero
        instead would need hundreds of batches to forget it.
    batch : Range
        The range of the new batch, in the shape of `average`.
    rate : float
        The c of the equation, in (0, 1]; PyTorch's averaging constant.

    Returns
    -------
    Range
        The `batch` itself if there was no average.

    Raises
    ------
    ValueError
        If `rate` is not in (0, 1], or the shapes differ.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.1; PyTorch's
    MovingAverageMinMaxObserver.

    Examples
    --------
    >>> first = update(None, Range(np.array(-1.0), np.array(1.0)))
    >>> low, high = update(first, Range(np.array(-3.0), np.array(5.0)))
    >>> float(low), float(high)
    (-1.02, 1.04)
    """
    require_fraction("rate", rate)
    if average is None:
        return batch
    require_same_shape("batch", batch.low, np.shape(average.low))
    return Range(*(m + rate * (new - m) for m, new in zip(average, batch, strict=True)))


def moving_average(ranges: Iterable[Range], *, rate: float = 0.01) -> Range:
    """Average over the ranges of all batches, in their order.

    Parameters
    ----------
    ranges : iterable of Range
        One for each batch, at least one, all of the same shape.
    rate : float
        Weight of the newest batch, in (0, 1].

    Returns
    -------
    Range
        The range of the only batch if there is just one: min-max.

    Raises
    ------
    ValueError
        If there is no batch, or `rate` is not in (0, 1].

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.1.

    Examples
    --------
    >>> from refquant.calibration.minmax import minmax
    >>> batches = np.array([[-1.0, 1.0], [-3.0, 5.0]])
    >>> low, high = moving_average(map(minmax, batches), rate=0.5)
    >>> float(low[0]), float(high[0])
    (-2.0, 3.0)
    """
    average = None
    for batch in ranges:
        average = update(average, batch, rate=rate)
    if average is None:
        raise ValueError("`ranges` must hold at least one range; got none")
    return average
