r"""BinaryConnect: multiply with signs, learn in floats.

Each step draws a sign for every weight, runs the network forward and back with the signs, and
moves the float weight behind them. A single step is far too small to flip a sign; the float
weight adds steps up until one does. It is kept within [-1, 1]: beyond, it would have no effect
but the way back.

==============  ======================================  ==========================
sign            chance of +1                            expected weight
==============  ======================================  ==========================
`sign`          1 if w >= 0                             the sign
hard sigmoid    :math:`\mathrm{clip}((w + 1)/2, 0, 1)`  w, exactly, within [-1, 1]
logistic        :math:`1 / (1 + e^{-w})`                :math:`\tanh(w / 2)`
==============  ======================================  ==========================

The last two are `refquant.rounding.stochastic_sign`.
"""

from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_positive
from refquant.qat._common import Pullback
from refquant.quantizers.binary import sign

__all__ = ["binary_connect", "kept_within"]


def binary_connect(
    weight: Array, *, sign: Callable[[Array], Array] = sign
) -> tuple[Array, Pullback]:
    r"""Signs in place of the weight; the gradient is passed on to the weight.

    .. math:: w_b = \mathrm{sign}(w), \qquad
              \frac{\partial w_b}{\partial w} := [\,|w| \le 1\,]

    Parameters
    ----------
    weight : ndarray of float, finite
        w, the latent weight.
    sign : callable, ndarray -> ndarray of -1 and +1
        ``partial(stochastic_sign, rng=rng, hard=True)`` of `refquant.rounding` is the paper's
        stochastic form, without `hard` the survey's. At test time the deterministic sign, or,
        for the stochastic form, the float weight itself.

    Returns
    -------
    value : ndarray of -1 and +1, shape and dtype of `weight`
    pullback : callable
        Gradient of `weight`. No weight that `kept_within` has seen is masked.

    Raises
    ------
    ValueError
        If `weight` is not finite.

    References
    ----------
    Courbariaux et al., 2015, arXiv:1511.00363, eqs. (1)-(3) and algorithm 1; Gholami et al.,
    2021, arXiv:2103.13630, section IV-B (logistic).

    Examples
    --------
    >>> y, pullback = binary_connect(np.array([-1.5, -0.2, 0.0, 0.7]))
    >>> y, pullback(np.ones(4))
    (array([-1., -1.,  1.,  1.]), (array([0., 1., 1., 1.]),))
    """
    weight = as_reals("weight", weight)
    require_finite("weight", weight)
    inside = np.abs(weight) <= 1
    return sign(weight), lambda g: (g * inside,)


def kept_within(weight: Array, *, bound: float = 1.0) -> Array:
    """The latent weight after a step of the optimizer, brought back to ``[-bound, bound]``.

    Parameters
    ----------
    weight : ndarray of float
    bound : float

    Returns
    -------
    ndarray, shape and dtype of `weight`

    Raises
    ------
    ValueError
        If `bound` is not positive and finite.

    References
    ----------
    Courbariaux et al., 2015, arXiv:1511.00363, section 2.4.

    Examples
    --------
    >>> kept_within(np.array([-1.5, 0.2]))
    array([-1. ,  0.2])
    """
    require_positive("bound", np.asarray(bound))
    return np.clip(as_reals("weight", weight), -bound, bound)
