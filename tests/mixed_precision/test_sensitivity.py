"""Sensitivity: tables that survive an interrupt, divergences by hand, exact second-order terms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.mixed_precision.sensitivity import (
    added_loss,
    fisher_diagonal,
    one_at_a_time,
    prediction_divergence,
    weighted_error,
)

SEEDS = st.integers(0, 2**32 - 1)
LOGITS = arrays(np.float64, (4, 3), elements=st.floats(-30, 30))


@given(st.integers(1, 4), st.integers(1, 4), st.data())
def test_an_interrupted_table_goes_on_where_it_stopped(layers, choices, data):
    stop = data.draw(st.integers(1, layers * choices))
    full = np.arange(layers * choices, dtype=float).reshape(layers, choices)
    calls, saved = [], []

    def measure(layer, choice):
        calls.append((layer, choice))
        return full[layer, choice]

    def interrupt(done, total, table):
        assert total == full.size
        assert np.isfinite(table).sum() == done
        saved.append(table)
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        one_at_a_time(measure, full.shape, progress=interrupt)
    again = one_at_a_time(measure, full.shape, known=saved[-1])
    assert np.array_equal(again, full)
    assert sorted(calls) == sorted(set(calls))              # nothing is measured twice
    assert np.isnan(saved[-1]).sum() == full.size - stop    # what was saved did not change


def test_entries_may_be_measured_in_any_order_if_their_values_come_in_theirs():
    full, known = np.arange(6.0).reshape(2, 3), np.full((2, 3), np.nan)
    known[0, 1] = 7

    def backwards(measure, entries):
        return [measure(*one) for one in reversed(entries)][::-1]

    found = one_at_a_time(lambda i, k: full[i, k], (2, 3), known=known, each=backwards)
    assert np.array_equal(found, np.where(np.isnan(known), full, known))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_measure_that_is_not_finite_is_named(value):
    with pytest.raises(ValueError, match=r"must be finite; got .* at \(0, 1\)"):
        one_at_a_time(lambda i, k: value if k else 0.0, (1, 2))


def test_a_table_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="`known` must have shape"):
        one_at_a_time(lambda i, k: 0.0, (2, 2), known=np.zeros((1, 2)))
    with pytest.raises(ValueError, match="`shape` must be at least 1"):
        one_at_a_time(lambda i, k: 0.0, (0, 2))


@given(LOGITS, LOGITS)
def test_the_divergence_is_that_of_the_definition(a, b):
    total = 0.0
    for row, other in zip(a, b, strict=True):
        p = [math.exp(x - max(row)) for x in row]
        q = [math.exp(x - max(other)) for x in other]
        total += sum(x / sum(p) * math.log((x / sum(p)) / (y / sum(q)))
                     for x, y in zip(p, q, strict=True))
    assert prediction_divergence(a, b) == pytest.approx(total / 4, rel=1e-9, abs=1e-12)


@given(LOGITS, LOGITS, st.floats(-5, 5))
def test_the_divergence_is_not_negative_and_0_for_shifted_logits(a, b, shift):
    assert prediction_divergence(a, b) >= 0
    assert prediction_divergence(a, a + shift) == pytest.approx(0, abs=1e-12)


def test_the_divergence_is_weighted_by_the_first_network():
    """(1/2, 1/2) against (1/4, 3/4), by hand, and the other way round."""
    even, uneven = np.zeros((1, 2)), np.array([[0.0, np.log(3)]])
    one_way = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    other_way = 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2)
    assert prediction_divergence(even, uneven) == pytest.approx(one_way, rel=1e-12)
    assert prediction_divergence(uneven, even) == pytest.approx(other_way, rel=1e-12)


def test_classes_that_are_ruled_out_make_no_infinity():
    a, b = np.array([[1e4, -1e4]]), np.array([[-1e4, 1e4]])
    assert prediction_divergence(a, a) == 0
    assert prediction_divergence(a, b) == 2e4
    assert prediction_divergence(np.float32(a), np.float32(b)) == 2e4


@given(SEEDS)
def test_small_changes_diverge_by_half_their_variance(seed):
    rng = np.random.default_rng(seed)
    z, d = rng.normal(size=(2, 5, 4))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    variance = (p * d**2).sum(1) - (p * d).sum(1) ** 2
    small = prediction_divergence(z, z + 1e-3 * d)
    assert small == pytest.approx(0.5e-6 * variance.mean(), rel=2e-2)


@pytest.mark.parametrize(("a", "b", "error"), [
    (np.zeros((2, 3)), np.zeros((3, 2)), "`other` must have shape"),
    (np.zeros((0, 3)), np.zeros((0, 3)), "`logits` must not be empty"),
    (np.zeros(3), np.zeros(3), "`logits` must have shape"),
    (np.full((1, 2), np.inf), np.zeros((1, 2)), "`logits` must be finite"),
])
def test_logits_that_do_not_fit_are_refused(a, b, error):
    with pytest.raises(ValueError, match=error):
        prediction_divergence(a, b)


def test_a_loss_that_falls_counts_as_the_least():
    table = added_loss(np.array([[0.2, 0.1], [0.05, 3.0]]), 0.1, least=1e-4)
    assert np.allclose(table, [[0.1, 1e-4], [1e-4, 2.9]])


@given(SEEDS)
def test_half_the_weighted_error_is_the_loss_of_a_bowl(seed):
    """Where the loss is a quadratic without mixed terms, the table is the truth."""
    rng = np.random.default_rng(seed)
    w = [rng.normal(size=(2, 3)), rng.normal(size=4)]
    h = [np.abs(rng.normal(size=x.shape)) for x in w]
    candidates = [[x.round(), np.zeros_like(x), x] for x in w]
    table = weighted_error(w, candidates, h)
    for i in range(2):
        for k in range(3):
            loss = 0.5 * (h[i] * (candidates[i][k] - w[i]) ** 2).sum()
            assert table[i, k] / 2 == pytest.approx(loss, rel=1e-12)
    assert (table[:, 2] == 0).all()
    scalar = weighted_error(w, candidates, [3.0, 0.5])
    assert np.allclose(scalar, np.array([[3.0], [0.5]]) * weighted_error(w, candidates))


def test_candidates_that_do_not_fit_are_refused():
    w = np.zeros(2)
    with pytest.raises(ValueError, match="must be of one length; got 1, 2 and 1"):
        weighted_error([w], [[w], [w]])
    with pytest.raises(ValueError, match="must be of one length"):
        weighted_error([], [])
    with pytest.raises(ValueError, match=r"rows of one length; got \[1, 2\]"):
        weighted_error([w, w], [[w], [w, w]])
    with pytest.raises(ValueError, match=r"candidates\[0\]\[1\]"):
        weighted_error([w], [[w, np.zeros(3)]])


def test_the_fisher_diagonal_is_the_hessian_diagonal_when_labels_follow_the_predictions():
    """One linear layer, p = (1/4, 3/4): four labels in just that proportion."""
    x, p = np.array([0.5, -2.0, 1.0]), np.array([0.25, 0.75])
    gradients = [np.outer(p - np.eye(2)[label], x) for label in (0, 1, 1, 1)]
    hessian = np.kron(np.diag(p) - np.outer(p, p), np.outer(x, x))
    assert np.allclose(fisher_diagonal(gradients).ravel(), np.diag(hessian))


def test_the_square_of_the_mean_gradient_is_not_the_fisher_diagonal():
    gradients = [np.array([1.0]), np.array([-1.0])]
    assert fisher_diagonal(gradients) == 1
    assert np.square(np.mean(gradients, axis=0)) == 0


def test_gradients_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="at least one gradient"):
        fisher_diagonal([])
    with pytest.raises(ValueError, match="`gradients` must have shape"):
        fisher_diagonal([np.zeros(2), np.zeros(1)])
    with pytest.raises(TypeError, match="float32 or float64"):
        fisher_diagonal([np.array([1, 2])])
