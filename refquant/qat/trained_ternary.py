r"""Train ternary weights: by rule (TWN), or with two levels that learn (TTQ).

=================  ======================  =========================  =====================
estimator          threshold               levels                     gradient of the weight
=================  ======================  =========================  =====================
`ternary_weight`   0.7 mean magnitude      mean of the survivors      as it comes
`trained_levels`   0.05 largest magnitude  :math:`-W_n,\ 0,\ W_p`     times the own level
                                           trained
=================  ======================  =========================  =====================
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import as_data, as_reals
from refquant.qat._common import Pullback, sum_to_shape
from refquant.qat.straight_through import pass_through
from refquant.quantizers.ternary import ttq, twn

__all__ = ["Levels", "initial_levels", "ternary_weight", "trained_levels"]


class Levels(NamedTuple):
    """Magnitudes of the outer levels, which are parameters to train.

    Attributes
    ----------
    negative, positive : ndarray of float, shape ()
        :math:`W_n` and :math:`W_p`, at least 0.

    References
    ----------
    Zhu et al., 2017, arXiv:1612.01064, section 3.2.
    """

    negative: Array
    positive: Array


def ternary_weight(
    weight: Array, *, axis: Axis = None, ratio: float = 0.7
) -> tuple[Array, Pullback]:
    r"""Ternary weight by threshold and mean of the survivors; straight-through.

    .. math:: \hat w = \alpha\,\mathrm{sign}(w)\,[\,|w| > \Delta\,], \qquad
              \Delta = 0.7\,\overline{|w|}, \qquad \frac{\partial \hat w}{\partial w} := 1

    Parameters
    ----------
    weight : ndarray of float, not empty
    axis : int or tuple of int, optional
        Axes that share parameters; all by default.
    ratio : float
        Threshold over mean magnitude.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
    pullback : callable
        Gradient of `weight`, unchanged.

    Raises
    ------
    ValueError
        If `weight` is empty or not finite, or `ratio` is negative.

    References
    ----------
    Li et al., 2016, arXiv:1605.04711, eqs. (3), (5), (6), and section 2.3.

    Examples
    --------
    >>> y, pullback = ternary_weight(np.array([0.9, -0.2, 0.05, -0.7]))
    >>> y, pullback(np.ones(4))
    (array([ 0.8,  0. ,  0. , -0.8]), (array([1., 1., 1., 1.]),))
    """
    return pass_through(weight, quantizer=twn(weight, axis=axis, ratio=ratio))


def trained_levels(
    weight: Array, negative: Array, positive: Array, *, ratio: float = 0.05
) -> tuple[Array, Pullback]:
    r"""Ternary weight whose two levels are parameters.

    With :math:`\Delta = t \max |w|` the value is :math:`W_p` above :math:`\Delta`,
    :math:`-W_n` below :math:`-\Delta`, and 0 between:

    .. math:: g_{W_p} = \sum_{w_i > \Delta} g_i, \qquad
              g_{W_n} = -\!\!\sum_{w_i < -\Delta} g_i, \qquad
              g_{w_i} = g_i \cdot \begin{cases} W_p & w_i > \Delta \\ 1 & |w_i| \le \Delta \\
                                                W_n & w_i < -\Delta \end{cases}

    Parameters
    ----------
    weight : ndarray of float, not empty
    negative, positive : ndarray of float, >= 0, broadcastable to `weight`
        :math:`W_n, W_p`. Keep them there: a level that crosses zero stands on the other side.
    ratio : float
        t.

    Returns
    -------
    value : ndarray, shape of `weight`
    pullback : callable
        Gradients of `weight`, `negative` and `positive`. Those of the levels are derivatives;
        that of the weight is the paper's estimator.

    Raises
    ------
    ValueError
        If `weight` is empty or not finite, a level is negative, or `ratio` is.

    Notes
    -----
    The paper prints the gradient of :math:`W_n` with a plus: there it is the derivative by the
    level itself, :math:`-W_n`. The authors' code has the minus, as the chain rule has.

    The paper divides a weight by its largest magnitude first; the codes are the same without.

    References
    ----------
    Zhu et al., 2017, arXiv:1612.01064, eqs. (6)-(9).

    Examples
    --------
    >>> y, pullback = trained_levels(np.array([1.0, -0.5, 0.01]), np.array(0.4), np.array(0.7))
    >>> y
    array([ 0.7, -0.4,  0. ])
    >>> pullback(np.array([1.0, 2.0, 3.0]))
    (array([0.7, 0.8, 3. ]), array(-2.), array(1.))
    """
    weight = as_reals("weight", weight)
    negative, positive = as_reals("negative", negative), as_reals("positive", positive)
    codes = ttq(weight, negative, positive, ratio=ratio).encode(weight)
    above, below = codes > 0, codes < 0
    zero = weight.dtype.type(0)
    value = np.where(above, positive, np.where(below, -negative, zero))

    def pullback(g: Array) -> tuple[Array, ...]:
        g_negative = sum_to_shape(-g * below, negative.shape)
        g_positive = sum_to_shape(g * above, positive.shape)
        slope = np.where(above, positive, np.where(below, negative, 1 + zero))
        return g * slope, g_negative, g_positive

    return value, pullback


def initial_levels(weight: Array, *, ratio: float = 0.05) -> Levels:
    """Levels to fine-tune a float network from: the mean magnitude on either side.

    From scratch the authors start both at 1.

    Parameters
    ----------
    weight : ndarray of float, not empty
    ratio : float
        Threshold over the largest magnitude, as in `trained_levels`.

    Returns
    -------
    Levels
        Of least squared error for that threshold; 0 for a side that is empty.

    Raises
    ------
    ValueError
        If `weight` is empty or not finite, or `ratio` is negative.

    References
    ----------
    Zhu et al., 2017, arXiv:1612.01064, section 3.2; Li et al., 2016, arXiv:1605.04711, eq. (5),
    for each sign.

    Examples
    --------
    >>> initial_levels(np.array([1.0, 0.5, -0.25, 0.01]))
    Levels(negative=array(0.25), positive=array(0.75))
    """
    weight = as_data("weight", weight)
    one = np.ones((), weight.dtype)
    codes = ttq(weight, one, one, ratio=ratio).encode(weight)
    means = [np.sum(np.abs(weight), where=side) / max(np.count_nonzero(side), 1)
             for side in (codes < 0, codes > 0)]
    return Levels(*(np.asarray(m, weight.dtype) for m in means))
