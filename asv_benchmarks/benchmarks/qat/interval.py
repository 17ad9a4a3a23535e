"""QIL: forward and backward, beside the same in torch."""

import numpy as np

from benchmarks.common import Benchmark, need, size, weights
from refquant.qat.interval import fake_quantize_weight

PLACE = [np.array(v, np.float32) for v in (0.8, 0.6, 1.5)]


class Interval(Benchmark):
    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.x = weights("gauss", size(1_000_000))
        self.g = np.ones_like(self.x)
        if impl == "torch":
            self.torch = need("torch")
            self.torch.set_num_threads(1)
            self.tensors = [self.torch.tensor(v, requires_grad=True) for v in (self.x, *PLACE)]

    def time_forward_and_backward(self, impl):
        if impl == "refquant":
            fake_quantize_weight(self.x, *PLACE, bits=3)[1](self.g)
            return
        torch = self.torch
        w, c, d, gamma = self.tensors
        u = (0.5 + 0.5 * (w.abs() - c) / d).clamp(1e-6, 1)
        t = u**gamma * w.sign()
        (t + ((t * 3).round() / 3 - t).detach()).backward(torch.ones_like(w))
