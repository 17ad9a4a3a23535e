"""Pruning: masks that meet their sparsity exactly, and channels that can go."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from refquant.compression.pruning import (
    Cut,
    channel_scores,
    cut_channels,
    gradual,
    keep_largest,
    keep_largest_of_all,
    keep_n_of_m,
    surgeon_scores,
)

SEEDS = st.integers(0, 2**32 - 1)
#: Few different values, so that many scores tie.
SCORES = arrays(np.float64, array_shapes(max_dims=3, max_side=6),
                elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf]))
SHARES = st.floats(0, 1)


@given(SCORES, SHARES)
@example(np.ones(7), 0.5)
def test_the_sparsity_is_met_exactly_and_no_smaller_score_stays(scores, sparsity):
    mask = keep_largest(scores, sparsity)
    assert mask.shape == scores.shape
    assert (~mask).sum() == round(sparsity * scores.size)
    if mask.any() and not mask.all():
        assert scores[mask].min() >= scores[~mask].max()


@given(SCORES, SHARES, SHARES)
def test_a_sparser_mask_lies_within_a_denser_one(scores, one, other):
    sparse, dense = (keep_largest(scores, s) for s in sorted((one, other), reverse=True))
    assert not (sparse & ~dense).any()


def test_of_weights_that_tie_the_first_stay():
    assert keep_largest(np.ones(4), 0.5).tolist() == [True, True, False, False]


@given(SEEDS, st.integers(1, 8), SHARES)
def test_magnitude_loses_the_least_energy_of_all_masks(seed, n, sparsity):
    w = np.random.default_rng(seed).normal(size=n)
    lost = np.square(w[~keep_largest(np.abs(w), sparsity)]).sum()
    away = round(sparsity * n)
    best = min(np.square(w[list(some)]).sum() for some in combinations(range(n), away))
    assert lost <= best * (1 + 1e-12)


@given(SEEDS, st.lists(st.integers(0, 9), min_size=1, max_size=4), SHARES)
def test_several_arrays_share_one_threshold(seed, sizes, sparsity):
    scores = [np.random.default_rng((seed, i)).normal(size=n) for i, n in enumerate(sizes)]
    masks = keep_largest_of_all(scores, sparsity)
    whole = keep_largest(np.concatenate(scores), sparsity)
    assert np.array_equal(np.concatenate(masks), whole)
    assert [m.shape for m in masks] == [s.shape for s in scores]


@given(SEEDS, st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_each_group_of_m_keeps_its_n_largest(seed, rows, groups, m):
    rng = np.random.default_rng(seed)
    scores, n = rng.integers(0, 4, (rows, groups * m)).astype(float), int(rng.integers(1, m + 1))
    mask = keep_n_of_m(scores, n, m)
    for row, kept in zip(scores, mask, strict=True):
        for i in range(groups):
            mine = slice(i * m, (i + 1) * m)
            assert np.array_equal(kept[mine], keep_largest(row[mine], (m - n) / m))


@given(SEEDS, st.integers(1, 4), st.integers(1, 5))
def test_a_surgeons_score_is_the_error_left_when_the_row_is_solved_again(seed, out, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * n, n))
    w, h = rng.normal(size=(out, n)), x.T @ x
    scores = surgeon_scores(w, h)
    for j in range(n):
        rest = np.delete(np.arange(n), j)
        for i in range(out):
            left = np.linalg.lstsq(x[:, rest], x @ w[i], rcond=None)[0] if n > 1 else np.zeros(0)
            error = np.square(x @ w[i] - x[:, rest] @ left).sum() / 2
            assert scores[i, j] == pytest.approx(error, rel=1e-6, abs=1e-12)


@given(SEEDS)
def test_a_factor_moved_between_layers_changes_no_score_of_a_channel(seed):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(6, 3, 3, 2)), rng.normal(size=(5, 1, 1, 6))
    gauge = np.exp(rng.normal(size=6))
    moved = channel_scores(first / gauge[:, None, None, None], second * gauge)
    assert np.allclose(moved, channel_scores(first, second), rtol=1e-12)


@given(SEEDS, st.integers(1, 6))
def test_channels_that_lead_nowhere_are_cut_without_a_trace(seed, dead):
    rng = np.random.default_rng(seed)
    first, bias, second = rng.normal(size=(7, 3)), rng.normal(size=7), rng.normal(size=(4, 7))
    gone = rng.permutation(7)[:dead]
    second[:, gone] = 0
    made = cut_channels(first, bias, second,
                        keep_largest(channel_scores(first, second), dead / 7))
    assert isinstance(made, Cut)
    assert made.first.shape == (7 - dead, 3)
    x = rng.normal(size=(9, 3))
    old = np.maximum(x @ first.T + bias, 0) @ second.T
    new = np.maximum(x @ made.first.T + made.bias, 0) @ made.second.T
    assert np.allclose(new, old, rtol=1e-12, atol=1e-12)


@given(SHARES, SHARES, st.integers(1, 50))
def test_a_gradual_sparsity_goes_from_start_to_end_and_never_back(start, end, steps):
    way = np.array([gradual(start, end, steps, t) for t in range(steps + 3)])
    assert way[0] == pytest.approx(start)
    assert (way[steps:] == end).all()
    assert (np.diff(way) * np.sign(end - start) >= -1e-15).all()


def test_nothing_is_changed_and_dtypes_are_kept():
    first, second = np.ones((2, 3), np.float32), np.ones((4, 2), np.float32)
    made = cut_channels(first, np.zeros(2, np.float32), second, np.array([True, False]))
    assert {a.dtype for a in made} == {np.dtype(np.float32)}
    made.first[:] = 5
    assert (first == 1).all()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: keep_largest(np.ones(3), 1.5), r"`sparsity` must lie in \[0, 1\]; got 1.5"),
    (lambda: keep_largest(np.ones(3), np.nan), r"`sparsity` must lie in \[0, 1\]; got nan"),
    (lambda: keep_largest(np.array([np.nan]), 0.5), "`scores` must not contain NaN"),
    (lambda: keep_n_of_m(np.ones((2, 6)), 2, 4), r"`m` must divide the last axis of shape"),
    (lambda: keep_n_of_m(np.ones(4), 5, 4), "`n` must be at most 4; got 5"),
    (lambda: gradual(0, 1, 0, 0), "`steps` must be at least 1; got 0"),
    (lambda: gradual(0, 1, 1, -1), "`step` must be at least 0; got -1"),
    (lambda: surgeon_scores(np.ones(2), np.eye(2)), r"`weight` must have shape \(out, in\)"),
    (lambda: surgeon_scores(np.ones((1, 2)), np.eye(3)), r"`hessian` must have shape \(2, 2\)"),
    (lambda: surgeon_scores(np.ones((1, 2)), -np.eye(2)), "`hessian` must be positive definite"),
    (lambda: channel_scores(np.ones((2, 3)), np.ones((2, 3))),
     r"`second` must end in the channels of `first`, shape \(2, 3\); got \(2, 3\)"),
    (lambda: cut_channels(np.ones((1, 3)), np.ones(1), np.ones((2, 1)), np.array([False])),
     r"`keep` must not be empty"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_mask_is_not_a_list_of_indices():
    with pytest.raises(TypeError, match="`keep` must be a mask of bool; got int64"):
        cut_channels(np.ones((2, 3)), np.ones(2), np.ones((2, 2)), np.array([0, 1]))
