"""Pooling and the linear layer, forward and back, against torch."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, need
from refquant.nn.operations import average_pool, linear, max_pool

BATCH = 8 if QUICK else 64


class Operations(Benchmark):
    params = (["refquant", "torch"], ["linear", "max_pool", "average_pool"])
    param_names = ("impl", "operation")

    def setup(self, impl, operation):
        rng = np.random.default_rng(0)
        x = rng.standard_normal((BATCH, 16, 16, 32)).astype(np.float32)
        w = rng.standard_normal((64, 32)).astype(np.float32)
        self.forward_and_back = (self._torch if impl == "torch" else self._ours)(operation, x, w)
        self.forward_and_back()

    def _ours(self, operation, x, w):
        def step():
            y, pullback = {
                "linear": lambda: linear(x, w),
                "max_pool": lambda: max_pool(x, size=2),
                "average_pool": lambda: average_pool(x, size=2),
            }[operation]()
            pullback(y)

        return step

    def _torch(self, operation, x, w):
        torch = need("torch")
        torch.set_num_threads(1)
        functional = torch.nn.functional
        weight = torch.tensor(w, requires_grad=True)
        image = x if operation == "linear" else x.transpose(0, 3, 1, 2)
        image = torch.tensor(np.ascontiguousarray(image), requires_grad=True)
        call = {
            "linear": lambda: functional.linear(image, weight),
            "max_pool": lambda: functional.max_pool2d(image, 2),
            "average_pool": lambda: functional.avg_pool2d(image, 2),
        }[operation]

        def step():
            y = call()
            y.backward(y.detach())

        return step

    def time_forward_and_back(self, impl, operation):
        self.forward_and_back()
