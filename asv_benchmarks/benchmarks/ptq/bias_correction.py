"""Correcting a bias: time, and how much of the mean error it leaves on other data."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.calibration.minmax import absmax
from refquant.ptq.bias_correction import analytic, clipped_normal, empirical, restore_moments
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


class BiasCorrection(Quality):
    params = (["none", "empirical", "analytic", "moments"],)
    param_names = ("method",)

    def setup(self, method):
        rng = np.random.default_rng(0)
        size = 64 if QUICK else 512
        self.weight = rng.standard_normal((size, size)) / size**0.5
        self.rounded = fake_quantize(self.weight, symmetric(absmax(self.weight), bits=3))
        self.mean, self.deviation = rng.standard_normal(size), np.exp(rng.standard_normal(size) / 2)
        before = self.mean + self.deviation * rng.standard_normal((2048, size))
        self.x, self.other = np.split(np.maximum(before, 0), 2)
        self.bias = np.zeros(size)

    def correct(self, method):
        """Weight and bias after correction."""
        if method == "empirical":
            exact, quantized = self.x @ self.weight.T, self.x @ self.rounded.T
            return self.rounded, empirical(self.bias, exact, quantized)
        if method == "analytic":
            expected, _ = clipped_normal(self.mean, self.deviation, low=0.0)
            return self.rounded, analytic(self.bias, self.weight, self.rounded, expected)
        if method == "moments":
            return restore_moments(self.weight, self.rounded, spread=True).weight, self.bias
        return self.rounded, self.bias

    def time_correct(self, method):
        self.correct(method)

    def track_mean_error(self, method):
        weight, bias = self.correct(method)
        apart = (self.other @ weight.T + bias - self.other @ self.weight.T).mean(0)
        whole = (self.other @ self.rounded.T - self.other @ self.weight.T).mean(0)
        return float(np.square(apart).mean() / np.square(whole).mean())

    track_mean_error.unit = "of the squared mean error without correction"
