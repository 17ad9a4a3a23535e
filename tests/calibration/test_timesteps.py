"""Calibration along a chain of timesteps: which steps, joined how, split where."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.calibration.statistics import Histogram, Range
from refquant.calibration.timesteps import (
    drawn,
    evenly,
    joined,
    range_of_parts,
    with_neighbours,
)
from refquant.nn.denoiser import sampling_steps
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric

lengths = st.integers(1, 60)


def values(seed, steps=8):
    """Whole numbers that grow from step to step, by step."""
    rng = np.random.default_rng(seed)
    return {10 * t: rng.integers(-t - 1, t + 2, 20).astype(float) for t in range(steps)[::-1]}


@given(lengths, st.data())
def test_gaps_between_chosen_steps_differ_by_at_most_one(length, data):
    count = data.draw(st.integers(1, length))
    steps = np.arange(length)[::-1]
    chosen = evenly(steps, count)
    assert len(set(chosen.tolist())) == count
    assert chosen[0] == steps[0]
    gaps = np.diff(np.append(length - 1 - chosen, length))
    assert 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1


@given(lengths)
def test_all_of_the_steps_are_all_of_them(length):
    steps = sampling_steps(length)
    assert np.array_equal(evenly(steps, length), steps)


@given(lengths, st.integers(0, 2**31))
def test_drawn_steps_are_steps_of_the_chain(length, seed):
    steps = sampling_steps(length)
    t = drawn(steps, 50, rng=np.random.default_rng(seed))
    assert set(t.tolist()) <= set(steps.tolist())


@given(st.floats(-3, 3), st.integers(0, 9))
def test_without_spread_all_draws_are_the_same_place_counted_from_the_image(mean, seed):
    steps = sampling_steps(50)
    t = drawn(steps, 5, rng=np.random.default_rng(seed), mean=mean, std=0.0)
    assert set(t.tolist()) == {int(steps[::-1][min(max(math.floor(50 * mean), 0), 49)])}


def test_drawn_steps_follow_the_clipped_normal():
    """Mean 0.4, deviation 0.4: below zero with probability 0.159, above one with 0.067."""
    n = 40_000
    t = drawn(sampling_steps(1000), n, rng=np.random.default_rng(0))
    for share, p in ((np.mean(t == 0), 0.1593), (np.mean(t == 999), 0.0670),
                     (np.mean(t < 400), 0.5)):
        assert abs(share - p) < 5 * (p * (1 - p) / n) ** 0.5        # five standard errors


def test_draws_are_one_normal_each():
    rng, same = np.random.default_rng(3), np.random.default_rng(3)
    drawn(sampling_steps(10), 7, rng=rng)
    same.standard_normal(7)
    assert rng.standard_normal() == same.standard_normal()


@given(st.integers(0, 2**31), st.lists(st.integers(0, 7), min_size=1))
def test_joined_is_having_seen_all_of_it_at_once(seed, places):
    x = values(seed)
    steps = [10 * place for place in places]
    together = np.concatenate([x[t] for t in dict.fromkeys(steps)])
    assert joined({t: Range.of(v) for t, v in x.items()}, steps) == Range.of(together)
    seen = joined({t: Histogram.of(v, bins=16) for t, v in x.items()}, steps)
    assert int(seen.counts.sum()) == together.size


def test_joined_in_any_order_is_the_same():
    ranges = {t: Range.of(v) for t, v in values(0).items()}
    assert joined(ranges, list(ranges)) == joined(ranges, list(ranges)[::-1])


@given(st.integers(0, 2**31), st.integers(0, 9))
def test_a_window_holds_its_step_and_grows_with_its_reach(seed, reach):
    ranges = {t: Range.of(v) for t, v in values(seed).items()}
    small, large = with_neighbours(ranges, reach), with_neighbours(ranges, reach + 1)
    assert list(small) == list(ranges)
    for t in ranges:
        assert large[t].low <= small[t].low <= ranges[t].low
        assert large[t].high >= small[t].high >= ranges[t].high


def test_the_narrowest_window_is_the_step_and_the_widest_is_the_chain():
    ranges = {t: Range.of(v) for t, v in values(1).items()}
    assert with_neighbours(ranges, 0) == ranges
    assert all(r == joined(ranges, ranges) for r in with_neighbours(ranges, 7).values())


def test_windows_follow_the_order_of_the_run_not_of_the_numbers():
    ranges = {t: Range(np.array([0.0]), np.array([float(t)])) for t in (5, 100, 1)}
    assert [float(r.high[0]) for r in with_neighbours(ranges, 1).values()] == [100, 100, 100]
    assert float(with_neighbours(dict(list(ranges.items())[::2]), 1)[1].high[0]) == 5


sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


@given(sizes, st.integers(0, 2**31))
def test_each_part_has_the_range_it_has_alone(sizes, seed):
    x = np.random.default_rng(seed).standard_normal((3, 2, sum(sizes)))
    got = range_of_parts(x, sizes)
    assert got.low.shape == got.high.shape == (1, 1, sum(sizes))
    at = 0
    for size in sizes:
        alone = Range.of(x[..., at : at + size])
        assert np.all(got.low[..., at : at + size] == alone.low)
        assert np.all(got.high[..., at : at + size] == alone.high)
        at += size


@given(sizes, st.integers(0, 2**31))
def test_ranges_of_parts_merge_as_ranges_do(sizes, seed):
    a, b = np.random.default_rng(seed).standard_normal((2, 4, sum(sizes))).astype(np.float32)
    both = range_of_parts(a, sizes).merge(range_of_parts(b, sizes))
    at_once = range_of_parts(np.concatenate([a, b]), sizes)
    assert all(map(np.array_equal, both, at_once))


def test_one_part_is_the_range_of_all():
    x = np.random.default_rng(0).standard_normal((5, 7))
    assert np.all(range_of_parts(x, [7]).high == Range.of(x).high)


def test_a_step_for_each_part_keeps_the_small_part():
    """Beside a part a hundred times its size, a small part is rounded to zero."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-1, 1, (50, 8)), rng.uniform(-100, 100, (50, 8))], axis=1)
    whole, parts = Range.of(x), range_of_parts(x, [8, 8])
    joint = fake_quantize(x, asymmetric(whole.low, whole.high, bits=4))
    split = fake_quantize(x, asymmetric(parts.low, parts.high, bits=4))
    assert not joint[:, :8].any()
    assert np.abs(split - x)[:, :8].max() <= 1 / 15 + 1e-12        # half of a step of 2/15


def test_one_step_and_constant_values_are_calibrated_like_others():
    ranges = {7: Range.of(np.zeros((2, 3)))}
    assert with_neighbours(ranges, 3) == ranges
    assert joined(ranges, [7, 7]) == ranges[7]
    assert np.all(drawn(np.array([7]), 4, rng=np.random.default_rng(0)) == 7)
    flat = range_of_parts(np.zeros((2, 3)), [1, 2])
    assert not any(end.any() for end in flat)


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda: evenly(np.arange(3), 4), ValueError, "`count` must"),
    (lambda: evenly(np.arange(0), 1), ValueError, "`steps` must be a vector of at least one"),
    (lambda: evenly(np.ones((2, 2), int), 1), ValueError, "`steps` must be a vector"),
    (lambda: evenly(np.arange(3.0), 1), TypeError, "`steps` must be integers; got float64"),
    (lambda: drawn(np.arange(3), 0, rng=np.random.default_rng(0)), ValueError, "`size` must"),
    (lambda: drawn(np.arange(3), 1, rng=np.random.default_rng(0), std=-1.0), ValueError,
     "`std` must not be negative; got -1.0"),
    (lambda: drawn(np.arange(3), 1, rng=np.random.default_rng(0), mean=np.nan), ValueError,
     "`mean` must"),
    (lambda: joined({1: Range.of(np.ones(2))}, []), ValueError, "at least one step; got none"),
    (lambda: joined({1: Range.of(np.ones(2))}, [1, 2]), ValueError, "been observed; got 2"),
    (lambda: with_neighbours({1: Range.of(np.ones(2))}, -1), ValueError, "`reach` must"),
    (lambda: range_of_parts(np.ones((2, 3)), [1, 1]), ValueError, r"`sizes` must sum .*\[1, 1\]"),
    (lambda: range_of_parts(np.ones((2, 3)), [3, 0]), ValueError, "`sizes` must"),
    (lambda: range_of_parts(np.array(1.0), [1]), ValueError, "`sizes` must"),
    (lambda: range_of_parts(np.array([np.nan]), [1]), ValueError, "`x` must be finite"),
])
def test_wrong_arguments_are_refused_by_name(call, kind, words):
    with pytest.raises(kind, match=words):
        call()
