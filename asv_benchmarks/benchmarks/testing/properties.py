"""Properties of a quantizer, each on one array."""

import numpy as np

from refquant.testing import properties
from refquant.testing.properties import Affine, assert_dialect

from ..common import Benchmark, size, weights

LAWS = ["monotone", "idempotent", "placement_invariant", "saturates", "sign_symmetric"]


def quantize(x, scale, zero_point, qmin, qmax):
    return np.clip(np.rint(x / np.float32(scale)) + np.float32(zero_point), qmin, qmax)


class Properties(Benchmark):
    params = (LAWS,)
    param_names = ("law",)

    def setup(self, law: str) -> None:
        self.law = getattr(properties, law)
        self.given = Affine(weights("gauss", size(100_000)), 0.0235, 3, -128, 127)

    def time_law(self, law: str) -> None:
        self.law(quantize, self.given)

    def time_assert_dialect(self, law: str) -> None:
        assert_dialect(quantize, self.given, dialect="onnx")
