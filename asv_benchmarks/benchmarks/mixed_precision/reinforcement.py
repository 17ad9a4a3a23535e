"""DDPG: time without the network, and how near the optimum."""

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problem import environment, excess, states, steps
from refquant.mixed_precision.reinforcement import ddpg


class Reinforcement(Benchmark):
    def time_300_evaluations(self):
        steps(ddpg(environment(), states()))

    def track_excess_loss(self):
        return excess(lambda: ddpg(environment(), states()))

    track_excess_loss.unit = "of the least loss"
