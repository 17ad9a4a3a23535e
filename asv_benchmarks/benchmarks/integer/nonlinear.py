"""I-BERT's functions: time beside float64, and the error that remains at each scale."""

import numpy as np
from scipy.special import erf

from refquant.integer.nonlinear import (
    i_exp,
    i_exp_released,
    i_gelu,
    i_gelu_released,
    i_layer_norm,
    i_softmax,
)

from ..common import Benchmark, Quality, size


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


class Nonlinear(Benchmark):
    params = (["refquant", "float64"],)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.q = np.random.default_rng(0).integers(-4000, 4000, (size(98_304) // 768, 768))

    def time_gelu(self, impl: str) -> None:
        i_gelu(self.q, 0.001) if impl == "refquant" else gelu(self.q * 0.001)

    def time_softmax(self, impl: str) -> None:
        if impl == "refquant":
            i_softmax(self.q, 0.001)
        else:
            exp = np.exp(self.q * 0.001)
            exp / exp.sum(axis=-1, keepdims=True)

    def time_layer_norm(self, impl: str) -> None:
        if impl == "refquant":
            i_layer_norm(self.q, shift=2)
        else:
            x = self.q * 0.001
            (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)


class NonlinearQuality(Quality):
    params = ([0.001, 0.01, 0.1], ["paper", "released"])
    param_names = ("scale", "form")

    def setup(self, scale: float, form: str) -> None:
        self.q = np.arange(-int(8 / scale), int(8 / scale))

    def track_gelu_error(self, scale: float, form: str) -> float:
        """Largest error on [-8, 8)."""
        result = (i_gelu if form == "paper" else i_gelu_released)(self.q, scale)
        return float(np.abs(result.q * result.scale - gelu(self.q * scale)).max())

    def track_exp_error(self, scale: float, form: str) -> float:
        """Largest error on [-8, 0)."""
        q = self.q[self.q < 0]
        result = (i_exp if form == "paper" else i_exp_released)(q, scale)
        return float(np.abs(result.q * result.scale - np.exp(q * scale)).max())

    track_gelu_error.unit = track_exp_error.unit = "of 1"
