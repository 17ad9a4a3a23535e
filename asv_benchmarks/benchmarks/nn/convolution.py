"""Convolutions of the running example, forward and back, against torch."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, need
from refquant.nn.convolution import conv2d, depthwise_conv2d

BATCH = 8 if QUICK else 64
KINDS = ["3x3", "1x1", "depthwise", "depthwise-stride2"]


class Convolution(Benchmark):
    params = (["refquant", "torch"], KINDS)
    param_names = ("impl", "kind")

    def setup(self, impl, kind):
        rng = np.random.default_rng(0)
        side = 1 if kind == "1x1" else 3
        depthwise = kind.startswith("depthwise")
        x = rng.standard_normal((BATCH, 8, 8, 16)).astype(np.float32)
        w = rng.standard_normal((16, side, side, 1 if depthwise else 16)).astype(np.float32)
        settings = {"stride": 2 if kind.endswith("2") else 1, "padding": side // 2}
        if impl == "refquant":
            operation = depthwise_conv2d if depthwise else conv2d

            def step():
                y, pullback = operation(x, w, **settings)
                pullback(y)

        else:
            torch = need("torch")
            torch.set_num_threads(1)
            image, weight = (
                torch.tensor(a.transpose(0, 3, 1, 2).copy(), requires_grad=True) for a in (x, w)
            )

            def step():
                y = torch.nn.functional.conv2d(
                    image, weight, groups=16 if depthwise else 1, **settings
                )
                y.backward(y.detach())

        self.step = step
        step()

    def time_forward_and_back(self, impl, kind):
        self.step()

    def peakmem_forward_and_back(self, impl, kind):
        self.step()
