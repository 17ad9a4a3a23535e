r"""BitNet b1.58: a network that is born ternary, weights -1, 0, 1 and activations of 8 bits.

Nothing is converted: the float weight exists only while training, the network never computes
with anything but its three levels, and it grows up around them.

===========  ========================================  ===========  ================
tensor       step                                      codes        shared by
===========  ========================================  ===========  ================
weight       mean magnitude                            -1, 0, 1     the whole matrix
activation   largest magnitude over 127                -127 .. 127  one token
===========  ========================================  ===========  ================

Both are straight-through: the gradient passes as if nothing had been rounded.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from refquant._types import Array
from refquant._validate import require_int, require_positive
from refquant.calibration.minmax import absmax
from refquant.qat._common import Pullback
from refquant.qat.straight_through import pass_through
from refquant.quantizers.ternary import absmean
from refquant.quantizers.uniform import symmetric

__all__ = ["absmean_weight", "token_activation", "two_stage"]


def absmean_weight(weight: Array, *, floor: float = 1e-5) -> tuple[Array, Pullback]:
    r"""The ternary weight a layer multiplies with; its gradient is the float weight's.

    .. math:: \gamma = \overline{|W|}, \qquad
              \hat W = \gamma\,\mathrm{clip}(\lfloor W / \gamma \rceil, -1, 1), \qquad
              \frac{\partial \hat W}{\partial W} := 1

    Parameters
    ----------
    weight : ndarray of float, not empty
        W; one :math:`\gamma` for all of it.
    floor : float
        Least gamma, in units of the weight.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
        Three levels, among them 0.
    pullback : callable
        Gradient of `weight`, unchanged, also where the weight was clipped.

    Raises
    ------
    ValueError
        If `weight` is empty or not finite, or `floor` is not positive.

    Notes
    -----
    The factor :math:`\gamma` belongs to the value. A published snippet leaves it out; then the
    outputs of a layer of n inputs are :math:`1/\gamma \approx \sqrt n` times too large, and
    where no normalization follows the network hardly learns.

    References
    ----------
    Ma et al., 2024, arXiv:2402.17764, eqs. (1)-(3); Wang et al., "BitNet", 2023,
    arXiv:2310.11453, section 2.2 (straight-through estimator).

    Examples
    --------
    >>> y, pullback = absmean_weight(np.array([0.9, -0.2, 0.05, -0.85]))
    >>> y
    array([ 0.5,  0. ,  0. , -0.5])
    >>> pullback(np.array([1.0, 2.0, 3.0, 4.0]))
    (array([1., 2., 3., 4.]),)
    """
    return pass_through(weight, quantizer=absmean(weight, floor=floor))


def token_activation(x: Array, *, bits: int = 8) -> tuple[Array, Pullback]:
    r"""Each token rounded on its own grid, whose last code is its largest magnitude.

    .. math:: s_t = \frac{\max_i |x_{ti}|}{2^{b-1} - 1}, \qquad
              \hat x_{ti} = s_t \lfloor x_{ti} / s_t \rceil, \qquad
              \frac{\partial \hat x}{\partial x} := 1

    Parameters
    ----------
    x : ndarray of float, shape (..., features)
        Tokens; a row of zeros stays.
    bits : int
        b, at least 2.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
        Nothing is clipped, so no error exceeds half a step, :math:`s_t / 2`.
    pullback : callable
        Gradient of `x`, unchanged.

    Raises
    ------
    ValueError
        If a token is empty or not finite, or `bits` is out of range.

    Notes
    -----
    The released code multiplies by the rounded reciprocal of the step and adds 1e-5 to the
    largest magnitude; results differ from this definition next to ties, and for tokens whose
    values are below 1e-3 or so. The bound of -128 in its clip is never reached.

    References
    ----------
    Ma et al., 2024, arXiv:2402.17764, section 2; Wang et al., 2023, arXiv:2310.11453, eq. (4).

    Examples
    --------
    >>> y, _ = token_activation(np.array([[0.3, -3.0], [7.0, 2.0]]), bits=3)
    >>> y.round(3)
    array([[ 0.   , -3.   ],
           [ 7.   ,  2.333]])
    """
    return pass_through(x, quantizer=symmetric(absmax(x, axis=-1), bits=bits))


def two_stage(peak: float, steps: int, *, weight_decay: float = 0.1) -> tuple[
    Callable[[int], float], Callable[[int], float]
]:
    r"""Learning rate and weight decay of each step, in the two halves of the recipe.

    ============  ==============================  ============
    steps         rate, in straight lines         weight decay
    ============  ==============================  ============
    first half    from the peak to 8/15 of it     as given
    second half   from 1/3 of the peak to 0       0
    ============  ==============================  ============

    Large steps first, for a latent weight must travel half a mean magnitude before its code
    changes; then smaller ones, without the decay that pulls weights across the thresholds.

    Parameters
    ----------
    peak : float
        Rate of step 0: 1.5 to 3 times what the float network takes.
    steps : int
        Of the whole training.
    weight_decay : float

    Returns
    -------
    rate : callable, int -> float
        Learning rate of a step; 0 from `steps` on.
    decay : callable, int -> float
        Weight decay of a step.

    Raises
    ------
    ValueError
        If `peak` is not positive, or `steps` below 1.

    References
    ----------
    Ma et al., "BitNet b1.58 2B4T Technical Report", 2025, arXiv:2504.12285, section 3.1
    (1.5e-3 to 8e-4, then 5e-4 to 0).

    Examples
    --------
    >>> rate, decay = two_stage(1.5e-3, 100)
    >>> [round(rate(t), 6) for t in (0, 25, 50, 75, 100)], [decay(t) for t in (49, 50)]
    ([0.0015, 0.00115, 0.0005, 0.00025, 0.0], [0.1, 0.0])
    """
    require_positive("peak", np.asarray(peak))
    require_int("steps", steps, 1)
    return (partial(_rate, peak=peak, steps=steps),
            partial(_decay, weight_decay=weight_decay, steps=steps))


def _rate(step: int, *, peak: float, steps: int) -> float:
    along = min(2 * step / steps, 2.0)                      # 1 in the middle
    return peak * (1 - along * 7 / 15 if along < 1 else (2 - along) / 3)


def _decay(step: int, *, weight_decay: float, steps: int) -> float:
    return weight_decay if 2 * step < steps else 0.0
