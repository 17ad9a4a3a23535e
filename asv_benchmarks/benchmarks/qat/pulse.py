"""Pulses: time of a ternary activation and its gradient, and of a transition of stored weights."""

import numpy as np

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.qat.pulse import hop_probability, staircase, state_transition, triangle
from refquant.quantizers.ternary import twn


class Pulse(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.x = weights("gauss", size(100_000))
        self.w = twn(self.x).encode(self.x).astype(np.float32)

    def time_activation(self, impl):
        staircase(self.x, jumps=np.array([0.5]), pulse=triangle)[1](self.x)

    def time_transition(self, impl):
        state_transition(self.w, 0.1 * self.x, step=1.0, rng=np.random.default_rng(0))


class PulseBias(Quality):
    params = (["refquant"], [0.02, 0.2])
    param_names = ("impl", "update_in_steps")

    def track_hops_over_unbiased(self, impl, update):
        return float(hop_probability(np.array(update), 1.0)) / update

    track_hops_over_unbiased.unit = "hops per hop of stochastic rounding"
