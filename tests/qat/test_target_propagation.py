"""Targets: exact with exact inverses, quiet when nothing is asked; a net of signs learns."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.moons import initial_mlp, two_moons
from refquant.qat.target_propagation import (
    difference_targets,
    feasible_targets,
    inverse_error,
    local_gradients,
    plain_targets,
    soft_hinge,
    top_target,
)

SEEDS = st.integers(0, 2**32 - 1)


def chain(seed, n=3, width=4):
    rng = np.random.default_rng(seed)
    layers = [np.linalg.qr(rng.normal(size=(width, width)))[0] * rng.uniform(0.5, 2)
              for _ in range(n)]
    hidden = [rng.normal(size=(6, width))]
    for w in layers:
        hidden.append(hidden[-1] @ w.T)
    return rng, layers, hidden


@given(SEEDS)
@settings(max_examples=20)
def test_with_exact_inverses_each_layer_maps_its_target_to_the_next(seed):
    rng, layers, hidden = chain(seed)
    inverses = [partial(np.linalg.solve, w) for w in layers]
    inverses = [lambda h, s=s: s(h.T).T for s in inverses]
    target = rng.normal(size=hidden[-1].shape)
    for rule in (difference_targets, plain_targets):
        targets = rule(hidden, inverses, target)
        assert [t.shape for t in targets] == [h.shape for h in hidden]
        for w, below, above in zip(layers, targets, targets[1:], strict=False):
            assert np.allclose(below @ w.T, above)


@given(SEEDS)
@settings(max_examples=20)
def test_no_change_above_asks_for_none_below_however_poor_the_inverse(seed):
    rng, _, hidden = chain(seed)
    back = rng.normal(size=(3, 4, 4))
    poor = [lambda h, v=v: np.tanh(h @ v) for v in back]
    targets = difference_targets(hidden, poor, hidden[-1])
    assert all(np.array_equal(t, h) for t, h in zip(targets, hidden, strict=True))
    plain = plain_targets(hidden, poor, hidden[-1])
    assert not np.allclose(plain[0], hidden[0])


@given(SEEDS)
@settings(max_examples=20)
def test_the_target_of_an_orthogonal_chain_is_a_gradient_step(seed):
    """With W^T for an inverse the difference is the backward pass of a linear chain."""
    rng, layers, hidden = chain(seed)
    gradient = rng.normal(size=hidden[-1].shape)
    backward = [lambda h, w=w: h @ w for w in layers]
    targets = difference_targets(hidden, backward, top_target(hidden[-1], gradient, rate=0.1))
    by_chain_rule = gradient @ layers[2] @ layers[1] @ layers[0]
    assert np.allclose(targets[0], hidden[0] - 0.1 * by_chain_rule)


@given(SEEDS)
@settings(max_examples=20)
def test_local_gradients_are_those_of_half_the_squared_distance_for_smooth_layers(seed):
    rng = np.random.default_rng(seed)
    x, target = rng.normal(size=(7, 3)), rng.normal(size=(7, 2))

    def layer(weight, bias):
        hidden = np.tanh(x @ weight.T + bias)
        parts = local_gradients(x, 1 - hidden**2, hidden, target)
        value = np.array(((hidden - target) ** 2).sum() / 14)
        return value, lambda g: tuple(g * p for p in parts)

    assert_pullback(layer, (rng.normal(size=(2, 3)), rng.normal(size=2)))


def test_a_layer_on_target_is_left_alone():
    x = np.random.default_rng(0).normal(size=(7, 3))
    sign = np.where(x > 0, 1.0, -1.0)
    weight, bias = local_gradients(x, np.ones((7, 3)), sign, sign)
    assert not weight.any()
    assert not bias.any()


@given(SEEDS)
def test_the_soft_hinge_has_its_derivative_and_prefers_the_target_side(seed):
    rng = np.random.default_rng(seed)
    z, t = rng.normal(size=8) * 2, rng.choice([-1.0, 1.0], 8)
    assert_pullback(partial(soft_hinge, target=t), (z,))
    assert_dtypes(lambda z: soft_hinge(z, t.astype(z.dtype)), (z,))
    loss, pullback = soft_hinge(z, t)
    assert ((loss > 0) & (loss <= 2)).all()
    assert (pullback(np.ones(8))[0] * t <= 0).all()
    assert (soft_hinge(np.abs(z) * t, t)[0] <= soft_hinge(-np.abs(z) * t, t)[0]).all()


def test_feasible_targets_go_against_the_gradient():
    g = np.array([-2.0, 0.0, 1e-9])
    assert feasible_targets(g).tolist() == [1, 0, -1]


def test_an_exact_inverse_has_no_error_wherever_the_noise_goes():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(5, 3))
    noise = rng.normal(size=(5, 3))
    assert np.allclose(inverse_error(lambda y: y**3, np.cbrt, h, noise=noise), 0)
    assert np.allclose(inverse_error(np.zeros_like, np.cbrt, h, noise=noise), -(h + noise))


def sign(a):
    return np.where(a >= 0, 1.0, -1.0)


def train_signs(seed, *, learn_below, steps=200, widths=(2, 8, 4, 2)):
    """A network of signs; its lower layers see targets, and no derivative from above."""
    rng = np.random.default_rng(seed)
    train, test = (two_moons(400, rng=np.random.default_rng(s), noise=0.1) for s in (seed, 99))
    p = {k: v.astype(float) for k, v in initial_mlp(widths, rng=rng).items()}
    p["fc1.bias"] = rng.normal(size=widths[1])
    p["back"] = rng.normal(size=widths[2:0:-1]) / 2

    def affine(x, layer):
        return x @ p[f"{layer}.weight"].T + p[f"{layer}.bias"]

    def forward(x):
        a1 = affine(x, "fc1")
        a2 = affine(sign(a1), "fc2")
        return a1, sign(a1), a2, sign(a2)

    def layer(h):
        return sign(affine(h, "fc2"))

    def inverse(h):
        return np.tanh(h @ p["back"])

    for step in range(steps):
        a1, h1, a2, h2 = forward(train.x)
        _, pullback = softmax_cross_entropy(affine(h2, "fc3"), train.y)
        g = pullback(np.array(1.0))[0]
        top = top_target(h2, g @ p["fc3.weight"] * len(g), rate=1.0)
        low, _ = difference_targets([h1, h2], [inverse], top)
        noise = 0.3 * rng.normal(size=h1.shape)
        up = layer(h1 + noise)
        error = inverse_error(inverse, layer, h1, noise=noise)
        gradients = {"fc3.weight": g.T @ h2, "fc3.bias": g.sum(0)}
        if learn_below:
            parts = (local_gradients(h1, 1 - np.tanh(a2) ** 2, h2, top),
                     local_gradients(train.x, 1 - np.tanh(a1) ** 2, h1, low))
            gradients |= {f"fc{i}.{kind}": part for i, pair in zip((2, 1), parts, strict=True)
                          for kind, part in zip(("weight", "bias"), pair, strict=True)}
            gradients["back"] = up.T @ (error * (1 - inverse(up) ** 2)) / len(up)
        for name, part in gradients.items():
            p[name] = p[name] - 0.5 * (1 - step / steps) * part
    return np.mean(affine(forward(test.x)[3], "fc3").argmax(1) == test.y)


def test_a_network_of_signs_learns_from_targets():
    """Five seeds; against the same network whose last layer alone learns."""
    ours = [train_signs(s, learn_below=True) for s in range(5)]
    fixed = [train_signs(s, learn_below=False) for s in range(5)]
    assert np.mean(ours) > np.mean(fixed) + 0.05


def test_bad_input_is_refused():
    h = [np.zeros((2, 3)), np.zeros((2, 4))]
    with pytest.raises(ValueError, match="`inverses` must be one fewer than 2 hidden values"):
        difference_targets(h, [], h[1])
    with pytest.raises(ValueError, match=r"`target` must have shape \(2, 4\)"):
        difference_targets(h, [np.copy], h[0])
    with pytest.raises(ValueError, match=r"`inverses\[0\] of the target` must have shape \(2, 3\)"):
        plain_targets(h, [np.copy], h[1])
    with pytest.raises(ValueError, match=r"`gradient` must have shape \(2, 3\)"):
        top_target(h[0], h[1], rate=1.0)
    with pytest.raises(ValueError, match=r"`slope` must have shape \(2, 3\)"):
        local_gradients(h[0], h[1], h[0], h[0])
