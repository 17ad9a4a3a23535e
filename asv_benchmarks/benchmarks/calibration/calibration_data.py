"""How far the range of few samples falls short, and the search over whole networks."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, weights
from refquant.calibration.calibration_data import coordinate_search, ranges_by_samples
from refquant.calibration.minmax import minmax
from refquant.calibration.percentile import percentile

CALIBRATORS = {"minmax": minmax, "percentile": partial(percentile, p=0.999)}


class CalibrationData(Benchmark):
    params = ([1, 8, 64], list(CALIBRATORS))
    param_names = ("samples", "calibrator")

    def setup(self, samples, calibrator):
        self.x = weights("laplace", 256 * 100).reshape(256, 100)
        self.target = np.linspace(0.2, 1.0, 8)

    def time_ranges(self, samples, calibrator):
        ranges_by_samples(self.x, [samples], CALIBRATORS[calibrator])

    def time_coordinate_search(self, samples, calibrator):
        coordinate_search(lambda shares: float(np.sum((shares - self.target) ** 2)), 8)

    def track_distance_to_the_range_of_all(self, samples, calibrator):
        high = ranges_by_samples(self.x, [samples, 256], CALIBRATORS[calibrator]).high
        return abs(float(high[0] / high[1]) - 1)

    track_distance_to_the_range_of_all.unit = "relative"
