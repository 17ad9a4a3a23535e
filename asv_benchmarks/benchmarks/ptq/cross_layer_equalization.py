"""Equalizing a chain of layers whose channels have very different ranges."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.calibration.minmax import absmax
from refquant.metrics import mse
from refquant.ptq.cross_layer_equalization import equalize_chain
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


class CrossLayerEqualization(Quality):
    params = (["as it is", "equalized"], [8, 4])
    param_names = ("network", "bits")

    def setup(self, network, bits):
        rng = np.random.default_rng(0)
        size = 32 if QUICK else 256
        gauge = np.exp(rng.standard_normal((4, size)))
        self.weights = [rng.standard_normal((size, size)) / size**0.5 for _ in range(5)]
        for i in range(4):
            self.weights[i] = self.weights[i] * gauge[i][:, None]
            self.weights[i + 1] = self.weights[i + 1] / gauge[i]
        self.biases = [np.zeros(size)] * 5
        self.x = rng.standard_normal((100, size))

    def output(self, weights):
        h = self.x
        for weight in weights[:-1]:
            h = np.maximum(h @ weight.T, 0)
        return h @ weights[-1].T

    def time_equalize(self, network, bits):
        equalize_chain(self.weights, self.biases)

    def track_noise(self, network, bits):
        weights = self.weights
        if network == "equalized":
            weights = equalize_chain(weights, self.biases).weights
        rounded = [fake_quantize(w, symmetric(absmax(w), bits=bits)) for w in weights]
        exact = self.output(self.weights)
        return mse(exact, self.output(rounded)) / float(np.square(exact).mean())

    track_noise.unit = "noise power / signal power"
