r"""Batch-norm folding: let the layer before a batch norm do its work, and drop it.

In evaluation a batch norm is affine in each channel, and so is the layer before it:

.. math:: \gamma\,\frac{(w \cdot x + b) - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta
          \;=\; (r w) \cdot x + \bigl(\beta + (b - \mu)\,r\bigr),
          \qquad r = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} .

It must happen before quantization: a range found on the unfolded weight is not the range of
the weight that runs. What it leaves behind is also the reason for `cross_layer_equalization`:
r differs from channel to channel, and with it the ranges of the rows.

===================  ===========================================  =====================
the norm stands      weight                                       right with padding 0?
===================  ===========================================  =====================
after the layer      rows times r (`fold`)                        always
before the layer     columns times r (`fold_forward`)             no: see there
===================  ===========================================  =====================
"""

import math
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_not_negative,
    require_same_shape,
)

__all__ = ["Folded", "channel_factors", "fold", "fold_forward"]


class Folded(NamedTuple):
    """Weight and bias of the layer that stands for itself and its batch norm.

    Attributes
    ----------
    weight : ndarray of float, shape of the layer's weight
    bias : ndarray of float, shape (out,)
        Also where the layer had none.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.2.
    """

    weight: Array
    bias: Array


def channel_factors(gamma: Array, variance: Array, *, epsilon: float) -> Array:
    r"""What the batch norm multiplies each channel by.

    .. math:: r_c = \gamma_c / \sqrt{\sigma_c^2 + \epsilon}

    Parameters
    ----------
    gamma : ndarray of float, shape (channels,)
        May be negative, which flips the channel, or zero, which kills it.
    variance : ndarray of float, shape (channels,), >= 0
        The running variance.
    epsilon : float
        The framework's: 1e-5 in PyTorch and here, 1e-3 in Keras.

    Returns
    -------
    ndarray of float64, shape (channels,)

    Raises
    ------
    ValueError
        If an argument is not finite, a variance or `epsilon` is negative, or both are zero.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2, step 11.

    Examples
    --------
    >>> channel_factors(np.array([1.5, -3.0]), np.array([0.25, 0.0]), epsilon=1e-3).round(6)
    array([  2.994018, -94.86833 ])
    """
    gamma, variance = as_reals("gamma", gamma), as_reals("variance", variance)
    require_not_negative("epsilon", epsilon)
    require_same_shape("variance", variance, gamma.shape)
    require_finite("gamma", gamma)
    require_finite("variance", variance)
    spread = variance.astype(np.float64) + epsilon
    if not ((variance >= 0) & (spread > 0) & np.isfinite(spread)).all():
        raise ValueError(
            "`variance` must not be negative, and positive with `epsilon` added; "
            f"got {variance.min()} and {epsilon}"
        )
    return np.asarray(gamma.astype(np.float64) / np.sqrt(spread))


def fold(
    weight: Array,
    bias: Array | None,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = 1e-5,
) -> Folded:
    r"""Layer that computes what `weight`, `bias` and the batch norm after them compute.

    .. math:: w'_c = r_c w_c, \qquad b'_c = \beta_c + (b_c - \mu_c)\, r_c

    One formula for convolution, depthwise convolution and linear layers: the output channel
    is the first axis of all of them.

    Parameters
    ----------
    weight : ndarray of float, shape (out, ...)
    bias : ndarray of float, shape (out,), or None
    gamma, beta, mean, variance : ndarray of float, shape (out,)
    epsilon : float
        As the norm was trained with.

    Returns
    -------
    Folded
        In the dtype of `weight`, computed in float64 and rounded once.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is not finite, or `channel_factors` refuses its
        arguments.

    Notes
    -----
    A gamma of zero leaves a row of zeros and the bias beta, whatever the data. A variance of
    zero is no problem while `epsilon` is not: the factor is then large, and so is the range
    of that row, which spoils a scale shared by all rows.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.2, eq. (14); Krishnamoorthi, 2018,
    arXiv:1806.08342, section 3.2.2.

    Examples
    --------
    >>> one = np.ones(1)
    >>> folded = fold(0.8 * one[:, None], 0.1 * one, 1.5 * one, 0.2 * one, 0.4 * one,
    ...               0.25 * one, epsilon=1e-3)
    >>> folded.weight.round(8), folded.bias.round(8)
    (array([[2.39521435]]), array([-0.69820538]))
    """
    weight, beta, mean = _checked(weight, beta, mean)
    factors = channel_factors(gamma, variance, epsilon=epsilon)
    shape = weight.shape[:1]
    given = {"gamma": factors, "beta": beta, "mean": mean}
    if bias is not None:
        given["bias"] = bias = as_reals("bias", bias)
        require_finite("bias", bias)
    for name, array in given.items():
        require_same_shape(name, array, shape)
    rows = factors.reshape(-1, *(1,) * (weight.ndim - 1))
    start = np.zeros(shape) if bias is None else bias.astype(np.float64)
    moved = beta.astype(np.float64) + (start - mean.astype(np.float64)) * factors
    return Folded((weight * rows).astype(weight.dtype), moved.astype(weight.dtype))


def fold_forward(
    weight: Array,
    bias: Array | None,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    *,
    epsilon: float = 1e-5,
) -> Folded:
    r"""Layer that computes what the batch norm before it, `weight` and `bias` compute.

    .. math:: w'_{c,i} = w_{c,i}\, r_i, \qquad b'_c = b_c + \sum_i w_{c,i} (\beta_i - \mu_i r_i)

    Parameters
    ----------
    weight : ndarray of float, shape (out, ..., in)
        Of a linear layer or a convolution; the sum runs over the window, too.
    bias : ndarray of float, shape (out,), or None
    gamma, beta, mean, variance : ndarray of float, shape (in,)
    epsilon : float
        As the norm was trained with.

    Returns
    -------
    Folded
        In the dtype of `weight`, computed in float64 and rounded once.

    Raises
    ------
    ValueError
        If a shape does not fit, a number is not finite, or `channel_factors` refuses its
        arguments.

    Notes
    -----
    Exact for linear layers and for convolutions without padding. A frame of zeros is put
    around what the norm *returns*; after folding it lies around what the norm *reads*, where
    the value that becomes zero is :math:`\mu_i - \beta_i / r_i`. With zeros instead the
    borders are wrong.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.2, for the other direction; the same
    algebra with the norm first.

    Examples
    --------
    >>> two = np.array([1.0, 1.0])
    >>> folded = fold_forward(np.array([[2.0, 3.0]]), None, two, 5 * two, 0 * two,
    ...                       np.array([0.25, 4.0]), epsilon=0.0)
    >>> folded.weight, folded.bias
    (array([[4. , 1.5]]), array([25.]))
    """
    weight, beta, mean = _checked(weight, beta, mean)
    factors = channel_factors(gamma, variance, epsilon=epsilon)
    for name, array in {"gamma": factors, "beta": beta, "mean": mean}.items():
        require_same_shape(name, array, weight.shape[-1:])
    wide = weight.astype(np.float64)
    shift = beta.astype(np.float64) - mean.astype(np.float64) * factors
    moved = (wide * shift).reshape(len(weight), math.prod(weight.shape[1:])).sum(1)
    if bias is not None:
        bias = as_reals("bias", bias)
        require_same_shape("bias", bias, weight.shape[:1])
        require_finite("bias", bias)
        moved = moved + bias
    return Folded((wide * factors).astype(weight.dtype), moved.astype(weight.dtype))


def _checked(weight: Array, beta: Array, mean: Array) -> tuple[Array, Array, Array]:
    """Finite reals; gamma and variance are the business of `channel_factors`."""
    weight, beta, mean = (as_reals(name, array) for name, array in (
        ("weight", weight), ("beta", beta), ("mean", mean)))
    for name, array in (("weight", weight), ("beta", beta), ("mean", mean)):
        require_finite(name, array)
    return weight, beta, mean
