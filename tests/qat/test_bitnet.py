"""BitNet b1.58: three levels, rows on their own grids, gradients as if nothing were rounded."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.qat.bitnet import absmean_weight, token_activation, two_stage

X = np.array([-1.3, -0.75, -0.31, -0.05, 0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10
SEEDS = st.integers(0, 2**32 - 1)


def test_golden_vector():
    y, pullback = absmean_weight(X)
    assert np.allclose(y, 0.608889 * np.array([-1, -1, -1, 0, 0, 0, 1, 1, 1]), atol=5e-7)
    assert np.array_equal(pullback(G)[0], G)


@given(SEEDS)
def test_the_levels_are_whole_multiples_of_the_mean_magnitude(seed):
    w = np.random.default_rng(seed).normal(size=(4, 6))
    gamma = np.abs(w).mean()
    codes = absmean_weight(w)[0] / gamma
    assert np.allclose(codes, np.clip(np.rint(w / gamma), -1, 1), rtol=1e-14)


@given(SEEDS, st.sampled_from([0.5, 4.0, 64.0]))
def test_scaling_by_a_power_of_two_scales_the_value(seed, factor):
    w = np.random.default_rng(seed).normal(size=(4, 6))
    for estimator in (absmean_weight, token_activation):
        assert np.array_equal(estimator(factor * w)[0], factor * estimator(w)[0])


def test_a_weight_at_half_the_mean_magnitude_is_a_tie_and_becomes_zero():
    y, _ = absmean_weight(np.array([0.5, -0.5, 1.5, -1.5]))         # the mean magnitude is 1
    assert y.tolist() == [0, 0, 1, -1]


def test_without_the_factor_the_outputs_are_too_large_by_its_reciprocal():
    w = np.random.default_rng(0).normal(size=(64, 256)) / 16
    y, _ = absmean_weight(w)
    codes = y / np.abs(w).mean()
    x = np.random.default_rng(1).normal(size=256)
    assert np.allclose(codes @ x, y @ x / np.abs(w).mean())
    assert 15 < 1 / np.abs(w).mean() < 25


@given(SEEDS, st.integers(2, 8))
def test_the_error_of_a_token_is_at_most_half_its_step_and_its_largest_is_kept(seed, bits):
    x = np.random.default_rng(seed).normal(size=(3, 7)) * np.array([[1e-3], [1], [1e3]])
    y, pullback = token_activation(x, bits=bits)
    step = np.abs(x).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(y - x) <= step / 2 * (1 + 1e-12)).all()
    largest = np.abs(x) == np.abs(x).max(1, keepdims=True)
    assert np.allclose(y[largest], x[largest], rtol=1e-15)
    assert np.array_equal(pullback(x)[0], x)


@given(SEEDS)
@example(0)
def test_tokens_do_not_know_of_each_other(seed):
    x = np.random.default_rng(seed).normal(size=(2, 3, 5))
    y, _ = token_activation(x)
    for index in np.ndindex(2, 3):
        assert np.array_equal(token_activation(x[index])[0], y[index])


def test_a_token_of_zeros_stays_and_dtypes_stay():
    x = np.array([[0, 0], [1, 2]], np.float32)
    y, pullback = token_activation(x)
    assert y.dtype == pullback(x)[0].dtype == np.float32
    assert y[0].tolist() == [0, 0]
    w, _ = absmean_weight(np.zeros((2, 2), np.float32))
    assert w.dtype == np.float32
    assert (w == 0).all()
    with pytest.raises(ValueError, match="`x` must be finite"):
        token_activation(np.array([[np.inf]]))


@given(st.floats(1e-4, 1.0), st.integers(2, 500))
def test_the_rate_falls_in_two_lines_with_a_drop_between(peak, steps):
    rate, decay = two_stage(peak, steps)
    rates = np.array([rate(t) for t in range(steps + 1)])
    half = -(-steps // 2)
    assert rates[0] == peak
    assert rates[steps] == rate(steps + 5) == 0
    assert (np.diff(rates) < 0).all()
    assert (rates[:half] > peak * 8 / 15 * (1 - 1e-12)).all()
    assert (rates[half:] <= peak / 3 * (1 + 1e-12)).all()
    assert {decay(t) for t in range(half)} == {0.1}
    assert {decay(t) for t in range(half, steps)} <= {0.0}


def test_bad_schedules_are_refused():
    with pytest.raises(ValueError, match="`peak` must be positive"):
        two_stage(0.0, 10)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        two_stage(0.1, 0)


@pytest.mark.peer
def test_equals_the_estimators_written_with_autograd():
    """Weight and activation as the training notes of BitNet have them, detached differences."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for ours, theirs in (
        (absmean_weight, lambda t: torch.clamp(torch.round(t / t.abs().mean()), -1, 1)
         * t.abs().mean()),
        (token_activation, lambda t: torch.clamp(torch.round(
            t * 127 / t.abs().amax(-1, keepdim=True)), -128, 127)
            * t.abs().amax(-1, keepdim=True) / 127),
    ):
        x, g = rng.normal(size=(2, 5, 16))
        t = torch.tensor(x, requires_grad=True)
        y = t + (theirs(t) - t).detach()
        y.backward(torch.tensor(g))
        value, pullback = ours(x)
        assert np.allclose(value, y.detach().numpy(), rtol=1e-12, atol=1e-12)
        assert np.array_equal(pullback(g)[0], t.grad.numpy())
