"""A latency table: reading and asking it."""

from benchmarks.common import Benchmark
from refquant.mixed_precision.latency_table import LatencyTable as Table
from refquant.mixed_precision.latency_table import Shape, from_json, to_json


class LatencyTable(Benchmark):
    params = (["refquant"], [200])
    param_names = ("impl", "shapes")

    def setup(self, impl, shapes):
        self.shapes = [Shape(1, i + 1, 8) for i in range(shapes)]
        self.table = Table({(s, 8, 8): 1e-6 for s in self.shapes}, "benchmark")
        self.text = to_json(self.table)

    def time_from_json(self, impl, shapes):
        from_json(self.text)

    def time_total(self, impl, shapes):
        self.table.total(self.shapes, [8] * shapes, [8] * shapes)
