"""Exact optimum of a grid under a density, and what the ACIQ model loses to it."""

import numpy as np

from benchmarks.common import Benchmark
from refquant.calibration.aciq import GAUSS, LAPLACE, unit_bound
from refquant.calibration.density import expected_mse, optimal_bound

PRIORS = {"gauss": GAUSS, "laplace": LAPLACE}


class Density(Benchmark):
    params = ([2, 4, 8], list(PRIORS))
    param_names = ("bits", "prior")

    def setup(self, bits, prior):
        self.levels = np.linspace(-1, 1, 2**bits)

    def time_optimal_bound(self, bits, prior):
        optimal_bound(self.levels, PRIORS[prior])

    def track_aciq_error_over_the_optimum(self, bits, prior):
        clipped = expected_mse(unit_bound(bits, PRIORS[prior]) * self.levels, PRIORS[prior])
        return clipped / optimal_bound(self.levels, PRIORS[prior]).mse

    track_aciq_error_over_the_optimum.unit = "ratio"
