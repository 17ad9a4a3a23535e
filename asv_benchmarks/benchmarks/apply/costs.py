"""Costs read off a network, in runs of that network."""

from benchmarks.common import Benchmark
from refquant.apply.costs import layer_costs
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn


class Costs(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.model = trained_digits_cnn()
        self.values = {"x": digits().x_test[:1], **self.model.values}

    def time_layer_costs(self, impl):
        layer_costs(self.model.nodes, self.values)
