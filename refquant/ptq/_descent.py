"""What the methods that learn one layer share: their checks, and Adam for a few arrays.

Networks have an Adam of their own in `nn`, which methods do not import.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_finite,
    require_int,
    require_kind,
    require_nonempty,
    require_same_shape,
)
from refquant.quantizers.uniform import Uniform

__all__ = ["Adam", "require_grid", "require_layer"]


def require_layer(
    weight: Array, x: Array, target: Array, bias: Array | None, steps: int, batch: int
) -> tuple[Array, Array, Array]:
    """Weight, inputs and targets as arrays: finite reals that fit each other, and the bias."""
    weight, x, target = (as_reals(name, value) for name, value in (
        ("weight", weight), ("x", x), ("target", target)))
    if x.ndim < 2:
        raise ValueError(f"`x` must have shape (n, ..., in); got {x.shape}")
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"`weight` must have shape (out, {x.shape[-1]}); got {weight.shape}")
    require_same_shape("target", target, (*x.shape[:-1], len(weight)))
    require_nonempty("x", x)
    for name, value in (("weight", weight), ("x", x), ("target", target)):
        require_finite(name, value)
    if bias is not None:
        bias = as_reals("bias", bias)
        require_same_shape("bias", bias, weight.shape[:1])
        require_finite("bias", bias)
    require_int("steps", steps, 0)
    require_int("batch", batch, 1)
    return weight, x, target


def require_grid(quantizer: Uniform, weight: Array, rng: np.random.Generator) -> None:
    """Raise unless the grid is uniform and fits the weight, and `rng` makes draws."""
    require_kind("quantizer", quantizer, Uniform)
    for parameter in (quantizer.scale, quantizer.zero_point):
        require_broadcastable("quantizer", np.asarray(parameter), weight.shape)
    require_kind("rng", rng, np.random.Generator)


class Adam:
    """Steps of one array (Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1)."""

    def __init__(self, shape: tuple[int, ...], rate: float) -> None:
        self.rate, self.steps = rate, 0
        self.first, self.second = np.zeros(shape), np.zeros(shape)

    def step(self, gradient: Array) -> Array:
        """What to subtract from the array."""
        self.steps += 1
        self.first = 0.9 * self.first + 0.1 * gradient
        self.second = 0.999 * self.second + 0.001 * gradient**2
        width = np.sqrt(self.second / (1 - 0.999**self.steps)) + 1e-8
        return self.rate / (1 - 0.9**self.steps) * self.first / width
