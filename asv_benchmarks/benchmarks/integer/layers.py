"""The end of a layer: rule, zero point and clamp."""

import numpy as np

from refquant.integer.layers import Limits, Rescaled
from refquant.integer.requantize import RULES
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, size


class Layers(Benchmark):
    params = (["refquant"], list(RULES))
    param_names = ("impl", "rule")

    def setup(self, impl: str, rule: str) -> None:
        output = Uniform(np.array(0.1), np.array(-3), -128, 127)
        self.layer = Rescaled(
            lambda x: x, np.array(0.0003), RULES[rule], output, Limits(-128, 127))
        self.sums = np.random.default_rng(0).integers(-(2**19), 2**19, size(1_000_000))

    def time_finish(self, impl: str, rule: str) -> None:
        self.layer.finish(self.sums)
