"""Budgets of levels and of bits, shared between channels."""

import numpy as np
import pytest
from _oracles.samples import POWERS
from hypothesis import given
from hypothesis import strategies as st

from refquant.calibration.aciq import aciq_bound
from refquant.calibration.bit_allocation import channel_bits, channel_levels, water_filling
from refquant.rounding import ceil

BOUNDS = st.lists(st.floats(2.0**-20, 2.0**20), min_size=1, max_size=12).map(np.array)
BITS = st.floats(0.5, 8)


def noise(bounds, levels):
    return np.sum(bounds**2 / (3 * levels**2))


@given(BOUNDS, BITS)
def test_levels_sum_to_the_budget(bounds, bits):
    levels = channel_levels(bounds, bits=bits)
    assert levels.sum() == pytest.approx(bounds.size * 2**bits)
    assert np.ptp(np.log2(levels) - 2 / 3 * np.log2(bounds)) < 1e-9     # the law of P13


@given(BOUNDS, BITS, st.integers(0, 2**32 - 1))
def test_no_other_split_of_the_levels_has_less_noise(bounds, bits, seed):
    best = channel_levels(bounds, bits=bits)
    other = best * np.exp(0.3 * np.random.default_rng(seed).standard_normal(bounds.size))
    other *= best.sum() / other.sum()
    assert noise(bounds, best) <= noise(bounds, other) * (1 + 1e-12)


@given(BOUNDS, BITS)
def test_bits_sum_to_the_budget(bounds, bits):
    filled = water_filling(bounds, bits=bits)
    assert (filled >= 0).all()
    assert filled.mean() == pytest.approx(bits)
    held = filled > 0
    assert np.ptp((filled - np.log2(bounds))[held]) < 1e-9              # slope 1
    # No channel under the water lies above it.
    assert np.log2(bounds[~held]).max(initial=-99) <= (np.log2(bounds) - filled)[held].min() + 1e-9


@given(BOUNDS, BITS, st.integers(0, 2**32 - 1))
def test_no_other_split_of_the_bits_has_less_noise(bounds, bits, seed):
    best = water_filling(bounds, bits=bits)
    other = np.abs(best + np.random.default_rng(seed).standard_normal(bounds.size))
    other *= best.sum() / other.sum()
    assert noise(bounds, 2**best) <= noise(bounds, 2**other) * (1 + 1e-12)


@given(BOUNDS, BITS, POWERS, st.randoms(use_true_random=False))
def test_order_and_unit_of_the_channels_do_not_matter(bounds, bits, factor, random):
    order = list(range(bounds.size))
    random.shuffle(order)
    for share in (channel_levels, water_filling):
        plain = share(bounds, bits=bits)
        assert np.allclose(share(bounds[order] * factor, bits=bits), plain[order], atol=1e-9)


@given(st.integers(1, 9), st.integers(1, 8))
def test_equal_channels_share_equally(channels, bits):
    bounds = np.full(channels, 3.0)
    assert np.allclose(water_filling(bounds, bits=bits), bits)
    assert (channel_bits(bounds, bits=bits) == bits).all()


@given(BOUNDS, st.integers(1, 8))
def test_whole_bits_stay_in_their_limits(bounds, bits):
    allocated = channel_bits(bounds, bits=bits)
    assert allocated.dtype == np.int32
    assert ((allocated >= 0) & (allocated <= 8)).all()
    assert channel_bits(bounds, bits=bits, largest=3).max() <= 3


def test_whole_bits_meet_the_average_of_many_channels():
    bounds = np.exp(np.random.default_rng(0).standard_normal(512))
    for bits in (2, 3, 4):
        assert abs(channel_bits(bounds, bits=bits).mean() - bits) < 0.01
        assert abs(channel_bits(bounds, bits=bits, rounding=ceil).mean() - bits) < 0.02


def test_golden_c6():
    levels = channel_levels(np.array([1.0, 8.0]), bits=4)
    assert levels == pytest.approx([6.4, 25.6], abs=1e-12)
    assert np.log2(levels) == pytest.approx([2.678071905112638, 4.678071905112637], abs=1e-12)


def test_golden_c7():
    assert water_filling(np.array([1.0, 8.0]), bits=4) == pytest.approx([2.5, 5.5], abs=1e-12)


def test_a_budget_of_bits_wants_slope_one_and_a_budget_of_levels_two_thirds():
    """A8. 64 Laplace channels of widths exp(N(0, 1)), 4 bits on average, five draws together: the
    error is 0.26 of that of equal bits by the published rule, 0.17 by water filling."""
    errors = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        x = rng.laplace(size=(64, 2000)) * np.exp(rng.standard_normal((64, 1)))
        bounds = aciq_bound(x, bits=4, axis=1).ravel()
        shares = (np.full(64, 4), channel_bits(bounds, bits=4),
                  np.rint(water_filling(bounds, bits=4)))
        assert all(abs(share.mean() - 4) < 0.05 for share in shares)
        errors.append([sum(error_with(c, int(b)) for c, b in zip(x, share, strict=True))
                       for share in shares])
    equal, published, filled = np.sum(errors, 0)
    assert published <= 0.3 * equal
    assert filled <= 0.2 * equal


def error_with(channel, bits):
    """Of 2**bits even cells within ACIQ's bound; the mean if there is none."""
    if bits == 0:
        return np.var(channel)
    step = 2 * float(aciq_bound(channel, bits=bits).item()) / 2**bits
    cell = np.clip(np.floor(channel / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return np.mean(((cell + 0.5) * step - channel) ** 2)


def test_a_silent_channel_gets_nothing():
    bounds = np.array([0.0, 1.0])
    assert channel_levels(bounds, bits=3).tolist() == [0, 16]
    assert channel_bits(bounds, bits=3).tolist() == [0, 6]
    assert water_filling(bounds, bits=3).tolist() == [0, 6]


@pytest.mark.parametrize("share", [channel_levels, channel_bits, water_filling])
def test_bad_bounds_are_refused(share):
    for bad in (np.array([-1.0, 1.0]), np.zeros(3), np.ones((2, 2))):
        with pytest.raises(ValueError, match="`bounds` must be one row"):
            share(bad, bits=4)
    with pytest.raises(ValueError, match="must not be empty"):
        share(np.zeros(0), bits=4)
    with pytest.raises(ValueError, match="must be finite"):
        share(np.array([np.nan]), bits=4)


def test_bad_budgets_are_refused():
    bounds = np.array([1.0, 2.0])
    for share in (channel_levels, channel_bits, water_filling):
        with pytest.raises(ValueError, match="`bits` must be finite"):
            share(bounds, bits=np.nan)
    with pytest.raises(ValueError, match="`bits` must be finite and not negative; got -1"):
        water_filling(bounds, bits=-1)
    assert water_filling(bounds, bits=0).tolist() == [0, 0]


@pytest.mark.parametrize("bits", [None, "4", [4.0]])
@pytest.mark.parametrize("allocate", [channel_levels, channel_bits, water_filling])
def test_bits_that_are_no_number_are_refused(allocate, bits):
    with pytest.raises(TypeError, match="`bits` must be a real number; got "):
        allocate(np.array([1.0, 2.0]), bits=bits)


@pytest.mark.parametrize("allocate", [channel_levels, channel_bits])
def test_more_bits_than_levels_can_be_counted_for_are_refused(allocate):
    with pytest.raises(ValueError, match="`bits` must be at most 1000; got "):
        allocate(np.array([1.0, 2.0]), bits=1e9)
