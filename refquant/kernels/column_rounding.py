r"""The columns of a weight rounded one after the other, with feedback, at the speed of BLAS.

The fast twin of the loop in `refquant.ptq.gptq`. Three things make it fast. *Left-looking
blocks*: instead of pushing the error of each column into all columns behind it, a block
of columns collects what is due to it from all columns before, in one product of matrices.
*Storage*: the weight is transposed, so that a column is contiguous. *No inverse*: with the
Hessian :math:`H = V V^T`, V upper triangular, and the errors :math:`e_i = w_i - \hat w_i` of
the columns before,

.. math:: t_k = w_k + \frac{1}{V_{kk}} \sum_{i<k} V_{ik}\,e_i , \qquad \hat w_k = Q(t_k) ,

which needs one Cholesky factor. A grid that is fitted on the way has to see all columns g of its
group as repaired for the columns S before the group, and for nothing else:
:math:`H_{Sg} = V_{S\cdot} V_{g\cdot}^T` leaves one triangular system, no larger than the group,

.. math:: t_g = w_g + e_S\,V_{Sg}\,V_{gg}^{-1} .

LAPACK factors from the first column to the last, and the formulas need it the other way round.
So here everything is turned round: the first column is the last row of the stored arrays.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotrf

from refquant._types import Array, Codes
from refquant.quantizer import Fit, Quantizer
from refquant.quantizers.uniform import Uniform

__all__ = ["RoundedColumns", "round_and_fit", "round_columns"]

#: Columns that collect from all before them in one product, and from their block in one.
_BLOCK, _FEW = 128, 16


class RoundedColumns(NamedTuple):
    """Columns after rounding.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
    weight : ndarray of float, shape (out, in)
        The decoded codes, rounded once to the `dtype` that was asked for.
    quantizers : tuple of Quantizer
        One for each group of columns.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, algorithm 1.
    """

    codes: Codes
    weight: Array
    quantizers: tuple[Quantizer, ...]


def round_columns(
    weight: Array, hessian: Array, quantizers: Sequence[Quantizer], group_of: Array,
    *, dtype: DTypeLike = np.float64,
) -> RoundedColumns:
    """Columns rounded from left to right with grids that are known.

    Parameters
    ----------
    weight : ndarray of float64, shape (out, in)
    hessian : ndarray of float64, shape (in, in), positive definite
        Damped already.
    quantizers : sequence of Quantizer
        For columns of shape (out, 1).
    group_of : ndarray of int, shape (in,)
        Which of them each column belongs to.
    dtype : dtype
        Of the weight that comes back.

    Returns
    -------
    RoundedColumns
        The codes of the loop that repairs column by column, except where rounding errors of
        float64 decide which of two levels, equally near to 1 part in 10^9 or so, is taken.

    Raises
    ------
    ValueError
        If `hessian` is not positive definite.

    References
    ----------
    Chee et al., 2023, arXiv:2307.13304, eq. (2) and theorem 6; Golub and Van Loan, 2013,
    "Matrix Computations", section 4.2.4 (left-looking).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> grid = symmetric(np.array([[3.0]]), bits=3)
    >>> round_columns(np.array([[0.4, 0.4]]), hessian, [grid], np.zeros(2, int)).codes
    array([[0, 1]], dtype=int32)
    """
    factor = _cholesky(hessian)
    work = _Columns(weight, dtype)
    rounders = [_rounder(q, len(weight)) for q in quantizers]
    for block in _blocks(len(factor)):
        work.round(block, work.due(factor, block), work.given(block), factor,
                   [rounders[g] for g in group_of[::-1][block]])
    return work.result(quantizers)


def round_and_fit(
    weight: Array, hessian: Array, fit: Fit, group_size: int,
    *, dtype: DTypeLike = np.float64,
) -> RoundedColumns:
    """Columns rounded from left to right, each group's grid fitted when its turn comes.

    Parameters
    ----------
    weight : ndarray of float64, shape (out, in)
    hessian : ndarray of float64, shape (in, in), positive definite
        Damped already.
    fit : callable, ndarray (out, group) -> Quantizer
        Sees the columns of its group as repaired for all errors before them.
    group_size : int
        Must divide the columns.
    dtype : dtype
        Of the weight that comes back.

    Returns
    -------
    RoundedColumns
        As `round_columns`; the grids of the loop up to rounding errors of float64.

    Raises
    ------
    ValueError
        If `hessian` is not positive definite.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, algorithm 1.

    Examples
    --------
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.quantizers.uniform import symmetric
    >>> hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> fit = lambda w: symmetric(absmax(w, axis=1), bits=2)
    >>> [q.scale for q in round_and_fit(np.array([[0.4, 0.4]]), hessian, fit, 1).quantizers]
    [array([[0.4]]), array([[0.4]])]
    """
    factor = _cholesky(hessian)
    work, quantizers = _Columns(weight, dtype), []
    for stop in range(len(factor), 0, -max(group_size, 1)):
        group = slice(stop - group_size, stop)
        due, given = work.due(factor, group), work.given(group)
        repaired = dtrsm(1.0, factor[group, group], due.T, side=1, lower=1).T + given
        quantizers.append(fit(repaired[::-1].T))
        rounder = _rounder(quantizers[-1], len(weight))
        for part in _blocks(group_size):
            block = slice(group.start + part.start, group.start + part.stop)
            due[part] += factor[block.stop : stop, block].T @ work.errors[block.stop : stop]
            work.round(block, due[part], given[part], factor, [rounder] * len(due[part]))
    return work.result(quantizers)


#: A column (out,), where to put its codes and their values: all float64.
_Rounder = Callable[[Array, Array, Array], None]


class _Columns:
    """What has been rounded; columns are counted from the last to the first.

    Whole arrays are kept for the errors and the result alone. The rest is made block by
    block, and stays in the cache.
    """

    def __init__(self, weight: Array, dtype: DTypeLike) -> None:
        out, n = weight.shape
        self.weight, self.errors = weight[:, ::-1], np.empty((n, out))
        self.codes, self.rounded = np.empty((out, n), np.int32), np.empty((out, n), dtype)

    def given(self, block: slice) -> Array:
        """Columns of the weight as rows."""
        given = _rows(self.weight[:, block].shape[::-1])
        for i in range(0, given.shape[1], 8):           # whole lines of the cache, and few
            given[:, i : i + 8] = self.weight[i : i + 8, block].T
        return given

    def due(self, factor: Array, block: slice) -> Array:
        """What all columns before a block owe to it."""
        due = _rows((block.stop - block.start, self.errors.shape[1]))
        return np.matmul(factor[block.stop :, block].T, self.errors[block.stop :], out=due)

    def round(
        self, block: slice, due: Array, given: Array, factor: Array,
        rounders: Sequence[_Rounder],
    ) -> None:
        """A block to which everything is `due` from outside of the block; that is used up."""
        diagonal = np.diag(factor)[block, None]
        factor, target = factor[block, block] / diagonal.T, due
        target /= diagonal
        target += given
        errors, rounded, codes = self.errors[block], _rows(target.shape), _rows(target.shape)
        for few in _blocks(len(target), _FEW):
            target[few] += factor[few.stop :, few].T @ errors[few.stop :]
            for k in range(few.stop - 1, few.start - 1, -1):
                column, values = target[k], rounded[k]
                if k < few.stop - 1:
                    column += factor[k + 1 : few.stop, k] @ errors[k + 1 : few.stop]
                rounders[k](column, codes[k], values)
                np.subtract(given[k], values, out=errors[k])
        self.codes[:, ::-1][:, block] = codes.T         # one conversion for the whole block
        self.rounded[:, ::-1][:, block] = rounded.T

    def result(self, quantizers: Sequence[Quantizer]) -> RoundedColumns:
        """Columns from the first to the last."""
        return RoundedColumns(self.codes, self.rounded, tuple(quantizers))


def _blocks(n: int, size: int = _BLOCK) -> list[slice]:
    """Slices of `size` from the end to the start."""
    return [slice(max(stop - size, 0), stop) for stop in range(n, 0, -size)]


def _rows(shape: tuple[int, ...]) -> Array:
    """Room for columns that are going to be transposed.

    Rows that lie a power of two apart fall on the same few lines of the cache; eight
    numbers between them, and a column of the block can be read in one go.
    """
    return np.empty((shape[0], shape[1] + 8))[:, : shape[1]]


def _rounder(quantizer: Quantizer, out: int) -> _Rounder:
    """`encode` and `decode` of a column in one, without the checks; the same operations."""
    if not (isinstance(quantizer, Uniform) and quantizer.scale.dtype == np.float64
            and quantizer.scale.size in (1, out)):
        def generic(column: Array, codes: Array, values: Array) -> None:
            found = quantizer.encode(column[:, None])
            codes[:], values[:] = found[:, 0], quantizer.decode(found)[:, 0]

        return generic
    scale = np.ascontiguousarray(quantizer.scale.reshape(-1))
    zero = quantizer.zero_point.reshape(-1).astype(np.float64)
    # Whole numbers may be clipped before the zero point is added as well as after. And bounds
    # are arrays: a scalar would be converted for every column, which takes longer than the rest.
    low, high = (end - zero + np.zeros(out) for end in (quantizer.qmin, quantizer.qmax))

    def uniform(column: Array, codes: Array, values: Array) -> None:
        np.divide(column, scale, out=values)
        np.rint(values, out=values)
        np.maximum(values, low, out=values)
        np.minimum(values, high, out=values)
        np.add(values, zero, out=codes)
        np.multiply(values, scale, out=values)

    return uniform


def _cholesky(h: Array) -> Array:
    """Lower factor of the matrix read backwards; above its diagonal there is rubbish."""
    if not len(h):
        return h
    backwards = np.ascontiguousarray(h[::-1, ::-1]).T       # symmetric, and in Fortran's order
    factor, failed = dpotrf(backwards, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise ValueError("`hessian` must be positive definite once damped; got one that is not: "
                         "raise `damping`")
    return factor
