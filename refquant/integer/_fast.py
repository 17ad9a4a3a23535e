"""The same codes in less time: where sums are proved small, floats hold them exactly."""

from typing import TYPE_CHECKING

from refquant._types import Array
from refquant.quantizers.uniform import Uniform

if TYPE_CHECKING:
    from refquant.integer.convolution import Window
    from refquant.integer.layers import Rescaled


def convolution(
    layer: "Rescaled", weight: Array, bias: Array, x: Uniform, window: "Window"
) -> "Rescaled":
    """The layer with a faster way, if there is one."""
    return layer


def depthwise(
    layer: "Rescaled", weight: Array, bias: Array, x: Uniform, window: "Window"
) -> "Rescaled":
    """The layer with a faster way, if there is one."""
    return layer


def fully_connected(layer: "Rescaled", weight: Array, bias: Array, x: Uniform) -> "Rescaled":
    """The layer with a faster way, if there is one."""
    return layer
