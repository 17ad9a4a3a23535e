r"""Who pays: accuracy by subgroup before and after, and how sure one can be of it.

An average hides whom an error hits. Quantization moves the decision for examples that lie near a
boundary, and examples of rare classes do: the network has seen few of them. So a network that
loses nothing on the whole may change its mind about one group ten times as often.

==============  ==================================================================
figure          what it is good for
==============  ==================================================================
accuracy        what is asked for; noisy where a group is small
drop            its change, with an interval from resampling *pairs*
flips           share of predictions that changed at all: far less noisy
calibration     whether the confidence of the network can be believed
clipped share   whether inputs still look like those that ranges were taken from
==============  ==================================================================

Both networks see the same examples. What is resampled is the pair of their answers.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np
from scipy.special import kolmogorov, ndtri

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_int,
    require_no_nan,
    require_nonempty,
    require_same_shape,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform
from refquant.workflow._resampling import tails

__all__ = [
    "Drift",
    "Group",
    "Interval",
    "Subgroups",
    "by_subgroup",
    "calibration_error",
    "clipped_share",
    "drift",
    "tied",
    "wilson",
]


class Interval(NamedTuple):
    """Where a figure may lie.

    Attributes
    ----------
    low, high : float

    References
    ----------
    Efron, 1979, doi:10.1214/aos/1176344552.
    """

    low: float
    high: float


class Group(NamedTuple):
    """One subgroup before and after.

    Attributes
    ----------
    name : hashable
        The value in `groups`.
    n : int
        Examples; where there is none, every figure is NaN.
    before, after : float
        Accuracy.
    after_interval : Interval
        Of the accuracy after, by Wilson.
    drop : float
        Before minus after.
    drop_interval : Interval
        By resampling pairs.
    flips : float
        Share of predictions that changed.

    References
    ----------
    Hooker et al., 2020, arXiv:2010.03058, section 3.
    """

    name: Hashable
    n: int
    before: float
    after: float
    after_interval: Interval
    drop: float
    drop_interval: Interval
    flips: float


class Subgroups(NamedTuple):
    """All subgroups, and what lies between them.

    Attributes
    ----------
    groups : tuple of Group
        The largest drop first, those without an example last.
    gap_before, gap_after : float
        Largest accuracy less smallest.
    gap_interval : Interval
        Of the change of the gap, by resampling pairs within each group.

    References
    ----------
    Hooker et al., 2020, arXiv:2010.03058, section 3.
    """

    groups: tuple[Group, ...]
    gap_before: float
    gap_after: float
    gap_interval: Interval

    @property
    def worst(self) -> Group:
        """The group with the largest drop."""
        return self.groups[0]

    @property
    def empty(self) -> tuple[Hashable, ...]:
        """Names of groups that were asked for, and of which there is no example."""
        return tuple(group.name for group in self.groups if not group.n)


class Drift(NamedTuple):
    """How far two samples of one value lie apart.

    Attributes
    ----------
    distance : float
        Largest distance of the two distribution functions, in [0, 1].
    chance : float
        Of a distance like this, or more, if nothing has changed (large samples).

    References
    ----------
    Smirnov, 1939, Bull. Math. Univ. Moscou 2; Massey, 1951, doi:10.2307/2280095.
    """

    distance: float
    chance: float


def by_subgroup(
    labels: Array,
    before: Array,
    after: Array,
    groups: Array,
    *,
    rng: np.random.Generator,
    names: Iterable[Hashable] = (),
    draws: int = 2000,
    confidence: float = 0.95,
) -> Subgroups:
    """Accuracy of each subgroup before and after, with intervals.

    Parameters
    ----------
    labels : ndarray of int, shape (n,), not empty
    before, after : ndarray of int, shape (n,)
        Predictions of the two networks for the same examples.
    groups : ndarray, shape (n,)
        Which subgroup an example belongs to; the labels themselves, for classes.
    rng : numpy.random.Generator
        One multinomial draw for each group that has examples, in the order of their names.
    names : iterable of hashable
        Groups that must not be missed: one without an example is reported as such (`empty`).
    draws : int
        Resamplings.
    confidence : float, in (0, 1]
        Of the intervals.

    Returns
    -------
    Subgroups

    Raises
    ------
    ValueError
        If there is no example, or shapes differ.

    Notes
    -----
    A pair is right or wrong before and after, which makes four kinds: resampling n pairs is one
    draw of four counts. A group of one example has a drop without spread; its interval by
    Wilson says how little that means. Groups without an example take no part in gaps.

    Coarse logits tie often. ``argmax`` gives the first of those that tie, so that classes of low
    number are favoured; `tied` finds the examples whose prediction rests on that.

    References
    ----------
    Efron, 1979, doi:10.1214/aos/1176344552; Hooker et al., 2020, arXiv:2010.03058.

    Examples
    --------
    >>> labels, groups = np.array([0, 0, 1, 1]), np.array(["a", "a", "a", "b"])
    >>> made = by_subgroup(labels, labels, np.array([0, 0, 1, 0]), groups,
    ...                    rng=np.random.default_rng(0))
    >>> made.worst.name, made.worst.drop, made.gap_after
    ('b', 1.0, 1.0)
    """
    labels, before, after, groups = map(np.asarray, (labels, before, after, groups))
    require_nonempty("labels", labels)
    for name, array in (("before", before), ("after", after), ("groups", groups)):
        require_same_shape(name, array, labels.shape)
    require_int("draws", draws, 1)
    ends = tails(confidence)
    right = np.stack([before == labels, after == labels]).astype(np.int64)
    found, drops, olds = [], [], []
    for name in np.unique(groups):
        mine = groups == name
        old, new = right[:, mine]
        n = int(mine.sum())
        # How many pairs of each kind (right before, right after) there are in every resampling.
        kinds = ((0, 0), (0, 1), (1, 0), (1, 1))
        counts = rng.multinomial(n, [np.mean((old == a) & (new == b)) for a, b in kinds], draws)
        drop = counts @ [a - b for a, b in kinds] / n
        drops.append(drop)
        olds.append(counts @ [a for a, _ in kinds] / n)
        found.append(Group(
            name.item(), n, float(old.mean()), float(new.mean()),
            wilson(int(new.sum()), n, confidence), float(np.mean(old - new)),
            Interval(*np.quantile(drop, ends).tolist()),
            float(np.mean(before[mine] != after[mine]))))
    old_, new_ = (np.array([getattr(g, k) for g in found]) for k in ("before", "after"))
    nothing = Interval(np.nan, np.nan)
    missing = [Group(name, 0, np.nan, np.nan, nothing, np.nan, nothing, np.nan)
               for name in dict.fromkeys(names) if name not in {g.name for g in found}]
    resampled = np.ptp(np.array(olds) - drops, axis=0) - np.ptp(olds, axis=0)
    return Subgroups(
        (*sorted(found, key=lambda g: -g.drop), *missing), float(np.ptp(old_)),
        float(np.ptp(new_)), Interval(*np.quantile(resampled, ends).tolist()))


def tied(logits: Array) -> Array:
    """Examples whose largest logit occurs twice: their prediction is a matter of order.

    Parameters
    ----------
    logits : ndarray of float or int, shape (n, classes)
        Without NaN, at least one class.

    Returns
    -------
    ndarray of bool, shape (n,)

    Raises
    ------
    ValueError
        If `logits` are not rows of at least one class, or hold a NaN.

    References
    ----------
    Hooker et al., 2020, arXiv:2010.03058, section 3 (predictions that change).

    Examples
    --------
    >>> tied(np.array([[3, 1, 3], [0, 2, 1]]))
    array([ True, False])
    """
    logits = np.asarray(logits)
    if logits.ndim != 2 or not logits.shape[1]:
        raise ValueError(f"`logits` must be rows of classes; got shape {logits.shape}")
    require_no_nan("logits", logits)
    largest: Array = logits == logits.max(axis=1, keepdims=True)
    return largest.sum(axis=1) > 1


def wilson(right: int, n: int, confidence: float = 0.95) -> Interval:
    r"""Where the accuracy may lie, after `right` of `n`.

    .. math:: \frac{1}{1 + z^2/n} \left( p + \frac{z^2}{2n}
              \pm z \sqrt{\frac{p (1 - p)}{n} + \frac{z^2}{4 n^2}} \right)

    Unlike p plus or minus its standard error it never leaves [0, 1], and is not a point where
    all of a few answers are right.

    Parameters
    ----------
    right, n : int
        ``0 <= right <= n``, and n at least 1.
    confidence : float, in (0, 1]

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Wilson, 1927, doi:10.2307/2276774.

    Examples
    --------
    >>> [round(end, 3) for end in wilson(10, 10)]
    [0.722, 1.0]
    """
    n = require_int("n", n, 1)
    p = require_int("right", right, 0, n) / n
    z = -ndtri(tails(confidence)[0])
    if np.isinf(z):
        return Interval(0.0, 1.0)
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Interval(*(float(np.clip((middle + s * half) / (1 + z * z / n), 0, 1))
                      for s in (-1, 1)))


def calibration_error(confidence: Array, right: Array, *, bins: int = 15) -> float:
    r"""How far the confidence of the answers is from how often they are right.

    .. math:: \mathrm{ECE} = \sum_b \frac{n_b}{n}\,
              \bigl| \text{share right}_b - \text{mean confidence}_b \bigr|

    Parameters
    ----------
    confidence : ndarray of float, shape (n,), in [0, 1], not empty
        Probability that the network gave to its answer.
    right : ndarray of bool, shape (n,)
    bins : int
        Of equal width; the upper end belongs to a bin.

    Returns
    -------
    float
        0 if the confidence can be believed.

    Raises
    ------
    ValueError
        If a confidence lies outside of [0, 1], or shapes differ.

    References
    ----------
    Guo et al., 2017, arXiv:1706.04599, eqs. (2) and (3).

    Examples
    --------
    >>> calibration_error(np.array([0.9, 0.9]), np.array([True, False]))
    0.4
    """
    confidence, right = as_reals("confidence", confidence), np.asarray(right)
    require_nonempty("confidence", confidence)
    require_same_shape("right", right, confidence.shape)
    require_int("bins", bins, 1)
    if not ((confidence >= 0) & (confidence <= 1)).all():       # also for NaN
        raise ValueError(f"`confidence` must lie in [0, 1]; got {confidence.min()} to "
                         f"{confidence.max()}")
    at = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    off = np.bincount(at, weights=right - confidence.astype(np.float64), minlength=bins)
    return float(np.abs(off).sum() / len(confidence))


def clipped_share(x: Array, quantizer: Uniform) -> float:
    """Share of values that lie outside of what a quantizer can express.

    Parameters
    ----------
    x : ndarray of float, not empty
    quantizer : Uniform

    Returns
    -------
    float
        Of values farther than half a step from their level.

    Raises
    ------
    ValueError
        If `x` is empty.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 2.1.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> clipped_share(np.array([0.2, 0.9, 5.0, -7.0]), symmetric(np.array(1.0), bits=4))
    0.5
    """
    x = as_reals("x", x)
    require_nonempty("x", x)
    far = np.abs(fake_quantize(x, quantizer) - x) > 0.5001 * quantizer.scale
    return float(far.mean())


def drift(reference: Array, x: Array) -> Drift:
    """How far a value has moved since a reference was taken, whatever its distribution.

    Parameters
    ----------
    reference, x : ndarray of float, not empty
        Values as they were at calibration, and now.

    Returns
    -------
    Drift

    Raises
    ------
    ValueError
        If one of them is empty, or holds a NaN.

    References
    ----------
    Smirnov, 1939, Bull. Math. Univ. Moscou 2; Massey, 1951, doi:10.2307/2280095.

    Examples
    --------
    >>> drift(np.array([0.0, 1.0, 2.0, 3.0]), np.array([2.5, 3.5])).distance
    0.75
    """
    first, second = (np.sort(as_reals(name, a), axis=None)
                     for name, a in (("reference", reference), ("x", x)))
    for name, a in (("reference", first), ("x", second)):
        require_nonempty(name, a)
        require_no_nan(name, a)
    both = np.concatenate([first, second])
    below = [np.searchsorted(a, both, side="right") / a.size for a in (first, second)]
    distance = float(np.abs(below[0] - below[1]).max())
    size = first.size * second.size / both.size
    return Drift(distance, float(kolmogorov(distance * np.sqrt(size))))
