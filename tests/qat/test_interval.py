"""QIL: formulas, the golden vector, finite differences inside, and what is refused."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.qat.interval import (
    Interval,
    fake_quantize_activation,
    fake_quantize_weight,
    initial_interval,
)

X = np.array([-1.3, -0.75, -0.31, -0.05, 0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10
VALUES = st.lists(st.floats(-4, 4), min_size=1, max_size=20).map(np.array)
PLACES = st.floats(0.05, 3)


def test_the_golden_vector():
    value, pullback = fake_quantize_weight(X, np.array(0.8), np.array(0.6), np.array(1.7), bits=3)
    gx, gc, gd, gg = pullback(G)
    assert np.allclose(value, [-1, -1 / 3, 0, 0, 0, 0, 0, 1 / 3, 1], atol=1e-15)
    assert np.allclose(gx, [0.133296, 0.164106, 0.079788, 0, 0, 0, 0.282918, 0.815593, 0],
                       atol=1e-6)
    assert np.allclose([gc, gd, gg], [-0.721321, 0.016957, -0.167492], atol=1e-6)


def test_published_levels():
    w = np.array([0.1, 0.25, 0.35, 0.45, 0.75, 0.9, -0.6])
    value, _ = fake_quantize_weight(w, np.array(0.5), np.array(0.3), np.array(1.0), bits=3)
    assert np.array_equal(np.rint(3 * value), [0, 0, 1, 1, 3, 3, -2])


def by_definition(w, c, d, gamma, bits):
    """One number at a time, in the words of the paper."""
    n, out = 2 ** (bits - 1) - 1, []
    for x in w:
        a, b = 0.5 / d, 0.5 - 0.5 * c / d
        if abs(x) < c - d:
            t = 0.0
        elif abs(x) > c + d:
            t = np.sign(x)
        else:
            t = max(a * abs(x) + b, 0) ** gamma * np.sign(x)
        out.append(np.rint(t * n) / n)
    return np.array(out)


@given(VALUES, PLACES, PLACES, st.floats(0.3, 3), st.integers(2, 6))
def test_the_forward_pass_is_that_of_the_paper(w, c, d, gamma, bits):
    value, _ = fake_quantize_weight(w, *(np.array(v) for v in (c, d, gamma)), bits=bits)
    n = 2 ** (bits - 1) - 1
    expected = by_definition(w, c, d, gamma, bits)
    assert np.abs(value - expected).max() <= 1.0001 / n      # a tie may fall either way
    assert (np.abs(value - expected) > 1e-9).sum() <= 1
    assert set(np.rint(n * value)) <= set(range(-n, n + 1))
    mirrored, _ = fake_quantize_weight(-w, *(np.array(v) for v in (c, d, gamma)), bits=bits)
    assert np.array_equal(mirrored, -value)


@given(VALUES, PLACES, PLACES, st.floats(0.5, 2), st.data())
def test_the_pullback_is_the_derivative_of_the_unrounded_map(w, c, d, gamma, data):
    # At 16 bits the rounding is far below the step of the difference: what is left is smooth.
    w = w[(np.abs(np.abs(w) - (c - d)) > 1e-2) & (np.abs(np.abs(w) - (c + d)) > 1e-2)
          & (np.abs(w) > 1e-2)]
    if not len(w):
        return
    g = np.array(data.draw(st.lists(st.floats(-2, 2), min_size=len(w), max_size=len(w))))
    point = [w, np.array(c), np.array(d), np.array(gamma)]
    gradients = fake_quantize_weight(*point, bits=3)[1](g)

    def smooth(w, c, d, gamma):
        u = np.clip(0.5 + 0.5 * (np.abs(w) - c) / d, 0, 1)
        return np.sum(g * np.sign(w) * u**gamma)

    for i, gradient in enumerate(gradients):
        h = 1e-6
        up, down = (smooth(*[p + s * h * (j == i) for j, p in enumerate(point)]) for s in (1, -1))
        assert np.isclose(gradient.sum(), (up - down) / (2 * h), rtol=1e-5, atol=1e-5)


@given(VALUES, PLACES, PLACES, st.integers(1, 6))
@example(np.array([0.5, 1.5]), 1.0, 0.5, 2)                 # exactly on both ends
def test_activations_are_the_positive_half_without_exponent(x, c, d, bits):
    c, d = np.array(c), np.array(d)
    value, pullback = fake_quantize_activation(x, c, d, bits=bits)
    both, back = fake_quantize_weight(np.abs(x), c, d, np.array(1.0), bits=bits + 1)
    assert np.array_equal(value[x > 0], both[x > 0])
    # negative inputs are below every interval of positive numbers, or treated as the line is
    g = np.where(x > 0, 1.0, 0.0)
    ours, theirs = pullback(g), back(g)
    assert np.array_equal(ours[0], theirs[0])
    assert np.allclose(ours[1], theirs[1], rtol=1e-12, atol=1e-12)
    assert np.allclose(ours[2], theirs[2], rtol=1e-12, atol=1e-12)


def test_the_ends_of_the_interval():
    w = np.array([0.2, 0.8, -0.2, -0.8, 0.0, -0.0])
    value, pullback = fake_quantize_weight(w, np.array(0.5), np.array(0.3), np.array(0.5), bits=3)
    gradients = pullback(np.ones(6))
    assert np.array_equal(np.abs(value), [0, 1, 0, 1, 0, 0])
    assert all(np.isfinite(g).all() for g in gradients)          # u = 0 with gamma < 1
    assert gradients[0][0] == 0


def test_per_channel_is_a_loop_and_dtypes_stay():
    rng = np.random.default_rng(0)
    w = rng.standard_normal((4, 30)).astype(np.float32)
    c, d, gamma = (rng.uniform(0.5, 1, (4, 1)).astype(np.float32) for _ in "cdg")
    value, pullback = fake_quantize_weight(w, c, d, gamma, bits=3)
    g = rng.standard_normal(w.shape).astype(np.float32)
    all_of_them = pullback(g)
    assert value.dtype == np.float32
    assert all(x.dtype == np.float32 for x in all_of_them)
    assert [x.shape for x in all_of_them] == [(4, 30), (4, 1), (4, 1), (4, 1)]
    for k in range(4):
        one, back = fake_quantize_weight(w[k], c[k], d[k], gamma[k], bits=3)
        assert np.array_equal(one, value[k])
        for whole, part in zip(all_of_them, back(g[k]), strict=True):
            assert np.allclose(whole[k], part, rtol=1e-5, atol=1e-6)


def test_the_first_interval_prunes_and_clips_nothing():
    x = np.array([-2.0, 0.5, 1.0])
    interval = initial_interval(x)
    assert interval == Interval(1.0, 1.0)
    _, pullback = fake_quantize_weight(x, *interval, np.array(1.0), bits=8)
    assert (pullback(np.ones(3))[0] == 0.5).all()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fake_quantize_weight(X, np.array(1.0), np.array(0.0), np.array(1.0), bits=3),
     "`half_width` must be positive and finite; got 0.0"),
    (lambda: fake_quantize_weight(X, np.array(1.0), np.array(1.0), np.array(-1.0), bits=3),
     "`gamma` must be positive and finite; got -1.0"),
    (lambda: fake_quantize_weight(X, np.array(1.0), np.array(1.0), np.array(1.0), bits=1),
     "`bits` must be at least 2; got 1"),
    (lambda: fake_quantize_activation(X, np.array(1.0), np.array(np.nan), bits=2),
     "`half_width` must be positive and finite; got nan"),
    (lambda: initial_interval(np.zeros(3)), "`x` must have a number that is not 0"),
    (lambda: initial_interval(np.zeros(0)), "`x` must not be empty"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.peer
def test_the_pullback_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    w, g = rng.standard_normal((2, 200))
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True)
               for v in (w, 0.8, 0.6, 1.7)]
    tw, tc, td, tg = tensors
    u = 0.5 + 0.5 * (tw.abs() - tc) / td
    inside = (u > 0) & (u <= 1)
    t = torch.where(inside, torch.where(inside, u, torch.ones_like(u)) ** tg,
                    (u > 1).double()) * tw.sign()
    y = t + ((t * 3).round() / 3 - t).detach()
    y.backward(torch.tensor(g))
    value, pullback = fake_quantize_weight(w, *(np.array(v) for v in (0.8, 0.6, 1.7)), bits=3)
    assert np.allclose(value, y.detach().numpy(), atol=1e-12)
    for ours, theirs in zip(pullback(g), tensors, strict=True):
        assert np.allclose(ours, theirs.grad.numpy(), rtol=1e-9, atol=1e-12)
