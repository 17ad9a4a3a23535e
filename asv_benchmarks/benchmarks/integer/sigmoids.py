"""Logistic and tanh of codes: time of each way, and its distance from the real function."""

import numpy as np

from refquant.integer.sigmoids import (
    fixed_logistic_codes,
    float_table_logistic,
    interpolated_logistic,
    short_logistic,
)
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality, size


def record(scale: float, zero_point: int, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(zero_point), -top, top - 1)


WAYS = {
    "fixed": (fixed_logistic_codes, record(1 / 16, 0, 8), record(1 / 256, -128, 8)),
    "float table": (float_table_logistic, record(1 / 16, 0, 8), record(1 / 256, -128, 8)),
    "interpolated": (interpolated_logistic, record(2.0**-12, 0, 16), record(2.0**-15, 0, 16)),
    "short": (short_logistic, record(2.0**-12, 0, 16), record(2.0**-15, 0, 16)),
}


class Sigmoids(Benchmark):
    params = (list(WAYS),)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.logistic, self.x, self.y = WAYS[impl]
        rng = np.random.default_rng(0)
        self.codes = rng.integers(self.x.qmin, self.x.qmax, size(100_000))

    def time_logistic(self, impl: str) -> None:
        self.logistic(self.codes, self.x, self.y)


class SigmoidsQuality(Quality):
    params = (list(WAYS),)
    param_names = ("impl",)

    def track_error(self, impl: str) -> float:
        """Largest distance from the real function, over all codes."""
        logistic, x, y = WAYS[impl]
        codes = np.arange(x.qmin, x.qmax + 1)
        real = 1 / (1 + np.exp(-x.decode(codes).astype(np.float64)))
        off = logistic(codes, x, y) - np.minimum(real / y.scale + y.zero_point, y.qmax)
        return float(np.abs(off).max())

    track_error.unit = "codes"
