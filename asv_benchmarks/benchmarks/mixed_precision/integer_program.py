"""The integer program: time by the number of layers, and its loss relative to uniform bits."""

from benchmarks.common import Benchmark, Quality
from benchmarks.mixed_precision._problems import chosen, limit, tables
from refquant.mixed_precision.integer_program import Budget, allocate


class IntegerProgram(Benchmark):
    params = ([10, 50],)
    param_names = ("layers",)

    def setup(self, layers):
        self.loss, self.cost = tables(layers)
        self.budget = Budget("size", self.cost, limit(self.cost))

    def time_allocate(self, layers):
        allocate(self.loss, [self.budget])


class IntegerProgramLoss(Quality):
    params = ([50],)
    param_names = ("layers",)

    def track_loss_over_uniform(self, layers):
        loss, cost = tables(layers)
        found = allocate(loss, [Budget("size", cost, limit(cost))])
        return found.loss / chosen(loss, [2] * len(loss))

    track_loss_over_uniform.unit = "of the loss of 4 bits everywhere"
