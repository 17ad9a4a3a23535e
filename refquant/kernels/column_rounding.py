r"""The columns of a weight rounded one after the other, with feedback, at the speed of BLAS.

The fast twin of the loop in `refquant.ptq.gptq`. Three things make it fast. *Left-looking
blocks*: instead of pushing the error of each column into all columns behind it, a block
of columns collects what is due to it from all columns before, in one product of matrices.
*Storage*: the weight is transposed, so that a column is contiguous. *No inverse*, where the
grids are known beforehand: with the Hessian :math:`H = A\,D\,A^T`, A unit upper triangular,

.. math:: t_k = w_k + \sum_{i<k} A_{ik}\,(w_i - \hat w_i), \qquad \hat w_k = Q(t_k) ,

which needs one Cholesky factor. A grid that is fitted on the way has to see the columns of its
group as repaired so far, and those are not partial sums of the formula above. Then it is, with
:math:`H^{-1} = U^T U`,

.. math:: t_k = w_k - \sum_{i<k} \frac{U_{ik}}{U_{ii}}\,(t_i - \hat w_i) .

LAPACK factors from the first column to the last, and both formulas need it the other way round.
So here everything is turned round: the first column is the last row of the stored arrays.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg.lapack import dpotrf, dtrtri

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
    weight : ndarray of float64, shape (out, in)
        The decoded codes.
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
    weight: Array, hessian: Array, quantizers: Sequence[Quantizer], group_of: Array
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
    diagonal = np.diag(factor)[:, None]
    work = _Columns(weight)
    rounders = [_rounder(q, len(weight)) for q in quantizers]
    for block in _blocks(len(factor)):
        due = factor[block.stop :, block].T @ work.errors[block.stop :]
        due /= diagonal[block]
        given = work.given(block)
        due += given
        inner = factor[block, block] / diagonal[block].T
        work.round(block, due, given, inner,
                   [rounders[g] for g in group_of[::-1][block]])
    return work.result(quantizers)


def round_and_fit(
    weight: Array, hessian: Array, fit: Fit, group_size: int
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
    inverse = _cholesky(hessian)
    if len(inverse):
        inverse, _ = dtrtri(inverse, lower=1, overwrite_c=1)            # U, turned round
    inverse /= -np.diag(inverse)[:, None]
    work, n = _Columns(weight), len(inverse)
    quantizers: list[Quantizer] = []
    for stop in range(n, 0, -max(group_size, 1)):
        group = slice(stop - group_size, stop)
        target = inverse[stop:, group].T @ work.errors[stop:]
        target += work.given(group)
        quantizers.append(fit(target[::-1].T))
        rounder = _rounder(quantizers[-1], len(weight))
        for part in _blocks(group_size):
            block = slice(group.start + part.start, group.start + part.stop)
            due = target[part]
            due += inverse[block.stop : stop, block].T @ work.errors[block.stop : stop]
            work.round(block, due, due, inverse[block, block], [rounder] * len(due))
    return work.result(quantizers)


#: A column (out,), where to put its codes and their values.
_Rounder = Callable[[Array, Array, Array], None]


class _Columns:
    """What has been rounded; columns are counted from the last to the first.

    Whole arrays are kept for the errors and the result alone. The rest is made block by
    block: it stays in the cache, and fresh memory is not for nothing.
    """

    def __init__(self, weight: Array) -> None:
        out, n = weight.shape
        self.weight, self.errors = weight[:, ::-1], np.empty((n, out))
        self.codes, self.rounded = np.empty((out, n), np.int32), np.empty((out, n))

    def given(self, block: slice) -> Array:
        """Columns of the weight as rows."""
        columns = self.weight[:, block]
        return _transposed(columns, np.empty(columns.shape[::-1]))

    def round(
        self, block: slice, target: Array, origin: Array, factor: Array,
        rounders: Sequence[_Rounder],
    ) -> None:
        """A block whose `target` has collected everything from outside of the block.

        The error of a column is what `origin` (the weight, or the target itself) is more
        than its rounded value.
        """
        errors, rounded = self.errors[block], np.empty_like(target)
        codes = np.empty(target.shape, np.int32)
        for few in _blocks(len(target), _FEW):
            target[few] += factor[few.stop :, few].T @ errors[few.stop :]
            for k in range(few.stop - 1, few.start - 1, -1):
                column, values = target[k], rounded[k]
                if k < few.stop - 1:
                    column += factor[k + 1 : few.stop, k] @ errors[k + 1 : few.stop]
                rounders[k](column, codes[k], values)
                np.subtract(origin[k], values, out=errors[k])
        _transposed(codes, self.codes[:, ::-1][:, block])
        _transposed(rounded, self.rounded[:, ::-1][:, block])

    def result(self, quantizers: Sequence[Quantizer]) -> RoundedColumns:
        """Columns from the first to the last."""
        return RoundedColumns(self.codes, self.rounded, tuple(quantizers))


def _blocks(n: int, size: int = _BLOCK) -> list[slice]:
    """Slices of `size` from the end to the start."""
    return [slice(max(stop - size, 0), stop) for stop in range(n, 0, -size)]


def _transposed(a: Array, out: Array) -> Array:
    """`a` transposed into `out`, in strips that stay in the cache."""
    for i in range(0, len(a), 8):               # a cache line of float64
        out[:, i : i + 8] = a[i : i + 8].T
    return out


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
        np.add(values, zero, out=codes, casting="unsafe")
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
