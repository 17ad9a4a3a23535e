r"""Optimal brain quantization: round the weight that costs least, repair the rest, repeat.

The exact greedy method behind GPTQ. Each row goes its own way: at every step the weight
whose rounding raises the error least is rounded, the others move to make up for it, and the
curvature forgets the weight. That is :math:`O(\mathrm{out} \cdot \mathrm{in}^3)`, for small
layers and for judging GPTQ, which is the same with one order for all rows.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import as_reals
from refquant.ptq._curvature import damped
from refquant.quantizers.uniform import Uniform

__all__ = ["GreedilyRounded", "cheapest_first", "left_to_right", "obq"]


class GreedilyRounded(NamedTuple):
    """A weight rounded by `obq`.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
    quantizer : tuple of Uniform
        One for each row, with parameters of shape (1, 1).
    order : ndarray of int64, shape (out, in)
        Columns of each row in the order of their rounding.
    cost : ndarray of float64, shape (out,)
        What each row paid: half of its error, as measured by the damped Hessian.
    weight : ndarray of float, shape (out, in)
        The decoded codes.

    References
    ----------
    Frantar and Alistarh, 2022, arXiv:2208.11580, section 5.
    """

    codes: Codes
    quantizer: tuple[Uniform, ...]
    order: Array
    cost: Array
    weight: Array


def cheapest_first(cost: Array, error: Array, step: float) -> int:
    """The weight that costs least; but first the worst of those that lie beyond the grid.

    Parameters
    ----------
    cost : ndarray of float, shape (n,)
        Of rounding each remaining weight now.
    error : ndarray of float, shape (n,)
        Rounding error of each.
    step : float
        Of the grid: an error above half of it means that the weight lies outside.

    Returns
    -------
    int

    References
    ----------
    Frantar and Alistarh, 2022, arXiv:2208.11580, section 5 (quantization outliers).

    Examples
    --------
    >>> cheapest_first(np.array([2.0, 1.0, 9.0]), np.array([0.1, 0.2, 0.3]), 1.0)
    1
    >>> cheapest_first(np.array([2.0, 1.0, 9.0]), np.array([0.1, 0.2, 0.7]), 1.0)
    2
    """
    outside = np.abs(error) > step / 2
    return int(np.argmax(np.abs(error)) if outside.any() else np.argmin(cost))


def left_to_right(cost: Array, error: Array, step: float) -> int:
    """The first weight that is left: OBQ becomes GPTQ.

    Parameters
    ----------
    cost, error : ndarray of float, shape (n,)
    step : float

    Returns
    -------
    int
        0.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3.2, step 1.

    Examples
    --------
    >>> left_to_right(np.array([2.0, 1.0]), np.array([0.1, 0.2]), 1.0)
    0
    """
    return 0


def obq(
    weight: Array,
    hessian: Array,
    fit: Callable[[Array], Uniform],
    *,
    choose: Callable[[Array, Array, float], int] = cheapest_first,
    damping: float = 0.01,
) -> GreedilyRounded:
    r"""Codes chosen one at a time, each where it costs the output least.

    With G the inverse Hessian of the weights that are left, rounding weight q and moving
    the others costs, and moves them by,

    .. math:: \frac12 \frac{(w_q - \hat w_q)^2}{G_{qq}}, \qquad
              \delta = -\frac{w_q - \hat w_q}{G_{qq}}\, G_{:,q},

    after which q leaves: :math:`G \leftarrow G - G_{:,q} G_{q,:} / G_{qq}`.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in), positive semidefinite
        Second moment of the layer's inputs.
    fit : callable, ndarray (1, in) -> Uniform
        Called for each row.
    choose : callable, (cost, error, step) -> int
        `cheapest_first` or `left_to_right`.
    damping : float, >= 0
        Added to the diagonal, relative to its mean.

    Returns
    -------
    GreedilyRounded
        The sum of ``2 * cost`` is exactly tr(D H D^T) with the damped H.

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `hessian` is not symmetric, or
        singular even when damped.
    TypeError
        If `fit` returns no `Uniform`.

    References
    ----------
    Frantar and Alistarh, 2022, arXiv:2208.11580, eqs. (7) and (8), algorithm 3.

    Examples
    --------
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.quantizers.uniform import symmetric
    >>> fit = lambda w: symmetric(absmax(w, axis=1), bits=3)
    >>> hessian = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> obq(np.array([[1.2, 0.5]]), hessian, fit).order
    array([[0, 1]])
    """
    weight = as_reals("weight", weight)
    work, h = damped(weight, hessian, damping)
    rows, n = work.shape
    try:
        inverse = np.linalg.inv(h) if n else h
    except np.linalg.LinAlgError:
        inverse = np.full_like(h, np.nan)
    if not (np.isfinite(inverse).all() and (np.diag(inverse) > 0).all()):
        raise ValueError("`hessian` must be positive definite once damped; got one that is not: "
                         "raise `damping`")
    codes, order = np.empty((rows, n), np.int32), np.empty((rows, n), np.int64)
    cost, quantizers = np.zeros(rows), []
    for i in range(rows):
        w, g, left = work[i].copy(), inverse.copy(), list(range(n))
        quantizer = fit(w[None, :])
        if not isinstance(quantizer, Uniform):
            raise TypeError(f"`fit` must return a Uniform; got a {type(quantizer).__name__}")
        quantizers.append(quantizer)
        for step in range(n):
            rounded = quantizer.decode(quantizer.encode(w[None, left]))[0]
            error = w[left] - rounded
            paid = 0.5 * error**2 / np.diag(g)
            q = choose(paid, error, float(quantizer.scale.flat[0]))
            cost[i] += paid[q]
            order[i, step] = left[q]
            codes[i, left[q]] = quantizer.encode(w[None, [left[q]]])[0, 0]
            w[left] -= error[q] / g[q, q] * g[:, q]
            work[i, left[q]] = rounded[q]
            g = g - np.outer(g[:, q], g[q]) / g[q, q]
            del left[q]
            g = np.delete(np.delete(g, q, 0), q, 1)
    return GreedilyRounded(codes, tuple(quantizers), order, cost, work.astype(weight.dtype))
