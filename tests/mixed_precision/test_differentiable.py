"""DNAS: mixtures, costs, and the two objectives."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.mixed_precision.differentiable import (
    annealed,
    cost_product,
    cost_sum,
    expected_cost,
    likeliest,
    mixture,
    sampled,
)

STEPS = [partial(lambda w, s: np.rint(w / s) * s, s=s) for s in (1.0, 0.5, 0.1)]
LOSSES = st.floats(1e-3, 10).map(np.float64)
COSTS = st.floats(1.1, 1e4).map(np.float64)


def shares(seed, k=3):
    return np.random.default_rng(seed).dirichlet(np.ones(k))


@given(st.integers(0, 2**32 - 1))
def test_one_product_with_the_mixture_is_the_mixture_of_the_products(seed):
    rng = np.random.default_rng(seed)
    w, x, m = rng.standard_normal((5, 4)), rng.standard_normal((3, 4)), shares(seed)
    value, _ = mixture(w, m, quantize=STEPS)
    each = sum(m[k] * (x @ STEPS[k](w).T) for k in range(3))
    assert np.allclose(x @ value.T, each)
    for k in range(3):
        assert np.array_equal(mixture(w, np.eye(3)[k], quantize=STEPS)[0], STEPS[k](w))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_gradients_of_shares_are_exact_and_the_weight_gets_all_of_it(seed):
    rng = np.random.default_rng(seed)
    w, g, m = rng.standard_normal((2, 3)), rng.standard_normal((2, 3)), shares(seed)
    _, pullback = mixture(w, m, quantize=STEPS)
    g_w, g_m = pullback(g)
    assert np.allclose(g_w, g)                          # straight through
    for k in range(3):                                  # linear in the shares: any step will do
        moved = m + np.eye(3)[k]
        change = mixture(w, moved, quantize=STEPS)[0] - mixture(w, m, quantize=STEPS)[0]
        assert g_m[k] == pytest.approx((g * change).sum())


def test_mixtures_keep_float32_and_refuse_a_wrong_number_of_shares():
    w = np.ones((2, 2), np.float32)
    value, pullback = mixture(w, np.full(3, 1 / 3), quantize=STEPS)
    assert value.dtype == pullback(w)[0].dtype == np.float32
    assert pullback(w)[1].dtype == np.float64
    with pytest.raises(ValueError, match=r"`shares` must have shape \(3,\)"):
        mixture(w, np.ones(2), quantize=STEPS)


@given(st.integers(0, 2**32 - 1))
def test_expected_cost_is_the_mean_cost_of_sampled_policies(seed):
    rng = np.random.default_rng(seed)
    costs = rng.integers(1, 9, (2, 3))
    a, b = shares(seed), shares(seed + 1)
    value, pullback = expected_cost(a, b, costs=costs)
    mean = sum(a[i] * b[j] * (costs[0, i] + costs[1, j]) for i in range(3) for j in range(3))
    assert float(value) == pytest.approx(mean)
    assert np.array_equal(np.array(pullback(np.array(2.0))), 2.0 * costs)
    with pytest.raises(ValueError, match=r"`costs` must have shape \(2, 3\)"):
        expected_cost(a, b, costs=costs[:1])


@given(LOSSES, COSTS)
def test_objectives_agree_with_finite_differences(loss, cost):
    for f in (partial(cost_sum, weight=0.3), cost_product, partial(cost_product, gamma=2.0)):
        _value, pullback = f(loss, cost)
        g_loss, g_cost = pullback(np.array(1.0))
        by_loss = (f(2 * loss, cost)[0] - f(loss, cost)[0]) / loss      # linear: any step will do
        h = 1e-4 * (cost - 1)
        by_cost = (f(loss, cost + h)[0] - f(loss, cost - h)[0]) / (2 * h)
        assert g_loss == pytest.approx(float(by_loss), rel=1e-8)
        assert g_cost == pytest.approx(float(by_cost), rel=1e-5)


@given(LOSSES, COSTS, st.floats(1e-6, 1))
def test_the_pressure_of_the_product_fades_with_the_loss_and_that_of_the_sum_does_not(
    loss, cost, factor
):
    def pressure(f, loss):
        return float(f(loss, cost)[1](np.array(1.0))[1])
    assert pressure(cost_product, factor * loss) == pytest.approx(
        factor * pressure(cost_product, loss))
    added = partial(cost_sum, weight=0.3)
    assert pressure(added, factor * loss) == pressure(added, loss) == 0.3


def test_the_product_buys_any_cost_for_a_loss_that_falls_faster_than_its_price_rises():
    """Bits 2 to 8, loss 4^-b: the product prefers 8, whatever its scale; the sum has a middle."""
    bits = np.arange(2.0, 9)
    loss = 4.0 ** -bits
    for beta in (0.01, 1.0, 100.0):
        prices = [float(cost_product(x, b, beta=beta)[0]) for x, b in zip(loss, bits, strict=True)]
        assert np.argmin(prices) == 6
    sums = [float(cost_sum(x, b, weight=0.01)[0]) for x, b in zip(loss, bits, strict=True)]
    assert bits[np.argmin(sums)] == 3 or bits[np.argmin(sums)] == 4


def test_a_cost_without_a_positive_logarithm_is_refused():
    with pytest.raises(ValueError, match=r"`cost` must be above 1, for its logarithm; got 1\.0"):
        cost_product(np.float64(1), np.float64(1.0))


def test_temperatures_fall_by_equal_factors():
    schedule = annealed(5.0, 0.1, 20)
    falls = [schedule(t + 1) / schedule(t) for t in range(20)]
    assert np.allclose(falls, (0.1 / 5) ** (1 / 20))
    assert schedule(0) == 5.0
    assert schedule(20) == schedule(99) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="`last` must be positive"):
        annealed(5.0, 0.0, 20)


def test_policies_are_drawn_with_the_probabilities_of_the_softmax():
    rng = np.random.default_rng(0)
    logits, choices = [np.log([0.2, 0.3, 0.5]), np.zeros(3)], np.array([2, 4, 8])
    drawn = np.array([sampled(logits, choices, rng=rng) for _ in range(6000)])
    for slot, p in enumerate([(0.2, 0.3, 0.5), (1 / 3,) * 3]):
        for width, share in zip(choices, p, strict=True):
            error = (share * (1 - share) / 6000) ** 0.5
            assert abs((drawn[:, slot] == width).mean() - share) < 4 * error
    assert likeliest(logits, choices).tolist() == [8, 2]
