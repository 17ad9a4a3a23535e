"""Evolution of genomes: time without the network, and how near the optimum."""

import numpy as np

from benchmarks.common import Benchmark
from benchmarks.mixed_precision._problem import (
    CHOICES,
    EVALUATIONS,
    best_loss,
    environment,
    loss,
)
from refquant.mixed_precision.joint import evolution
from refquant.mixed_precision.search import search


class Joint(Benchmark):
    def setup(self):
        self.environment = environment()

    def fitness(self, genome):
        """Over the budget a genome is worth less than any that fits."""
        bits = CHOICES[genome]
        over = self.environment.cost(bits) / self.environment.budget - 1
        return -loss(bits) if over <= 0 else -1e6 * over

    def evolve(self, seed):
        return search(evolution([(7,) * 10]), self.fitness, evaluations=EVALUATIONS,
                      rng=np.random.default_rng(seed))

    def time_300_evaluations(self):
        self.evolve(0)

    def track_excess_loss(self):
        return float(np.mean([-self.evolve(seed).reward for seed in range(3)])) / best_loss() - 1

    track_excess_loss.unit = "of the least loss"
