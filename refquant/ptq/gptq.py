r"""GPTQ: round the columns of a weight one by one, repairing each error in the rest.

Rounding a weight changes the layer's output, and weights that are not rounded yet can
make up for part of it: the inputs are correlated, so what one column lost another can
give. Nearest rounding is the same loop without the repair.

*Levels* come from `fit`, whatever they are; GPTQ decides the *assignment* alone.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_int
from refquant.ptq._curvature import damped, inverse_factor
from refquant.quantizer import Fit, Quantizer

__all__ = ["Order", "Rounded", "as_given", "by_curvature", "gptq"]

#: Diagonal of the Hessian -> order in which its columns are rounded.
Order: TypeAlias = Callable[[Array], Array]


class Rounded(NamedTuple):
    """A rounded weight.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
    quantizers : tuple of Quantizer
        One for each group of columns, in the order in which they were fitted.
    group_of : ndarray of int64, shape (in,)
        Which quantizer a column belongs to.
    weight : ndarray of float, shape (out, in)
        The decoded codes, in the dtype of the weight that was rounded.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, algorithm 1.
    """

    codes: Codes
    quantizers: tuple[Quantizer, ...]
    group_of: Array
    weight: Array


def as_given(curvature: Array) -> Array:
    """Columns from left to right.

    Parameters
    ----------
    curvature : ndarray of float, shape (in,)

    Returns
    -------
    ndarray of int64, shape (in,)

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3.2, step 1 (arbitrary order).

    Examples
    --------
    >>> as_given(np.array([1.0, 3.0, 2.0]))
    array([0, 1, 2])
    """
    return np.arange(len(curvature))


def by_curvature(curvature: Array) -> Array:
    """Columns with the largest inputs first ("act-order"); equals keep their order.

    Parameters
    ----------
    curvature : ndarray of float, shape (in,)
        Mean squared inputs.

    Returns
    -------
    ndarray of int64, shape (in,)

    References
    ----------
    The authors' code for arXiv:2210.17323, option ``--act-order``.

    Examples
    --------
    >>> by_curvature(np.array([1.0, 3.0, 2.0]))
    array([1, 2, 0])
    """
    return np.argsort(-curvature, kind="stable")


def gptq(
    weight: Array,
    hessian: Array,
    fit: Fit,
    *,
    group_size: int | None = None,
    order: Order = as_given,
    static_groups: bool = False,
    damping: float = 0.01,
) -> Rounded:
    r"""Codes that keep the layer's output rather than its weight.

    Minimises :math:`\mathrm{tr}\,(W - \hat W) H (W - \hat W)^T` greedily: after
    column j is fixed, the optimal change of the columns still free is

    .. math:: w_{k} \leftarrow w_{k} - \frac{w_j - \hat w_j}{U_{jj}} U_{jk},
              \quad k > j, \qquad H^{-1} = U^T U .

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive semidefinite
        Second moment of the layer's inputs, `SecondMoment.hessian`; a factor in front of
        it changes nothing.
    fit : callable, ndarray (out, group) -> Quantizer with one row per output
        How a group's quantizer is chosen, e.g. min-max at 4 bits. Unless
        `static_groups`, it sees the columns as already repaired for the errors before.
    group_size : int, optional
        Columns per quantizer; default all of them. Must divide ``in``.
    order : callable, diagonal of the Hessian -> permutation
        `as_given` or `by_curvature`.
    static_groups : bool
        Fit all groups beforehand, to neighbouring columns of the weight as given. With
        an order of its own, a group that is fitted on the way consists of columns that
        lie far apart in memory.
    damping : float, >= 0
        Added to the diagonal, relative to its mean.

    Returns
    -------
    Rounded
        Columns whose input was always zero get the code of zero.

    Raises
    ------
    ValueError
        If `group_size` does not divide the columns, the shapes do not fit, a number is
        not finite, `order` is no permutation, or `hessian` is not positive definite even
        when damped.

    Notes
    -----
    The authors' code fits a group before the errors of its own block of 128 columns
    have been carried over, so for groups shorter than a block its grids differ from
    both of ours. Blocks change the speed and not the result: they are left to
    `kernels.column_rounding`.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, algorithm 1 and eq. (2).

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.quantizers.uniform import symmetric
    >>> fit = lambda w: symmetric(absmax(w, axis=1), bits=3)
    >>> hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> gptq(np.array([[1.2, 0.5]]), hessian, fit).codes
    array([[3, 1]], dtype=int32)
    """
    work, h = damped(weight, hessian, damping)
    n = work.shape[1]
    group_size = n if group_size is None else group_size
    require_int("group_size", group_size, min(n, 1))
    if n and n % group_size:
        raise ValueError(f"`group_size` must divide {n} columns; got {group_size}")
    permutation = _permutation(order, np.diag(h))
    quantizers: list[Quantizer] = []
    if static_groups:
        quantizers = [fit(work[:, i : i + group_size]) for i in range(0, n, group_size)]
    u = inverse_factor(h[np.ix_(permutation, permutation)])
    work = work[:, permutation]
    codes, group_of = np.empty(work.shape, np.int32), np.empty(n, np.int64)
    for j in range(n):
        if not static_groups and j % group_size == 0:
            quantizers.append(fit(work[:, j : j + group_size]))
        group_of[j] = (permutation[j] if static_groups else j) // group_size
        quantizer = quantizers[group_of[j]]
        column = work[:, [j]]                   # two-dimensional, as the scales are
        codes[:, [j]] = quantizer.encode(column)
        work[:, [j]] = quantizer.decode(codes[:, [j]])
        work[:, j + 1 :] -= (column - work[:, [j]]) / u[j, j] * u[j, j + 1 :]
    back = np.argsort(permutation)
    return Rounded(codes[:, back], tuple(quantizers), group_of[back],
                   work[:, back].astype(weight.dtype))


def _permutation(order: Order, curvature: Array) -> Array:
    """What `order` says, checked."""
    permutation = np.asarray(order(curvature))
    if not np.array_equal(np.sort(permutation), np.arange(len(curvature))):
        raise ValueError(f"`order` must return a permutation of {len(curvature)} columns; "
                         f"got {permutation}")
    return permutation
