"""Engines beside each other: how often each misses the nearest code."""

import numpy as np

from refquant.integer.engines import ENGINES
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality, size


def quantizer(scale: float, zero: int) -> Uniform:
    return Uniform(np.array(scale, np.float32), np.array(zero), -128, 127)


class Engines(Benchmark):
    params = (["refquant"], list(ENGINES))
    param_names = ("impl", "engine")

    def setup(self, impl: str, engine: str) -> None:
        rng = np.random.default_rng(0)
        self.a, self.b = rng.integers(-128, 128, (2, size(200_000)))
        self.q = quantizer(0.05, -3), quantizer(0.03, 5), quantizer(0.06, 2)

    def time_add(self, impl: str, engine: str) -> None:
        ENGINES[engine].add(self.a, self.b, *self.q)


class EnginesQuality(Quality):
    params = (list(ENGINES),)
    param_names = ("engine",)

    def track_not_the_nearest(self, engine: str) -> float:
        """Requantized codes that are not the nearest, over a hundred pairs of scales."""
        rng, x = np.random.default_rng(0), np.arange(-60, 60)
        wrong = 0.0
        for _ in range(100):
            s, t = rng.uniform(0.02, 0.1), rng.uniform(0.05, 0.2)
            before, after = quantizer(s, 0), quantizer(t, 0)
            real = x * (float(before.scale) / float(after.scale))
            got = ENGINES[engine].requantize(x, before, after)
            wrong += float((np.abs(got - real) > 0.5).mean()) / 100
        return wrong

    track_not_the_nearest.unit = "share of codes"
