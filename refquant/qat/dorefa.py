r"""DoReFa: weights, activations and gradients on the levels 0, 1/n, ..., 1.

One function does the rounding, for :math:`r \in [0, 1]` and :math:`n = 2^b - 1`,

.. math:: \mathrm{quantize}_b(r) = \lfloor n r \rceil / n ,

and the rest brings each tensor into that interval and back: weights by a tanh divided by its
largest, activations by clipping, gradients by their largest with random noise of one step. The
rounding passes gradients straight through, the maps are differentiated.
"""

import math

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_int
from refquant.qat._common import Pullback

__all__ = ["dorefa_activation", "dorefa_binary", "dorefa_gradient", "dorefa_weight",
           "dorefa_weight_chain"]


def dorefa_weight(w: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""Weights in [-1, 1] on an even number of levels, none of them 0.

    .. math:: \hat w = 2\,\mathrm{quantize}_b\!\left(\frac{\tanh w}{2M} + \frac12\right) - 1,
              \quad M = \max |\tanh w|, \qquad g_w = g\,\frac{1 - \tanh^2 w}{M}

    Parameters
    ----------
    w : ndarray of float
    bits : int
        b, from 2 to 24; `dorefa_binary` for 1.

    Returns
    -------
    value : ndarray, shape and dtype of `w`
    pullback : callable
        Gradient of `w`, M held constant.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eqs. (5) and (9).

    Examples
    --------
    >>> y, pullback = dorefa_weight(np.array([-2.0, 0.0, 0.4]), bits=2)
    >>> y.round(3), pullback(np.ones(3))[0].round(3)
    (array([-1.   ,  0.333,  0.333]), array([0.073, 1.037, 0.888]))
    """
    y, soft, largest = _squashed(as_reals("w", w), bits)
    return y, lambda g: (g * ((1 - soft * soft) / largest),)


def dorefa_weight_chain(w: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""The same value; the gradient also through the largest weight, as in the authors' code.

    .. math:: g_{w_{i*}} \mathrel{+}= -\frac{1 - \tanh^2 w_{i*}}{M^2}\,
              \mathrm{sign}(w_{i*}) \sum_i g_i \tanh w_i, \qquad i* = \arg\max_i |w_i|

    Parameters
    ----------
    w : ndarray of float
    bits : int
        b, from 2 to 24.

    Returns
    -------
    value : ndarray, shape and dtype of `w`
    pullback : callable
        Gradient of `w`. Of several largest weights, the first takes the extra term.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eq. (9); the code in tensorpack does not stop the
    gradient of the maximum.

    Examples
    --------
    >>> dorefa_weight_chain(np.array([-2.0, 0.0, 0.4]), bits=2)[1](np.ones(3))[0].round(3)
    array([0.029, 1.037, 0.888])
    """
    w = as_reals("w", w)
    y, soft, largest = _squashed(w, bits)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_w = np.asarray(g * ((1 - soft * soft) / largest))
        if w.size:
            at = np.unravel_index(np.abs(soft).argmax(), w.shape)
            through = (g * soft).sum() / largest**2
            g_w[at] -= (1 - soft[at] ** 2) * np.sign(w[at]) * through
        return (g_w,)

    return y, pullback


def dorefa_binary(w: Array) -> tuple[Array, Pullback]:
    r"""Weights of one bit: signs times one mean size for the layer.

    .. math:: \hat w = \overline{|w|}\;\mathrm{sign}(w), \quad \mathrm{sign}(0) = 1,
              \qquad g_w = g

    Parameters
    ----------
    w : ndarray of float

    Returns
    -------
    value : ndarray, shape and dtype of `w`
    pullback : callable
        Gradient of `w`: that of the value.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eqs. (7) and (8).

    Examples
    --------
    >>> dorefa_binary(np.array([-2.0, 0.0, 0.4]))[0]
    array([-0.8,  0.8,  0.8])
    """
    w = as_reals("w", w)
    size = np.abs(w).mean(dtype=w.dtype) if w.size else w.dtype.type(0)
    return np.where(w >= 0, size, -size), lambda g: (g,)


def dorefa_activation(x: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""Activations clipped to [0, 1] and rounded.

    .. math:: \hat x = \mathrm{quantize}_b(\mathrm{clip}(x, 0, 1)), \qquad
              g_x = g\,[0 \le x \le 1]

    Parameters
    ----------
    x : ndarray of float
    bits : int
        b, from 1 to 24.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradient of `x`.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eqs. (5) and (11).

    Examples
    --------
    >>> y, pullback = dorefa_activation(np.array([-0.1, 0.4, 1.0, 1.1]), bits=1)
    >>> y, pullback(np.ones(4))
    (array([0., 0., 1., 1.]), (array([0., 1., 1., 0.]),))
    """
    x = as_reals("x", x)
    y = _unit_levels(np.clip(x, 0, 1), bits)
    return y, lambda g: (g * ((x >= 0) & (x <= 1)),)


def dorefa_gradient(
    x: Array, *, bits: int, rng: np.random.Generator
) -> tuple[Array, Pullback]:
    r"""The value as it is, the gradient on few levels: rounded at random, right on average.

    .. math:: f(g) = M \left( \mathrm{quantize}_b\!\left(
              \mathrm{clip}\Bigl(\frac{g}{M} + \frac12 + \frac{\nu}{n}, 0, 1\Bigr)\right)
              - \frac12 \right), \qquad M = 2 \max |g|, \quad \nu \sim U(-\tfrac12, \tfrac12)

    with a maximum for each sample. :math:`E f(g) = g` but for the largest elements, whose
    noise is clipped at one side.

    Parameters
    ----------
    x : ndarray of float, shape (samples, ...)
    bits : int
        b, from 1 to 24.
    rng : numpy.random.Generator
        One uniform draw per element and call of the pullback, in C order.

    Returns
    -------
    value : ndarray
        `x`.
    pullback : callable
        Quantized gradient of `x`.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eq. (12).

    Examples
    --------
    >>> _, pullback = dorefa_gradient(np.zeros((1, 3)), bits=2, rng=np.random.default_rng(0))
    >>> pullback(np.array([[-3.0, 0.1, 2.0]]))[0]       # of -3, -1, 1, 3
    array([[-3., -1.,  1.]])
    """
    x = as_reals("x", x)
    n = _top(bits)

    def pullback(g: Array) -> tuple[Array, ...]:
        axes = tuple(range(1, g.ndim))
        bound = 2 * np.abs(g).max(axis=axes, keepdims=True, initial=0)
        noise = (rng.random(g.shape) - 0.5) / n
        share = g / np.where(bound > 0, bound, 1) + 0.5 + noise
        levels = np.rint(np.clip(share, 0, 1) * n) / n
        return ((bound * (levels - 0.5)).astype(g.dtype),)

    return x, pullback


def _squashed(w: Array, bits: int) -> tuple[Array, Array, Array]:
    """The levels of the weights, their tanh, and the largest of that (1 where all are 0)."""
    require_int("bits", bits, 2)
    soft = np.tanh(w)
    largest = np.abs(soft).max(initial=0)
    largest = np.asarray(largest if largest > 0 else 1, w.dtype)
    return 2 * _unit_levels(soft / (2 * largest) + 0.5, bits) - 1, soft, largest


def _unit_levels(r: Array, bits: int) -> Array:
    """Eq. (5): `r` of [0, 1] on the nearest of ``2**bits`` levels, in its own dtype."""
    n = _top(bits)
    return np.rint(r * n) / n


def _top(bits: int) -> int:
    """The highest code: ``2**bits - 1``."""
    return int(math.ldexp(1, require_int("bits", bits, 1, 24))) - 1
