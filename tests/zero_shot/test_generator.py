"""The generator: its derivative, its losses, and how a collapse shows."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given
from hypothesis import strategies as st

from refquant.zero_shot.generator import (
    class_spread,
    generate,
    generator_loss,
    initial_generator,
    moment_distance,
)

SHAPE = (2, 3, 1)
LABELS = np.array([0, 2, 2, 1])


def arrays(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    parameters = initial_generator(3, 6, noise=5, hidden=7, rng=rng, dtype=dtype)
    return [rng.standard_normal((4, 5)).astype(dtype), *parameters.values()]


def drawing(noise, *parameters):
    """`generate` with the labels left out, which have no gradient."""
    value, pullback = generate(noise, LABELS, *parameters, shape=SHAPE)
    return value, lambda g: [part for i, part in enumerate(pullback(g)) if i != 1]


@given(st.integers(0, 99))
def test_the_pullback_is_the_derivative_of_everything_but_the_labels(seed):
    assert_pullback(drawing, arrays(seed), step=1e-7, tolerance=1e-6)


def test_values_and_gradients_keep_float32():
    assert_dtypes(drawing, arrays())


@pytest.mark.peer
def test_torch_draws_the_same_images_and_gradients():
    torch = pytest.importorskip("torch")
    noise, embedding, hidden, hidden_bias, out, out_bias = arrays()
    value, pullback = generate(noise, LABELS, embedding, hidden, hidden_bias, out, out_bias,
                               shape=SHAPE)
    there = [torch.tensor(a, requires_grad=True)
             for a in (noise, embedding, hidden, hidden_bias, out, out_bias)]
    mixed = there[0] * torch.nn.functional.embedding(torch.tensor(LABELS), there[1])
    units = torch.nn.functional.leaky_relu(mixed @ there[2].T + there[3], 0.2)
    theirs = (units @ there[4].T + there[5]).reshape(4, *SHAPE)
    (theirs**2).sum().backward()
    assert np.allclose(value, theirs.detach().numpy(), atol=1e-12)
    ours = [part for i, part in enumerate(pullback(2 * value)) if i != 1]
    for part, tensor in zip(ours, there, strict=True):
        assert np.allclose(part, tensor.grad.numpy(), atol=1e-10)


def test_images_of_a_class_do_not_see_the_embedding_of_another():
    noise, embedding, *rest = arrays()
    other = embedding.copy()
    other[2] += 1
    before = generate(noise, LABELS, embedding, *rest, shape=SHAPE)[0]
    after = generate(noise, LABELS, other, *rest, shape=SHAPE)[0]
    assert np.array_equal(before[[0, 3]], after[[0, 3]])
    assert (before[[1, 2]] != after[[1, 2]]).any()


@given(st.integers(0, 999))
def test_the_distance_of_moments_is_zero_for_the_batch_itself_and_positive_elsewhere(seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((5, 2, 2, 3))
    rows = x.reshape(-1, 3)
    mean, variance = rows.mean(0), rows.var(0)
    assert moment_distance(x, mean, variance)[0] < 1e-24
    assert np.isclose(moment_distance(x, mean + np.array([0, 0, 3]), variance)[0], 3)
    assert np.isclose(moment_distance(x, mean, variance + np.array([0, 6, 0]))[0], 12)


def test_the_pullback_of_the_distance_is_the_derivative():
    rng = np.random.default_rng(0)
    mean, variance = rng.standard_normal(3), np.exp(rng.standard_normal(3))

    def distance(x):
        value, pullback = moment_distance(x, mean, variance)
        return value, lambda g: pullback(g)[:1]

    x = rng.standard_normal((4, 2, 3))
    assert_pullback(distance, [x])
    assert moment_distance(x.astype(np.float32), mean, variance)[0].dtype == np.float32
    assert np.isfinite(moment_distance(x[:1, :1], mean, variance)[0])       # one row: variance 0


def test_the_loss_is_cross_entropy_plus_a_share_of_the_mean_distance():
    parts = [np.array(v) for v in (2.0, 1.0, 4.0)]
    assert_pullback(partial(generator_loss, weight=0.3), parts)
    assert np.isclose(generator_loss(*parts, weight=0.3)[0], 2 + 0.3 * 2.5)
    assert generator_loss(*parts, weight=0.0)[0] == 2
    assert generator_loss(parts[0])[0] == 2
    assert_dtypes(generator_loss, parts)


def test_a_collapsed_class_has_no_spread():
    rng = np.random.default_rng(0)
    images, labels = rng.standard_normal((600, 4, 4)), rng.integers(0, 3, 600)
    images[labels == 1] = images[0]
    spread = class_spread(images, labels, 4)
    assert spread[1] < 1e-25
    assert np.isnan(spread[3])
    assert np.allclose(spread[[0, 2]], 1, atol=0.15)         # of some 200 by 16 draws: 5 s.d.


def test_the_first_generator_is_that_of_its_generator():
    ours, again = (initial_generator(3, 6, rng=np.random.default_rng(1)) for _ in range(2))
    assert all(np.array_equal(ours[name], again[name]) for name in ours)
    assert {array.dtype for array in ours.values()} == {np.dtype(np.float32)}


def test_bad_input_is_refused():
    noise, *rest = arrays()
    with pytest.raises(ValueError, match=r"`labels` must lie in \[0, 2\]; got 3"):
        generate(noise, LABELS + 1, *rest, shape=SHAPE)
    with pytest.raises(ValueError, match=r"`labels` must have shape \(4,\); got \(3,\)"):
        generate(noise, LABELS[:3], *rest, shape=SHAPE)
    with pytest.raises(TypeError, match="`labels` must be integers"):
        class_spread(noise, LABELS * 1.0, 3)
    with pytest.raises(ValueError, match="`classes` must be at least 1"):
        initial_generator(0, 6, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="`x` must not be empty"):
        moment_distance(np.zeros((0, 3)), np.zeros(3), np.zeros(3))
    with pytest.raises(ValueError, match=r"`mean` must have shape \(3,\)"):
        moment_distance(np.zeros((2, 3)), np.zeros(2), np.zeros(3))
