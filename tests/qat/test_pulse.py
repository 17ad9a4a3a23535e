"""Pulses of area one, ternary steps, and transitions between stored states."""

import numpy as np
import pytest
from _oracles.derivatives import assert_dtypes
from _oracles.estimators import G, X
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.pulse import (
    hop_probability,
    rectangle,
    staircase,
    state_transition,
    triangle,
)

SEEDS = st.integers(0, 2**32 - 1)
HALF = np.array([0.5])


@given(st.sampled_from([rectangle, triangle]), st.floats(0.05, 2))
def test_a_pulse_has_area_one_and_no_more_width_than_asked(pulse, half_width):
    """Midpoint rule with 40,000 cells over twice the support."""
    edge = 2 * half_width
    u = (np.arange(40_000) + 0.5) / 40_000 * 2 * edge - edge
    height = pulse(u, half_width)
    assert np.isclose(height.sum() * 2 * edge / 40_000, 1, atol=1e-3)
    assert not height[np.abs(u) > half_width].any()
    assert np.array_equal(height, pulse(-u, half_width))


@given(st.sampled_from([rectangle, triangle]), st.integers(1, 4))
def test_the_slopes_of_a_staircase_add_up_to_its_rise(pulse, n):
    """From -9 to 9 the value rises by 2, and the stand-in derivative has the same area."""
    jumps = np.arange(1, n + 1) * 0.7
    x = (np.arange(36_000) + 0.5) / 2000 - 9
    y, pullback = staircase(x, jumps=jumps, half_width=0.4, pulse=pulse)
    assert np.array_equal(np.unique(y), np.arange(-n, n + 1) / n)
    assert np.isclose(pullback(np.ones_like(x))[0].sum() / 2000, 2, atol=1e-2)
    assert (np.diff(y) >= 0).all()


def test_golden_vector():
    y, pullback = staircase(X, jumps=HALF)
    assert y.tolist() == [-1, -1, 0, 0, 0, 0, 0, 1, 1]
    assert np.allclose(pullback(G)[0], [0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0])


def test_a_triangle_counts_the_distance_and_dtypes_are_kept():
    _, pullback = staircase(X, jumps=HALF, pulse=triangle)
    near = np.maximum(0.5 - np.abs(np.abs(X) - 0.5), 0) * 4
    assert np.allclose(pullback(G)[0], near * G)
    assert_dtypes(lambda x: staircase(x, jumps=HALF), (X,))
    assert not np.signbit(staircase(np.array([-0.0, -0.1]), jumps=HALF)[0]).any()


def test_a_narrow_pulse_is_nothing_almost_everywhere():
    assert staircase(X, jumps=HALF, half_width=1e-6)[1](G)[0].sum() == 0


@given(SEEDS, st.sampled_from([2.0, 1.0, 0.5, 0.25]), st.floats(0, 2))
def test_transitions_stay_among_the_states_and_move_the_right_way(seed, step, size):
    rng = np.random.default_rng(seed)
    w = rng.integers(0, round(2 / step) + 1, 50) * step - 1
    update = size * rng.normal(size=50)
    new = state_transition(w, update, step=step, rng=rng)
    assert np.array_equal((new + 1) % step, np.zeros(50))
    assert (np.abs(new) <= 1).all()
    assert ((new - w) * update >= 0).all()
    assert (np.abs(new - w) < np.abs(update) + step).all()


@given(SEEDS)
def test_whole_steps_are_taken_for_certain_and_no_update_is_none(seed):
    rng = np.random.default_rng(seed)
    w = rng.integers(-2, 3, 30) / 2
    target = rng.integers(-2, 3, 30) / 2
    assert np.array_equal(state_transition(w, target - w, step=0.5, rng=rng), target)
    assert np.array_equal(state_transition(w, 0 * w, step=0.5, rng=rng), w)


def test_small_updates_hop_with_their_boosted_probability():
    """40,000 weights at 0 asked to move a fifth of a step: 54 % go, not 20 %; five s.e."""
    n = 40_000
    new = state_transition(np.zeros(n), np.full(n, 0.2), step=1.0, rng=np.random.default_rng(0))
    p = hop_probability(np.array(0.2), 1.0)
    assert np.isclose(p, np.tanh(0.6))
    assert abs(new.mean() - p) < 5 * np.sqrt(p * (1 - p) / n)
    assert p > 2.5 * 0.2


def test_at_the_end_of_the_range_nothing_pushes_further():
    w = np.array([1.0, -1.0])
    assert np.array_equal(
        state_transition(w, np.array([5.0, -5.0]), step=1.0, rng=np.random.default_rng(0)), w)


def test_bad_input_is_refused():
    rng = np.random.default_rng(0)
    for pulse in (rectangle, triangle):
        with pytest.raises(ValueError, match="`half_width` must be positive and finite; got 0"):
            pulse(X, 0.0)
    with pytest.raises(ValueError, match="`jumps` must be positive"):
        staircase(X, jumps=np.array([-0.5]))
    with pytest.raises(ValueError, match=r"`step` must be a power of two, at most 2; got 0\.3"):
        state_transition(np.zeros(2), np.zeros(2), step=0.3, rng=rng)
    with pytest.raises(ValueError, match="`step` must be a power of two, at most 2; got 4"):
        state_transition(np.zeros(2), np.zeros(2), step=4.0, rng=rng)
    with pytest.raises(ValueError, match=r"`weight` must lie in \[-1, 1\] on the grid of 1.0"):
        state_transition(np.array([0.5]), np.zeros(1), step=1.0, rng=rng)
    with pytest.raises(ValueError, match=r"`update` must have shape \(2,\)"):
        state_transition(np.zeros(2), np.zeros(3), step=1.0, rng=rng)
