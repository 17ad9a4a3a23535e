"""Low precision: where nearest stops, where the random walk goes, and scaling that is exact."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.low_precision import (
    LossScaler,
    Walk,
    all_finite,
    gradient_cast,
    predicted,
    scaled_loss,
    stored_update,
    unscaled,
)
from refquant.quantizers.fixed_point import FixedPoint
from refquant.quantizers.minifloat import FP16
from refquant.quantizers.uniform import symmetric
from refquant.rounding import half_even, stochastic

SEEDS = st.integers(0, 2**32 - 1)
GRID = FixedPoint(8, 7)
STEP = 2.0**-7


def on_grid(rng, n):
    return GRID.decode(rng.integers(-100, 100, n)).astype(np.float64)


@given(SEEDS, st.floats(-0.5, 0.5))
def test_nearest_moves_nothing_exactly_while_updates_are_below_half_a_step(seed, ratio):
    w = on_grid(np.random.default_rng(seed), 20)
    moved = stored_update(w, np.array(ratio * STEP), GRID)
    if abs(ratio) < 0.5:
        assert np.array_equal(moved, w)
    else:                                               # a tie: the even neighbour
        assert (np.rint(moved / STEP) % 2 == 0).all()


@given(SEEDS, st.floats(0.5000001, 40))
def test_above_half_a_step_every_weight_moves(seed, ratio):
    w = on_grid(np.random.default_rng(seed), 20) / 4
    w = np.rint(w / STEP) * STEP
    assert (stored_update(w, np.array(ratio * STEP), GRID) > w).all()


def test_the_stored_sum_has_the_mean_and_variance_predicted():
    """200,000 walks of 40 unequal updates. Standard error of the mean: sd / sqrt(n); of the
    variance, whose kurtosis is near 3: variance * sqrt(2 / n)."""
    rng = np.random.default_rng(0)
    updates = rng.normal(scale=STEP / 20, size=40)
    walk, n = predicted(updates, STEP), 200_000
    assert isinstance(walk, Walk)
    w, up = np.zeros(n), partial(stochastic, rng=rng)
    for update in updates:
        w = stored_update(w, update, GRID, rounding=up)
    assert abs(w.mean() - walk.mean) < 4 * np.sqrt(walk.variance / n)
    assert abs(w.var() - walk.variance) < 4 * walk.variance * np.sqrt(2 / n)


def test_equal_updates_make_a_binomial_distribution():
    """T updates of a quarter of a step: the number of steps taken is binomial(T, 1/4)."""
    from scipy.stats import binom, chisquare

    n, updates = 50_000, 12
    w, up = np.zeros(n), partial(stochastic, rng=np.random.default_rng(1))
    for _ in range(updates):
        w = stored_update(w, np.array(STEP / 4), GRID, rounding=up)
    counts = np.bincount(np.rint(w / STEP).astype(int), minlength=updates + 1)
    expected = n * binom.pmf(np.arange(updates + 1), updates, 0.25)
    head = [*counts[:7], counts[7:].sum()]
    assert chisquare(head, [*expected[:7], expected[7:].sum()]).pvalue > 1e-3
    walk = predicted(np.full(updates, STEP / 4), STEP)
    assert np.isclose(walk.variance, updates * STEP**2 * 3 / 16, rtol=1e-12)


@given(st.lists(st.integers(-4000, 4000), min_size=1, max_size=8), st.sampled_from([1, 3, 16]))
def test_the_prediction_equals_exact_fractions(numerators, denominator):
    updates = np.array(numerators) / 1024
    step = denominator / 256
    walk = predicted(updates, step)
    exact = [Fraction(n, 1024) / Fraction(denominator, 256) for n in numerators]
    parts = [r - (r.numerator // r.denominator) for r in exact]
    variance = Fraction(denominator, 256) ** 2 * sum(f * (1 - f) for f in parts)
    assert np.isclose(walk.mean, float(sum(Fraction(n, 1024) for n in numerators)), atol=1e-12)
    assert np.isclose(walk.variance, float(variance), rtol=1e-9, atol=1e-12)


def test_the_published_numbers_of_one_small_update():
    """A fiftieth of 1/256, a thousand times: 0.0781 with a standard deviation of 0.0173."""
    grid, up = FixedPoint(9, 8), partial(stochastic, rng=np.random.default_rng(0))
    near, drawn = np.zeros(4000), np.zeros(4000)
    for _ in range(1000):
        near = stored_update(near, np.array(1 / 12800), grid)
        drawn = stored_update(drawn, np.array(1 / 12800), grid, rounding=up)
    walk = predicted(np.full(1000, 1 / 12800), 1 / 256)
    assert (near == 0).all()
    assert abs(drawn.mean() - 0.078125) < 4 * 0.0173 / np.sqrt(4000)
    assert np.isclose(np.sqrt(walk.variance), 0.01732, atol=5e-5)
    assert abs(drawn.std() / np.sqrt(walk.variance) - 1) < 0.05


def test_a_half_precision_sum_sticks_at_four_and_a_random_one_arrives():
    """10,000 times 0.001: half the gap of FP16 above 4 is 0.00195."""
    near = np.zeros(1, np.float32)
    drawn, up = np.zeros(400, np.float32), partial(stochastic, rng=np.random.default_rng(0))
    for _ in range(10_000):
        near = stored_update(near, np.float32(1e-3), FP16)
        if near >= 4:
            break
    assert stored_update(near, np.float32(1e-3), FP16) == near == 4
    for _ in range(1000):                               # ten at a time: the same means
        drawn = stored_update(drawn, np.float32(1e-2), FP16, rounding=up)
    assert abs(drawn.mean() - 10) < 0.05


def test_the_ends_saturate_and_dtypes_stay():
    w = np.array([0.9921875, -1.0], np.float32)
    moved = stored_update(w, np.array([1.0, -1.0]), GRID)
    assert moved.dtype == np.float32
    assert np.array_equal(moved, w)
    assert np.array_equal(stored_update(w, np.zeros(2), symmetric(np.array(1.0), bits=2)), [1, -1])
    with pytest.raises(ValueError, match="must not contain NaN"):
        stored_update(w, np.array([np.nan, 0]), GRID)
    with pytest.raises(ValueError, match="`step` must be positive"):
        predicted(w, 0.0)
    with pytest.raises(ValueError, match="`updates` must be finite"):
        predicted(np.array([np.inf]), 1.0)


@given(SEEDS, st.integers(-20, 40))
def test_scaling_by_a_power_of_two_and_back_is_exact(seed, exponent):
    """A chain of products and sums commutes with a power of two, bit for bit."""
    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=(5, 5)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    scale = np.float32(2.0**exponent)

    def gradient(seed_of_loss):
        return {"w": np.outer(np.tanh(x) * seed_of_loss, w @ x)}

    plain = gradient(np.float32(1))
    assert np.array_equal(unscaled(gradient(scale), scale)["w"], plain["w"])


def test_scales_that_are_no_powers_of_two_do_change_bits():
    g = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    back = unscaled({"w": g * np.float32(1000)}, 1000.0)["w"]
    assert 0.01 < np.mean(back != g) < 0.5


def test_the_scaler_doubles_after_clean_steps_and_halves_at_once():
    scaler = LossScaler(8.0, interval=3)
    seen = []
    for finite in (True, True, True, True, False, True, False, True, True, True):
        scaler = scaler.after(finite)
        seen.append((scaler.scale, scaler.clean))
    assert seen == [(8, 1), (8, 2), (16, 0), (16, 1), (8, 0), (8, 1), (4, 0), (4, 1), (4, 2),
                    (8, 0)]
    assert LossScaler() == LossScaler(65536.0, 0, 2000)
    with pytest.raises(ValueError, match="`interval` must be at least 1"):
        LossScaler(interval=0).after(True)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        unscaled({}, 0.0)


def test_infinite_and_missing_gradients_are_noticed_wherever_they_are():
    good = {"a": np.ones(3), "b": np.ones((2, 2))}
    assert all_finite(good)
    for bad in (np.nan, np.inf, -np.inf):
        broken = np.ones((2, 2))
        broken[1, 0] = bad
        assert not all_finite(good | {"b": broken})


def test_the_scaled_loss_and_the_cast_gradient():
    value, pullback = scaled_loss(np.float32(0.25), np.float32(64))
    assert value == 16
    assert pullback(np.float32(1)) == (64, 0)
    half = partial(gradient_cast, cast=lambda g: g.astype(np.float16).astype(g.dtype))
    x = np.float32([1e-9, 2.0**-25, 2.0**-24, 0.1])
    y, pullback = half(x)
    assert y is x
    assert np.array_equal(pullback(x)[0], np.float32([0, 0, 2.0**-24, np.float16(0.1)]))
    assert np.array_equal(half_even(x), [0, 0, 0, 0])
