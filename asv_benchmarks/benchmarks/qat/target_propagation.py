"""Target propagation: time of the targets of a deep chain, and of one layer's gradients."""

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.qat.target_propagation import difference_targets, local_gradients

DEPTH, WIDTH, BATCH = (2, 16, 8) if QUICK else (8, 256, 128)


class TargetPropagation(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        rng = np.random.default_rng(0)
        self.hidden = list(rng.standard_normal((DEPTH, BATCH, WIDTH), np.float32))
        back = rng.standard_normal((DEPTH - 1, WIDTH, WIDTH), np.float32) / WIDTH**0.5
        self.inverses = [lambda h, v=v: np.tanh(h @ v) for v in back]
        self.target = self.hidden[-1] + 0.1

    def time_targets(self, impl):
        difference_targets(self.hidden, self.inverses, self.target)

    def time_layer(self, impl):
        below, above = self.hidden[:2]
        local_gradients(below, above, above, self.target)
