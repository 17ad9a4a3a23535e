"""The encoder: every operation against its definition, and its pullback against its adjoint."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.nn.network import run
from refquant.nn.transformer import (
    attend,
    attention_weights,
    embed_tokens,
    encoder,
    gelu,
    layer_norm,
    linear_layers,
    sentence_embedding,
)

SEEDS = st.integers(0, 2**32 - 1)


def adjoint(op, *inputs, free, rng, eps=1e-6):
    """<g, J d> and <J^T g, d> of one input of `op`."""
    value, pullback = op(*inputs)
    g, d = rng.standard_normal(value.shape), rng.standard_normal(inputs[free].shape)
    ahead, behind = (op(*[x + s * eps * d if i == free else x for i, x in enumerate(inputs)])[0]
                     for s in (1, -1))
    return np.sum(g * (ahead - behind)) / (2 * eps), np.sum(pullback(g)[free] * d)


@given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.sampled_from([1, 2, 4]))
@settings(max_examples=25)
def test_pullbacks_are_adjoints(seed, n, tokens, heads):
    rng = np.random.default_rng(seed)
    q, k, v, x = rng.standard_normal((4, n, tokens, 4))
    mask = np.ones((n, tokens))
    mask[:, 1:] = rng.integers(0, 2, (n, tokens - 1))
    scores = rng.random((n, heads, tokens, tokens))

    def weights(q, k):
        value, pullback = attention_weights(q, k, mask, heads=heads)
        return value, lambda g: pullback(g)[:2]

    def pooled(h):
        value, pullback = sentence_embedding(h, mask)
        return value, lambda g: pullback(g)[:1]

    gain, bias = rng.standard_normal((2, 4))
    cases = [(weights, (q, k), 0), (weights, (q, k), 1), (attend, (scores, v), 0),
             (attend, (scores, v), 1), (gelu, (x,), 0), (pooled, (x,), 0)]
    cases += [(layer_norm, (x, gain, bias), free) for free in range(3)]
    for op, inputs, free in cases:
        left, right = adjoint(op, *inputs, free=free, rng=rng)
        assert np.isclose(left, right, rtol=1e-3, atol=1e-5)


def test_attention_is_the_softmax_of_scaled_products_token_by_token():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 3, 4))
    weights = attention_weights(q, k, np.array([[1, 1, 0]]), heads=2)[0]
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        for i in range(3):
            terms = [math.exp(sum(q[0, i, part] * k[0, j, part]) / math.sqrt(2)) for j in (0, 1)]
            expected = [t / sum(terms) for t in terms]
            assert np.allclose(weights[0, head, i], [*expected, 0])


def test_a_token_is_its_word_its_place_and_the_first_kind():
    words, places, kinds = (10.0**p * np.arange(3)[:, None] for p in (0, 1, 2))
    kinds += 100
    value = embed_tokens(np.array([[2, 0], [1, 1]]), words, places, kinds)[0]
    assert value[..., 0].tolist() == [[102, 110], [101, 111]]


def test_gelu_is_x_times_the_normal_distribution_function():
    x = np.linspace(-6, 6, 101)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    assert np.allclose(gelu(x)[0], expected, atol=1e-14)
    assert gelu(x.astype(np.float32))[0].dtype == np.float32
    assert -0.1701 < gelu(np.linspace(-2, 0, 10001))[0].min() < -0.1699


def test_layer_norm_has_mean_zero_and_deviation_one():
    x = np.random.default_rng(0).standard_normal((5, 7, 16)) * 9 + 3
    y = layer_norm(x, np.ones(16), np.zeros(16))[0]
    assert np.allclose(y.mean(-1), 0, atol=1e-12)
    assert np.allclose(y.std(-1), 1)


def parameters(rng, layers, width=8, words=11, longest=6):
    def linear_(name, out, width_in):
        return {f"{name}.weight": rng.standard_normal((out, width_in)) / 3,
                f"{name}.bias": rng.standard_normal(out)}

    def norm(name):
        return {f"{name}.gain": 1 + rng.standard_normal(width) / 9,
                f"{name}.bias": rng.standard_normal(width)}

    p = {"words": rng.standard_normal((words, width)), "kind": rng.standard_normal((2, width)),
         "positions": rng.standard_normal((longest, width)), **norm("embed")}
    for i in range(layers):
        for name in ("query", "key", "value", "output"):
            p |= linear_(f"layer{i}.{name}", width, width)
        p |= linear_(f"layer{i}.wide", 4 * width, width)
        p |= linear_(f"layer{i}.narrow", width, 4 * width)
        p |= norm(f"layer{i}.norm1") | norm(f"layer{i}.norm2")
    return p


@given(SEEDS)
@settings(max_examples=20)
def test_padding_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    nodes, p = encoder(layers=2, heads=2), parameters(rng, 2)
    tokens = rng.integers(0, 11, (2, 4))
    alone = run(nodes, {"tokens": tokens, "mask": np.ones((2, 4)), **p}).values["embedding"]
    padded = np.concatenate([tokens, rng.integers(0, 11, (2, 2))], axis=1)
    mask = np.array([[1, 1, 1, 1, 0, 0]] * 2)
    beside = run(nodes, {"tokens": padded, "mask": mask, **p}).values["embedding"]
    assert np.allclose(alone, beside, atol=1e-12)
    assert np.allclose(np.linalg.norm(alone, axis=1), 1)


def test_texts_do_not_see_each_other():
    rng = np.random.default_rng(1)
    nodes, p = encoder(layers=2, heads=4), parameters(rng, 2)
    tokens = rng.integers(0, 11, (3, 5))
    mask = np.ones((3, 5))
    together = run(nodes, {"tokens": tokens, "mask": mask, **p}).values["embedding"]
    for i in range(3):
        one = run(nodes, {"tokens": tokens[[i]], "mask": mask[[i]], **p}).values["embedding"]
        assert np.allclose(one, together[[i]], atol=1e-12)


def test_every_linear_map_is_listed_with_its_input():
    layers = linear_layers(encoder(layers=6, heads=12))
    assert len(layers) == 36
    assert layers["layer0.query"] == layers["layer0.key"] == "embed"
    assert layers["layer3.wide"] == "layer3.norm1"


def test_bad_arguments_are_refused():
    x = np.zeros((1, 2, 6))
    with pytest.raises(ValueError, match="`heads` must divide a width of 6; got 4"):
        attention_weights(x, x, np.ones((1, 2)), heads=4)
    with pytest.raises(ValueError, match="`layers` must be at least 1; got 0"):
        encoder(layers=0, heads=1)
    table = np.zeros((3, 2))
    with pytest.raises(ValueError, match="`tokens` must be at most 3 in a row; got 4"):
        embed_tokens(np.zeros((1, 4), int), table, table, table)
    with pytest.raises(ValueError, match=r"`tokens` must lie in \[0, 2\]; got 3"):
        embed_tokens(np.array([[3]]), table, table, table)
    with pytest.raises(ValueError, match=r"`tokens` must lie in \[0, 2\]; got -1"):
        embed_tokens(np.array([[-1, 2]]), table, table, table)
    with pytest.raises(ValueError, match=r"`tokens` must have shape \(n, tokens\); got \(1,\)"):
        embed_tokens(np.array([1]), table, table, table)
    with pytest.raises(TypeError, match="`tokens` must be integers; got float64"):
        embed_tokens(np.ones((1, 1)), table, table, table)


@pytest.mark.parametrize("mask", [[[1, 1], [0, 0]], [[1, 1], [1, np.nan]]])
def test_a_text_of_padding_alone_has_no_embedding(mask):
    with pytest.raises(ValueError, match="`mask` must hold a token in each row; got"):
        sentence_embedding(np.ones((2, 2, 3)), np.array(mask))
