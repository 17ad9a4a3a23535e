r"""Cascade: few bits for what is easy to read, more for the rest, input by input.

A network of few bits answers. Where its two best classes are far apart, that is the answer; where
they are close, a network of more bits is asked:

.. math:: y(x) = \begin{cases} y_{\text{low}}(x) & m(x) \ge \theta \\
                               y_{\text{high}}(x) & \text{else} \end{cases}
          \qquad \bar b = b_{\text{low}} + e\, b_{\text{high}},

with e the share that is asked twice: the first answer was paid for, too. It pays only while
:math:`e < 1 - b_{\text{low}} / b_{\text{high}}`.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from refquant._types import Array
from refquant._validate import as_data, as_reals, require_no_nan, require_same_shape

__all__ = ["Answers", "cascade", "margin", "threshold_for"]


class Answers(NamedTuple):
    """What a cascade says.

    Attributes
    ----------
    logits : ndarray of float, shape (n, classes)
        Of whichever network answered.
    asked_twice : ndarray of bool, shape (n,)
        Where that was the one of more bits.

    References
    ----------
    Park et al., 2015, "Big/little deep neural network for ultra low power inference".

    Examples
    --------
    >>> Answers(np.zeros((4, 2)), np.array([True, False, False, False])).mean_bits(4, 8)
    6.0
    """

    logits: Array
    asked_twice: Array

    def mean_bits(self, low: float, high: float) -> float:
        """Bits that a weight costs per input on average; both networks count where both ran."""
        return low + float(self.asked_twice.mean()) * high


def margin(logits: Array) -> Array:
    """Probability of the best class, less that of the second best.

    Parameters
    ----------
    logits : ndarray of float, shape (n, classes)
        At least two classes.

    Returns
    -------
    ndarray of float, shape (n,)
        In [0, 1].

    Raises
    ------
    ValueError
        If there are no two classes, no input, or a logit is not finite.

    References
    ----------
    Park et al., 2015, "Big/little deep neural network for ultra low power inference", the score
    margin.

    Examples
    --------
    >>> margin(np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]))).round(3)
    array([0.5, 0. ])
    """
    logits = as_data("logits", logits)
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(f"`logits` must have shape (n, classes) with two classes at least; "
                         f"got {logits.shape}")
    best = np.partition(softmax(logits, axis=1), -2, axis=1)
    return np.asarray(best[:, -1] - best[:, -2])


def threshold_for(margins: Array, agrees: Array, *, at_most: float) -> float:
    """Least threshold at which the cascade rarely differs from its larger network.

    It differs where the smaller network answers, and answers otherwise. No labels are needed.

    Parameters
    ----------
    margins : ndarray of float, shape (n,)
        Of the smaller network, on inputs that will not be judged by.
    agrees : ndarray of bool, shape (n,)
        Where both networks name the same class.
    at_most : float
        Share of *all* inputs that may be answered otherwise, in [0, 1].

    Returns
    -------
    float
        0 if nothing need be asked twice. On these inputs no smaller threshold will do.

    Raises
    ------
    ValueError
        If the shapes differ, there is no input, or `at_most` is not a share.

    Notes
    -----
    It is a bound on these n inputs. None of n wrong says little of the next: the rate may still
    be 3 / n, with 95 % confidence.

    References
    ----------
    Park et al., 2015, "Big/little deep neural network for ultra low power inference", for a
    threshold chosen at design time.

    Examples
    --------
    >>> margins, agrees = np.array([0.9, 0.5, 0.3, 0.1]), np.array([True, False, True, False])
    >>> threshold_for(margins, agrees, at_most=0.25), threshold_for(margins, agrees, at_most=0.5)
    (0.10000000000000002, 0.0)
    """
    margins = as_data("margins", margins)
    agrees = np.asarray(agrees)
    if agrees.dtype != np.bool_:
        raise TypeError(f"`agrees` must be of bool; got {agrees.dtype}")
    require_same_shape("agrees", agrees, (margins.size,))
    if not 0 <= at_most <= 1:
        raise ValueError(f"`at_most` must lie in [0, 1]; got {at_most}")
    wrong = np.sort(margins[~agrees])[::-1]
    allowed = int(at_most * len(margins))
    return float(np.nextafter(wrong[allowed], np.inf)) if allowed < len(wrong) else 0.0


def cascade(
    x: Array, low: Callable[[Array], Array], high: Callable[[Array], Array], *, threshold: float
) -> Answers:
    """Answers of the smaller network, and of the larger one where the smaller is not sure.

    Parameters
    ----------
    x : ndarray, shape (n, ...)
        Inputs.
    low, high : callable, ndarray -> ndarray of float, shape (n, classes)
        The networks. `high` sees only the inputs that it is asked about, and none if there are
        none.
    threshold : float
        Asked twice is what has a `margin` below it.

    Returns
    -------
    Answers

    Raises
    ------
    ValueError
        If `threshold` is NaN, or the logits of the networks differ in shape.

    References
    ----------
    Park et al., 2015, "Big/little deep neural network for ultra low power inference".

    Examples
    --------
    >>> low, high = lambda x: np.stack([x, -x], 1), lambda x: np.stack([-x, x], 1)
    >>> answers = cascade(np.array([2.0, 0.1]), low, high, threshold=0.5)
    >>> answers.logits
    array([[ 2. , -2. ],
           [-0.1,  0.1]])
    >>> answers.asked_twice
    array([False,  True])
    """
    require_no_nan("threshold", np.asarray(threshold))
    logits = np.array(as_reals("logits of `low`", low(x)))
    again = margin(logits) < threshold
    if again.any():
        more = as_reals("logits of `high`", high(x[again]))
        require_same_shape("logits of `high`", more, (int(again.sum()), logits.shape[1]))
        logits[again] = more
    return Answers(logits, again)
