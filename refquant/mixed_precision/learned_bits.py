r"""Learned bit-widths: let gradient descent move the number of bits, under a price for each.

WaveQ gives every layer a real number of bits :math:`\beta_i` and adds to the loss a wave with
:math:`2^{\beta_i} - 1` periods, which is zero for weights on the grid, and a price:

.. math:: R = \sum_i \Bigl( \lambda_i \, \overline{\mathrm{wave}(w_i, \beta_i)}
              + \mu_i \beta_i \Bigr), \qquad
          \mathrm{wave} = \frac{\sin^2(\pi w (2^\beta - 1))}{2^\beta} .

The wave alone would have :math:`\beta` rise, the price has it fall. Where weights lie anywhere
between levels the mean of the squared sine is one half, and the two are in balance at

.. math:: 2^{\beta_i} = \frac{\ln 2}{2} \frac{\lambda_i}{\mu_i}

(`resting_bits`), whatever the layer: *the strengths and prices are the allocation*. A strength in
proportion to the curvature of a layer makes it one that knows of the loss. On the way down there
are ripples: over n weights the slope in :math:`\beta` fluctuates by about :math:`1/\sqrt n`, and
where that is more than the price, from about :math:`\tfrac12 \log_2 n` bits up, descent can stop
anywhere.

The wave is passed in as a function, such as `refquant.qat.periodic.waveq`; the overline is a mean,
so that layers of any size compare.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_nonempty,
    require_positive,
)
from refquant.mixed_precision._progress import silent

__all__ = ["Learned", "Penalty", "Wave", "clipped", "learn_bits", "resting_bits", "wave_penalty"]

#: Weights in [-1, 1] and beta -> (wave of each, pullback to weights and beta).
Wave: TypeAlias = Callable[[Array, Array], tuple[Array, Callable[[Array], tuple[Array, ...]]]]

#: Parameters by name, and the step -> (value, gradients by name).
Penalty: TypeAlias = Callable[[Mapping[str, Array], int], tuple[float, dict[str, Array]]]


class Learned(NamedTuple):
    """Widths that descent ended with.

    Attributes
    ----------
    beta : ndarray of float64, shape (layers,)
        Real bits, of the magnitude.
    bits : ndarray of int32, shape (layers,)
        Their ceiling.
    path : ndarray of float64, shape (steps + 1, layers)
        Beta before each step, and at the end.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146.
    """

    beta: Array
    bits: Codes
    path: Array


def resting_bits(strength: npt.ArrayLike, price: npt.ArrayLike) -> Array:
    r"""Where wave and price are in balance, if weights lie anywhere between levels.

    .. math:: \beta = \log_2 \Bigl( \frac{\ln 2}{2} \frac{\lambda}{\mu} \Bigr)

    Parameters
    ----------
    strength, price : array of float, above 0
        :math:`\lambda` and :math:`\mu` of each layer.

    Returns
    -------
    ndarray of float64

    Raises
    ------
    ValueError
        If one is not positive.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146, the regularizer with its mean over a period.

    Examples
    --------
    >>> resting_bits([1.0, 4.0], 0.01).round(2)         # four times the strength: two bits
    array([5.12, 7.12])
    """
    strength, price = np.asarray(strength, np.float64), np.asarray(price, np.float64)
    require_positive("strength", strength)
    require_positive("price", price)
    return np.asarray(np.log2(math.log(2) / 2 * strength / price))


def learn_bits(
    weights: Sequence[Array],
    wave: Wave,
    *,
    strength: npt.ArrayLike,
    price: npt.ArrayLike,
    steps: int = 200,
    rate: float = 0.1,
    low: float = 2.0,
    high: float = 8.0,
    progress: Callable[[int, int], None] = silent,
) -> Learned:
    r"""Bits of each layer by descent on wave and price, its weights as they are.

    Parameters
    ----------
    weights : sequence of ndarray of float
        One for each layer, not all zero.
    wave : callable, (weights, beta) -> (value, pullback)
        For example `refquant.qat.periodic.waveq`.
    strength, price : array of float, above 0
        :math:`\lambda` and :math:`\mu`: one number, or one for each layer.
    steps : int
    rate : float
        A step moves a :math:`\beta` by ``rate`` times its gradient over the price: layers whose
        prices differ move alike.
    low, high : float
        Between which :math:`\beta` stays; it starts at `high`.
    progress : callable, (done, total)

    Returns
    -------
    Learned

    Raises
    ------
    ValueError
        If there is no layer, a weight is all zero or not finite, a number is out of range, or there
        is not one strength and one price for each layer.

    Notes
    -----
    Deterministic: nothing is drawn. The paper moves weights and bits together, on top of
    quantized training: `wave_penalty`.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146.

    Examples
    --------
    >>> def flat(w, beta):              # the wave, its squared sine at its mean everywhere
    ...     value = 0.5 / 2.0 ** (beta + 0 * w)
    ...     return value, lambda g: (0 * w, np.sum(-np.log(2) * value * g))
    >>> learn_bits([np.ones(3)], flat, strength=1.0, price=0.02, steps=500).beta.round(2)
    array([4.12])
    """
    if not weights:
        raise ValueError("`weights` must hold at least one layer; got none")
    layers = len(weights)
    lam, mu = _per_layer("strength", strength, layers), _per_layer("price", price, layers)
    units = [_unit(weight).ravel() for weight in weights]
    require_int("steps", steps, 0)
    if not 0 < low <= high:
        raise ValueError(f"`low` and `high` must be positive and in order; got {low}, {high}")
    beta = np.full(layers, float(high))
    path = [beta]
    for step in range(steps):
        slope = np.empty(layers)
        for i, unit in enumerate(units):
            slope[i] = lam[i] * _mean_wave(wave, unit, beta[i : i + 1])[2] + mu[i]
        beta = np.clip(beta - rate * slope / mu, low, high)
        path.append(beta)
        progress(step + 1, steps)
    return Learned(beta, np.ceil(beta).astype(np.int32), np.array(path))


def wave_penalty(
    names: Sequence[str],
    wave: Wave,
    *,
    strength: Callable[[int], npt.ArrayLike],
    price: Callable[[int], npt.ArrayLike],
) -> Penalty:
    r"""What a training loop adds to the loss so that weights and bits move together.

    Parameters
    ----------
    names : sequence of str
        Weights. The :math:`\beta` of a weight is the parameter ``name + ".beta"``, shape (1,).
    wave : callable, (weights, beta) -> (value, pullback)
    strength, price : callable, step -> number or one for each name
        :math:`\lambda` and :math:`\mu`. The paper has three phases: both small; both grow, and
        :math:`\beta` is learned; the price and the movement of :math:`\beta` end, and the strength
        is large, so that weights snap to their levels.

    Returns
    -------
    callable, (parameters, step) -> (value, gradients)
        Gradients of weights and :math:`\beta`, each in the dtype of its parameter. The largest
        magnitude, by which a weight is divided, counts as a constant.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146.

    Examples
    --------
    >>> def slope_one(w, beta):
    ...     return w + beta, lambda g: (g, np.sum(g, keepdims=True))
    >>> add = wave_penalty(["w"], slope_one, strength=lambda step: 1.0, price=lambda step: 0.5)
    >>> value, gradients = add({"w": np.array([2.0, -1.0]), "w.beta": np.array([3.0])}, 0)
    >>> value, gradients["w.beta"]
    (4.75, array([1.5]))
    """

    def penalty(parameters: Mapping[str, Array], step: int) -> tuple[float, dict[str, Array]]:
        lam = np.broadcast_to(np.asarray(strength(step), np.float64), len(names))
        mu = np.broadcast_to(np.asarray(price(step), np.float64), len(names))
        value, gradients = 0.0, {}
        for i, name in enumerate(names):
            weight, beta = parameters[name], parameters[f"{name}.beta"]
            unit = _unit(weight)
            mean, by_unit, by_beta = _mean_wave(wave, unit.ravel(), beta)
            value += float(lam[i] * mean + mu[i] * float(beta[0]))
            by_weight = lam[i] * by_unit.reshape(weight.shape) / np.abs(weight).max()
            gradients[name] = by_weight.astype(weight.dtype)
            gradients[f"{name}.beta"] = np.array([lam[i] * by_beta + mu[i]], beta.dtype)
        return value, gradients

    return penalty


def clipped(
    parameters: Mapping[str, Array], *, low: float = 2.0, high: float = 8.0
) -> dict[str, Array]:
    r"""The parameters with each :math:`\beta` in its range: what a loop does after a step.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Those whose names end in ``.beta`` are clipped.
    low, high : float

    Returns
    -------
    dict of str to ndarray

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146.

    Examples
    --------
    >>> clipped({"w": np.array([9.0]), "w.beta": np.array([9.0])})
    {'w': array([9.]), 'w.beta': array([8.])}
    """
    return {name: np.clip(value, low, high) if name.endswith(".beta") else value
            for name, value in parameters.items()}


def _mean_wave(wave: Wave, unit: Array, beta: Array) -> tuple[float, Array, float]:
    """Mean of the wave over a layer, and its slopes in the weights and in beta."""
    value, pullback = wave(unit, beta)
    by_unit, by_beta = pullback(np.full(value.shape, 1 / value.size, value.dtype))
    return float(value.mean(dtype=np.float64)), by_unit, float(np.sum(by_beta))


def _unit(weight: Array) -> Array:
    """The weight over its largest magnitude."""
    as_reals("weights", weight)
    require_nonempty("weights", weight)
    largest = np.abs(weight).max()
    require_finite("weights", largest)
    if not largest > 0:
        raise ValueError("`weights` must not be all zero; got a layer that is")
    return np.asarray(weight / largest)


def _per_layer(name: str, x: npt.ArrayLike, layers: int) -> Array:
    array = np.asarray(x, np.float64)
    require_positive(name, array)
    if array.shape not in ((), (layers,)):
        raise ValueError(f"`{name}` must be one number, or one for each of {layers} layers; "
                         f"got shape {array.shape}")
    return np.broadcast_to(array, layers)
