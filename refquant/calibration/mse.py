r"""Least squares: clip where the error of the rounding and of the clipping balance.

Wide steps round badly, narrow ranges clip badly. OMSE searches the best
compromise on the data itself, for the levels that will really be used:

.. math:: \min_A \sum_i | x_i - \hat x_i(A) |^p .

===================  ======================================================
`omse`               bounds ``A k / n``, for any symmetric quantizer
`omse_range`         low and high shrunk together, for any asymmetric one
`optimal_scale`      the exact optimum over all scales, zero point 0
`alternating_scale`  codes, scale, codes, ...: gets stuck; instructive
`two_tensors`        the sum of two low-bit tensors, for stubborn layers
===================  ======================================================

As a function of the scale the error has many local minima, one for almost
every way the codes can fall, so only a search of all of them is exact.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import (
    as_data,
    require_broadcastable,
    require_int,
    require_number,
    require_positive,
)
from refquant.calibration.statistics import Range
from refquant.granularity import as_rows
from refquant.kernels.histogram import ValueHistogram, uniform_errors
from refquant.quantizer import Fit, Quantizer, fake_quantize
from refquant.quantizers._scale import usable
from refquant.quantizers.uniform import Uniform

__all__ = [
    "AlternatingScale",
    "TwoTensors",
    "alternating_scale",
    "omse",
    "omse_range",
    "optimal_scale",
    "two_tensors",
]

_Q = TypeVar("_Q", bound=Quantizer)

#: The histogram answers instead of the data if it holds at least so many values to a
#: bin: then it is smaller than the data, and its errors are good to 1e-7 relative.
VALUES_PER_BIN = 16


def omse(
    x: Array,
    make: Callable[[Array], _Q],
    *,
    axis: Axis = None,
    candidates: int = 100,
    p: float = 2.0,
) -> _Q:
    r"""Quantizer whose bound has least squared error among even shares of the largest.

    .. math:: A^* = \arg\min_{A \in \{k A_{max} / n\}} \sum_i | x_i - \hat x_i(A) |^p,
              \qquad k = 1, \dots, n

    Min-max is the candidate k = n, so the error never exceeds that of min-max.
    Equal errors go to the larger bound.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    make : callable, ndarray -> Quantizer
        The levels for a bound, e.g. ``partial(symmetric, bits=4)``. Works on
        bounds of any shape.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1. Every block gets its own.
    candidates : int
        The n of the equation.
    p : float
        Power of the error; 2 is least squares.

    Returns
    -------
    Quantizer
        ``make`` of the best bound of each block.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, `candidates` below 1 or `p` not positive.

    Notes
    -----
    For one block of a million values (four above 4 bits) and a `Uniform` of at
    most 8 bits, the errors come from a histogram (`refquant.kernels.histogram`),
    good to 1e-7 relative; the choice can differ only between candidates whose
    errors are equal to that.

    References
    ----------
    Choukroun et al., 2019, arXiv:1902.06822 (OMSE); with a free power:
    Li et al., "BRECQ", 2021, arXiv:2102.05426, whose code takes p = 2.4.

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.quantizers.uniform import symmetric
    >>> x = np.array([[0.1, -0.2, 0.3, 2.0], [0.1, -0.2, 0.3, 0.3]])
    >>> omse(x, partial(symmetric, bits=3), axis=1).scale.round(3)
    array([[0.667],
           [0.1  ]])
    """
    rows, kept = as_rows(as_data("x", x), axis=axis)
    low, high = Range.of(rows, axis=1)
    return make(*_search(rows, make, (np.maximum(-low, high),), kept, candidates, p))


def omse_range(
    x: Array,
    make: Callable[[Array, Array], _Q],
    *,
    axis: Axis = None,
    candidates: int = 100,
    p: float = 2.0,
) -> _Q:
    r"""Quantizer whose range has least error among those shrunk at both ends together.

    .. math:: (\alpha, \beta) \in \left\{ \tfrac{k}{n} (\min x, \max x) \right\},
              \qquad k = 1, \dots, n

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    make : callable, (ndarray, ndarray) -> Quantizer
        The levels for a low and a high end, e.g. ``partial(asymmetric, bits=4)``.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.
    candidates : int
        The n of the equation.
    p : float
        Power of the error; 2 is least squares.

    Returns
    -------
    Quantizer
        ``make`` of the best ends of each block; equal errors go to the wider.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, `candidates` below 1 or `p` not positive.

    References
    ----------
    Li et al., "BRECQ", 2021, arXiv:2102.05426, authors' code.

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.quantizers.uniform import asymmetric
    >>> q = omse_range(np.array([0.0, 0.1, 0.2, 0.3, 1.1]), partial(asymmetric, bits=2))
    >>> q.decode(q.encode(np.array([0.1, 0.2, 1.1]))).round(3)
    array([0.   , 0.345, 1.034])
    """
    rows, kept = as_rows(as_data("x", x), axis=axis)
    return make(*_search(rows, make, Range.of(rows, axis=1), kept, candidates, p))


def optimal_scale(x: Array, qmin: int, qmax: int, *, axis: Axis = None) -> Uniform:
    r"""Uniform quantizer with zero point 0 and exactly the least squared error.

    .. math:: s^* = \arg\min_{s > 0} \sum_i (x_i - s\, q_i(s))^2, \qquad
              q_i(s) = \mathrm{clip}(\lfloor x_i / s \rceil, q_{min}, q_{max})

    The code of an element grows by one as s falls below
    :math:`|x_i| / (k + 1/2)`. Between two such breakpoints all codes are
    constant and the error is a parabola, lowest at
    :math:`s = \langle x, q \rangle / \langle q, q \rangle` with the error
    :math:`\sum x^2 - \langle x, q \rangle^2 / \langle q, q \rangle`. Walking down
    the sorted breakpoints updates both products by an addition each, and the
    lowest of all parabolas is the answer. Should its lowest point lie outside
    its interval, other codes are nearer there and err even less: impossible.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    qmin, qmax : int
        Smallest and largest code, ``qmin <= 0 < qmax``.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    Uniform
        Scale 1 for a block that no scale can serve: zeros, or values of the
        sign that has no codes. Equal errors go to the larger scale.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or the codes do not include 0 and 1.

    Notes
    -----
    Takes time and memory for n times the number of codes, per block.

    References
    ----------
    Choukroun et al., 2019, arXiv:1902.06822, for the objective; the sweep over
    breakpoints is our derivation.

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> optimal_scale(w, -1, 1).scale
    array([0.5875])
    """
    require_int("qmin", qmin, -(2**24), 0)
    require_int("qmax", qmax, 1, 2**24)
    rows, kept = as_rows(as_data("x", x), axis=axis)
    scale = np.array([_best_scale(row.astype(np.float64), qmin, qmax) for row in rows])
    scale = usable(scale, rows.dtype).reshape(kept)
    return Uniform(scale, np.zeros(kept, np.int32), qmin, qmax)


class AlternatingScale(NamedTuple):
    """Where alternating minimisation came to rest.

    Attributes
    ----------
    quantizer : Uniform
        With the last scale.
    errors : ndarray of float64, shape (iterations + 1,)
        Sum of squared errors before each iteration and after the last, over
        all blocks; never increasing.
    converged : bool
        False if the codes still changed when the iterations ran out.

    References
    ----------
    Lloyd, 1982, doi:10.1109/TIT.1982.1056489, for the principle.

    Examples
    --------
    >>> alternating_scale(np.array([1.0, 2.0]), -1, 1, np.array([2.0])).converged
    True
    """

    quantizer: Uniform
    errors: Array
    converged: bool


def alternating_scale(
    x: Array, qmin: int, qmax: int, scale: Array, *, axis: Axis = None, max_iterations: int = 100
) -> AlternatingScale:
    r"""Local optimum reached by choosing codes and scale in turn.

    .. math:: q \leftarrow \mathrm{clip}(\lfloor x / s \rceil, q_{min}, q_{max}), \qquad
              s \leftarrow \langle x, q \rangle / \langle q, q \rangle

    Neither step can raise the error, and so it stops; but at the first scale
    that is best for its own codes, usually close to the start. Compare
    `optimal_scale`.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    qmin, qmax : int
        Smallest and largest code, ``qmin <= 0 < qmax``.
    scale : ndarray of float, broadcastable to `x`, > 0
        Where to start, of the size 1 along the axes reduced over.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.
    max_iterations : int
        At least 1.

    Returns
    -------
    AlternatingScale
        The quantizer, the error after every iteration, and whether it stopped.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or a scale not positive.

    References
    ----------
    Lloyd, 1982, doi:10.1109/TIT.1982.1056489, for the principle.

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> stuck = alternating_scale(w, -1, 1, np.array([0.9]))
    >>> stuck.quantizer.scale, stuck.errors[-1].round(6)
    (array([0.8]), np.float64(0.355))
    """
    x = as_data("x", x, axis=axis)
    require_int("max_iterations", max_iterations, 1)
    require_positive("scale", scale)
    require_broadcastable("scale", scale, x.shape)
    work = np.asarray(scale, x.dtype)
    quantizer = Uniform(work, np.zeros(work.shape, np.int32), qmin, qmax)
    codes, converged = quantizer.encode(x), False
    errors: list[float] = []
    while not converged and len(errors) < max_iterations:
        errors.append(_squared_error(x, quantizer))
        xq = np.sum(x * codes, axis=axis, keepdims=True, dtype=np.float64)
        qq = np.sum(np.square(codes, dtype=np.float64), axis=axis, keepdims=True)
        # Where all codes are zero no scale is better than another: keep it.
        work = np.where(qq > 0, xq / np.maximum(qq, 1), work).astype(x.dtype)
        quantizer = Uniform(work, np.zeros(work.shape, np.int32), qmin, qmax)
        previous, codes = codes, quantizer.encode(x)
        converged = np.array_equal(previous, codes)
    errors.append(_squared_error(x, quantizer))
    return AlternatingScale(quantizer, np.array(errors), converged)


class TwoTensors(NamedTuple):
    r"""A tensor as the sum of two quantized ones.

    Attributes
    ----------
    first, second : Quantizer
        For the tensor, and for what the first leaves.
    value : ndarray of float
        Sum of both decoded tensors, in the dtype of the data.

    References
    ----------
    Choukroun et al., 2019, arXiv:1902.06822.

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.quantizers.uniform import symmetric
    >>> fit = partial(omse, make=partial(symmetric, bits=2))
    >>> two_tensors(np.array([1.0, 0.4, -0.6]), fit).value.round(2)
    array([ 0.97,  0.37, -0.67])
    """

    first: Quantizer
    second: Quantizer
    value: Array


def two_tensors(x: Array, fit: Fit) -> TwoTensors:
    r"""Sum of two quantized tensors, the second fitted to the error of the first.

    .. math:: x \approx Q_1(x) + Q_2(x - Q_1(x))

    Twice the work and the storage, on the plain low-bit hardware: meant for the
    few layers that a network cannot do without.

    Parameters
    ----------
    x : ndarray of float, any shape
        Whatever `fit` accepts.
    fit : callable, ndarray -> Quantizer
        Applied twice, e.g. ``partial(omse, make=partial(symmetric, bits=4))``.

    Returns
    -------
    TwoTensors
        Whose `value` is at least as near to `x` as the first alone, if `fit`
        never does worse than zero.

    References
    ----------
    Choukroun et al., 2019, arXiv:1902.06822, the greedy form.

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.quantizers.uniform import symmetric
    >>> pair = two_tensors(np.array([7.0, 0.3]), lambda x: symmetric(absmax(x), bits=4))
    >>> pair.first.scale, pair.second.scale.round(4), pair.value.round(4)
    (array([1.]), array([0.0429]), array([7. , 0.3]))
    """
    first = fit(x)
    once = fake_quantize(x, first)
    second = fit(x - once)
    return TwoTensors(first, second, once + fake_quantize(x - once, second))


def _search(
    rows: Array,
    make: Callable[..., Quantizer],
    ends: tuple[Array, ...],
    kept: tuple[int, ...],
    candidates: int,
    p: float,
) -> list[Array]:
    """Ends of the best range of each row, reshaped to `kept`."""
    require_int("candidates", candidates, 1)
    require_number("p", p)
    require_positive("p", np.asarray(p))
    # From the widest down, replaced only by strictly less: ties go to the wider range.
    shares = (np.arange(candidates, 0, -1) / candidates).astype(rows.dtype)
    best = _fast_search(rows, make, ends, shares, p)
    if best is None:
        best, least = shares[:1].repeat(len(rows)), np.full(len(rows), np.inf)
        for share in shares:
            errors = _row_errors(rows, make(*(end * share for end in ends)), p)
            best = np.where(errors < least, share, best)
            least = np.minimum(errors, least)
    return [(end[:, 0] * best).reshape(kept) for end in ends]


def _fast_search(
    rows: Array, make: Callable[..., Quantizer], ends: tuple[Array, ...], shares: Array, p: float
) -> Array | None:
    """Best share by the histogram, or None where that does not apply."""
    if len(rows) > 1 or rows.size < VALUES_PER_BIN * 2**16:
        return None
    quantizer = make(*(end[0] * shares for end in ends))
    if not isinstance(quantizer, Uniform) or quantizer.scale.shape != shares.shape:
        return None
    bins = 2**16 if quantizer.code_bits <= 4 else 2**18
    if quantizer.code_bits > 8 or rows.size < VALUES_PER_BIN * bins:
        return None
    histogram = ValueHistogram.of(rows, bins=bins)
    return shares[[np.argmin(uniform_errors(histogram, quantizer, p=p))]]


def _row_errors(rows: Array, quantizer: Quantizer, p: float) -> Array:
    """Sum over each row of ``|x - x_hat|**p`` in float64, some columns at a time."""
    total = np.zeros(len(rows))
    piece = max(2**16 // len(rows), 1)
    for start in range(0, rows.shape[1], piece):
        x = rows[:, start : start + piece]
        error = x.astype(np.float64) - fake_quantize(x, quantizer)
        power = np.square(error) if p == 2 else np.abs(error) ** p
        total += power.sum(axis=1)
    return total


def _squared_error(x: Array, quantizer: Quantizer) -> float:
    return float(np.sum(np.square(x.astype(np.float64) - fake_quantize(x, quantizer))))


def _best_scale(x: Array, qmin: int, qmax: int) -> float:
    """Exact least-squares scale of one block, 0 if no element can have a code but 0."""
    live = x[np.where(x > 0, qmax, np.where(x < 0, -qmin, 0)) > 0]
    if live.size == 0:
        return 0.0
    # Scaling by a power of two is exact, and no product below can leave float64.
    exponent = np.frexp(np.abs(live).max())[1]
    live = np.ldexp(live, -exponent)
    # The k-th breakpoint of an element, k = 0, ..., is where its code leaves k for k + 1.
    codes = np.where(live > 0, qmax, -qmin)
    steps = np.arange(codes.sum()) - np.repeat(np.cumsum(codes) - codes, codes)
    sizes = np.repeat(np.abs(live), codes)
    breakpoints = sizes / (steps + 0.5)
    order = np.argsort(-breakpoints, kind="stable")
    # Both products after each breakpoint, from the largest scale to the smallest.
    xq = np.cumsum(sizes[order])
    qq = np.cumsum(2.0 * steps[order] + 1)  # (k + 1)**2 - k**2
    best = np.argmax(xq * (xq / qq))
    return float(np.ldexp(xq[best] / qq[best], exponent))
