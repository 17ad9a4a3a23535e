"""The running example: its shape, its gradients, and the weights that ship."""

import json

import numpy as np
import pytest

from refquant.nn import models
from refquant.nn.data import digits
from refquant.nn.models import (
    Model,
    accuracy,
    digits_cnn,
    initial_parameters,
    initial_statistics,
    predict,
    trained_digits_cnn,
    with_loss,
)
from refquant.nn.network import backward, run

SPLIT = digits(seed=0)


def fresh(dtype=np.float32, seed=0):
    return initial_parameters(rng=np.random.default_rng(seed), dtype=dtype)


def test_there_are_27338_parameters_and_every_one_is_read():
    p, s = fresh(), initial_statistics()
    assert sum(v.size for v in p.values()) == 27338
    read = {name for node in digits_cnn() for name in node.inputs}
    assert set(p) | set(s) <= read
    assert set(p) <= {name for node in digits_cnn(training=True) for name in node.inputs}
    assert not set(s) & {name for node in digits_cnn(training=True) for name in node.inputs}


def test_training_and_evaluation_have_the_same_names():
    names = [n.name for n in digits_cnn()]
    assert names == [n.name for n in digits_cnn(training=True)]
    assert names[-1] == "logits"
    assert with_loss(digits_cnn())[-1].name == "loss"


def test_the_same_draws_start_both_precisions():
    a, b = fresh(np.float32), fresh(np.float64)
    assert all(np.array_equal(a[k], b[k].astype(np.float32)) for k in a)
    assert np.isclose(b["r2a.weight"].std(), (2 / 288) ** 0.5, rtol=0.05)


@pytest.mark.parametrize("training", [False, True])
def test_every_gradient_has_the_dtype_of_its_parameter(training):
    p = fresh()
    x, y = SPLIT.x_train[:8], SPLIT.y_train[:8]
    statistics = {} if training else initial_statistics()
    trace = run(with_loss(digits_cnn(training=training)), {"x": x, "labels": y, **p, **statistics})
    gradients = backward(trace, {"loss": 1.0})
    assert all(v.dtype == np.float32 for k, v in trace.values.items() if k != "labels")
    for name in p:
        assert gradients[name].dtype == np.float32
        assert gradients[name].shape == p[name].shape


@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_of_the_whole_network_is_its_derivative(training):
    rng = np.random.default_rng(1)
    p = fresh(np.float64)
    for name in p:                      # where pixels are 0, a beta of 0 lies on the ReLU's kink
        if name.endswith("beta"):
            p[name] = rng.standard_normal(p[name].shape) / 4
    inputs = {"x": SPLIT.x_train[:16].astype(np.float64), "labels": SPLIT.y_train[:16]}
    if not training:
        inputs |= initial_statistics(dtype=np.float64)
    nodes = with_loss(digits_cnn(training=training))
    gradients = backward(run(nodes, inputs | p), {"loss": 1.0})
    for name in p:
        d = rng.standard_normal(p[name].shape)
        d /= np.linalg.norm(d)
        h = 1e-7            # small: a step must not carry an activation across its kink
        ahead = run(nodes, inputs | {**p, name: p[name] + h * d}).values["loss"]
        behind = run(nodes, inputs | {**p, name: p[name] - h * d}).values["loss"]
        assert np.isclose((ahead - behind) / (2 * h), (gradients[name] * d).sum(), atol=1e-6)


def test_inputs_of_all_layers_are_never_negative():
    """Unsigned codes suffice for activations."""
    model = trained_digits_cnn()
    values = run(model.nodes, {"x": SPLIT.x_test, **model.values}).values
    layers = [n for n in model.nodes if any(i.endswith(".weight") for i in n.inputs)]
    assert len(layers) == 10
    assert all(values[n.inputs[0]].min() >= 0 for n in layers)


def test_the_shipped_network_reads_98_percent_of_the_digits_it_has_not_seen():
    model = trained_digits_cnn()
    measured = accuracy(model, SPLIT.x_test, SPLIT.y_test)
    manifest = json.loads(models.WEIGHTS.with_suffix(".json").read_text())
    assert measured >= 0.98
    # One image of slack for the order in which another BLAS sums.
    assert abs(measured - manifest["accuracy"]) <= 1.5 / len(SPLIT.y_test)
    assert manifest["sha256"] == models.WEIGHTS_SHA256


def test_the_shipped_arrays_are_small_float32_and_read_only():
    assert models.WEIGHTS.stat().st_size < 200_000
    model = trained_digits_cnn()
    p, s = fresh(), initial_statistics()
    assert {k: v.shape for k, v in model.parameters.items()} == {k: v.shape for k, v in p.items()}
    assert {k: v.shape for k, v in model.statistics.items()} == {k: v.shape for k, v in s.items()}
    assert all(v.dtype == np.float32 for v in model.values.values())
    with pytest.raises(ValueError, match="read-only"):
        model.parameters["fc.weight"][0, 0] = 1
    model.parameters.pop("fc.weight")                       # the dict is the caller's own
    assert "fc.weight" in trained_digits_cnn().parameters


def test_prediction_is_the_same_one_image_at_a_time():
    model = trained_digits_cnn()
    together = predict(model, SPLIT.x_test[:5])
    alone = np.concatenate([predict(model, SPLIT.x_test[i : i + 1]) for i in range(5)])
    assert np.allclose(together, alone, atol=1e-4)


def test_a_tap_reaches_the_prediction():
    model = trained_digits_cnn()
    logits = predict(model, SPLIT.x_test[:5], tap=lambda k, v: 0 * v if k == "fc.weight" else v)
    assert np.allclose(logits, model.parameters["fc.bias"])


def test_accuracy_counts():
    model = Model(digits_cnn(), fresh(), initial_statistics())
    labels = predict(model, SPLIT.x_test[:10]).argmax(1)
    labels[:3] += 1
    assert accuracy(model, SPLIT.x_test[:10], labels) == 0.7


def test_a_missing_or_changed_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights must be at .*missing"):
        models._load(tmp_path / "missing.npz", models.WEIGHTS_SHA256)
    changed = tmp_path / "changed.npz"
    content = bytearray(models.WEIGHTS.read_bytes())
    content[1000] ^= 1
    changed.write_bytes(content)
    with pytest.raises(ValueError, match="must have the SHA-256"):
        models._load(changed, models.WEIGHTS_SHA256)


@pytest.mark.peer
def test_loss_and_all_gradients_of_the_network_equal_torch():
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    p = fresh(np.float64)
    t = {
        name: torch.tensor(v.transpose(0, 3, 1, 2).copy() if v.ndim == 4 else v,
                           requires_grad=True)
        for name, v in p.items()
    }
    x, y = SPLIT.x_train[:16].astype(np.float64), SPLIT.y_train[:16]

    def block(h, layer, *, stride=1, groups=1, shortcut=None):
        w = t[f"{layer}.weight"]
        h = functional.conv2d(h, w, stride=stride, padding=w.shape[2] // 2, groups=groups)
        h = functional.batch_norm(h, None, None, t[f"{layer}.gamma"], t[f"{layer}.beta"], True)
        return functional.relu(h if shortcut is None else h + shortcut)

    stem = block(torch.tensor(x.transpose(0, 3, 1, 2).copy()), "stem")
    h = block(block(stem, "r1a"), "r1b", shortcut=stem)
    wide = block(block(h, "dw1", stride=2, groups=16), "pw1")
    h = block(block(wide, "r2a"), "r2b", shortcut=wide)
    h = block(block(h, "dw2", stride=2, groups=32), "pw2").mean((2, 3))
    loss = functional.cross_entropy(
        functional.linear(h, t["fc.weight"], t["fc.bias"]), torch.tensor(y)
    )
    loss.backward()
    trace = run(with_loss(digits_cnn(training=True)), {"x": x, "labels": y, **p})
    assert np.isclose(trace.values["loss"], loss.item(), rtol=1e-12)
    gradients = backward(trace, {"loss": 1.0})
    for name, tensor in t.items():
        theirs = tensor.grad.numpy()
        theirs = theirs.transpose(0, 2, 3, 1) if theirs.ndim == 4 else theirs
        assert np.allclose(gradients[name], theirs, rtol=1e-8, atol=1e-11)
