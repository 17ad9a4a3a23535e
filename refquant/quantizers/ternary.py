r"""Ternary quantization: minus, nothing, plus; about 1.58 bits a weight.

================  ==============================  ================================
fit               threshold                       levels
================  ==============================  ================================
``twn``           0.7 of the mean magnitude       mean magnitude of the survivors
``optimal``       the best there is               the same
``ttq``           0.05 of the largest magnitude   two trained ones, for either sign
``absmean``       half the mean magnitude         the mean magnitude (BitNet b1.58)
================  ==============================  ================================
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Axis, Codes
from refquant._validate import (
    as_data,
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_no_nan,
    require_number,
)
from refquant.granularity import as_rows
from refquant.quantizers._scale import mean_of
from refquant.quantizers.uniform import Uniform

__all__ = ["Ternary", "absmean", "optimal", "ttq", "twn"]


@dataclass(frozen=True, eq=False)
class Ternary:
    r"""Codes -1, 0, 1 stand for ``-negative``, 0 and ``positive``.

    .. math:: q = \mathrm{sign}(w)\,[\,|w| > \Delta\,]

    Attributes
    ----------
    threshold : ndarray of float, broadcastable to the data, >= 0
        Delta; a magnitude equal to it becomes 0.
    negative, positive : ndarray of float, shape of `threshold`, >= 0
        Magnitudes of the outer levels.

    Raises
    ------
    ValueError
        If a parameter is negative or not finite, or the shapes differ.

    Notes
    -----
    The threshold is part of the format, so `encode` need not pick the nearest
    level; it does for `optimal`, whose threshold is half its level.

    References
    ----------
    Li et al., "Ternary Weight Networks", 2016, arXiv:1605.04711, eq. (3); Zhu et
    al., "Trained Ternary Quantization", 2017, arXiv:1612.01064, eq. (6).

    Examples
    --------
    >>> q = Ternary(np.array(0.5), np.array(1.0), np.array(2.0))
    >>> q.encode(np.array([-0.6, 0.5, 0.7]))
    array([-1,  0,  1], dtype=int32)
    >>> q.decode(np.array([-1, 0, 1]))
    array([-1.,  0.,  2.])
    """

    threshold: Array
    negative: Array
    positive: Array

    def __post_init__(self) -> None:
        for name in ("threshold", "negative", "positive"):
            value = as_reals(name, getattr(self, name))
            require_finite(name, value)
            if (value < 0).any():
                raise ValueError(f"`{name}` must not be negative; got {value.min()}")
            object.__setattr__(self, name, value)
            if value.shape != self.threshold.shape:
                raise ValueError(
                    f"`{name}` must have the shape of `threshold`, {self.threshold.shape}; "
                    f"got {value.shape}"
                )

    def encode(self, x: Array) -> Codes:
        """Code of each element: its sign if its magnitude exceeds the threshold.

        Parameters
        ----------
        x : ndarray of float, any shape that `threshold` broadcasts to

        Returns
        -------
        ndarray of int32, shape of `x`
        """
        x = as_reals("x", x)
        require_broadcastable("threshold", self.threshold, x.shape)
        require_no_nan("x", x)
        return (x > self.threshold).astype(np.int32) - (x < -self.threshold)

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, -1, 0 or 1

        Returns
        -------
        ndarray of float, dtype of `positive`, shape of `codes`
        """
        codes = require_codes("codes", codes, -1, 1)
        require_broadcastable("threshold", self.threshold, codes.shape)
        zero = np.zeros((), self.positive.dtype)
        return np.where(codes > 0, self.positive, np.where(codes < 0, -self.negative, zero))

    @property
    def code_bits(self) -> float:
        """Information in a code, log2(3); `kernels/packing` reaches 1.6."""
        return float(np.log2(3))

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the levels: one per block where both have the same magnitude."""
        levels = 1 if np.array_equal(self.negative, self.positive) else 2
        return self.threshold.size * levels * float_bits


def twn(x: Array, *, axis: Axis = None, ratio: float = 0.7) -> Ternary:
    r"""Ternary weights by the rule of thumb for the threshold.

    .. math:: \Delta = 0.7\,\overline{|w|}, \qquad
              \alpha = \overline{|w|}_{\,|w| > \Delta}

    Parameters
    ----------
    x : ndarray of float, not empty
    axis : int or tuple of int, optional
        Axes that share parameters (reduced over, kept as size 1); all by default.
    ratio : float
        Threshold over mean magnitude. The optimum is 2/3 for evenly spread
        weights, 0.767 for Gaussian, 1 for Laplacian ones.

    Returns
    -------
    Ternary
        Levels 0 for data that are all zero.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `ratio` is negative.

    References
    ----------
    Li et al., "Ternary Weight Networks", 2016, arXiv:1605.04711, eqs. (5), (6).

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> twn(w).encode(w)
    array([ 1,  0,  0, -1,  1,  0,  0, -1], dtype=int32)
    """
    x = as_data("x", x, axis=axis)
    _require_ratio(ratio)
    magnitude = np.abs(x)
    with np.errstate(over="ignore"):                    # `Ternary` refuses infinity
        threshold = (ratio * mean_of(magnitude, axis=axis)).astype(x.dtype)
    # The stored threshold, as `encode` will see it.
    level = mean_of(magnitude, axis=axis, where=magnitude > threshold)
    return _ternary(threshold, level, x.dtype)


def optimal(x: Array, *, axis: Axis = None) -> Ternary:
    r"""The ternary quantizer with one magnitude of least squared error.

    For a support of the k largest magnitudes the best level is their mean, and
    the error falls by :math:`(\sum_{i \le k} |w|_{(i)})^2 / k`; so sort, sum and
    take the best k.

    Parameters
    ----------
    x : ndarray of float, not empty
    axis : int or tuple of int, optional
        Axes that share parameters (reduced over, kept as size 1); all by default.

    Returns
    -------
    Ternary
        The threshold is half the level, so `encode` is also the nearest level.
        Levels 0 for data that are all zero.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    Notes
    -----
    Moving the threshold to half the level never hurts: for a given level the
    nearest of the three is best, and the chosen support was already best.

    References
    ----------
    Li et al., "Ternary Weight Networks", 2016, arXiv:1605.04711, eq. (4), solved
    exactly.

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> round(float(optimal(w).positive[0]), 4)
    0.5875
    """
    x = as_data("x", x, axis=axis)
    rows, shape = as_rows(np.abs(x).astype(np.float64), axis=axis)
    rows = -np.sort(-rows, axis=1)
    # Relative to the largest, by a power of two, which is exact: squares may leave float64.
    exponent = np.frexp(rows[:, 0])[1]
    relative = np.ldexp(rows, -exponent[:, np.newaxis])
    means = np.cumsum(relative, axis=1) / np.arange(1, rows.shape[1] + 1)
    best = np.argmax(means**2 * np.arange(1, rows.shape[1] + 1), axis=1)
    level = np.ldexp(means[np.arange(len(rows)), best], exponent).reshape(shape)
    return _ternary(level / 2, level, x.dtype)


def ttq(
    x: Array, negative: npt.ArrayLike, positive: npt.ArrayLike, *, ratio: float = 0.05
) -> Ternary:
    r"""Trained ternary quantization: a threshold from the largest weight, levels given.

    .. math:: \Delta = t \max |w|, \qquad \text{levels } -W_n,\, 0,\, W_p

    Parameters
    ----------
    x : ndarray of float, not empty
    negative, positive : ndarray of float, >= 0, broadcastable to `x`
        The trained magnitudes :math:`W_n, W_p`.
    ratio : float
        t.

    Returns
    -------
    Ternary
        One threshold for all of `x`.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `ratio` is negative.

    References
    ----------
    Zhu et al., "Trained Ternary Quantization", 2017, arXiv:1612.01064, eqs. (6), (9).

    Examples
    --------
    >>> ttq(np.array([-1.0, 0.04, 0.5]), np.array(0.8), np.array(0.6)).threshold
    array(0.05)
    """
    x = as_data("x", x)
    _require_ratio(ratio)
    negative, positive = as_reals("negative", negative), as_reals("positive", positive)
    with np.errstate(over="ignore"):            # `Ternary` refuses infinity
        threshold = np.full(positive.shape, ratio * np.max(np.abs(x)), positive.dtype)
    return Ternary(threshold, negative, positive)


def absmean(x: Array, *, axis: Axis = None, floor: float = 1e-5) -> Uniform:
    r"""BitNet b1.58: the mean magnitude as the step of a three-level uniform quantizer.

    .. math:: \gamma = \overline{|w|}, \qquad
              q = \mathrm{clip}(\lfloor w / \gamma \rceil, -1, 1), \qquad \hat w = \gamma q

    Parameters
    ----------
    x : ndarray of float, not empty
    axis : int or tuple of int, optional
        Axes that share a scale (reduced over, kept as size 1); all by default.
    floor : float
        Least gamma, in units of `x`, as in the released code; the paper adds an
        epsilon instead.

    Returns
    -------
    Uniform
        Codes -1, 0, 1.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `floor` is not positive.

    Notes
    -----
    Not a rule of least squared error: for Gaussian weights it leaves 0.263 of the
    variance, the optimum 0.190. The network is trained around it.

    References
    ----------
    Ma et al., 2024, arXiv:2402.17764, eqs. (1)-(3).

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> absmean(w).encode(w)
    array([ 1, -1,  0, -1,  1,  0,  0, -1], dtype=int32)
    """
    x = as_data("x", x, axis=axis)
    require_number("floor", floor)
    if not floor > 0:
        raise ValueError(f"`floor` must be positive; got {floor}")
    scale = np.maximum(mean_of(np.abs(x), axis=axis), floor).astype(x.dtype)
    return Uniform(scale, np.zeros(scale.shape, np.int32), -1, 1)


def _require_ratio(ratio: float) -> None:
    require_number("ratio", ratio)
    if not ratio >= 0:
        raise ValueError(f"`ratio` must not be negative; got {ratio}")


def _ternary(threshold: Array, level: Array, dtype: npt.DTypeLike) -> Ternary:
    level = level.astype(dtype)
    with np.errstate(over="ignore"):
        return Ternary(threshold.astype(dtype), level, level)
