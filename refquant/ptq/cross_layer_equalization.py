r"""Cross-layer equalization: move scale from one layer into the next, until both are even.

A ReLU does not mind a positive factor, :math:`f(s x) = s f(x)`. So channel i of one layer may
be divided by :math:`s_i` and the weights that read it multiplied by :math:`s_i`, and the
network computes what it did. With

.. math:: s_i = \sqrt{r^{(1)}_i / r^{(2)}_i}

the ranges of the rows of the first layer and of the columns of the second are equal,
channel by channel, to :math:`\sqrt{r^{(1)}_i r^{(2)}_i}`, and a scale shared by the whole tensor
suits them all. Nothing is gained where every channel has its own scale anyway.

What lies between must be positively homogeneous: ReLU, leaky ReLU, max and average pools. Not
ReLU6, whose 6 would have to become :math:`6 / s_i`; not GELU or a sigmoid; not a value that
a residual addition reads.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_finite,
    require_int,
    require_not_negative,
    require_number,
    require_same_shape,
)

__all__ = [
    "Absorbed",
    "EqualizedChain",
    "EqualizedPair",
    "absorb_bias",
    "equalize_chain",
    "equalize_pair",
    "triple_scales",
]


class EqualizedPair(NamedTuple):
    """Two layers after equalization.

    Attributes
    ----------
    first, bias, second : ndarray of float
        Weight and bias of the first layer, weight of the second.
    scale : ndarray of float64, shape (channels,)
        s: the value between the layers is divided by it, and so are its statistics.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.1.
    """

    first: Array
    bias: Array
    second: Array
    scale: Array


class EqualizedChain(NamedTuple):
    """Layers in a row after equalization.

    Attributes
    ----------
    weights, biases : list of ndarray of float
    scales : list of ndarray of float64
        Between each layer and the next: the product of all sweeps.
    sweeps : int
        How many it took.
    converged : bool
        Whether the last sweep changed no scale by more than the tolerance.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.
    """

    weights: list[Array]
    biases: list[Array]
    scales: list[Array]
    sweeps: int
    converged: bool


class Absorbed(NamedTuple):
    """Biases after absorption.

    Attributes
    ----------
    first, second : ndarray of float
        Biases of the two layers.
    shift : ndarray of float64, shape (channels,)
        c: what the value between the layers is less than before.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.3.
    """

    first: Array
    second: Array
    shift: Array


def equalize_pair(first: Array, bias: Array, second: Array) -> EqualizedPair:
    r"""Two layers of the same function whose ranges agree, channel by channel.

    .. math:: W^{(1)} \leftarrow S^{-1} W^{(1)}, \quad b \leftarrow S^{-1} b, \quad
              W^{(2)} \leftarrow W^{(2)} S, \qquad s_i = \sqrt{r^{(1)}_i / r^{(2)}_i}

    Parameters
    ----------
    first : ndarray of float, shape (channels, ...)
        Weight of the first layer; depthwise, too.
    bias : ndarray of float, shape (channels,)
    second : ndarray of float, shape (out, ..., channels), or (channels, h, w, 1) if depthwise

    Returns
    -------
    EqualizedPair
        A channel with a range of zero on either side keeps its scale.

    Raises
    ------
    ValueError
        If the second layer does not read the channels of the first, or a number is not finite.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.1.

    Examples
    --------
    >>> pair = equalize_pair(np.array([[8.0], [0.5]]), np.array([4.0, 1.0]), np.array([[0.5, 2.0]]))
    >>> pair.scale, pair.first.ravel(), pair.second
    (array([4. , 0.5]), array([2., 1.]), array([[2., 1.]]))
    """
    first, second = as_reals("first", first), as_reals("second", second)
    bias = as_reals("bias", bias)
    for name, array in (("first", first), ("bias", bias), ("second", second)):
        require_finite(name, array)
    require_same_shape("bias", bias, first.shape[:1])
    axis = _input_axis(second, len(first))
    r1 = np.abs(first.astype(np.float64)).max(tuple(range(1, first.ndim)), initial=0)
    r2 = np.moveaxis(np.abs(second.astype(np.float64)), axis, 0)
    r2 = r2.max(tuple(range(1, r2.ndim)), initial=0)
    alive = (r1 > 0) & (r2 > 0)
    scale = np.sqrt(np.divide(r1, r2, out=np.ones_like(r1), where=alive))
    return EqualizedPair(
        (first / _along(scale, 0, first.ndim)).astype(first.dtype),
        (bias / scale).astype(bias.dtype),
        (second * _along(scale, axis, second.ndim)).astype(second.dtype),
        scale,
    )


def triple_scales(first: Array, middle: Array, last: Array) -> tuple[Array, Array]:
    r"""Scales that make all three ranges equal around a depthwise layer.

    .. math:: s^{12}_i = r_1 / c, \quad s^{23}_i = c / r_3, \qquad c = \sqrt[3]{r_1 r_2 r_3}

    The limit of equalizing the two pairs in turn, in closed form.

    Parameters
    ----------
    first : ndarray of float, shape (channels, ...)
        To be divided by the scale `before`, and `middle` multiplied by it.
    middle : ndarray of float, shape (channels, h, w, 1)
        To be divided by the scale `after`, and `last` multiplied by it.
    last : ndarray of float, shape (out, ..., channels)

    Returns
    -------
    before : ndarray of float64, shape (channels,)
        The first scale, s12.
    after : ndarray of float64, shape (channels,)
        The second, s23.

    Raises
    ------
    ValueError
        If the shapes do not belong together, or a number is not finite.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1; the closed form is that of AIMET.

    Examples
    --------
    >>> triple_scales(np.array([[8.0]]), np.array([[[[1.0]]]]), np.array([[1.0]]))
    (array([4.]), array([2.]))
    """
    first, middle, last = (as_reals(name, w) for name, w in (
        ("first", first), ("middle", middle), ("last", last)))
    for name, w in (("first", first), ("middle", middle), ("last", last)):
        require_finite(name, w)
    if not first.ndim:
        raise ValueError("`first` must have channels; got a number")
    channels = len(first)
    require_same_shape("middle", middle, (channels, *middle.shape[1:3], 1))
    require_same_shape("last", last, (*last.shape[:-1], channels))
    r1, r2 = (np.abs(w.astype(np.float64)).max(tuple(range(1, w.ndim)), initial=0)
              for w in (first, middle))
    r3 = np.abs(last.astype(np.float64)).max(tuple(range(last.ndim - 1)), initial=0)
    alive = (r1 > 0) & (r2 > 0) & (r3 > 0)
    r1, r2, r3 = (np.where(alive, r, 1.0) for r in (r1, r2, r3))
    middle_range = np.cbrt(r1 * r2 * r3)
    return r1 / middle_range, middle_range / r3


def equalize_chain(
    weights: Sequence[Array],
    biases: Sequence[Array],
    *,
    tolerance: float = 1e-3,
    most: int = 100,
) -> EqualizedChain:
    """Layers in a row, each pair equalized in turn until nothing changes.

    Parameters
    ----------
    weights : sequence of ndarray of float
        At least two; each reads the channels of the one before.
    biases : sequence of ndarray of float
        One for each layer.
    tolerance : float
        Stop after a sweep in which no logarithm of a scale exceeds it.
    most : int
        Sweeps, at most.

    Returns
    -------
    EqualizedChain

    Raises
    ------
    ValueError
        If there are fewer than two layers, or biases of another number; if `tolerance` is
        negative, or as `equalize_pair`.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1 ("iterated until convergence").

    Examples
    --------
    >>> eye = np.eye(2)
    >>> chain = equalize_chain([16 * eye, eye, eye], [np.zeros(2)] * 3, tolerance=1e-9)
    >>> [float(np.abs(w).max().round(4)) for w in chain.weights], chain.converged
    ([2.5198, 2.5198, 2.5198], True)
    """
    require_int("most", most, 1)
    require_number("tolerance", tolerance)
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must not be negative; got {tolerance}")
    ws = [as_reals("weights", w) for w in weights]
    bs = [as_reals("biases", b) for b in biases]
    for name, arrays in (("weights", ws), ("biases", bs)):
        for array in arrays:
            require_finite(name, array)
    if len(ws) < 2 or len(bs) != len(ws):
        raise ValueError(
            f"`weights` must be two or more, with a bias each; got {len(ws)} and {len(bs)}"
        )
    if not all(w.ndim for w in ws):
        raise ValueError("`weights` must have channels; got a number")
    scales = [np.ones(len(w)) for w in ws[:-1]]
    sweeps, change = 0, np.inf
    while change > tolerance and sweeps < most:
        sweeps, change = sweeps + 1, 0.0
        for i in range(len(ws) - 1):
            ws[i], bs[i], ws[i + 1], scale = equalize_pair(ws[i], bs[i], ws[i + 1])
            scales[i] = scales[i] * scale
            change = max(change, float(np.abs(np.log(scale)).max(initial=0.0)))
    return EqualizedChain(ws, bs, scales, sweeps, change <= tolerance)


def absorb_bias(
    first: Array,
    second: Array,
    second_bias: Array,
    mean: Array,
    deviation: Array,
    *,
    reach: float = 3.0,
) -> Absorbed:
    r"""Biases with the part of the first that the ReLU never notices moved to the second.

    .. math:: c = \max(0, \beta - 3 |\gamma|), \qquad b^{(1)} \leftarrow b^{(1)} - c, \qquad
              b^{(2)} \leftarrow b^{(2)} + W^{(2)} c

    A channel that stays above c, but for one value in 740 if it is normal, has no use for the
    codes from 0 to c.

    Parameters
    ----------
    first : ndarray of float, shape (channels,)
        Bias of the first layer.
    second : ndarray of float, shape (out, ..., channels), or (channels, h, w, 1) if depthwise
    second_bias : ndarray of float, shape (out,)
    mean, deviation : ndarray of float, shape (channels,)
        Of the value before the ReLU: beta and :math:`|\gamma|` of the batch norm.
    reach : float
        Standard deviations that must remain above zero.

    Returns
    -------
    Absorbed

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `reach` is negative.

    Notes
    -----
    Exact wherever the value was above c. If the second layer pads its image, it must pad with
    :math:`-c` from now on: what was a zero outside has been shifted like everything else.
    With zeros the borders are wrong.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.3.

    Examples
    --------
    >>> two = absorb_bias(np.array([10.0]), np.array([[2.0]]), np.zeros(1), np.array([10.0]),
    ...                   np.array([1.0]))
    >>> two.first, two.second, two.shift
    (array([3.]), array([14.]), array([7.]))
    """
    first, second = as_reals("first", first), as_reals("second", second)
    second_bias = as_reals("second_bias", second_bias)
    mean, deviation = as_reals("mean", mean), as_reals("deviation", deviation)
    for name, array in (("first", first), ("second", second), ("second_bias", second_bias),
                        ("mean", mean), ("deviation", deviation)):
        require_finite(name, array)
    for name, array in (("mean", mean), ("deviation", deviation)):
        require_same_shape(name, array, first.shape)
    require_same_shape("second_bias", second_bias, second.shape[:1])
    require_not_negative("reach", reach)
    shift = np.maximum(0.0, mean.astype(np.float64) - reach * np.abs(deviation))
    axis = _input_axis(second, len(first))
    moved = (second.astype(np.float64) * _along(shift, axis, second.ndim)).reshape(
        len(second), math.prod(second.shape[1:]))
    return Absorbed(
        (first - shift).astype(first.dtype),
        (second_bias + moved.sum(1)).astype(second_bias.dtype),
        shift,
    )


def _input_axis(second: Array, channels: int) -> int:
    """The axis of a weight along which it reads: the last, or the first if depthwise."""
    if second.ndim >= 2 and second.shape[-1] == channels:
        return second.ndim - 1
    if second.ndim == 4 and second.shape[3] == 1 and second.shape[0] == channels:
        return 0
    raise ValueError(f"`second` must read {channels} channels; got shape {second.shape}")


def _along(scale: Array, axis: int, ndim: int) -> Array:
    return scale.reshape([-1 if a == axis else 1 for a in range(ndim)])
