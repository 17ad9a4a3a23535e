r"""AWQ: round the weights that meet large activations more finely.

A column of the weight that meets inputs of 10 costs a hundred times what one that meets
inputs of 1 does. Multiplying the column by s before rounding, and dividing the input by s,
divides its rounding error by s as long as the group's range does not grow. So every column
is multiplied by a power of its activation,

.. math:: s_j = \overline{|x_j|}^{\,r}, \qquad
          r = \arg\min_r \mathbb{E}\,\lVert x W^T - x\,(Q(W s) / s)^T \rVert^2 ,

one power for the layer, found by trying. Afterwards each group's range is clipped as far as
the output likes it.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_fraction,
    require_int,
    require_not_negative,
    require_same_shape,
    require_second_moment,
)
from refquant.calibration.second_moment import output_error
from refquant.granularity import group, ungroup

__all__ = ["Scaled", "activation_scale", "clip_groups", "search_scale"]


class Scaled(NamedTuple):
    """What the search for a scale found.

    Attributes
    ----------
    scale : ndarray of float64, shape (in,)
        The columns of the weight are multiplied by it, the inputs divided.
    power : float
        r, of the winner; 0 means no scaling.
    losses : ndarray of float64, shape (steps,)
        Mean squared error of the outputs for each power tried.

    References
    ----------
    Lin et al., 2024, arXiv:2306.00978, section 3.2.
    """

    scale: Array
    power: float
    losses: Array


def activation_scale(activation: Array, power: float) -> Array:
    r"""A power of each channel's activation, centred around 1.

    .. math:: s_j = \frac{a_j^r}{\sqrt{\max_k a_k^r\, \min_k a_k^r}}

    Parameters
    ----------
    activation : ndarray of float, shape (in,), >= 0
        Mean magnitude of each input channel. Channels that were always zero do not
        take part and get 1.
    power : float
        r.

    Returns
    -------
    ndarray of float64, shape (in,)
        Positive.

    Raises
    ------
    ValueError
        If `activation` or `power` is negative or not finite.

    References
    ----------
    Lin et al., 2024, arXiv:2306.00978, eq. (5); the centring is that of the authors' code.

    Examples
    --------
    >>> activation_scale(np.array([4.0, 1.0, 0.0]), 0.5).round(4)
    array([1.4142, 0.7071, 1.    ])
    """
    activation = _magnitudes(activation)
    require_not_negative("power", power)
    alive = activation > 0
    scale = np.ones(activation.shape)
    if alive.any():
        scale[alive] = np.maximum(activation[alive].astype(np.float64) ** power, 1e-4)
        scale[alive] /= np.sqrt(scale[alive].max() * scale[alive].min())
    return scale


def search_scale(
    weights: Sequence[Array],
    hessian: Array,
    activation: Array,
    round_trip: Callable[[Array], Array],
    *,
    steps: int = 20,
) -> Scaled:
    """The scale under which rounding costs the outputs least.

    Parameters
    ----------
    weights : sequence of ndarray of float, shape (out, in)
        All layers that read the same input, judged together.
    hessian : ndarray of float, shape (in, in)
        Second moment of that input.
    activation : ndarray of float, shape (in,), >= 0
        Mean magnitude of each input channel.
    round_trip : callable, ndarray (out, in) -> ndarray (out, in)
        Encode and decode, in groups or as you like.
    steps : int
        Powers tried: 0, 1/steps, ..., 1 - 1/steps.

    Returns
    -------
    Scaled
        Its loss is at most that without scaling.

    Raises
    ------
    ValueError
        If there is no layer, the shapes do not fit, a number is not finite, `hessian` is not
        symmetric, its diagonal or `activation` is negative, or `round_trip` returns NaN.

    Notes
    -----
    The authors judge by the outputs of calibration tokens; through the second moment the
    same error costs one small product for each power. They compare the outputs of a whole
    block where several layers share an input; here their errors are added.

    References
    ----------
    Lin et al., 2024, arXiv:2306.00978, eqs. (4) and (5).

    Examples
    --------
    >>> w, h = np.array([[1.0, 0.3]]), np.diag([1.0, 100.0])
    >>> half = lambda w: np.rint(w)
    >>> found = search_scale([w], h, np.array([1.0, 10.0]), half)
    >>> bool(found.losses.min() < found.losses[0])
    True
    """
    activation = _magnitudes(activation)
    require_int("steps", steps, 1)
    hessian, weights = as_reals("hessian", hessian), [as_reals("weights", w) for w in weights]
    if not weights:
        raise ValueError("`weights` must hold at least one layer; got none")
    for weight in weights:
        require_finite("weights", weight)
        require_same_shape("activation", activation, weight.shape[1:])
    require_same_shape("hessian", hessian, activation.shape * 2)
    require_second_moment("hessian", hessian)
    losses = np.empty(steps)
    for k in range(steps):
        scale = activation_scale(activation, k / steps)
        losses[k] = sum(len(w) * output_error(w - _tripped(round_trip, w * scale) / scale, hessian)
                        for w in (w.astype(np.float64) for w in weights))
    if np.isnan(losses).any():
        raise ValueError("`round_trip` must return numbers; got NaN for some power")
    best = int(np.argmin(losses))
    return Scaled(activation_scale(activation, best / steps), best / steps, losses)


def clip_groups(
    weight: Array,
    hessian: Array,
    round_trip: Callable[[Array], Array],
    *,
    group_size: int,
    steps: int = 20,
    shrink: float = 0.5,
) -> Array:
    r"""The weight with each group clipped where that costs the output least.

    For every row and group the largest magnitude m is lowered to
    :math:`m (1 - k / \mathrm{steps})`, and the error of the group's own share of the output is
    compared.

    Parameters
    ----------
    weight : ndarray of float, shape (out, in)
    hessian : ndarray of float, shape (in, in)
        Second moment of the inputs; only its blocks on the diagonal are used.
    round_trip : callable, ndarray (out, groups, group) -> ndarray
        Encode and decode of a grouped weight, one set of parameters per row and group.
    group_size : int
        Must divide the columns.
    steps : int
        Of the grid of clips.
    shrink : float, in (0, 1]
        How far at most.

    Returns
    -------
    ndarray, shape and dtype of `weight`
        Clipped, and not rounded yet.

    Raises
    ------
    ValueError
        If `group_size` does not divide the columns, the shapes do not fit, a number is not
        finite, `hessian` is not symmetric or has a negative diagonal, `shrink` does not lie in
        (0, 1], or `round_trip` returns NaN.

    References
    ----------
    Lin et al., 2024, arXiv:2306.00978; the authors' code, ``auto_clip``.

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.quantizer import fake_quantize
    >>> from refquant.quantizers.uniform import symmetric
    >>> def round_trip(w):
    ...     return fake_quantize(w, symmetric(absmax(w, axis=-1), bits=2))
    >>> w = np.array([[0.5, -0.5, 0.4, 1.0]])
    >>> clip_groups(w, np.eye(4), round_trip, group_size=4)
    array([[ 0.5, -0.5,  0.4,  0.6]])
    """
    require_int("steps", steps, 1)
    require_fraction("shrink", shrink)
    weight, hessian = as_reals("weight", weight), as_reals("hessian", hessian)
    if weight.ndim != 2:
        raise ValueError(f"`weight` must have shape (out, in); got {weight.shape}")
    n = weight.shape[1]
    require_same_shape("hessian", hessian, (n, n))
    require_finite("weight", weight)
    require_second_moment("hessian", hessian)
    blocks = group(weight.astype(np.float64), group_size)
    count = n // group_size
    diagonal = hessian.reshape(count, group_size, count, group_size)[
        np.arange(count), :, np.arange(count)]
    largest = np.abs(blocks).max(-1, keepdims=True)
    best, least = blocks, np.full(largest.shape, np.inf)
    for k in range(int(steps * shrink)):
        bound = largest * (1 - k / steps)
        clipped = np.clip(blocks, -bound, bound)
        d = blocks - _tripped(round_trip, clipped)
        if np.isnan(d).any():
            raise ValueError("`round_trip` must return numbers; got NaN for some clip")
        error = np.einsum("ogi,gij,ogj->og", d, diagonal, d, optimize=True)[..., None]
        best = np.where(error < least, clipped, best)
        least = np.minimum(error, least)
    return ungroup(best).astype(weight.dtype)


def _tripped(round_trip: Callable[[Array], Array], weight: Array) -> Array:
    made = round_trip(weight)
    require_same_shape("round_trip", made, weight.shape)
    return made


def _magnitudes(activation: Array) -> Array:
    activation = as_reals("activation", activation)
    require_finite("activation", activation)
    if (activation < 0).any():
        raise ValueError(f"`activation` must hold magnitudes, at least 0; got {activation.min()}")
    return activation
