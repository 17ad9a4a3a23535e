r"""The columns of a weight rounded one after the other, with feedback, at the speed of BLAS.

The fast twin of the loop in `refquant.ptq.gptq`. Three things make it fast. *Left-looking
blocks*: instead of pushing the error of each column into all columns behind it, a block
of columns collects what is due to it from all columns before, in one product of matrices.
*Storage*: the weight is transposed, so that a column is contiguous, and nothing else of its size
is kept. *No inverse*: with the Hessian :math:`H = A D A^T`, A upper triangular with ones on its
diagonal, and the errors :math:`e_i = w_i - \hat w_i` of the columns before,

.. math:: t_k = w_k + \sum_{i<k} A_{ik}\,e_i , \qquad \hat w_k = Q(t_k) ,

which needs one Cholesky factor. A grid that is fitted on the way has to see all columns g of its
group as repaired for the columns S before the group, and for nothing else:
:math:`H_{Sg} = A_{S\cdot} D A_{g\cdot}^T` leaves one triangular system, no larger than the group,

.. math:: t_g = w_g + e_S\,A_{Sg}\,A_{gg}^{-1} .

LAPACK factors from the first column to the last, and the formulas need it the other way round.
So here everything is turned round: the first column is the last row of the stored arrays.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotrf

from refquant._types import Array, Codes
from refquant.quantizer import Fit, Quantizer
from refquant.quantizers.uniform import Uniform

__all__ = ["RoundedColumns", "round_and_fit", "round_columns"]

#: Columns that collect from all before them in one product, and from their block in one. The
#: first is for BLAS, which likes large products, the second for the cache of 1 MB or so.
_BLOCK, _FEW = 256, 32


class RoundedColumns(NamedTuple):
    """Columns after rounding.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
    weight : ndarray of float, shape (out, in)
        The decoded codes, rounded once to the dtype of the weight that was given.
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
    *, diagonal: Array | None = None,
) -> RoundedColumns:
    """Columns rounded from left to right with grids that are known.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive definite
    quantizers : sequence of Quantizer
        For columns of shape (out, 1).
    group_of : ndarray of int, shape (in,)
        Which of them each column belongs to.
    diagonal : ndarray of float64, shape (in,), optional
        Instead of the Hessian's own, which is all that damping changes.

    Returns
    -------
    RoundedColumns
        The codes of the loop that repairs column by column, except where rounding errors of
        float64 decide which of two levels, equally near to 1 part in 10^9 or so, is taken.

    Raises
    ------
    ValueError
        If `hessian` is not positive definite, with `diagonal` if that is given.

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
    work = _Columns(weight, hessian, diagonal, _BLOCK)
    rounders = [_rounder(q, len(weight)) for q in quantizers]
    for block in _blocks(len(work.factor), _BLOCK):
        given, target = work.given(block), work.owed(block)
        target += given
        work.round(block, given, [rounders[g] for g in group_of[::-1][block]])
    return work.result(quantizers)


def round_and_fit(
    weight: Array, hessian: Array, fit: Fit, group_size: int,
    *, diagonal: Array | None = None,
) -> RoundedColumns:
    """Columns rounded from left to right, each group's grid fitted when its turn comes.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive definite
    fit : callable, ndarray (out, group) -> Quantizer
        Sees the columns of its group as repaired for all errors before them.
    group_size : int
        Must divide the columns.
    diagonal : ndarray of float64, shape (in,), optional
        Instead of the Hessian's own, which is all that damping changes.

    Returns
    -------
    RoundedColumns
        As `round_columns`; the grids of the loop up to rounding errors of float64.

    Raises
    ------
    ValueError
        If `hessian` is not positive definite, with `diagonal` if that is given.

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
    size = max(group_size, 1)
    whole_groups = max(_BLOCK // size, 1) * size
    work, quantizers = _Columns(weight, hessian, diagonal, whole_groups), []
    for block in _blocks(len(work.factor), whole_groups):
        factor, given, owed = work.factor[block, block], work.given(block), work.owed(block)
        for group in _blocks(len(owed), size):
            target = owed[group]
            if group.stop < len(owed):
                target += factor[group.stop :, group].T @ owed[group.stop :]
            repaired = dtrsm(1.0, factor[group, group], target.T, side=1, lower=1, diag=1).T
            repaired += given[group]
            quantizers.append(fit(repaired[::-1].T))
            target += given[group]
            work.round(slice(block.start + group.start, block.start + group.stop), given[group],
                       [_rounder(quantizers[-1], len(weight))] * size)
    return work.result(quantizers)


#: A column (out,), where to put its codes and their values: all float64.
_Rounder = Callable[[Array, Array, Array], None]


class _Columns:
    """What has been rounded; columns are counted from the last to the first.

    Whole arrays are kept for the errors and the result alone. The rest is for some columns at
    a time, and stays in the cache.
    """

    def __init__(
        self, weight: Array, hessian: Array, diagonal: Array | None, block: int
    ) -> None:
        out, n = weight.shape
        self.weight, self.factor = weight[:, ::-1], _unit_factor(hessian, diagonal)
        # In one piece: a piece for each block would be new to the system, page by page, each time.
        pieces = np.split(_rows(n + block + 2 * _FEW, out), np.cumsum([n, block, _FEW]))
        self.errors = pieces[0]                 # before a column is rounded, its target
        self.some_given, self.few_codes, self.few_values = pieces[1:]
        self.codes, self.rounded = np.empty((out, n), np.int32), np.empty_like(weight, order="C")

    def given(self, block: slice) -> Array:
        """Columns of the weight as rows; the next call takes their place."""
        given = self.some_given[: block.stop - block.start]
        for i in range(0, given.shape[1], 16):          # whole lines of the cache, and few
            given[:, i : i + 16] = self.weight[i : i + 16, block].T
        return given

    def owed(self, block: slice) -> Array:
        """What all columns before a block owe to it, in the place of its errors."""
        factor, errors = self.factor[block.stop :, block], self.errors[block.stop :]
        return np.matmul(factor.T, errors, out=self.errors[block])

    def round(self, block: slice, given: Array, rounders: Sequence[_Rounder]) -> None:
        """A block to whose targets nothing is owed but by columns of the block."""
        factor, errors = self.factor[block, block], self.errors[block]
        for few in _blocks(len(errors), _FEW):
            if few.stop < len(errors):
                errors[few] += factor[few.stop :, few].T @ errors[few.stop :]
            size = slice(few.stop - few.start)
            codes, values = self.few_codes[size], self.few_values[size]
            for row, k in enumerate(reversed(range(few.start, few.stop))):
                # The factor is 1 on its diagonal: the target so far counts as well.
                target = factor[k : few.stop, k] @ errors[k : few.stop]
                value = values[row]
                rounders[k](target, codes[row], value)
                np.subtract(given[k], value, out=errors[k])
            n = len(self.factor) - block.start
            columns = slice(n - few.stop, n - few.start)
            self.codes[:, columns] = codes.T            # one conversion for all of them
            self.rounded[:, columns] = values.T

    def result(self, quantizers: Sequence[Quantizer]) -> RoundedColumns:
        """Columns from the first to the last."""
        return RoundedColumns(self.codes, self.rounded, tuple(quantizers))


def _blocks(n: int, size: int) -> list[slice]:
    """Slices of `size` from the end to the start."""
    return [slice(max(stop - size, 0), stop) for stop in range(n, 0, -size)]


def _rows(n: int, length: int) -> Array:
    """Room for columns that are going to be transposed.

    Rows that lie a power of two apart fall on the same few lines of the cache; eight
    numbers between them, and a column of the block can be read in one go.
    """
    return np.empty((n, length + 8))[:, :length]


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


def _unit_factor(h: Array, diagonal: Array | None) -> Array:
    """Lower factor, with ones on its diagonal, of the matrix read backwards; rubbish above."""
    if not len(h):
        return h
    backwards = np.array(h[::-1, ::-1], np.float64, order="C").T    # symmetric: Fortran's order
    if diagonal is not None:
        np.fill_diagonal(backwards, diagonal[::-1])
    factor, failed = dpotrf(backwards, lower=1, clean=0, overwrite_a=1)
    if failed:
        raise ValueError("`hessian` must be positive definite once damped; got one that is not: "
                         "raise `damping`")
    factor /= np.diag(factor).copy()
    return factor
