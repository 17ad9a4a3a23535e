r"""Add a penalty that is zero on the grid and rises between: a wave with the period of the step.

*SinReQ* adds :math:`\sin^2(\pi w / \delta)` of each weight to the loss, so that weights drift to
their levels while they train, and rounding costs little at the end. *WaveQ* lets the period move
too: with :math:`K(\beta) = 2^\beta - 1` waves in [0, 1], the number of bits is a real number that
gradient descent can change,

.. math:: R(w, \beta) = \lambda_w \sum_{ij} \frac{\sin^2(\pi w_{ij} K(\beta_i))}{2^{\beta_i}}
                        + \lambda_\beta \sum_i \beta_i ,

and the final width is its ceiling. Both leave the forward pass alone: they go on top of another
way of training, or before a hard rounding.
"""

import math

import numpy as np

from refquant._types import Array
from refquant._validate import require_broadcastable, require_positive
from refquant.qat._common import Pullback, sum_to_shape

__all__ = ["chosen_bits", "on_grid", "sinreq", "waveq"]


def sinreq(weight: Array, step: Array, *, shift: float = 0.0) -> tuple[Array, Pullback]:
    r"""Penalty of each weight, :math:`\sin^2(\pi (w / \delta + \text{shift}))`.

    Parameters
    ----------
    weight : ndarray of float
    step : ndarray of float, broadcastable to `weight`, > 0
        :math:`\delta`, the distance of the levels.
    shift : float
        In steps: 0 if zero is a level (mid-tread), 1/2 if it is not (mid-rise).

    Returns
    -------
    value : ndarray, shape of `weight`
        0 on the levels, 1 halfway. The regularizer is its sum times a strength that grows.
    pullback : callable
        Gradients of `weight`, :math:`(\pi/\delta) \sin(2\pi(w/\delta + \text{shift}))` per
        element, and `step`.

    Raises
    ------
    ValueError
        If `step` is not positive or does not broadcast.

    References
    ----------
    Elthakeb et al., 2019, arXiv:1905.01416 (SinReQ); Naumov et al., 2018, arXiv:1811.09862.

    Examples
    --------
    >>> sinreq(np.array([0.0, 0.25, 0.5, -0.75]), np.array(0.5))[0].round(6)
    array([0., 1., 0., 1.])
    """
    require_positive("step", step)
    require_broadcastable("step", step, weight.shape)
    phase = np.pi * (weight / step + shift)

    def pullback(g: Array) -> tuple[Array, ...]:
        slope = g * np.sin(2 * phase) * np.pi / step
        return slope, sum_to_shape(-slope * weight / step, step.shape)

    return np.sin(phase) ** 2, pullback


def waveq(weight: Array, beta: Array, *, power: float = 1.0) -> tuple[Array, Pullback]:
    r"""Penalty of each weight, whose period is learned: :math:`\sin^2(\pi w K) / 2^{n\beta}`.

    .. math:: \frac{\partial R}{\partial w} = \frac{\pi K \sin(2\pi w K)}{2^{n\beta}}, \qquad
              \frac{\partial R}{\partial \beta} = \frac{\ln 2}{2^{n\beta}}
              \bigl(2^\beta\,\pi w \sin(2\pi w K) - n \sin^2(\pi w K)\bigr)

    Parameters
    ----------
    weight : ndarray of float
        Divided by its largest magnitude: in [-1, 1].
    beta : ndarray of float, broadcastable to `weight`, > 0
        Bits of the *magnitude*: an integer makes :math:`2^{\beta+1} - 1` levels in [-1, 1].
    power : float
        n: 0 would favour few waves and 2 many; the paper compares the three and takes 1.

    Returns
    -------
    value : ndarray, shape of `weight`
    pullback : callable
        Gradients of `weight` and `beta`. The caller adds the price of the bits,
        :math:`\lambda_\beta`, to the latter.

    Raises
    ------
    ValueError
        If `beta` is not positive or does not broadcast.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146, section 2.

    Examples
    --------
    >>> w = np.array([0.0, 1 / 3, 0.5, 1.0])
    >>> waveq(w, np.array(2.0))[0].round(3)             # K = 3: levels k/3
    array([0.  , 0.  , 0.25, 0.  ])
    """
    require_positive("beta", beta)
    require_broadcastable("beta", beta, weight.shape)
    beta = beta.astype(weight.dtype)
    waves, size = 2**beta - 1, 2 ** (power * beta)
    phase = np.pi * weight * waves
    square, double = np.sin(phase) ** 2, np.sin(2 * phase)

    def pullback(g: Array) -> tuple[Array, ...]:
        by_weight = np.pi * waves * double / size
        by_beta = math.log(2) * (2**beta * np.pi * weight * double - power * square) / size
        return g * by_weight, sum_to_shape(g * by_beta, beta.shape)

    return square / size, pullback


def chosen_bits(beta: Array, *, signed: bool = False) -> Array:
    r"""The width that a trained :math:`\beta` stands for, :math:`\lceil\beta\rceil`.

    Parameters
    ----------
    beta : ndarray of float, > 0
    signed : bool
        Count the sign too. The paper does not: its 4 bits have 31 levels, twice the steps of a
        signed code of 4 bits.

    Returns
    -------
    ndarray of int32, shape of `beta`

    Raises
    ------
    ValueError
        If `beta` is not positive.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146, section 2.

    Examples
    --------
    >>> chosen_bits(np.array([2.0, 2.3])), chosen_bits(np.array([2.3]), signed=True)
    (array([2, 3], dtype=int32), array([4], dtype=int32))
    """
    require_positive("beta", beta)
    return (np.ceil(beta) + signed).astype(np.int32)


def on_grid(weight: Array, beta: Array) -> Array:
    r"""Each weight at the nearest minimum of its wave, :math:`\mathrm{round}(w K) / K`.

    Parameters
    ----------
    weight : ndarray of float
        In [-1, 1].
    beta : ndarray, broadcastable to `weight`, > 0
        Of `waveq`, or its ceiling `chosen_bits`.

    Returns
    -------
    ndarray, shape and dtype of `weight`
        Where `waveq` is 0. On [-1, 1] only for a whole beta does the grid contain both ends.

    References
    ----------
    Elthakeb et al., 2020, arXiv:2003.00146, section 2.

    Examples
    --------
    >>> on_grid(np.array([-1.0, 0.3, 0.6]), np.array(2)).round(2)
    array([-1.  ,  0.33,  0.67])
    """
    require_positive("beta", beta)
    waves = np.asarray(2.0**beta - 1)
    return np.asarray(np.rint(weight * waves) / waves).astype(weight.dtype)
