"""Relaxed choices: derivatives, the laws of the draw, and both limits of the temperature."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.qat.relaxed import (
    cooled,
    gumbel,
    gumbel_argmax,
    gumbel_softmax,
    level_logits,
    relaxed_quantize,
)

SEEDS = st.integers(0, 2**32 - 1)
CODES = np.arange(-4, 4)


def setting(seed, rows=5):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.2, 1.2, (rows, 3))
    spacing, sigma = rng.uniform(0.2, 0.5, (1, 3)), rng.uniform(0.05, 0.3, (rows, 1))
    return x, spacing, sigma, gumbel((*x.shape, len(CODES)), rng=rng)


@given(SEEDS)
@settings(max_examples=20)
def test_the_gradients_of_the_soft_choice_are_derivatives(seed):
    rng = np.random.default_rng(seed)
    logits, tau = rng.normal(size=(4, 5)), rng.uniform(0.3, 3, (4, 1))
    op = partial(gumbel_softmax, noise=gumbel((4, 5), rng=rng))
    assert_pullback(op, (logits, tau), rng=rng)
    assert_pullback(op, (logits, np.array(0.7)), rng=rng)
    assert_dtypes(op, (logits, tau))


@given(SEEDS, st.sampled_from([0.3, 1.0, 2.0]))
@settings(max_examples=20)
def test_the_gradients_of_the_relaxed_quantizer_are_derivatives(seed, temperature):
    x, spacing, sigma, noise = setting(seed)
    op = partial(relaxed_quantize, codes=CODES, temperature=temperature, noise=noise)
    assert_pullback(op, (x, spacing, sigma), step=1e-7, tolerance=1e-6)
    assert_dtypes(op, (x, spacing, sigma))
    assert_pullback(partial(level_logits, codes=CODES), (x, spacing, sigma))


@given(SEEDS)
@settings(max_examples=20)
def test_the_logits_are_logarithms_of_the_published_difference(seed):
    """The paper's F(A) - F(B), normalised over the grid, without the identity used here."""
    x, spacing, sigma, _ = setting(seed)
    logits, _ = level_logits(x, spacing, sigma, codes=CODES)
    ours = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    g, half = spacing[..., None] * CODES, spacing[..., None] / 2
    off, width = g - x[..., None], sigma[..., None]
    high, low = (1 / (1 + np.exp(-(off + h) / width)) for h in (half, -half))
    paper = (high - low) / (high - low).sum(-1, keepdims=True)
    assert np.allclose(ours, paper, rtol=1e-9, atol=1e-14)


def test_logits_stay_finite_where_the_difference_is_0_over_0():
    logits, pullback = level_logits(
        np.array([500.0]), np.array([1.0]), np.array([1e-2]), codes=CODES)
    assert np.isfinite(logits).all()
    assert logits.argmax() == len(CODES) - 1
    assert all(np.isfinite(g).all() for g in pullback(np.ones((1, len(CODES)))))


@given(SEEDS)
def test_the_choice_lies_on_the_simplex_and_the_corner_is_its_largest(seed):
    rng = np.random.default_rng(seed)
    logits, noise = rng.normal(size=(6, 4)), gumbel((6, 4), rng=rng)
    soft, pull_soft = gumbel_softmax(logits, np.array(0.5), noise=noise)
    hard, pull_hard = gumbel_argmax(logits, np.array(0.5), noise=noise)
    assert (soft >= 0).all()
    assert np.allclose(soft.sum(1), 1)
    assert np.array_equal(hard.argmax(1), soft.argmax(1))
    assert np.array_equal(np.sort(hard, 1), np.tile([0, 0, 0, 1], (6, 1)))
    g = rng.normal(size=(6, 4))
    for a, b in zip(pull_soft(g), pull_hard(g), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("tau", [0.1, 1.0, 10.0])
def test_the_largest_is_drawn_from_the_softmax_whatever_the_temperature(tau):
    """20,000 draws: the standard error of a share is at most 0.0036; five are allowed."""
    p, n = np.array([0.6, 0.3, 0.1]), 20_000
    noise = gumbel((n, 3), rng=np.random.default_rng(0))
    y, _ = gumbel_softmax(np.tile(np.log(p), (n, 1)), np.array(tau), noise=noise)
    share = np.bincount(y.argmax(1), minlength=3) / n
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / n)).all()


def test_the_limits_of_the_temperature_are_a_corner_and_the_middle():
    logits, noise = np.array([1.0, 2.0, 0.5]), np.array([0.0, -2.0, 1.0])
    assert np.array_equal(gumbel_softmax(logits, np.array(1e-4), noise=noise)[0], [0, 0, 1])
    assert np.allclose(gumbel_softmax(logits, np.array(1e9), noise=noise)[0], 1 / 3)


def test_noise_is_finite_at_a_draw_of_0():
    class Zero:
        def random(self, shape):
            return np.zeros(shape)

    assert np.isfinite(gumbel((3,), rng=Zero())).all()


def test_impossible_choices_have_no_share_and_no_gradient():
    logits = np.array([0.0, -np.inf, 1.0])
    y, pullback = gumbel_softmax(logits, np.array(0.5), noise=np.zeros(3))
    g_logits, g_tau = pullback(np.array([1.0, 2.0, 3.0]))
    assert y[1] == g_logits[1] == 0
    assert np.isfinite(g_tau)


@given(st.lists(st.floats(-0.9, 0.7), min_size=1, max_size=9))
def test_without_noise_of_either_kind_it_rounds_to_the_nearest_level(values):
    x = np.array(values)
    off = np.abs((x / 0.25) % 1 - 0.5)
    x = x[off > 0.01]                           # away from the ties
    y, _ = relaxed_quantize(x, np.array([0.25]), np.array([1e-4]), codes=CODES, temperature=0.5,
                            noise=np.zeros((len(x), len(CODES))))
    assert np.allclose(y, 0.25 * np.clip(np.rint(x / 0.25), -4, 3), atol=1e-12)


def test_the_mean_approaches_x_in_the_interior():
    """E[x_hat] at temperature 1 without noise; the ripple falls as exp(-2 pi**2 sigma / alpha)."""
    x, codes = np.linspace(-2, 2, 41), np.arange(-40, 41)
    none = np.zeros((41, 81))
    worst = [np.abs(relaxed_quantize(x, np.ones(1), np.array([s]), codes=codes, temperature=1.0,
                                     noise=none)[0] - x).max() for s in (0.1, 0.3, 0.6)]
    assert worst[0] > 0.1 > worst[1] > 1e-3 > worst[2]


def test_uniform_noise_in_place_of_the_logistic_is_stochastic_rounding():
    """P(level) = overlap of x + U(-a/2, a/2) with its cell: the two neighbours, by distance."""
    x = np.linspace(-1, 1, 21)[:, None]
    cells = np.arange(-3, 4)
    low, high = np.maximum(x - 0.5, cells - 0.5), np.minimum(x + 0.5, cells + 0.5)
    p = np.maximum(high - low, 0)
    up = x[:, 0] - np.floor(x[:, 0])
    assert np.allclose(p @ cells, x[:, 0])
    assert np.allclose(p @ cells**2 - x[:, 0] ** 2, up * (1 - up))


def test_a_local_grid_leaves_out_far_levels_and_never_the_nearest():
    x, one = np.array([0.4, 9.0]), np.ones(1)
    logits, pullback = level_logits(x, one, one / 10, codes=CODES, reach=7.0)
    assert np.array_equal(np.isfinite(logits).sum(1), [2, 1])
    everywhere = level_logits(x, one, one / 10, codes=CODES)[1]
    for local, near in zip(pullback(np.ones((2, len(CODES)))),
                           everywhere(np.isfinite(logits).astype(float)), strict=True):
        assert np.allclose(local, near)
    full, local = (relaxed_quantize(x, one, one / 10, codes=CODES, temperature=1.0, reach=r,
                                    noise=np.zeros((2, 8)))[0] for r in (np.inf, 7.0))
    assert np.allclose(full, local, atol=0.01)


def test_the_temperature_cools_geometrically():
    taus = np.array([cooled(t, 50, start=5.0, end=0.1) for t in range(60)])
    assert taus[0] == 5
    assert np.allclose(taus[50:], 0.1)
    assert np.allclose(taus[1:51] / taus[:50], taus[1] / taus[0])


def test_bad_input_is_refused():
    x, one = np.zeros(3), np.ones(1)
    with pytest.raises(ValueError, match="`temperature` must be positive and finite; got 0"):
        gumbel_softmax(x, np.array(0.0), noise=x)
    with pytest.raises(ValueError, match="`sigma` must be positive and finite; got 0"):
        level_logits(x, one, np.zeros(1), codes=CODES)
    with pytest.raises(ValueError, match="`spacing` must broadcast"):
        level_logits(x, np.ones(2), one, codes=CODES)
    with pytest.raises(ValueError, match="`steps` must be at least 1; got 0"):
        cooled(0, 0)


@pytest.mark.peer
def test_the_soft_choice_and_the_relaxed_quantizer_agree_with_torch():
    torch = pytest.importorskip("torch")
    x, spacing, sigma, noise = setting(3)
    g = np.random.default_rng(4).normal(size=x.shape)
    t = [torch.tensor(a, requires_grad=True) for a in (x, spacing, sigma)]
    level = t[1][..., None] * torch.tensor(CODES)
    high, low = (torch.sigmoid((level + h * t[1][..., None] - t[0][..., None]) / t[2][..., None])
                 for h in (0.5, -0.5))
    p = (high - low) / (high - low).sum(-1, keepdim=True)
    z = torch.softmax((p.log() + torch.tensor(noise)) / 0.7, -1)
    theirs = (z * level).sum(-1)
    theirs.backward(torch.tensor(g))
    ours, pullback = relaxed_quantize(x, spacing, sigma, codes=CODES, temperature=0.7, noise=noise)
    assert np.allclose(ours, theirs.detach().numpy(), rtol=1e-9)
    for mine, other in zip(pullback(g), t, strict=True):
        assert np.allclose(mine, other.grad.numpy(), rtol=1e-7, atol=1e-9)
