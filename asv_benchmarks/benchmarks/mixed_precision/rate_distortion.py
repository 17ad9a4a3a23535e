"""Allocation by price: time, and how far its loss lies above the optimum."""

from benchmarks.common import Benchmark, Quality
from benchmarks.mixed_precision._problems import chosen, limit, tables
from refquant.mixed_precision.pareto import dynamic_program
from refquant.mixed_precision.rate_distortion import by_price, whole_bits


class RateDistortion(Benchmark):
    params = ([10, 100],)
    param_names = ("layers",)

    def setup(self, layers):
        self.loss, self.cost = tables(layers)
        self.counts = self.cost[:, 0] // 2

    def time_by_price(self, layers):
        by_price(self.loss, self.cost, limit(self.cost))

    def time_whole_bits(self, layers):
        whole_bits(self.loss[:, 0], self.counts, int(4 * self.counts.sum()))


class RateDistortionLoss(Quality):
    params = ([12],)
    param_names = ("layers",)

    def track_loss_above_optimum(self, layers):
        loss, cost = tables(layers)
        best = chosen(loss, dynamic_program(loss, cost, limit(cost)))
        return max(0.0, chosen(loss, by_price(loss, cost, limit(cost))) / best - 1)

    track_loss_above_optimum.unit = "of the least loss"
