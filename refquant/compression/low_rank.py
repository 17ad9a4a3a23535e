r"""Low rank: a layer as two thinner ones, :math:`W \approx A B`.

A product of (out, r) and (r, in) takes r (out + in) numbers and as many multiplications,
fewer than out * in as long as

.. math:: r < \frac{\text{out} \cdot \text{in}}{\text{out} + \text{in}} .

The singular values say what it costs: what is discarded is lost, squared and summed (Eckart
and Young). What matters is rarely the weight, though, but the layer's output. For inputs with
the second moment :math:`H = S S^T` the best r directions are those of :math:`W S`.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_fraction,
    require_int,
    require_same_shape,
)

__all__ = ["Factors", "break_even", "factorize", "factorize_for", "rank_for_energy"]


class Factors(NamedTuple):
    r"""A weight in two parts.

    Attributes
    ----------
    left : ndarray of float, shape (out, rank)
        Its columns are orthonormal.
    right : ndarray of float, shape (rank, in)
        The layer that comes first: ``y = (x @ right.T) @ left.T``.
    lost : float
        What was discarded: the squared error of the weight (`factorize`), or of the output,
        :math:`\mathrm{tr}\,(W - AB) H (W - AB)^T` (`factorize_for`).

    References
    ----------
    Eckart and Young, 1936, Psychometrika 1, 211.
    """

    left: Array
    right: Array
    lost: float

    @property
    def weight(self) -> Array:
        """The product, shape (out, in)."""
        return self.left @ self.right


def factorize(weight: Array, rank: int) -> Factors:
    r"""The two factors of a rank that are nearest to the weight.

    .. math:: W = U \Sigma V^T, \qquad A = U_r, \quad B = U_r^T W = \Sigma_r V_r^T,
              \qquad \lVert W - AB \rVert^2 = \sum_{i > r} \sigma_i^2

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
        Of a convolution ``(out, height * width * in)``.
    rank : int
        From 0 to ``min(out, in)``.

    Returns
    -------
    Factors

    Raises
    ------
    ValueError
        If `weight` has another number of axes or is not finite, or the rank is out of range.

    References
    ----------
    Eckart and Young, 1936, Psychometrika 1, 211; Denton et al., 2014, arXiv:1404.0736.

    Examples
    --------
    >>> made = factorize(np.array([[3.0, 0.0], [0.0, 0.5]]), 1)
    >>> made.weight, made.lost
    (array([[3., 0.],
           [0., 0.]]), 0.25)
    """
    weight = _matrix(weight, rank)
    return _project(weight, weight.astype(np.float64), rank)


def factorize_for(weight: Array, hessian: Array, rank: int) -> Factors:
    r"""The two factors of a rank that are best for the layer's output.

    With :math:`U_r` the first left singular vectors of :math:`W S`, where :math:`H = S S^T`,

    .. math:: A = U_r, \quad B = U_r^T W, \qquad
              \mathrm{tr}\,(W - AB) H (W - AB)^T = \sum_{i > r} \sigma_i(W S)^2 .

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive semidefinite
        Second moment of the layer's inputs.
    rank : int
        From 0 to ``min(out, in)``.

    Returns
    -------
    Factors

    Raises
    ------
    ValueError
        As `factorize`, or if `hessian` has another shape or is not positive semidefinite.

    Notes
    -----
    Published as :math:`(W S)_r S^{-1}`, S the Cholesky factor. But truncation is the projection
    :math:`U_r U_r^T`, so S drops out again: nothing is inverted, and inputs that are
    always zero do no harm.

    References
    ----------
    Hsu et al., 2022, arXiv:2207.00112 (weighted by Fisher information, diagonal); Wang et al.,
    2024, arXiv:2403.07378, section 3.1 (truncation of W S).

    Examples
    --------
    >>> w, h = np.array([[3.0, 0.0], [0.0, 0.5]]), np.diag([1.0, 100.0])
    >>> factorize_for(w, h, 1).weight
    array([[0. , 0. ],
           [0. , 0.5]])
    """
    weight, hessian = _matrix(weight, rank), as_reals("hessian", hessian)
    require_same_shape("hessian", hessian, (weight.shape[1],) * 2)
    require_finite("hessian", hessian)
    values, vectors = np.linalg.eigh(hessian.astype(np.float64))
    if values.size and values[0] < -1e-8 * max(values[-1], -values[0]):
        raise ValueError(f"`hessian` must be positive semidefinite; got eigenvalue {values[0]}")
    return _project(weight, weight @ (vectors * np.sqrt(np.maximum(values, 0))), rank)


def rank_for_energy(weight: Array, share: float) -> int:
    r"""The least rank that keeps a share of the energy :math:`\sum_i \sigma_i^2`.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
        Or :math:`W S`, for the energy of the output.
    share : float, in (0, 1]

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If `weight` is no finite matrix, or `share` out of range.

    References
    ----------
    Eckart and Young, 1936, Psychometrika 1, 211.

    Examples
    --------
    >>> rank_for_energy(np.diag([3.0, 2.0, 1.0]), 0.9)
    2
    """
    weight = _matrix(weight, 0)
    require_fraction("share", share)
    energy = np.linalg.svd(weight.astype(np.float64), compute_uv=False) ** 2
    return int(np.searchsorted(np.cumsum(energy), share * energy.sum() * (1 - 1e-12)) + 1
               if energy.any() else 0)


def break_even(shape: tuple[int, int], numbers: int | None = None) -> int:
    """The largest rank whose factors take fewer numbers than the weight, or at most `numbers`.

    Parameters
    ----------
    shape : tuple of int, (out, in)
    numbers : int, optional
        What is allowed; default one less than the weight has.

    Returns
    -------
    int
        0 where not even one direction fits.

    Raises
    ------
    ValueError
        If a number is negative.

    References
    ----------
    Denton et al., 2014, arXiv:1404.0736, section 3.2.

    Examples
    --------
    >>> break_even((64, 64)), break_even((64, 64), 1024)
    (31, 8)
    """
    out, width = (require_int("shape", n, 1) for n in shape)
    allowed = out * width - 1 if numbers is None else require_int("numbers", numbers, 0)
    return min(allowed // (out + width), out, width)


def _matrix(weight: Array, rank: int) -> Array:
    weight = as_reals("weight", weight)
    if weight.ndim != 2:
        raise ValueError(f"`weight` must have shape (out, in); got {weight.shape}")
    require_finite("weight", weight)
    require_int("rank", rank, 0, min(weight.shape))
    return weight


def _project(weight: Array, seen: Array, rank: int) -> Factors:
    """The weight projected on the first left singular vectors of what is to be kept."""
    u, sizes, _ = np.linalg.svd(seen, full_matrices=False)
    left = u[:, :rank]
    lost = float((sizes[rank:] ** 2).sum())
    return Factors(left.astype(weight.dtype), (left.T @ weight).astype(weight.dtype), lost)
