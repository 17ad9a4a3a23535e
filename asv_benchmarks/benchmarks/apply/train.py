"""The training loop: whole steps beside torch, what it adds to the gradients, and checkpoints."""

import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality, need, share_of_time
from benchmarks.nn import models, text
from refquant.apply.train import resume, save, shuffled, start, train
from refquant.nn.data import digits
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import digits_cnn, initial_parameters, initial_statistics, with_loss
from refquant.nn.network import backward, run
from refquant.nn.optimizers import constant
from refquant.nn.text import initial_text_model, text_data, text_network

STEPS = 1 if QUICK else 10


class _Digits:
    """The digits network, 64 images to a batch."""

    def __init__(self):
        split, rng = digits(), np.random.default_rng(0)
        self.nodes = with_loss(digits_cnn(training=True))
        self.state = start(initial_parameters(rng=rng), initial_statistics())
        arrays = {"x": split.x_train, "labels": split.y_train}
        self.batch = shuffled(arrays, 8 if QUICK else 64, rng=rng)

    def in_torch(self, torch, x, labels):
        return models.torch_network(torch, self.state.parameters, x, labels, running=True)


class _Text(_Digits):
    """The character model, 256 contexts to a batch."""

    def __init__(self):
        data, rng = text_data(), np.random.default_rng(0)
        self.nodes = with_loss(text_network())
        self.state = start(initial_text_model(rng=rng).parameters, {})
        arrays = {"x": data.x_train[:10_000], "labels": data.y_train[:10_000]}
        self.batch = shuffled(arrays, 8 if QUICK else 256, rng=rng)

    def in_torch(self, torch, x, labels):
        return text.torch_network(torch, self.state.parameters, x, labels)


class Train(Benchmark):
    params = (["digits", "text"],)
    param_names = ("network",)

    def setup(self, network):
        keep_freed_memory()
        self.at = {"digits": _Digits, "text": _Text}[network]()

    def steps(self):
        at = self.at
        train(at.nodes, at.state, at.batch, steps=STEPS, rate=constant(1e-3))

    def gradients_alone(self):
        at = self.at
        for step in range(STEPS):
            backward(run(at.nodes, {**at.batch(step), **at.state.parameters}), {"loss": 1.0})

    def torch_steps(self):
        """Adam in torch, from the same parameters; each batch is the first one."""
        torch = need("torch")
        torch.set_num_threads(1)
        values, loss = self.at.in_torch(torch, *self.at.batch(0).values())
        adam = torch.optim.Adam(values.values())

        def run_steps():
            for _ in range(STEPS):
                adam.zero_grad()
                loss().backward()
                adam.step()

        run_steps()
        return run_steps

    def time_ten_steps(self, network):
        self.steps()

    def track_time_over_that_of_the_gradients(self, network):
        """Optimizer, running statistics and checks are the rest."""
        return share_of_time(self.steps, self.gradients_alone)

    track_time_over_that_of_the_gradients.unit = "ratio"


class TrainOverTorch(Quality):
    params, param_names = Train.params, Train.param_names

    def setup(self, network):
        need("torch")
        self.ours = Train()
        self.ours.setup(network)
        self.theirs = self.ours.torch_steps()

    def track_time_over_that_of_torch(self, network):
        """Batch, forward, backward, running statistics and Adam, each in float32 and one thread."""
        return share_of_time(self.ours.steps, self.theirs)

    track_time_over_that_of_torch.unit = "ratio"


class Checkpoint(Benchmark):
    def setup(self):
        self.folder = tempfile.TemporaryDirectory()
        self.state, self.path = _Digits().state, Path(self.folder.name) / "state.npz"
        save(self.state, self.path)

    def teardown(self):
        self.folder.cleanup()

    def time_save(self):
        save(self.state, self.path)

    def time_resume(self):
        resume(self.path)
