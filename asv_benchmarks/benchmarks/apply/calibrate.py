"""Observing a network: what the recording adds to the runs."""

from functools import partial

from benchmarks.common import QUICK, Benchmark
from refquant.apply.calibrate import collect, observe
from refquant.apply.simulate import input_names
from refquant.calibration.statistics import Histogram, Range
from refquant.nn.data import digits
from refquant.nn.models import predict, trained_digits_cnn

IMAGES = 16 if QUICK else 256
STATISTICS = {"range": Range.of, "histogram": partial(Histogram.of, bins=2048)}


class Calibrate(Benchmark):
    params = (["nothing", "range", "histogram", "all values"],)
    param_names = ("kept",)

    def setup(self, kept):
        self.model = trained_digits_cnn()
        self.x = digits(seed=0).x_train[:IMAGES]
        self.names = input_names(self.model.nodes)
        self.time_calibrate(kept)

    def time_calibrate(self, kept):
        batch = [{"x": self.x}]
        if kept == "nothing":
            predict(self.model, self.x)
        elif kept == "all values":
            collect(self.model.nodes, self.model.values, batch, names=self.names)
        else:
            observe(
                self.model.nodes, self.model.values, batch, STATISTICS[kept], names=self.names
            )

    def peakmem_calibrate(self, kept):
        self.time_calibrate(kept)
