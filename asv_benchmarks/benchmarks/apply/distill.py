"""A step with a teacher: fixed and answered for in advance, fixed, or learning too."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, share_of_time
from refquant.apply.distill import TEACHER, beside, enrolled, taught
from refquant.apply.train import shuffled, train
from refquant.nn.data import digits
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import (
    Model,
    digits_cnn,
    initial_parameters,
    initial_statistics,
    with_loss,
)
from refquant.nn.optimizers import constant
from refquant.qat.distillation import co_study, hinton


class Distill(Benchmark):
    params = (["in advance", "fixed", "learns"],)
    param_names = ("teacher",)

    def setup(self, teacher):
        keep_freed_memory()
        rng, split = np.random.default_rng(0), digits()
        student = digits_cnn(training=True)
        big = Model(digits_cnn(), initial_parameters(rng=rng, width=32),
                    initial_statistics(width=32))
        state = enrolled(initial_parameters(rng=rng, width=8), initial_statistics(width=8), big)
        arrays = {"x": split.x_train, "labels": split.y_train}
        size = 8 if QUICK else 64
        batch = shuffled(arrays, size, rng=rng)
        if teacher == "in advance":
            nodes = taught(student, hinton)
            arrays[f"{TEACHER}logits"] = np.zeros((len(split.x_train), 10), np.float32)
        elif teacher == "fixed":
            nodes = taught(beside(student, digits_cnn()), hinton)
        else:
            nodes = taught(beside(student, student), co_study)
        lesson = shuffled(arrays, size, rng=rng)

        def steps(network, of):
            return lambda: train(network, state, of, steps=3, rate=constant(1e-3))

        self.steps, self.alone = steps(nodes, lesson), steps(with_loss(student), batch)

    def time_three_steps(self, teacher):
        self.steps()

    def track_time_over_that_of_the_labels_alone(self, teacher):
        """The teacher is four times as wide."""
        return share_of_time(self.steps, self.alone)

    track_time_over_that_of_the_labels_alone.unit = "ratio"
