"""Who may judge: data that taught nothing, and a score for each example that can be resampled.

A quantized model is fitted to some examples, chosen by others, and reported on a third part:
whoever reports the figure that chose reports too much. `parts_of` draws the three. A score is
one number for each example, its mean is what is reported:

===========  ====================================  ======================================
score        1 where                               for
===========  ====================================  ======================================
`right`      the largest output is the label       models whose examples have labels
`same`       the largest output is the float one   class scores without labels
`cosine`     the outputs point the same way        embeddings, or any output
`explained`  the outputs are equal                 a number, or a few of them: regression
===========  ====================================  ======================================

`paired_drop` says how sure one can be of a difference: both models saw the same examples, so
pairs are resampled.
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_nonempty,
    require_same_shape,
)
from refquant.workflow._resampling import tails
from refquant.workflow.fairness import Interval

__all__ = ["LEAST", "MOST_CALIBRATION", "Drop", "Parts", "cosine", "explained", "paired_drop",
           "parts_of", "right", "same"]

#: Examples that each part needs.
LEAST = 8
#: Examples that calibration takes, however many there are.
MOST_CALIBRATION = 512
#: Numbers drawn at a time.
_CHUNK = 2_000_000


class Parts(NamedTuple):
    """Three sets of examples that share none.

    Attributes
    ----------
    calibration : ndarray of int, shape (n,)
        To fit to.
    choosing : ndarray of int, shape (n,)
        To choose the rung by.
    judging : ndarray of int, shape (n,)
        For the figures that are reported in the end.

    References
    ----------
    Hastie, Tibshirani and Friedman, 2009, The Elements of Statistical Learning, section 7.2.
    """

    calibration: Array
    choosing: Array
    judging: Array


class Drop(NamedTuple):
    """Mean scores of two models on the same examples.

    Attributes
    ----------
    before, after : float
        NaN without an example.
    drop : float
        Before minus after.
    interval : Interval
        Of the drop, by resampling pairs.

    References
    ----------
    Efron, 1979, doi:10.1214/aos/1176344552.
    """

    before: float
    after: float
    drop: float
    interval: Interval


def parts_of(count: int, *, unit: int = 1, rng: np.random.Generator) -> Parts:
    """A third of the examples to fit to, a third to choose by and a third to judge by.

    Parameters
    ----------
    count : int
        Examples.
    unit : int
        Each part has a multiple of it: the batch of a model that takes no other.
    rng : numpy.random.Generator
        One permutation: data files are often sorted by class.

    Returns
    -------
    Parts
        Each index at most once. Calibration has no more than `MOST_CALIBRATION`.

    Raises
    ------
    ValueError
        If a part would have less than `LEAST` examples.

    References
    ----------
    Hastie, Tibshirani and Friedman, 2009, The Elements of Statistical Learning, section 7.2.

    Examples
    --------
    >>> [len(part) for part in parts_of(900, rng=np.random.default_rng(0))]
    [300, 300, 300]
    >>> [len(part) for part in parts_of(10_000, rng=np.random.default_rng(0))]
    [512, 4744, 4744]
    """
    require_int("unit", unit, 1)
    least = -(-LEAST // unit)
    units = require_int("count", count, 0) // unit
    if units < 3 * least:
        raise ValueError(f"`data` must hold at least {3 * least * unit} examples, a third to fit "
                         f"to, a third to choose by and a third to judge by; got {count}")
    first = min(units // 3, max(MOST_CALIBRATION // unit, least))
    rest = (units - first) // 2
    order = rng.permutation(count)
    ends = np.array([0, first, first + rest, first + 2 * rest]) * unit
    return Parts(*(order[a:b] for a, b in pairwise(ends)))


def right(output: Array, labels: Array) -> Array:
    """For each example the share of its answers that are the label.

    Parameters
    ----------
    output : ndarray of float, shape (n, ..., classes)
        An answer is the first of the largest; an output with a NaN has none.
    labels : ndarray of int, shape (n, ...)

    Returns
    -------
    ndarray of float, shape (n,)

    Raises
    ------
    ValueError
        If the shapes do not fit, there is only one class, or no example.

    References
    ----------
    Russakovsky et al., 2015, arXiv:1409.0575, section 4.1 (top-1).

    Examples
    --------
    >>> right(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    array([1., 0.])
    """
    output, labels = np.asarray(output), np.asarray(labels)
    if output.ndim < 2 or output.shape[-1] < 2 or output.shape[:-1] != labels.shape:
        raise ValueError(f"`output` must have a column for each class and a row for each of the "
                         f"labels of shape {labels.shape}; got {output.shape}")
    require_nonempty("output", output)
    hit: Array = np.asarray(output.argmax(-1) == labels) & ~np.isnan(output).any(-1)
    found: Array = hit.reshape(len(hit), -1).mean(1)
    return found


def same(output: Array, reference: Array) -> Array:
    """For each example the share of its answers that are those of a reference.

    Parameters
    ----------
    output, reference : ndarray of float, shape (n, ..., classes)

    Returns
    -------
    ndarray of float, shape (n,)

    Raises
    ------
    ValueError
        If shapes differ, there is only one class, or no example.

    References
    ----------
    Hooker et al., 2020, arXiv:2010.03058, section 3.

    Examples
    --------
    >>> same(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([[3.0, 5.0], [1.0, 2.0]]))
    array([1., 0.])
    """
    require_same_shape("reference", reference, np.shape(output))
    require_nonempty("output", output)
    return right(output, np.asarray(reference).argmax(-1))


def cosine(output: Array, reference: Array) -> Array:
    """For each example the cosine of its output and that of a reference.

    Parameters
    ----------
    output, reference : ndarray of float, shape (n, ...)

    Returns
    -------
    ndarray of float, shape (n,)
        In [-1, 1]; 0 if the output is not finite, or one of the two is zero and the other not.

    Raises
    ------
    ValueError
        If shapes differ, there is no example, or the reference is not finite.

    References
    ----------
    Reimers and Gurevych, 2019, arXiv:1908.10084, section 3 (embeddings are compared by it).

    Examples
    --------
    >>> cosine(np.array([[3.0, 4.0], [0.0, 0.0]]), np.array([[6.0, 8.0], [1.0, 0.0]]))
    array([1., 0.])
    """
    a, b, fine = _rows(output, reference)
    norms = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
    equal = (a == b).all(1) & fine
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.where(norms > 0, (a * b).sum(1) / norms, equal)
    return np.clip(found, -1, 1)


def explained(output: Array, reference: Array) -> Array:
    r"""For each example its part in the variance of a reference that an output explains.

    .. math:: R^2 = \frac1n \sum_i \left( 1 - \frac{\lVert y_i - r_i \rVert^2}
              {\frac1n \sum_k \lVert r_k - \bar r \rVert^2} \right)

    Parameters
    ----------
    output, reference : ndarray of float, shape (n, ...)

    Returns
    -------
    ndarray of float, shape (n,)
        At most 1, the mean is the coefficient of determination. Where the output is not finite,
        or the reference does not vary and the output is another, 0.

    Raises
    ------
    ValueError
        If shapes differ, there is no example, or the reference is not finite.

    References
    ----------
    Wright, 1921, J. Agricultural Research 20 (coefficient of determination).

    Examples
    --------
    >>> explained(np.array([[1.0], [3.0], [4.0]]), np.array([[1.0], [3.0], [5.0]]))
    array([1.   , 1.   , 0.625])
    """
    a, b, fine = _rows(output, reference)
    off = np.square(a - b).sum(1)
    variance = float(np.square(b - b.mean(0)).sum(1).mean())
    found = 1 - off / variance if variance > 0 else np.asarray(off == 0, np.float64)
    return np.where(fine, found, 0.0)


def paired_drop(
    before: Array, after: Array, *, rng: np.random.Generator, draws: int = 2000,
    confidence: float = 0.95,
) -> Drop:
    """Mean scores of two models, and how sure one can be of their difference.

    Parameters
    ----------
    before, after : ndarray of float, shape (n,), not empty
        Scores of the same examples.
    rng : numpy.random.Generator
        n indices for each resampling.
    draws : int
        Resamplings.
    confidence : float, in (0, 1]

    Returns
    -------
    Drop

    Raises
    ------
    ValueError
        If there is no example, shapes differ, or a score is not finite.

    References
    ----------
    Efron, 1979, doi:10.1214/aos/1176344552.

    Examples
    --------
    >>> one = np.ones(4)
    >>> paired_drop(one, one, rng=np.random.default_rng(0)).interval
    Interval(low=0.0, high=0.0)
    """
    before, after = as_reals("before", before), as_reals("after", after)
    require_nonempty("before", before)
    require_same_shape("after", after, before.shape)
    if before.ndim != 1:
        raise ValueError(f"`before` must have one score an example; got shape {before.shape}")
    require_finite("before", before)
    require_finite("after", after)
    require_int("draws", draws, 1)
    lost = before.astype(np.float64) - after
    means: list[Array] = []
    step = max(_CHUNK // lost.size, 1)
    for start in range(0, draws, step):
        chosen = rng.integers(lost.size, size=(min(step, draws - start), lost.size))
        means.append(lost[chosen].mean(1))
    low, high = np.quantile(np.concatenate(means), tails(confidence))
    return Drop(float(before.mean()), float(after.mean()), float(lost.mean()),
                Interval(float(low), float(high)))


def _rows(output: Array, reference: Array) -> tuple[Array, Array, Array]:
    """Both as rows of float64, and which rows of the first are finite; the others are zero."""
    require_same_shape("reference", reference, np.shape(output))
    require_nonempty("output", output)
    require_finite("reference", np.asarray(reference))
    a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (output, reference))
    fine = np.asarray(np.isfinite(a).all(1))
    return np.where(fine[:, None], a, 0), b, fine
