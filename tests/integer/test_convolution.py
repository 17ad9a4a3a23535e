"""Convolutions against loops over Python integers, and the fast way against the definition."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.integer.convolution import (
    Window,
    convolution,
    convolve,
    convolve_depthwise,
    convolve_transposed,
    depthwise_convolution,
    fully_connected,
    multiply_matrix,
    same,
    transposed_convolution,
    valid,
)
from refquant.integer.layers import NONE, RELU
from refquant.integer.requantize import (
    RULES,
    double_away,
    double_up,
    in_float64,
    lanes,
    reduced_16x8,
)
from refquant.quantizers.uniform import Uniform

RULES_AND_LANES = [*RULES.values(), lanes(double_up, double_away, width=2)]
seeds = st.integers(0, 2**32 - 1)


@st.composite
def problems(draw):
    """An image, the size of a kernel and a window over it."""
    height, width, kh, kw = (draw(st.integers(1, n)) for n in (7, 6, 3, 3))
    strides, dilations = ((draw(st.integers(1, 3)), draw(st.integers(1, 2))) for _ in range(2))
    image = (height + (kh - 1) * dilations[0], width + (kw - 1) * dilations[1])
    place = draw(st.sampled_from([same, valid]))
    return image, (kh, kw), place(image, (kh, kw), strides, dilations)


def by_loops(steps, weight, window, channel):
    """Sums of a convolution; `channel(o, c)` is the input channel of weight c of filter o."""
    (batch, height, width, _), (out, kh, kw, depth) = steps.shape, weight.shape
    (above, below), (left, right) = window.padding
    rows = (height + above + below - (kh - 1) * window.dilations[0] - 1) // window.strides[0] + 1
    columns = (width + left + right - (kw - 1) * window.dilations[1] - 1) // window.strides[1] + 1
    sums = np.zeros((batch, rows, columns, out), np.int64)
    for b, i, j, o in itertools.product(range(batch), range(rows), range(columns), range(out)):
        for k, m, c in itertools.product(range(kh), range(kw), range(depth)):
            y = i * window.strides[0] + k * window.dilations[0] - above
            x = j * window.strides[1] + m * window.dilations[1] - left
            if 0 <= y < height and 0 <= x < width:
                sums[b, i, j, o] += int(weight[o, k, m, c]) * int(steps[b, y, x, channel(o, c)])
    return sums


@settings(max_examples=40, deadline=None)
@given(problems(), seeds, st.integers(1, 2), st.integers(1, 2))
def test_convolution_is_the_sum_over_the_window(problem, seed, groups, multiplier):
    image, kernel, window = problem
    rng = np.random.default_rng(seed)
    steps = rng.integers(-255, 256, (2, *image, 2 * groups))
    weight = rng.integers(-127, 128, (groups * multiplier, *kernel, 2))
    expected = by_loops(steps, weight, window, lambda o, c: o // multiplier * 2 + c)
    assert (convolve(steps, weight, window) == expected).all()


@settings(max_examples=40, deadline=None)
@given(problems(), seeds, st.integers(1, 3), st.integers(1, 2))
def test_depthwise_filters_see_one_channel(problem, seed, channels, multiplier):
    image, kernel, window = problem
    rng = np.random.default_rng(seed)
    steps = rng.integers(-255, 256, (1, *image, channels))
    weight = rng.integers(-127, 128, (channels * multiplier, *kernel, 1))
    expected = by_loops(steps, weight, window, lambda o, _: o // multiplier)
    assert (convolve_depthwise(steps, weight, window) == expected).all()


@settings(max_examples=40, deadline=None)
@given(problems(), seeds)
def test_transposed_convolution_is_the_adjoint(problem, seed):
    """<convolve(x), y> = <x, transpose(y)> for all integers."""
    image, kernel, window = problem
    rng = np.random.default_rng(seed)
    x = rng.integers(-9, 10, (1, *image, 2))
    weight = rng.integers(-9, 10, (3, *kernel, 2))
    forward = convolve(x, weight, window)
    y = rng.integers(-9, 10, forward.shape)
    back = convolve_transposed(y, weight.transpose(3, 1, 2, 0), window, image)
    assert (forward * y).sum() == (x * back).sum()


@given(st.integers(1, 50), st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
def test_same_padding_gives_one_place_per_stride(n, k, s, d):
    extent = (k - 1) * d + 1
    window = same((n, n), (k, k), (s, s), (d, d))
    before, after = window.padding[0]
    assert 0 <= after - before <= 1
    assert (n + before + after - extent) // s + 1 == -(-n // s)


def uniform(scale, zero=0, low=-128, high=127):
    scale = np.asarray(scale)
    return Uniform(scale, np.full(scale.shape, zero), low, high)


@settings(max_examples=60, deadline=None)
@given(problems(), seeds, st.sampled_from(RULES_AND_LANES), st.booleans())
def test_layers_of_codes_are_sums_and_a_rule(problem, seed, rule, per_channel):
    """The fast way included: it must equal accumulate and finish bit for bit."""
    image, kernel, window = problem
    rng = np.random.default_rng(seed)
    x = uniform(0.02, int(rng.integers(-128, 128)))
    y = uniform(float(rng.uniform(0.01, 30)), int(rng.integers(-128, 128)))
    w = uniform(rng.uniform(0.001, 0.1, 6) if per_channel else 0.02)
    codes = rng.integers(-128, 128, (1, *image, 3)).astype(np.int32)
    bias = rng.integers(-3000, 3000, 6)
    activation = [NONE, RELU][seed % 2]
    weight = rng.integers(-127, 128, (6, *kernel, 3))
    layers = [
        convolution(weight, bias, x, w, y, window, activation=activation, rule=rule),
        depthwise_convolution(weight[..., :1], bias, x, w, y, window,
                              activation=activation, rule=rule),
    ]
    for layer in layers:
        sums = layer.accumulate(codes)
        expected = np.clip(rule(sums, layer.multiplier) + y.zero_point, *layer.limits)
        assert (layer(codes) == expected).all()
        assert layer(codes).dtype == np.int32
    steps = codes.astype(np.int64) - x.zero_point
    assert (layers[0].accumulate(codes) == convolve(steps, weight, window) + bias).all()


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([*RULES.values()]), st.integers(1, 300))
def test_matrix_layers_are_sums_and_a_rule(seed, rule, size):
    rng = np.random.default_rng(seed)
    x, y = uniform(0.02, int(rng.integers(-128, 128))), uniform(0.5, 3)
    weight = rng.integers(-128, 128, (5, size))
    layer = fully_connected(weight, rng.integers(-99, 99, 5), x, uniform(0.01, 4), y, rule=rule)
    codes = rng.integers(-128, 128, (3, size)).astype(np.int32)
    assert (layer(codes) == layer.finish(layer.accumulate(codes))).all()
    bare = fully_connected(weight, None, x, uniform(0.01, 4), y, rule=rule)
    steps = codes.astype(np.int64) - x.zero_point
    assert (bare.accumulate(codes) == multiply_matrix(steps, weight - 4)).all()


@pytest.mark.parametrize("rule", [double_away, in_float64, reduced_16x8])
def test_sums_of_sixteen_bit_codes_are_exact(rule):
    rng = np.random.default_rng(0)
    q = uniform(0.01, 0, -32768, 32767)
    layer = convolution(
        rng.integers(-127, 128, (4, 3, 3, 64)), np.full(4, 1000), q, uniform(0.5), q,
        same((8, 8), (3, 3)), rule=rule)
    codes = rng.integers(-32768, 32768, (1, 8, 8, 64)).astype(np.int32)
    assert (layer(codes) == layer.finish(layer.accumulate(codes))).all()


def test_transposed_layer_is_sums_and_a_rule():
    rng = np.random.default_rng(0)
    q = uniform(0.5, 3)
    weight = rng.integers(-127, 128, (2, 3, 3, 4))
    window = same((6, 6), (3, 3), (2, 2))
    layer = transposed_convolution(weight, [5, 6], q, uniform(0.01), q, window, (6, 6))
    codes = rng.integers(-128, 128, (1, 3, 3, 4))
    sums = convolve_transposed(codes - 3, weight, window, (6, 6)) + np.array([5, 6])
    assert (layer.accumulate(codes) == sums).all()
    assert (layer(codes) == np.clip(double_away(sums, layer.multiplier) + 3, -128, 127)).all()


def test_worked_example_of_all_rules():
    x, w, y = uniform(0.5, -1), uniform(0.25), uniform(0.75, 4)
    got = []
    for rule in RULES.values():
        layer = convolution([[[[2, -5]]]], [7], x, w, y, Window(), rule=rule)
        got.append(int(layer(np.array([[[[10, -3]]]])).item()) - 4)
    assert got == [7, 7, 6, 6, 7]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: convolve(np.ones((1, 4, 4, 3), int), np.ones((1, 1, 1, 2), int), Window()),
     "`weight` must divide 3 channels into groups"),
    (lambda: convolve(np.ones((1, 2, 2, 1), int), np.ones((1, 3, 3, 1), int), Window()),
     "`steps` must be as large as the kernel"),
    (lambda: convolve(np.ones((2, 2), int), np.ones((1, 3, 3, 1), int), Window()),
     "`steps` must have four axes"),
    (lambda: convolve_depthwise(np.ones((1, 4, 4, 3), int), np.ones((4, 1, 1, 1), int), Window()),
     "`weight` must have filters of one channel"),
    (lambda: convolve_transposed(np.ones((1, 4, 4, 3), int), np.ones((4, 1, 1, 1), int),
                                 Window(), (4, 4)), "`weight` must have 3 channels"),
])
def test_shapes_that_do_not_fit_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
