r"""An integer layer: add up codes exactly, requantize, add the zero point, clamp.

Almost every layer of an integer-only network is that sentence,

.. math:: y = \mathrm{clip}\bigl(\mathrm{rule}(\mathrm{acc}(x),\ M) + z_y,\
          \mathit{low},\ \mathit{high}\bigr),

with another `accumulate` in front: products of a convolution, a difference to the zero
point, a product of two tensors. `Rescaled` is the sentence as a record, so that its
sums, its multiplier and its rule can be looked at and exchanged one at a time.

A fused activation is only a narrower pair of limits: `limits` finds them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant.integer.arithmetic import QuantizedMultiplier
from refquant.integer.requantize import Rule
from refquant.quantizers.uniform import Uniform
from refquant.rounding import half_away

__all__ = ["NONE", "RELU", "RELU6", "RELU_N1_TO_1", "Limits", "Rescaled", "clamp", "limits"]

_INFINITY = float("inf")

#: Fused activations: the interval of real numbers to which they clip.
NONE, RELU = (-_INFINITY, _INFINITY), (0.0, _INFINITY)
RELU6, RELU_N1_TO_1 = (0.0, 6.0), (-1.0, 1.0)


class Limits(NamedTuple):
    """Smallest and largest code that a layer may give.

    Attributes
    ----------
    low, high : int

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.4.

    Examples
    --------
    >>> Limits(-128, 127).high
    127
    """

    low: int
    high: int


def limits(activation: tuple[float, float], output: Uniform) -> Limits:
    r"""Codes between which a fused activation keeps its output.

    .. math:: \mathit{low} = \max(q_{min},\ z + \lfloor a / s \rceil), \qquad
              \mathit{high} = \min(q_{max},\ z + \lfloor b / s \rceil)

    The division is one of float32, and ties go away from zero.

    Parameters
    ----------
    activation : tuple of float
        The real interval ``(a, b)``, such as `RELU6`.
    output : Uniform
        With one scale.

    Returns
    -------
    Limits

    References
    ----------
    TensorFlow Lite, ``CalculateActivationRangeQuantized``.

    Examples
    --------
    >>> limits(RELU6, Uniform(np.array(0.0235294), np.array(-128), -128, 127))
    Limits(low=-128, high=127)
    >>> limits(RELU, Uniform(np.array(0.1), np.array(5), -128, 127))
    Limits(low=5, high=127)
    """
    scale, zero = np.float32(output.scale.item()), int(output.zero_point.item())
    ends = [output.qmin, output.qmax]
    for k, (real, narrower) in enumerate(zip(activation, (max, min), strict=True)):
        if np.isfinite(real):
            ends[k] = narrower(ends[k], zero + int(half_away(np.asarray(np.float32(real) / scale))))
    return Limits(*ends)


def clamp(whole: Array, low: int, high: int) -> Codes:
    """Codes of whole numbers, held between two limits.

    Parameters
    ----------
    whole : ndarray of int64
    low, high : int

    Returns
    -------
    ndarray of int32

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.4.

    Examples
    --------
    >>> clamp(np.array([-300, 5, 300]), -128, 127)
    array([-128,    5,  127], dtype=int32)
    """
    return np.minimum(np.maximum(whole, low), high).astype(np.int32)


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A layer that adds up, and brings the sums to the scale of its output.

    Calling it with codes gives codes.

    Attributes
    ----------
    accumulate : callable, (ndarray of int, ...) -> ndarray of int64
        Exact sums of the codes, in units of the product of the input scales.
    multiplier : ndarray of float64 or QuantizedMultiplier, broadcastable to the sums
        Unit of the sums over the scale of the output; made of integers already where
        no float may be met at run time.
    rule : callable
        How the product of the two becomes a whole number.
    output : Uniform
        With one scale.
    limits : Limits
    fast : callable or None
        Gives the same codes in less time, if there is such a way.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.4.

    Examples
    --------
    >>> from refquant.integer.requantize import double_away
    >>> output = Uniform(np.array(0.5), np.array(-3), -128, 127)
    >>> halve = Rescaled(lambda x: x - 7, np.array(0.5), double_away, output, Limits(-128, 127))
    >>> halve(np.array([17, 8]))            # 5 - 3 and 1 - 3: a half goes away from zero
    array([ 2, -2], dtype=int32)
    """

    accumulate: Callable[..., Array]
    multiplier: Array | QuantizedMultiplier
    rule: Rule
    output: Uniform
    limits: Limits
    fast: Callable[..., Codes] | None = None

    def __call__(self, *codes: Array) -> Codes:
        """Codes of the output."""
        if self.fast is not None:
            return self.fast(*codes)
        return self.finish(self.accumulate(*codes))

    def finish(self, sums: Array) -> Codes:
        """Codes of the output from the sums."""
        whole = self.rule(sums, self.multiplier) + int(self.output.zero_point.item())
        return clamp(whole, *self.limits)
