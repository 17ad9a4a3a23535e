"""High-rate theory: how far the prediction is from the exact optimum."""

from benchmarks.common import Quality
from refquant.quantizers.high_rate import panter_dite
from refquant.quantizers.lloyd_max import gauss, laplace, lloyd_max

DENSITIES = {"gauss": gauss, "laplace": laplace}


class HighRate(Quality):
    params = (list(DENSITIES), [2, 4, 8])
    param_names = ("density", "bits")

    def time_panter_dite(self, density, bits):
        panter_dite(DENSITIES[density], bits)

    def track_overestimate(self, density, bits):
        """Predicted error over the exact one, minus one."""
        exact = lloyd_max(DENSITIES[density], 2**bits).mse
        return panter_dite(DENSITIES[density], bits) / exact - 1

    track_overestimate.unit = "of the optimum"
