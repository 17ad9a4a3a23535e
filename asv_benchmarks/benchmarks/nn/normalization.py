"""Batch normalization, forward and back, against torch."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, need
from refquant.nn.normalization import Running, batch_norm, batch_norm_training, update_running

BATCH = 8 if QUICK else 64


class Normalization(Benchmark):
    params = (["refquant", "torch"], ["training", "evaluation"])
    param_names = ("impl", "phase")

    def setup(self, impl, phase):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((BATCH, 8, 8, 16)).astype(np.float32)
        zero, one = np.zeros(16, np.float32), np.ones(16, np.float32)
        if impl == "refquant":

            def step():
                if phase == "training":
                    y, pullback = batch_norm_training(x, one, zero)
                    update_running(Running(zero, one), x)
                else:
                    y, pullback = batch_norm(x, one, zero, zero, one)
                pullback(y)

        else:
            torch = need("torch")
            torch.set_num_threads(1)
            layer = torch.nn.BatchNorm2d(16).train(phase == "training")
            image = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)

            def step():
                y = layer(image)
                y.backward(y.detach())

        self.step = step
        step()

    def time_forward_and_back(self, impl, phase):
        self.step()
