"""Measure what quantization changed: the error, its two parts, and what theory predicts.

Inside the range the error is *rounding* (at most half a step), outside it is
*clipping* (the distance to the end of the range). Every trade-off of a
quantizer with a fixed number of codes is between these two.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import (
    require_broadcastable,
    require_nonempty,
    require_number,
    require_positive,
)

__all__ = [
    "ErrorParts",
    "cosine",
    "error_parts",
    "kl_divergence",
    "max_error",
    "mse",
    "predicted_mse",
    "predicted_sqnr",
    "sqnr",
]


def mse(x: npt.ArrayLike, x_hat: npt.ArrayLike) -> float:
    r"""Mean squared error :math:`\overline{(x - \hat x)^2}`, summed in float64.

    Parameters
    ----------
    x, x_hat : ndarray of float, same shape, not empty

    Returns
    -------
    float
        In squared units of `x`. NaN in, NaN out.

    Raises
    ------
    ValueError
        If the shapes differ or there is no element.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D.

    Examples
    --------
    >>> mse(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    0.125
    """
    x, x_hat = _pair(x, x_hat)
    return _noise(x, x_hat) / x.size


def sqnr(x: npt.ArrayLike, x_hat: npt.ArrayLike) -> float:
    r"""Signal-to-quantization-noise ratio in decibels.

    .. math:: 10 \log_{10} \frac{\sum x^2}{\sum (x - \hat x)^2}

    Parameters
    ----------
    x, x_hat : ndarray of float, same shape, not empty

    Returns
    -------
    float
        Infinite without noise, minus infinite without signal, NaN without either.

    Raises
    ------
    ValueError
        If the shapes differ or there is no element.

    References
    ----------
    Jayant and Noll, "Digital Coding of Waveforms", 1984, section 4.2.

    Examples
    --------
    >>> round(sqnr(np.array([1.0, -1.0]), np.array([0.9, -0.9])), 9)
    20.0
    """
    x, x_hat = _pair(x, x_hat)
    signal, noise = _dot(x, x), _noise(x, x_hat)
    if signal == 0 and noise == 0:
        return float("nan")
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(10 * (np.log10(signal) - np.log10(noise)))


def max_error(x: npt.ArrayLike, x_hat: npt.ArrayLike) -> float:
    r"""Largest absolute error :math:`\max |x - \hat x|`.

    Parameters
    ----------
    x, x_hat : ndarray of float, same shape, not empty

    Returns
    -------
    float
        In units of `x`.

    Raises
    ------
    ValueError
        If the shapes differ or there is no element.

    References
    ----------
    Jayant and Noll, "Digital Coding of Waveforms", 1984, section 4.1.

    Examples
    --------
    >>> max_error(np.array([1.0, 2.0]), np.array([1.0, 2.5]))
    0.5
    """
    x, x_hat = _pair(x, x_hat)
    with np.errstate(all="ignore"):
        return float(np.max([np.max(np.abs(a - b)) for a, b in _pieces(x, x_hat)]))


def cosine(x: npt.ArrayLike, x_hat: npt.ArrayLike) -> float:
    r"""Cosine of the angle between `x` and `x_hat`, taken as one long vector.

    Blind to a common factor; NaN for a zero vector. If the error is orthogonal
    to `x_hat` (least-squares scale, centroid levels), then
    :math:`\cos^2 = 1 - 1/\mathrm{SQNR}` with SQNR as a plain ratio.

    Parameters
    ----------
    x, x_hat : ndarray of float, same shape, not empty

    Returns
    -------
    float
        From -1 to 1.

    Raises
    ------
    ValueError
        If the shapes differ or there is no element.

    References
    ----------
    Wu et al., "EasyQuant", 2020, arXiv:2006.16669, eq. (4).

    Examples
    --------
    >>> round(cosine(np.array([1.0, 0.0]), np.array([2.0, 2.0])), 6)
    0.707107
    """
    x, x_hat = _pair(x, x_hat)
    lengths = math.sqrt(_dot(x, x)) * math.sqrt(_dot(x_hat, x_hat))
    return float(np.clip(_dot(x, x_hat) / lengths, -1, 1)) if lengths > 0 else float("nan")


def kl_divergence(p: npt.ArrayLike, q: npt.ArrayLike) -> float:
    r"""Kullback-Leibler divergence of two histograms, in nats.

    .. math:: \sum_i p_i \ln \frac{p_i}{q_i}, \qquad 0 \ln 0 = 0

    Both are divided by their sums first.

    Parameters
    ----------
    p, q : ndarray, same shape, not empty, elements >= 0, not all zero

    Returns
    -------
    float
        Infinite where p is positive and q zero.

    Raises
    ------
    ValueError
        If an element is negative, a sum zero, or the shapes differ.

    References
    ----------
    Kullback and Leibler, 1951, doi:10.1214/aoms/1177729694.

    Examples
    --------
    >>> round(kl_divergence([1, 1], [1, 3]), 6)
    0.143841
    """
    before, after = (a.astype(np.float64) for a in _pair(p, q, "p", "q"))
    for name, counts in (("p", before), ("q", after)):
        if not (counts >= 0).all() or not counts.sum() > 0:
            raise ValueError(
                f"`{name}` must hold nonnegative counts, not all zero; got sum {counts.sum()}"
            )
    before, after = before / before.sum(), after / after.sum()
    held = before > 0
    with np.errstate(divide="ignore"):
        return float(np.sum(before[held] * (np.log(before[held]) - np.log(after[held]))))


class ErrorParts(NamedTuple):
    """Mean squared error by cause; the parts add up to `mse`.

    Attributes
    ----------
    rounding : float
        Share of the elements inside the range of the levels.
    clipping : float
        Share of the elements outside it.
    clipped : float
        Fraction of the elements that lie outside.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723, eq. (3).

    Examples
    --------
    >>> ErrorParts(rounding=0.25, clipping=0.5, clipped=0.1).clipping
    0.5
    """

    rounding: float
    clipping: float
    clipped: float


def error_parts(x: npt.ArrayLike, x_hat: npt.ArrayLike, low: Array, high: Array) -> ErrorParts:
    r"""Mean squared error split into rounding error and clipping error.

    .. math:: \overline{(x-\hat x)^2}
              = \overline{(x-\hat x)^2\,[\,l \le x \le h\,]}
              + \overline{(x-\hat x)^2\,[\,x < l \lor x > h\,]}

    Parameters
    ----------
    x, x_hat : ndarray of float, same shape, not empty
    low, high : ndarray of float, broadcastable to `x`
        Smallest and largest level, e.g. ``q.decode(q.qmin)``.

    Returns
    -------
    ErrorParts
        ``rounding + clipping`` is ``mse(x, x_hat)`` to rounding.

    Raises
    ------
    ValueError
        If the shapes differ, there is no element, or a bound does not broadcast.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723, eq. (3).

    Examples
    --------
    >>> x, x_hat = np.array([0.25, 3.0]), np.array([0.0, 1.0])
    >>> error_parts(x, x_hat, np.array(0.0), np.array(1.0))
    ErrorParts(rounding=0.03125, clipping=2.0, clipped=0.5)
    """
    x, x_hat = _pair(x, x_hat)
    require_broadcastable("low", low, x.shape)
    require_broadcastable("high", high, x.shape)
    rounding = clipping = clipped = 0.0
    for a, b, bottom, top in _pieces(x, x_hat, low, high):
        outside = (a < bottom) | (a > top)
        with np.errstate(all="ignore"):
            square = np.square(a - b)
        rounding += float(np.sum(square, where=~outside))
        clipping += float(np.sum(square, where=outside))
        clipped += int(np.count_nonzero(outside))
    return ErrorParts(rounding / x.size, clipping / x.size, clipped / x.size)


def predicted_mse(scale: npt.ArrayLike) -> float:
    r"""Rounding error that theory predicts: :math:`\overline{s^2} / 12`.

    Exact if the values are spread evenly over whole steps, and the high-rate
    limit for any smooth density; clipping is not included.

    Parameters
    ----------
    scale : ndarray of float, > 0
        Step sizes, each shared by equally many elements.

    Returns
    -------
    float
        In squared units of `scale`.

    Raises
    ------
    ValueError
        If there is no scale, or one is not positive and finite.

    References
    ----------
    Bennett, "Spectra of quantized signals", 1948, Bell System Technical
    Journal 27(3), eq. (1.6).

    Examples
    --------
    >>> round(predicted_mse(0.6), 12)
    0.03
    """
    scale = np.asarray(scale, np.float64)
    require_nonempty("scale", scale)
    require_positive("scale", scale)
    return float(np.mean(np.square(scale)) / 12)


def predicted_sqnr(bits: float, *, load_factor: float = 3**0.5) -> float:
    r"""SQNR in decibels of `bits`-bit uniform quantization without clipping.

    .. math:: 20 b \log_{10} 2 + 10 \log_{10} 3 - 20 \log_{10} L, \qquad L = A / \sigma

    from :math:`s = 2A/2^b` and :math:`s^2/12`. The load factor L is
    :math:`\sqrt 3` for evenly spread values (6.02 b exactly), :math:`\sqrt 2`
    for a full-scale sine (6.02 b + 1.76), 4 for the customary "four sigma"
    (6.02 b - 7.27).

    Parameters
    ----------
    bits : float
    load_factor : float
        Bound of the range over the root mean square of the data, > 0.

    Returns
    -------
    float
        In decibels.

    Raises
    ------
    ValueError
        If `load_factor` is not positive and finite.

    References
    ----------
    Jayant and Noll, "Digital Coding of Waveforms", 1984, eq. (4.22).

    Examples
    --------
    >>> round(predicted_sqnr(8), 4), round(predicted_sqnr(8, load_factor=2**0.5), 4)
    (48.1648, 49.9257)
    """
    require_number("bits", bits)
    require_positive("load_factor", np.asarray(load_factor))
    return float(20 * bits * np.log10(2) + 10 * np.log10(3) - 20 * np.log10(load_factor))


def _pair(
    x: npt.ArrayLike, x_hat: npt.ArrayLike, first: str = "x", second: str = "x_hat"
) -> tuple[Array, Array]:
    x, x_hat = np.asarray(x), np.asarray(x_hat)
    for name, array in ((first, x), (second, x_hat)):
        if array.dtype.kind not in "iuf":
            raise TypeError(f"`{name}` must be real numbers; got {array.dtype}")
    require_nonempty(first, x)
    if x.shape != x_hat.shape:
        raise ValueError(
            f"`{second}` must have the shape of `{first}`, {x.shape}; got {x_hat.shape}"
        )
    return x, x_hat


def _noise(x: Array, x_hat: Array) -> float:
    """Sum of ``(x - x_hat)**2``; infinities and NaN go through to it."""
    with np.errstate(all="ignore"):
        return sum(float(error @ error) for error in (a - b for a, b in _pieces(x, x_hat)))


def _dot(x: Array, y: Array) -> float:
    """Sum of ``x * y``."""
    with np.errstate(all="ignore"):
        return sum(float(a @ b) for a, b in _pieces(x, y))


def _pieces(*arrays: npt.ArrayLike) -> Iterable[tuple[Array, ...]]:
    """The arrays, broadcast, a bounded piece at a time as flat float64."""
    n = len(arrays)
    return np.nditer(
        [np.asarray(a) for a in arrays],
        flags=["external_loop", "buffered"],
        op_flags=[["readonly"]] * n,
        op_dtypes=[np.float64] * n,
        casting="same_kind",
        order="C",
        buffersize=2**16,
    )
