"""Costs of layers: the table that an allocation takes."""

from benchmarks.common import Benchmark
from refquant.mixed_precision.cost_model import LayerCost, cost_table, model_size


class CostModel(Benchmark):
    params = (["refquant"], [200])
    param_names = ("impl", "layers")

    def setup(self, impl, layers):
        self.layers = [LayerCost(f"l{i}", 1000 * i, 9000 * i) for i in range(layers)]

    def time_cost_table(self, impl, layers):
        cost_table(model_size, self.layers, [2, 3, 4, 5, 6, 8])
