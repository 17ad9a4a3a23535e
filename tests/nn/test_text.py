"""The character model: its data, its operations, its measure, and the weights that ship."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn import _train_text
from refquant.nn._weights import WEIGHTS
from refquant.nn.models import with_loss
from refquant.nn.network import backward, run
from refquant.nn.text import (
    CONTEXT,
    TextData,
    bits_per_character,
    embedding,
    initial_text_model,
    text_data,
    text_network,
    trained_text_model,
)

DATA = text_data()


def test_a_context_is_followed_by_its_character():
    for x, y in ((DATA.x_train, DATA.y_train), (DATA.x_test, DATA.y_test)):
        assert len(x) == len(y)
        assert x.shape[1] == CONTEXT
        assert np.array_equal(x[1:, -1], y[:-1])
        assert x.min() >= 0
        assert x.max() <= 102
    assert isinstance(DATA, TextData)
    assert 0.88 < len(DATA.x_train) / (len(DATA.x_train) + len(DATA.x_test)) < 0.92


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_pullback_of_a_lookup_is_its_adjoint(n, m, features, seed):
    rng = np.random.default_rng(seed)
    table = rng.standard_normal((7, features))
    index = rng.integers(0, 7, (n, m))
    value, pullback = embedding(index, table)
    assert np.array_equal(value.reshape(n, m, features), table[index])
    g, d = rng.standard_normal(value.shape), rng.standard_normal(table.shape)
    nothing, back = pullback(g)
    assert nothing is None
    assert np.isclose((back * d).sum(), (g * embedding(index, d)[0]).sum())


def test_an_index_outside_the_table_is_refused():
    with pytest.raises(ValueError, match=r"`index` must lie in \[0, 6\]; got 7"):
        embedding(np.array([[7]]), np.zeros((7, 2)))
    with pytest.raises(TypeError, match="`index` must be integers"):
        embedding(np.array([[1.0]]), np.zeros((7, 2)))


def test_the_gradient_of_the_whole_model_is_its_derivative():
    rng = np.random.default_rng(0)
    model = initial_text_model(rng=rng, dtype=np.float64)
    values = {"x": DATA.x_train[:8], "labels": DATA.y_train[:8], **model.parameters}
    nodes = with_loss(text_network())
    gradients = backward(run(nodes, values), {"loss": 1.0})
    for name in model.parameters:
        d = rng.standard_normal(values[name].shape)
        d *= 1e-7 / np.linalg.norm(d)
        ahead = run(nodes, {**values, name: values[name] + d}).values["loss"]
        behind = run(nodes, {**values, name: values[name] - d}).values["loss"]
        assert np.isclose((ahead - behind) / 2, (gradients[name] * d).sum(), atol=1e-13, rtol=1e-3)


def test_an_untold_model_pays_log2_of_the_alphabet():
    model = initial_text_model(rng=np.random.default_rng(0))
    flat = {name: 0 * value for name, value in model.parameters.items()}
    x, y = DATA.x_test[:50], DATA.y_test[:50]
    assert np.isclose(bits_per_character(model._replace(parameters=flat), x, y), np.log2(103))


@pytest.mark.parametrize("batch", [1, 7, 64, 4096])
def test_the_measure_does_not_depend_on_the_batch(batch):
    model, x, y = trained_text_model(), DATA.x_test[:64], DATA.y_test[:64]
    assert np.isclose(bits_per_character(model, x, y, batch=batch), bits_per_character(model, x, y),
                      rtol=1e-5)


def test_no_context_is_refused():
    with pytest.raises(ValueError, match="`x` must hold at least one context"):
        bits_per_character(trained_text_model(), DATA.x_test[:0], DATA.y_test[:0])


def test_the_shipped_model_is_as_good_as_its_manifest_says():
    said = json.loads((WEIGHTS / "text_model.json").read_text())["bits_per_character"]
    measured = bits_per_character(
        trained_text_model(), DATA.x_test[:20_000], DATA.y_test[:20_000])
    assert abs(measured - said) < 0.1           # the text differs between Pythons
    counts = np.bincount(DATA.y_train)[np.unique(DATA.y_train)]
    share = counts / counts.sum()
    assert measured < -(share * np.log2(share)).sum() - 2


def test_training_learns_and_keeps_float32():
    losses = []
    model = _train_text.fit(DATA.y_train[:20_000], rng=np.random.default_rng(0), steps=40,
                            progress=losses.append)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert all(v.dtype == np.float32 for v in model.parameters.values())
