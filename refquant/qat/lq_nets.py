r"""LQ-Nets: fit the levels to the numbers while the network trains, as sums of a small basis.

A code of K bits picks :math:`v^T e`: each element of the basis v with a sign (weights)
or not at all (activations). Products with such codes are still K products of bits, as
in `refquant.quantizers.binary_code`, but the levels follow the data. The basis is not
trained by gradients. Each step of training does one round of QEM (quantization error
minimization) and averages:

=====  ================================================================
E      nearest code of every number, at the present basis
M      best basis for these codes: least squares, :math:`(B B^T)^{-1} B x`
=====  ================================================================

Neither can increase the error, so QEM alone is a k-means whose centers are tied.
"""

from itertools import pairwise

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_finite,
    require_int,
    require_no_nan,
)
from refquant.qat._common import Pullback, sum_to_shape

__all__ = ["SIGNS", "ZERO_ONE", "fake_quantize_activation", "fake_quantize_weight",
           "initial_activation_basis", "initial_weight_basis", "qem_step"]

#: What multiplies an element of the basis where its bit is 0 and where it is 1.
SIGNS, ZERO_ONE = (-1.0, 1.0), (0.0, 1.0)

#: Quartile of the standard normal: half of its values are smaller in magnitude.
QUARTILE = 0.6745


def fake_quantize_weight(w: Array, basis: Array) -> tuple[Array, Pullback]:
    r"""Nearest level :math:`\sum_i \pm v_i` of each weight, and a pullback that passes everything.

    Parameters
    ----------
    w : ndarray of float
    basis : ndarray of float, shape (planes, ...)
        Elements along the first axis; the others broadcast to `w`, for one basis per
        output channel ``(planes, out, 1, ...)``.

    Returns
    -------
    value : ndarray, shape and dtype of `w`
        A tie takes the lower level.
    pullback : callable, ``g -> (g_w,)``
        `g` itself: also what is clipped moves. The basis has no gradient; see `qem_step`.

    Raises
    ------
    ValueError
        If `w` has a NaN, or the basis does not broadcast or has not 1 to 8 planes.

    References
    ----------
    Zhang et al., 2018, arXiv:1807.10029, eqs. (4) and (5); the pullback is that of the
    authors' code.

    Examples
    --------
    >>> value, pullback = fake_quantize_weight(np.array([-4.0, 0.2, 0.8]), np.array([1.0, 0.5]))
    >>> value, pullback(np.ones(3))[0]
    (array([-1.5,  0.5,  0.5]), array([1., 1., 1.]))
    """
    w, basis = _checked("w", w, basis)
    value, _ = _nearest(w, basis, SIGNS)
    return value, lambda g: (g,)


def fake_quantize_activation(x: Array, basis: Array) -> tuple[Array, Pullback]:
    r"""Nearest level :math:`\sum_i e_i v_i`, :math:`e_i \in \{0, 1\}`, of the output of a ReLU.

    Parameters
    ----------
    x : ndarray of float
    basis : ndarray of float, shape (planes, ...)
        Elements along the first axis; the others broadcast to `x`.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
        A tie takes the lower level.
    pullback : callable, ``g -> (g_x,)``
        `g` below the largest level, 0 from it on. The basis has no gradient.

    Raises
    ------
    ValueError
        If `x` has a NaN, or the basis does not broadcast or has not 1 to 8 planes.

    References
    ----------
    Zhang et al., 2018, arXiv:1807.10029, eqs. (4) and (5); the pullback is that of the
    authors' code.

    Examples
    --------
    >>> value, pullback = fake_quantize_activation(np.array([0.2, 0.8, 4.0]),
    ...                                            np.array([0.5, 1.0]))
    >>> value, pullback(np.ones(3))[0]
    (array([0. , 1. , 1.5]), array([1., 1., 0.]))
    """
    x, basis = _checked("x", x, basis)
    value, _ = _nearest(x, basis, ZERO_ONE)
    below = x < _levels(basis, ZERO_ONE)[0].max(0)
    return value, lambda g: (np.where(below, g, 0).astype(g.dtype, copy=False),)


def qem_step(
    x: Array, basis: Array, multipliers: tuple[float, float], *,
    ridge: float = 0.0, momentum: float = 0.0,
) -> Array:
    r"""The basis after one round of quantization error minimization on `x`.

    .. math:: v' = (B B^T + \epsilon I)^{-1} (B x + \epsilon v), \qquad
              v \leftarrow \mu v + (1 - \mu) v'

    Parameters
    ----------
    x : ndarray of float
        Numbers that the levels are fitted to.
    basis : ndarray of float, shape (planes, ...)
        v; numbers share a basis along the axes where it has size 1.
    multipliers : tuple of float
        `SIGNS` for weights, `ZERO_ONE` for activations.
    ridge : float
        :math:`\epsilon`; the authors take 1e-4 for weights and 0 for activations.
    momentum : float
        :math:`\mu`; the authors take 0.9.

    Returns
    -------
    ndarray, shape and dtype of `basis`
        Without ridge and momentum the squared error at the nearest levels is not above
        that of `basis`. Where the codes do not determine a basis, its shortest change.

    Raises
    ------
    ValueError
        If `x` has a NaN or an infinity, the basis does not broadcast, or `ridge` or
        `momentum` is out of range.

    References
    ----------
    Zhang et al., 2018, arXiv:1807.10029, eqs. (7) to (9) and algorithm 1; ridge and
    average after the authors' code.

    Examples
    --------
    >>> x = np.array([-3.0, -1.0, 1.0, 3.0])
    >>> qem_step(x, np.array([0.9, 1.5]), SIGNS)
    array([1., 2.])
    """
    x, basis = _checked("x", x, basis)
    require_finite("x", x)
    if not 0 <= ridge < np.inf:
        raise ValueError(f"`ridge` must be finite and at least 0; got {ridge}")
    if not 0 <= momentum <= 1:
        raise ValueError(f"`momentum` must lie in [0, 1]; got {momentum}")
    shape = (1,) * (x.ndim - basis.ndim + 1) + basis.shape[1:]
    _, chosen = _nearest(x, basis, multipliers)
    b = chosen.astype(np.float64)
    planes = len(basis)
    old = basis.reshape(planes, *shape).astype(np.float64)
    gram = np.array([[sum_to_shape(b[i] * b[j], shape) for j in range(planes)]
                     for i in range(planes)])
    residual = x - (b * old).sum(0)             # solve for the change: it is 0 if nothing moves
    right = np.array([sum_to_shape(b[i] * residual, shape) for i in range(planes)])
    systems = np.moveaxis(gram, (0, 1), (-2, -1)) + ridge * np.eye(planes)
    inverse = np.linalg.pinv(systems, hermitian=True)
    change = np.moveaxis(np.einsum("...ij,...j->...i", inverse, np.moveaxis(right, 0, -1)), -1, 0)
    return (old + (1 - momentum) * change).reshape(basis.shape).astype(basis.dtype)


def initial_weight_basis(planes: int, fan_out: int) -> Array:
    r"""Basis to start from, for weights drawn with variance 2 / n.

    .. math:: v_i = 2^i\,\frac{0.6745 \sqrt{2 / n}}{2^{K - 1}}

    Parameters
    ----------
    planes : int
        K, from 1 to 8.
    fan_out : int
        n: height times width of the kernel times output channels.

    Returns
    -------
    ndarray of float64, shape (planes,)

    Raises
    ------
    ValueError
        If an argument is out of range.

    References
    ----------
    The authors' code, github.com/microsoft/LQ-Nets.

    Examples
    --------
    >>> initial_weight_basis(2, 18)
    array([0.11241667, 0.22483333])
    """
    require_int("planes", planes, 1, 8)
    require_int("fan_out", fan_out, 1)
    return 2.0 ** np.arange(planes) * QUARTILE * np.sqrt(2 / fan_out) / 2 ** (planes - 1)


def initial_activation_basis(planes: int) -> Array:
    r"""Basis to start from, for activations behind a batch norm and a ReLU.

    .. math:: v_i = 2^i\,\frac{2 \cdot 0.6745}{2^K - 1}

    Parameters
    ----------
    planes : int
        K, from 1 to 8.

    Returns
    -------
    ndarray of float64, shape (planes,)

    Raises
    ------
    ValueError
        If `planes` is out of range.

    References
    ----------
    The authors' code, github.com/microsoft/LQ-Nets.

    Examples
    --------
    >>> initial_activation_basis(2)
    array([0.44966667, 0.89933333])
    """
    require_int("planes", planes, 1, 8)
    return 2.0 ** np.arange(planes) * 2 * QUARTILE / (2**planes - 1)


def _levels(basis: Array, multipliers: tuple[float, float]) -> tuple[Array, Array]:
    """All levels in ascending order along the first axis, and what each multiplies by."""
    planes = len(basis)
    bits = np.arange(2**planes) >> np.arange(planes)[:, np.newaxis] & 1
    each = np.asarray(multipliers, basis.dtype)[bits]           # (planes, codes)
    levels = np.tensordot(each, basis, axes=(0, 0))             # (codes, ...)
    order = np.argsort(levels, axis=0, kind="stable")
    spread = each.reshape(planes, -1, *(1,) * (basis.ndim - 1))
    spread = np.broadcast_to(spread, (planes, *levels.shape))
    return (np.take_along_axis(levels, order, axis=0),
            np.take_along_axis(spread, order[np.newaxis], axis=1))


def _nearest(
    x: Array, basis: Array, multipliers: tuple[float, float]
) -> tuple[Array, Array]:
    """Nearest level of each number, and its multipliers (planes, ...)."""
    levels, each = _levels(basis, multipliers)
    lead = (1,) * (x.ndim - levels.ndim + 1)
    levels = levels.reshape(len(levels), *lead, *levels.shape[1:])
    each = each.reshape(*each.shape[:2], *lead, *each.shape[2:])
    rank = np.zeros(x.shape, np.intp)
    for below, above in pairwise(levels):
        rank += x > below / 2 + above / 2
    full = np.broadcast_to(levels, (len(levels), *x.shape))
    value = np.take_along_axis(full, rank[np.newaxis], axis=0)[0]
    chosen = np.broadcast_to(each, (*each.shape[:2], *x.shape))
    return value.astype(x.dtype, copy=False), np.take_along_axis(
        chosen, rank[np.newaxis, np.newaxis], axis=1)[:, 0]


def _checked(name: str, x: Array, basis: Array) -> tuple[Array, Array]:
    values, v = as_reals(name, x), as_reals("basis", basis)
    if v.ndim == 0:
        raise ValueError("`basis` must have the planes along its first axis; got a scalar")
    require_int("planes of `basis`", len(v), 1, 8)
    require_finite("basis", v)
    require_broadcastable("basis[0]", v[0], values.shape)
    require_no_nan(name, values)
    return values, v
