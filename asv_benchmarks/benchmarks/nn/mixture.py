"""Points drawn by the exact score: time, and how far few steps and few bits leave them."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.nn.mixture import flow, ring
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

POINTS, MANY = (20, 100) if QUICK else (500, 1000)


class Mixture(Benchmark):
    params = (["refquant"], [10, 50])
    param_names = ("impl", "steps")

    def setup(self, impl, steps):
        self.noise = np.random.default_rng(0).standard_normal((POINTS, 2))

    def time_flow(self, impl, steps):
        flow(ring(), self.noise, count=steps)


class MixtureError(Quality):
    """Mean squared distance to the flow of a thousand steps; centres lie 0.77 apart."""

    params = ([5, 20, 80], [32, 8])
    param_names = ("steps", "bits of the state")

    def track_squared_error(self, steps, bits):
        noise = np.random.default_rng(0).standard_normal((POINTS, 2))
        grid = symmetric(np.abs(noise).max(), bits=bits) if bits < 32 else None

        def tap(name, value):
            return fake_quantize(value, grid) if grid and name == "state" else value

        exact = flow(ring(), noise, count=MANY)
        return float(np.square(flow(ring(), noise, count=steps, tap=tap) - exact).mean())

    track_squared_error.unit = "MSE"
