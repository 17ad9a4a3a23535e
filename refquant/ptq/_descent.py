"""Adam for one method's few arrays: networks have theirs in `nn`, which methods do not import."""

import numpy as np

from refquant._types import Array

__all__ = ["Adam"]


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
