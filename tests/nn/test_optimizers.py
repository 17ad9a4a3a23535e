"""Optimizers against closed forms and torch; schedules; no float64 leak."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.optimizers import (
    adam,
    adam_start,
    constant,
    cosine,
    sgd,
    sgd_start,
    warm_up,
)

P = {"w": np.array([1.0, -2.0]), "b": np.array([0.5])}
G = {"w": np.array([0.3, -0.1]), "b": np.array([2.0])}


def descend(step, start, *, steps, gradient=lambda p: G, parameters=P, **settings):
    state = start(parameters)
    for _ in range(steps):
        parameters, state = step(parameters, gradient(parameters), state, **settings)
    return parameters


@given(st.integers(1, 20), st.floats(0, 0.99), st.floats(1e-3, 1))
def test_sgd_under_a_constant_gradient_has_a_closed_form(steps, momentum, rate):
    """v_t = g (1 - m**t) / (1 - m); the sum over t is again geometric."""
    end = descend(sgd, sgd_start, steps=steps, rate=rate, momentum=momentum)
    travelled = sum((1 - momentum**t) / (1 - momentum) for t in range(1, steps + 1))
    for name in P:
        assert np.allclose(end[name], P[name] - rate * travelled * G[name])


@given(st.integers(1, 20), st.floats(1e-3, 1))
def test_adam_under_a_constant_gradient_moves_by_the_rate(steps, rate):
    """With bias correction both averages are exactly g and g**2: the step is eta sign(g)."""
    end = descend(adam, adam_start, steps=steps, rate=rate, epsilon=0.0)
    for name in P:
        assert np.allclose(end[name], P[name] - steps * rate * np.sign(G[name]))


@given(st.floats(1e-6, 1e6))
def test_adam_does_not_notice_the_scale_of_the_gradient(factor):
    a = descend(adam, adam_start, steps=3, rate=0.1, epsilon=0.0)
    scaled = {name: factor * g for name, g in G.items()}
    b = descend(adam, adam_start, steps=3, rate=0.1, epsilon=0.0, gradient=lambda p: scaled)
    for name in P:
        assert np.allclose(a[name], b[name])


def test_weight_decay_alone_is_geometric():
    zero = {name: np.zeros_like(g) for name, g in G.items()}
    settings = {"steps": 5, "rate": 0.1, "weight_decay": 0.5, "gradient": lambda p: zero}
    for end in (
        descend(sgd, sgd_start, momentum=0.0, **settings),
        descend(adam, adam_start, **settings),
    ):
        assert np.allclose(end["w"], P["w"] * 0.95**5)


def test_both_find_the_minimum_of_a_quadratic():
    target = {"w": np.array([3.0, -1.0])}
    gradient = lambda p: {"w": p["w"] - target["w"]}        # noqa: E731
    start = {"w": np.zeros(2)}
    a = descend(sgd, sgd_start, steps=300, rate=0.1, gradient=gradient, parameters=start)
    b = descend(adam, adam_start, steps=800, rate=0.05, gradient=gradient, parameters=start)
    assert np.allclose(a["w"], target["w"], atol=1e-6)
    assert np.allclose(b["w"], target["w"], atol=1e-2)


@pytest.mark.parametrize(("step", "start"), [(sgd, sgd_start), (adam, adam_start)])
def test_rates_by_name_gradients_by_name_and_nothing_mutated(step, start):
    before = {name: p.copy() for name, p in P.items()}
    state = start(P)
    rate = lambda name: 0.0 if name == "w" else 0.1         # noqa: E731
    new, _ = step(P, G, state, rate=rate)
    assert np.array_equal(new["w"], P["w"])
    assert not np.array_equal(new["b"], P["b"])
    new, after = step(P, {"w": G["w"], "other": np.ones(7)}, state, rate=0.1)
    assert new["b"] is P["b"]
    assert set(new) == set(P)
    assert not np.array_equal(after[-1]["w"], state[-1]["w"])
    assert np.array_equal(after[-1]["b"], np.zeros(1))
    for name in P:
        assert np.array_equal(P[name], before[name])
    assert all(not array.any() for array in state[-1].values())


@pytest.mark.parametrize(("step", "start"), [(sgd, sgd_start), (adam, adam_start)])
def test_float32_stays_float32_whatever_the_rate_was_computed_with(step, start):
    p = {"w": np.ones(3, np.float32), "s": np.array(1, np.float32)}
    g = {"w": np.ones(3, np.float32), "s": np.array(1, np.float32)}
    new, state = step(p, g, start(p), rate=np.float64(0.1))
    new, state = step(new, g, state, rate=lambda name: np.cos(0.1))
    assert all(np.asarray(v).dtype == np.float32 for v in new.values())
    assert all(np.asarray(v).dtype == np.float32 for v in state[-1].values())


def test_a_gradient_of_another_shape_or_dtype_is_refused():
    with pytest.raises(ValueError, match=r"float64 of shape \(2,\); got float64 of shape \(1,\)"):
        sgd(P, {"w": np.ones(1)}, sgd_start(P), rate=0.1)
    with pytest.raises(ValueError, match=r"must be float64 .* got float32"):
        adam(P, {"w": np.ones(2, np.float32)}, adam_start(P), rate=0.1)


@given(st.floats(1e-6, 10), st.integers(1, 1000))
def test_cosine_starts_at_the_rate_falls_and_ends_at_zero(rate, steps):
    schedule = cosine(rate, steps)
    values = [schedule(t) for t in range(steps + 2)]
    assert values[0] == rate
    assert values[-2] == values[-1] == 0
    assert all(a >= b for a, b in pairwise(values))
    assert math.isclose(sum(values), rate * (steps + 1) / 2, rel_tol=1e-9)      # symmetric
    assert all(type(v) is float for v in values)


def test_warm_up_reaches_the_schedule_and_leaves_it_alone():
    plain, warmed = cosine(1.0, 20), warm_up(cosine(1.0, 20), 5)
    assert [warmed(t) for t in range(4, 20)] == [plain(t) for t in range(4, 20)]
    assert [warmed(t) for t in range(4)] == [plain(t) * (t + 1) / 5 for t in range(4)]
    assert type(constant(np.float64(0.1))(0)) is float


def test_lengths_below_one_are_refused():
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        cosine(0.1, 0)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        warm_up(constant(0.1), 0)


@pytest.mark.peer
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_ten_random_steps_equal_torch(kind, momentum, decay):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    gradients = [{"w": rng.standard_normal(4)} for _ in range(10)]
    p = {"w": rng.standard_normal(4)}
    tensor = torch.tensor(p["w"], requires_grad=True)
    if kind == "sgd":
        peer = torch.optim.SGD([tensor], lr=0.1, momentum=momentum, weight_decay=decay)
        state = sgd_start(p)
    else:
        peer = torch.optim.AdamW([tensor], lr=0.1, weight_decay=decay)
        state = adam_start(p)
    for g in gradients:
        tensor.grad = torch.tensor(g["w"])
        peer.step()
        if kind == "sgd":
            p, state = sgd(p, g, state, rate=0.1, momentum=momentum, weight_decay=decay)
        else:
            p, state = adam(p, g, state, rate=0.1, weight_decay=decay)
    assert np.allclose(p["w"], tensor.detach().numpy(), rtol=1e-12)
