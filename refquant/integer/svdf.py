r"""SVDF of codes: a layer that remembers its last answers, and weighs them by their age.

A filter is a matrix over input and time, of rank one: a vector u over the input and a
vector v over the last `memory` steps. With the rounding between, step t is

.. math:: a_{f,t} = u_f \cdot x_t, \qquad
          y_{n,t} = b_n + \sum_{f \in n} \sum_{\tau} v_{f,\tau}\, a_{f,t - \tau} .

The state is the a's of the last steps, in 8 or 16 bits; a unit n sums several filters.
The state is an argument and a result: nothing is remembered here.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes, require_same_shape
from refquant.integer.arithmetic import multiply_by_quantized_multiplier, quantize_multiplier
from refquant.integer.requantize import Product, ratio_in_float32
from refquant.quantizers.uniform import Uniform

__all__ = ["Svdf", "svdf"]


class Svdf(NamedTuple):
    """All that stays the same from step to step.

    Attributes
    ----------
    feature_weight : ndarray of int, shape (filters, in)
        u, codes of 8 bits without zero point.
    feature_scale : float
        Of `feature_weight`, used as float32.
    time_weight : ndarray of int, shape (filters, memory)
        v, codes without zero point, of the width of the state; the newest step last.
    time_scale : float
        Of `time_weight`, used as float32.
    bias : ndarray of int, shape (units,)
        b, int32, in units of the scales of state and `time_weight`. As many filters to a
        unit as the number of filters is larger, and they are neighbours.
    x_quantizer, state_quantizer, y_quantizer : Uniform
        Of the input, the state (8 bits, or 16 with zero point 0) and the output.

    References
    ----------
    Nakkiran et al., 2015, "Compressing Deep Neural Networks using a Rank-Constrained
    Topology", section 3.

    Examples
    --------
    >>> Svdf._fields[:4]
    ('feature_weight', 'feature_scale', 'time_weight', 'time_scale')
    """

    feature_weight: Array
    feature_scale: float
    time_weight: Array
    time_scale: float
    bias: Array
    x_quantizer: Uniform
    state_quantizer: Uniform
    y_quantizer: Uniform


def svdf(
    x: Array, layer: Svdf, state: Array, *, product: Product = ratio_in_float32
) -> tuple[Codes, Codes]:
    """One step: the answer, and the state with its oldest entry gone.

    Parameters
    ----------
    x : ndarray of int, shape (batch, in)
        Codes of ``layer.x_quantizer``.
    layer : Svdf
    state : ndarray of int, shape (batch, filters, memory)
        Codes of ``layer.state_quantizer``, oldest first; at the start its zero point.
    product : callable
        How three scales become a multiplier: LiteRT's way, or `product_in_float64`, that of
        TensorFlow Lite Micro.

    Returns
    -------
    y : ndarray of int32, shape (batch, units)
        Codes of ``layer.y_quantizer``.
    state : ndarray of int32, shape (batch, filters, memory)

    Raises
    ------
    ValueError
        If codes or shapes do not fit, or a sum is not an int32.
    TypeError
        If codes are not integers.

    Notes
    -----
    The new entry is clipped to the codes of the state before its zero point is added. With
    8 bits and a zero point other than 0 the sum may leave the codes; it wraps, as in C.
    LiteRT has the 16-bit state only. A fused ReLU, which LiteRT demands, does nothing but
    what the codes of the output do: the kernels do not apply it.

    References
    ----------
    TensorFlow Lite Micro, ``EvalIntegerSvdfReference``.

    Examples
    --------
    >>> one = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> u, v = np.array([[1, 2]]), np.array([[1, 10]])
    >>> layer = Svdf(u, 1.0, v, 1.0, np.array([5]), one, one, one)
    >>> y, state = svdf(np.array([[3, 1]]), layer, np.array([[[0, 2]]]))
    >>> y, state                            # 2 * 1 + 5 * 10 + 5
    (array([[57]], dtype=int32), array([[[2, 5]]], dtype=int32))
    """
    old = require_codes("state", state, layer.state_quantizer.qmin, layer.state_quantizer.qmax)
    x = require_codes("x", x, layer.x_quantizer.qmin, layer.x_quantizer.qmax).astype(np.int64)
    filters, memory = np.shape(layer.time_weight)
    units = len(layer.bias)
    if units == 0 or filters % units:
        raise ValueError(f"`bias` must divide the {filters} filters; got {units} units")
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (batch, in); got {x.shape}")
    require_same_shape("feature_weight", layer.feature_weight, (filters, x.shape[1]))
    require_same_shape("state", old, (len(x), filters, memory))

    s_x, s_state, s_y = (
        q.scale.item() for q in (layer.x_quantizer, layer.state_quantizer, layer.y_quantizer)
    )
    steps = x - int(layer.x_quantizer.zero_point.item())
    sums = steps @ np.asarray(layer.feature_weight, np.int64).T
    newest = _times(sums, product(s_x, layer.feature_scale, s_state))
    word = np.int8 if layer.state_quantizer.code_bits == 8 else np.int16
    newest = np.clip(newest, np.iinfo(word).min, np.iinfo(word).max)
    zero_point = int(layer.state_quantizer.zero_point.item())
    newest = (newest + zero_point).astype(word)
    new = np.concatenate([old[:, :, 1:], newest[:, :, None]], axis=2).astype(np.int32)

    weighted = np.asarray(layer.time_weight, np.int64) * (new.astype(np.int64) - zero_point)
    sums = weighted.reshape(len(x), units, -1).sum(axis=2) + layer.bias
    y = _times(sums, product(s_state, layer.time_scale, s_y))
    y = np.clip(
        y + int(layer.y_quantizer.zero_point.item()), layer.y_quantizer.qmin, layer.y_quantizer.qmax
    )
    return y.astype(np.int32), new


def _times(x: Array, real: Array) -> Array:
    return multiply_by_quantized_multiplier(x, quantize_multiplier(real))
