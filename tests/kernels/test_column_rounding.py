"""The fast twin of GPTQ: the codes of the loop, on grids of every kind."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Range
from refquant.kernels import column_rounding
from refquant.kernels.column_rounding import RoundedColumns, round_and_fit, round_columns
from refquant.ptq._curvature import damped
from refquant.ptq.gptq import column_by_column, gptq
from refquant.quantizers.codebook import nearest
from refquant.quantizers.uniform import asymmetric, symmetric

SEEDS = st.integers(0, 2**32 - 1)


def ranged(w):
    r = Range.of(w, axis=1)
    return asymmetric(np.minimum(r.low, 0), np.maximum(r.high, 0), bits=3)


def per_row(w):
    return symmetric(absmax(w, axis=1), bits=4)


def per_tensor(w):
    return symmetric(absmax(w), bits=4)


def short_scale(w):
    """A float32 scale: the general way, through `encode` and `decode`."""
    return symmetric(absmax(w.astype(np.float32), axis=1), bits=4)


def levels(w):
    return nearest(np.array([-2.0, -0.5, 0.0, 0.1, 1.0]))


FITS = [ranged, per_row, per_tensor, short_scale, levels]


def problem(seed, out, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(2 * n + 1, n)) @ (np.eye(n) + rng.normal(size=(n, n)) / n**0.5)
    return rng.normal(size=(out, n)), x.T @ x / len(x)


@given(SEEDS, st.integers(1, 9), st.integers(1, 40), st.sampled_from(FITS))
@example(0, 3, 8, per_row)
@example(0, 3, 9, per_row)
@settings(max_examples=30)
def test_known_grids_give_the_codes_of_the_loop(seed, out, n, fit):
    w, h = problem(seed, out, n)
    slow, fast = column_by_column(w, h, fit), gptq(w, h, fit)
    assert np.array_equal(slow.codes, fast.codes)
    assert np.array_equal(slow.weight, fast.weight)


@given(SEEDS, st.integers(1, 9), st.integers(1, 6), st.integers(1, 7), st.sampled_from(FITS))
@settings(max_examples=30)
def test_grids_fitted_on_the_way_give_the_codes_of_the_loop(seed, out, groups, size, fit):
    w, h = problem(seed, out, groups * size)
    slow = column_by_column(w, h, fit, group_size=size)
    fast = gptq(w, h, fit, group_size=size)
    assert np.array_equal(slow.codes, fast.codes)
    assert np.allclose(slow.weight, fast.weight, rtol=1e-9, atol=1e-12)
    assert len(slow.quantizers) == len(fast.quantizers) == groups


@pytest.mark.parametrize(("width", "group_size"), [(300, None), (300, 150), (320, 160)])
@pytest.mark.parametrize("fit", [ranged, per_row])
def test_the_codes_do_not_depend_on_blocks(width, group_size, fit, monkeypatch):
    """Widths that no block divides, and groups longer than a block."""
    w, h = problem(1, 7, width)
    slow = column_by_column(w, h, fit, group_size=group_size)
    for block in (128, 17, 1000):
        monkeypatch.setattr(column_rounding, "_BLOCK", block)
        assert np.array_equal(gptq(w, h, fit, group_size=group_size).codes, slow.codes)


def test_columns_may_belong_to_any_grid():
    w, h = problem(2, 4, 12)
    grids = [ranged(w[:, :6]), ranged(w[:, 6:])]
    group_of = np.array([0, 1] * 6)
    made = round_columns(w, damped(w, h, 0.01)[1], grids, group_of)
    assert isinstance(made, RoundedColumns)
    for g in (0, 1):
        mine = group_of == g
        assert np.array_equal(grids[g].decode(made.codes[:, mine]), made.weight[:, mine])


def test_the_fit_sees_contiguous_columns_in_their_order():
    w, h = problem(3, 5, 8)
    seen = []

    def spy(block):
        seen.append(block.copy())
        return per_row(block)

    made = round_and_fit(w, damped(w, h, 0.01)[1], spy, 4)
    assert np.array_equal(seen[0], w[:, :4])
    assert [b.shape for b in seen] == [(5, 4)] * 2
    assert made.codes.flags.c_contiguous
    assert made.weight.flags.c_contiguous


@pytest.mark.parametrize("rounding", [
    lambda w, h: round_columns(w, h, [per_row(w)], np.zeros(w.shape[1], int)),
    lambda w, h: round_and_fit(w, h, per_row, 4),
])
def test_a_hessian_that_is_not_positive_definite_is_refused_and_nothing_is_changed(rounding):
    w, h = problem(4, 3, 8)
    before = w.copy(), h.copy()
    rounding(w, h)
    assert np.array_equal(w, before[0])
    assert np.array_equal(h, before[1])
    with pytest.raises(ValueError, match="`hessian` must be positive definite once damped"):
        rounding(w, -h)


@given(SEEDS, st.integers(1, 5), st.integers(1, 12))
@settings(max_examples=15)
def test_a_diagonal_stands_in_for_the_hessians_own(seed, out, n):
    w, h = problem(seed, out, n)
    diagonal = np.diag(h) * np.linspace(1, 2, n)
    whole = h + np.diag(diagonal - np.diag(h))
    rest = h - np.diag(np.diag(h))              # far from definite
    for made in (
        lambda h, d: round_columns(w, h, [ranged(w)], np.zeros(n, int), diagonal=d),
        lambda h, d: round_and_fit(w, h, ranged, 1, diagonal=d),
    ):
        assert np.array_equal(made(whole, None).codes, made(rest, diagonal).codes)


@pytest.mark.parametrize("view", [
    lambda a: a[::-1, ::-1], lambda a: a.T, lambda a: np.repeat(np.repeat(a, 2, 0), 2, 1)[::2, ::2],
])
def test_views_of_a_hessian_are_left_alone(view):
    """Read backwards, the first is in the order that LAPACK would overwrite."""
    w, h = problem(5, 3, 8)
    seen = view(np.array(view(h)))
    before = seen.copy()
    made = round_columns(w, seen, [per_row(w)], np.zeros(8, int))
    assert np.array_equal(seen, before)
    assert np.array_equal(made.codes, round_columns(w, h, [per_row(w)], np.zeros(8, int)).codes)


def test_a_float32_weight_and_hessian_are_rounded_as_the_numbers_they_are():
    w, h = (a.astype(np.float32) for a in problem(6, 5, 24))
    for size in (None, 8):
        short = gptq(w, h, per_row, group_size=size)
        exact = gptq(w.astype(float), h.astype(float), per_row, group_size=size)
        assert short.weight.dtype == np.float32
        assert np.array_equal(short.codes, exact.codes)
        assert np.array_equal(short.weight, exact.weight.astype(np.float32))


def test_large_layers_have_the_codes_of_the_loop():
    """300,000 codes with correlated inputs; none is so near to a tie that rounding decides it."""
    for seed, n in ((0, 384), (1, 384), (2, 300)):
        w, h = problem(seed, 256, n)
        for size in (None, n // 3):
            assert np.array_equal(column_by_column(w, h, ranged, group_size=size).codes,
                                  gptq(w, h, ranged, group_size=size).codes)
