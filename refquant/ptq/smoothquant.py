r"""SmoothQuant: move the difficulty from the activations into the weights.

A few input channels of a transformer's layers are a hundred times larger than the rest and
take the whole range of an activation's codes. Weights have no such channels. Dividing a channel
of x by s and multiplying the matching column of W by s changes no product, and shares the
trouble:

.. math:: x W^T = (x / s)\,(W s)^T, \qquad
          s_j = \frac{(\max |x_j|)^{\alpha}}{(\max |W_{:,j}|)^{1 - \alpha}} .

The division is folded into whatever made x: the gain and bias of a normalization, or the rows
of a linear layer.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_number,
    require_positive,
    require_same_shape,
)

__all__ = ["fold_into_rows", "smooth", "smoothing_scale"]

#: Below it, a channel's range counts as this: no division by what is nearly nothing.
FLOOR = 1e-5


def smoothing_scale(inputs: Array, weights: Array, *, alpha: float = 0.5) -> Array:
    r"""What each input channel is divided by.

    .. math:: s_j = \frac{(\max |x_j|)^{\alpha}}{(\max |W_{:,j}|)^{1 - \alpha}}

    At 1/2, both sides end with the same range in every channel,
    :math:`\sqrt{\max|x_j| \max|W_{:,j}|}`.

    Parameters
    ----------
    inputs : ndarray of float, shape (in,), >= 0
        Largest magnitude of each input channel.
    weights : ndarray of float, shape (in,), >= 0
        Largest magnitude of each column, over all layers that read the same input.
    alpha : float, in [0, 1]
        0 flattens the weights, 1 the activations.

    Returns
    -------
    ndarray of float64, shape (in,)
        Positive and finite; 1 for a channel that was always zero, or meets only zeros.

    Raises
    ------
    ValueError
        If a range is negative or not finite, the shapes differ, or `alpha` is out of range.

    Notes
    -----
    The authors' code gives a channel that was always zero the floor of 1e-5. Behind a
    ReLU such channels exist; folded into the layer before, the floor would multiply its
    rows by 100,000, and one input that wakes the channel would drown all others.

    References
    ----------
    Xiao et al., 2023, arXiv:2211.10438, eq. (4).

    Examples
    --------
    >>> smoothing_scale(np.array([100.0, 1.0]), np.array([1.0, 1.0]))
    array([10.,  1.])
    """
    inputs, weights = as_reals("inputs", inputs), as_reals("weights", weights)
    require_same_shape("weights", weights, inputs.shape)
    require_number("alpha", alpha)
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1]; got {alpha}")
    for name, ranges in (("inputs", inputs), ("weights", weights)):
        require_finite(name, ranges)
        if (ranges < 0).any():
            raise ValueError(f"`{name}` must hold magnitudes, at least 0; got {ranges.min()}")
    x = np.maximum(inputs.astype(np.float64), FLOOR)
    w = np.maximum(weights.astype(np.float64), FLOOR)
    scale = np.maximum(x**alpha / w ** (1 - alpha), FLOOR)
    return np.where((inputs > 0) & (weights > 0), scale, 1.0)


def smooth(weight: Array, scale: Array) -> Array:
    """The weight for inputs that have been divided by the scale.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    scale : ndarray of float, shape (in,)
        Of `smoothing_scale`.

    Returns
    -------
    ndarray, shape and dtype of `weight`

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `scale` is not positive.

    References
    ----------
    Xiao et al., 2023, arXiv:2211.10438, eq. (3).

    Examples
    --------
    >>> smooth(np.array([[1.0, 1.0]]), np.array([10.0, 1.0]))
    array([[10.,  1.]])
    """
    weight, scale = as_reals("weight", weight), as_reals("scale", scale)
    require_same_shape("scale", scale, weight.shape[-1:])
    require_finite("weight", weight)
    require_positive("scale", scale)
    return (weight * scale).astype(weight.dtype, copy=False)


def fold_into_rows(parameter: Array, scale: Array) -> Array:
    """A parameter of the layer before, whose output channels now come out divided.

    Parameters
    ----------
    parameter : ndarray of float, shape (channels, ...)
        Gain or bias of a normalization, weight or bias of a linear layer. Between it
        and the division there may be a ReLU, and nothing that is not homogeneous.
    scale : ndarray of float, shape (channels,)

    Returns
    -------
    ndarray, shape and dtype of `parameter`

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `scale` is not positive.

    References
    ----------
    Xiao et al., 2023, arXiv:2211.10438, section 4, "applying SmoothQuant".

    Examples
    --------
    >>> fold_into_rows(np.array([5.0, 3.0]), np.array([10.0, 1.0]))
    array([0.5, 3. ])
    """
    parameter, scale = as_reals("parameter", parameter), as_reals("scale", scale)
    require_same_shape("scale", scale, parameter.shape[:1])
    require_finite("parameter", parameter)
    require_positive("scale", scale)
    column = scale.reshape(-1, *(1,) * (parameter.ndim - 1))
    return (parameter / column).astype(parameter.dtype, copy=False)
