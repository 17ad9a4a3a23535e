"""Drawing images of wanted classes, and passing a gradient back to the generator."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.zero_shot.generator import generate, initial_generator

SHAPE = (8, 8, 1)


class Generator(Benchmark):
    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        rng = np.random.default_rng(0)
        self.noise = rng.standard_normal((64, 32)).astype(np.float32)
        self.labels = rng.integers(0, 10, 64)
        self.parameters = list(initial_generator(10, 64, rng=rng).values())
        if impl == "torch":
            self.torch = need("torch")
            self.torch.set_num_threads(1)
            self.there = [self.torch.tensor(p, requires_grad=True) for p in self.parameters]

    def time_draw_and_pull_back(self, impl):
        if impl == "refquant":
            images, pullback = generate(self.noise, self.labels, *self.parameters, shape=SHAPE)
            pullback(images)
            return
        embedding, hidden, hidden_bias, out, out_bias = self.there
        torch = self.torch
        mixed = torch.tensor(self.noise) * embedding[torch.tensor(self.labels)]
        units = torch.nn.functional.leaky_relu(mixed @ hidden.T + hidden_bias, 0.2)
        images = (units @ out.T + out_bias).reshape(64, *SHAPE)
        images.backward(images.detach())
