"""The cross-entropy method: time without the network, and how near the optimum."""

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problem import environment, excess, steps
from refquant.mixed_precision.cross_entropy import cross_entropy


class CrossEntropy(Benchmark):
    def time_300_evaluations(self):
        steps(cross_entropy(environment()))

    def track_excess_loss(self):
        return excess(lambda: cross_entropy(environment()))

    track_excess_loss.unit = "of the least loss"
