"""Parts that share nothing, scores an example at a time, and how sure one can be of a drop."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.workflow.judging import (
    LEAST,
    MOST_CALIBRATION,
    Drop,
    Parts,
    cosine,
    explained,
    paired_drop,
    parts_of,
    right,
    same,
)


@given(st.integers(0, 3000), st.integers(1, 40), st.integers(0, 9))
def test_no_example_is_in_two_parts_and_all_parts_are_whole_batches(count, unit, seed):
    least = -(-LEAST // unit) * unit
    if count // unit < 3 * least // unit:
        with pytest.raises(ValueError, match=f"at least {3 * least} examples.*got {count}"):
            parts_of(count, unit=unit, rng=np.random.default_rng(seed))
        return
    made = parts_of(count, unit=unit, rng=np.random.default_rng(seed))
    assert isinstance(made, Parts)
    together = np.concatenate(made)
    assert len(set(together.tolist())) == len(together)
    assert set(together.tolist()) <= set(range(count))
    assert all(len(part) % unit == 0 and len(part) >= least for part in made)
    assert len(made.choosing) == len(made.judging) >= len(made.calibration)
    assert len(made.calibration) <= max(MOST_CALIBRATION, least)
    assert count - len(together) < 2 * unit


def test_a_batch_larger_than_most_calibration_is_taken_whole():
    made = parts_of(3000, unit=2 * MOST_CALIBRATION - 24, rng=np.random.default_rng(0))
    assert [len(part) for part in made] == [1000, 1000, 1000]


def test_data_sorted_by_class_are_mixed():
    labels = np.repeat(np.arange(10), 30)
    for part in parts_of(300, rng=np.random.default_rng(0)):
        assert len(set(labels[part])) == 10


SCORES = st.lists(st.lists(st.integers(-5, 5), min_size=3, max_size=3), min_size=1, max_size=20)


@given(SCORES, st.floats(0.1, 10), st.floats(-5, 5))
def test_answers_do_not_change_with_scale_and_offset(rows, scale, offset):
    x = np.array(rows, np.float64)
    labels = np.array([max(range(3), key=lambda i: row[i]) for row in rows])
    assert right(x, labels).all()
    assert same(scale * x + offset, x).mean() == 1
    assert same(x, x[::-1]).mean() == np.mean(labels == labels[::-1])


@given(SCORES, st.floats(0.1, 10))
def test_a_cosine_ignores_length_and_sees_direction(rows, scale):
    x = np.array(rows, np.float64)
    assert cosine(scale * x, x) == pytest.approx(1)
    assert np.abs(cosine(scale * x, x)).max() <= 1          # rounding would step over it
    turned = cosine(-x, x)
    assert turned == pytest.approx(np.where((x == 0).all(1), 1, -1))


@given(SCORES, st.floats(0.1, 10), st.floats(-5, 5), st.floats(0, 2))
def test_what_is_explained_ignores_the_unit_and_the_origin(rows, scale, offset, wrong):
    x = np.array(rows, np.float64)
    off = x + wrong * np.arange(3)
    mine = explained(off, x)
    assert explained(x, x).tolist() == [1] * len(x)
    assert mine.max() <= 1
    if np.ptp(x, axis=0).any():
        assert explained(scale * off + offset, scale * x + offset) == pytest.approx(
            mine, rel=1e-6, abs=1e-6)
        mean = np.broadcast_to(x.mean(0), x.shape)
        assert explained(mean, x).mean() == pytest.approx(0, abs=1e-9)
    else:
        assert set(mine) <= {0.0, 1.0}


def test_answers_at_several_places_count_by_their_share():
    output = np.zeros((2, 4, 3))
    output[..., 1] = 1
    assert right(output, np.array([[1, 1, 1, 1], [1, 0, 2, 1]])).tolist() == [1, 0.5]


def test_what_is_not_a_number_is_no_answer():
    broken = np.array([[np.nan, 1.0], [0.0, 1.0]])
    assert right(broken, np.array([1, 1])).tolist() == [0, 1]
    assert right(broken, np.array([0, 1])).tolist() == [0, 1]       # where argmax would put it
    assert cosine(broken, np.ones((2, 2)))[0] == 0
    assert explained(broken, np.ones((2, 2)))[0] == 0
    assert cosine(np.array([[np.inf, 1.0]]), np.ones((1, 2))).tolist() == [0]


def test_two_pairs_have_the_interval_that_counting_gives():
    """Means of two draws from (0, 1) are 0, 1/2 and 1 with chances 1/4, 1/2, 1/4."""
    made = paired_drop(np.array([1.0, 1.0]), np.array([1.0, 0.0]), rng=np.random.default_rng(0))
    assert made == Drop(1.0, 0.5, 0.5, (0.0, 1.0))
    narrow = paired_drop(np.array([1.0, 1.0]), np.array([1.0, 0.0]), confidence=0.4,
                         rng=np.random.default_rng(0))
    assert narrow.interval == (0.5, 0.5)


@given(st.integers(1, 30), st.integers(0, 5))
def test_an_interval_lies_between_the_extremes_and_vanishes_without_a_difference(n, seed):
    rng = np.random.default_rng(seed)
    before, after = rng.random((2, n))
    made = paired_drop(before, after, rng=rng, draws=200)
    lost = before - after
    assert lost.min() - 1e-12 <= made.interval.low <= made.interval.high <= lost.max() + 1e-12
    assert made.drop == pytest.approx(made.before - made.after)
    same_shift = paired_drop(before, before - 0.25, rng=rng, draws=50)
    assert same_shift.interval == pytest.approx((0.25, 0.25))


def test_many_examples_are_resampled_in_chunks_and_come_out_the_same_in_law():
    rng = np.random.default_rng(0)
    before = (rng.random(50_000) < 0.9).astype(np.float64)
    after = before * (rng.random(50_000) < 0.95)
    twin = np.random.default_rng(5)
    made = paired_drop(before, after, rng=rng, draws=200)
    paired_drop(before, after, rng=twin, draws=41)          # one more than fit into a chunk
    last = np.random.default_rng(5)
    last.integers(50_000, size=(41, 50_000))
    assert twin.bit_generator.state == last.bit_generator.state
    deviation = np.std(before - after) / 50_000**0.5
    assert made.interval.high - made.interval.low == pytest.approx(3.92 * deviation, rel=0.25)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: right(np.zeros((3, 1)), np.zeros(3, int)), "a column for each class"),
    (lambda: right(np.zeros((3, 2)), np.zeros(4, int)), r"labels of shape \(4,\); got \(3, 2\)"),
    (lambda: same(np.zeros((3, 2)), np.zeros((3, 3))), "`reference` must have shape"),
    (lambda: cosine(np.zeros((3, 2)), np.zeros((3, 3))), "`reference` must have shape"),
    (lambda: explained(np.zeros((3, 2)), np.zeros((3, 3))), "`reference` must have shape"),
    *((partial(f, np.zeros((0, 2)), np.zeros((0, 2))), "`output` must not be empty")
      for f in (same, cosine, explained)),
    (lambda: right(np.zeros((0, 2)), np.zeros(0, int)), "`output` must not be empty"),
    *((partial(f, np.zeros((1, 2)), np.array([[1, np.inf]])), "`reference` must be finite")
      for f in (cosine, explained)),
    (lambda: paired_drop(np.zeros((4, 2)), np.zeros((4, 2)), rng=np.random.default_rng(0)),
     r"`before` must have one score an example; got shape \(4, 2\)"),
    (lambda: paired_drop(np.zeros(2), np.array([0, np.nan]), rng=np.random.default_rng(0)),
     "`after` must be finite"),
    (lambda: paired_drop(np.zeros(0), np.zeros(0), rng=np.random.default_rng(0)), "`before`"),
    (lambda: paired_drop(np.zeros(2), np.zeros(3), rng=np.random.default_rng(0)), "`after`"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
