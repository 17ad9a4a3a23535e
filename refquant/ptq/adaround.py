r"""AdaRound: learn for every weight whether to round it up or down.

Nearest rounding is best for each weight and not for the layer: errors that point the same way
add up in the output, errors that cancel do not. So each weight gets a slider h between 0 (down)
and 1 (up),

.. math:: \tilde W = s \left(\mathrm{clip}\bigl(\lfloor W / s \rfloor + h(V) + z\bigr) - z\right),
          \qquad h(V) = \mathrm{clip}\bigl(1.2\,\sigma(V) - 0.1,\ 0,\ 1\bigr),

which starts where the soft weight equals W, follows the gradient of the layer's output error, and
is pushed to one of its ends by a penalty that sharpens with time.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import as_reals, require_not_negative
from refquant.ptq._descent import Adam, require_grid, require_layer
from refquant.quantizers.uniform import Uniform

__all__ = ["Activation", "Learned", "adaround", "identity", "rectified_sigmoid", "sharpness",
           "start_at"]

#: Value -> (value, pullback): what stands between the layer and its target.
Activation: TypeAlias = Callable[[Array], tuple[Array, Callable[[Array], tuple[Array, ...]]]]

_STRETCH, _SHIFT = 1.2, -0.1            # zeta - gamma and gamma of the paper


class Learned(NamedTuple):
    """A weight with learned roundings.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
        Each one of the two neighbours of its weight, or clipped.
    weight : ndarray, shape and dtype of the weight
        The decoded codes.
    slider : ndarray of float64, shape (out, in)
        h at the end: 0, 1, or undecided between.
    losses : ndarray of float64, shape (steps,)
        Mean squared output error of each step's batch, with soft weights.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 3.3.
    """

    codes: Codes
    weight: Array
    slider: Array
    losses: Array


def identity(y: Array) -> tuple[Array, Callable[[Array], tuple[Array, ...]]]:
    """The layer's output as it is.

    Parameters
    ----------
    y : ndarray of float

    Returns
    -------
    value : ndarray
    pullback : callable

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, eq. (21), without the activation function of (25).

    Examples
    --------
    >>> identity(np.array([-1.0]))[0]
    array([-1.])
    """
    return y, lambda g: (g,)


def rectified_sigmoid(v: Array) -> Array:
    r"""Slider of a free number: a sigmoid stretched until it reaches 0 and 1.

    .. math:: h = \mathrm{clip}\bigl(1.2\,\sigma(V) - 0.1,\ 0,\ 1\bigr)

    Parameters
    ----------
    v : ndarray of float

    Returns
    -------
    ndarray of float
        Exactly 1 from V = 2.398 on, exactly 0 below -2.398.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, eq. (23); Louizos et al., 2018, arXiv:1712.01312.

    Examples
    --------
    >>> rectified_sigmoid(np.array([-3.0, 0.0, 3.0]))
    array([0. , 0.5, 1. ])
    """
    return np.clip(_STRETCH / _one_plus_exp(as_reals("v", v)) + _SHIFT, 0, 1)


def start_at(fraction: Array) -> Array:
    r"""The free number whose slider is a given fraction.

    .. math:: V = -\ln\Bigl(\frac{1.2}{f + 0.1} - 1\Bigr)

    Parameters
    ----------
    fraction : ndarray of float, in [0, 1]

    Returns
    -------
    ndarray of float64

    Raises
    ------
    ValueError
        If a fraction lies outside.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568; inverse of eq. (23).

    Examples
    --------
    >>> rectified_sigmoid(start_at(np.array([0.0, 0.3, 1.0]))).round(12)
    array([0. , 0.3, 1. ])
    """
    fraction = as_reals("fraction", fraction).astype(np.float64)
    if not ((fraction >= 0) & (fraction <= 1)).all():           # also for NaN
        raise ValueError(f"`fraction` must lie in [0, 1]; got {fraction.min()} "
                         f"to {fraction.max()}")
    return -np.log(_STRETCH / (fraction - _SHIFT) - 1)


def _one_plus_exp(v: Array) -> Array:
    """The sigmoid's denominator; beyond 40 it is infinite to all purposes, and would overflow."""
    return 1 + np.exp(np.minimum(-v, 40))


def sharpness(step: int, steps: int, *, warm: float = 0.2, start: float = 20.0,
              end: float = 2.0) -> float | None:
    r"""Exponent of the penalty at a step: none while warming up, then from 20 down to 2.

    A high exponent leaves sliders in the middle alone and holds only those near an end; a
    low one pushes all.

    Parameters
    ----------
    step, steps : int
    warm : float, in [0, 1)
        Share of the steps without a penalty.
    start, end : float

    Returns
    -------
    float or None

    Notes
    -----
    Half a cosine, as in AIMET; the code of BRECQ, whose docstring says so too, goes down
    in a straight line.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 3.3, eq. (24) ("annealing of beta").

    Examples
    --------
    >>> [sharpness(t, 10) for t in (0, 1, 2, 6, 10)]
    [None, None, 20.0, 11.0, 2.0]
    """
    begin = warm * steps
    if step < begin:
        return None
    progress = (step - begin) / max(steps - begin, 1)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))


def adaround(
    weight: Array,
    x: Array,
    target: Array,
    quantizer: Uniform,
    *,
    rng: np.random.Generator,
    bias: Array | None = None,
    activation: Activation = identity,
    steps: int = 2000,
    rate: float = 1e-2,
    penalty: float = 0.01,
    batch: int = 32,
) -> Learned:
    r"""Codes whose layer comes closest to the outputs it should have.

    .. math:: \min_V \; \mathbb{E}\,\lVert a(x \tilde W^T + b) - t \rVert^2
              + \lambda \sum \bigl(1 - |2 h(V) - 1|^{\beta}\bigr)

    by Adam, with :math:`\beta` of `sharpness`. At the end a weight goes up if
    :math:`h \ge 1/2`.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    x : ndarray of float, shape (n, ..., in)
        Inputs of the layer, as the quantized layers before it make them.
    target : ndarray of float, shape (n, ..., out)
        What the float network has there, after the activation function.
    quantizer : Uniform
        The grid, which stays: broadcasts to the weight.
    rng : numpy.random.Generator
        One draw of ``integers(0, n, min(batch, n))`` per step.
    bias : ndarray of float, shape (out,), optional
    activation : callable, ndarray -> (value, pullback)
        What follows the layer, e.g. `refquant.nn.operations.relu`.
    steps : int
        Of Adam. 0 leaves nearest rounding, with ties up.
    rate : float
    penalty : float
        :math:`\lambda`. It has the units of the output error: too small, and the sliders stay
        between the ends, and what was learned is lost when they are rounded.
    batch : int
        Samples of the first axis per step.

    Returns
    -------
    Learned

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `rate`, `penalty`, `steps` or `batch`
        is out of range.

    Notes
    -----
    The published defaults are 10,000 steps at a rate of 1e-3; ten times the rate needs a
    fifth of the steps on networks of this library.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, eqs. (21) to (25).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w, x = np.array([[0.45, 0.4, 0.3]]), np.ones((50, 3))
    >>> grid = Uniform(np.array([[1.0]]), np.array([[0]]), -1, 1)
    >>> adaround(w, x, x @ w.T, grid, rng=rng, penalty=0.1).codes       # their sum is 1.15
    array([[1, 0, 0]], dtype=int32)
    """
    weight, x, target = require_layer(weight, x, target, bias, steps, batch)
    require_grid(quantizer, weight, rng)
    require_not_negative("rate", rate)
    require_not_negative("penalty", penalty)
    scaled = weight.astype(np.float64) / quantizer.scale
    floor, zero = np.floor(scaled), np.asarray(quantizer.zero_point)
    low, high = quantizer.qmin - zero, quantizer.qmax - zero
    scale = np.broadcast_to(quantizer.scale, scaled.shape).astype(np.float64)
    v, adam = start_at(scaled - floor), Adam(scaled.shape, rate)
    losses = np.empty(steps)
    for step in range(steps):
        chosen = rng.integers(0, len(x), min(batch, len(x)))
        rows = x[chosen].reshape(-1, x.shape[-1])
        wanted = target[chosen].reshape(-1, len(weight))
        h = rectified_sigmoid(v)
        soft = np.clip(floor + h, low, high)
        y = rows @ (scale * soft).astype(x.dtype).T + (0 if bias is None else bias)
        value, pullback = activation(y)
        error = value - wanted
        losses[step] = np.square(error, dtype=np.float64).mean()
        (g,) = pullback(2 * error / len(rows))
        moves = (floor + h > low) & (floor + h < high)
        d_h = (g.T @ rows).astype(np.float64) * scale * moves
        beta = sharpness(step, steps)
        if beta is not None:
            d_h -= penalty * 2 * beta * np.abs(2 * h - 1) ** (beta - 1) * np.sign(2 * h - 1)
        sigmoid = 1 / _one_plus_exp(v)
        v = v - adam.step(d_h * _STRETCH * sigmoid * (1 - sigmoid) * ((h > 0) & (h < 1)))
    h = rectified_sigmoid(v)
    codes = (np.clip(floor + (h >= 0.5), low, high) + zero).astype(np.int32)
    return Learned(codes, quantizer.decode(codes).astype(weight.dtype), h, losses)
