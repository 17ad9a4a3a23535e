"""Periodic penalties: derivatives, zeros on the grid, the period, and bits that are learned."""

from functools import partial

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes, assert_pullback
from _oracles.estimators import X
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.periodic import chosen_bits, on_grid, sinreq, waveq

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS, st.sampled_from([0.0, 0.5]))
def test_the_gradients_of_sinreq_are_derivatives(seed, shift):
    rng = np.random.default_rng(seed)
    op = partial(sinreq, shift=shift)
    for shape in ((), (3, 1)):
        assert_pullback(op, (rng.normal(size=(3, 4)), rng.uniform(0.3, 1, shape)), step=1e-7,
                        tolerance=1e-6)
    assert_dtypes(op, (rng.normal(size=3), np.array(0.5)))


@given(SEEDS, st.sampled_from([0.0, 1.0, 2.0]))
def test_the_gradients_of_waveq_are_derivatives(seed, power):
    rng = np.random.default_rng(seed)
    op = partial(waveq, power=power)
    for shape in ((), (3, 1)):
        assert_pullback(op, (rng.uniform(-1, 1, (3, 4)), rng.uniform(1, 4, shape)), step=1e-7,
                        tolerance=1e-6)
    assert_dtypes(op, (rng.uniform(-1, 1, 4), np.array(2.3)))


def test_golden_vector():
    value, pullback = waveq(X, np.array(2.3))
    assert np.allclose(value, [0.020129, 0.006346, 0.080392, 0.067878, 0, 0.201376, 0.193446,
                               0.115301, 0.120133], atol=1e-6)
    by_weight, by_beta = pullback(np.ones(9))
    assert np.allclose(by_weight, [-1.496327, 0.87123, -2.448785, -2.362115, 0, 0.45446,
                                   -1.063598, -2.48052, 2.461274], atol=1e-6)
    assert np.isclose(value.sum(), 0.805001, atol=1e-6)
    assert np.isclose(by_beta, 2.381535, atol=1e-6)


@given(st.integers(1, 6))
def test_waveq_is_zero_on_its_grid_and_positive_halfway(beta):
    k = 2**beta - 1
    grid = np.arange(-k, k + 1) / k
    assert len(grid) == 2 ** (beta + 1) - 1
    assert np.allclose(waveq(grid, np.array(float(beta)))[0], 0, atol=1e-20)
    assert np.allclose(waveq(grid + 0.5 / k, np.array(float(beta)))[0], 2.0**-beta)
    assert np.array_equal(on_grid(grid, np.array(beta)), grid)


@given(SEEDS, st.floats(1, 6))
def test_waveq_repeats_after_one_wave_and_vanishes_where_on_grid_puts_a_weight(seed, beta):
    w = np.random.default_rng(seed).uniform(-1, 1, 7)
    here, there = (waveq(v, np.array(beta))[0] for v in (w, w + 1 / (2**beta - 1)))
    assert np.allclose(here, there, atol=1e-9)
    assert np.allclose(waveq(on_grid(w, np.array(beta)), np.array(beta))[0], 0, atol=1e-20)
    assert (np.abs(on_grid(w, np.array(beta)) - w) <= 0.5 / (2**beta - 1) + 1e-12).all()


@given(SEEDS)
def test_sinreq_is_waveq_before_the_normalizer_and_its_shift_makes_zero_the_worst(seed):
    w = np.random.default_rng(seed).uniform(-1, 1, 7)
    assert np.allclose(waveq(w, np.array(3.0), power=0.0)[0], sinreq(w, np.array(1 / 7))[0])
    assert sinreq(np.zeros(1), np.array(0.5), shift=0.5)[0] == 1


def test_descent_carries_weights_to_the_nearest_level():
    w = np.array([-0.9, -0.3, 0.1, 0.45, 0.7])
    nearest = on_grid(w, np.array(2.0))
    for _ in range(200):
        w = w - 0.01 * waveq(w, np.array(2.0))[1](np.ones(5))[0]
    assert np.allclose(w, nearest, atol=1e-6)


def settled(start, price, steps=1000):
    """Where beta comes to rest for weights on the grid of 3 bits of magnitude."""
    w, beta = np.random.default_rng(0).integers(-7, 8, 2000) / 7, np.array(start)
    for _ in range(steps):
        beta = beta - 0.02 * (waveq(w, beta)[1](np.full(2000, 1 / 2000))[1] + price)
    return float(beta)


def test_bits_fall_to_what_the_weights_need_from_nearby_and_stick_in_ripples_from_afar():
    assert abs(settled(3.1, price=0.002) - 3) < 0.01
    assert settled(3.4, price=0.002) > 3.4
    assert settled(3.4, price=0.5, steps=200) < 3       # a price above the ripples: it falls


def test_the_width_is_the_ceiling_and_may_count_the_sign():
    beta = np.array([2.0, 2.01, 7.9])
    assert chosen_bits(beta).tolist() == [2, 3, 8]
    assert chosen_bits(beta, signed=True).tolist() == [3, 4, 9]
    assert chosen_bits(beta).dtype == np.int32


def test_bad_input_is_refused():
    w = np.ones(3)
    for call in (sinreq, waveq, on_grid):
        with pytest.raises(ValueError, match="must be positive and finite; got 0"):
            call(w, np.array(0.0))
    for call in (sinreq, waveq):
        with pytest.raises(ValueError, match="must broadcast"):
            call(w, np.ones(2))
    with pytest.raises(ValueError, match="`beta` must be positive"):
        chosen_bits(np.array([-1.0]))
