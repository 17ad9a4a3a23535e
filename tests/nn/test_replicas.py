"""The five copies: what ships, and that the script that made it learns."""

import json
import subprocess
import sys

import numpy as np
import pytest

from refquant.nn import _train_replicas
from refquant.nn._weights import WEIGHTS
from refquant.nn.data import Split, digits
from refquant.nn.models import accuracy, trained_digits_cnn
from refquant.nn.replicas import REPLICAS, replica

MANIFEST = json.loads((WEIGHTS / "replicas.json").read_text())


@pytest.mark.parametrize("seed", range(REPLICAS))
def test_a_copy_is_as_accurate_on_its_own_half_as_its_manifest_says(seed):
    data = digits(seed=seed)
    measured = accuracy(replica(seed), data.x_test, data.y_test)
    assert abs(measured - MANIFEST["accuracy"][str(seed)]) <= 1 / 899
    assert measured >= 0.97


def test_the_copies_have_the_shapes_of_the_shipped_network_and_differ():
    shapes = {n: v.shape for n, v in trained_digits_cnn().values.items()}
    first = None
    for seed in range(REPLICAS):
        values = replica(seed).values
        assert {n: v.shape for n, v in values.items()} == shapes
        assert all(v.dtype == np.float32 and not v.flags.writeable for v in values.values())
        assert first is None or not np.array_equal(values["fc.weight"], first)
        first = values["fc.weight"]


def test_a_copy_that_does_not_ship_is_refused():
    with pytest.raises(ValueError, match="`seed` must be at most 4; got 5"):
        replica(5)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        replica(1.0)


def test_training_learns():
    data = digits(seed=7)
    part = Split(data.x_train[:448], data.y_train[:448], data.x_test, data.y_test)
    losses = []
    model = _train_replicas.fit(part, rng=np.random.default_rng(7), epochs=3,
                                progress=losses.append)
    assert losses[2] < losses[1] < losses[0]
    assert all(v.dtype == np.float32 for v in model.values.values())


@pytest.mark.slow
def test_the_script_reproduces_the_shipped_file(tmp_path):
    from refquant.nn._artifacts import arithmetic

    if MANIFEST["arithmetic"] != arithmetic():
        pytest.skip("this machine sums in another order than the one that trained the file")
    out = tmp_path / "again.npz"
    subprocess.run([sys.executable, "-m", "refquant.nn._train_replicas", "--out", str(out)],
                   check=True, capture_output=True)
    assert out.read_bytes() == (WEIGHTS / "replicas.npz").read_bytes()
