"""A mixture of seven versions of a weight, forward and back, beside one version."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, share_of_time
from refquant.mixed_precision.differentiable import mixture
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


def _rounds(weight, bits):
    q = symmetric(np.abs(weight).max(), bits=bits)
    return partial(fake_quantize, quantizer=q)


class Differentiable(Benchmark):
    def setup(self):
        rng = np.random.default_rng(0)
        self.weight = rng.standard_normal((32, 3, 3, 32)).astype(np.float32)
        self.shares = np.full(7, 1 / 7, np.float32)
        self.rounds = [_rounds(self.weight, bits) for bits in range(2, 9)]

    def time_forward_and_back(self):
        _, pullback = mixture(self.weight, self.shares, quantize=self.rounds)
        pullback(self.weight)

    def track_time_over_one_version(self):
        return share_of_time(self.time_forward_and_back, lambda: self.rounds[0](self.weight))

    track_time_over_one_version.unit = "ratio"
