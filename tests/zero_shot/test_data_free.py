"""Ranges from statistics alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.zero_shot.data_free import activation_range, exceedance

STATISTICS = st.integers(0, 999).map(np.random.default_rng).map(
    lambda rng: (rng.standard_normal(6), np.abs(rng.standard_normal(6))))


@given(STATISTICS, st.floats(0.5, 8))
def test_the_range_contains_every_channel_and_touches_the_widest(statistics, n):
    mean, deviation = statistics
    low, high = activation_range(mean, deviation, deviations=n)
    assert (low <= mean - n * deviation).all()
    assert (high >= mean + n * deviation).all()
    assert high in mean + n * deviation
    assert low in mean - n * deviation


@given(STATISTICS)
def test_an_activation_cuts_the_range(statistics):
    low, high = activation_range(*statistics, low=0.0, high=6.0)
    assert 0 <= low <= high <= 6
    open_low, open_high = activation_range(*statistics)
    assert (low, high) == (min(max(open_low, 0), 6), min(max(open_high, 0), 6))


def test_samples_leave_the_range_as_often_as_the_normal_law_says():
    """200,000 draws; three standard errors."""
    x = np.random.default_rng(0).normal(1.0, 2.0, 200_000)
    _, high = activation_range(np.array([1.0]), np.array([2.0]), deviations=2.0)
    share = exceedance(2.0)
    assert abs((x > high).mean() - share) < 3 * (share / x.size) ** 0.5


def test_mistakes_are_refused():
    one = np.ones(2)
    with pytest.raises(ValueError, match="`deviation` must have shape"):
        activation_range(one, np.ones(3))
    with pytest.raises(ValueError, match="`deviation` must not be negative; got -1"):
        activation_range(one, -one)
    with pytest.raises(ValueError, match="`deviations` must be positive"):
        activation_range(one, one, deviations=0.0)
    with pytest.raises(ValueError, match="`mean` must not be empty"):
        activation_range(one[:0], one[:0])
    for wrong in ({"low": 3.0, "high": 1.0}, {"low": np.nan}, {"high": np.nan}):
        with pytest.raises(ValueError, match=r"^`low` must be at most `high`"):
            activation_range(one, one, **wrong)
    for wrong in ({"low": "0"}, {"high": None}, {"deviations": None}, {"deviations": [1.0]}):
        with pytest.raises(TypeError, match=r"^`\w+` must be a real number"):
            activation_range(one, one, **wrong)
    with pytest.raises(TypeError, match=r"^`deviations` must be a real number"):
        exceedance("3")
