"""Means that move are moved back: exactly where data say so, in expectation where they do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.ptq.bias_correction import (
    analytic,
    clipped_normal,
    empirical,
    restore_moments,
    window_share,
)


@given(st.integers(0, 9999))
def test_on_the_same_data_the_mean_output_error_is_zero_afterwards(seed):
    rng = np.random.default_rng(seed)
    x, weight, bias = rng.standard_normal((40, 6)) + 2, rng.standard_normal((3, 6)), np.ones(3)
    rounded = np.rint(2 * weight) / 2
    exact = x @ weight.T + bias
    made = empirical(bias, exact, x @ rounded.T + bias)
    assert np.abs((x @ rounded.T + made - exact).mean(0)).max() < 1e-13
    again = empirical(made, exact, x @ rounded.T + made)
    assert np.allclose(again, made, atol=1e-13)


def test_a_layer_that_was_not_changed_keeps_its_bias():
    y = np.random.default_rng(0).standard_normal((2, 4, 4, 3)).astype(np.float32)
    bias = np.arange(3, dtype=np.float32)
    assert np.array_equal(empirical(bias, y, y), bias)
    assert np.allclose(empirical(bias, y, y + 1), [-1, 0, 1], atol=1e-6)


def test_outputs_in_float32_are_compared_in_float64():
    rng = np.random.default_rng(0)
    exact, quantized = (rng.standard_normal((500, 3)).astype(np.float32) + 100 for _ in range(2))
    made = empirical(np.zeros(3), exact, quantized)
    assert np.array_equal(made, empirical(np.zeros(3), *(y.astype(np.float64)
                                                        for y in (exact, quantized))))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (-2.0, 0.5), (3.0, 2.0), (7.0, 0.3)])
@pytest.mark.parametrize(("low", "high"), [(-np.inf, np.inf), (0, np.inf), (0, 6), (-1, 1),
                                           (-np.inf, 2)])
def test_clipped_normal_is_the_integral(mean, deviation, low, high):
    def moment(power):
        inside, _ = quad(
            lambda v: v**power * norm.pdf(v, mean, deviation),
            max(low, mean - 12 * deviation), min(high, mean + 12 * deviation), limit=200,
        ) if max(low, mean - 12 * deviation) < min(high, mean + 12 * deviation) else (0, 0)
        ends = 0.0
        if np.isfinite(low):
            ends += low**power * norm.cdf(low, mean, deviation)
        if np.isfinite(high):
            ends += high**power * norm.sf(high, mean, deviation)
        return inside + ends

    first, spread = clipped_normal(np.array([mean]), np.array([deviation]), low=low, high=high)
    assert first == pytest.approx(moment(1), abs=1e-8)
    assert spread == pytest.approx(moment(2) - moment(1) ** 2, abs=1e-8)


def test_a_deviation_of_zero_is_a_constant():
    first, spread = clipped_normal(np.array([-2.0, 3.0, 9.0]), np.zeros(3), low=0.0, high=6.0)
    assert first.tolist() == [0, 3, 6]
    assert np.allclose(spread, 0)


def test_the_sign_of_gamma_is_not_the_sign_of_a_deviation():
    """beta 0.3, gamma -1.2: the mean after the ReLU is 0.644; with -1.2 as sigma, -0.344."""
    first, _ = clipped_normal(np.array([0.3]), np.abs(np.array([-1.2])), low=0.0)
    assert first == pytest.approx(0.644, abs=5e-4)
    wrong = -1.2 * norm.pdf(-0.25) + 0.3 * norm.cdf(-0.25)
    assert wrong == pytest.approx(-0.344, abs=5e-4)
    with pytest.raises(ValueError, match=r"`deviation` must not be negative; got -1\.2"):
        clipped_normal(np.array([0.3]), np.array([-1.2]))


@pytest.mark.parametrize("shape", [(3, 5), (3, 3, 3, 5), (5, 3, 3, 1)])
def test_the_analytic_shift_is_the_shift_of_a_constant_input(shape):
    """An input that equals its mean everywhere, and no padding: nothing is left to chance."""
    rng = np.random.default_rng(0)
    weight, mean = rng.standard_normal(shape), rng.standard_normal(5)
    rounded, bias = np.rint(weight), rng.standard_normal(shape[0])
    made = analytic(bias, weight, rounded, mean)
    if len(shape) == 2:
        exact, quantized = mean @ weight.T + bias, mean @ rounded.T + made
    else:
        convolve = depthwise_conv2d if shape[3] == 1 else conv2d
        image = np.broadcast_to(mean, (1, 6, 6, 5))
        exact, quantized = convolve(image, weight, bias)[0], convolve(image, rounded, made)[0]
    assert np.abs(exact - quantized).max() < 1e-12


@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (3, 2)])
def test_with_padding_the_share_of_each_element_makes_the_mean_exact(stride, padding):
    rng = np.random.default_rng(1)
    weight, mean = rng.standard_normal((4, 3, 3, 2)), rng.standard_normal(2)
    rounded, bias = np.rint(weight), np.zeros(4)
    share = window_share((7, 6), (3, 3), stride=stride, padding=padding)
    made = analytic(bias, weight, rounded, mean, share=share)
    image = np.broadcast_to(mean, (1, 7, 6, 2))
    settings = {"stride": stride, "padding": padding}
    exact = conv2d(image, weight, bias, **settings)[0]
    quantized = conv2d(image, rounded, made, **settings)[0]
    assert np.abs((quantized - exact).mean((0, 1, 2))).max() < 1e-12
    assert (share == 1).all() == (padding == 0)


@given(st.integers(0, 999), st.booleans())
def test_restored_rows_have_the_moments_of_the_original_rows(seed, spread):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((4, 3, 3, 2)) + rng.standard_normal((4, 1, 1, 1))
    rounded = np.rint(weight)
    made = restore_moments(weight, rounded, spread=spread)
    assert np.allclose(made.weight, made.gain * rounded + made.offset)
    axes = (1, 2, 3)
    assert np.allclose(made.weight.mean(axes), weight.mean(axes))
    if spread and (rounded.std(axes) > 0).all():
        assert np.allclose(made.weight.std(axes), weight.std(axes))
    if not spread:
        assert (made.gain == 1).all()


def test_a_row_that_was_rounded_to_one_number_keeps_gain_one():
    made = restore_moments(np.array([[0.1, 0.2]]), np.zeros((1, 2)), spread=True)
    assert made.gain == 1
    assert np.allclose(made.weight, 0.15)


@pytest.mark.parametrize("number", [0.1, 0.3, 0.7, -1e-20])
def test_a_number_whose_mean_is_another_is_still_one_number(number):
    """0.1 + 0.1 + 0.1 is not 3 times 0.1: what is left around the mean is no spread."""
    weight = np.random.default_rng(0).standard_normal((2, 3))
    made = restore_moments(weight, np.full((2, 3), number), spread=True)
    assert (made.gain == 1).all()
    assert np.allclose(made.weight, weight.mean(1, keepdims=True), rtol=0, atol=1e-15)


def test_a_variance_far_from_zero_is_not_negative():
    """E[x^2] - E[x]^2 cancels: nothing is left but rounding errors of both signs."""
    mean = 1e5 + np.arange(1000) / 7000
    assert (clipped_normal(mean, np.full(1000, 1e-3), low=0.0, high=1e5 + 0.05)[1] >= 0).all()


def test_mistakes_are_refused():
    one = np.ones(2)
    with pytest.raises(ValueError, match="`quantized` must have shape"):
        empirical(one, np.ones((3, 2)), np.ones((4, 2)))
    with pytest.raises(ValueError, match="`bias` must have shape"):
        empirical(one, np.ones((3, 3)), np.ones((3, 3)))
    with pytest.raises(ValueError, match="`exact` must not be empty"):
        empirical(one, np.ones((0, 2)), np.ones((0, 2)))
    with pytest.raises(ValueError, match="`input_mean` must have shape"):
        analytic(one, np.ones((2, 3)), np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match="`low` must be at most `high`; got 2 and 1"):
        clipped_normal(one, one, low=2, high=1)
    with pytest.raises(ValueError, match="`quantized` must have shape"):
        restore_moments(np.ones((2, 2)), np.ones((2, 3)))


def test_outputs_that_are_not_finite_correct_nothing():
    with pytest.raises(ValueError, match="`quantized` must"):
        empirical(np.zeros(2), np.ones((3, 2)), np.full((3, 2), np.nan))


@pytest.mark.parametrize(("changed", "error", "message"), [
    ({"stride": 0}, ValueError, "`stride` must be at least 1; got 0"),
    ({"padding": -1}, ValueError, "`padding` must be at least 0; got -1"),
    ({"padding": 0.5}, TypeError, "`padding` must be an integer; got 0.5"),
    ({"kernel": (9, 3)}, ValueError, "`kernel` must fit into 8 and padding; got 9"),
    ({"kernel": (0, 3)}, ValueError, "`kernel` must be at least 1; got 0"),
    ({"image": 8}, TypeError, "`image` must be a height and a width; got 8"),
    ({"image": (8, 8, 3)}, TypeError, "`image` must be a height and a width; got (8, 8, 3)")])
def test_a_window_without_a_place_has_no_share(changed, error, message):
    with pytest.raises(error) as caught:
        window_share(**{"image": (8, 8), "kernel": (3, 3)} | changed)
    assert str(caught.value) == message


def test_a_share_of_another_window_is_refused():
    weight = np.ones((2, 3, 3, 4))
    with pytest.raises(ValueError, match=r"^`share` must broadcast to the data of shape \(3, 3\)"):
        analytic(np.zeros(2), weight, weight, np.ones(4), share=np.ones((5, 5)))
    with pytest.raises(ValueError, match=r"^`weight` must have 2 or 4 axes"):
        analytic(np.zeros(2), np.ones(2), np.ones(2), np.ones(1))


def test_a_spread_whose_square_is_zero_is_none():
    made = restore_moments(np.array([[1.0, 2.0]]), np.array([[0.0, 1e-200]]), spread=True)
    assert (made.gain == 1).all()
    assert np.isfinite(made.weight).all()
