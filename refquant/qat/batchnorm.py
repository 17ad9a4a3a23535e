r"""Batch norm in quantization-aware training: quantize the weight that will be deployed.

A deployed layer has no batch norm: :math:`\gamma / \sigma` went into its weight, and it is this
*folded* weight that meets the grid. So training must quantize it too. In training, though,
:math:`\sigma` comes from the batch, and a weight that jitters with every batch is on another grid
each time. Three forms, of the same five operations:

===========  ===========================================  ==================================
form         weight                                       then
===========  ===========================================  ==================================
plain        :math:`Q(\gamma W / \sigma_B)`               add the bias of the batch
corrected    :math:`Q(\gamma W / \sigma_R)`               times :math:`\sigma_R / \sigma_B`,
                                                          add the bias of the batch
frozen       :math:`Q(\gamma W / \sigma_R)`               add the bias of the running averages
===========  ===========================================  ==================================

B for the batch, R for running averages, :math:`\sigma = \sqrt{v + \epsilon}`. *Frozen* is what is
deployed. With Q the identity, *corrected* is batch norm itself, in its values and gradients.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_same_shape
from refquant.qat._common import Pullback

__all__ = ["batch_mean", "batch_variance", "corrected", "folded_bias", "folded_weight"]


def batch_mean(y: Array) -> tuple[Array, Pullback]:
    r"""Mean of each channel over the batch.

    .. math:: \mu_B = \overline{y}

    Parameters
    ----------
    y : ndarray of float, shape (..., channels)
        Products of the layer with its float weight.

    Returns
    -------
    value : ndarray, shape (channels,)
    pullback : callable
        Gradient of `y`.

    Raises
    ------
    ValueError
        If there is no row.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1.

    Examples
    --------
    >>> batch_mean(np.array([[1.0, 5.0], [3.0, 5.0]]))[0]
    array([2., 5.])
    """
    y, rows = _rows(y)
    return rows.mean(0, dtype=y.dtype), lambda g: (_spread(g / len(rows), y),)


def batch_variance(y: Array) -> tuple[Array, Pullback]:
    r"""Biased variance of each channel over the batch.

    .. math:: v_B = \overline{(y - \mu_B)^2}, \qquad g_y = 2\,g\,(y - \mu_B) / n

    Parameters
    ----------
    y : ndarray of float, shape (..., channels)

    Returns
    -------
    value : ndarray, shape (channels,)
    pullback : callable
        Gradient of `y`.

    Raises
    ------
    ValueError
        If there is no row.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 1.

    Examples
    --------
    >>> batch_variance(np.array([[1.0, 5.0], [3.0, 5.0]]))[0]
    array([1., 0.])
    """
    y, rows = _rows(y)
    centred = y - rows.mean(0, dtype=y.dtype)
    value = np.square(centred).reshape(rows.shape).mean(0, dtype=y.dtype)
    return value, lambda g: (centred * (2 / len(rows) * g),)


def folded_weight(
    weight: Array, gamma: Array, variance: Array, *, epsilon: float = 1e-5
) -> tuple[Array, Pullback]:
    r"""Weight with the norm's factor multiplied into each output channel.

    .. math:: W' = \frac{\gamma}{\sqrt{v + \epsilon}}\, W

    Parameters
    ----------
    weight : ndarray of float, shape (out, ...)
    gamma, variance : ndarray of float, shape (out,)
        The variance of the batch (plain) or the running one (corrected, frozen).
    epsilon : float
        That of the norm.

    Returns
    -------
    value : ndarray, shape of `weight`
    pullback : callable
        Gradients of `weight`, `gamma` and `variance`.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (14).

    Examples
    --------
    >>> folded_weight(np.ones((1, 2)), np.array([6.0]), np.array([4.0]), epsilon=0.0)[0]
    array([[3., 3.]])
    """
    weight = as_reals("weight", weight)
    if not weight.ndim:
        raise ValueError("`weight` must have an output channel; got shape ()")
    gamma, variance = _channels(len(weight), gamma=gamma, variance=variance)
    inverse = 1 / np.sqrt(variance + epsilon)
    slope = _channel_first(gamma * inverse, weight)

    def pullback(g: Array) -> tuple[Array, ...]:
        moment = (g * weight).reshape(len(weight), -1).sum(1)
        return g * slope, moment * inverse, moment * gamma * inverse**3 * -0.5

    return weight * slope, pullback


def folded_bias(
    gamma: Array, beta: Array, mean: Array, variance: Array, *, epsilon: float = 1e-5
) -> tuple[Array, Pullback]:
    r"""Bias of the folded layer.

    .. math:: b' = \beta - \frac{\gamma\,\mu}{\sqrt{v + \epsilon}}

    Parameters
    ----------
    gamma, beta, mean, variance : ndarray of float, shape (out,)
        Statistics of the batch (plain) or running ones (frozen).
    epsilon : float
        That of the norm.

    Returns
    -------
    value : ndarray, shape (out,)
    pullback : callable
        Gradients of all four.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.2.

    Examples
    --------
    >>> one = np.ones(1)
    >>> folded_bias(6 * one, 2 * one, one, 4 * one, epsilon=0.0)[0]
    array([-1.])
    """
    gamma = as_reals("gamma", gamma)
    gamma, beta, mean, variance = _channels(
        gamma.size, gamma=gamma, beta=beta, mean=mean, variance=variance)
    inverse = 1 / np.sqrt(variance + epsilon)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_inverse = -g * gamma * mean
        return (-g * mean * inverse, g, -g * gamma * inverse, g_inverse * inverse**3 * -0.5)

    return beta - gamma * mean * inverse, pullback


def corrected(
    y: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    running: Array,
    *,
    epsilon: float = 1e-5,
) -> tuple[Array, Pullback]:
    r"""Products of the weight folded with running averages, corrected to the batch's.

    .. math:: y' = \frac{\sigma_R}{\sigma_B}\, y + \beta - \frac{\gamma\,\mu_B}{\sigma_B}

    Parameters
    ----------
    y : ndarray of float, shape (..., channels)
        Of the quantized folded weight.
    gamma, beta : ndarray of float, shape (channels,)
    mean, variance : ndarray of float, shape (channels,)
        Of the batch, from the products of the float weight.
    running : ndarray of float, shape (channels,)
        The running variance, which the weight was folded with.
    epsilon : float
        That of the norm.

    Returns
    -------
    value : ndarray, shape of `y`
    pullback : callable
        Gradients of all six.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.2, figure 8.

    Examples
    --------
    >>> one = np.ones(1)
    >>> corrected(np.array([[1.0]]), one, 0 * one, 0 * one, one, 4 * one, epsilon=0.0)[0]
    array([[2.]])
    """
    y, rows = _rows(y)
    gamma, beta, mean, variance, running = _channels(
        y.shape[-1], gamma=gamma, beta=beta, mean=mean, variance=variance, running=running)
    inverse, sigma = 1 / np.sqrt(variance + epsilon), np.sqrt(running + epsilon)
    ratio = sigma * inverse

    def pullback(g: Array) -> tuple[Array, ...]:
        g_beta = g.reshape(rows.shape).sum(0)
        moment = (g * y).reshape(rows.shape).sum(0)
        g_inverse = moment * sigma - g_beta * gamma * mean
        return (
            g * ratio,
            -g_beta * mean * inverse,
            g_beta,
            -g_beta * gamma * inverse,
            g_inverse * inverse**3 * -0.5,
            moment * inverse / (2 * sigma),
        )

    return y * ratio + (beta - gamma * mean * inverse), pullback


def _rows(y: Array) -> tuple[Array, Array]:
    """The array, and the same with one row for each value of a channel; at least one."""
    y = as_reals("y", y)
    if y.ndim == 0 or y.size == 0:
        raise ValueError(f"`y` must have a row and a channel; got shape {y.shape}")
    return y, y.reshape(-1, y.shape[-1])


def _channels(n: int, **parameters: Array) -> list[Array]:
    """Parameters with one number for each of n channels; no variance is below zero."""
    found = [as_reals(name, p) for name, p in parameters.items()]
    for name, p in zip(parameters, found, strict=True):
        require_same_shape(name, p, (n,))
        if name in ("variance", "running") and (p < 0).any():
            raise ValueError(f"`{name}` must be at least 0; got {p.min()}")
    return found


def _spread(g: Array, y: Array) -> Array:
    """One value of each channel, at every place of `y`."""
    return np.broadcast_to(g, y.shape)


def _channel_first(channel: Array, weight: Array) -> Array:
    """One value of each output channel, in a shape that broadcasts to `weight`."""
    return channel.reshape(-1, *(1,) * (weight.ndim - 1))
