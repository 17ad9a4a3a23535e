r"""Cayley steps: learn a rotation by descent, and never leave the rotations.

Subtract a gradient from an orthogonal matrix, and it is not orthogonal any more. But every
skew-symmetric Y gives an orthogonal matrix :math:`(I + \frac{a}{2} Y)^{-1} (I - \frac{a}{2} Y)`,
and of all directions in which a rotation R can turn, the steepest is the skew part of
:math:`G R^T`, with G the gradient of the loss in R.

A random Hadamard matrix serves all rows alike. Where outliers come in a direction of their
own, time and again, a rotation that knows the direction serves them better; where they do not,
there is nothing to learn.
"""

import math
from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_number,
    require_same_shape,
)

__all__ = ["cayley_step", "learned_rotation", "squared_peaks"]

#: Beyond it rounding errors of 1e-16 of it would spoil the rotation that is returned.
MOST_TURN = 1e10


def cayley_step(rotation: Array, gradient: Array, rate: float) -> Array:
    r"""The rotation after one step of steepest descent among rotations.

    .. math:: R \leftarrow \Bigl(I + \frac{a}{2} Y\Bigr)^{-1} \Bigl(I - \frac{a}{2} Y\Bigr) R ,
              \qquad Y = \frac{G R^T - R\,G^T}{2} .

    At a = 0 the loss falls by :math:`\lVert Y \rVert_F^2` per unit of a.

    Parameters
    ----------
    rotation : ndarray of float, shape (n, n)
        R, orthogonal.
    gradient : ndarray of float, shape (n, n)
        G, of the loss in the entries of R as if they were free.
    rate : float
        a; 0 stays where it is, and a negative one climbs.

    Returns
    -------
    ndarray, shape and dtype of `rotation`
        Orthogonal however long the step: for a skew Y the matrix to be inverted has no singular
        value below 1. Rounding errors grow with the largest, :math:`|a| \lVert Y \rVert_2 / 2`,
        and are below 1e-5 up to the length that is refused.

    Raises
    ------
    ValueError
        If `rotation` is not square and orthogonal to 1e-4, the shapes differ, a number is not
        finite, or :math:`|a| \lVert Y \rVert_F / 2` is above 1e10.

    Notes
    -----
    The paper has :math:`Y = \hat G - \hat G^T` with
    :math:`\hat G = G R^T - \frac12 R R^T G R^T`, which serves tall matrices as well; with
    :math:`R R^T = I` it is the Y above. The authors' code does not solve the system, but
    iterates five times, and has to make R orthogonal again now and then.

    References
    ----------
    Liu et al., 2024, arXiv:2405.16406, section 3.2; Wen and Yin, 2013, Math. Program. 142,
    "A feasible method for optimization with orthogonality constraints", section 2.

    Examples
    --------
    One turn by :math:`2 \arctan \frac12`, whose cosine is 3/5:

    >>> cayley_step(np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]]), 1.0)
    array([[ 0.6, -0.8],
           [ 0.8,  0.6]])
    """
    rotation, gradient = as_reals("rotation", rotation), as_reals("gradient", gradient)
    _require_orthogonal("rotation", rotation)
    require_same_shape("gradient", gradient, rotation.shape)
    require_finite("gradient", gradient)
    require_number("rate", rate)
    require_finite("rate", np.asarray(rate))
    with np.errstate(all="ignore"):
        half = rate / 2 * _turn(rotation, gradient)
        length = np.linalg.norm(half)
    if not length <= MOST_TURN:                 # also for NaN
        raise ValueError(f"`rate` must be small enough for |a| |Y| / 2 to be at most "
                         f"{MOST_TURN:g}; got {length:.3g}")
    one, r = np.eye(len(rotation)), rotation.astype(np.float64)
    # One product less than with I - B, which is 2 I - (I + B).
    return (2 * np.linalg.solve(one + half, r) - r).astype(rotation.dtype)


def learned_rotation(
    start: Array, gradient: Callable[[Array], Array], *, steps: int = 100, rate: float = 1.0
) -> Array:
    r"""A rotation after steps downhill, long at first and falling to none on a cosine.

    .. math:: a_t = \frac{1 + \cos(\pi t / T)}{2}\,\frac{\eta}{\lVert Y_t \rVert_F}

    Parameters
    ----------
    start : ndarray of float, shape (n, n)
        Orthogonal; for outliers, `hadamard` with `random_signs`.
    gradient : callable, rotation -> ndarray, shape (n, n)
        Of the loss in the entries of the rotation.
    steps : int
        T.
    rate : float, > 0
        :math:`\eta`, the length of the first step: about the root of the summed squares of the
        angles (in radians) by which vectors turn. The scale of the loss does not matter.

    Returns
    -------
    ndarray, shape and dtype of `start`
        `start` itself where it is as low as its neighbours.

    Raises
    ------
    ValueError
        As `cayley_step`; and if `steps` is negative or `rate` not positive.

    References
    ----------
    Liu et al., 2024, arXiv:2405.16406, section 3.2 (100 steps).

    Examples
    --------
    The loss is minus the trace, which no rotation has lower than the identity:

    >>> quarter = np.array([[0.0, -1.0], [1.0, 0.0]])
    >>> learned_rotation(quarter, lambda r: -np.eye(2)).round(2)
    array([[ 1., -0.],
           [ 0.,  1.]])
    """
    start = as_reals("start", start)
    _require_orthogonal("start", start)
    require_int("steps", steps, 0)
    require_number("rate", rate)
    if not rate > 0:
        raise ValueError(f"`rate` must be positive; got {rate}")
    rotation = start.astype(np.float64)
    for step in range(steps):
        slope = as_reals("gradient", gradient(rotation))
        require_same_shape("gradient", slope, rotation.shape)
        length = float(np.linalg.norm(_turn(rotation, slope)))
        if length == 0:
            break
        fall = (1 + math.cos(math.pi * step / steps)) / 2
        rotation = cayley_step(rotation, slope, fall * rate / length)
    return rotation.astype(start.dtype)


def squared_peaks(x: Array) -> tuple[float, Array]:
    r"""Sum of the squares of the rows' largest magnitudes, and its gradient.

    What rounding costs, when each row has a symmetric grid of its own: the step of row t is
    its peak over :math:`q_{max}`, and its noise the square of that over 12,

    .. math:: \mathbb{E} \lVert x_t - \hat x_t \rVert^2 \approx
              \frac{n}{12\,q_{max}^2} \max_j x_{tj}^2 .

    Unlike the error of rounding itself it does not jump.

    Parameters
    ----------
    x : ndarray of float, shape (rows, n)
        Rotated already: with ``x = rows @ rotation`` the gradient in the rotation is
        ``rows.T @ gradient``.

    Returns
    -------
    value : float
    gradient : ndarray of float64, shape of `x`
        Of the first of several entries that are equally large.

    Raises
    ------
    ValueError
        If `x` is not a matrix, has no columns or is not finite.

    References
    ----------
    Bennett, 1948, Bell Syst. Tech. J. 27(3), "Spectra of quantized signals" (the noise of a step).

    Examples
    --------
    >>> squared_peaks(np.array([[1.0, -3.0], [2.0, 0.0]]))
    (13.0, array([[ 0., -6.],
           [ 4.,  0.]]))
    """
    x = as_reals("x", x)
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"`x` must have shape (rows, n), n at least 1; got {x.shape}")
    require_finite("x", x)
    where = np.arange(len(x)), np.abs(x).argmax(axis=1)
    peaks, gradient = x[where].astype(np.float64), np.zeros(x.shape)
    gradient[where] = 2 * peaks
    return float(peaks @ peaks), gradient


def _turn(rotation: Array, gradient: Array) -> Array:
    """Y: the steepest direction, as seen from the rotation."""
    product = gradient.astype(np.float64) @ rotation.T
    return (product - product.T) / 2


def _require_orthogonal(name: str, q: Array) -> None:
    """Raise unless the columns have length 1 and no two of them an angle but a right one."""
    if q.ndim != 2 or q.shape[0] != q.shape[1]:
        raise ValueError(f"`{name}` must be square; got shape {q.shape}")
    require_finite(name, q)
    with np.errstate(all="ignore"):
        away = np.abs(q.T @ q - np.eye(len(q))).max(initial=0)
    if not away <= 1e-4:                        # also for NaN
        raise ValueError(f"`{name}` must be orthogonal; got a product with its transpose that "
                         f"differs from the identity by {away:.3g}")
