"""Softmax of codes: time of each way, and its distance from the real one."""

import numpy as np

from refquant.integer.softmax import fixed_softmax, float_table_softmax, table_softmax
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality, size


def record(scale: float, zero_point: int, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(zero_point), -top, top - 1)


WAYS = {
    "fixed, 8 bits": (fixed_softmax, record(0.05, 0, 8), record(1 / 256, -128, 8)),
    "float table, 8 bits": (float_table_softmax, record(0.05, 0, 8), record(1 / 256, -128, 8)),
    "tables, 16 bits": (table_softmax, record(2e-4, 0, 16), record(2.0**-15, 0, 16)),
}


def rows(x: Uniform, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(x.qmin, x.qmax, (count, 10))


class Softmax(Benchmark):
    params = (list(WAYS),)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.softmax, self.x, self.y = WAYS[impl]
        self.codes = rows(self.x, size(100_000) // 10)

    def time_softmax(self, impl: str) -> None:
        self.softmax(self.codes, self.x, self.y)


class SoftmaxQuality(Quality):
    params = (list(WAYS),)
    param_names = ("impl",)

    def track_error(self, impl: str) -> float:
        """Largest distance from the real softmax."""
        softmax, x, y = WAYS[impl]
        codes = rows(x, 1000)
        exp = np.exp(x.decode(codes).astype(np.float64))
        real = exp / exp.sum(axis=-1, keepdims=True) / y.scale + y.zero_point
        return float(np.abs(softmax(codes, x, y) - np.minimum(real, y.qmax)).max())

    track_error.unit = "codes"
