"""AWQ: scaling preserves products, the search never loses, the clip is per group."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq._experiments import by_awq, minilm_weights, nearest, need_minilm, text_bits

from refquant.apply.layerwise import parallel
from refquant.calibration.minmax import absmax
from refquant.calibration.second_moment import SecondMoment, output_error
from refquant.calibration.statistics import Range
from refquant.granularity import group, ungroup
from refquant.ptq.awq import Scaled, activation_scale, clip_groups, search_scale
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, symmetric

SEEDS = st.integers(0, 2**32 - 1)


def grouped(blocks, bits=3):
    low, high = Range.of(blocks, axis=-1)
    return fake_quantize(blocks, asymmetric(np.minimum(low, 0), np.maximum(high, 0), bits=bits))


def round_trip(w, size=8):
    return ungroup(grouped(group(w, size)))


def layer(seed, tokens=100, n=16, out=6):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, n)) * rng.lognormal(0, 1, n)
    return x, rng.standard_normal((out, n))


@given(SEEDS, st.floats(0, 1))
@settings(max_examples=40)
def test_scaling_changes_no_product_and_is_centred(seed, power):
    x, w = layer(seed)
    s = activation_scale(np.abs(x).mean(0), power)
    assert np.allclose((x / s) @ (w * s).T, x @ w.T)
    assert np.isclose(s.max() * s.min(), 1)


def test_a_power_of_zero_is_no_scaling_and_dead_channels_take_no_part():
    a = np.array([4.0, 0.0, 1.0])
    assert activation_scale(a, 0.0).tolist() == [1, 1, 1]
    assert np.allclose(activation_scale(a, 1.0), [2, 1, 0.5])
    assert activation_scale(np.zeros(3), 0.7).tolist() == [1, 1, 1]


@given(SEEDS)
@settings(max_examples=15)
def test_the_search_finds_the_least_loss_which_is_that_of_the_outputs(seed):
    x, w = layer(seed)
    a = np.abs(x).mean(0)
    r = search_scale([w], SecondMoment.of(x).hessian, a, round_trip)
    assert isinstance(r, Scaled)
    for k in (0, 7, 19):
        s = activation_scale(a, k / 20)
        out = x @ (w - round_trip(w * s) / s).T
        assert np.isclose(r.losses[k], (out**2).sum(1).mean())
    assert r.losses[round(20 * r.power)] == r.losses.min() <= r.losses[0]
    assert np.allclose(r.scale, activation_scale(a, r.power))


def test_layers_that_share_an_input_are_judged_together():
    x, w = layer(0)
    h, a = SecondMoment.of(x).hessian, np.abs(x).mean(0)
    parts = [search_scale([v], h, a, round_trip).losses for v in (w[:2], w[2:])]
    assert np.allclose(search_scale([w[:2], w[2:]], h, a, round_trip).losses, sum(parts))


def test_large_activations_are_what_the_scale_protects():
    """On the mean over problems the outputs are closer than with nearest rounding."""
    ratios = []
    for seed in range(20):
        x, w = layer(seed, tokens=300, n=64, out=32)
        r = search_scale([w], SecondMoment.of(x).hessian, np.abs(x).mean(0), round_trip)
        ratios.append(r.losses.min() / r.losses[0])
    assert np.mean(ratios) < 0.8


def test_clipping_finds_the_best_of_its_candidates_in_each_group():
    x, w = layer(3, n=8, out=3)
    h = SecondMoment.of(x).hessian
    clipped = clip_groups(w, h, partial(grouped, bits=2), group_size=4)
    for o in range(3):
        for g in (slice(0, 4), slice(4, 8)):
            losses = []
            for k in range(10):
                bound = np.abs(w[o, g]).max() * (1 - k / 20)
                c = np.clip(w[[o], g], -bound, bound)
                losses.append(output_error(w[[o], g] - grouped(c, bits=2), h[g, g]))
            bound = np.abs(w[o, g]).max() * (1 - int(np.argmin(losses)) / 20)
            assert np.allclose(clipped[o, g], np.clip(w[o, g], -bound, bound))


def test_clipping_never_costs_a_group_more_than_leaving_it():
    x, w = layer(5)
    h = SecondMoment.of(x).hessian * np.kron(np.eye(2), np.ones((8, 8)))    # groups apart
    clipped = clip_groups(w, h, grouped, group_size=8)
    assert output_error(w - round_trip(clipped), h) <= output_error(w - round_trip(w), h)
    assert np.abs(clipped).max() <= np.abs(w).max()


def test_the_clip_is_not_rounded_yet_and_keeps_the_dtype():
    x, w = layer(1)
    h = SecondMoment.of(x).hessian
    clipped = clip_groups(w.astype(np.float32), h, grouped, group_size=8)
    assert clipped.dtype == np.float32
    assert len(np.unique(clipped)) > 40


def test_bad_input_is_refused():
    x, w = layer(0)
    h, a = SecondMoment.of(x).hessian, np.abs(x).mean(0)
    with pytest.raises(ValueError, match=r"must divide"):
        clip_groups(w, h, grouped, group_size=5)
    with pytest.raises(ValueError, match="`activation` must hold magnitudes"):
        search_scale([w], h, -a, round_trip)
    with pytest.raises(ValueError, match="`activation` must be finite"):
        search_scale([w], h, a * np.nan, round_trip)
    with pytest.raises(ValueError, match=r"`activation` must have shape \(16,\)"):
        search_scale([w], h, a[:-1], round_trip)
    with pytest.raises(ValueError, match="`round_trip` must return numbers; got NaN"):
        search_scale([w], h, a, lambda w: w * np.nan)
    with pytest.raises(ValueError, match=r"`shrink` must lie in \(0, 1\]; got 2"):
        clip_groups(w, h, grouped, group_size=8, shrink=2)
    with pytest.raises(ValueError, match=r"`hessian` must have shape \(16, 16\)"):
        clip_groups(w, h[:3, :3], grouped, group_size=8)


def test_a_symmetric_fit_serves_as_well():
    x, w = layer(2)

    def trip(v):
        return ungroup(fake_quantize(group(v, 4), symmetric(absmax(group(v, 4), axis=-1), bits=3)))

    r = search_scale([w], SecondMoment.of(x).hessian, np.abs(x).mean(0), trip)
    assert r.losses.min() <= r.losses[0]


@pytest.mark.parametrize(("bits", "gain"), [(3, 0.05), (2, 0.4)])
def test_on_text_scale_and_clip_are_better_than_nearest_rounding_in_the_same_groups(bits, gain):
    """A14. 3 bits: 2.468 -> 2.400 bits per character; 2 bits: 3.325 -> 2.732."""
    assert (text_bits(by_awq, loop=parallel, bits=bits, size=32)
            < text_bits(nearest, bits=bits, size=32) - gain)


@pytest.mark.peer
@pytest.mark.slow
def test_on_a_transformer_scale_and_clip_are_better_than_nearest_rounding():
    """A14. MiniLM, 3 bits, groups of 64, cosine of embeddings: 0.843 -> 0.917."""
    need_minilm()
    assert (minilm_weights(by_awq, parallel, bits=3, size=64).cosine
            > minilm_weights(nearest, parallel, bits=3, size=64).cosine + 0.05)


def test_each_group_is_clipped_at_ten_bounds_from_the_whole_to_11_twentieths():
    bounds = []

    def trip(v):
        bounds.append(np.abs(v).max())
        return v

    clip_groups(np.array([[-2.0, 1.0]]), np.eye(2), trip, group_size=2)
    assert np.allclose(bounds, 2 * (1 - np.arange(10) / 20))


def test_where_no_input_comes_nothing_is_clipped():
    w = np.random.default_rng(0).standard_normal((3, 4))
    assert np.array_equal(clip_groups(w, np.zeros((4, 4)), np.rint, group_size=2), w)


def test_a_power_of_an_activation_is_at_least_a_ten_thousandth():
    assert np.allclose(activation_scale(np.array([1.0, 1e-6]), 1.0), [100, 0.01])


def test_whole_numbers_and_nan_are_refused_rather_than_clipped():
    weight, hessian = np.ones((2, 4)), np.eye(4)
    with pytest.raises(TypeError, match="`weight` must be float32"):
        clip_groups(weight.astype(int), hessian, np.rint, group_size=2)
    for bad in (np.nan * weight, weight[0]):
        with pytest.raises(ValueError, match="`weight` must"):
            clip_groups(bad, hessian, np.rint, group_size=2)
    with pytest.raises(ValueError, match="`hessian` must"):
        search_scale([weight], np.nan * hessian, np.ones(4), np.rint)


def test_a_round_trip_that_returns_something_else_is_refused():
    """One row for all would broadcast, and NaN would leave every group as it is."""
    weight, hessian, ones = np.ones((2, 4)), np.eye(4), np.ones(4)
    for wrong in (lambda w: None, lambda w: w[:1]):
        with pytest.raises(ValueError, match=r"^`round_trip` must have shape"):
            search_scale([weight], hessian, ones, wrong)
        with pytest.raises(ValueError, match=r"^`round_trip` must have shape"):
            clip_groups(weight, hessian, wrong, group_size=2)
    for search in (lambda f: search_scale([weight], hessian, ones, f),
                   lambda f: clip_groups(weight, hessian, f, group_size=2)):
        with pytest.raises(ValueError, match=r"^`round_trip` must return numbers; got NaN"):
            search(lambda w: np.nan * w)
    with pytest.raises(ValueError, match=r"^`weights` must hold at least one layer; got none"):
        search_scale([], hessian, ones, np.rint)
