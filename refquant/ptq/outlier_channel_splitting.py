r"""Outlier channel splitting: halve the largest weights by giving them two channels each.

A single large weight makes every step coarse. Duplicate the input channel it reads,
:math:`w x = \tfrac w2 x + \tfrac w2 x`, and the function is the same while the largest weight
is half as large. A few channels more, one or two in a hundred, buy a finer step for all.

Halves must not be rounded blindly. Two halves of one number make the same error twice; split
:math:`v = w / s`, in units of the final step s, into

.. math:: \tfrac12 (v - \tfrac12) \quad\text{and}\quad \tfrac12 (v + \tfrac12)

instead, and the two roundings together are the rounding of v:

.. math:: \lfloor \tfrac12 (v - \tfrac12) \rceil + \lfloor \tfrac12 (v + \tfrac12) \rceil
          = \lfloor v \rceil .
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_number,
    require_positive,
)
from refquant.quantizer import Fit
from refquant.quantizers.uniform import Uniform

__all__ = ["Split", "split_channels", "split_for"]


class Split(NamedTuple):
    """A weight with more input channels, and where they come from.

    Attributes
    ----------
    weight : ndarray of float, shape (out, ..., in + count)
        The new channels at the end.
    source : ndarray of int, shape (in + count,)
        The original channel of each: the input becomes ``x[..., source]``.

    References
    ----------
    Zhao et al., 2019, arXiv:1901.09504, section 3.

    Examples
    --------
    >>> made = split_channels(np.array([[1.0, 8.0]]), 1)
    >>> made.weight, made.source
    (array([[1., 4., 4.]]), array([0, 1, 1]))
    """

    weight: Array
    source: Array


def split_channels(weight: Array, count: int, *, step: float | None = None) -> Split:
    r"""Weight whose `count` largest input channels, one after the other, are split in two.

    Parameters
    ----------
    weight : ndarray of float, shape (out, ..., in)
    count : int
        How many channels to add; 0 changes nothing. A half may be split again.
    step : float, optional
        s, the step of the final grid. Without it the halves are equal.

    Returns
    -------
    Split
        ``weight @ x[source]`` is what it was.

    Raises
    ------
    ValueError
        If `step` is not positive, `count` is negative, or there is no channel.

    References
    ----------
    Zhao et al., 2019, arXiv:1901.09504, sections 3.2 and 3.3, eq. (8).

    Examples
    --------
    >>> split_channels(np.array([[0.2, 3.0]]), 1, step=1.0).weight
    array([[0.2 , 1.25, 1.75]])
    """
    weight = as_reals("weight", weight)
    require_finite("weight", weight)
    require_int("count", count, 0)
    if step is not None:
        require_number("step", step)
        require_positive("step", np.asarray(step))
    if weight.ndim < 2 or weight.size == 0:
        raise ValueError(f"`weight` must have input channels; got shape {weight.shape}")
    channels = list(np.moveaxis(weight, -1, 0).astype(np.float64))
    source = list(range(len(channels)))
    quarter = 0.0 if step is None else step / 4
    for _ in range(count):
        largest = int(np.argmax([np.abs(channel).max() for channel in channels]))
        half = channels[largest] / 2
        channels[largest] = half - quarter
        channels.append(half + quarter)
        source.append(source[largest])
    return Split(np.stack(channels, axis=-1).astype(weight.dtype), np.array(source))


def split_for(weight: Array, count: int, fit: Fit) -> tuple[Split, Uniform]:
    """Weight split for the very grid that it will be rounded to, and this grid.

    Two passes: split into equal halves to learn how small the largest weight gets, fit the
    grid to that, and split again in its steps.

    Parameters
    ----------
    weight : ndarray of float, shape (out, ..., in)
    count : int
        How many channels to add.
    fit : callable, ndarray -> Uniform
        Of one scale.

    Returns
    -------
    split : Split
    quantizer : Uniform

    Raises
    ------
    ValueError
        If the grid has more than one scale.
    TypeError
        If `fit` returns no `Uniform`.

    References
    ----------
    Zhao et al., 2019, arXiv:1901.09504, section 3.3.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> fit = lambda w: symmetric(np.abs(w).max(), bits=3)
    >>> made, grid = split_for(np.array([[0.5, 6.0]]), 1, fit)
    >>> float(grid.scale), grid.encode(made.weight)
    (1.0, array([[0, 3, 3]], dtype=int32))
    """
    quantizer = fit(split_channels(weight, count).weight)
    if not isinstance(quantizer, Uniform):
        raise TypeError(f"`fit` must return a Uniform; got a {type(quantizer).__name__}")
    if quantizer.scale.size != 1:
        raise ValueError(f"`fit` must give one scale; got {quantizer.scale.shape}")
    return split_channels(weight, count, step=float(quantizer.scale.item())), quantizer
