"""SmoothQuant: no product changes, and the gauge of the channels does not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptq._experiments import gauged, need_minilm, norm_fed_sites, per_token, smoothed_decibels

from refquant.calibration.minmax import absmax
from refquant.ptq.smoothquant import FLOOR, fold_into_rows, smooth, smoothing_scale
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

SEEDS = st.integers(0, 2**32 - 1)
ALPHAS = st.floats(0, 1)


def layer(seed, tokens=30, n=8, out=6):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((tokens, n)) * rng.lognormal(0, 2, n), rng.standard_normal((out, n))


def scale_of(x, w, alpha):
    return smoothing_scale(np.abs(x).max(0), np.abs(w).max(0), alpha=alpha)


@given(SEEDS, ALPHAS)
@settings(max_examples=40)
def test_no_product_changes(seed, alpha):
    x, w = layer(seed)
    s = scale_of(x, w, alpha)
    assert np.allclose((x / s) @ smooth(w, s).T, x @ w.T)


@given(SEEDS, ALPHAS, st.floats(0.1, 3))
@settings(max_examples=40)
def test_the_smoothed_pair_does_not_know_how_the_channels_were_scaled_before(seed, alpha, spread):
    x, w = layer(seed)
    g = np.random.default_rng(seed).lognormal(0, spread, 8)
    s, other = scale_of(x, w, alpha), scale_of(x * g, w / g, alpha)
    assert np.allclose(x / s, x * g / other)
    assert np.allclose(smooth(w, s), smooth(w / g, other))


@given(SEEDS)
def test_at_one_half_both_sides_get_the_geometric_mean(seed):
    x, w = layer(seed)
    a, b = np.abs(x).max(0), np.abs(w).max(0)
    s = scale_of(x, w, 0.5)
    assert np.allclose(np.abs(x / s).max(0), np.sqrt(a * b))
    assert np.allclose(np.abs(smooth(w, s)).max(0), np.sqrt(a * b))


@given(SEEDS)
def test_the_ends_flatten_one_side_each(seed):
    x, w = layer(seed)
    assert np.allclose(np.abs(x / scale_of(x, w, 1.0)).max(0), 1)
    assert np.allclose(np.abs(smooth(w, scale_of(x, w, 0.0))).max(0), 1)


def test_silent_channels_and_empty_columns_stay_finite():
    zero = np.zeros(3)
    for alpha in (0.0, 0.5, 1.0):
        for a, b in ((zero, np.ones(3)), (np.ones(3), zero), (zero, zero)):
            s = smoothing_scale(a, b, alpha=alpha)
            assert np.isfinite(s).all()
            assert (s >= FLOOR).all()


@given(SEEDS)
@settings(max_examples=20)
def test_the_division_folds_into_the_layer_before_through_a_relu(seed):
    x, w = layer(seed)
    rng = np.random.default_rng(seed)
    before, bias = rng.standard_normal((8, 5)), rng.standard_normal(8)
    z = rng.standard_normal((20, 5))
    s = scale_of(x, w, 0.5)
    hidden = np.maximum(z @ before.T + bias, 0)
    folded = np.maximum(z @ fold_into_rows(before, s).T + fold_into_rows(bias, s), 0)
    assert np.allclose(folded @ smooth(w, s).T, hidden @ w.T)


def test_outliers_cost_less_after_smoothing():
    """One channel of a hundredfold size; both sides at 8 bits per tensor."""
    x, w = layer(0, tokens=200, n=64, out=32)
    x = x / np.abs(x).max(0)
    x[:, 5] *= 100
    s = scale_of(x, w, 0.5)

    def error(x, w):
        q = [fake_quantize(v, symmetric(absmax(v, axis=None), bits=8)) for v in (x, w)]
        return np.mean((q[0] @ q[1].T - exact) ** 2)

    exact = x @ w.T
    assert error(x / s, smooth(w, s)) < error(x, w) / 10


def test_dtypes_are_kept_and_arguments_unchanged():
    w = np.ones((2, 3), np.float32)
    s = np.array([1.0, 2.0, 4.0])
    assert smooth(w, s).dtype == np.float32
    assert fold_into_rows(np.ones((3, 2), np.float32), s).dtype == np.float32
    assert (w == 1).all()


def test_bad_input_is_refused():
    one = np.ones(3)
    with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\]; got 1.5"):
        smoothing_scale(one, one, alpha=1.5)
    with pytest.raises(ValueError, match="`inputs` must hold magnitudes, at least 0; got -1"):
        smoothing_scale(-one, one)
    with pytest.raises(ValueError, match="`weights` must be finite"):
        smoothing_scale(one, np.nan * one)
    with pytest.raises(ValueError, match=r"`weights` must have shape \(3,\); got \(2,\)"):
        smoothing_scale(one, np.ones(2))
    with pytest.raises(ValueError, match=r"`scale` must have shape \(3,\); got \(2,\)"):
        smooth(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match=r"`scale` must have shape \(2,\); got \(3,\)"):
        fold_into_rows(np.ones((2, 3)), one)


@pytest.mark.peer
@pytest.mark.slow
def test_on_a_transformer_quality_over_strength_is_an_upside_down_u():
    """A16. MiniLM, W8A8 per tensor, mean of twelve sites: 26.8 dB without, 31.3 dB at one half."""
    need_minilm()
    sites = norm_fed_sites()
    none = np.mean([smoothed_decibels(site, None) for site in sites])
    curve = {alpha: np.mean([smoothed_decibels(site, alpha) for site in sites])
             for alpha in (0.0, 0.25, 0.5, 0.75, 1.0)}
    assert curve[0.5] > none + 3
    assert curve[0.0] < curve[0.25] < curve[0.5] > curve[0.75] > curve[1.0]


@pytest.mark.peer
@pytest.mark.slow
def test_however_large_its_outliers_a_transformer_is_smoothed_to_the_same():
    """A16. MiniLM, four channels 1 to 100 times as large: 24 to 6 dB, smoothed 33 dB always."""
    need_minilm()
    made = {}
    for factor in (1.0, 10.0, 100.0):
        rng = np.random.default_rng(0)
        sites = [gauged(site, factor, rng=rng) for site in norm_fed_sites()[1::2]]
        made[factor] = [np.mean([smoothed_decibels(site, alpha, weights=per_token)
                                 for site in sites]) for alpha in (None, 0.5)]
    assert made[100.0][0] < 10
    assert all(abs(smoothed - made[1.0][1]) < 0.5 for _, smoothed in made.values())
    assert made[100.0][1] >= 30


def test_scales_have_a_floor_and_a_column_of_zeros_has_none():
    assert smoothing_scale(np.ones(1), np.full(1, 1e8), alpha=0.0) == 1e-5
    assert smoothing_scale(np.full(1, 4.0), np.zeros(1)) == 1
    assert smoothing_scale(np.zeros(1), np.full(1, 4.0)) == 1


def test_what_would_lose_fractions_or_divide_by_nothing_is_refused():
    whole, ones = np.ones((4, 4), int), np.ones(4)
    for fold in (smooth, fold_into_rows):
        with pytest.raises(TypeError, match="must be float32 or float64; got int64"):
            fold(whole, 0.5 * ones)
        for scale in (0.0, np.nan, np.inf, -1.0):
            with pytest.raises(ValueError, match="`scale` must be positive and finite"):
                fold(np.ones((4, 4)), scale * ones)
