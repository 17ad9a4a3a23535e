"""Fixed-point functions: time beside NumPy's float64, and how far they are from it."""

import numpy as np

from refquant.integer.fixed_point import exp_of_negative, fixed_logistic, fixed_tanh

from ..common import Benchmark, Quality, size


class FixedPoint(Benchmark):
    params = (["refquant", "float64"],)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.a = np.random.default_rng(0).integers(-(2**31), 2**31, size(100_000))

    def time_logistic(self, impl: str) -> None:
        if impl == "refquant":
            fixed_logistic(self.a, integer_bits=4)
        else:
            1 / (1 + np.exp(self.a / -(2.0**27)))


class FixedPointQuality(Quality):
    params = ([16, 32],)
    param_names = ("bits",)

    def setup(self, bits: int) -> None:
        self.a = np.arange(-(2**15), 2**15) * 2 ** (bits - 16)
        self.x = self.a * 2.0 ** (5 - bits)

    def track_exp_error(self, bits: int) -> float:
        """Largest error of exp(x), x in [-16, 0]."""
        low = self.x <= 0
        exp = exp_of_negative(self.a[low], integer_bits=4, bits=bits) * 2.0 ** (1 - bits)
        return float(np.abs(exp - np.exp(self.x[low])).max())

    def track_tanh_error(self, bits: int) -> float:
        """Largest error of tanh(x), x in [-16, 16)."""
        tanh = fixed_tanh(self.a, integer_bits=4, bits=bits) * 2.0 ** (1 - bits)
        return float(np.abs(tanh - np.tanh(self.x)).max())

    track_exp_error.unit = track_tanh_error.unit = "of 1"
