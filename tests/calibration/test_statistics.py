"""Statistics are monoids: merging is seeing all at once."""

import numpy as np
import pytest
from _oracles.samples import (
    POWERS,
    assert_leaves_argument_alone,
    assert_refuses_bad_data,
    matrices,
    vectors,
)
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.calibration.statistics import Histogram, Moments, Range

BINS = st.sampled_from([1, 2, 16, 2048])


def same(a, b):
    return all(np.array_equal(p, q) for p, q in zip(a, b, strict=True))


@given(vectors(), vectors())
def test_merged_range_is_the_range_of_all(a, b):
    assert same(Range.of(a).merge(Range.of(b)), Range.of(np.concatenate([a, b])))


@given(matrices(), matrices())
def test_merged_range_of_columns_is_the_range_of_all(a, b):
    columns = min(a.shape[1], b.shape[1])
    a, b = a[:, :columns], b[:, :columns]
    merged = Range.of(a, axis=0).merge(Range.of(b, axis=0))
    assert merged.low.shape == (1, columns)
    assert same(merged, Range.of(np.concatenate([a, b]), axis=0))


@given(vectors(), vectors(), BINS)
@example(np.zeros(3), np.array([1e-30, -1e30]), 16)
@example(np.array([2.0**-1000]), np.array([2.0**1000]), 16)
@example(np.array([-1.0]), np.array([1.0]), 1)
def test_merged_histogram_is_the_histogram_of_all(a, b, bins):
    merged = Histogram.of(a, bins=bins).merge(Histogram.of(b, bins=bins))
    whole = Histogram.of(np.concatenate([a.astype(np.float64), b]), bins=bins)
    assert same(merged, whole)


@given(vectors(), vectors(), vectors())
def test_merging_histograms_is_associative_and_commutative(a, b, c):
    a, b, c = (Histogram.of(x, bins=8) for x in (a, b, c))
    assert same(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert same(a.merge(b), b.merge(a))


@given(vectors(), BINS)
@example(np.array([np.finfo(np.float64).max, -np.finfo(np.float64).max]), 2048)
@example(np.array([5e-324]), 2048)
def test_histogram_counts_each_value_in_its_own_bin(x, bins):
    histogram = Histogram.of(x, bins=bins)
    edges = histogram.edges()
    assert histogram.counts.sum() == x.size
    assert histogram.counts[0] > 0
    assert histogram.counts[-1] > 0
    assert len(histogram.counts) <= 2 * bins
    for lower, upper, count in zip(edges[:-1], edges[1:], histogram.counts, strict=True):
        assert count == np.sum((x >= lower) & (x < upper))


@given(vectors(dtype=np.float64), POWERS)
@example(np.array([1.0, 2.0]), 2.0**-800)
def test_histogram_of_doubled_data_has_doubled_width(x, factor):
    plain, scaled = Histogram.of(x, bins=16), Histogram.of(x * factor, bins=16)
    assert np.array_equal(plain.counts, scaled.counts)
    assert plain.start == scaled.start
    assert scaled.width == plain.width * (factor if x.any() else 1)


@pytest.mark.parametrize("bins", [0, 3, 2**17])
def test_histogram_refuses_bins_that_do_not_nest(bins):
    with pytest.raises(ValueError, match="bins"):
        Histogram.of(np.ones(2), bins=bins)


def test_histograms_of_free_width_merge_if_the_widths_nest():
    counts = np.array([1, 2, 3])
    a, b = Histogram(counts, 0, 6 / 2048), Histogram(counts, 1, 12 / 2048)
    assert same(a.merge(b), Histogram(np.array([3, 4, 2, 3]), 0, 12 / 2048))
    with pytest.raises(ValueError, match="`width` must differ by a power of two; got"):
        a.merge(Histogram(counts, 0, 7 / 2048))


@given(vectors(), vectors())
def test_merged_moments_are_the_moments_of_all(a, b):
    merged = Moments.of(a).merge(Moments.of(b))
    x = np.concatenate([a.astype(np.float64), b])
    assert merged.size == x.size
    # The rounding of a mean is relative to the largest value, not to the mean.
    size = np.abs(x).max()
    assert np.allclose(merged.mean, x.mean(), rtol=0, atol=1e-13 * size)
    assert np.allclose(merged.m2, np.sum((x - x.mean()) ** 2), rtol=1e-12, atol=1e-13 * size**2)


def test_moments_survive_data_far_from_zero():
    x = 1e9 + np.array([0.0, 1.0, 2.0, 3.0])
    merged = Moments.of(x[:2]).merge(Moments.of(x[2:]))
    assert merged.m2 == 5.0         # a difference of sums of squares, at 1e18, would be off by 100s


def test_moments_of_one_value_have_no_deviation():
    assert Moments.of(np.array([3.0])).std() == 0


@pytest.mark.parametrize("statistic", [Range, Moments, Histogram])
def test_statistics_refuse_bad_data(statistic):
    assert_refuses_bad_data(statistic.of)
    assert_leaves_argument_alone(statistic.of)


def test_the_number_of_bins_may_be_a_numpy_integer():
    x = np.array([0.5, -2.0])
    given, plain = Histogram.of(x, bins=np.int64(8)), Histogram.of(x, bins=8)
    assert given.width == plain.width
    assert np.array_equal(given.counts, plain.counts)


@pytest.mark.parametrize("statistic", [Range, Moments])
def test_statistics_of_shapes_that_do_not_match_do_not_merge(statistic):
    two, three = (statistic.of(np.ones((n, 4)), axis=1) for n in (2, 3))
    with pytest.raises(ValueError, match=r"`other` must .*\(2, 1\); got \(3, 1\)"):
        two.merge(three)
