"""Low rank: what is lost is known exactly, for the weight and for the output."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.compression.low_rank import (
    Factors,
    break_even,
    factorize,
    factorize_for,
    rank_for_energy,
)

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.integers(1, 8)


def problem(seed, out, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * n, n)) @ np.diag(np.exp(rng.normal(size=n)))
    return rng.normal(size=(out, n)), x.T @ x / len(x), rng


def output_error(d, h):
    return np.trace(d @ h @ d.T)


@given(SEEDS, SIDES, SIDES)
def test_the_loss_is_the_tail_of_the_squared_singular_values(seed, out, n):
    w, h, _ = problem(seed, out, n)
    for rank in range(min(out, n) + 1):
        made = factorize(w, rank)
        assert isinstance(made, Factors)
        assert made.left.shape == (out, rank)
        assert made.right.shape == (rank, n)
        assert np.square(w - made.weight).sum() == pytest.approx(made.lost, abs=1e-12 * w.size)
        seen = factorize_for(w, h, rank)
        scale = output_error(w, h)
        assert output_error(w - seen.weight, h) == pytest.approx(seen.lost, abs=1e-10 * scale)


@given(SEEDS, SIDES, SIDES)
def test_no_other_factors_of_the_rank_do_better(seed, out, n):
    w, h, rng = problem(seed, out, n)
    rank = min(out, n) // 2
    other = rng.normal(size=(out, rank)) @ rng.normal(size=(rank, n))
    best, plain = factorize_for(w, h, rank), factorize(w, rank)
    scale = 1 + 1e-10
    assert plain.lost <= np.square(w - other).sum() * scale
    assert plain.lost <= np.square(w - best.weight).sum() * scale + 1e-12
    assert best.lost <= output_error(w - other, h) * scale
    assert best.lost <= output_error(w - plain.weight, h) * scale + 1e-12


@given(SEEDS, SIDES, SIDES)
def test_white_inputs_make_no_difference(seed, out, n):
    w, _, _ = problem(seed, out, n)
    for rank in range(min(out, n) + 1):
        assert np.allclose(factorize_for(w, np.eye(n), rank).weight, factorize(w, rank).weight,
                           atol=1e-9)


@given(SEEDS, SIDES, SIDES)
def test_the_projection_is_the_published_form(seed, out, n):
    """Truncate W S with the Cholesky factor S, and multiply by its inverse."""
    w, h, _ = problem(seed, out, n)
    s, rank = np.linalg.cholesky(h), min(out, n) // 2
    u, sizes, vt = np.linalg.svd(w @ s, full_matrices=False)
    published = (u[:, :rank] * sizes[:rank]) @ vt[:rank] @ np.linalg.inv(s)
    assert np.allclose(factorize_for(w, h, rank).weight, published, rtol=1e-6, atol=1e-8)


@given(SEEDS, st.integers(2, 8), st.integers(2, 8))
def test_inputs_that_are_always_zero_do_no_harm(seed, out, n):
    w, h, _ = problem(seed, out, n)
    h[0], h[:, 0] = 0, 0
    rank = min(out, n - 1)
    made = factorize_for(w, h, rank)
    assert np.isfinite(made.weight).all()
    assert output_error(w - made.weight, h) == pytest.approx(0, abs=1e-10 * output_error(w, h))


@given(SEEDS, SIDES, SIDES, st.floats(0.01, 1))
def test_the_rank_for_an_energy_is_the_least_that_has_it(seed, out, n, share):
    w, _, _ = problem(seed, out, n)
    rank, whole = rank_for_energy(w, share), np.square(w).sum()
    assert whole - factorize(w, rank).lost >= share * whole * (1 - 1e-9)
    assert whole - factorize(w, rank - 1).lost < share * whole * (1 + 1e-9)


def test_a_weight_of_zeros_has_rank_zero():
    assert rank_for_energy(np.zeros((3, 2)), 1.0) == 0
    assert np.array_equal(factorize(np.zeros((3, 2)), 1).weight, np.zeros((3, 2)))


@pytest.mark.parametrize("seed", range(25))
def test_all_of_the_energy_takes_all_directions_and_no_more(seed):
    """A sum in another order may be larger than the last of the sums so far."""
    assert rank_for_energy(np.random.default_rng(seed).standard_normal((12, 12)), 1.0) == 12


@given(st.integers(1, 60), st.integers(1, 60))
def test_at_break_even_one_more_direction_would_be_too_many(out, n):
    rank = break_even((out, n))
    assert rank * (out + n) < out * n <= (rank + 1) * (out + n)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5000))
def test_factors_fit_in_the_numbers_that_are_allowed(out, n, numbers):
    rank = break_even((out, n), numbers)
    assert rank * (out + n) <= numbers
    assert rank == min(out, n) or (rank + 1) * (out + n) > numbers


def test_factors_have_the_dtype_of_the_weight():
    w = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    for made in (factorize(w, 2), factorize_for(w, np.eye(3, dtype=np.float32), 2)):
        assert made.left.dtype == made.right.dtype == made.weight.dtype == np.float32


@pytest.mark.parametrize(("call", "message"), [
    (lambda: factorize(np.ones(3), 1), r"`weight` must have shape \(out, in\); got \(3,\)"),
    (lambda: factorize(np.ones((3, 2)), 3), "`rank` must be at most 2; got 3"),
    (lambda: factorize(np.full((1, 1), np.nan), 1), "`weight` must be finite; got nan"),
    (lambda: factorize_for(np.ones((3, 2)), np.eye(3), 1), r"`hessian` must have shape \(2, 2\)"),
    (lambda: factorize_for(np.ones((3, 2)), -np.eye(2), 1), "must be positive semidefinite"),
    (lambda: factorize_for(np.ones((3, 2)), np.diag([1, -1e-3]), 1), "got eigenvalue -0.001"),
    (lambda: rank_for_energy(np.ones((1, 1)), 0), r"`share` must lie in \(0, 1\]; got 0"),
    (lambda: break_even((0, 3)), "`shape` must be at least 1; got 0"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
