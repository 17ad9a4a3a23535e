"""Synthesis from a small network: a step of the descent, and what the images leave of the gap."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.apply.train import start
from refquant.apply.zero_shot import (
    GENERATOR,
    generator_nodes,
    statistics_gaps,
    statistics_loss,
    train_generator,
)
from refquant.nn.small_models import PLAIN, SEPARABLE, trained
from refquant.zero_shot.batchnorm_statistics import distill
from refquant.zero_shot.batchnorm_statistics import start as begin
from refquant.zero_shot.generator import initial_generator

NETWORKS = {"plain": PLAIN, "separable": SEPARABLE}


class ZeroShot(Quality):
    params = (list(NETWORKS),)
    param_names = ("network",)

    def setup(self, network):
        self.model = trained(NETWORKS[network])
        rng = np.random.default_rng(0)
        noise = rng.standard_normal((8 if QUICK else 64, 8, 8, 1))
        self.images = begin(noise.astype(np.float32))
        self.loss = statistics_loss(self.model.nodes, self.model.values)
        self.front = generator_nodes(self.model.nodes, self.model.values, shape=(8, 8, 1))
        self.generator = start(initial_generator(10, 64, rng=rng), {}, GENERATOR)

    def time_step_of_distillation(self, network):
        distill(self.loss, self.images, steps=1)

    def time_step_of_generator(self, network):
        train_generator(self.front, self.model.values, self.generator, steps=1,
                        rng=np.random.default_rng(0))

    def track_gap_after_100_steps(self, network):
        def gap(x):
            return sum(statistics_gaps(self.model.nodes, self.model.values, x).values())

        made = distill(self.loss, self.images, steps=2 if QUICK else 100)
        return gap(made.x) / gap(self.images.x)

    track_gap_after_100_steps.unit = "of the gap of the noise"
