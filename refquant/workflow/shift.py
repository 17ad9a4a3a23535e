"""When the data move: whether ranges of calibration still hold, and what quantization makes worse.

Static ranges are a bet that the data will stay as they were. Two questions, and only the second
needs labels:

=====================  ====================================================================
of an activation       share that is clipped now and was before, how far beyond the range,
(`shift`, `shifts`)    distance of the distributions, SQNR of the static and of a fresh range
of the answers         what the move costs the float network, what it costs the quantized one,
(`fall`)               and an interval for the difference
=====================  ====================================================================

The float network falls too: what quantization is to blame for is only the rest. And a range that
is exceeded need not cost an answer: clipping hurts the large values of a layer, of which the
largest often stays the largest.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_finite, require_int, require_nonempty, require_same_shape
from refquant.calibration.dynamic import per_tensor
from refquant.metrics import sqnr
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform
from refquant.workflow._resampling import tails
from refquant.workflow.fairness import Interval, clipped_share, drift

__all__ = ["Answers", "Fall", "Shift", "fall", "shift", "shifts"]


class Shift(NamedTuple):
    """An activation on the data of calibration, and on those of now.

    Attributes
    ----------
    clipped_before, clipped : float
        Share of values that the static quantizer cannot express, before and now.
    beyond : float
        How far the farthest of them lies outside, in widths of the range; 0 if none does.
    distance : float
        Largest distance of the two distribution functions, in [0, 1].
    static, dynamic : float
        SQNR now in dB, of the quantizer as it is and of one with a fresh range for all values
        of now.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D.
    """

    clipped_before: float
    clipped: float
    beyond: float
    distance: float
    static: float
    dynamic: float


class Answers(NamedTuple):
    """What two networks say about the same examples.

    Attributes
    ----------
    labels : ndarray of int, shape (n,)
        Where there are none, the answers of the float network: what falls is then agreement.
    exact, coarse : ndarray of int, shape (n,)
        Predictions of the float network and of the quantized one.

    References
    ----------
    Hooker et al., 2020, arXiv:2010.03058, section 3.
    """

    labels: Array
    exact: Array
    coarse: Array


class Fall(NamedTuple):
    """What moving the data costs two networks.

    Attributes
    ----------
    exact, coarse : float
        Accuracy before less accuracy now, of the float and of the quantized network.
    excess : float
        ``coarse - exact``: what quantization is to blame for.
    interval : Interval
        Of the excess, by resampling pairs of answers, before and now each for themselves.
    flips_before, flips : float
        Share of examples about which the two networks disagree.

    References
    ----------
    Efron, 1979, doi:10.1214/aos/1176344552.
    """

    exact: float
    coarse: float
    excess: float
    interval: Interval
    flips_before: float
    flips: float


def shift(reference: Array, now: Array, quantizer: Uniform) -> Shift:
    """How far an activation has moved, and whether its range still holds.

    Parameters
    ----------
    reference, now : ndarray of float, not empty
        As it was at calibration, and as it is; as many examples as there are.
    quantizer : Uniform
        The static one; for a mere range ``asymmetric(low, high, bits=8)``.

    Returns
    -------
    Shift

    Raises
    ------
    ValueError
        If an array is empty or not finite.

    Notes
    -----
    A fresh range need not be the better one: it gives way to a single outlier. Nor does it
    clip: its SQNR is that of the steps alone.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D; Smirnov, 1939, Bull. Math. Univ.
    Moscou 2.

    Examples
    --------
    >>> from refquant.quantizers.uniform import asymmetric
    >>> x = np.linspace(0, 1, 256)
    >>> made = shift(x, 2 * x, asymmetric(np.array(0.0), np.array(1.0), bits=8))
    >>> made.clipped_before, made.clipped, made.beyond, made.distance
    (0.0, 0.5, 1.0, 0.5)
    """
    for name, array in (("reference", reference), ("now", now)):
        require_nonempty(name, array)
        require_finite(name, array)
    coarse = fake_quantize(now, quantizer)
    fresh = fake_quantize(now, per_tensor(now, bits=quantizer.code_bits))
    width = quantizer.scale * (quantizer.qmax - quantizer.qmin)
    clipped = clipped_share(now, quantizer)
    return Shift(
        clipped_share(reference, quantizer), clipped,
        float((np.abs(now - coarse) / width).max()) if clipped else 0.0,
        drift(reference, now).distance, sqnr(now, coarse), sqnr(now, fresh))


def shifts(
    reference: Mapping[str, Array], now: Mapping[str, Array], plan: Mapping[str, Uniform]
) -> dict[str, Shift]:
    """Of every activation in a plan how far it has moved, the most clipped first.

    Parameters
    ----------
    reference, now : mapping of str to ndarray of float
        Activations on the data of calibration and on those of now, of any runtime.
    plan : mapping of str to Uniform
        Static quantizers by the names of activations.

    Returns
    -------
    dict of str to Shift
        By the share that is clipped *more* than before, then by distance, falling.

    Raises
    ------
    ValueError
        If an activation of the plan is missing, or as `shift`.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D.

    Examples
    --------
    >>> from refquant.quantizers.uniform import asymmetric
    >>> x, q = np.linspace(0, 1, 256), asymmetric(np.array(0.0), np.array(1.0), bits=8)
    >>> list(shifts({"a": x, "b": x}, {"a": x, "b": 2 * x}, {"a": q, "b": q}))
    ['b', 'a']
    """
    for told, arrays in (("reference", reference), ("now", now)):
        missing = [name for name in plan if name not in arrays]
        if missing:
            raise ValueError(f"`{told}` must hold the whole plan; {missing[0]!r} is missing")
    made = {name: shift(reference[name], now[name], q) for name, q in plan.items()}
    order = sorted(made, key=lambda n: (made[n].clipped_before - made[n].clipped,
                                        -made[n].distance))
    return {name: made[name] for name in order}


def fall(
    before: Answers,
    now: Answers,
    *,
    rng: np.random.Generator,
    draws: int = 2000,
    confidence: float = 0.95,
) -> Fall:
    r"""What moving the data costs the quantized network beyond what it costs the float one.

    .. math:: (a_q - a_q') - (a - a') ,

    a the accuracy on the data of calibration, a' on those of now.

    Parameters
    ----------
    before, now : Answers
        For data like those of calibration that ranges were *not* taken from, and for those of
        now; other examples, as many as there are.
    rng : numpy.random.Generator
        One multinomial draw for `before`, one for `now`.
    draws : int
        Resamplings.
    confidence : float, in (0, 1]
        Of the interval.

    Returns
    -------
    Fall

    Raises
    ------
    ValueError
        If there is no example, or shapes differ.

    References
    ----------
    Efron, 1979, doi:10.1214/aos/1176344552; Gholami et al., 2021, arXiv:2103.13630, section
    III-D.

    Examples
    --------
    >>> labels = np.array([0, 1, 2, 3])
    >>> made = fall(Answers(labels, labels, labels),
    ...             Answers(labels, np.array([0, 1, 2, 0]), np.array([0, 1, 0, 0])),
    ...             rng=np.random.default_rng(0))
    >>> made.exact, made.coarse, made.excess, made.flips
    (0.25, 0.5, 0.25, 0.25)
    """
    require_int("draws", draws, 1)
    ends = tails(confidence)
    accuracy, drop, flips = [], [], []
    for told, (labels, exact, coarse) in (("before", before), ("now", now)):
        labels, exact, coarse = map(np.asarray, (labels, exact, coarse))
        require_nonempty(f"{told}.labels", labels)
        require_same_shape(f"{told}.exact", exact, labels.shape)
        require_same_shape(f"{told}.coarse", coarse, labels.shape)
        right = np.stack([exact == labels, coarse == labels]).astype(np.int64)
        # Of a pair only the difference counts: one resampling is one draw of three counts.
        kinds, pair = np.array([-1, 0, 1]), right[0] - right[1]
        counts = rng.multinomial(pair.size, [np.mean(pair == kind) for kind in kinds], draws)
        accuracy.append(right.mean(axis=1))
        drop.append(counts @ kinds / pair.size)
        flips.append(float(np.mean(exact != coarse)))
    lost = accuracy[0] - accuracy[1]
    low, high = np.quantile(drop[1] - drop[0], ends)
    return Fall(float(lost[0]), float(lost[1]), float(lost[1] - lost[0]),
                Interval(float(low), float(high)), *flips)
