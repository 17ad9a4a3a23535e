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
from refquant._validate import require_int, require_quantizer, short
from refquant.kernels.column_rounding import round_and_fit, round_columns
from refquant.ptq._curvature import damped, inverse_factor, with_diagonal
from refquant.quantizer import Fit, Quantizer

__all__ = ["Order", "Rounded", "as_given", "by_curvature", "column_by_column", "gptq"]

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
        not finite, `order` is no permutation, or `hessian` is not symmetric, or not positive
        definite even when damped.

    Notes
    -----
    The authors' code fits a group before the errors of its own block of 128 columns
    have been carried over, so for groups shorter than a block its grids differ from
    both of ours. The loop of the paper is `column_by_column`; what runs is its fast twin,
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
    fit = _returning_quantizers(fit)
    work, h, diagonal = with_diagonal(weight, hessian, damping)
    n = work.shape[1]
    group_size = _checked(group_size, n)
    permutation = _permutation(order, diagonal)
    groups = range(0, n, group_size) if n else ()
    back, group_of = np.argsort(permutation), np.arange(n) // max(group_size, 1)
    quantizers: list[Quantizer] = []
    if static_groups or len(groups) == 1:
        quantizers = [fit(work[:, i : i + group_size].astype(np.float64)) for i in groups]
        group_of = group_of[permutation]
    given = np.array_equal(permutation, np.arange(n))
    if not given:
        work, h = work[:, permutation], h[np.ix_(permutation, permutation)]
        diagonal = diagonal[permutation]
    if quantizers:
        made = round_columns(work, h, quantizers, group_of, diagonal=diagonal)
    else:
        made = round_and_fit(work, h, fit, group_size, diagonal=diagonal)
    if given:
        return Rounded(made.codes, made.quantizers, group_of, made.weight)
    return Rounded(made.codes[:, back], made.quantizers, group_of[back], made.weight[:, back])


def column_by_column(
    weight: Array, hessian: Array, fit: Fit, *, group_size: int | None = None,
    damping: float = 0.01,
) -> Rounded:
    """GPTQ as the paper has it, one column after the other: the oracle of `gptq`.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive semidefinite
    fit : callable, ndarray (out, group) -> Quantizer
    group_size : int, optional
        Columns per quantizer; default all of them. Must divide ``in``.
    damping : float, >= 0

    Returns
    -------
    Rounded
        The codes of `gptq`, except where rounding errors of float64 decide between levels
        that are equally near.

    Raises
    ------
    ValueError
        As `gptq`.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, algorithm 1 and eq. (2).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> column_by_column(np.array([[0.4, 0.4]]), hessian,
    ...                  lambda w: symmetric(np.array([[3.0]]), bits=3)).codes
    array([[0, 1]], dtype=int32)
    """
    fit = _returning_quantizers(fit)
    work, h = damped(weight, hessian, damping)
    group_size = _checked(group_size, work.shape[1])
    u = inverse_factor(h)
    codes, quantizers = np.empty(work.shape, np.int32), []
    for j in range(work.shape[1]):
        if j % group_size == 0:
            quantizers.append(fit(work[:, j : j + group_size]))
        column = work[:, [j]]                   # two-dimensional, as the scales are
        codes[:, [j]] = quantizers[-1].encode(column)
        work[:, [j]] = quantizers[-1].decode(codes[:, [j]])
        work[:, j + 1 :] -= (column - work[:, [j]]) / u[j, j] * u[j, j + 1 :]
    group_of = np.arange(work.shape[1]) // max(group_size, 1)
    return Rounded(codes, tuple(quantizers), group_of, work.astype(np.asarray(weight).dtype))


def _checked(group_size: int | None, n: int) -> int:
    """Columns of a group, if whole groups fill n columns."""
    group_size = n if group_size is None else group_size
    require_int("group_size", group_size, min(n, 1))
    if n and n % group_size:
        raise ValueError(f"`group_size` must divide {n} columns; got {group_size}")
    return group_size


def _returning_quantizers(fit: Fit) -> Fit:
    """The same, unless it returns something else."""
    def checked(weight: Array) -> Quantizer:
        quantizer = fit(weight)
        require_quantizer("fit", quantizer)
        return quantizer

    return checked


def _permutation(order: Order, curvature: Array) -> Array:
    """What `order` says, checked."""
    permutation = np.asarray(order(curvature))
    fits = permutation.shape == curvature.shape and permutation.dtype.kind in "iu"
    if not fits or not np.array_equal(np.sort(permutation), np.arange(len(curvature))):
        raise ValueError(f"`order` must return a permutation of {len(curvature)} columns; "
                         f"got {short(permutation)}")
    return permutation
