r"""Relax a choice: draw a level at random, and soften the draw until it has a derivative.

A quantizer picks one level, and a pick has no slope. The Gumbel-max trick writes a random pick as
an argmax, ``argmax(logits + noise)``; a softmax in its place is smooth, and comes back to the
argmax as the temperature falls. *Relaxed quantization* applies it to rounding: blur x with
logistic noise of width sigma, and the probability that it then rounds to level :math:`g_i` is

.. math:: p_i \propto F\Bigl(\frac{g_i + \alpha/2 - x}{\sigma}\Bigr)
                    - F\Bigl(\frac{g_i - \alpha/2 - x}{\sigma}\Bigr),
          \qquad F(u) = \frac{1}{1 + e^{-u}}.

With A and B for the two arguments, ``F(A) - F(B) = F(A) F(-B) (1 - exp(B - A))``, and the last
factor is the same for every level. So :math:`\log p_i = \log F(A) + \log F(-B)` up to what the
softmax removes: no difference of nearly equal numbers, no normaliser to differentiate.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_int,
    require_no_nan,
    require_nonempty,
    require_positive,
    require_same_shape,
)
from refquant.qat._common import Pullback, as_positive, sum_to_shape

__all__ = ["cooled", "gumbel", "gumbel_argmax", "gumbel_softmax", "level_logits",
           "relaxed_quantize"]


def gumbel(shape: tuple[int, ...], *, rng: np.random.Generator) -> Array:
    r"""Noise whose argmax with logits draws from their softmax, :math:`-\ln(-\ln U)`.

    Parameters
    ----------
    shape : tuple of int
    rng : numpy.random.Generator
        One uniform draw per element, in C order.

    Returns
    -------
    ndarray of float64
        Finite also where the draw is 0.

    References
    ----------
    Maddison et al., 2017, arXiv:1611.00712; Jang et al., 2017, arXiv:1611.01144, eq. (1).

    Examples
    --------
    >>> logits = np.log([0.7, 0.2, 0.1])
    >>> draws = gumbel((100_000, 3), rng=np.random.default_rng(0))
    >>> (np.bincount((logits + draws).argmax(1)) / 1e5).round(2)
    array([0.7, 0.2, 0.1])
    """
    tiny = np.finfo(np.float64).tiny
    return np.asarray(-np.log(-np.log(np.maximum(rng.random(shape), tiny))))


def gumbel_softmax(logits: Array, temperature: Array, *, noise: Array) -> tuple[Array, Pullback]:
    r"""A point of the simplex near the corner that the noise picks; the last axis is the choice.

    .. math:: y = \mathrm{softmax}\Bigl(\frac{\ell + G}{\tau}\Bigr), \qquad
              \bar\ell_k = \frac{y_k}{\tau}\Bigl(\bar y_k - \sum_j y_j \bar y_j\Bigr), \qquad
              \bar\tau = -\sum_k \frac{\ell_k + G_k}{\tau}\,\bar\ell_k ,

    where a bar marks the gradient of the loss by a quantity.

    Parameters
    ----------
    logits : ndarray of float, shape (..., choices)
        Logarithms of probabilities, up to a constant; minus infinity for never.
    temperature : ndarray of float, broadcastable to ``(..., 1)``, > 0
    noise : ndarray of float, shape of `logits`
        From `gumbel`; zeros for none, and then y is the softmax.

    Returns
    -------
    value : ndarray, shape of `logits`
        Never negative, sums to 1.
    pullback : callable
        Gradients of `logits` and `temperature`.

    Raises
    ------
    ValueError
        If a temperature is not positive.

    References
    ----------
    Jang et al., 2017, arXiv:1611.01144, eq. (2); Maddison et al., 2017, arXiv:1611.00712
    (the Concrete distribution).

    Examples
    --------
    >>> logits, none = np.log([0.5, 0.3, 0.2]), np.zeros(3)
    >>> [gumbel_softmax(logits, np.array(t), noise=none)[0].round(2).tolist() for t in (1., .1)]
    [[0.5, 0.3, 0.2], [0.99, 0.01, 0.0]]
    """
    logits, noise = as_reals("logits", logits), as_reals("noise", noise)
    require_same_shape("noise", noise, logits.shape)
    require_nonempty("logits", np.atleast_1d(logits))
    temperature = as_positive("temperature", temperature, logits)
    noisy = (logits + noise).astype(logits.dtype)
    z = noisy / temperature
    y = np.exp(z - z.max(-1, keepdims=True))
    y /= y.sum(-1, keepdims=True)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_z = y * (g - (y * g).sum(-1, keepdims=True))
        # A choice with logit minus infinity has no share, and no part in the second sum.
        g_tau = -g_z * np.where(y > 0, z, 0) / temperature
        return (g_z / temperature).astype(y.dtype), sum_to_shape(g_tau, temperature.shape)

    return y, pullback


def gumbel_argmax(logits: Array, temperature: Array, *, noise: Array) -> tuple[Array, Pullback]:
    """The corner itself, with the gradient of the soft point: a straight-through choice.

    Parameters
    ----------
    logits : ndarray of float, shape (..., choices)
    temperature : ndarray of float, broadcastable to ``(..., 1)``, > 0
        Of the gradient alone: the value does not depend on it.
    noise : ndarray of float, shape of `logits`

    Returns
    -------
    value : ndarray, shape of `logits`
        One 1 on the last axis, the rest 0; the first of equals.
    pullback : callable
        That of `gumbel_softmax`.

    References
    ----------
    Jang et al., 2017, arXiv:1611.01144 (the straight-through Gumbel estimator).

    Examples
    --------
    >>> one, pullback = gumbel_argmax(np.zeros(3), np.array(1.0), noise=np.array([0., 2., 1.]))
    >>> one, pullback(np.array([1.0, 0.0, 0.0]))[0].round(2)
    (array([0., 1., 0.]), array([ 0.08, -0.06, -0.02]))
    """
    soft, pullback = gumbel_softmax(logits, temperature, noise=noise)
    require_no_nan("logits", soft)      # the largest of them is not to be had
    best = (logits + noise).argmax(-1)[..., None]
    return (np.arange(soft.shape[-1]) == best).astype(soft.dtype), pullback


def level_logits(
    x: Array, spacing: Array, sigma: Array, *, codes: Array, reach: float = np.inf
) -> tuple[Array, Pullback]:
    r"""Logarithm of the probability of each level under logistic noise, up to a constant.

    .. math:: \ell_i = \log F(A_i) + \log F(-B_i), \qquad
              A_i, B_i = \frac{\alpha (k_i \pm \frac12) - x}{\sigma}

    and so :math:`\partial\ell_i / \partial A_i = F(-A_i)` and
    :math:`\partial\ell_i / \partial B_i = -F(B_i)`.

    Parameters
    ----------
    x : ndarray of float
    spacing, sigma : ndarray of float, broadcastable to `x`, > 0
        Distance of the levels and width of the noise, in units of x.
    codes : ndarray of int, shape (levels,)
        k: level i is ``spacing * codes[i]``.
    reach : float
        Levels further than ``reach * sigma`` from x are left out (the nearest never is). The
        paper draws from such a local grid, with 3, for speed; here it only bounds the noise.

    Returns
    -------
    value : ndarray, shape of `x` and one axis of levels behind
    pullback : callable
        Gradients of `x`, `spacing` and `sigma`.

    Raises
    ------
    ValueError
        If `spacing` or `sigma` is not positive or does not broadcast.

    References
    ----------
    Louizos et al., 2019, arXiv:1810.01875, section 2 (also for the local grid).

    Examples
    --------
    >>> logits, _ = level_logits(np.array([0.4]), np.ones(1), np.ones(1) / 8, codes=np.arange(3))
    >>> (np.exp(logits) / np.exp(logits).sum()).round(3)
    array([[0.69, 0.31, 0.  ]])
    """
    x = as_reals("x", x)
    require_no_nan("x", x)
    spacing, sigma = as_positive("spacing", spacing, x), as_positive("sigma", sigma, x)
    k = codes.astype(x.dtype)
    alpha, width = (np.broadcast_to(p, x.shape)[..., None] for p in (spacing, sigma))
    a = (alpha * (k + 0.5) - x[..., None]) / width
    b = (alpha * (k - 0.5) - x[..., None]) / width
    logits = -np.logaddexp(0, -a) - np.logaddexp(0, b)
    away = np.abs(alpha * k - x[..., None])
    near = away <= np.maximum(reach * width, away.min(-1, keepdims=True))
    value = np.where(near, logits, -np.inf).astype(x.dtype)

    def pullback(g: Array) -> tuple[Array, ...]:
        g = np.where(near, g, 0) / width
        g_a, g_b = g * _logistic(-a), -g * _logistic(b)
        parts = (-(g_a + g_b), g_a * (k + 0.5) + g_b * (k - 0.5), -(g_a * a + g_b * b))
        g_x, g_spacing, g_sigma = (part.sum(-1).astype(x.dtype) for part in parts)
        return (g_x, sum_to_shape(g_spacing, spacing.shape), sum_to_shape(g_sigma, sigma.shape))

    return value, pullback


def relaxed_quantize(
    x: Array, spacing: Array, sigma: Array, *, codes: Array, temperature: float, noise: Array,
    reach: float = np.inf,
) -> tuple[Array, Pullback]:
    r"""A random mixture of levels around each x: a quantizer with a true derivative.

    .. math:: \hat x = \sum_i z_i\, \alpha k_i, \qquad
              z \sim \mathrm{Concrete}(p, \lambda) = \mathrm{softmax}((\log p + G) / \lambda)

    As the temperature falls, z becomes one level drawn from p; as sigma falls too, the nearest
    one. With temperature 1 and zero noise the mixture is the mean of the drawn levels.

    Parameters
    ----------
    x : ndarray of float
    spacing, sigma : ndarray of float, broadcastable to `x`, > 0
        Both are trained; the authors start sigma at a third of the spacing.
    codes : ndarray of int, shape (levels,)
    temperature : float
        :math:`\lambda > 0`.
    noise : ndarray of float, shape of `x` and one axis of levels behind
        From `gumbel`.
    reach : float
        As in `level_logits`.

    Returns
    -------
    value : ndarray, shape of `x`
        Between the lowest and the highest level.
    pullback : callable
        Gradients of `x`, `spacing` and `sigma`.

    Notes
    -----
    For inference take the nearest level, without noise.

    References
    ----------
    Louizos et al., 2019, arXiv:1810.01875, section 2.

    Examples
    --------
    >>> x, one = np.array([0.4, 1.2]), np.ones(1)
    >>> none, codes = np.zeros((2, 4)), np.arange(-1, 3)
    >>> relaxed_quantize(x, one, one / 9, codes=codes, temperature=1.0, noise=none)[0].round(2)
    array([0.29, 1.06])
    """
    x, spacing = as_reals("x", x), as_reals("spacing", spacing)
    logits, to_x = level_logits(x, spacing, sigma, codes=codes, reach=reach)
    z, to_logits = gumbel_softmax(logits, np.array(temperature, x.dtype), noise=noise)
    mean_code = z @ codes.astype(x.dtype)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_z = (g * spacing)[..., None] * codes
        g_x, g_spacing, g_sigma = to_x(to_logits(g_z)[0])
        return g_x, g_spacing + sum_to_shape(g * mean_code, spacing.shape), g_sigma

    return spacing * mean_code, pullback


def cooled(step: int, steps: int, *, start: float = 5.0, end: float = 0.5) -> float:
    r"""Temperature of a step: geometric from `start` to `end`, and `end` from there on.

    .. math:: \tau_t = \tau_0 \, (\tau_1 / \tau_0)^{t / T}

    Parameters
    ----------
    step : int
    steps : int
        T, at least 1.
    start, end : float
        :math:`\tau_0` and :math:`\tau_1`, both > 0.

    Returns
    -------
    float

    References
    ----------
    Jang et al., 2017, arXiv:1611.01144 (annealing of the temperature).

    Examples
    --------
    >>> [round(cooled(t, 10, start=8.0, end=0.5), 2) for t in (0, 5, 10, 99)]
    [8.0, 2.0, 0.5, 0.5]
    """
    share = min(require_int("step", step, 0) / require_int("steps", steps, 1), 1.0)
    require_positive("start", np.array(start))
    require_positive("end", np.array(end))
    return float(start * (end / start) ** share)


def _logistic(u: Array) -> Array:
    """Through tanh: exp would overflow for large negative u."""
    return np.asarray((1 + np.tanh(u / 2)) / 2)
