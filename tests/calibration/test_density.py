"""The exact error of real levels under Gauss and Laplace densities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import laplace, norm

from refquant.calibration.aciq import GAUSS, LAPLACE, unit_bound
from refquant.calibration.density import expected_mse, optimal_bound

PDF = [(GAUSS, norm.pdf), (LAPLACE, laplace.pdf)]


def affine(bits):
    return np.linspace(-1, 1, 2**bits)


def restricted(bits):
    top = 2 ** (bits - 1) - 1
    return np.arange(-top, top + 1) / top


def full(bits):
    half = 2 ** (bits - 1)
    return np.arange(-half, half) / half


@settings(max_examples=40)
@given(st.lists(st.floats(-6, 6), min_size=1, max_size=6), st.sampled_from(PDF))
def test_error_is_the_integral_of_the_squared_distance(levels, prior_and_pdf):
    prior, pdf = prior_and_pdf
    levels = np.sort(levels)
    cuts = [-30, *(levels[1:] + levels[:-1]) / 2, 30]
    direct = sum(
        quad(lambda x, y=y: (x - y) ** 2 * pdf(x), a, b, points=[0] if a < 0 < b else None)[0]
        for y, a, b in zip(levels, cuts[:-1], cuts[1:], strict=True)
    )
    assert expected_mse(levels, prior) == pytest.approx(direct, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("prior", "variance"), [(GAUSS, 1), (LAPLACE, 2)])
def test_a_level_at_zero_leaves_the_variance(prior, variance):
    assert expected_mse([0.0], prior) == pytest.approx(variance, rel=1e-15)


@settings(max_examples=25)
@given(st.floats(0.3, 8), st.integers(2, 4), st.sampled_from([GAUSS, LAPLACE]))
def test_no_bound_beats_the_optimal_one(bound, bits, prior):
    for grid in (affine, restricted, full):
        least = optimal_bound(grid(bits), prior).mse
        assert least <= expected_mse(bound * grid(bits), prior) + 1e-14


@pytest.mark.parametrize("prior", [GAUSS, LAPLACE], ids=["gauss", "laplace"])
def test_aciq_never_beats_the_optimum_of_real_levels(prior):
    for bits in (2, 3, 4, 8):
        clipped = expected_mse(unit_bound(bits, prior) * affine(bits), prior)
        assert optimal_bound(affine(bits), prior).mse < clipped


@pytest.mark.parametrize(("bits", "expected"), [(2, 1.4935), (4, 2.514), (8, 3.9222)])
def test_golden_c15(bits, expected):
    assert optimal_bound(affine(bits), GAUSS).bound == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("grid", "bounds", "errors"),
    [
        (affine, [1.4935, 2.0511, 2.5140, 3.9222], [0.118846, 0.0374397, 0.0115429, 8.7686e-5]),
        (restricted, [1.2240, 1.9523, 2.4739, 3.9205], [0.190174, 0.04686, 0.0128894, 8.8308e-5]),
        (full, [2.0968, 2.4073, 2.7089, 3.9380], [0.149431, 0.0406382, 0.0118640, 8.7707e-5]),
    ],
)
def test_recomputed_gauss_table(grid, bounds, errors):
    for bits, bound, error in zip((2, 3, 4, 8), bounds, errors, strict=True):
        best = optimal_bound(grid(bits), GAUSS)
        assert best.bound == pytest.approx(bound, abs=1e-4)
        assert best.mse == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize(
    ("grid", "bounds"),
    [
        (affine, [2.3067, 3.6179, 4.8896, 9.8891]),
        (restricted, [2.0000, 3.4864, 4.8199, 9.8827]),
        (full, [3.4341, 4.3131, 5.2908, 9.9291]),
    ],
)
def test_recomputed_laplace_table(grid, bounds):
    for bits, bound in zip((2, 3, 4, 8), bounds, strict=True):
        assert optimal_bound(grid(bits), LAPLACE).bound == pytest.approx(bound, abs=1e-4)


def test_recomputed_laplace_errors_of_levels_at_both_ends():
    expected = [0.392605, 0.143496, 0.0507019, 6.02841e-4]
    for bits, error in zip((2, 3, 4, 8), expected, strict=True):
        assert optimal_bound(affine(bits), LAPLACE).mse == pytest.approx(error, rel=1e-5)


def test_max_table_of_uniform_levels_for_gauss():
    # Step and error of section 5 of the numerics, unit variance, bits 1 to 8.
    steps = [1.595769, 0.995687, 0.586019, 0.335201, 0.188139, 0.104063, 0.056868, 0.030762]
    for bits, step in enumerate(steps, 1):
        found = 2 * optimal_bound(affine(bits), GAUSS).bound / (2**bits - 1)
        assert found == pytest.approx(step, abs=2e-6)


def test_sampled_data_err_as_expected():
    x = np.random.default_rng(0).standard_normal(200_000)
    levels = 2.0 * affine(3)
    error = np.min((x[:, None] - levels) ** 2, axis=1)
    spread = error.std() / x.size**0.5          # standard error of the mean
    assert abs(error.mean() - expected_mse(levels, GAUSS)) < 4 * spread


def test_bad_levels_are_refused():
    with pytest.raises(ValueError, match="must not be empty"):
        expected_mse([], GAUSS)
    with pytest.raises(ValueError, match="must be finite"):
        optimal_bound([0.0, np.inf], GAUSS)
