r"""AdaQuant: move weights, bias and step so that the quantized layer's output fits.

Where AdaRound only chooses between the two neighbours of a weight, here the weight itself
moves, by as many steps as it likes, and with it the bias and the scale:

.. math:: \min_{V,\,b,\,s} \; \mathbb{E}\,\bigl\lVert a\bigl(x\, Q_s(W + V)^T + b\bigr)
          - t \bigr\rVert^2 .

The gradient passes straight through the rounding. More freedom needs more data: with a few
images AdaRound is better, with many it is a draw.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_not_negative
from refquant.ptq._descent import Adam, require_grid, require_layer
from refquant.ptq.adaround import Activation, identity
from refquant.quantizers.uniform import Uniform

__all__ = ["Adapted", "adaquant"]


def _half_cosine(done: float) -> float:
    """From 1 to 0: rounded weights do not settle, they swing over a threshold."""
    return 0.5 * (1 + math.cos(math.pi * done))


class Adapted(NamedTuple):
    """A layer after `adaquant`.

    Attributes
    ----------
    codes : ndarray of int32, shape (out, in)
    quantizer : Uniform
        With the scale that was learned.
    bias : ndarray of float64, shape (out,)
    weight : ndarray, shape and dtype of the weight
        The decoded codes.
    losses : ndarray of float64, shape (steps,)
        Mean squared output error of each step's batch, with rounded weights.

    References
    ----------
    Hubara et al., 2021, arXiv:2006.10518, section 3.1.
    """

    codes: Codes
    quantizer: Uniform
    bias: Array
    weight: Array
    losses: Array


def adaquant(
    weight: Array,
    x: Array,
    target: Array,
    quantizer: Uniform,
    *,
    rng: np.random.Generator,
    bias: Array | None = None,
    activation: Activation = identity,
    steps: int = 1000,
    rate: float = 1e-3,
    scale_rate: float = 1e-3,
    bias_rate: float = 1e-3,
    schedule: Callable[[float], float] = _half_cosine,
    batch: int = 50,
) -> Adapted:
    r"""Codes, scale and bias whose layer comes closest to the outputs it should have.

    The gradients are those of the straight-through estimator; that of the scale is

    .. math:: \frac{\partial \hat w}{\partial s} =
              \begin{cases} \lfloor w / s \rceil - w / s & \text{inside the range} \\
              q_{min} - z \ \text{or}\ q_{max} - z & \text{beyond it.} \end{cases}

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    x : ndarray of float, shape (n, ..., in)
        Inputs of the layer, as the quantized layers before it make them.
    target : ndarray of float, shape (n, ..., out)
        What the float network has there, after the activation function.
    quantizer : Uniform
        Where the grid starts. Its scale has the rank of the weight, or is one number.
    rng : numpy.random.Generator
        One draw of ``integers(0, n, min(batch, n))`` per step.
    bias : ndarray of float, shape (out,), optional
        Where the bias starts; zeros if not given.
    activation : callable, ndarray -> (value, pullback)
        What follows the layer.
    steps : int
        Of Adam; 0 leaves nearest rounding.
    rate, scale_rate, bias_rate : float
        Of the weights, relative to the mean scale; of the scale, relative to itself; of the
        bias.
    schedule : callable, float -> float
        Share of the steps that are done, in [0, 1), to a factor of all rates; if not given,
        half a cosine from 1 to 0.
    batch : int
        Samples of the first axis per step.

    Returns
    -------
    Adapted

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or a rate, `steps` or `batch` is out of
        range.

    Notes
    -----
    The scale is kept positive by learning its logarithm. The authors' code learns the ends of
    the range, and those of the activations too; those are the business of calibration here. It
    also keeps the rates constant (``schedule=lambda done: 1.0``), so that the weights still swing
    when it stops: at two bits and with eight images that alone costs 0.17 of accuracy
    (``tests/ptq/test_adaround.py``).

    References
    ----------
    Hubara et al., 2021, arXiv:2006.10518, eq. (2); Esser et al., 2020, arXiv:1902.08153,
    eq. (3) (the gradient of the scale).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> w, x = np.array([[0.45, 0.4, 0.3]]), np.ones((50, 3))
    >>> grid = Uniform(np.array([[1.0]]), np.array([[0]]), -1, 1)
    >>> r = adaquant(w, x, x @ w.T, grid, rng=rng, rate=0.01, steps=300)
    >>> bool(r.losses[-1] < 0.1 * r.losses[0])
    True
    """
    weight, x, target = require_layer(weight, x, target, bias, steps, batch)
    require_grid(quantizer, weight, rng)
    if np.ndim(quantizer.scale) not in (0, weight.ndim):
        raise ValueError("`quantizer` must have a scale of the weight's rank; "
                         f"got shape {np.shape(quantizer.scale)}")
    for name, number in (("rate", rate), ("scale_rate", scale_rate), ("bias_rate", bias_rate)):
        require_not_negative(name, number)
    zero = np.asarray(quantizer.zero_point)
    low, high = quantizer.qmin - zero, quantizer.qmax - zero
    w = weight.astype(np.float64)
    # The logarithm of a factor, and not of the scale, whose exponential would be off by a bit:
    # the largest weight of a grid from min-max would lie inside the range or beyond it by chance.
    start = np.asarray(quantizer.scale, np.float64)
    log_factor = np.zeros(start.shape)
    b = np.zeros(len(w)) if bias is None else np.asarray(bias, np.float64).copy()
    movers = (Adam(w.shape, rate * float(start.mean())),
              Adam(start.shape, scale_rate), Adam(b.shape, bias_rate))
    losses = np.empty(steps)
    for step in range(steps):
        chosen = rng.integers(0, len(x), min(batch, len(x)))
        rows = x[chosen].reshape(-1, x.shape[-1])
        wanted = target[chosen].reshape(-1, len(weight))
        scale = start * np.exp(log_factor)
        ratio = w / scale
        levels = np.clip(np.rint(ratio), low, high)
        value, pullback = activation(rows @ (scale * levels).astype(x.dtype).T + b)
        error = value - wanted
        losses[step] = np.square(error, dtype=np.float64).mean()
        (g,) = pullback(2 * error / len(rows))
        d_weight = (g.T @ rows).astype(np.float64)
        inside = (ratio >= low) & (ratio <= high)
        d_scale = d_weight * (levels - np.where(inside, ratio, 0))
        axes = tuple(a for a in range(w.ndim) if start.ndim == w.ndim
                     and start.shape[a] == 1)
        d_scale = d_scale.sum(axes if start.ndim == w.ndim else None, keepdims=True)
        factor = schedule(step / steps)
        w = w - factor * movers[0].step(d_weight * inside)
        log_factor = log_factor - factor * movers[1].step((d_scale * scale).reshape(start.shape))
        b = b - factor * movers[2].step(g.sum(0))
    learned = Uniform(start * np.exp(log_factor), zero, quantizer.qmin, quantizer.qmax)
    codes = learned.encode(w)
    return Adapted(codes, learned, b, learned.decode(codes).astype(weight.dtype), losses)
