"""The small networks: shapes, gradients, and the weights that ship."""

import json
from dataclasses import dataclass

import numpy as np
import pytest

from refquant.nn import _train_small
from refquant.nn._weights import WEIGHTS, load_arrays
from refquant.nn.data import Split
from refquant.nn.models import accuracy, with_loss
from refquant.nn.network import backward, run
from refquant.nn.small_models import (
    PLAIN,
    SEPARABLE,
    SEPARABLE6,
    Architecture,
    Layer,
    initial_values,
    network,
    split,
    trained,
)

ALL = pytest.mark.parametrize("architecture", [PLAIN, SEPARABLE, SEPARABLE6], ids=lambda a: a.name)
DATA = split()


@ALL
@pytest.mark.parametrize("training", [False, True])
def test_the_gradient_of_the_whole_network_is_its_derivative(architecture, training):
    rng = np.random.default_rng(3)
    model = initial_values(architecture, rng=rng, dtype=np.float64)
    for name in model.parameters:           # where pixels are 0, a beta of 0 lies on a kink
        if name.endswith("beta"):
            model.parameters[name] = rng.standard_normal(model.parameters[name].shape) / 4
    values = {"x": DATA.x_train[:8].astype(np.float64), "labels": DATA.y_train[:8], **model.values}
    nodes = with_loss(network(architecture, training=training))
    gradients = backward(run(nodes, values), {"loss": 1.0})
    for name in model.parameters:
        d = rng.standard_normal(model.parameters[name].shape)
        d *= 1e-7 / np.linalg.norm(d)
        ahead = run(nodes, {**values, name: values[name] + d}).values["loss"]
        behind = run(nodes, {**values, name: values[name] - d}).values["loss"]
        assert np.isclose((ahead - behind) / 2, (gradients[name] * d).sum(), atol=1e-13, rtol=1e-4)


@ALL
def test_the_shipped_networks_are_as_accurate_as_their_manifest_says(architecture):
    judged = json.loads((WEIGHTS / "small_models.json").read_text())["accuracy"]
    for seed in range(5):
        measured = accuracy(trained(architecture, seed=seed), DATA.x_test, DATA.y_test)
        assert abs(measured - judged[f"{architecture.name}.{seed}"]) <= 1 / 500
        assert measured > 0.93


def test_the_five_networks_differ_and_cannot_be_written_to():
    first, second = (trained(PLAIN, seed=s).parameters["c2.weight"] for s in (0, 1))
    assert not np.array_equal(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


def test_the_two_parts_of_the_digits_share_no_image_and_are_all_of_them():
    whole = np.concatenate([DATA.x_train, DATA.x_test]).reshape(1797, -1)
    assert len(np.unique(whole, axis=0)) == 1797
    assert np.bincount(np.concatenate([DATA.y_train, DATA.y_test])).sum() == 1797
    again = split()
    assert all(np.array_equal(a, b) for a, b in zip(DATA, again, strict=True))


def test_relu6_is_the_only_difference_of_the_third_network():
    a, b = (initial_values(x, rng=np.random.default_rng(0)) for x in (SEPARABLE, SEPARABLE6))
    assert all(np.array_equal(a.values[k], b.values[k]) for k in a.values)
    x = 50 * DATA.x_test[:4]
    low, high = (run(m.nodes, {"x": x, **m.values}).values["c1"] for m in (b, a))
    assert np.array_equal(low, np.minimum(high, 6))
    assert high.max() > 6


def test_a_network_or_seed_that_does_not_ship_is_refused():
    with pytest.raises(ValueError, match="`seed` must be at most 4; got 5"):
        trained(PLAIN, seed=5)
    with pytest.raises(ValueError, match="`architecture` must be one that ships; got mine"):
        trained(Architecture("mine", PLAIN.layers, PLAIN.rectifier))


def test_a_layer_is_what_the_architecture_says():
    assert isinstance(PLAIN.layers[0], Layer)
    shapes = initial_values(SEPARABLE, rng=np.random.default_rng(0)).parameters
    assert all(shapes[f"{layer.name}.weight"].shape == layer.shape for layer in SEPARABLE.layers)


@pytest.mark.parametrize("damage", [b"", b"x" * 100])
def test_damaged_weights_are_refused(tmp_path, damage):
    path = tmp_path / "w.npz"
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))
    path.write_bytes(damage)
    with pytest.raises(ValueError, match="must have the SHA-256 0000"):
        load_arrays(path, script="s")


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m refquant\.nn\._train_small"):
        load_arrays(tmp_path / "no.npz", script="refquant.nn._train_small")


def test_training_learns():
    losses = []
    half = Split(DATA.x_train[:640], DATA.y_train[:640], DATA.x_test, DATA.y_test)
    model = _train_small.fit(PLAIN, half, rng=np.random.default_rng(0), epochs=3,
                             progress=losses.append)
    assert losses[2] < losses[1] < losses[0]
    assert all(v.dtype == np.float32 for v in model.values.values())
    assert accuracy(model, half.x_test, half.y_test) > 0.4


@dataclass
class Shipped:
    script: str
    file: str


@pytest.mark.slow
@pytest.mark.parametrize("shipped", [
    Shipped("_train_small", "small_models"), Shipped("_train_text", "text_model"),
    Shipped("_train_denoiser", "denoiser")], ids=lambda s: s.file)
def test_the_script_reproduces_the_shipped_file(tmp_path, shipped):
    import subprocess
    import sys

    out = tmp_path / "again.npz"
    subprocess.run([sys.executable, "-m", f"refquant.nn.{shipped.script}", "--out", str(out)],
                   check=True, capture_output=True)
    ours = json.loads((WEIGHTS / f"{shipped.file}.json").read_text())
    again = json.loads(out.with_suffix(".json").read_text())
    if all(ours.get(k) == again.get(k) for k in ("arithmetic", "numpy", "python")):
        assert out.read_bytes() == (WEIGHTS / f"{shipped.file}.npz").read_bytes()
    else:
        assert {k: np.shape(v) for k, v in np.load(out).items()} == {
            k: np.shape(v) for k, v in np.load(WEIGHTS / f"{shipped.file}.npz").items()}
