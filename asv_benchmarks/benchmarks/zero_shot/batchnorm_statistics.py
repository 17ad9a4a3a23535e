"""Distances of statistics and a step of the descent, on images the size of a small layer."""

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.zero_shot.batchnorm_statistics import (
    batch_distance,
    distill,
    gaussian_divergence,
    sample_distance,
    start,
)

DISTANCES = {"batch": batch_distance, "sample": sample_distance,
             "divergence": gaussian_divergence}


class BatchnormStatistics(Benchmark):
    params = (list(DISTANCES),)
    param_names = ("distance",)

    def setup(self, distance):
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((8 if QUICK else 128, 8, 8, 16)).astype(np.float32)
        self.mean = rng.standard_normal(16).astype(np.float32)
        self.variance = np.exp(rng.standard_normal(16)).astype(np.float32)
        self.state = start(self.x)

    def loss_and_gradient(self, distance, x):
        value, pullback = DISTANCES[distance](x, self.mean, self.variance)
        return float(value), pullback(np.ones((), np.float32))[0]

    def time_distance_and_gradient(self, distance):
        self.loss_and_gradient(distance, self.x)

    def time_step(self, distance):
        distill(lambda x: self.loss_and_gradient(distance, x), self.state, steps=1)

    def track_loss_after_100_steps(self, distance):
        made = distill(lambda x: self.loss_and_gradient(distance, x), self.state,
                       steps=2 if QUICK else 100)
        return float(made.losses[-1] / made.losses[0])

    track_loss_after_100_steps.unit = "of the loss of the noise"
