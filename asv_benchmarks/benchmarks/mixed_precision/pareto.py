"""Frontier and dynamic program, beside the integer program on the same tables."""

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problems import limit, tables
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.pareto import dynamic_program, frontier


class Pareto(Benchmark):
    params = (["frontier", "dynamic_program", "integer_program"],)
    param_names = ("method",)

    def setup(self, method):
        self.loss, self.cost = tables(12)
        self.limit = limit(self.cost)

    def time_twelve_layers(self, method):
        if method == "frontier":
            frontier(self.loss, self.cost)
        elif method == "dynamic_program":
            dynamic_program(self.loss, self.cost, self.limit)
        else:
            allocate(self.loss, [Budget("size", self.cost, self.limit)])
