"""A staircase with gradients: levels exactly, thresholds through pulses of unit area."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from refquant.qat.learned_levels import logistic, ordered, rectangular, staircase, triangular

PULSES = [rectangular, triangular, logistic]
VALUES = st.lists(st.floats(-3, 3), min_size=1, max_size=20).map(np.array)
LEVELS = st.integers(1, 5).flatmap(
    lambda n: st.tuples(st.lists(st.floats(-2, 2), min_size=n, max_size=n).map(sorted),
                        st.lists(st.floats(-3, 3), min_size=n + 1, max_size=n + 1)))


@given(VALUES, LEVELS)
def test_the_value_is_the_sum_of_jumps(x, stairs):
    t, levels = (np.array(v) for v in stairs)
    value, pullback = staircase(x, t, levels, rectangular(1.0))
    by_hand = levels[0] + ((x[:, np.newaxis] > t) * np.diff(levels)).sum(1)
    assert np.allclose(value, by_hand, atol=1e-12)
    assert np.isclose(pullback(np.ones_like(x))[2].sum(), len(x))


@given(VALUES, LEVELS, st.data())
def test_the_gradient_of_a_level_is_exact(x, stairs, data):
    t, levels = (np.array(v) for v in stairs)
    g = np.array(data.draw(st.lists(st.integers(-8, 8), min_size=len(x), max_size=len(x))), float)
    got = staircase(x, t, levels, rectangular(1.0))[1](g)[2]
    for i in range(len(levels)):
        moved = levels + 0.5 * (np.arange(len(levels)) == i)
        change = staircase(x, t, moved, rectangular(1.0))[0] - staircase(
            x, t, levels, rectangular(1.0))[0]
        assert np.isclose((g * change).sum() / 0.5, got[i], atol=1e-9)


@pytest.mark.parametrize("kind", PULSES)
@pytest.mark.parametrize("width", [0.1, 1.0, 3.0])
def test_a_pulse_is_even_and_has_unit_area(kind, width):
    pulse = kind(width)
    area, _ = quad(lambda t: float(pulse(np.array([t]))[0]), -60 * width, 60 * width,
                   points=[-width, -width / 2, 0, width / 2, width], limit=400)
    assert np.isclose(area, 1, atol=1e-6)
    t = np.linspace(0, 3 * width, 50)
    assert np.array_equal(pulse(t), pulse(-t))
    assert (np.diff(pulse(t)) <= 1e-15).all()
    assert np.isfinite(pulse(np.array([1e300, -1e300]))).all()


@pytest.mark.parametrize("kind", PULSES)
def test_a_threshold_moves_the_mean_as_its_pulse_says(kind):
    """For inputs spread evenly, the surrogate equals the derivative of the mean output."""
    x = (np.arange(400_000) + 0.5) / 50_000 - 4
    t, levels = np.array([-0.5, 0.7]), np.array([-1.0, 0.2, 1.5])
    _, g_t, _ = staircase(x, t, levels, kind(0.2))[1](np.full_like(x, 1 / len(x)))
    h = 0.01
    for i in range(2):
        up, down = (staircase(x, t + s * h * np.eye(2)[i], levels, kind(0.2))[0].mean()
                    for s in (1, -1))
        assert np.isclose(g_t[i], (up - down) / (2 * h), rtol=2e-3)


@given(VALUES, LEVELS)
def test_each_input_has_the_slope_of_a_staircase_of_smooth_steps(x, stairs):
    t, levels = (np.array(v) for v in stairs)

    def smooth(v):
        return (np.diff(levels) / 2 * np.tanh((v[:, np.newaxis] - t) / (2 * 0.4))).sum(1)

    gx, _, _ = staircase(x, t, levels, logistic(0.4))[1](np.ones_like(x))
    assert np.allclose(gx, (smooth(x + 1e-5) - smooth(x - 1e-5)) / 2e-5, atol=1e-8)


@given(VALUES, LEVELS)
def test_what_moves_the_inputs_moves_the_thresholds_the_other_way(x, stairs):
    t, levels = (np.array(v) for v in stairs)
    gx, gt, _ = staircase(x, t, levels, triangular(0.5))[1](np.ones_like(x))
    assert np.isclose(gx.sum(), -gt.sum(), atol=1e-9)


def test_without_a_threshold_there_is_one_level_and_no_slope():
    value, pullback = staircase(np.ones(3), np.zeros(0), np.array([0.5]), logistic(1.0))
    gx, gt, each = pullback(np.ones(3))
    assert (value.tolist(), gx.tolist(), gt.shape, each.tolist()) == ([0.5] * 3, [0] * 3, (0,), [3])


@given(st.floats(-3, 3), st.lists(st.floats(-30, 30), max_size=6), st.data())
def test_ordered_thresholds_ascend_and_have_the_derivatives_they_say(first, raw, data):
    raw = np.array(raw)
    value, pullback = ordered(np.array([first]), raw)
    assert (np.diff(value) >= 0).all()
    assert value[0] == first
    g = np.array(data.draw(st.lists(st.floats(-2, 2), min_size=len(value), max_size=len(value))))
    g_first, g_raw = pullback(g)
    assert g_first.shape == (1,)
    assert np.isclose(g_first[0], g.sum(), atol=1e-9)
    h = 1e-5
    for i in range(len(raw)):
        unit = np.eye(len(raw))[i]
        up, down = (ordered(np.array([first]), raw + s * h * unit)[0] for s in (1, -1))
        assert np.isclose(g_raw[i], ((up - down) * g).sum() / (2 * h), atol=1e-5)


def test_huge_increments_stay_finite():
    value, pullback = ordered(np.array([0.0]), np.array([1e4, -1e4]))
    assert np.array_equal(value, [0, 1e4, 1e4])
    assert np.array_equal(pullback(np.ones(3))[1], [2, 0])


def test_dtypes_shapes_and_empty_input():
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    value, pullback = staircase(x, np.zeros(1, np.float32), np.array([-1, 1], np.float32),
                                logistic(0.1))
    assert value.dtype == np.float32
    assert value.shape == (2, 3)
    assert {g.dtype for g in pullback(np.ones_like(x))} == {np.dtype(np.float32)}
    none, back = staircase(x, np.zeros(0), np.array([2.0]), logistic(0.1))
    assert (none == 2).all()
    assert back(np.ones_like(x))[0].tolist() == [[0, 0, 0], [0, 0, 0]]
    assert staircase(x[:0], np.zeros(1), np.ones(2), logistic(1.0))[0].shape == (0, 3)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: staircase(np.ones(1), np.zeros(2), np.zeros(2), logistic(1.0)),
     r"`levels` must be one more than `thresholds` of shape \(n,\)"),
    (lambda: staircase(np.ones(1), np.array([1.0, 0.0]), np.zeros(3), logistic(1.0)),
     "`thresholds` must ascend"),
    (lambda: staircase(np.array([np.nan]), np.zeros(1), np.zeros(2), logistic(1.0)),
     "`x` must not contain NaN"),
    (lambda: rectangular(0.0), "`width` must be positive and finite; got 0.0"),
    (lambda: logistic(np.inf), "`width` must be positive and finite; got inf"),
    (lambda: ordered(np.zeros(2), np.zeros(1)), r"`first` must have shape \(1,\)"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
