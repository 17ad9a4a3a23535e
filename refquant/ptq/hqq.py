r"""HQQ: choose the zero point so that few weights are badly rounded, without any data.

The error of rounding has a few large entries. HQQ splits it into an outlier part E, pulled
towards zero by a norm with p < 1, and the rest, and alternates two exact steps: E by
shrinking, the zero point by a mean. The scale stays; the zero point need not be whole.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import as_reals, require_finite, require_int, require_number

__all__ = ["HalfQuadratic", "hqq", "shrink"]


class HalfQuadratic(NamedTuple):
    r"""Codes, and the real parameters that decode them: :math:`\hat w = s (q - z)`.

    Attributes
    ----------
    codes : ndarray of int32, shape of the weight
    scale : ndarray of float64
        s, with size 1 along the last axis.
    zero_point : ndarray of float64
        z, not whole: zero itself is no level.
    weight : ndarray, shape and dtype of the weight
        The decoded codes.
    losses : tuple of float
        Mean absolute error before the first step and after each step that was kept.

    References
    ----------
    Badri and Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models".
    """

    codes: Codes
    scale: Array
    zero_point: Array
    weight: Array
    losses: tuple[float, ...]


def shrink(x: Array, beta: float, p: float) -> Array:
    r"""Values pulled towards zero, small ones all the way.

    .. math:: \mathrm{sign}(x) \max\Bigl(|x| - \tfrac{|x|^{p - 1}}{\beta},\ 0\Bigr)

    Parameters
    ----------
    x : ndarray of float
    beta : float, > 0
    p : float, in (0, 1]
        1 is soft thresholding.

    Returns
    -------
    ndarray, shape of `x`
        0 wherever :math:`|x| < \beta^{-1/(2-p)}`.

    Raises
    ------
    ValueError
        If a value is not finite, or `beta` or `p` is out of range.

    References
    ----------
    Badri and Shaji, 2023, eq. (4), the generalized soft threshold.

    Examples
    --------
    >>> shrink(np.array([-2.0, 0.1, 0.0]), 10.0, 0.7).round(4)
    array([-1.9188,  0.    ,  0.    ])
    """
    x = as_reals("x", x)
    require_finite("x", x)
    _require_norm(beta, p)
    size = np.abs(x)
    with np.errstate(divide="ignore", over="ignore"):       # 0**(p - 1) is infinite: to 0
        pull = size ** (p - 1) / beta
    return np.sign(x) * np.maximum(size - pull, 0)


def hqq(
    weight: Array, *, bits: int, p: float = 0.7, beta: float = 10.0, growth: float = 1.01,
    steps: int = 20,
) -> HalfQuadratic:
    r"""Codes of a weight whose zero points are fitted by half-quadratic splitting.

    .. math:: E \leftarrow \mathrm{shrink}(W - \hat W, \beta), \qquad
              z \leftarrow \mathrm{mean}\Bigl(Q - \frac{W - E}{s}\Bigr), \qquad
              Q = \mathrm{clip}\Bigl(\Bigl\lfloor \frac Ws + z \Bigr\rceil\Bigr)

    Parameters
    ----------
    weight : ndarray of float, shape (..., group)
        A group per row: `refquant.granularity.group` makes them.
    bits : int
        1 to 31.
    p : float, in (0, 1]
        Of the norm of the outliers.
    beta : float, > 0
        How hard they are pulled.
    growth : float, >= 1
        Factor on `beta` after each step.
    steps : int
        At most; the first that does not lower the mean absolute error ends it, and is undone.

    Returns
    -------
    HalfQuadratic
        A group whose values are all alike keeps the scale 1.

    Raises
    ------
    ValueError
        If `weight` is not finite, or a number is out of range.

    Notes
    -----
    At the usual size of weights the shrinking does nothing: an error below
    :math:`\beta^{-1/(2-p)} = 0.17` counts as no outlier. What is left is to centre z on
    the errors. The method is therefore not invariant under scaling the weight.

    References
    ----------
    Badri and Shaji, 2023, "Half-Quadratic Quantization of Large Machine Learning Models",
    sections 2 and 3.

    Examples
    --------
    >>> w = np.array([[0.0, 0.1, 0.5, 1.0]])
    >>> hqq(w, bits=2).codes
    array([[0, 0, 2, 3]], dtype=int32)
    """
    weight = as_reals("weight", weight)
    if not weight.ndim:
        raise ValueError("`weight` must have an axis of groups; got a number")
    require_finite("weight", weight)
    require_int("bits", bits, 1, 31)
    require_int("steps", steps, 0)
    _require_norm(beta, p)
    _require_above_zero("growth", growth)
    if growth < 1:
        raise ValueError(f"`growth` must be at least 1; got {growth}")
    w, top = weight.astype(np.float64), 2**bits - 1
    if not w.size:
        empty = np.ones((*w.shape[:-1], 1))
        return HalfQuadratic(w.astype(np.int32), empty, 0 * empty, weight.copy(), (0.0,))
    low, high = w.min(-1, keepdims=True), w.max(-1, keepdims=True)
    scale = (high - low) / top
    scale = np.where(scale > 0, scale, 1.0)
    zero = -low / scale

    def rounded(z: Array) -> Array:
        return np.clip(np.rint(w / scale + z), 0, top)

    codes = rounded(zero)
    error = w - scale * (codes - zero)
    losses = [float(np.abs(error).mean())]
    for _ in range(steps):
        outliers = shrink(error, beta, p)
        new_zero = np.mean(codes - (w - outliers) / scale, axis=-1, keepdims=True)
        new_codes = rounded(new_zero)
        new_error = w - scale * (new_codes - new_zero)
        loss = float(np.abs(new_error).mean())
        if not loss < losses[-1]:
            break
        zero, codes, error, beta = new_zero, new_codes, new_error, beta * growth
        losses.append(loss)
    decoded = (scale * (codes - zero)).astype(weight.dtype)
    return HalfQuadratic(codes.astype(np.int32), scale, zero, decoded, tuple(losses))


def _require_norm(beta: float, p: float) -> None:
    _require_above_zero("beta", beta)
    _require_above_zero("p", p)
    if p > 1:
        raise ValueError(f"`p` must be at most 1; got {p}")


def _require_above_zero(name: str, value: float) -> None:
    require_number(name, value)
    if not 0 < value < np.inf:                  # also for NaN
        raise ValueError(f"`{name}` must be above 0 and finite; got {value}")
