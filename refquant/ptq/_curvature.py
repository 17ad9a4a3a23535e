"""What the methods that repair roundings share: a curvature that can be inverted."""

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_not_negative,
    require_same_shape,
    require_second_moment,
)

__all__ = ["damped", "inverse_factor", "unit_upper", "with_diagonal"]


def damped(weight: Array, hessian: Array, damping: float) -> tuple[Array, Array]:
    """Copies in float64: dead columns of the weight at zero, the Hessian positive definite."""
    weight, hessian, diagonal = with_diagonal(weight, hessian, damping)
    h = hessian.astype(np.float64)
    np.fill_diagonal(h, diagonal)
    return weight.astype(np.float64), h


def with_diagonal(weight: Array, hessian: Array, damping: float) -> tuple[Array, Array, Array]:
    """The weight with dead columns at zero, the Hessian, and a diagonal that makes it definite.

    An input that was always zero has a zero on the diagonal. Whatever its weights are,
    the output is the same, so they become zero, and the Hessian gets the mean of the other
    inputs there. (The authors of GPTQ put a one: then a factor before the Hessian changes
    the damping, and with it codes.)
    """
    weight, hessian = as_reals("weight", weight), as_reals("hessian", hessian)
    if weight.ndim != 2:
        raise ValueError(f"`weight` must have shape (out, in); got {weight.shape}")
    n = weight.shape[1]
    require_same_shape("hessian", hessian, (n, n))
    require_finite("weight", weight)
    require_second_moment("hessian", hessian)
    require_not_negative("damping", damping)
    diagonal = np.diag(hessian).astype(np.float64)
    dead = diagonal == 0
    if dead.any():
        weight = np.where(dead, 0, weight)
        diagonal[dead] = np.mean(diagonal[~dead]) if not dead.all() else 1
    return weight, hessian, diagonal + (damping * np.mean(diagonal) if n else 0)


def inverse_factor(h: Array) -> Array:
    r"""Upper triangular U with :math:`H^{-1} = U^T U`, without forming the inverse."""
    # H = V V^T with V upper triangular is the Cholesky of H read backwards; then
    # inv(H) = inv(V)^T inv(V).
    v = _backward_cholesky(h)
    return solve_triangular(v, np.eye(len(h)))


def unit_upper(h: Array) -> tuple[Array, Array]:
    r"""Unit upper triangular A and d > 0 with :math:`H = A\,\mathrm{diag}(d)\,A^T`."""
    v = _backward_cholesky(h)
    diagonal = np.diag(v)
    return v / diagonal, diagonal**2


def _backward_cholesky(h: Array) -> Array:
    """Upper triangular V with ``h == V @ V.T``."""
    try:
        return cholesky(h[::-1, ::-1], lower=True)[::-1, ::-1]
    except np.linalg.LinAlgError:
        raise ValueError("`hessian` must be positive definite once damped; got one that is not: "
                         "raise `damping`") from None
