"""Metrics: exact sums in fractions, identities between them, and what theory predicts."""

import math
from fractions import Fraction

import numpy as np
import pytest
from _oracles.memory import peak_over_arrays
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.metrics import (
    ErrorParts,
    cosine,
    error_parts,
    kl_divergence,
    max_error,
    mse,
    predicted_mse,
    predicted_sqnr,
    sqnr,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric

pairs = hnp.array_shapes(min_dims=0, max_dims=3, max_side=5).flatmap(
    lambda shape: st.tuples(*[
        hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32))] * 2)
)
METRICS = [mse, sqnr, max_error, cosine]


@given(pair=pairs)
def test_mean_square_and_maximum_are_those_of_fractions(pair):
    errors = [Fraction(float(a)) - Fraction(float(b)) for a, b in zip(*map(np.ravel, pair))]  # noqa: B905
    assert mse(*pair) == pytest.approx(float(sum(e * e for e in errors) / len(errors)), rel=1e-12)
    assert max_error(*pair) == pytest.approx(float(max(map(abs, errors))), rel=1e-15)


@given(pair=pairs)
def test_layout_and_dtype_do_not_matter(pair):
    for metric in METRICS:
        value = metric(*pair)
        again = metric(*[np.asfortranarray(a.astype(np.float64)) for a in pair])
        assert value == pytest.approx(again, rel=1e-12, nan_ok=True)


@given(pair=pairs, power=st.integers(-20, 20))
def test_a_common_factor_scales_the_errors_and_not_the_ratios(pair, power):
    scaled = [a.astype(np.float64) * 2.0**power for a in pair]
    assert mse(*scaled) == mse(*pair) * 4.0**power
    assert max_error(*scaled) == max_error(*pair) * 2.0**power
    assert sqnr(*scaled) == pytest.approx(sqnr(*pair), abs=1e-9, nan_ok=True)
    assert cosine(*scaled) == pytest.approx(cosine(*pair), abs=1e-12, nan_ok=True)


@given(pair=pairs)
def test_mean_square_is_bounded_by_the_maximum(pair):
    assert mse(*pair) <= max_error(*pair) ** 2 * (1 + 1e-12)


def test_sums_over_several_pieces_are_those_of_the_whole():
    x = np.random.default_rng(0).normal(size=(3, 100_000)).astype(np.float32)
    noisy = x + np.float32(0.1)
    error = x.astype(np.float64) - noisy
    assert mse(x, noisy) == pytest.approx(np.mean(error**2), rel=1e-12)
    assert max_error(x, noisy) == np.max(np.abs(error))
    signal = np.mean(x.astype(np.float64) ** 2)
    assert sqnr(x, noisy) == pytest.approx(10 * np.log10(signal / np.mean(error**2)), abs=1e-9)
    assert cosine(x, noisy) == pytest.approx(
        np.vdot(x.astype(float), noisy.astype(float))
        / np.linalg.norm(x.astype(float)) / np.linalg.norm(noisy.astype(float)), rel=1e-12)


def test_float32_sums_do_not_lose_small_terms():
    x = np.zeros(2**20, np.float32)
    x_hat = np.full(2**20, 1e-4, np.float32)
    x_hat[0] = 1e3
    exact = (1e6 + (2**20 - 1) * float(np.float32(1e-4)) ** 2) / 2**20
    assert mse(x, x_hat) == pytest.approx(exact, rel=1e-14)


def test_sqnr_at_its_ends():
    one, zero = np.ones(3), np.zeros(3)
    assert sqnr(one, one) == math.inf
    assert sqnr(zero, one) == -math.inf
    assert math.isnan(sqnr(zero, zero))
    assert math.isnan(cosine(zero, one))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_goes_through(bad):
    x, y = np.array([1.0, bad]), np.array([1.0, bad])
    assert not np.isfinite(mse(x, y))
    assert not np.isfinite(max_error(x, y))
    assert not np.isfinite(sqnr(x, y))
    assert not np.isfinite(cosine(x, y))
    assert mse(np.array([1e300]), np.array([-1e300])) == math.inf


@given(pair=pairs)
def test_cosine_tells_the_sqnr_where_the_error_is_orthogonal(pair):
    x, direction = (a.astype(np.float64).ravel() for a in pair)
    if direction @ direction < 1e-3 or abs(x @ direction) < 1e-3:
        return
    x_hat = direction * (x @ direction) / (direction @ direction)       # least squares
    noise_share = mse(x, x_hat) / np.mean(x**2)
    assert cosine(x, x_hat) ** 2 == pytest.approx(1 - noise_share, abs=1e-9)


@given(pair=pairs, ends=st.tuples(st.floats(-50, 50), st.floats(-50, 50)))
def test_parts_of_the_error_add_up(pair, ends):
    x, x_hat = pair
    parts = error_parts(x, x_hat, np.array(min(ends)), np.array(max(ends)))
    assert isinstance(parts, ErrorParts)
    assert parts.rounding + parts.clipping == pytest.approx(mse(x, x_hat), rel=1e-12)
    wide = x.astype(np.float64)
    assert parts.clipped == np.mean((wide < min(ends)) | (wide > max(ends)))


def test_parts_of_the_error_take_a_range_for_each_channel():
    x = np.array([[0.2, 2.0], [0.2, 2.0]])
    parts = error_parts(x, np.zeros((2, 2)), np.zeros((2, 1)), np.array([[1.0], [3.0]]))
    assert parts == ErrorParts(rounding=(0.04 + 0.04 + 4) / 4, clipping=1.0, clipped=0.25)


def test_predicted_mse_averages_the_squares_of_the_steps():
    assert predicted_mse([1.0, 3.0]) == pytest.approx(5 / 12, rel=1e-15)


def test_golden_M1_sine():
    constant = predicted_sqnr(0, load_factor=2**0.5)
    slope = predicted_sqnr(9) - predicted_sqnr(8)
    assert [constant, slope] == pytest.approx([1.7609125905568124, 6.020599913279624], abs=1e-12)


def test_golden_M2_four_sigma():
    assert predicted_sqnr(0, load_factor=4) == pytest.approx(-7.269987279362624, abs=1e-12)


def test_evenly_spread_values_meet_the_prediction():
    x = (np.arange(2**16) + 0.5) / 2**16
    for bits in (2, 4, 8):
        q = asymmetric(np.array(0.0), np.array(1.0), bits=bits)
        # The levels are 2**b - 1 steps apart and the range of the theory is 2**b of them.
        spread = x * float(q.scale) * 2**bits - float(q.scale) / 2
        noise = mse(spread, fake_quantize(spread, q))
        assert noise == pytest.approx(predicted_mse(q.scale), rel=1e-3)
        centred = spread - spread.mean()
        predicted = predicted_sqnr(bits)
        assert 10 * np.log10(np.mean(centred**2) / noise) == pytest.approx(predicted, abs=0.01)


counts = hnp.arrays(np.float64, 6, elements=st.integers(0, 100)).filter(lambda a: a.sum() > 0)


@given(p=counts, q=counts, factor=st.integers(1, 1000))
def test_kl_is_nonnegative_and_blind_to_the_number_of_samples(p, q, factor):
    value = kl_divergence(p, q)
    assert value >= -1e-12
    assert kl_divergence(p * factor, q) == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert kl_divergence(p, p) == 0
    assert (value == math.inf) == bool(((p > 0) & (q == 0)).any())


def test_kl_of_integers_is_natural():
    assert kl_divergence([1, 1], [3, 1]) == pytest.approx(math.log(2) - math.log(3) / 2, rel=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *[
            (lambda m=m: m(np.ones(2), np.ones(3)), r"`x_hat` must have the shape of `x`, \(2,\);")
            for m in METRICS
        ],
        *[(lambda m=m: m([], []), "`x` must not be empty") for m in METRICS],
        (lambda: kl_divergence([1, -1], [1, 1]), "`p` must hold nonnegative counts"),
        (lambda: kl_divergence([1, 1], [0, 0]), "`q` must hold nonnegative counts, not all zero"),
        (lambda: kl_divergence([np.nan, 1], [1, 1]), "`p` must hold nonnegative counts"),
        (lambda: kl_divergence([], []), "`p` must not be empty"),
        (lambda: kl_divergence([1], [1, 1]), "`q` must have the shape of `p`"),
        (lambda: predicted_mse([]), "`scale` must not be empty"),
        (lambda: predicted_mse([1.0, 0.0]), "`scale` must be positive and finite; got 0.0"),
        (lambda: predicted_sqnr(8, load_factor=0), "`load_factor` must be positive and finite"),
        (lambda: error_parts(np.ones(2), np.ones(2), np.ones(3), np.ones(1)), "`low` must broadc"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_stay_below_twice_their_arrays(metric):
    x = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    assert peak_over_arrays(metric, x, x + 1) < 1.5


def test_error_parts_stay_below_twice_their_arrays():
    x = np.random.default_rng(0).normal(size=(1000, 1000)).astype(np.float32)
    low = np.full((1000, 1), -1.0)
    assert peak_over_arrays(lambda x, y: error_parts(x, y, low, -low), x, x + 1) < 1.6


@pytest.mark.parametrize("dtype", [complex, object, bool, "U1"])
def test_what_are_no_real_numbers_is_refused(dtype):
    x, bad = np.ones(2), np.ones(2).astype(dtype)
    for measure in (mse, sqnr, max_error, cosine):
        with pytest.raises(TypeError, match="`x` must be real numbers; got "):
            measure(bad, x)
        with pytest.raises(TypeError, match="`x_hat` must be real numbers; got "):
            measure(x, bad)


@pytest.mark.parametrize("bits", [None, "4"])
def test_bits_that_are_no_number_are_refused(bits):
    with pytest.raises(TypeError, match="`bits` must be a real number; got "):
        predicted_sqnr(bits)
