"""Percentile bounds: by partial sorting, and from a histogram."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.calibration.percentile import (
    percentile_bound,
    percentile_bound_higher,
    percentile_bound_histogram,
)
from refquant.calibration.statistics import Histogram

P = 0.999
DEFINITIONS = {
    "linear": lambda x: percentile_bound(x, P),
    "higher": lambda x: percentile_bound_higher(x, P),
    "histogram": lambda x: percentile_bound_histogram(Histogram.of(np.abs(x)), P),
    "naive": lambda x: np.sort(np.abs(x))[int(P * (x.size - 1))],
}


class Percentile(Benchmark):
    params = (list(DEFINITIONS),)
    param_names = ("definition",)

    def setup(self, definition):
        self.x = weights("laplace", size(1_000_000))

    def time_bound(self, definition):
        DEFINITIONS[definition](self.x)

    def track_distance_to_the_quantile(self, definition):
        """Relative to the linear definition: what the others cost in accuracy."""
        linear = float(percentile_bound(self.x, P)[0])
        return abs(float(np.ravel(DEFINITIONS[definition](self.x))[0]) / linear - 1)

    track_distance_to_the_quantile.unit = "relative"
