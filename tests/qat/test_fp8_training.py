"""FP8: exact moves into the range, casts by the table, sums in chunks."""

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.qat.fp8_training import (
    FP16_WIDE,
    AmaxHistory,
    cast,
    chunked_sum,
    fp8_forward,
    fp8_gradient,
    tensor_scale,
)
from refquant.quantizers.minifloat import E4M3FN, E5M2, FP16
from refquant.rounding import floor, stochastic

SEEDS = st.integers(0, 2**32 - 1)
FORMATS = st.sampled_from([E4M3FN, E5M2, FP16_WIDE])


@given(st.floats(1e-20, 1e20), FORMATS, st.integers(-3, 3))
@example(448.0, E4M3FN, 0)
@example(np.nextafter(448.0, 500), E4M3FN, 0)
@example(3.5, E5M2, 0)
def test_the_scale_is_the_largest_power_of_two_that_fits(amax, number_format, margin):
    scale = tensor_scale(amax, number_format, margin=margin)
    assert np.frexp(scale)[0] == 0.5
    end = number_format.max_value
    assert amax * scale * 2.0**margin <= end < amax * scale * 2.0 ** (margin + 1)


@pytest.mark.parametrize("amax", [0.0, np.inf, np.nan])
def test_without_a_magnitude_the_scale_is_one(amax):
    assert tensor_scale(amax, E4M3FN) == 1


@given(SEEDS, FORMATS)
def test_a_cast_is_the_nearest_level_of_the_scaled_format(seed, number_format):
    x = np.random.default_rng(seed).normal(size=50)
    scale = tensor_scale(np.abs(x).max(), number_format)
    y = cast(x, number_format, scale=scale)
    levels = number_format.decode(
        np.r_[: number_format.largest + 1]).astype(np.float64) / scale
    levels = np.concatenate([-levels[::-1], levels])
    assert np.array_equal(np.abs(x - y), np.abs(x[:, None] - levels).min(1))


@given(SEEDS)
def test_both_roads_of_the_cast_agree(seed):
    """float32 goes through a table, float64 through the definition."""
    x = np.random.default_rng(seed).normal(size=100).astype(np.float32) * np.float32(200)
    for number_format in (E4M3FN, E5M2):
        fast, slow = cast(x, number_format), cast(x.astype(np.float64), number_format)
        assert fast.dtype == np.float32
        assert np.array_equal(fast, slow)


def test_too_large_saturates_and_what_is_not_finite_stays():
    x = np.array([1e9, -1e9, np.inf, -np.inf, np.nan])
    y = cast(x, E4M3FN, scale=2.0)
    assert np.array_equal(y[:4], [224, -224, np.inf, -np.inf])
    assert np.isnan(y[4])


def test_a_random_cast_is_right_on_average():
    x = np.full(40_000, 1.03)
    y = cast(x, E4M3FN, rounding=partial(stochastic, rng=np.random.default_rng(0)))
    assert set(y) == {1.0, 1.125}
    assert abs(y.mean() - 1.03) < 4 * 0.125 / 2 / 200
    assert (cast(x, E4M3FN, rounding=floor) == 1).all()


@given(SEEDS, st.integers(-30, 30))
def test_the_value_scales_with_powers_of_two(seed, exponent):
    """What a power of two as scale buys: no size of a tensor is better than another."""
    x = np.random.default_rng(seed).normal(size=20)
    factor = 2.0**exponent
    assert np.array_equal(fp8_forward(factor * x)[0], factor * fp8_forward(x)[0])


def test_forward_casts_the_value_and_backward_the_gradient():
    x = np.float32([0.1, 1.06, 3.0])
    y, pullback = fp8_forward(x)
    assert np.array_equal(y, cast(x, E4M3FN, scale=128.0))
    assert pullback(x)[0] is x
    y, pullback = fp8_gradient(x)
    assert y is x
    assert np.array_equal(pullback(x)[0], cast(x, E5M2, scale=tensor_scale(3.0, E5M2)))
    assert np.array_equal(fp8_forward(np.float32([500]), scale=1.0)[0], [448])
    assert (fp8_gradient(x)[1](np.zeros(3, np.float32))[0] == 0).all()


def test_the_history_forgets_and_a_growing_tensor_saturates():
    history = AmaxHistory(length=3)
    assert history.largest == 0
    for amax in (8.0, 1.0, 2.0, 1.5):
        history = history.after(amax)
    assert history.amaxes == (1.0, 2.0, 1.5)
    scale = tensor_scale(history.largest, E4M3FN)
    assert fp8_forward(np.float32([8.0]), scale=scale)[0] == 448 / scale == 3.5
    with pytest.raises(ValueError, match="`length` must be at least 1"):
        AmaxHistory(length=0).after(1.0)


@given(SEEDS, st.integers(1, 12), st.integers(0, 20))
def test_with_an_exact_adder_chunks_change_nothing(seed, chunk, n):
    x = np.random.default_rng(seed).integers(-99, 99, (2, n)).astype(np.float64)
    assert np.array_equal(chunked_sum(x, cast=lambda s: s, chunk=chunk), x.sum(1))


@given(SEEDS, st.integers(1, 12))
def test_chunks_add_in_the_order_of_the_definition(seed, chunk):
    x = np.random.default_rng(seed).normal(size=10)
    keep = partial(cast, number_format=E5M2)
    total = np.zeros(())
    for start in range(0, 10, chunk):
        part = np.zeros(())
        for value in x[start : start + chunk]:
            part = keep(part + value)
        total = keep(total + part)
    assert chunked_sum(x, cast=keep, chunk=chunk) == total


def test_a_plain_sum_stops_and_chunks_of_the_root_of_n_are_best():
    """Positive terms, mean 1, 4096 of them, 100 sums, 9 bits of mantissa."""
    x = np.random.default_rng(0).uniform(0, 2, (100, 4096))
    keep = partial(cast, number_format=FP16_WIDE)

    def error(chunk):
        return np.abs(chunked_sum(x, cast=keep, chunk=chunk) / x.sum(1) - 1).mean()

    errors = {chunk: error(chunk) for chunk in (4, 64, 1024, 4096)}
    assert errors[4096] > 0.3                   # stuck near 2**10 terms of size one
    assert errors[64] < 0.003
    assert errors[64] < errors[4] < errors[4096]
    assert errors[64] < errors[1024] < errors[4096]


def test_the_wide_sixteen_bits_have_six_for_the_exponent_and_nine_for_the_mantissa():
    assert FP16_WIDE.code_bits == FP16.code_bits == 16
    assert FP16_WIDE.max_value == (2 - 2.0**-9) * 2.0**31
    assert FP16_WIDE.decode(np.array([1])) == 2.0 ** (-30 - 9)
    assert np.isinf(FP16_WIDE.decode(np.array([0x7E00])))


@pytest.mark.peer
def test_casts_equal_those_of_ml_dtypes():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = (np.random.default_rng(0).normal(size=5000) * 50).astype(np.float32)
    for number_format, name in ((E4M3FN, "float8_e4m3fn"), (E5M2, "float8_e5m2")):
        theirs = x.astype(getattr(ml_dtypes, name)).astype(np.float32)
        assert np.array_equal(cast(x, number_format), theirs)
