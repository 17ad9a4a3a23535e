r"""QuantNoise: quantize a random part of the weights each step, so that the rest keeps a gradient.

.. math:: \tilde w_J = \varphi(w_J) \text{ for a random share } p \text{ of the blocks},
          \qquad \tilde w = w \text{ elsewhere}

The weights left alone have the true gradient, measured in a network that is already a little
quantized; only those in J need the straight-through estimator. At p = 1 this is plain
quantization-aware training, at 0 plain training. For evaluation all are quantized.
"""

from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    as_unmasked,
    require_broadcastable,
    require_int,
    require_number,
)
from refquant.qat.proximal import Projection

__all__ = ["noise_mask", "quant_noise"]


def noise_mask(
    shape: tuple[int, ...], *, rate: float, rng: np.random.Generator, block: int = 1
) -> Array:
    """Which weights are quantized in this step: whole blocks along the last axis.

    Parameters
    ----------
    shape : tuple of int
        Of the weight.
    rate : float
        p, from 0 to 1. The authors: 0.5 for scalar int8, 0.05 to 0.2 for vector codes.
    rng : numpy.random.Generator
        One uniform draw per block, in C order.
    block : int
        Neighbours that share their fate: 1, or the length of a vector code (8).

    Returns
    -------
    ndarray of bool, shape `shape`

    Raises
    ------
    ValueError
        If `rate` is not in [0, 1] or `block` does not divide the last axis.

    References
    ----------
    Fan et al., 2021, arXiv:2004.07320, section 4.

    Examples
    --------
    >>> noise_mask((2, 4), rate=0.5, rng=np.random.default_rng(1), block=2).astype(int)
    array([[0, 0, 0, 0],
           [1, 1, 0, 0]])
    """
    require_number("rate", rate)
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must lie in [0, 1]; got {rate}")
    if shape[-1] % require_int("block", block, 1):
        raise ValueError(f"`block` must divide {shape[-1]} columns; got {block}")
    drawn = rng.random((*shape[:-1], shape[-1] // block)) < rate
    return np.repeat(drawn, block, axis=-1)


def quant_noise(
    weight: Array, mask: Array, *, project: Projection
) -> tuple[Array, Callable[[Array], tuple[Array, None]]]:
    r"""The weight with its masked part quantized, and the gradient as if none were.

    Over the draws of the mask, :math:`E[\tilde w] = (1 - p)\, w + p\, \varphi(w)`: on the average
    the value of `refquant.qat.blending.blend`, element by element one or the other.

    Parameters
    ----------
    weight : ndarray of float
    mask : ndarray of bool, broadcastable to `weight`
        From `noise_mask`: an array, so that each step can hand in a new one as an input.
    project : callable, ndarray -> ndarray
        :math:`\varphi` of the whole weight: fake quantization, nearest centroids, or
        `numpy.zeros_like`, with which the authors stand in for expensive vector codes.

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
    pullback : callable
        Gradient of `weight`: that of the value; None for `mask`.

    Raises
    ------
    TypeError
        If `mask` is not of bools.

    References
    ----------
    Fan et al., 2021, arXiv:2004.07320, section 4.

    Examples
    --------
    >>> w, mask = np.array([0.2, 0.7]), np.array([False, True])
    >>> noisy, pullback = quant_noise(w, mask, project=np.rint)
    >>> noisy, pullback(np.array([3.0, 4.0]))[0]
    (array([0.2, 1. ]), array([3., 4.]))
    """
    weight, mask = as_reals("weight", weight), as_unmasked("mask", mask)
    if mask.dtype != np.bool_:
        raise TypeError(f"`mask` must be of bools; got {mask.dtype}")
    require_broadcastable("mask", mask, weight.shape)
    return np.where(mask, project(weight), weight).astype(weight.dtype), lambda g: (g, None)
