"""Updates without a master copy: their time, and how far the sum ends from the float sum."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from benchmarks.qat._born import weight
from refquant.qat.low_precision import predicted, stored_update
from refquant.quantizers.fixed_point import FixedPoint
from refquant.rounding import half_even, stochastic

GRID = FixedPoint(8, 7)


def rounding(name):
    return {"nearest": half_even,
            "stochastic": partial(stochastic, rng=np.random.default_rng(0))}[name]


class LowPrecision(Benchmark):
    params = (["refquant"], ["nearest", "stochastic"])
    param_names = ("impl", "rounding")

    def setup(self, impl, name):
        w, g = weight()
        self.w, self.update, self.rounding = GRID.decode(GRID.encode(w)), -1e-3 * g, rounding(name)

    def time_update(self, impl, name):
        stored_update(self.w, self.update, GRID, rounding=self.rounding)

    def peakmem_update(self, impl, name):
        stored_update(self.w, self.update, GRID, rounding=self.rounding)


class LowPrecisionSum(Quality):
    params = (["refquant"], ["nearest", "stochastic"])
    param_names = ("impl", "rounding")

    def track_distance_from_the_float_sum(self, impl, name):
        """Root mean square, over what `predicted` says of random rounding: 1 is as predicted."""
        steps, walks = (20, 50) if QUICK else (1000, 2000)
        update, up, w = np.array(GRID.scale / 50), rounding(name), np.zeros(walks)
        for _ in range(steps):
            w = stored_update(w, update, GRID, rounding=up)
        walk = predicted(np.full(steps, update), GRID.scale)
        return float(np.sqrt(np.mean((w - walk.mean) ** 2) / walk.variance))

    track_distance_from_the_float_sum.unit = "predicted standard deviations"
