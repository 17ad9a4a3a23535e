"""The cascade: who answers, what it costs, and that its threshold is the least that will do."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.apply.cascade import Answers, cascade, margin, threshold_for

PAIRS = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()),
                 min_size=1, max_size=12)
SHARES = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0])


def differs(margins, agrees, threshold):
    return ((margins >= threshold) & ~agrees).mean()


@given(pairs=PAIRS, at_most=SHARES)
@example(pairs=[(0.5, False), (0.5, True), (0.5, False)], at_most=1 / 3)      # ties go together
def test_the_threshold_is_the_least_one_of_all_that_will_do(pairs, at_most):
    margins, agrees = np.array([m for m, _ in pairs]), np.array([a for _, a in pairs])
    found = threshold_for(margins, agrees, at_most=at_most)
    assert differs(margins, agrees, found) <= at_most
    smaller = [t for t in (0.0, *np.nextafter(margins, 2)) if t < found]
    assert all(differs(margins, agrees, t) > at_most for t in smaller)


@given(seed=st.integers(0, 1000), threshold=st.floats(0, 1))
def test_each_input_has_the_answer_of_one_network_and_the_large_one_sees_no_more_than_it_must(
        seed, threshold):
    rng = np.random.default_rng(seed)
    first, second = rng.standard_normal((2, 9, 4))
    shown = []

    def high(x):
        shown.extend(x.tolist())
        return second[x]

    before = first.copy()
    answers = cascade(np.arange(9), lambda x: first[x], high, threshold=threshold)
    unsure = margin(first) < threshold
    assert np.array_equal(answers.asked_twice, unsure)
    assert np.array_equal(answers.logits, np.where(unsure[:, None], second, first))
    assert shown == np.flatnonzero(unsure).tolist()
    assert np.array_equal(first, before)


def test_the_ends_of_the_threshold_are_the_two_networks():
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((2, 20, 3))
    ask = (lambda x: first[x], lambda x: second[x])
    assert np.array_equal(cascade(np.arange(20), *ask, threshold=0).logits, first)
    always = cascade(np.arange(20), *ask, threshold=1.1)
    assert np.array_equal(always.logits, second)
    assert always.mean_bits(4, 8) == 12


def test_a_margin_that_just_reaches_the_threshold_is_answered_at_once():
    first = np.array([[0.3, 0.1, -0.5]])
    answers = cascade(first, lambda x: x, lambda x: -x, threshold=float(margin(first)[0]))
    assert not answers.asked_twice.any()


def test_the_margin_does_not_mind_an_offset_and_grows_with_the_logits():
    logits = np.random.default_rng(0).standard_normal((30, 5))
    assert np.allclose(margin(logits + 7), margin(logits))
    assert (margin(2 * logits) > margin(logits)).all()
    p = np.sort(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), axis=1)
    assert np.allclose(margin(logits), p[:, -1] - p[:, -2])


def test_half_asked_twice_at_4_and_8_bits_is_where_nothing_is_saved():
    assert Answers(np.zeros((2, 2)), np.array([True, False])).mean_bits(4, 8) == 8


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="`logits` must have shape"):
        margin(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="`logits` must be finite; got inf"):
        margin(np.array([[np.inf, 0.0]]))
    with pytest.raises(TypeError, match="`agrees` must be of bool; got float64"):
        threshold_for(np.zeros(2), np.zeros(2), at_most=0)
    with pytest.raises(ValueError, match=r"`agrees` must have shape \(2,\); got \(3,\)"):
        threshold_for(np.zeros(2), np.zeros(3, bool), at_most=0)
    with pytest.raises(ValueError, match=r"`at_most` must lie in \[0, 1\]; got nan"):
        threshold_for(np.zeros(2), np.zeros(2, bool), at_most=np.nan)
    with pytest.raises(ValueError, match="`threshold` must not contain NaN"):
        cascade(np.zeros(2), lambda x: np.zeros((2, 2)), lambda x: x, threshold=np.nan)
    with pytest.raises(ValueError, match=r"`logits of `high`` must have shape \(2, 2\)"):
        cascade(np.zeros(2), lambda x: np.zeros((2, 2)), lambda x: np.zeros((2, 3)), threshold=1)
