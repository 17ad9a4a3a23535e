r"""Binary-code quantization: a weight as a sum of scaled signs.

.. math:: w \approx \sum_{i=1}^{k} \alpha_i b_i, \qquad b_i \in \{-1, +1\}

k bits a weight, like k-bit integers, but with levels that follow the data; and
a product with it is k products with signs. One plane has a closed form; for
more, each way of looking for them is one function:

================  =====================================================
``greedy``        one plane after the other, each fits what is left
``refined``       the same, all scales solved again after each plane
``alternating``   from greedy: best scales, then best signs, and again
``exhaustive``    every assignment of signs: exact, for tiny blocks
================  =====================================================
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Axis, Codes
from refquant._validate import (
    as_data,
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_int,
    require_no_nan,
)
from refquant.granularity import as_rows

__all__ = ["BinaryCode", "Coded", "alternating", "exhaustive", "greedy", "refined"]


@dataclass(frozen=True, eq=False)
class BinaryCode:
    r"""Bit i of the code chooses the sign of ``scales[i]``; the value is their sum.

    .. math:: \hat x = \sum_i \alpha_i (2\,\mathrm{bit}_i(q) - 1)

    Attributes
    ----------
    scales : ndarray of float, shape (k, ...), >= 0
        The alphas along the first axis; the others broadcast to the data.

    Raises
    ------
    ValueError
        If a scale is negative, a sum of the k is not finite, or k is not in 1..8.

    References
    ----------
    Xu et al., "Alternating Multi-bit Quantization", 2018, arXiv:1802.00150, eq. (1).

    Examples
    --------
    >>> q = BinaryCode(np.array([1.0, 0.5]))
    >>> q.decode(np.array([0, 1, 2, 3]))
    array([-1.5,  0.5, -0.5,  1.5])
    >>> q.encode(np.array([0.3, -9.0]))
    array([1, 0], dtype=int32)
    """

    scales: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", as_reals("scales", self.scales))
        require_finite("scales", self.scales)
        if self.scales.ndim == 0:
            raise ValueError("`scales` must have the planes along its first axis; got a scalar")
        require_int("planes of `scales`", len(self.scales), 1, 8)
        if (self.scales < 0).any():
            raise ValueError(f"`scales` must not be negative; got {self.scales.min()}")
        with np.errstate(over="ignore"):
            if np.isinf(np.sum(self.scales, axis=0)).any():
                raise ValueError("`scales` must have a finite sum; got inf")

    def encode(self, x: Array) -> Codes:
        """Code of the nearest level; a tie takes the lower level.

        Parameters
        ----------
        x : ndarray of float, any shape that ``scales[0]`` broadcasts to

        Returns
        -------
        ndarray of int32, shape of `x`, from 0 to ``2**k - 1``

        Notes
        -----
        The levels are sorted, so one comparison with each midpoint does what a
        search of a binary tree does in the paper.
        """
        x = as_reals("x", x)
        require_broadcastable("scales[0]", self.scales[0], x.shape)
        require_no_nan("x", x)
        levels = self._levels()
        code_of = np.argsort(levels, axis=0, kind="stable")
        levels = np.take_along_axis(levels, code_of, axis=0)
        rank = np.zeros(x.shape, np.intp)
        # Halves are added, so that the sum of two large levels cannot overflow.
        for below, above in pairwise(levels):
            rank += x > below / 2 + above / 2
        code_of = np.broadcast_to(
            code_of.reshape(len(code_of), *(1,) * (x.ndim - levels.ndim + 1), *levels.shape[1:]),
            (len(code_of), *x.shape),
        )
        return np.take_along_axis(code_of, rank[np.newaxis], axis=0)[0].astype(np.int32)

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, from 0 to ``2**k - 1``

        Returns
        -------
        ndarray of float, dtype of `scales`, shape of `codes`
        """
        codes = require_codes("codes", codes, 0, 2 ** len(self.scales) - 1)
        require_broadcastable("scales[0]", self.scales[0], codes.shape)
        return _weighted_sum(self.scales, codes)

    @property
    def code_bits(self) -> int:
        """One bit for each plane."""
        return len(self.scales)

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the scales."""
        return self.scales.size * float_bits

    def _levels(self) -> Array:
        """All ``2**k`` levels along the first axis, in the order of their codes."""
        codes = np.arange(2 ** len(self.scales)).reshape(-1, *(1,) * (self.scales.ndim - 1))
        shape = (len(codes), *self.scales[0].shape)
        return _weighted_sum(self.scales, np.broadcast_to(codes, shape))


class Coded(NamedTuple):
    """What a search returns: the quantizer, and the codes it chose.

    Attributes
    ----------
    quantizer : BinaryCode
    codes : ndarray of int32, shape of the data
        Those of `alternating`, at rest, and of `exhaustive` are the nearest levels; of
        `greedy` and `refined`, where each plane is chosen once, they need not be.

    References
    ----------
    Xu et al., 2018, arXiv:1802.00150, section 3.

    Examples
    --------
    >>> coded = greedy(np.array([1.0, -3.0]), planes=2)
    >>> coded.quantizer.decode(coded.codes)
    array([ 1., -3.])
    """

    quantizer: BinaryCode
    codes: Codes


def greedy(x: Array, *, planes: int, axis: Axis = None) -> Coded:
    r"""Planes one after the other, each the best single one for the residual.

    .. math:: b_i = \mathrm{sign}(r_{i-1}), \quad \alpha_i = \overline{|r_{i-1}|},
              \quad r_i = r_{i-1} - \alpha_i b_i

    Parameters
    ----------
    x : ndarray of float, not empty
    planes : int
        k, from 1 to 8.
    axis : int or tuple of int, optional
        Axes that share scales (reduced over, kept as size 1); all by default.

    Returns
    -------
    Coded

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `planes` is out of range.

    References
    ----------
    Guo et al., "Network Sketching", 2017, arXiv:1706.02021, algorithm 1.

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> greedy(w, planes=2).quantizer.scales.ravel()
    array([0.3375, 0.25  ])
    """
    x = as_data("x", x)
    rows, shape, exponent = _rows(x, planes, axis)
    scales, signs = _greedy_rows(rows, planes, refit=False)
    return _coded(x, axis, shape, np.ldexp(scales, exponent), signs)


def refined(x: Array, *, planes: int, axis: Axis = None) -> Coded:
    r"""Greedy planes, with all scales solved again after each.

    .. math:: \alpha = (B^T B)^{-1} B^T w

    Parameters
    ----------
    x : ndarray of float, not empty
    planes : int
        k, from 1 to 8.
    axis : int or tuple of int, optional
        Axes that share scales (reduced over, kept as size 1); all by default.

    Returns
    -------
    Coded

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `planes` is out of range.

    Notes
    -----
    Never worse than `greedy` for two planes, whose signs are the same; for more
    the signs differ, and so may the outcome, either way.

    References
    ----------
    Guo et al., "Network Sketching", 2017, arXiv:1706.02021, algorithm 2.

    Examples
    --------
    >>> w = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
    >>> refined(w, planes=2).quantizer.scales.ravel().round(4)
    array([0.3375, 0.25  ])
    """
    x = as_data("x", x)
    rows, shape, exponent = _rows(x, planes, axis)
    scales, signs = _greedy_rows(rows, planes, refit=True)
    return _coded(x, axis, shape, np.ldexp(scales, exponent), signs)


def alternating(x: Array, *, planes: int, axis: Axis = None, max_sweeps: int = 100) -> Coded:
    r"""From greedy: the best scales for the signs, then the best signs for the scales.

    Neither half-step can raise the squared error, so it ends; at a local
    minimum, which for three planes and more need not be the best.

    Parameters
    ----------
    x : ndarray of float, not empty
    planes : int
        k, from 1 to 8.
    axis : int or tuple of int, optional
        Axes that share scales (reduced over, kept as size 1); all by default.
    max_sweeps : int
        The paper stops after 2, far from convergence.

    Returns
    -------
    Coded
        Codes are nearest levels, unless `max_sweeps` ended it: the last step solves
        for the scales.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `planes` is out of range.

    References
    ----------
    Xu et al., 2018, arXiv:1802.00150, algorithm 2.

    Examples
    --------
    >>> coded = alternating(np.array([1.0, 2.0, 4.0, 9.0]), planes=2)
    >>> coded.quantizer.decode(coded.codes).round(3)      # greedy leaves 1.5, 1.5, 6.5, 6.5
    array([2.333, 2.333, 2.333, 9.   ])
    """
    require_int("max_sweeps", max_sweeps, 0)
    x = as_data("x", x)
    rows, shape, exponent = _rows(x, planes, axis)
    scales, signs = _greedy_rows(rows, planes, refit=False)
    for _ in range(max_sweeps):
        scales, previous = _least_squares(signs, rows), signs
        quantizer = _canonical(scales, signs)[0]
        codes = BinaryCode(quantizer.T[:, :, np.newaxis]).encode(rows)
        scales, signs = quantizer, _signs(codes, planes)
        if np.array_equal(signs, previous):
            break
    else:
        scales = _least_squares(signs, rows)
    return _coded(x, axis, shape, np.ldexp(scales, exponent), signs)


def exhaustive(x: Array, *, planes: int, axis: Axis = None) -> Coded:
    """The best scales and signs there are, found by trying all signs.

    Parameters
    ----------
    x : ndarray of float, at most 16 bits in all to try for a block
    planes : int
        k; k times the elements of a block must not exceed 16.
    axis : int or tuple of int, optional
        Axes that share scales (reduced over, kept as size 1); all by default.

    Returns
    -------
    Coded
        Of least squared error.

    Raises
    ------
    ValueError
        If `x` is empty, not finite or too large, or `planes` is out of range.

    References
    ----------
    Xu et al., 2018, arXiv:1802.00150, eq. (2), by enumeration.

    Examples
    --------
    >>> coded = exhaustive(np.array([1.0, 2.0, 4.0]), planes=2)
    >>> coded.quantizer.decode(coded.codes).round(3)
    array([1.5, 1.5, 4. ])
    """
    x = as_data("x", x)
    rows, shape, exponent = _rows(x, planes, axis)
    bits = planes * rows.shape[1]
    if bits > 16:
        raise ValueError(f"`planes` times the elements of a block must not exceed 16; got {bits}")
    trials = _signs(np.arange(2**bits), bits).reshape(-1, rows.shape[1], planes)
    fitted = np.linalg.pinv(trials) @ rows.T                       # (trials, planes, rows)
    error = np.sum((trials @ fitted - rows.T) ** 2, axis=1)        # (trials, rows)
    best = np.argmin(error, axis=0)
    scales = np.ldexp(fitted[best, :, np.arange(len(rows))], exponent)
    return _coded(x, axis, shape, scales, trials[best])


def _rows(x: Array, planes: int, axis: Axis) -> tuple[Array, tuple[int, ...], Array]:
    """Blocks as rows of magnitudes up to 1, their shape, and the power of two of each row."""
    require_int("planes", planes, 1, 8)
    rows, shape = as_rows(x.astype(np.float64), axis=axis)
    # A power of two changes no digit, and no sum or square leaves float64.
    exponent = np.frexp(np.max(np.abs(rows), axis=1, keepdims=True))[1]
    return np.ldexp(rows, -exponent), shape, exponent


def _greedy_rows(rows: Array, planes: int, *, refit: bool) -> tuple[Array, Array]:
    """Scales (rows, planes) and signs (rows, n, planes)."""
    signs = np.empty((*rows.shape, 0))
    scales = np.empty((len(rows), 0))
    for _ in range(planes):
        residual = rows - np.einsum("rnk,rk->rn", signs, scales)
        plane = np.where(residual >= 0, 1.0, -1.0)
        signs = np.concatenate([signs, plane[:, :, np.newaxis]], axis=2)
        mean = np.mean(np.abs(residual), axis=1, keepdims=True)
        scales = np.concatenate([scales, mean], axis=1)
        if refit:
            scales = _least_squares(signs, rows)
    return scales, signs


def _least_squares(signs: Array, rows: Array) -> Array:
    """Best scales (rows, planes) for given signs; the smallest ones where planes coincide."""
    # The pseudoinverse, because B^T B is singular when two planes agree everywhere.
    return np.einsum("rkn,rn->rk", np.linalg.pinv(signs), rows)


def _canonical(scales: Array, signs: Array) -> tuple[Array, Array]:
    """The same sums with scales nonnegative and in descending order."""
    signs = np.where(scales[:, np.newaxis] < 0, -signs, signs)
    order = np.argsort(-np.abs(scales), axis=1, kind="stable")
    return (
        np.take_along_axis(np.abs(scales), order, axis=1),
        np.take_along_axis(signs, order[:, np.newaxis], axis=2),
    )


def _coded(
    x: Array, axis: Axis, shape: tuple[int, ...], scales: Array, signs: Array
) -> Coded:
    """Rows back to blocks of the data."""
    scales, signs = _canonical(scales, signs)
    places = 2 ** np.arange(scales.shape[1])
    rows = ((signs > 0) @ places).astype(np.int32)
    # The inverse of `as_rows`: put row positions through it and scatter.
    position, _ = as_rows(np.arange(x.size).reshape(x.shape), axis=axis)
    codes = np.empty(x.size, np.int32)
    codes[position] = rows
    with np.errstate(over="ignore"):            # `BinaryCode` refuses infinity
        planes = scales.T.reshape(-1, *shape).astype(x.dtype)
    return Coded(BinaryCode(planes), codes.reshape(x.shape))


def _signs(codes: Array, planes: int) -> Array:
    return (codes[..., np.newaxis] >> np.arange(planes) & 1) * 2.0 - 1.0


def _weighted_sum(scales: Array, codes: Array) -> Array:
    """Sum over planes of the scale with the sign its bit chooses."""
    total = np.zeros(codes.shape, scales.dtype)
    for i, scale in enumerate(scales):
        total = total + np.where(codes >> i & 1, scale, -scale)
    return total
