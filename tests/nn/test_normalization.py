"""Batch normalization: the closed-form gradient, running statistics, train against evaluation."""

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn.normalization import Running, batch_norm, batch_norm_training, update_running


def case(n, h, w, c, seed):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, h, w, c)) * 2 + 3
    return rng, [x, rng.uniform(0.5, 2, c), rng.standard_normal(c)]


SHAPE = (st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))


@given(*SHAPE, st.integers(0, 99))
def test_pullbacks_are_derivatives(n, h, w, c, seed):
    rng, arrays = case(n, h, w, c, seed)
    # With few rows the variance may be tiny and the map steep; epsilon tames it.
    assert_pullback(lambda *a: batch_norm_training(*a, epsilon=0.1), arrays, rng=rng)
    assert_dtypes(batch_norm_training, arrays)
    arrays += [rng.standard_normal(c), rng.uniform(0.5, 2, c)]
    assert_pullback(batch_norm, arrays, rng=rng)
    assert_dtypes(batch_norm, arrays)


@given(*SHAPE, st.integers(0, 99))
def test_training_output_has_mean_beta_and_deviation_gamma(n, h, w, c, seed):
    _, (x, gamma, beta) = case(n, h, w, c, seed)
    y, _ = batch_norm_training(x, gamma, beta, epsilon=1e-12)
    assert np.allclose(y.mean((0, 1, 2)), beta)
    assert np.allclose(y.std((0, 1, 2)), gamma, rtol=1e-6)


@given(*SHAPE, st.integers(0, 99))
def test_gradient_is_orthogonal_to_what_normalization_removes(n, h, w, c, seed):
    """Neither a shift of x nor a stretch about its mean changes the value: no gradient there."""
    _, (x, gamma, beta) = case(n, h, w, c, seed)
    _, pullback = batch_norm_training(x, gamma, beta, epsilon=0.0)
    dx = pullback(np.cos(7 * x))[0]
    tolerance = 1e-9 * (1 + np.abs(dx).sum())
    assert np.abs(dx.sum((0, 1, 2))).max() <= tolerance
    assert np.abs((dx * (x - x.mean((0, 1, 2)))).sum((0, 1, 2))).max() <= tolerance


@given(*SHAPE, st.integers(0, 99))
def test_evaluation_with_the_batchs_own_statistics_is_training(n, h, w, c, seed):
    _, (x, gamma, beta) = case(n, h, w, c, seed)
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    trained, _ = batch_norm_training(x, gamma, beta)
    assert np.allclose(trained, batch_norm(x, gamma, beta, mean, variance)[0], rtol=1e-9)


def test_running_statistics_converge_to_those_of_the_data():
    x = np.random.default_rng(0).standard_normal((50, 3)) * [1, 2, 3] + [4, 5, 6]
    running = Running(np.zeros(3), np.ones(3))
    for _ in range(300):
        running = update_running(running, x)                # 0.9**300 = 2e-14 is left
    assert np.allclose(running.mean, x.mean(0), rtol=1e-12)
    assert np.allclose(running.variance, x.var(0, ddof=1), rtol=1e-12)


def test_momentum_one_forgets_and_zero_ignores():
    x = np.array([[1.0], [3.0]])
    start = Running(np.array([7.0]), np.array([9.0]))
    assert update_running(start, x, momentum=1.0) == (2.0, 2.0)
    assert update_running(start, x, momentum=0.0) == (7.0, 9.0)
    assert start == (7.0, 9.0)


def test_running_statistics_stay_float32():
    start = Running(np.zeros(2, np.float32), np.ones(2, np.float32))
    after = update_running(start, np.ones((4, 2), np.float32))
    assert after.mean.dtype == after.variance.dtype == np.float32


def test_a_constant_channel_is_finite():
    y, pullback = batch_norm_training(np.full((4, 2), 3.0), np.ones(2), np.zeros(2))
    assert not y.any()
    assert np.isfinite(pullback(np.ones_like(y))[0]).all()


def test_bad_arguments_are_refused():
    start = Running(np.zeros(1), np.ones(1))
    with pytest.raises(ValueError, match=r"`momentum` must lie in \[0, 1\]; got 2"):
        update_running(start, np.ones((4, 1)), momentum=2)
    with pytest.raises(ValueError, match=r"at least two rows; got shape \(1, 1\)"):
        update_running(start, np.ones((1, 1)))


@pytest.mark.peer
def test_training_evaluation_and_running_statistics_equal_torch():
    torch = pytest.importorskip("torch")
    rng, (x, gamma, beta) = case(4, 3, 5, 2, 0)
    layer = torch.nn.BatchNorm2d(2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(gamma))
        layer.bias.copy_(torch.tensor(beta))
    tensor = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    g = rng.standard_normal(x.shape)
    y, pullback = batch_norm_training(x, gamma, beta)
    theirs = layer(tensor)
    theirs.backward(torch.tensor(g.transpose(0, 3, 1, 2).copy()))
    dx, d_gamma, d_beta = pullback(g)
    assert np.allclose(y, theirs.detach().numpy().transpose(0, 2, 3, 1), rtol=1e-12)
    assert np.allclose(dx, tensor.grad.numpy().transpose(0, 2, 3, 1), rtol=1e-10, atol=1e-12)
    assert np.allclose(d_gamma, layer.weight.grad.numpy(), rtol=1e-11)
    assert np.allclose(d_beta, layer.bias.grad.numpy(), rtol=1e-11)
    running = update_running(Running(np.zeros(2), np.ones(2)), x)
    assert np.allclose(running.mean, layer.running_mean.numpy(), rtol=1e-12)
    assert np.allclose(running.variance, layer.running_var.numpy(), rtol=1e-12)
    layer.eval()
    evaluated, _ = batch_norm(x, gamma, beta, *running)
    assert np.allclose(evaluated, layer(tensor).detach().numpy().transpose(0, 2, 3, 1), rtol=1e-12)
