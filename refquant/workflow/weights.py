"""Weights to codes by the method of your choice, for models that are only files.

A method sees one layer at a time: its weight ``(out, in)``, and what calibration saw enter
it. All share one grid, min-max per row or per group, so that a comparison of methods
compares methods: symmetric above 4 bits, with a zero point up to 4, where half a range
unused is half of the codes.

===============  =====================================================================
method           codes
===============  =====================================================================
`nearest`        the nearest
`clipped`        the nearest, on the range of least squared error
`by_hqq`         the nearest, on a zero point that is fitted and not whole
`by_gptq`        column by column, repairing the output (needs data)
`by_adaround`    up or down, learned from the outputs (needs data)
===============  =====================================================================
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.calibration.minmax import absmax, minmax
from refquant.calibration.mse import omse, omse_range
from refquant.calibration.second_moment import SecondMoment, output_error
from refquant.granularity import group
from refquant.interop.qdq import CodedWeight
from refquant.ptq.adaround import adaround
from refquant.ptq.gptq import by_curvature, gptq
from refquant.ptq.hqq import hqq
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric

__all__ = ["MOST_WITH_ZERO_POINT", "Method", "Seen", "by_adaround", "by_gptq", "by_hqq", "clipped",
           "grid", "nearest"]

#: Up to so many bits a weight has a zero point; above, it is symmetric.
MOST_WITH_ZERO_POINT = 4


class Seen(NamedTuple):
    """What entered a layer during calibration.

    Attributes
    ----------
    moment : SecondMoment
        Of all rows.
    sample : ndarray of float32, shape (rows, in)
        Some of them.
    absolute : ndarray of float64, shape (in,)
        Sum of magnitudes; over ``moment.size`` it is their mean.
    low, high : ndarray of float64, shape (in,)
        Ends of the range of each channel.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-C (calibration).
    """

    moment: SecondMoment
    sample: Array
    absolute: Array
    low: Array
    high: Array

    @classmethod
    def of(cls, rows: Array, sample: Array) -> "Seen":
        """What one batch of rows shows."""
        return cls(SecondMoment.of(rows), sample, np.abs(rows).sum(0, dtype=np.float64),
                   rows.min(0).astype(np.float64), rows.max(0).astype(np.float64))

    def merge(self, other: "Seen") -> "Seen":
        """What both have seen."""
        return Seen(self.moment.merge(other.moment), np.concatenate([self.sample, other.sample]),
                    self.absolute + other.absolute, np.minimum(self.low, other.low),
                    np.maximum(self.high, other.high))

    def divided(self, scale: Array) -> "Seen":
        """What would have entered if each channel had been divided by its `scale` (> 0)."""
        total = self.moment.total / np.multiply.outer(scale, scale)
        return Seen(self.moment._replace(total=total), (self.sample / scale).astype(np.float32),
                    self.absolute / scale, self.low / scale, self.high / scale)


#: (weight, bits, group size, what entered) -> codes; the last is None without data.
Method: TypeAlias = Callable[[Array, int, int, Seen | None], CodedWeight]


def nearest(weight: Array, bits: int, group_size: int, seen: Seen | None = None) -> CodedWeight:
    """Nearest codes on the min-max grid of each group.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    bits : int
    group_size : int
        Must divide ``in``.
    seen : Seen or None
        Not used.

    Returns
    -------
    CodedWeight

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (2).

    Examples
    --------
    >>> nearest(np.array([[1.0, -0.4, 0.1, 0.2]]), 3, 2).codes
    array([[7, 0, 4, 7]], dtype=int32)
    """
    return _on_grid(weight, bits, group_size, partial(grid, bits=bits))


def clipped(weight: Array, bits: int, group_size: int, seen: Seen | None = None) -> CodedWeight:
    """Nearest codes on the range of least squared error of each group.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    bits : int
    group_size : int
        Must divide ``in``.
    seen : Seen or None
        Not used.

    Returns
    -------
    CodedWeight

    References
    ----------
    Choukroun et al., 2019, arXiv:1902.06822 (OMSE).

    Examples
    --------
    >>> clipped(np.array([[1.0, -0.4, 0.1, 0.2]]), 3, 4).codes.shape
    (1, 4)
    """
    def fit(w: Array) -> Uniform:
        if bits > MOST_WITH_ZERO_POINT:
            return omse(w, partial(symmetric, bits=bits), axis=-1, candidates=60)
        return omse_range(w, partial(asymmetric, bits=bits), axis=-1, candidates=60)

    return _on_grid(weight, bits, group_size, fit)


def by_hqq(weight: Array, bits: int, group_size: int, seen: Seen | None = None) -> CodedWeight:
    """Codes of HQQ, whose zero points are float32 and not whole.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    bits : int
    group_size : int
        Must divide ``in``.
    seen : Seen or None
        Not used.

    Returns
    -------
    CodedWeight
        For files of tensors: no ONNX operator takes such a zero point.

    References
    ----------
    Badri and Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models".

    Examples
    --------
    >>> by_hqq(np.array([[1.0, -0.4, 0.1, 0.2]]), 3, 4).zero_point.dtype
    dtype('float32')
    """
    found = hqq(group(weight, group_size), bits=bits)
    return CodedWeight(found.codes.reshape(weight.shape), found.scale[..., 0].astype(np.float32),
                       found.zero_point[..., 0].astype(np.float32), bits, signed=False)


def by_gptq(weight: Array, bits: int, group_size: int, seen: Seen | None) -> CodedWeight:
    """Codes of GPTQ, columns in the order of their curvature, groups fitted beforehand.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    bits : int
    group_size : int
        Must divide ``in``.
    seen : Seen

    Returns
    -------
    CodedWeight

    Raises
    ------
    ValueError
        If there are no data.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, algorithm 1.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((50, 4))
    >>> by_gptq(np.ones((2, 4)), 4, 2, Seen.of(x, x)).scale.shape
    (2, 2)
    """
    found = gptq(weight, _needed(seen).moment.hessian, partial(grid, bits=bits),
                 group_size=group_size, order=by_curvature, static_groups=True)
    groups = [q for q in found.quantizers if isinstance(q, Uniform)]
    scale, zero = (np.concatenate(p, axis=1) for p in zip(
        *((q.scale, q.zero_point) for q in groups), strict=True))
    return _coded(found.codes, scale, zero, bits)


def by_adaround(
    weight: Array, bits: int, group_size: int, seen: Seen | None, *,
    rng: np.random.Generator, steps: int = 500,
) -> CodedWeight:
    """Codes of AdaRound on the min-max grid, learned on the sample of the inputs.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    bits : int
    group_size : int
        Must divide ``in``.
    seen : Seen
    rng : numpy.random.Generator
        As of `refquant.ptq.adaround.adaround`.
    steps : int
        Of Adam.

    Returns
    -------
    CodedWeight
        Never worse than `nearest` on the second moment of the inputs: if it is, that is
        returned.

    Raises
    ------
    ValueError
        If there are no data.

    Notes
    -----
    The penalty has the units of the output error, so the inputs are scaled until nearest
    rounding has an error of 1/10 there: the default penalty then suits any layer.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((50, 4))
    >>> by_adaround(np.ones((2, 4)), 4, 2, Seen.of(x, x), rng=rng, steps=5).codes.shape
    (2, 4)
    """
    data = _needed(seen)
    start = nearest(weight, bits, group_size)
    error = output_error(weight - start.decoded(), data.moment.hessian)
    if error == 0:
        return start
    scale, zero = (np.repeat(p, group_size, axis=1) for p in (start.scale, start.zero_point))
    like = grid(weight, bits=bits)
    x = data.sample * np.float32(np.sqrt(0.1 / error))
    found = adaround(weight, x, x @ weight.T, Uniform(scale, zero, like.qmin, like.qmax),
                     rng=rng, steps=steps)
    learned = start._replace(codes=found.codes)
    return learned if output_error(
        weight - learned.decoded(), data.moment.hessian) < error else start


def grid(weight: Array, *, bits: int) -> Uniform:
    """The min-max grid of each row: symmetric above 4 bits, with a zero point up to 4.

    Parameters
    ----------
    weight : ndarray of float, shape (..., n)
    bits : int
        From 2 to 8.

    Returns
    -------
    Uniform

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-B.

    Examples
    --------
    >>> grid(np.array([[0.0, 3.0]]), bits=2).qmax, grid(np.array([[0.0, 3.0]]), bits=8).qmax
    (3, 127)
    """
    if bits > MOST_WITH_ZERO_POINT:
        return symmetric(absmax(weight, axis=-1), bits=bits)
    return asymmetric(*minmax(weight, axis=-1), bits=bits)


def _on_grid(
    weight: Array, bits: int, group_size: int, fit: Callable[[Array], Uniform]
) -> CodedWeight:
    blocks = group(weight, group_size)
    q = fit(blocks)
    return _coded(q.encode(blocks).reshape(weight.shape), q.scale[..., 0], q.zero_point[..., 0],
                  bits)


def _coded(codes: Array, scale: Array, zero_point: Array, bits: int) -> CodedWeight:
    return CodedWeight(codes, scale.astype(np.float32), zero_point, bits,
                       signed=bits > MOST_WITH_ZERO_POINT)


def _needed(seen: Seen | None) -> Seen:
    if seen is None:
        raise ValueError("`method` must have data to learn from; got no `--calibration`")
    return seen
