r"""A diffusion model without a network: the exact noise in points of a Gaussian mixture.

If the data are a mixture of K isotropic Gaussians, so is what is left of them after t steps of
noise, :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon`:

.. math:: p_t(x) = \sum_k \pi_k\, \mathcal N\big(x;\ \sqrt{\bar\alpha_t}\,\mu_k,\ v_t\big), \qquad
          v_t = \bar\alpha_t \sigma^2 + 1 - \bar\alpha_t .

So the best guess of the noise, :math:`\mathbb E[\epsilon \mid x_t]`, which a denoiser is trained
for, is a formula here. A sampler that uses it has the errors of its arithmetic and of its steps,
and no others: nothing was trained.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp, softmax

from refquant._types import Array
from refquant._validate import as_data, require_int, require_positive, require_same_shape
from refquant.nn.denoiser import Watch, ddim, noise_left
from refquant.nn.network import Tap, untouched

__all__ = ["Mixture", "exact_noise", "flow", "log_density", "membership", "ring"]


class Mixture(NamedTuple):
    """Points that scatter around centres.

    Attributes
    ----------
    means : ndarray of float64, shape (k, d)
        The centres.
    std : float
        Standard deviation around each, in every direction.
    shares : ndarray of float64, shape (k,)
        Of the points; they sum to 1.

    References
    ----------
    Bishop, 2006, Pattern Recognition and Machine Learning, section 2.3.9.
    """

    means: Array
    std: float
    shares: Array


def ring(count: int = 8, *, radius: float = 1.0, std: float = 0.1) -> Mixture:
    """Equal Gaussians evenly spread on a circle.

    Parameters
    ----------
    count : int
    radius, std : float
        Of the circle and of each Gaussian.

    Returns
    -------
    Mixture
        In two dimensions.

    References
    ----------
    Metz et al., 2017, arXiv:1611.02163, section 3.1: a ring of eight, to see lost modes.

    Examples
    --------
    >>> ring(4).means.round(9)
    array([[ 1.,  0.],
           [ 0.,  1.],
           [-1.,  0.],
           [-0., -1.]])
    """
    require_int("count", count, 1)
    require_positive("radius", np.asarray(radius))
    require_positive("std", np.asarray(std))
    angles = 2 * np.pi * np.arange(count) / count
    means = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return Mixture(means, std, np.full(count, 1 / count))


def log_density(mixture: Mixture, x: Array, t: int) -> Array:
    r"""Logarithm of the density of the points after t steps of noise.

    .. math:: \log p_t(x) = \log \sum_k \pi_k\, (2 \pi v_t)^{-d/2}
              \exp\Big(-\frac{\lVert x - \sqrt{\bar\alpha_t}\,\mu_k \rVert^2}{2 v_t}\Big)

    Parameters
    ----------
    mixture : Mixture
    x : ndarray of float, shape (n, d)
    t : int
        From 0 to 999.

    Returns
    -------
    ndarray of float64, shape (n,)

    References
    ----------
    Bishop, 2006, Pattern Recognition and Machine Learning, section 2.3.9.

    Examples
    --------
    >>> one = Mixture(np.zeros((1, 2)), 1.0, np.ones(1))       # stays a unit Gaussian at all times
    >>> (log_density(one, np.zeros((1, 2)), 500) + np.log(2 * np.pi)).round(9)
    array([0.])
    """
    terms, variance = _terms(mixture, x, t)
    dimensions = mixture.means.shape[1]
    return np.asarray(logsumexp(terms, axis=1) - 0.5 * dimensions * np.log(2 * np.pi * variance))


def membership(mixture: Mixture, x: Array, t: int) -> Array:
    r"""Probability that a noisy point came from each centre, by Bayes' rule.

    .. math:: r_k(x) \propto \pi_k
              \exp\Big(-\frac{\lVert x - \sqrt{\bar\alpha_t}\,\mu_k \rVert^2}{2 v_t}\Big)

    Parameters
    ----------
    mixture : Mixture
    x : ndarray of float, shape (n, d)
    t : int
        From 0 to 999.

    Returns
    -------
    ndarray of float64, shape (n, k)
        Rows sum to 1.

    References
    ----------
    Bishop, 2006, Pattern Recognition and Machine Learning, eq. (2.192).

    Examples
    --------
    >>> membership(ring(2), np.array([[0.5, 3.0], [0.0, 3.0]]), 0).round(3)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    return np.asarray(softmax(_terms(mixture, x, t)[0], axis=1))


def exact_noise(mixture: Mixture, x: Array, t: int) -> Array:
    r"""Mean of the noise in a point, given the point.

    .. math:: \mathbb E[\epsilon \mid x_t = x] = \sqrt{1 - \bar\alpha_t}\;
              \frac{x - \sqrt{\bar\alpha_t} \sum_k r_k(x)\, \mu_k}{v_t}
              = -\sqrt{1 - \bar\alpha_t}\; \nabla \log p_t(x)

    Parameters
    ----------
    mixture : Mixture
    x : ndarray of float, shape (n, d)
        Finite.
    t : int
        From 0 to 999.

    Returns
    -------
    ndarray of float64, shape (n, d)

    Raises
    ------
    ValueError
        If `x` has not the dimensions of the mixture or is not finite, or `t` is out of range.

    References
    ----------
    Efron, 2011, JASA 106, pp. 1602-1614 (Tweedie's formula); Song et al., 2021, arXiv:2011.13456,
    for the score of a diffusion.

    Examples
    --------
    >>> exact_noise(ring(8), np.array([[1.0, 3.0]]), 999).round(3)          # nearly all is noise
    array([[1., 3.]])
    """
    left, (terms, variance) = float(noise_left(t)), _terms(mixture, x, t)
    centre = softmax(terms, axis=1) @ mixture.means
    return np.asarray((1 - left) ** 0.5 / variance * (x - left**0.5 * centre))


def flow(
    mixture: Mixture, noise: Array, *, count: int = 50, tap: Tap = untouched,
    watch: Watch = lambda t, x: None,
) -> Array:
    r"""Points drawn from noise by the exact score: no network, no chance.

    `ddim` with `exact_noise`, and no clip. As steps become many it is the probability flow

    .. math:: \frac{d \bar x}{d \lambda} = \epsilon(x), \qquad
              \bar x = \frac{x}{\sqrt{\bar\alpha}}, \quad
              \lambda = \sqrt{\frac{1 - \bar\alpha}{\bar\alpha}}

    and a step of the sampler is a step of Euler's method for it.

    Parameters
    ----------
    mixture : Mixture
    noise : ndarray of float, shape (n, d)
        Standard normal.
    count : int
        Steps, at most 1000.
    tap : callable, (name, value) -> value
        Sees ``state``, what is kept between steps; ``x``, the same as the score reads it; and
        ``noise``, its answer.
    watch : callable, (t, x_t) -> None
        Hears of the step before each.

    Returns
    -------
    ndarray of float64, shape (n, d)

    Raises
    ------
    ValueError
        If `noise` has not the dimensions of the mixture or is not finite.

    References
    ----------
    Song et al., 2021, arXiv:2010.02502, eqs. (13) and (14); Song et al., 2021, arXiv:2011.13456,
    section 4.3.

    Examples
    --------
    >>> drawn = flow(ring(4), np.array([[0.3, 2.0], [-1.0, 0.1]]))
    >>> drawn.round(1)
    array([[ 0. ,  1.1],
           [-1. ,  0. ]])
    """
    def predict(x: Array, t: int) -> Array:
        return tap("noise", exact_noise(mixture, tap("x", x), t))

    return ddim(predict, as_data("noise", noise), count=count, watch=watch,
                store=lambda x: tap("state", x))


def _terms(mixture: Mixture, x: Array, t: int) -> tuple[Array, float]:
    """Log-densities of the components but for a common constant, and the variance of each."""
    x = as_data("x", x)
    require_int("t", t, 0)
    require_same_shape("x", x, (len(x), mixture.means.shape[1]))
    left = float(noise_left(t))
    variance = left * mixture.std**2 + 1 - left
    centres = left**0.5 * mixture.means
    distances = np.square(x[:, None] - centres).sum(2)
    return np.log(mixture.shares) - distances / (2 * variance), variance
