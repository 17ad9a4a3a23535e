r"""PACT: a ReLU that is clipped at a learned height.

An activation has no weight that could keep it small, so the range of its quantizer is learned:

.. math:: \hat x = \frac{\alpha}{n} \left\lfloor \frac{n}{\alpha}\,
          \mathrm{clip}(x, 0, \alpha) \right\rceil, \qquad n = 2^b - 1 .

The gradient of :math:`\alpha` comes from what is clipped alone: every such element asks for a
higher or lower ceiling. What rounding does to the others is left out (`pact`), or kept
(`pact_full_chain`, which is what LSQ does).
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_int, require_number
from refquant.qat._common import Pullback, as_positive, gradient_of

__all__ = ["Penalty", "alpha_penalty", "pact", "pact_full_chain"]


def pact(x: Array, alpha: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""Clip at a trained height and quantize; the authors' gradient.

    .. math:: g_x = g\,[0 \le x < \alpha], \qquad g_\alpha = \sum g\,[x \ge \alpha]

    Parameters
    ----------
    x : ndarray of float
    alpha : ndarray of float, broadcastable to `x`, > 0
        The highest level.
    bits : int
        b, from 1 to 24: levels 0, alpha / n, ..., alpha.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradients of `x` and `alpha`. They add up to the gradients of the elements that are
        not negative.

    Raises
    ------
    ValueError
        If `alpha` is not positive or `bits` is out of range.

    References
    ----------
    Choi et al., 2018, arXiv:1805.06085, eqs. (1)-(3).

    Examples
    --------
    >>> y, pullback = pact(np.array([-1.0, 0.3, 0.6, 2.0]), np.array(0.75), bits=2)
    >>> y, pullback(np.ones(4))
    (array([0.  , 0.25, 0.5 , 0.75]), (array([0., 1., 1., 0.]), array(1.)))
    """
    x = as_reals("x", x)
    alpha = as_positive("alpha", alpha, x)
    step = alpha / _top(bits)
    q = np.rint(np.clip(x, 0, alpha) / step)

    def pullback(g: Array) -> tuple[Array, ...]:
        above = x >= alpha
        g_above = g * above
        return g * (x >= 0) - g_above, gradient_of(alpha, g_above)

    return (step * q).astype(x.dtype, copy=False), pullback


def pact_full_chain(x: Array, alpha: Array, *, bits: int) -> tuple[Array, Pullback]:
    r"""Clip at a trained height and quantize; the gradient of the step as well.

    .. math:: g_\alpha = \sum g\,[x \ge \alpha]
              + \sum g\,[0 < x < \alpha]\,\frac{\lfloor v \rceil - v}{n}, \qquad v = n x / \alpha

    Parameters
    ----------
    x : ndarray of float
    alpha : ndarray of float, broadcastable to `x`, > 0
    bits : int
        b, from 1 to 24.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
        That of `pact`.
    pullback : callable
        Gradients of `x` and `alpha`; the latter is 1 / n of LSQ's gradient of the step
        alpha / n.

    Raises
    ------
    ValueError
        If `alpha` is not positive or `bits` is out of range.

    References
    ----------
    Choi et al., 2018, arXiv:1805.06085, eq. (1), differentiated as in Esser et al., 2020,
    arXiv:1902.08153, eq. (3).

    Examples
    --------
    >>> x, alpha = np.array([-1.0, 0.3, 0.6, 2.0]), np.array(0.75)
    >>> pact_full_chain(x, alpha, bits=2)[1](np.ones(4))[1].round(6)
    np.float64(0.8)
    """
    x = as_reals("x", x)
    alpha = as_positive("alpha", alpha, x)
    n = _top(bits)
    y, plain = pact(x, alpha, bits=bits)

    def pullback(g: Array) -> tuple[Array, ...]:
        g_x, g_alpha = plain(g)
        v = np.clip(x, 0, alpha) / (alpha / n)          # as in the value, ties too
        return g_x, g_alpha + gradient_of(alpha, g * ((np.rint(v) - v) / n))

    return y, pullback


class Penalty(NamedTuple):
    """A term of the loss and its gradient.

    Attributes
    ----------
    value : float
    gradient : ndarray
        Shape and dtype of the parameter.

    References
    ----------
    Choi et al., 2018, arXiv:1805.06085, section 3.
    """

    value: float
    gradient: Array


def alpha_penalty(alpha: Array, *, strength: float) -> Penalty:
    r"""What pulls the ceiling down: :math:`\lambda \sum \alpha^2`.

    Without it only clipped elements move the ceiling, and one that clips nothing stays where
    it is, however coarse its steps.

    Parameters
    ----------
    alpha : ndarray of float
    strength : float
        :math:`\lambda`; the authors take that of the weight decay.

    Returns
    -------
    Penalty

    References
    ----------
    Choi et al., 2018, arXiv:1805.06085, section 3.

    Examples
    --------
    >>> alpha_penalty(np.array(4.0), strength=0.25)
    Penalty(value=4.0, gradient=array(2.))
    """
    alpha = as_reals("alpha", alpha)
    require_number("strength", strength)
    weight = float(strength)
    return Penalty(weight * float(np.square(alpha).sum()), np.asarray(2 * weight * alpha))


def _top(bits: int) -> int:
    """The highest code: n."""
    return 2 ** require_int("bits", bits, 1, 24) - 1
