"""The running example: one training step against torch, prediction, and how often it errs."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality, need, share_of_time
from refquant.nn.data import digits
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import (
    accuracy,
    digits_cnn,
    initial_parameters,
    predict,
    trained_digits_cnn,
    with_loss,
)
from refquant.nn.network import backward, run

BATCH = 8 if QUICK else 64


class Models(Benchmark):
    params = (["refquant", "torch"], ["float32", "float64"])
    param_names = ("impl", "dtype")

    def setup(self, impl, dtype):
        split = digits(seed=0)
        x, y = split.x_train[:BATCH].astype(dtype), split.y_train[:BATCH]
        p = initial_parameters(rng=np.random.default_rng(0), dtype=np.dtype(dtype).type)
        nodes, inputs = with_loss(digits_cnn(training=True)), {"x": x, "labels": y, **p}
        self.ours = lambda: backward(run(nodes, inputs), {"loss": 1.0})
        self.step = self.ours
        if impl == "torch":
            torch = need("torch")
            torch.set_num_threads(1)
            t, loss = torch_network(torch, p, x, y)
            self.step = lambda: torch.autograd.grad(loss(), list(t.values()))
        keep_freed_memory()
        self.step()

    def time_training_step(self, impl, dtype):
        self.step()

    def track_time_of_refquant_over_this(self, impl, dtype):
        """Time of our training step over that of `impl`, side by side, in one thread."""
        return share_of_time(self.ours, self.step)

    track_time_of_refquant_over_this.unit = "ratio"


class ShippedModel(Quality):
    def setup(self):
        self.model, self.split = trained_digits_cnn(), digits(seed=0)
        self.images = self.split.x_test[: 10 * BATCH]

    def time_predict(self):
        predict(self.model, self.images)

    def track_error_rate(self):
        """On the half of the digits that it was not trained on."""
        return 100 * (1 - accuracy(self.model, self.split.x_test, self.split.y_test))

    track_error_rate.unit = "% of the test images"


def torch_network(torch, p, x, y, *, running=False):
    """Parameters of the same network in torch, and its loss; with running statistics if asked."""
    functional = torch.nn.functional
    t = {
        name: torch.tensor(
            (v.transpose(0, 3, 1, 2) if v.ndim == 4 else v).copy(), requires_grad=True
        )
        for name, v in p.items()
    }
    averages = {name: [torch.zeros(len(v)), torch.ones(len(v))] if running else [None, None]
                for name, v in t.items() if name.endswith("gamma")}
    image, labels = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)

    def block(h, layer, *, stride=1, groups=1, shortcut=None):
        w, gamma = t[f"{layer}.weight"], f"{layer}.gamma"
        h = functional.conv2d(h, w, stride=stride, padding=w.shape[2] // 2, groups=groups)
        h = functional.batch_norm(
            h, *averages[gamma], t[gamma], t[f"{layer}.beta"], training=True
        )
        return functional.relu(h if shortcut is None else h + shortcut)

    def loss():
        stem = block(image, "stem")
        h = block(block(stem, "r1a"), "r1b", shortcut=stem)
        wide = block(block(h, "dw1", stride=2, groups=16), "pw1")
        h = block(block(wide, "r2a"), "r2b", shortcut=wide)
        h = block(block(h, "dw2", stride=2, groups=32), "pw2").mean((2, 3))
        return functional.cross_entropy(functional.linear(h, t["fc.weight"], t["fc.bias"]), labels)

    return t, loss
