"""The training loop: what it adds to the gradients, and what a checkpoint costs."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import QUICK, Benchmark, share_of_time
from refquant.apply.train import resume, save, shuffled, start, train
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, initial_parameters, initial_statistics, with_loss
from refquant.nn.network import backward, run
from refquant.nn.optimizers import constant

BATCH, STEPS = (8, 1) if QUICK else (64, 10)


class Train(Benchmark):
    def setup(self):
        split, rng = digits(), np.random.default_rng(0)
        self.nodes = with_loss(digits_cnn(training=True))
        self.state = start(initial_parameters(rng=rng), initial_statistics())
        self.batch = shuffled({"x": split.x_train, "labels": split.y_train}, BATCH, rng=rng)
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "state.npz"
        save(self.state, self.path)

    def teardown(self):
        self.folder.cleanup()

    def steps(self):
        train(self.nodes, self.state, self.batch, steps=STEPS, rate=constant(1e-3))

    def gradients_alone(self):
        values = {**self.batch(0), **self.state.parameters}
        for _ in range(STEPS):
            backward(run(self.nodes, values), {"loss": 1.0})

    def time_ten_steps(self):
        self.steps()

    def track_time_over_that_of_the_gradients(self):
        """Batches, optimizer and running statistics are the rest."""
        return share_of_time(self.steps, self.gradients_alone)

    track_time_over_that_of_the_gradients.unit = "ratio"

    def time_save(self):
        save(self.state, self.path)

    def time_resume(self):
        resume(self.path)
