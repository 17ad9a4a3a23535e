"""Straight-through estimators: forward and backward, beside torch's own kernel."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, need
from benchmarks.qat._peers import ours, torchs
from refquant.qat.straight_through import fake_quantize, sign_tanh
from refquant.quantizers.uniform import Uniform

GRID = Uniform(np.array(0.25, np.float32), np.array(8), 0, 15)


class StraightThrough(Benchmark):
    params = (["refquant", "torch"], ["grid", "sign"])
    param_names = ("impl", "of")

    def setup(self, impl, of):
        if impl == "refquant":
            self.call = ours(partial(fake_quantize, quantizer=GRID) if of == "grid" else sign_tanh)
        elif of == "grid":
            torch = need("torch")
            self.call = torchs(
                lambda x: torch.fake_quantize_per_tensor_affine(x, 0.25, 8, 0, 15))
        else:
            self.call = torchs(lambda x: x.tanh() + (x.sign() - x.tanh()).detach())

    def time_forward_and_backward(self, impl, of):
        self.call()

    def peakmem_forward_and_backward(self, impl, of):
        self.call()
