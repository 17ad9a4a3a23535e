"""The two moons: time of one step of the small network."""

import numpy as np

from benchmarks.common import Benchmark
from refquant.nn.models import with_loss
from refquant.nn.moons import initial_mlp, mlp, two_moons
from refquant.nn.network import backward, run


class Moons(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        moons = two_moons(64, rng=np.random.default_rng(0))
        self.values = {"x": moons.x, "labels": moons.y} | initial_mlp(rng=np.random.default_rng(1))
        self.nodes = with_loss(mlp())

    def time_step(self, impl):
        backward(run(self.nodes, self.values), {"loss": 1.0})
