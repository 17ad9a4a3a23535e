"""A layer's weight, and the time of an estimator there and back, beside torch's autograd."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, need

SHAPE = (8, 36) if QUICK else (256, 2304)


def weight():
    """A weight of a trained size, and the gradient that comes back to it."""
    rng = np.random.default_rng(0)
    w, g = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    return w / 10, g


class _There(Benchmark):
    """``ours(w)`` with its pullback, or ``theirs(torch, t)`` with ``backward``."""

    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        w, g = weight()
        if impl == "refquant":
            self.step = lambda: self.ours(w)[1](g)
            return
        torch = need("torch")
        torch.set_num_threads(1)
        upstream = torch.from_numpy(g)

        def step():
            t = torch.from_numpy(w).requires_grad_()
            self.theirs(torch, t).backward(upstream)

        self.step = step

    def time_there_and_back(self, impl):
        self.step()

    def peakmem_there_and_back(self, impl):
        self.step()

    @staticmethod
    def ours(w):
        raise NotImplementedError

    @staticmethod
    def theirs(torch, t):
        raise NotImplementedError
