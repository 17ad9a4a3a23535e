"""Splitting: error of a layer with heavy tails against the channels added."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.calibration.minmax import absmax
from refquant.metrics import mse
from refquant.ptq.outlier_channel_splitting import split_for
from refquant.quantizers.uniform import symmetric


def fit(weight):
    return symmetric(absmax(weight), bits=6)


class OutlierChannelSplitting(Quality):
    params = ([0, 1, 2, 5, 10],)
    param_names = ("percent",)

    def setup(self, percent):
        rng = np.random.default_rng(0)
        size = 100 if QUICK else 400
        self.weight = rng.standard_t(4, (size, size))
        self.x = rng.standard_normal((200, size))
        self.count = size * percent // 100

    def time_split(self, percent):
        split_for(self.weight, self.count, fit)

    def track_noise(self, percent):
        made, grid = split_for(self.weight, self.count, fit)
        rounded = grid.decode(grid.encode(made.weight))
        exact = self.x @ self.weight.T
        return mse(exact, self.x[:, made.source] @ rounded.T) / float(np.square(exact).mean())

    track_noise.unit = "noise power / signal power"
