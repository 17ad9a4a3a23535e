"""Min-max: cover everything that was seen, and clip nothing of it.

The exact range, in any order of the data, and the only one that needs no
decision. Its weakness is its definition: one outlier sets the step of all.
"""

import numpy as np

from refquant._types import Array, Axis
from refquant.calibration.statistics import Range

__all__ = ["Range", "absmax", "minmax"]


def minmax(x: Array, *, axis: Axis = None) -> Range:
    r"""Smallest and largest value, for ``asymmetric(*minmax(x), bits=8)``.

    .. math:: \alpha = \min x, \qquad \beta = \max x

    Not widened to contain zero: that is the business of the quantizer.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    axis : int, tuple of int or None
        The axes reduced over, as in NumPy (frameworks name the one kept);
        they stay with size 1.

    Returns
    -------
    Range
        Two arrays in the dtype of `x` that broadcast against it.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-B.

    Examples
    --------
    >>> minmax(np.array([[1.0, -2.0], [0.5, 3.0]]), axis=1)
    Range(low=array([[-2. ],
           [ 0.5]]), high=array([[1.],
           [3.]]))
    """
    return Range.of(x, axis=axis)


def absmax(x: Array, *, axis: Axis = None) -> Array:
    r"""Largest absolute value, for ``symmetric(absmax(x), bits=8)``.

    .. math:: A = \max |x|

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray
        In the dtype of `x`, broadcasting against it.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-C.

    Examples
    --------
    >>> absmax(np.array([[1.0, -2.0], [0.5, 3.0]]), axis=1)
    array([[2.],
           [3.]])
    """
    low, high = Range.of(x, axis=axis)
    return np.maximum(-low, high)
