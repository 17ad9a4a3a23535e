"""N2UQ: forward and backward of activations."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.qat.n2uq import fake_quantize_activation, initial_widths


class N2uq(Benchmark):
    params = (["refquant"], [2, 4])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        self.x = np.abs(weights("gauss", size(200_000)))
        self.widths = initial_widths(bits=bits).astype(np.float32)
        self.start = np.zeros(1, np.float32)
        self.g = np.ones_like(self.x)

    def time_forward_and_backward(self, impl, bits):
        fake_quantize_activation(self.x, self.widths, self.start)[1](self.g)
