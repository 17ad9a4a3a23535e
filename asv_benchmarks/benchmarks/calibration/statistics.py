"""Running statistics: one batch seen, two records merged."""

from benchmarks.common import Benchmark, size, weights
from refquant.calibration.statistics import Histogram, Moments, Range

KINDS = {"range": Range, "moments": Moments, "histogram": Histogram}


class Statistics(Benchmark):
    params = (list(KINDS),)
    param_names = ("statistic",)

    def setup(self, statistic):
        self.x = weights("gauss", size(1_000_000))
        self.a, self.b = (KINDS[statistic].of(part) for part in (self.x[::2], 3 * self.x[1::2]))

    def time_of(self, statistic):
        KINDS[statistic].of(self.x)

    def time_merge(self, statistic):
        self.a.merge(self.b)

    def peakmem_of(self, statistic):
        KINDS[statistic].of(self.x)
