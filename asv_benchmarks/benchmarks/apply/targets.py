"""Formats of a network under a plan."""

import numpy as np

from benchmarks.common import Benchmark
from refquant.apply.simulate import weight_names
from refquant.apply.targets import layer_formats
from refquant.nn.models import trained_digits_cnn
from refquant.quantizers.uniform import symmetric


class Targets(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.model = trained_digits_cnn()
        self.plan = {n: symmetric(np.abs(self.model.parameters[n]).max(), bits=8)
                     for n in weight_names(self.model.nodes)}

    def time_layer_formats(self, impl):
        layer_formats(self.model.nodes, self.model.parameters, self.plan)
