"""A training step with quantizers everywhere, against the float step and against torch."""

from benchmarks.common import QUICK, Benchmark, Quality, need, share_of_time
from refquant.apply import _experiment_qat as experiment
from refquant.nn.models import digits_cnn, with_loss
from refquant.nn.network import backward, run

BATCH = 8 if QUICK else 64


class Learned(Benchmark):
    params = (["refquant"], ["STE, fixed mse steps", "LSQ, mse start"])
    param_names = ("impl", "method")

    def setup(self, impl, method):
        on = experiment.subject(0)
        inputs = {"x": on.data.x_train[:BATCH], "labels": on.data.y_train[:BATCH]}
        nodes, parameters = experiment.prepared(
            experiment.METHODS[method], on, 4, activations=True)
        plain = with_loss(digits_cnn(training=True))
        self.quantized = lambda: backward(run(nodes, {**inputs, **parameters}), {"loss": 1.0})
        self.float = lambda: backward(run(plain, {**inputs, **on.model.parameters}), {"loss": 1.0})
        self.torch = lambda: torch_step(on.model.parameters, parameters, inputs)

    def time_training_step(self, impl, method):
        self.quantized()

    def track_time_over_float(self, impl, method):
        return share_of_time(self.quantized, self.float)

    track_time_over_float.unit = "ratio"

class LearnedOverTorch(Quality):
    params, param_names = Learned.params, Learned.param_names

    def setup(self, impl, method):
        need("torch")
        Learned.setup(self, impl, method)
        self.theirs = self.torch()

    def track_time_over_torch(self, impl, method):
        """The same network in torch, LSQ by detach in front of every layer."""
        return share_of_time(self.quantized, self.theirs)

    track_time_over_torch.unit = "ratio"


class LearnedError(Quality):
    """What the table that ships says of 2 bits, over five networks."""

    params = (["refquant"], ["PTQ mse, per tensor", "STE, fixed mse steps", "LSQ, mse start"])
    param_names = ("impl", "method")

    def track_error_rate(self, impl, method):
        scores = experiment.read_table()[method, "WA", 2]
        return 100 - 100 * sum(s.accuracy for s in scores) / len(scores)

    track_error_rate.unit = "% of the test images"


def torch_step(weights, quantized, inputs):
    """Loss and gradients of the digits network in torch, one thread."""
    torch = need("torch")
    torch.set_num_threads(1)
    functional = torch.nn.functional
    t = {n: torch.tensor((w.transpose(0, 3, 1, 2) if w.ndim == 4 else w).copy(),
                         requires_grad=True) for n, w in weights.items()}
    scales = {n: torch.tensor(s.item(), requires_grad=True)
              for n, s in quantized.items() if n.endswith(".scale")}
    image = torch.tensor(inputs["x"].transpose(0, 3, 1, 2).copy())
    labels = torch.tensor(inputs["labels"])
    fixed = torch.tensor(0.01)

    def q(x, name, low, high):
        s = scales.get(f"{name}.scale", fixed)
        v = (x / s).clamp(low, high)
        return s * (v + (v.round() - v).detach())

    def block(h, layer, *, stride=1, groups=1, shortcut=None):
        w = q(t[f"{layer}.weight"], f"{layer}.weight", -8, 7)
        h = functional.conv2d(h, w, stride=stride, padding=w.shape[2] // 2, groups=groups)
        h = functional.batch_norm(
            h, None, None, t[f"{layer}.gamma"], t[f"{layer}.beta"], training=True)
        return q(functional.relu(h if shortcut is None else h + shortcut), layer, 0, 15)

    def step():
        stem = block(q(image, "x", 0, 255), "stem")
        h = block(block(stem, "r1a"), "r1b", shortcut=stem)
        wide = block(block(h, "dw1", stride=2, groups=16), "pw1")
        h = block(block(wide, "r2a"), "r2b", shortcut=wide)
        h = block(block(h, "dw2", stride=2, groups=32), "pw2").mean((2, 3))
        logits = functional.linear(
            q(h, "pool", 0, 255), q(t["fc.weight"], "fc.weight", -128, 127), t["fc.bias"])
        functional.cross_entropy(logits, labels).backward()

    return step
