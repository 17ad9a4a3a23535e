"""Random neurons: time of a draw and its gradient; the variance that a baseline leaves."""

import numpy as np

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.qat.stochastic_neuron import best_baseline, fire, score, sloped


class StochasticNeuron(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.a = weights("gauss", size(100_000))
        self.g = np.ones_like(self.a)

    def time_draw_and_gradient(self, impl):
        sloped(self.a, rng=np.random.default_rng(0))[1](self.g)


class StochasticNeuronVariance(Quality):
    params = (["refquant"], [1, 8, 64])
    param_names = ("impl", "neurons")

    def track_variance_with_best_baseline(self, impl, neurons):
        """Of REINFORCE, over the variance without a baseline; the loss is (mean - 0.3)**2."""
        rng = np.random.default_rng(0)
        a = np.zeros((1, neurons))
        drawn = fire(np.repeat(a, 4000, 0), rng=rng)
        loss = (drawn.mean(1, keepdims=True) - 0.3) ** 2
        best = best_baseline(loss, drawn, a)
        kept = score(loss, drawn, a, baseline=best).var(0).mean()
        return float(kept / score(loss, drawn, a, baseline=np.zeros(neurons)).var(0).mean())

    track_variance_with_best_baseline.unit = "of the variance without baseline"
