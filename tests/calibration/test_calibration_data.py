"""How much data, and ranges chosen for the loss of the whole network."""

from functools import partial

import numpy as np
import pytest
from _oracles.samples import assert_leaves_argument_alone, assert_refuses_bad_data, matrices
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.calibration.calibration_data import coordinate_search, ranges_by_samples
from refquant.calibration.minmax import minmax
from refquant.calibration.percentile import percentile

CHOICES = (1.0, 0.8, 0.5, 0.3)


@given(matrices())
def test_min_max_can_only_grow_with_the_samples(x):
    low, high = ranges_by_samples(x, range(1, len(x) + 1))
    assert (np.diff(low) <= 0).all()
    assert (np.diff(high) >= 0).all()
    assert (low[-1], high[-1]) == (x.min(), x.max())


@given(matrices(), st.floats(0.5, 1))
def test_any_calibrator_sees_the_first_samples_alone(x, p):
    counts = [1, len(x)]
    found = ranges_by_samples(x, counts, partial(percentile, p=p))
    for k, count in enumerate(counts):
        expected = percentile(x[:count], p)
        assert (found.low[k], found.high[k]) == (expected.low.item(), expected.high.item())


@settings(max_examples=50)
@given(
    hnp.arrays(float, 3, elements=st.floats(0, 1)),
    hnp.arrays(float, (3, 3), elements=st.floats(-1, 1)),
)
def test_search_ends_where_no_single_change_helps(target, mix):
    def loss(shares):
        return float(np.sum((mix @ (shares - target)) ** 2))

    found = coordinate_search(loss, 3, candidates=CHOICES, sweeps=50)
    assert (np.diff(found.losses) <= 0).all()
    assert found.losses[0] == loss(np.ones(3))
    assert found.losses[-1] == loss(found.shares)
    assert found.converged
    for k in range(3):
        for choice in CHOICES:
            trial = found.shares.copy()
            trial[k] = choice
            assert loss(trial) >= found.losses[-1]


def test_separable_loss_is_solved_in_one_sweep():
    best = np.array([0.5, 0.3, 1.0])

    def loss(shares):
        return float(np.abs(shares - best).sum())

    found = coordinate_search(loss, 3, candidates=CHOICES, sweeps=1)
    assert np.array_equal(found.shares, best)
    assert not found.converged                  # no sweep was left to see that nothing changes


def test_equal_losses_keep_the_full_range():
    found = coordinate_search(lambda shares: 1.0, 4)
    assert np.array_equal(found.shares, np.ones(4))


def test_a_loss_cannot_change_the_search():
    def careless(shares):
        value = float(shares.sum())
        shares[:] = 0
        return value

    assert np.array_equal(coordinate_search(careless, 2, candidates=CHOICES).shares, [0.3, 0.3])


def test_bad_arguments_are_refused():
    assert_refuses_bad_data(lambda x: ranges_by_samples(x, [1]))
    assert_leaves_argument_alone(lambda x: ranges_by_samples(x, [1, 2], minmax))
    for counts in ([0], [3]):
        with pytest.raises(ValueError, match="`counts` must be"):
            ranges_by_samples(np.ones((2, 2)), counts)
    with pytest.raises(ValueError, match="`tensors` must be at least 1"):
        coordinate_search(lambda shares: 0.0, 0)
    with pytest.raises(ValueError, match="`sweeps` must be at least 1"):
        coordinate_search(lambda shares: 0.0, 1, sweeps=0)
    with pytest.raises(ValueError, match="`candidates` must not be empty"):
        coordinate_search(lambda shares: 0.0, 1, candidates=[])
