"""Deploying a trained network: once, and small beside a training step."""

from benchmarks.common import Benchmark
from refquant.apply import _experiment_qat as experiment
from refquant.apply.deploy import deployed


class Deploy(Benchmark):
    def setup(self):
        on = experiment.subject(0)
        self.nodes, parameters = experiment.prepared(
            experiment.METHODS["LSQ, mse start"], on, 4, activations=True)
        self.values = {**parameters, **on.model.statistics}

    def time_deployed(self):
        deployed(self.nodes, self.values)
