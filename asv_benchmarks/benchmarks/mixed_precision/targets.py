"""Targets: checking a network of many layers."""

from benchmarks.common import Benchmark
from refquant.mixed_precision.targets import Format, LayerFormat, check, targets


class Targets(Benchmark):
    params = (["refquant"], [200])
    param_names = ("impl", "layers")

    def setup(self, impl, layers):
        kinds = [Format("int8", per_channel=True), Format("uint4"), Format("int16", False)]
        self.network = [LayerFormat(f"l{i}", "linear", kinds[i % 3], kinds[i % 2])
                        for i in range(layers)]
        self.chips = list(targets().values())

    def time_check_all(self, impl, layers):
        for chip in self.chips:
            check(self.network, chip)
