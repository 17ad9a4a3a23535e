"""One optimizer step on all parameters of the running example, against torch."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.nn.models import initial_parameters
from refquant.nn.optimizers import adam, adam_start, sgd, sgd_start


class Optimizers(Benchmark):
    params = (["refquant", "torch"], ["sgd", "adam"])
    param_names = ("impl", "optimizer")

    def setup(self, impl, optimizer):
        p = initial_parameters(rng=np.random.default_rng(0))
        g = initial_parameters(rng=np.random.default_rng(1))
        if impl == "refquant":
            step, state = (sgd, sgd_start(p)) if optimizer == "sgd" else (adam, adam_start(p))
            self.step = lambda: step(p, g, state, rate=0.01)
        else:
            torch = need("torch")
            torch.set_num_threads(1)
            tensors = {name: torch.tensor(v, requires_grad=True) for name, v in p.items()}
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(g[name])
            self.step = {
                "sgd": torch.optim.SGD(tensors.values(), lr=0.01, momentum=0.9),
                "adam": torch.optim.Adam(tensors.values(), lr=0.01),
            }[optimizer].step
        self.step()

    def time_step(self, impl, optimizer):
        self.step()
