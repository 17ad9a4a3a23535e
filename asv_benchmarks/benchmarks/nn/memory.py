"""A training step with and without freed memory kept; each case in a process of its own."""

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.nn.data import digits
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import digits_cnn, initial_parameters, with_loss
from refquant.nn.network import backward, run


class Memory(Benchmark):
    params = ([False, True],)
    param_names = ("kept",)

    def setup(self, kept):
        if kept and not keep_freed_memory():
            raise NotImplementedError("not glibc")
        split, batch = digits(seed=0), 8 if QUICK else 64
        parameters = initial_parameters(rng=np.random.default_rng(0))
        self.inputs = {"x": split.x_train[:batch], "labels": split.y_train[:batch], **parameters}
        self.nodes = with_loss(digits_cnn(training=True))

    def time_training_step(self, kept):
        backward(run(self.nodes, self.inputs), {"loss": 1.0})

    def peakmem_training_step(self, kept):
        backward(run(self.nodes, self.inputs), {"loss": 1.0})
