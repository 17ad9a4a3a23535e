"""The script that made the shipped weights makes them again."""

import json
import subprocess
import sys

import numpy as np
import pytest

from refquant.nn import _train_digits, models
from refquant.nn.data import digits


def train(out, *arguments):
    command = [sys.executable, "-m", "refquant.nn._train_digits", "--out", str(out), *arguments]
    subprocess.run(command, check=True, capture_output=True)
    return out.read_bytes(), json.loads(out.with_suffix(".json").read_text())


def test_two_runs_write_the_same_bytes(tmp_path):
    a, manifest = train(tmp_path / "a.npz", "--epochs", "1")
    b, again = train(tmp_path / "b.npz", "--epochs", "1")
    assert a == b
    assert manifest == again
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.slow
def test_the_script_reproduces_the_shipped_file(tmp_path):
    content, manifest = train(tmp_path / "again.npz")
    shipped = json.loads(models.WEIGHTS.with_suffix(".json").read_text())
    assert manifest["accuracy"] >= 0.98
    if manifest["arithmetic"] == shipped["arithmetic"] and manifest["numpy"] == shipped["numpy"]:
        assert content == models.WEIGHTS.read_bytes()


def test_training_learns_and_keeps_float32():
    losses = []
    split = digits(seed=3)
    model = _train_digits.fit(
        split, rng=np.random.default_rng(0), epochs=2, progress=losses.append
    )
    assert losses[1] < losses[0]
    assert all(v.dtype == np.float32 for v in model.values.values())
    assert models.accuracy(model, split.x_test, split.y_test) > 0.5      # chance is 0.1
