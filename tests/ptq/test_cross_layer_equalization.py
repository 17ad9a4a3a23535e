"""Equalization: the same function, equal ranges, and one answer from every starting point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn._arrays import padded
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.operations import linear, relu
from refquant.ptq.cross_layer_equalization import (
    absorb_bias,
    equalize_chain,
    equalize_pair,
    triple_scales,
)


def pair(rng, channels=5):
    return (rng.standard_normal((channels, 4)) * np.exp(rng.standard_normal((channels, 1))),
            rng.standard_normal(channels), rng.standard_normal((3, channels)))


@given(st.integers(0, 9999))
def test_a_pair_computes_what_it_did_and_its_ranges_meet_in_the_geometric_mean(seed):
    rng = np.random.default_rng(seed)
    first, bias, second = pair(rng)
    made = equalize_pair(first, bias, second)
    x = rng.standard_normal((7, 4))

    def run(w1, b1, w2):
        return linear(relu(linear(x, w1, b1)[0])[0], w2)[0]

    old = run(first, bias, second)
    assert np.allclose(run(*made[:3]), old, rtol=0, atol=1e-12 * np.abs(old).max())
    r1, r2 = np.abs(made.first).max(1), np.abs(made.second).max(0)
    expected = np.sqrt(np.abs(first).max(1) * np.abs(second).max(0))
    assert np.allclose(r1, expected, rtol=1e-12)
    assert np.allclose(r2, expected, rtol=1e-12)


@given(st.integers(0, 999))
def test_powers_of_four_move_without_any_rounding(seed):
    rng = np.random.default_rng(seed)
    powers = 4.0 ** rng.integers(-3, 4, 5)
    first, second = powers[:, None] * np.ones((5, 2)), np.ones((3, 5))
    made = equalize_pair(first, powers, second)
    assert np.array_equal(made.scale, np.sqrt(powers))
    assert np.array_equal(made.first * made.scale[:, None], first)
    assert np.array_equal(made.second / made.scale, second)


@given(st.integers(0, 999))
def test_equalizing_twice_is_equalizing_once(seed):
    made = equalize_pair(*pair(np.random.default_rng(seed)))
    assert np.allclose(equalize_pair(*made[:3]).scale, 1, atol=1e-12)


def test_a_dead_channel_keeps_its_scale():
    first, bias, second = pair(np.random.default_rng(0))
    first[1], second[:, 2] = 0, 0
    made = equalize_pair(first, bias, second)
    assert made.scale[1] == made.scale[2] == 1
    assert np.array_equal(made.second[:, 1], second[:, 1])


def test_the_optimum_of_the_paper_is_not_beaten_by_random_scales():
    """It maximizes the sum over channels of the products of relative ranges."""
    rng = np.random.default_rng(0)
    first, bias, second = pair(rng)
    made = equalize_pair(first, bias, second)

    def precision(scale):
        r1, r2 = np.abs(first).max(1) / scale, np.abs(second).max(0) * scale
        return (r1 / r1.max() * r2 / r2.max()).sum()

    best = precision(made.scale)
    assert all(precision(made.scale * np.exp(0.3 * rng.standard_normal(5))) <= best + 1e-12
               for _ in range(2000))


def triple(rng, channels=4):
    spread = np.exp(rng.standard_normal((channels, 1, 1, 1)))
    return (rng.standard_normal((channels, 3, 3, 2)) * spread,
            rng.standard_normal((channels, 3, 3, 1)), rng.standard_normal((5, 1, 1, channels)))


@given(st.integers(0, 999))
def test_a_depthwise_triple_has_one_range_and_is_the_limit_of_its_pairs(seed):
    rng = np.random.default_rng(seed)
    first, middle, last = triple(rng)
    before, after = (s.reshape(-1, 1, 1, 1) for s in triple_scales(first, middle, last))
    even = first / before, middle * before / after, last * after.ravel()
    ranges = [np.abs(even[0]).max((1, 2, 3)), np.abs(even[1]).max((1, 2, 3)),
              np.abs(even[2]).max((0, 1, 2))]
    assert np.allclose(ranges[0], ranges[1])
    assert np.allclose(ranges[1], ranges[2])
    zeros = [np.zeros(len(w)) for w in (first, middle, last)]
    chain = equalize_chain((first, middle, last), zeros, tolerance=1e-13, most=200)
    assert chain.converged
    for closed, iterated in zip(even, chain.weights, strict=True):
        assert np.allclose(closed, iterated, rtol=1e-10)


@given(st.integers(0, 99), st.floats(0.1, 2.0))
def test_every_gauge_of_a_network_has_the_same_equalized_form(seed, spread):
    """Whatever positive factors were moved about before: canonical, the strongest test."""
    rng = np.random.default_rng(seed)
    weights = [*triple(rng), rng.standard_normal((3, 5))]
    biases = [rng.standard_normal(len(w)) for w in weights]
    moved, moved_biases = list(weights), list(biases)
    for i in range(3):
        gauge = np.exp(spread * rng.standard_normal(len(weights[i])))
        rows = gauge.reshape(-1, *(1,) * (moved[i].ndim - 1))
        moved[i], moved_biases[i] = moved[i] * rows, moved_biases[i] * gauge
        depthwise = moved[i + 1].shape[-1] == 1
        moved[i + 1] = moved[i + 1] / (gauge.reshape(-1, 1, 1, 1) if depthwise else gauge)
    one = equalize_chain(weights, biases, tolerance=1e-13, most=500)
    two = equalize_chain(moved, moved_biases, tolerance=1e-13, most=500)
    assert one.converged
    assert two.converged
    for a, b in zip([*one.weights, *one.biases], [*two.weights, *two.biases], strict=True):
        assert np.allclose(a, b, rtol=1e-9, atol=1e-11)


def test_a_chain_with_a_depthwise_layer_computes_what_it_did():
    rng = np.random.default_rng(0)
    weights = list(triple(rng))
    biases = [rng.standard_normal(len(w)) for w in weights]
    x = rng.standard_normal((2, 6, 6, 2))

    def run(w, b):
        h = relu(conv2d(x, w[0], b[0], padding=1)[0])[0]
        h = relu(depthwise_conv2d(h, w[1], b[1], padding=1)[0])[0]
        return conv2d(h, w[2], b[2])[0]

    made = equalize_chain(weights, biases)
    assert np.allclose(run(made.weights, made.biases), run(weights, biases), atol=1e-11)
    shrunk = relu(conv2d(x, made.weights[0], made.biases[0], padding=1)[0])[0]
    old = relu(conv2d(x, weights[0], biases[0], padding=1)[0])[0]
    assert np.allclose(shrunk * made.scales[0], old)


def test_a_chain_that_may_not_sweep_on_says_so():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal((4, 4)) * 10.0**i for i in range(5)]
    chain = equalize_chain(weights, [np.zeros(4)] * 5, tolerance=1e-12, most=2)
    assert (chain.sweeps, chain.converged) == (2, False)


def test_a_chain_in_which_nothing_moves_has_converged_at_any_tolerance():
    """Powers of four: the second sweep multiplies by 1 and nothing else."""
    chain = equalize_chain([16 * np.eye(2), np.eye(2)], [np.zeros(2)] * 2, tolerance=0)
    assert (chain.sweeps, chain.converged) == (2, True)


def test_relu6_minds_a_factor_unless_its_six_is_divided_too():
    rng = np.random.default_rng(0)
    first, bias, second = pair(rng)
    made = equalize_pair(first, bias, second)
    x = 3 * rng.standard_normal((50, 4))

    def run(w1, b1, w2, cap):
        return np.clip(x @ w1.T + b1, 0, cap) @ w2.T

    old = run(first, bias, second, 6.0)
    assert np.abs(run(*made[:3], 6.0) - old).max() > 0.1
    assert np.allclose(run(*made[:3], 6.0 / made.scale), old)


def channel_case(rng, depthwise):
    """Values before the ReLU that stay well above zero."""
    mean, deviation = np.array([10.0, 2.0, 5.0]), np.array([1.0, 1.0, -0.5])
    x = mean + 0.9 * np.abs(deviation) * rng.uniform(-3, 3, (2, 6, 6, 3))
    return mean, deviation, x, rng.standard_normal((3, 3, 3, 1) if depthwise else (4, 3, 3, 3))


@pytest.mark.parametrize("depthwise", [False, True])
def test_absorption_is_exact_while_values_stay_above_the_shift(depthwise):
    rng = np.random.default_rng(0)
    mean, deviation, x, second = channel_case(rng, depthwise)
    convolve = depthwise_conv2d if depthwise else conv2d
    bias = rng.standard_normal(len(second))
    made = absorb_bias(np.zeros(3), second, bias, mean, deviation)
    assert made.shift.tolist() == [7, 0, 3.5]
    assert np.array_equal(made.first, -made.shift)
    old = convolve(relu(x)[0], second, bias)[0]
    assert np.allclose(convolve(relu(x + made.first)[0], second, made.second)[0], old)


def test_absorption_needs_another_padding():
    """With a frame of zeros the borders are wrong; with a frame of -c they are not."""
    rng = np.random.default_rng(0)
    mean, deviation, x, second = channel_case(rng, False)
    made = absorb_bias(np.zeros(3), second, np.zeros(4), mean, deviation)
    old = conv2d(x, second, np.zeros(4), padding=1)[0]
    moved = x - made.shift
    off = np.abs(conv2d(moved, second, made.second, padding=1)[0] - old)
    assert off[:, 1:-1, 1:-1].max() < 1e-12 < 1 < off.max()
    frame = (1 - padded(np.ones((2, 6, 6, 1)), 1)) * -made.shift
    assert np.abs(conv2d(padded(moved, 1) + frame, second, made.second)[0] - old).max() < 1e-12


def test_nothing_is_absorbed_from_channels_that_reach_zero():
    made = absorb_bias(np.ones(2), np.ones((1, 2)), np.zeros(1), np.array([2.9, -5.0]), np.ones(2))
    assert not made.shift.any()
    assert np.array_equal(made.first, np.ones(2))


def test_shapes_that_do_not_belong_together_are_refused():
    first, bias, second = pair(np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"`second` must read 5 channels; got shape \(3, 4\)"):
        equalize_pair(first, bias, second[:, :4])
    for shape in ((5,), (5, 3, 3, 2)):              # no layer; grouped, but not depthwise
        with pytest.raises(ValueError, match="`second` must read 5 channels"):
            equalize_pair(first, bias, np.ones(shape))
    with pytest.raises(ValueError, match="`bias` must have shape"):
        equalize_pair(first, bias[:2], second)
    with pytest.raises(ValueError, match="`first` must be finite"):
        equalize_pair(first * np.inf, bias, second)
    with pytest.raises(ValueError, match="two or more, with a bias each; got 1 and 1"):
        equalize_chain([first], [bias])
    with pytest.raises(ValueError, match="`middle` must have shape"):
        triple_scales(first, np.ones((4, 3, 3, 1)), second)
    with pytest.raises(ValueError, match="`mean` must have shape"):
        absorb_bias(bias, second, np.zeros(3), np.zeros(2), np.zeros(5))


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_a_triple_that_is_dead_anywhere_is_left_alone(dead):
    weights = [np.full((2, 3), 8.0), np.ones((2, 3, 3, 1)), np.full((4, 2), 0.5)]
    weights[dead][(..., 1) if dead == 2 else 1] = 0
    before, after = triple_scales(*weights)
    assert before[1] == after[1] == 1
    assert before[0] > 1


def test_a_chain_goes_on_as_long_as_any_of_its_pairs_moves():
    """The last pair agrees already when the first has moved; whether that was all, a sweep says."""
    eye, zeros = np.eye(2), [np.zeros(2)] * 3
    made = equalize_chain([16 * eye, eye, 4 * eye], zeros)
    assert made.sweeps == 2
    assert made.converged
    assert not equalize_chain([16 * eye, eye, 4 * eye], zeros, most=1).converged


def test_channels_without_weights_keep_their_scale():
    weight, ones = np.ones((3, 4)), np.ones(4)
    assert np.array_equal(equalize_pair(np.ones((4, 0)), ones, weight).scale, ones)
    assert np.array_equal(equalize_pair(weight.T, ones, np.ones((0, 4))).first, weight.T)


def test_layers_without_weights_or_outputs_pass():
    first, last = np.ones((4, 0)), np.ones((3, 4))
    before, after = triple_scales(first, np.ones((4, 1, 1, 1)), last)
    assert (before == 1).all()
    assert (after == 1).all()
    ones = np.ones(4)
    made = absorb_bias(9 * ones, np.ones((0, 4)), np.ones(0), 9 * ones, ones)
    assert made.second.shape == (0,)
