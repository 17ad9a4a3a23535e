r"""ACIQ: clip where a Laplace or Gauss model of the data expects the least error.

No search and no histogram: estimate one scale of the distribution, multiply by
a number from a table. The model charges values beyond the bound with
saturation and values inside with the noise of :math:`2^M` even steps:

.. math:: D(\alpha) = 2 \int_\alpha^\infty (x - \alpha)^2 p(x)\,dx + g\,\alpha^2

and two readings of the noise were published:

========================  ====================================  ==============
function                  g                                     Laplace, M = 4
========================  ====================================  ==============
`granular_noise`          :math:`1 / (3 \cdot 4^M)`             5.03 b
`granular_noise_earlier`  :math:`4 (2^M - 2) / (3 \cdot 8^M)`   4.00 b
========================  ====================================  ==============

The model is optimistic: it saturates at the bound, as if a level lay there,
and still counts all cells inside. Below 4 bits that matters; `density` has the
truth for levels that exist.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import erfc, lambertw

from refquant._types import Array, Axis
from refquant._validate import as_data, require_int
from refquant.calibration._blocks import block_sums
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Moments, Range

__all__ = [
    "GAUSS",
    "LAPLACE",
    "Prior",
    "aciq",
    "aciq_bound",
    "aciq_relu",
    "granular_noise",
    "granular_noise_earlier",
    "model_mse",
    "sigma_from_range",
    "unit_bound",
]


class Prior(NamedTuple):
    r"""A symmetric density of scale 1, and how to estimate the scale of data.

    Attributes
    ----------
    tail : callable, float -> three floats
        Mass, first and second moment beyond t >= 0:
        :math:`\int_t^\infty x^k p(x)\,dx` for k = 0, 1, 2.
    minimiser : callable, float -> float
        The bound that minimises D, as a function of g.
    scale : callable, (ndarray, axis) -> ndarray
        Estimate from all values, kept axes of size 1.
    positive_scale : callable, (ndarray, axis) -> ndarray
        Estimate from what a ReLU left, before which the density was symmetric.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (ACIQ).

    Examples
    --------
    >>> LAPLACE.tail(0.0), GAUSS.tail(0.0)[0]
    ((0.5, 0.5, 1.0), 0.5)
    """

    tail: Callable[[float], tuple[float, float, float]]
    minimiser: Callable[[float], float]
    scale: Callable[[Array, Axis], Array]
    positive_scale: Callable[[Array, Axis], Array]


def aciq(x: Array, *, bits: int, prior: Prior | None = None, axis: Axis = None) -> Range:
    r"""Range around the mean with least expected error, never wider than the data.

    .. math:: [\mu - \alpha, \mu + \alpha] \cap [\min x, \max x], \qquad
              \alpha = \text{scale} \cdot \alpha_1(M)

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    bits : int
        The M of the model.
    prior : Prior or None
        `LAPLACE` (the default, None) or `GAUSS`.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    Range
        In the dtype of `x`. A constant gets min-max.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `bits` below 1.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (ACIQ).

    Examples
    --------
    >>> x = np.random.default_rng(0).laplace(1.0, 2.0, size=100_000)
    >>> low, high = aciq(x, bits=4)
    >>> low.round(1), high.round(1)         # 1 -+ 2 * 5.03
    (array([-9.]), array([11.]))
    """
    prior = prior or LAPLACE
    x = as_data("x", x, axis=axis)
    low, high = Range.of(x, axis=axis)
    mean = np.mean(x, axis=axis, keepdims=True, dtype=np.float64)
    bound = prior.scale(x, axis) * unit_bound(bits, prior)
    # Rounded to the dtype of the data a mean can leave the range of a constant.
    ends = (np.clip(end, low, high).astype(x.dtype) for end in (mean - bound, mean + bound))
    return Range(*ends)


def aciq_bound(x: Array, *, bits: int, prior: Prior | None = None, axis: Axis = None) -> Array:
    """Bound on the absolute value with least expected error, for data around zero.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one; their mean should be near zero.
    bits : int
        The M of the model.
    prior : Prior or None
        `LAPLACE` (the default, None) or `GAUSS`.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray
        In the dtype of `x`, at most ``absmax(x)``, and equal to it where the
        estimated scale is zero.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `bits` below 1.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (ACIQ).

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal(100_000)
    >>> aciq_bound(x, bits=4, prior=GAUSS).round(2)
    array([2.56])
    """
    prior = prior or LAPLACE
    x = as_data("x", x, axis=axis)
    largest = absmax(x, axis=axis)
    bound = prior.scale(x, axis) * unit_bound(bits, prior)
    return np.where(bound > 0, np.minimum(bound, largest), largest).astype(x.dtype)


def aciq_relu(y: Array, *, bits: int, prior: Prior | None = None, axis: Axis = None) -> Range:
    r"""Range from zero up with least expected error, for outputs of a ReLU.

    All :math:`2^M` steps fall on the positive half, so the bound is that of
    M + 1 bits: :math:`\alpha / b = W_0(12 \cdot 4^M)` for Laplace.

    Parameters
    ----------
    y : ndarray of float, any shape
        Finite values >= 0, at least one.
    bits : int
        The M of the model.
    prior : Prior or None
        What was there before the ReLU: `LAPLACE` (the default, None) or `GAUSS`.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    Range
        From 0 to at most the largest value, in the dtype of `y`.

    Raises
    ------
    ValueError
        If `y` is empty, not finite, or has a negative value.

    Notes
    -----
    The scale must be that before the ReLU, here from the positive values alone
    (b is their mean). The authors' code measures E\|y - Ey\| on all of y, zeros
    included, which is :math:`e^{-1/2} b`, and adds the mean, b / 2, to the bound.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (fused ReLU).

    Examples
    --------
    >>> y = np.maximum(np.random.default_rng(0).laplace(size=100_000), 0)
    >>> aciq_relu(y, bits=4).high.round(1)          # W(12 * 4**4) = 6.2048
    array([6.2])
    """
    prior = prior or LAPLACE
    require_int("bits", bits, 1, 31)
    y = as_data("y", y, axis=axis)
    largest = absmax(y, axis=axis)
    if (y < 0).any():
        raise ValueError(f"`y` must not be negative; got {y.min()}")
    bound = np.minimum(prior.positive_scale(y, axis) * unit_bound(bits + 1, prior), largest)
    return Range(np.zeros_like(largest), bound.astype(y.dtype))


def unit_bound(bits: int, prior: Prior, *, noise: Callable[[int], float] | None = None) -> float:
    r"""Best bound of a prior of scale 1: the table of the paper.

    .. math:: \frac{\alpha}{b} = W_0\!\left(\frac1g\right), \qquad
              \frac{\alpha}{\sigma}\,\mathrm{erfc}\frac{\alpha}{\sqrt2 \sigma}
              - \sqrt{\frac2\pi}\, e^{-\alpha^2 / 2 \sigma^2}
              + g\,\frac{\alpha}{\sigma} = 0

    Parameters
    ----------
    bits : int
        The M of the model, from 1 to 32.
    prior : Prior
        `LAPLACE` (first equation) or `GAUSS` (second).
    noise : callable, int -> float, or None
        `granular_noise` (the default, None) or `granular_noise_earlier`.

    Returns
    -------
    float
        In units of the scale of the prior.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (ACIQ).

    Examples
    --------
    >>> [round(unit_bound(bits, LAPLACE), 2) for bits in (2, 3, 4)]
    [2.83, 3.9, 5.03]
    >>> round(unit_bound(4, LAPLACE, noise=granular_noise_earlier), 2)
    4.0
    """
    require_int("bits", bits, 1, 32)
    return prior.minimiser((noise or granular_noise)(bits))


def granular_noise(bits: int) -> float:
    r"""Rounding noise over :math:`\alpha^2` for steps of :math:`2 \alpha / 2^M`.

    .. math:: g = \frac{\Delta^2}{12 \alpha^2} = \frac{1}{3 \cdot 4^M}

    Parameters
    ----------
    bits : int
        M, at least 1.

    Returns
    -------
    float
        The g of the model.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (quantization noise).

    Examples
    --------
    >>> 1 / granular_noise(4)
    768.0
    """
    require_int("bits", bits, 1)
    return 1 / (3 * 4.0**bits)


def granular_noise_earlier(bits: int) -> float:
    r"""Rounding noise over :math:`\alpha^2` behind the earlier table.

    .. math:: g = \frac{4\,(2^M - 2)}{3 \cdot 2^{3M}}

    Four times as much at many bits, hence tighter bounds.

    Parameters
    ----------
    bits : int
        M, at least 2.

    Returns
    -------
    float
        The g of the model.

    References
    ----------
    Zhao et al., 2019, arXiv:1901.09504, whose code (dnn-quant-ocs) still carries
    that table; the formula is reconstructed from it.

    Examples
    --------
    >>> round(1 / granular_noise_earlier(4), 2)
    219.43
    """
    require_int("bits", bits, 2)
    return 4 * (2.0**bits - 2) / (3 * 8.0**bits)


def model_mse(
    bound: float, bits: int, prior: Prior, *, noise: Callable[[int], float] | None = None
) -> float:
    """Mean squared error that the model expects, for a prior of scale 1.

    Parameters
    ----------
    bound : float
        The alpha of the equation for D, >= 0, in units of the scale.
    bits : int
        The M of the model.
    prior : Prior
        `LAPLACE` or `GAUSS`.
    noise : callable, int -> float, or None
        `granular_noise` (the default, None) or `granular_noise_earlier`.

    Returns
    -------
    float
        In squared units of the scale. With few bits it lies below what any
        quantizer with as many levels can reach.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723 (ACIQ).

    Examples
    --------
    >>> round(model_mse(1.710635, 2, GAUSS), 6)        # Lloyd-Max: 0.117482
    0.087148
    """
    mass, first, second = prior.tail(bound)
    clipping = 2 * (second - 2 * bound * first + bound**2 * mass)
    return clipping + (noise or granular_noise)(bits) * bound**2


def sigma_from_range(x: Array, axis: Axis = None) -> Array:
    r"""Standard deviation of Gauss data from its extremes alone.

    .. math:: \hat\sigma = (\max x - \min x)\,
              \frac{0.175\,(1 + \sqrt{\pi \ln 4})}{\sqrt{2 \ln n}}

    Too low by 5 % for a thousand values and by 1 % for a million. Use it as
    ``GAUSS._replace(scale=sigma_from_range)``.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    axis : int, tuple of int or None
        The axes reduced over; they stay with size 1.

    Returns
    -------
    ndarray of float64
        Zero for a single value.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Banner et al., 2019, arXiv:1810.05723, authors' code.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal(10_000)
    >>> sigma_from_range(x).round(2)
    array([0.93])
    """
    low, high = Range.of(x, axis=axis)
    n = max(np.size(x) // low.size, 2)
    constant = 0.175 * (1 + np.sqrt(np.pi * np.log(4)))
    return (high.astype(np.float64) - low) * (constant / np.sqrt(2 * np.log(n)))


def _laplace_tail(t: float) -> tuple[float, float, float]:
    mass = np.exp(-t) / 2
    return float(mass), float((t + 1) * mass), float((t * t + 2 * t + 2) * mass)


def _gauss_tail(t: float) -> tuple[float, float, float]:
    mass, density = erfc(t / np.sqrt(2)) / 2, np.exp(-t * t / 2) / np.sqrt(2 * np.pi)
    return float(mass), float(density), float(t * density + mass)


def _gauss_minimiser(noise: float) -> float:
    def slope(bound: float) -> float:
        mass, first, _ = _gauss_tail(bound)
        return noise * bound - 2 * (first - bound * mass)

    # -2 first at 0, positive far out: one root between, as D is convex.
    return float(brentq(slope, 0.0, 40.0, xtol=1e-14, rtol=1e-14))


def _mean_absolute_deviation(x: Array, axis: Axis) -> Array:
    mean = np.asarray(np.mean(x, axis=axis, keepdims=True, dtype=np.float64))
    return block_sums(x, np.abs, axis=axis, origin=mean) / (x.size // mean.size)


def _positive_mean(y: Array, axis: Axis, power: int = 1) -> Array:
    """Mean of ``y**power`` over the positive values, 0 if there are none."""
    total = block_sums(y, lambda piece: piece**power, axis=axis)
    return total / np.maximum(block_sums(y, lambda piece: piece > 0, axis=axis), 1)


#: Double exponential of scale b = E|x - mean|; variance 2 b**2.
LAPLACE = Prior(
    tail=_laplace_tail,
    minimiser=lambda noise: float(lambertw(1 / noise).real),
    scale=_mean_absolute_deviation,
    positive_scale=_positive_mean,
)

#: Normal density of standard deviation sigma.
GAUSS = Prior(
    tail=_gauss_tail,
    minimiser=_gauss_minimiser,
    scale=lambda x, axis: Moments.of(x, axis=axis).std(),
    positive_scale=lambda y, axis: np.sqrt(_positive_mean(y, axis, power=2)),
)
