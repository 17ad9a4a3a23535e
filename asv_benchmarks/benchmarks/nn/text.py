"""The character model: a training step beside torch, and bits per character."""

import numpy as np

from benchmarks.common import Benchmark, Quality, need, share_of_time, size
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import with_loss
from refquant.nn.network import backward, run
from refquant.nn.text import (
    bits_per_character,
    initial_text_model,
    text_data,
    text_network,
    trained_text_model,
)

BATCH = 256


def our_step(p, x, y):
    nodes = with_loss(text_network())
    return lambda: backward(run(nodes, {"x": x, "labels": y, **p}), {"loss": 1.0})


def torch_network(torch, p, x, y):
    """Parameters of the same network in torch, and its loss."""
    t = {name: torch.tensor(value, requires_grad=True) for name, value in p.items()}
    x, y, f = torch.tensor(x.copy()), torch.tensor(y.copy()), torch.nn.functional

    def loss():
        h = t["embed.weight"][x].flatten(1)
        for layer in ("fc1", "fc2"):
            h = f.relu(f.linear(h, t[f"{layer}.weight"], t[f"{layer}.bias"]))
        return f.cross_entropy(f.linear(h, t["fc3.weight"], t["fc3.bias"]), y)

    return t, loss


class Text(Benchmark):
    params = (["refquant", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        data = text_data()
        x, y = data.x_train[:BATCH], data.y_train[:BATCH]
        p = initial_text_model(rng=np.random.default_rng(0)).parameters
        self.ours = our_step(p, x, y)
        self.step = self.ours
        if impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            t, loss = torch_network(torch, p, x, y)
            self.step = lambda: torch.autograd.grad(loss(), list(t.values()))
        keep_freed_memory()
        self.step()

    def time_training_step(self, impl):
        self.step()

    def track_time_of_refquant_over_this(self, impl):
        """Time of our training step over that of `impl`, side by side."""
        return share_of_time(self.ours, self.step)

    track_time_of_refquant_over_this.unit = "ratio"


class TextQuality(Quality):
    def track_bits_per_character(self):
        """On the first contexts of the last tenth of the text."""
        data, n = text_data(), size(20_000)
        return bits_per_character(trained_text_model(), data.x_test[:n], data.y_test[:n])

    track_bits_per_character.unit = "bits per character"
