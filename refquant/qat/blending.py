r"""AlphaBlend: move the network from its float weights to the rounded ones along a straight line.

.. math:: w_{ab} = (1 - \alpha)\, w + \alpha\, Q(w)

The loss is taken at the blend. Rounding has slope 0, so the true derivative is
:math:`1 - \alpha`, and nothing needs to be pretended. The price: as :math:`\alpha` grows the
weights move less, and at 1 not at all; what is not right by then stays.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_int
from refquant.qat._common import Pullback
from refquant.qat.proximal import Projection

__all__ = ["blend", "blend_schedule"]


def blend(weight: Array, alpha: Array, *, project: Projection) -> tuple[Array, Pullback]:
    r"""The point a share `alpha` of the way from a weight to its rounding, and its derivative.

    Parameters
    ----------
    weight : ndarray of float
    alpha : ndarray of float, shape ()
        Share of the rounded weight, in [0, 1]: an array, so that a schedule can be an input of
        the network. It is not trained.
    project : callable, ndarray -> ndarray
        Q, e.g. ``lambda w: fake_quantize(w, xnor(w))``.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
        The weight itself at 0, its rounding at 1, both exactly.
    pullback : callable
        Gradients of `weight`, :math:`(1 - \alpha) g`, and `alpha`,
        :math:`\sum g\,(Q(w) - w)`.

    Raises
    ------
    ValueError
        If `alpha` is not in [0, 1].

    Notes
    -----
    With :math:`\alpha = \lambda / (1 + \lambda)` the value is that of
    `refquant.qat.proximal.binary_relax`; its gradient has no factor :math:`1 - \alpha`. Adam
    hides the factor, since it divides a gradient by its own size, until it is exactly 0.

    References
    ----------
    Liu and Mattina, 2019, arXiv:1903.01061 (the alpha-blending update).

    Examples
    --------
    >>> y, pullback = blend(np.array([0.2, -0.8]), np.array(0.25), project=np.sign)
    >>> y, pullback(np.ones(2))[0]
    (array([ 0.4 , -0.85]), array([0.75, 0.75]))
    """
    weight, alpha = as_reals("weight", weight), as_reals("alpha", alpha)
    if alpha.shape != () or not 0 <= alpha <= 1:
        got = f"shape {alpha.shape}" if alpha.shape else alpha
        raise ValueError(f"`alpha` must be one number in [0, 1]; got {got}")
    share, rounded = float(alpha), project(weight)

    def pullback(g: Array) -> tuple[Array, ...]:
        return (1 - share) * g, np.asarray((g * (rounded - weight)).sum(), alpha.dtype)

    # The sum of parts, not weight + share * (rounded - weight): exact at both ends.
    return ((1 - share) * weight + share * rounded).astype(weight.dtype), pullback


def blend_schedule(step: int, *, begin: int, end: int, power: float = 3.0) -> float:
    r"""Share of the rounded weight at a step: fast at first, slowly at the end.

    .. math:: \alpha_t = 1 - \Bigl(\frac{T_1 - t}{T_1 - T_0}\Bigr)^3

    between `begin` :math:`T_0` and `end` :math:`T_1`; 0 before and 1 after. Leave steps after the
    end: biases and norms go on learning when the weights no longer can.

    Parameters
    ----------
    step, begin, end : int
        ``0 <= begin < end``.
    power : float
        1 is a straight line.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError
        If `end` is not after `begin`.

    References
    ----------
    Liu and Mattina, 2019, arXiv:1903.01061; the cubic is that of Zhu and Gupta, 2017,
    arXiv:1710.01878, for pruning.

    Examples
    --------
    >>> [blend_schedule(t, begin=10, end=20) for t in (0, 10, 15, 20, 99)]
    [0.0, 0.0, 0.875, 1.0, 1.0]
    """
    require_int("step", step, 0)
    require_int("end", end, require_int("begin", begin, 0) + 1)
    left = min(max((end - step) / (end - begin), 0.0), 1.0)
    return float(1 - left**power)
