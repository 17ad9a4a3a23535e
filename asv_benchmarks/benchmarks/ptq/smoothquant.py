"""SmoothQuant: the inverted U of its strength, weights and activations at 8 bits per tensor."""

import numpy as np

from benchmarks.common import Quality
from benchmarks.ptq._problems import layer
from refquant.calibration.minmax import absmax
from refquant.ptq import smoothquant
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


def eight_bits(x):
    return fake_quantize(x, symmetric(absmax(x), bits=8))


class Smoothquant(Quality):
    params = ([0.0, 0.25, 0.5, 0.75, 1.0],)
    param_names = ("alpha",)

    def setup(self, alpha):
        self.weight, self.x, _ = layer()

    def scale(self, alpha):
        return smoothquant.smoothing_scale(np.abs(self.x).max(0), np.abs(self.weight).max(0),
                                           alpha=alpha)

    def time_smooth(self, alpha):
        smoothquant.smooth(self.weight, self.scale(alpha))

    def track_error(self, alpha):
        scale, exact = self.scale(alpha), self.x @ self.weight.T
        smoothed = (eight_bits(self.x / scale)
                    @ eight_bits(smoothquant.smooth(self.weight, scale)).T)
        naive = eight_bits(self.x) @ eight_bits(self.weight).T
        return float(np.square(smoothed - exact).mean() / np.square(naive - exact).mean())

    track_error.unit = "of the output error without smoothing"
