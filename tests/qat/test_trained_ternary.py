"""TWN and TTQ: golden vectors, levels whose gradient is a derivative, codes that ignore size."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.trained_ternary import Levels, initial_levels, ternary_weight, trained_levels

X = np.array([-1.3, -0.75, -0.31, -0.05, 0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10
SEEDS = st.integers(0, 2**32 - 1)
WN, WP = np.array(0.4), np.array(0.7)


def test_golden_vector_of_twn():
    y, pullback = ternary_weight(X)
    assert np.allclose(y, [-1.15, -1.15, 0, 0, 0, 0, 0, 1.15, 1.15])
    assert np.array_equal(pullback(G)[0], G)


def test_golden_vector_of_ttq():
    y, pullback = trained_levels(X / np.abs(X).max(), WN, WP)
    assert np.array_equal(y, [-0.4, -0.4, -0.4, 0, 0, 0.7, 0.7, 0.7, 0.7])
    g, g_negative, g_positive = pullback(G)
    assert np.allclose(g, [0.04, 0.08, 0.12, 0.4, 0.5, 0.42, 0.49, 0.56, 0.63])
    assert np.isclose(g_positive, 3.0)
    assert np.isclose(g_negative, -0.6)


@given(SEEDS, st.sampled_from([(), (3, 1)]))
def test_the_gradients_of_the_levels_are_derivatives(seed, shape):
    """The value is linear in the levels, so a difference is the derivative."""
    rng = np.random.default_rng(seed)
    w, g = rng.normal(size=(2, 3, 5))
    negative, positive = rng.uniform(0.5, 1, (2, *shape))
    _, pullback = trained_levels(w, negative, positive)
    _, g_negative, g_positive = pullback(g)
    d_negative, d_positive = rng.uniform(0, 0.1, (2, *shape))

    def value(sign):
        y, _ = trained_levels(w, negative + sign * d_negative, positive + sign * d_positive)
        return np.sum(g * y)

    predicted = np.sum(g_negative * d_negative) + np.sum(g_positive * d_positive)
    assert np.isclose((value(1) - value(-1)) / 2, predicted, rtol=1e-9, atol=1e-12)


@given(SEEDS, st.sampled_from([0.25, 8.0]))
def test_the_value_does_not_depend_on_the_size_of_the_latent_weight(seed, factor):
    w = np.random.default_rng(seed).normal(size=12)
    assert np.array_equal(trained_levels(w, WN, WP)[0], trained_levels(factor * w, WN, WP)[0])


def test_a_weight_on_the_threshold_is_zero_and_passes_its_gradient_whole():
    y, pullback = trained_levels(np.array([1.0, 0.25, -0.25, -0.26]), WN, WP, ratio=0.25)
    assert np.array_equal(y, [0.7, 0, 0, -0.4])
    assert np.array_equal(pullback(np.ones(4))[0], [0.7, 1, 1, 0.4])


@given(SEEDS)
def test_initial_levels_are_where_the_squared_error_has_no_slope(seed):
    w = np.random.default_rng(seed).normal(size=20)
    levels = initial_levels(w)
    assert isinstance(levels, Levels)
    y, pullback = trained_levels(w, *levels)
    _, g_negative, g_positive = pullback(2 * (y - w))
    assert np.isclose(g_negative, 0, atol=1e-12)
    assert np.isclose(g_positive, 0, atol=1e-12)


def test_an_empty_side_has_level_zero_and_dtypes_stay():
    levels = initial_levels(np.array([1.0, 0.5], np.float32))
    assert levels.negative == 0
    assert levels.positive == np.float32(0.75)
    y, pullback = trained_levels(np.zeros((2, 3), np.float32), *levels)
    assert y.dtype == np.float32
    assert [p.dtype for p in pullback(y)] == [np.float32] * 3
    y, pullback = ternary_weight(np.zeros((2, 3), np.float32), axis=1)
    assert (y == 0).all()
    assert y.dtype == np.float32


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`negative` must not be negative"):
        trained_levels(X, np.array(-0.1), WP)
    with pytest.raises(ValueError, match="`x` must be finite"):
        trained_levels(np.array([np.nan]), WN, WP)
    with pytest.raises(ValueError, match="`weight` must not be empty"):
        initial_levels(np.zeros(0))


@pytest.mark.peer
def test_equals_the_estimators_written_with_autograd():
    """TTQ as its authors have it: masks times levels, the mask's own factor for the weight."""
    torch = pytest.importorskip("torch")
    w, g = np.random.default_rng(0).normal(size=(2, 40))
    t = torch.tensor(w, requires_grad=True)
    n, p = (torch.tensor(float(v), dtype=torch.float64, requires_grad=True) for v in (WN, WP))
    above, below = t > 0.05 * t.abs().max(), t < -0.05 * t.abs().max()
    factor = torch.where(above, p, torch.where(below, n, torch.ones_like(t)))
    hard = torch.where(above, p, torch.where(below, -n, torch.zeros_like(t)))
    y = hard + (factor.detach() * (t - t.detach()))
    y.backward(torch.tensor(g))
    ours, pullback = trained_levels(w, WN, WP)
    assert np.allclose(ours, y.detach().numpy())
    for mine, theirs in zip(pullback(g), (t, n, p), strict=True):
        assert np.allclose(mine, theirs.grad.numpy(), rtol=1e-12)
