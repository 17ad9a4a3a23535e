"""Distillation losses: time of value and gradient beside torch's, and what T squared keeps."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, Quality, need, size
from refquant.qat.distillation import attention_transfer, co_study, hinton, soft_cross_entropy

ROWS = size(10_000) // 10


class Distillation(Benchmark):
    params = (["refquant", "torch"], ["hinton", "co_study", "attention"])
    param_names = ("impl", "loss")

    def setup(self, impl, loss):
        rng = np.random.default_rng(0)
        logits = rng.standard_normal((2, ROWS, 100), np.float32)
        maps = rng.standard_normal((2, ROWS, 4, 4, 8), np.float32)
        labels = rng.integers(0, 100, ROWS)
        one = np.float32(1)
        if impl == "torch":
            self.step = in_torch(need("torch"), loss, logits, labels, maps)
        elif loss == "attention":
            self.step = lambda: attention_transfer(*maps, beta=1.0)[1](one)
        else:
            of = {"hinton": hinton, "co_study": co_study}[loss]
            self.step = lambda: of(logits[0], labels, logits[1])[1](one)
        self.step()

    def time_value_and_gradient(self, impl, loss):
        self.step()


class DistillationWeight(Quality):
    params = ([1.0, 4.0, 20.0],)
    param_names = ("temperature",)

    def track_gradient_with_the_square(self, temperature):
        """Root mean square of n times the gradient: hardly moved by the temperature."""
        z = 2 * np.random.default_rng(0).standard_normal((2, 200, 10))
        step = partial(soft_cross_entropy, *z, temperature=temperature)
        return float(np.sqrt(np.square(200 * step()[1](np.array(1.0))[0]).mean()))

    track_gradient_with_the_square.unit = "per unit of a logit"


def in_torch(torch, loss, logits, labels, maps):
    """The same loss with torch's functions, and its gradients."""
    torch.set_num_threads(1)
    f, y = torch.nn.functional, torch.tensor(labels)
    s, t, a, b = (torch.tensor(v, requires_grad=True) for v in (*logits, *maps))

    def kl(own, other, at):
        return at * at * f.kl_div(f.log_softmax(own / at, 1), f.softmax(other.detach() / at, 1),
                                  reduction="batchmean")

    def direction(m):
        return f.normalize((m * m).sum(-1).flatten(1))

    values = {
        "hinton": lambda: 0.1 * f.cross_entropy(s, y) + 0.9 * kl(s, t, 4.0),
        "co_study": lambda: sum(f.cross_entropy(o, y) + kl(o, c, 2.0) for o, c in ((s, t), (t, s))),
        "attention": lambda: ((direction(a) - direction(b)) ** 2).sum() / (2 * len(a)),
    }
    leaves = {"hinton": [s], "co_study": [s, t], "attention": [a]}[loss]
    return lambda: torch.autograd.grad(values[loss](), leaves)
