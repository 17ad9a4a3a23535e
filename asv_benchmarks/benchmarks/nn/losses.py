"""Cross-entropy, forward and back, against torch."""

import numpy as np

from benchmarks.common import Benchmark, need, size
from refquant.nn.losses import softmax_cross_entropy


class Losses(Benchmark):
    params = (["refquant", "torch"], [10, 1000])
    param_names = ("impl", "classes")

    def setup(self, impl, classes):
        rng = np.random.default_rng(0)
        rows = size(100_000) // classes
        z = rng.standard_normal((rows, classes)).astype(np.float32)
        labels = rng.integers(0, classes, rows)
        if impl == "refquant":
            seed = np.ones((), np.float32)

            def step():
                softmax_cross_entropy(z, labels)[1](seed)

        else:
            torch = need("torch")
            torch.set_num_threads(1)
            logits, target = torch.tensor(z, requires_grad=True), torch.tensor(labels)

            def step():
                torch.nn.functional.cross_entropy(logits, target).backward()

        self.step = step
        step()

    def time_forward_and_back(self, impl, classes):
        self.step()
