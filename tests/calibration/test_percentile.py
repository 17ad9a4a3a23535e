"""Percentile ranges, by four definitions."""

from fractions import Fraction

import numpy as np
import pytest
from _oracles.samples import (
    POWERS,
    assert_leaves_argument_alone,
    assert_refuses_bad_data,
    matrices,
    vectors,
)
from hypothesis import given
from hypothesis import strategies as st

from refquant.calibration.minmax import absmax, minmax
from refquant.calibration.percentile import (
    percentile,
    percentile_bound,
    percentile_bound_higher,
    percentile_bound_histogram,
)
from refquant.calibration.statistics import Histogram

SHARES = st.floats(0.01, 1)
BOUNDS = [percentile_bound, percentile_bound_higher]


@given(matrices())
def test_everything_inside_is_min_max(x):
    assert all(map(np.array_equal, percentile(x, 1.0, axis=1), minmax(x, axis=1)))
    for bound in BOUNDS:
        assert np.array_equal(bound(x, 1.0, axis=1), absmax(x, axis=1))


@given(vectors(), SHARES, SHARES)
def test_wider_for_larger_shares(x, p, q):
    p, q = sorted((p, q))
    inner, outer = percentile(x, p), percentile(x, q)
    slack = 4 * np.finfo(x.dtype).eps * np.abs(x).max()
    assert outer.low <= inner.low + slack
    assert inner.high <= outer.high + slack
    for bound in BOUNDS:
        assert bound(x, p) <= bound(x, q) + slack


@given(vectors(), SHARES)
def test_higher_is_a_value_at_or_above_the_linear_bound(x, p):
    linear, higher = percentile_bound(x, p), percentile_bound_higher(x, p)
    assert higher in np.abs(x)
    assert linear <= higher * (1 + 4 * np.finfo(x.dtype).eps)


@given(vectors(dtype=np.float64), SHARES, POWERS)
def test_range_scales_with_the_data(x, p, factor):
    assert np.array_equal(percentile_bound(x * factor, p), percentile_bound(x, p) * factor)
    scaled, plain = percentile(x * factor, p), percentile(x, p)
    assert np.array_equal(scaled.low, plain.low * factor)
    assert np.array_equal(scaled.high, plain.high * factor)


@given(vectors(), SHARES)
def test_histogram_bound_is_the_lower_edge_of_the_bin_that_reaches_the_share(x, p):
    histogram = Histogram.of(np.abs(x), bins=64)
    bound = percentile_bound_histogram(histogram, p)
    absolute = np.abs(x).astype(np.float64)
    assert np.sum(absolute < bound) < p * x.size or bound == histogram.edges()[0]
    assert np.sum(absolute < bound + histogram.width) >= p * x.size


@given(SHARES)
def test_as_much_is_cut_at_either_end(p):
    low, high = percentile(np.arange(101.0), p)
    assert low == pytest.approx(50 * (1 - p))
    assert high == pytest.approx(100 - 50 * (1 - p))


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=9), st.integers(1, 8))
def test_linear_bound_lies_between_two_order_statistics(values, eighths):
    ordered = sorted(map(abs, values))
    whole, part = divmod(Fraction(eighths, 8) * (len(values) - 1), 1)
    after = ordered[min(int(whole) + 1, len(values) - 1)]
    expected = ordered[int(whole)] * (1 - part) + after * part
    assert percentile_bound(np.array(values, float), eighths / 8) == float(expected)
    higher = percentile_bound_higher(np.array(values, float), eighths / 8)
    assert higher == (after if part else ordered[int(whole)])


def test_golden_c12():
    assert percentile_bound(np.arange(11.0), 0.95) == 9.5
    assert percentile_bound_higher(np.arange(11.0), 0.95) == 10


@pytest.mark.parametrize("calibrate", [percentile, *BOUNDS])
def test_bad_arguments_are_refused(calibrate):
    assert_refuses_bad_data(lambda x: calibrate(x, 0.9))
    assert_leaves_argument_alone(lambda x: calibrate(x, 0.9))
    for p in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`p` must lie in"):
            calibrate(np.ones(3), p)


def test_all_zero_data_have_an_empty_range():
    assert percentile(np.zeros(5), 0.9).high == 0
    assert percentile_bound_histogram(Histogram.of(np.zeros(5)), 0.9) == 0


def test_float32_stays_float32():
    x = np.linspace(-1, 1, 7, dtype=np.float32)
    assert percentile(x, 0.5).low.dtype == percentile_bound(x, 0.5).dtype == np.float32
