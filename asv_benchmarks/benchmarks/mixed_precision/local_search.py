"""Guessing and improving the guess: time without the network, and how near the optimum."""

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problem import environment, excess, steps
from refquant.mixed_precision import local_search as module

AGENTS = {"random": module.random_search, "local": module.local_search}


class LocalSearch(Benchmark):
    params = (list(AGENTS),)
    param_names = ("agent",)

    def time_300_evaluations(self, agent):
        steps(AGENTS[agent](environment()))

    def track_excess_loss(self, agent):
        return excess(lambda: AGENTS[agent](environment()))

    track_excess_loss.unit = "of the least loss"
