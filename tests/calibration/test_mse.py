"""Least-squares ranges: searched, exact, alternating."""

import itertools
from functools import partial

import numpy as np
import pytest
from _oracles.samples import (
    POWERS,
    W8,
    assert_leaves_argument_alone,
    assert_refuses_bad_data,
    matrices,
    vectors,
)
from hypothesis import assume, example, given
from hypothesis import strategies as st

from refquant.calibration import mse
from refquant.calibration.aciq import aciq_bound
from refquant.calibration.minmax import absmax, minmax
from refquant.calibration.mse import (
    alternating_scale,
    omse,
    omse_range,
    optimal_scale,
    two_tensors,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, asymmetric, half_open, symmetric

GRIDS = st.sampled_from([(-1, 1), (-2, 1), (-8, 7), (-7, 7), (0, 3)])
MAKES = st.builds(partial, st.sampled_from([symmetric, half_open]), bits=st.integers(2, 5))


def sse(x, quantizer, p=2.0):
    return float(np.sum(np.abs(x.astype(np.float64) - fake_quantize(x, quantizer)) ** p))


def row_sse(x, quantizer):
    return np.sum((x.astype(np.float64) - fake_quantize(x, quantizer)) ** 2, axis=1)


@given(matrices(), MAKES, st.integers(1, 30))
def test_omse_is_the_best_of_its_candidates_in_every_row(x, make, candidates):
    found = row_sse(x, omse(x, make, axis=1, candidates=candidates))
    shares = np.arange(1, candidates + 1) / candidates
    every = [row_sse(x, make(absmax(x, axis=1) * share)) for share in shares]
    assert np.allclose(found, np.min(every, axis=0), rtol=1e-12)
    assert (found <= every[-1]).all()                                   # min-max, exactly


@given(vectors(dtype=np.float64), st.integers(2, 5), st.sampled_from([1.0, 2.4, 3.0]))
def test_omse_of_another_power_is_the_best_in_that_power(x, bits, p):
    make = partial(symmetric, bits=bits)
    found = sse(x, omse(x, make, candidates=20, p=p), p)
    every = [sse(x, make(absmax(x) * k / 20), p) for k in range(1, 21)]
    assert found == pytest.approx(min(every), rel=1e-12)


@given(vectors(), MAKES, POWERS)
def test_omse_scales_with_the_data(x, make, factor):
    factor = x.dtype.type(factor)
    assume(x.any())
    plain, scaled = (omse(a, make, candidates=20).scale for a in (x, x * factor))
    assert np.array_equal(scaled, plain * factor)


@given(vectors(), st.integers(2, 5))
def test_omse_of_symmetric_levels_does_not_see_signs(x, bits):
    make = partial(symmetric, bits=bits)
    plain, mirrored = (omse(a, make, candidates=20).scale for a in (x, -x))
    assert np.array_equal(plain, mirrored)


def test_equal_errors_go_to_the_larger_bound():
    asked = []

    def indifferent(bound):
        asked.append(bound)
        return symmetric(np.array(5.0), bits=4)

    omse(W8, indifferent, candidates=7)
    assert asked[-1] == 0.9


@given(matrices(), st.integers(2, 4))
def test_ranges_shrunk_together_are_searched_alike(x, bits):
    make = partial(asymmetric, bits=bits)
    found = row_sse(x, omse_range(x, make, axis=1, candidates=12))
    low, high = minmax(x, axis=1)
    every = [row_sse(x, make(low * (k / 12), high * (k / 12))) for k in range(1, 13)]
    assert np.allclose(found, np.min(every, axis=0), rtol=1e-12)


@given(vectors(dtype=np.float64), GRIDS)
@example(np.zeros(3), (-1, 1))
@example(np.array([-1.0, -2.0]), (0, 3))
@example(np.array([1.0, 1.0, -1.0]), (-2, 1))
def test_exact_scale_beats_every_point_of_a_fine_grid(x, grid):
    least = sse(x, optimal_scale(x, *grid))
    zero = np.zeros(1, np.int32)
    for scale in np.geomspace(1e-3, 3, 150) * max(np.abs(x).max(), 1e-6):
        assert least <= sse(x, Uniform(np.array([scale]), zero, *grid)) * (1 + 1e-9) + 1e-12


@given(st.lists(st.integers(-6, 6), min_size=1, max_size=4), st.sampled_from([(-1, 1), (-2, 1)]))
def test_exact_scale_is_the_least_over_all_code_vectors(values, grid):
    # For any codes whatever the best scale is <x,q>/<q,q>: no search over scales at all.
    x = np.array(values, float)
    least = x @ x
    for codes in itertools.product(range(grid[0], grid[1] + 1), repeat=len(x)):
        q = np.array(codes, float)
        if x @ q > 0:
            least = min(least, x @ x - (x @ q) ** 2 / (q @ q))
    assert sse(x, optimal_scale(x, *grid)) == pytest.approx(least, abs=1e-9)


@given(vectors(dtype=np.float64), GRIDS, st.floats(0.05, 2))
def test_exact_is_no_worse_than_alternating_than_its_start(x, grid, start):
    start = np.array([start * max(np.abs(x).max(), 1e-3)])
    run = alternating_scale(x, *grid, start)
    slack = 1e-9 * (1 + x @ x)
    assert (np.diff(run.errors) <= slack).all()
    assert run.converged
    assert sse(x, optimal_scale(x, *grid)) <= run.errors[-1] + slack


@given(vectors(dtype=np.float64), GRIDS, POWERS)
def test_exact_scale_scales_with_the_data(x, grid, factor):
    plain, scaled = (optimal_scale(a, *grid).scale for a in (x, x * factor))
    if sse(x, optimal_scale(x, *grid)) < x @ x:         # else the zero rule: 1
        assert np.array_equal(scaled, plain * factor)


@given(vectors(dtype=np.float64), GRIDS)
def test_error_of_the_exact_scale_is_orthogonal_to_what_it_reconstructs(x, grid):
    x_hat = fake_quantize(x, optimal_scale(x, *grid))
    assert abs((x - x_hat) @ x_hat) <= 1e-9 * (1 + x @ x)


@given(matrices())
def test_least_squares_never_lose_to_coarser_granularity(x):
    fine = row_sse(x, optimal_scale(x, -7, 7, axis=1)).sum()
    coarse = row_sse(x, optimal_scale(x, -7, 7)).sum()
    assert fine <= coarse * (1 + 1e-9) + 1e-9


def test_golden_c8():
    best = optimal_scale(W8, -8, 7)
    assert best.scale == pytest.approx(0.12268518518518519, abs=1e-9)
    assert sse(W8, best) == pytest.approx(0.009421296296296308, abs=1e-9)
    min_max = symmetric(np.array(0.9), bits=4)
    assert sse(W8, min_max) == pytest.approx(0.011326530612244895, abs=1e-9)


def test_golden_c9():
    best = optimal_scale(W8, -1, 1)
    assert best.scale == pytest.approx(0.5875, abs=1e-9)
    assert sse(W8, best) == pytest.approx(0.254375, abs=1e-9)
    stuck = alternating_scale(W8, -1, 1, np.array([0.9]))
    assert stuck.converged
    assert stuck.quantizer.scale == pytest.approx(0.8, abs=1e-9)
    assert stuck.errors[-1] == pytest.approx(0.355, abs=1e-9)


def test_alternation_cut_short_says_so():
    x = np.random.default_rng(0).standard_normal(500)
    assert not alternating_scale(x, -7, 7, np.array([1.0]), max_iterations=1).converged


def test_blocks_are_solved_each_on_its_own():
    x = np.random.default_rng(0).standard_normal((3, 4, 5))
    together = optimal_scale(x, -7, 7, axis=(0, 2))
    assert together.scale.shape == (1, 4, 1)
    searched = omse(x, partial(symmetric, bits=3), axis=(0, 2))
    assert searched.scale.shape == (1, 4, 1)
    for k in range(4):
        assert optimal_scale(x[:, k], -7, 7).scale.item() == together.scale[0, k, 0]
        assert omse(x[:, k], partial(symmetric, bits=3)).scale.item() == searched.scale[0, k, 0]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_search_errs_less_than_min_max_and_aciq_on_heavy_tails(bits):
    x = np.random.default_rng(0).laplace(size=20_000)
    make = partial(symmetric, bits=bits)
    found = sse(x, omse(x, make))
    assert found <= 0.75 * sse(x, make(absmax(x)))
    # The candidates are a percent apart, so a bound between two may be a trifle better.
    assert found <= sse(x, make(aciq_bound(x, bits=bits))) * 1.001


@pytest.mark.parametrize("bits", [2, 4])
def test_two_tensors_err_less_than_one(bits):
    x = np.random.default_rng(0).standard_normal((8, 64))
    fit = partial(omse, make=partial(symmetric, bits=bits), axis=1)
    pair = two_tensors(x, fit)
    first = fake_quantize(x, pair.first)
    assert np.array_equal(pair.value, first + fake_quantize(x - first, pair.second))
    assert np.sum((x - pair.value) ** 2) < 0.5 * np.sum((x - first) ** 2)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("make", [symmetric, half_open])
def test_large_arrays_are_answered_by_the_histogram_alike(bits, make, monkeypatch):
    # 32 times fewer values to a bin than the threshold asks for, hence the looser bound.
    monkeypatch.setattr(mse, "VALUES_PER_BIN", 0.5)
    x = np.random.default_rng(0).laplace(size=2**17).astype(np.float32)
    make = partial(make, bits=bits)
    fast = omse(x, make, candidates=40)
    monkeypatch.setattr(mse, "VALUES_PER_BIN", np.inf)
    slow = omse(x, make, candidates=40)
    assert sse(x, fast) <= sse(x, slow) * (1 + 2e-6)


def test_levels_without_a_fast_twin_are_searched_directly(monkeypatch):
    monkeypatch.setattr(mse, "VALUES_PER_BIN", 0)
    monkeypatch.setattr(mse, "ValueHistogram", None)
    x = np.random.default_rng(0).standard_normal(1000)
    wide = omse(x, partial(symmetric, bits=12), candidates=5)       # too many codes for the bins
    assert wide.scale == absmax(x) / 2047
    fixed = Uniform(np.array(0.1), np.array(0), -7, 7)
    assert omse(x, lambda bound: fixed, candidates=3) is fixed


def test_float32_stays_float32():
    x = W8.astype(np.float32)
    assert omse(x, partial(symmetric, bits=4)).scale.dtype == np.float32
    assert optimal_scale(x, -8, 7).scale.dtype == np.float32
    assert alternating_scale(x, -8, 7, np.float32([1])).quantizer.scale.dtype == np.float32


@pytest.mark.parametrize(
    "calibrate",
    [
        partial(omse, make=partial(symmetric, bits=4)),
        partial(omse_range, make=partial(asymmetric, bits=4)),
        partial(optimal_scale, qmin=-7, qmax=7),
        partial(alternating_scale, qmin=-7, qmax=7, scale=np.array(1.0)),
    ],
)
def test_bad_data_are_refused(calibrate):
    assert_refuses_bad_data(calibrate)
    assert_leaves_argument_alone(calibrate)


def test_bad_settings_are_refused():
    make = partial(symmetric, bits=4)
    with pytest.raises(ValueError, match="`candidates` must be at least 1"):
        omse(W8, make, candidates=0)
    with pytest.raises(ValueError, match="`p` must be positive"):
        omse(W8, make, p=0.0)
    with pytest.raises(ValueError, match="`qmax` must be at least 1"):
        optimal_scale(W8, -1, 0)
    with pytest.raises(ValueError, match="`qmin` must be at most 0"):
        optimal_scale(W8, 1, 2)
    with pytest.raises(ValueError, match="`scale` must be positive"):
        alternating_scale(W8, -1, 1, np.array([0.0]))


def test_zeros_get_scale_one():
    zeros = np.zeros(4)
    assert omse(zeros, partial(symmetric, bits=4)).scale == 1
    assert optimal_scale(zeros, -7, 7).scale == 1
    assert alternating_scale(zeros, -7, 7, np.array([0.5])).quantizer.scale == 0.5


@pytest.mark.parametrize("power", [-900, 900])
def test_exact_scale_does_not_leave_float64(power):
    expected = np.ldexp(optimal_scale(W8, -1, 1).scale, power)
    assert np.array_equal(optimal_scale(np.ldexp(W8, power), -1, 1).scale, expected)


def test_axes_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="`axis` must be at most 1; got 2"):
        optimal_scale(np.ones((2, 3)), -1, 1, axis=2)


@pytest.mark.parametrize("p", [None, "4"])
def test_a_power_that_is_no_number_is_refused(p):
    with pytest.raises(TypeError, match="`p` must be a real number; got "):
        omse(np.array([1.0, 2.0]), partial(symmetric, bits=4), p=p)
