"""The best levels of a density: Newton's method against repeating the two conditions."""

import numpy as np

from benchmarks.common import Quality
from refquant.quantizers.lloyd_max import gauss, lloyd_max


class LloydMax(Quality):
    """`naive` makes 1000 sweeps of Lloyd's first method from the same start."""

    params = (["refquant", "naive"], [16, 256])
    param_names = ("impl", "levels")

    def setup(self, impl, levels):
        self.solve = (lambda: lloyd_max(gauss, levels).mse) if impl == "refquant" else (
            lambda: sweeps(levels, 1000))

    def time_solve(self, impl, levels):
        self.solve()

    def track_excess_error(self, impl, levels):
        """Error over the error of the optimum, minus one."""
        return max(self.solve() / lloyd_max(gauss, levels).mse - 1, 0.0)

    track_excess_error.unit = "of the optimum"


def sweeps(k, count):
    y = gauss.cube_root_quantile((np.arange(k - k // 2, k) + 0.5) / k)
    for _ in range(count):
        edges = np.concatenate([[0], (y[1:] + y[:-1]) / 2])
        mass, moment = gauss.tail(edges), gauss.tail_mean(edges)
        mass, moment = mass - np.append(mass[1:], 0), moment - np.append(moment[1:], 0)
        y = moment / mass
    return float(1 - 4 * y @ moment + 2 * mass @ y**2)
