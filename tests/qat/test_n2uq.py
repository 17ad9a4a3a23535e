"""N2UQ: golden vectors, the expectation whose slope its pullback is, and limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.qat.learned_levels import rectangular, staircase
from refquant.qat.n2uq import (
    fake_quantize_activation,
    fake_quantize_weight,
    fake_quantize_weight_released,
    initial_widths,
    thresholds,
)

X = np.array([-1.3, -0.75, -0.31, -0.05, 0, 0.12, 0.4, 0.95, 1.6])
G = np.arange(1, 10) / 10
WIDTHS = st.integers(1, 4).flatmap(
    lambda b: st.lists(st.floats(0.05, 2), min_size=2**b - 1, max_size=2**b - 1).map(np.array))
VALUES = st.lists(st.floats(-2, 6), min_size=1, max_size=20).map(np.array)


def test_the_golden_vector():
    value, pullback = fake_quantize_activation(X, np.array([0.5, 0.9, 0.4]), np.array(0.1))
    gx, ga, gs = pullback(G)
    assert np.allclose(value, [0, 0, 0, 0, 0, 0, 2 / 3, 2 / 3, 4 / 3], atol=1e-15)
    assert np.allclose(gx, [0, 0, 0, 0, 0, 0.8, 0.933333, 0.592593, 1.5], atol=1e-6)
    assert np.allclose(ga, [-2.684593, -1.730453, -0.375], atol=1e-6)
    assert np.isclose(gs, -3.825926, atol=1e-6)


def expected(x, a, start):
    """Mean of the quantizer that rounds up with the probability of the place in the segment."""
    boundary = start + np.concatenate([[0], np.cumsum(a)])
    return np.interp(x, boundary, np.arange(len(a) + 1) * 2 / len(a))


@given(VALUES, WIDTHS, st.floats(-1, 1), st.data())
def test_the_pullback_is_the_slope_of_the_expectation(x, a, start, data):
    boundary = start + np.concatenate([[0], np.cumsum(a)])
    x = x[np.abs(x[:, np.newaxis] - boundary).min(1) > 1e-4]
    if not len(x):
        return
    g = np.array(data.draw(st.lists(st.floats(-2, 2), min_size=len(x), max_size=len(x))))
    gx, ga, gs = fake_quantize_activation(x, a, np.array(start))[1](g)
    h = 1e-6

    def slope(move):
        return (np.sum(g * expected(*move(h))) - np.sum(g * expected(*move(-h)))) / (2 * h)

    assert np.isclose(gx.sum(), slope(lambda t: (x + t, a, start)), rtol=1e-5, atol=1e-4)
    assert np.isclose(gs, slope(lambda t: (x, a, start + t)), rtol=1e-5, atol=1e-4)
    for i in range(len(a)):
        unit = np.eye(len(a))[i]
        by_hand = slope(lambda t, unit=unit: (x, a + t * unit, start))
        assert np.isclose(ga[i], by_hand, rtol=1e-5, atol=1e-4)


@given(VALUES, WIDTHS, st.floats(-1, 1))
def test_it_is_a_staircase_with_the_segments_as_pulses(x, a, start):
    value, pullback = fake_quantize_activation(x, a, np.array(start))
    cuts, step = thresholds(a, np.array(start)), 2 / len(a)
    stairs, _ = staircase(x, cuts, np.arange(len(a) + 1) * step, rectangular(1.0))
    assert np.allclose(value, stairs, atol=1e-12)
    slope = sum(
        staircase(x, cuts[[i]], np.array([0, step]), rectangular(a[i]))[1](np.ones_like(x))[0]
        for i in range(len(a)))
    edges = start + np.concatenate([[0], np.cumsum(a)])
    inner = np.abs(x[:, np.newaxis] - edges).min(1) > 1e-9      # at an edge two pulses meet
    assert np.allclose(pullback(np.ones_like(x))[0][inner], slope[inner], atol=1e-9)


@given(st.integers(1, 6), VALUES)
def test_equal_widths_are_uniform_quantization(bits, x):
    value, pullback = fake_quantize_activation(x, initial_widths(bits=bits), np.array(0.0))
    n = 2**bits - 1
    ratio = np.clip(x, 0, 2) * n / 2
    off_tie = np.abs(ratio - np.floor(ratio) - 0.5) > 1e-6
    assert np.allclose(value[off_tie], (np.rint(ratio) * 2 / n)[off_tie], atol=1e-12)
    inside = (x > 1e-9) & (x < 2 - 1e-9)
    assert np.allclose(pullback(np.ones_like(x))[0][inside], 1)


def test_published_thresholds():
    assert np.allclose(thresholds(np.array([0.5, 0.7, 0.9]), np.array(0.0)), [0.25, 0.85, 1.65],
                       atol=1e-12)


def test_an_input_on_a_threshold_is_below_it():
    value, _ = fake_quantize_activation(np.array([0.25, np.nextafter(0.25, 1)]),
                                        np.array([0.5]), np.array(0.0))
    assert np.array_equal(value, [0, 2])


def test_widths_that_vanish_count_as_a_thousandth_and_get_no_gradient():
    a = np.array([0.5, -3.0, 0.5])
    x = np.array([0.5005, 0.7])
    value, pullback = fake_quantize_activation(x, a, np.array(0.0))
    assert np.array_equal(fake_quantize_activation(x, np.maximum(a, 1e-3), np.array(0.0))[0], value)
    gx, ga, _ = pullback(np.ones(2))
    assert np.isfinite(gx).all()
    assert ga[1] == 0
    assert ga[0] != 0


def test_dtypes_and_shapes_stay():
    x = np.linspace(-1, 3, 24, dtype=np.float32).reshape(2, 3, 4)
    value, pullback = fake_quantize_activation(x, np.full(3, 2 / 3, np.float32),
                                               np.zeros(1, np.float32))
    found = pullback(np.ones_like(x))
    assert value.dtype == np.float32
    assert [(g.shape, g.dtype) for g in found] == [((2, 3, 4), np.float32), ((3,), np.float32),
                                                   ((1,), np.float32)]
    empty, back = fake_quantize_activation(x[:0], np.ones(1, np.float32), np.zeros(1, np.float32))
    assert empty.shape == (0, 3, 4)
    assert back(empty)[1].tolist() == [0]


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=12), st.integers(1, 5))
def test_weights_are_scaled_by_their_mean_and_rounded(values, bits):
    w = np.array([values, values[::-1]])
    w[1] *= 2
    value, pullback = fake_quantize_weight(w, bits=bits)
    n = 2**bits - 1
    for row, got, passed in zip(w, value, pullback(np.ones_like(w))[0], strict=True):
        s = n / 2 ** (bits - 1) * np.abs(row).mean()
        if s == 0:
            assert not got.any()
            continue
        codes = (got / s + 1) * n / 2
        assert np.allclose(codes, np.rint(codes), atol=1e-9)
        assert np.allclose(np.abs(got - np.clip(row, -s, s)) <= s / n * (1 + 1e-9), True)
        edge = np.abs(np.abs(row) / s - 1) < 1e-12
        assert np.array_equal(passed[~edge], (np.abs(row) <= s)[~edge])
    assert np.array_equal(fake_quantize_weight_released(w, bits=bits)[0], value)


def test_the_released_pullback_divides_by_the_scale():
    w = np.array([[0.5, -1.5], [0.0, 0.0]])
    g = fake_quantize_weight_released(w, bits=2)[1](np.ones_like(w))[0]
    assert np.allclose(g, [[1 / 1.5, 1 / 1.5], [0, 0]])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: fake_quantize_activation(np.array([np.nan]), np.ones(1), np.array(0.0)),
     "`x` must not contain NaN"),
    (lambda: fake_quantize_activation(X, np.ones((1, 3)), np.array(0.0)),
     r"`widths` must be one row, a width for each step; got shape \(1, 3\)"),
    (lambda: fake_quantize_activation(X, np.ones(3), np.zeros(2)),
     r"`start` must have one element; got shape \(2,\)"),
    (lambda: fake_quantize_weight(np.array(1.0), bits=2), "`w` must have output channels"),
    (lambda: fake_quantize_weight(np.ones((2, 0)), bits=2), "`w` must have output channels"),
    (lambda: fake_quantize_weight(np.ones((2, 1)), bits=0), "`bits` must be at least 1; got 0"),
    (lambda: initial_widths(bits=9), "`bits` must be at most 8; got 9"),
])
def test_wrong_values_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
