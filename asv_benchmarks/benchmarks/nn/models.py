"""The running example: one training step against torch, prediction, and how often it errs."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality, need
from refquant.nn.data import digits
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
        if impl == "refquant":
            nodes, inputs = with_loss(digits_cnn(training=True)), {"x": x, "labels": y, **p}
            self.step = lambda: backward(run(nodes, inputs), {"loss": 1.0})
        else:
            torch = need("torch")
            torch.set_num_threads(1)
            self.step = torch_step(torch, p, x, y)
        self.step()

    def time_training_step(self, impl, dtype):
        self.step()


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


def torch_step(torch, p, x, y):
    """Loss and gradients of the same network in torch, from the same parameters."""
    functional = torch.nn.functional
    t = {
        name: torch.tensor(
            (v.transpose(0, 3, 1, 2) if v.ndim == 4 else v).copy(), requires_grad=True
        )
        for name, v in p.items()
    }
    image, labels = torch.tensor(x.transpose(0, 3, 1, 2).copy()), torch.tensor(y)

    def block(h, layer, *, stride=1, groups=1, shortcut=None):
        w = t[f"{layer}.weight"]
        h = functional.conv2d(h, w, stride=stride, padding=w.shape[2] // 2, groups=groups)
        h = functional.batch_norm(
            h, None, None, t[f"{layer}.gamma"], t[f"{layer}.beta"], training=True
        )
        return functional.relu(h if shortcut is None else h + shortcut)

    def step():
        stem = block(image, "stem")
        h = block(block(stem, "r1a"), "r1b", shortcut=stem)
        wide = block(block(h, "dw1", stride=2, groups=16), "pw1")
        h = block(block(wide, "r2a"), "r2b", shortcut=wide)
        h = block(block(h, "dw2", stride=2, groups=32), "pw2").mean((2, 3))
        logits = functional.linear(h, t["fc.weight"], t["fc.bias"])
        loss = functional.cross_entropy(logits, labels)
        gradients = torch.autograd.grad(loss, list(t.values()))
        return loss, dict(zip(t, gradients, strict=True))

    return step
