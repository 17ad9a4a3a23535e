"""Folding: exact where the numbers are dyadic, to rounding elsewhere, wrong where it must be."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.nn._arrays import padded
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.normalization import batch_norm
from refquant.nn.operations import linear
from refquant.ptq.batchnorm_folding import channel_factors, fold, fold_forward

LAYERS = [
    (conv2d, (5, 3, 3, 4), (2, 6, 6, 4), {"stride": 2, "padding": 1}),
    (depthwise_conv2d, (4, 3, 3, 1), (2, 6, 6, 4), {"padding": 1}),
    (linear, (5, 7), (6, 7), {}),
]


def norm_of(rng, channels):
    """gamma of both signs, beta, mean, variance: what training leaves behind, and worse."""
    return (rng.standard_normal(channels), rng.standard_normal(channels),
            3 * rng.standard_normal(channels), np.exp(2 * rng.standard_normal(channels)))


@pytest.mark.parametrize(("layer", "shape", "data", "settings"), LAYERS)
@pytest.mark.parametrize("biased", [False, True])
@given(seed=st.integers(0, 999), epsilon=st.sampled_from([0.0, 1e-5, 1e-3]))
def test_the_folded_layer_is_the_layer_and_then_the_norm(
    layer, shape, data, settings, biased, seed, epsilon
):
    """Two orders of the same sums: apart by a few roundings of the largest term."""
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal(data), rng.standard_normal(shape)
    bias = rng.standard_normal(shape[0]) if biased else None
    norm = norm_of(rng, shape[0])
    between = layer(x, weight, *([bias] if biased else []), **settings)[0]
    exact = batch_norm(between, *norm, epsilon=epsilon)[0]
    folded = fold(weight, bias, *norm, epsilon=epsilon)
    factors = np.abs(channel_factors(norm[0], norm[3], epsilon=epsilon))
    size = factors * (np.abs(between) + np.abs(norm[2]) + 40) + np.abs(norm[1])
    off = np.abs(layer(x, *folded, **settings)[0] - exact)
    assert (off <= 64 * 2.0**-53 * size).all()


#: Powers of two and small whole numbers: no product and no sum of them is rounded.
POWERS = st.integers(-4, 4).map(lambda k: 2.0**k)
WHOLE = st.integers(-1000, 1000).map(float)


@given(st.lists(st.tuples(WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, WHOLE, POWERS),
                min_size=1, max_size=5))
def test_numbers_that_are_never_rounded_fold_without_any_error(rows):
    x, w, b, gamma, beta, mean, root = np.array(rows).T
    norm = gamma, beta, mean, root * root
    folded = fold(w[:, None], b, *norm, epsilon=0.0)
    exact = batch_norm((w * x + b)[None], *norm, epsilon=0.0)[0][0]
    assert np.array_equal(folded.weight[:, 0] * x + folded.bias, exact)


def test_the_published_example():
    """gamma 1.5, beta 0.2, mean 0.4, variance 0.25, epsilon 0.001, w 0.8, b 0.1."""
    args = [np.array([v]) for v in (0.1, 1.5, 0.2, 0.4, 0.25)]
    folded = fold(np.array([[0.8]]), *args, epsilon=0.001)
    assert channel_factors(args[1], args[4], epsilon=0.001).round(8) == 2.99401794
    assert folded.weight.round(8) == 2.39521435
    assert folded.bias.round(8) == -0.69820538


@given(seed=st.integers(0, 99))
def test_a_norm_that_does_nothing_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    weight, bias, one, zero = rng.standard_normal((3, 4)), rng.standard_normal(3), 1.0, 0.0
    idle = [np.full(3, v) for v in (one, zero, zero, one)]
    folded = fold(weight, bias, *idle, epsilon=0.0)
    assert np.array_equal(folded.weight, weight)
    assert np.array_equal(folded.bias, bias)


def test_a_gamma_of_zero_leaves_zeros_and_the_bias_beta():
    folded = fold(np.ones((2, 3)), None, np.zeros(2), np.array([5.0, -1.0]), np.ones(2),
                  np.ones(2))
    assert not folded.weight.any()
    assert folded.bias.tolist() == [5, -1]


@given(seed=st.integers(0, 99))
def test_a_negative_gamma_flips_the_row(seed):
    rng = np.random.default_rng(seed)
    weight, (gamma, beta, mean, variance) = rng.standard_normal((3, 4)), norm_of(rng, 3)
    there = fold(weight, None, gamma, beta, mean, variance)
    back = fold(weight, None, -gamma, -beta, mean, variance)
    assert np.array_equal(there.weight, -back.weight)
    assert np.array_equal(there.bias, -back.bias)


def test_a_variance_of_zero_is_divided_by_epsilon_alone():
    one = np.ones(1)
    assert channel_factors(one, 0 * one, epsilon=2.0**-20) == 2.0**10
    with pytest.raises(ValueError, match="positive with `epsilon` added; got 0"):
        fold(one[:, None], None, one, one, one, 0 * one, epsilon=0.0)


@given(seed=st.integers(0, 99))
def test_float32_is_float64_rounded_once(seed):
    rng = np.random.default_rng(seed)
    narrow = [v.astype(np.float32) for v in (rng.standard_normal((3, 4)), *norm_of(rng, 3))]
    wide = [v.astype(np.float64) for v in narrow]
    folded = fold(narrow[0], None, *narrow[1:])
    exact = fold(wide[0], None, *wide[1:])
    assert folded.weight.dtype == folded.bias.dtype == np.float32
    assert np.array_equal(folded.weight, exact.weight.astype(np.float32))
    assert np.array_equal(folded.bias, exact.bias.astype(np.float32))


@pytest.mark.parametrize("biased", [False, True])
@given(seed=st.integers(0, 999))
def test_a_norm_before_a_layer_folds_forward(biased, seed):
    rng = np.random.default_rng(seed)
    norm = norm_of(rng, 4)
    for layer, shape, data in [(linear, (5, 4), (6, 4)), (conv2d, (5, 3, 3, 4), (2, 6, 6, 4))]:
        x, weight = rng.standard_normal(data), rng.standard_normal(shape)
        bias = [rng.standard_normal(5)] if biased else []
        exact = layer(batch_norm(x, *norm)[0], weight, *bias)[0]
        folded = fold_forward(weight, *(bias or [None]), *norm)
        size = np.abs(weight).sum() * (1 + np.abs(batch_norm(x, *norm)[0]).max())
        assert np.abs(layer(x, *folded)[0] - exact).max() <= 64 * 2.0**-53 * size * 40


def test_folding_forward_needs_another_frame_around_the_image():
    """A frame of zeros after the norm is a frame of mean - beta / r before it."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 5, 5, 2)), rng.standard_normal((3, 3, 3, 2))
    norm = gamma, beta, mean, variance = norm_of(rng, 2)
    exact = conv2d(batch_norm(x, *norm)[0], weight, padding=1)[0]
    folded = fold_forward(weight, None, *norm)
    off = np.abs(conv2d(x, *folded, padding=1)[0] - exact)
    assert off[:, 1:-1, 1:-1].max() < 1e-12 < 0.1 < off.max()
    frame = mean - beta / channel_factors(gamma, variance, epsilon=1e-5)
    framed = padded(x, 1) + (1 - padded(np.ones((1, 5, 5, 1)), 1)) * frame
    assert np.abs(conv2d(framed, *folded)[0] - exact).max() < 1e-12


def test_shapes_that_do_not_fit_and_numbers_that_are_none_are_refused():
    one = np.ones(2)
    with pytest.raises(ValueError, match=r"`beta` must have shape \(2,\); got \(3,\)"):
        fold(np.ones((2, 3)), None, one, np.ones(3), one, one)
    with pytest.raises(ValueError, match=r"`bias` must have shape \(2,\); got \(3,\)"):
        fold(np.ones((2, 3)), np.ones(3), one, one, one, one)
    with pytest.raises(ValueError, match=r"`gamma` must have shape \(3,\); got \(2,\)"):
        fold_forward(np.ones((2, 3)), None, one, one, one, one)
    with pytest.raises(ValueError, match=r"`bias` must have shape \(2,\); got \(3,\)"):
        fold_forward(np.ones((2, 2)), np.ones(3), one, one, one, one)
    with pytest.raises(ValueError, match="`variance` must have shape"):
        channel_factors(one, np.ones(3), epsilon=0.0)
    with pytest.raises(ValueError, match="`variance` must not be negative"):
        channel_factors(one, np.array([1.0, -1e-6]), epsilon=1.0)
    with pytest.raises(ValueError, match="`gamma` must be finite; got nan"):
        channel_factors(np.array([np.nan]), np.ones(1), epsilon=0.0)
    with pytest.raises(TypeError, match="`weight` must be float32 or float64; got int"):
        fold(np.ones((2, 3), int), None, one, one, one, one)
    with pytest.raises(TypeError, match="`epsilon` must be a real number"):
        channel_factors(one, one, epsilon="1e-5")


def test_nothing_is_changed_in_place():
    rng = np.random.default_rng(0)
    arrays = rng.standard_normal((3, 4)), rng.standard_normal(3), *norm_of(rng, 3)
    copies = [a.copy() for a in arrays]
    fold(*arrays)
    for array, copy in zip(arrays, copies, strict=True):
        assert np.array_equal(array, copy)


def test_a_layer_without_outputs_passes():
    one = np.ones(3)
    for made in (fold_forward(np.ones((0, 3)), None, one, one, one, one),
                 fold(np.ones((0, 3)), None, *[np.ones(0)] * 4)):
        assert made.weight.shape == (0, 3)
        assert made.bias.shape == (0,)
