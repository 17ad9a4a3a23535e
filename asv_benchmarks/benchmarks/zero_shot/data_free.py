"""Ranges from statistics: error on normal channels against ranges from data."""

import numpy as np

from benchmarks.common import Quality
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric
from refquant.zero_shot.data_free import activation_range


class DataFree(Quality):
    params = (["3 deviations", "6 deviations", "data"], [8, 4])
    param_names = ("range", "bits")

    def setup(self, range, bits):
        rng = np.random.default_rng(0)
        self.mean, self.deviation = rng.standard_normal(64), np.exp(rng.standard_normal(64) / 2)
        before = self.mean + self.deviation * rng.standard_normal((2000, 64))
        self.seen, self.other = np.split(np.maximum(before, 0), 2)

    def ends(self, range):
        if range == "data":
            return float(self.seen.min()), float(self.seen.max())
        n = float(range.split()[0])
        return activation_range(self.mean, self.deviation, deviations=n, low=0.0)

    def time_range(self, range, bits):
        self.ends(range)

    def track_noise(self, range, bits):
        quantizer = asymmetric(*map(np.array, self.ends(range)), bits=bits)
        noise = mse(self.other, fake_quantize(self.other, quantizer))
        return noise / float(np.square(self.other).mean())

    track_noise.unit = "noise power / signal power"
