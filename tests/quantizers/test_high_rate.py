"""High-rate theory: constants, and that the exact optima tend to them from below."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.quantizers.high_rate import bennett, entropy_coded, panter_dite, shannon_bound
from refquant.quantizers.lloyd_max import gauss, laplace, lloyd_max

both = pytest.mark.parametrize("density", [gauss, laplace], ids=["gauss", "laplace"])


def test_golden_O6_panter_dite_constants():
    assert panter_dite(gauss, 0) == pytest.approx(3**0.5 * np.pi / 2, abs=1e-11)
    assert panter_dite(laplace, 0) == pytest.approx(4.5, abs=1e-11)


def test_golden_O7_entropy_coding_gap_and_bounds():
    ratio = entropy_coded(gauss, 3) / shannon_bound(gauss, 3)
    assert 10 * np.log10(ratio) == pytest.approx(1.532931042, abs=1e-9)
    assert np.log2(ratio) / 2 == pytest.approx(0.2546143348, abs=1e-10)
    assert entropy_coded(laplace, 0) == pytest.approx(1.23150935, abs=1e-8)
    assert shannon_bound(laplace, 0) == pytest.approx(0.8652559794, abs=1e-10)


@both
def test_the_best_levels_approach_panter_dite_from_below(density):
    ratios = [lloyd_max(density, 2**b).mse / panter_dite(density, b) for b in range(1, 11)]
    assert (np.diff(ratios) > 0).all()
    assert 0.997 < ratios[-1] < 1


@both
@given(width=st.floats(0.7, 4), k=st.integers(1, 100))
def test_no_placement_beats_the_cube_root(density, width, k):
    normal = lambda x: np.exp(-((x / width) ** 2) / 2) / (width * np.sqrt(2 * np.pi))  # noqa: E731
    assert bennett(density, normal, k) >= panter_dite(density, np.log2(k)) * (1 - 1e-9)


@both
def test_the_cube_root_placement_reaches_panter_dite(density):
    total = 2 * np.trapezoid(density.pdf(np.linspace(0, 60, 2_000_001)) ** (1 / 3), dx=3e-5)
    placed = bennett(density, lambda x: density.pdf(x) ** (1 / 3) / total, 4)
    assert placed == pytest.approx(panter_dite(density, 2), rel=1e-8)


@both
@given(bits=st.floats(0, 12))
def test_order_of_the_four_errors(density, bits):
    assert (shannon_bound(density, bits) < entropy_coded(density, bits)
            < panter_dite(density, bits))
    assert panter_dite(density, bits + 1) == pytest.approx(panter_dite(density, bits) / 4)


def test_levels_that_thin_out_too_fast_have_infinite_error():
    narrow = lambda x: np.exp(-(x**2) * 2) * np.sqrt(2 / np.pi)  # noqa: E731
    assert bennett(gauss, narrow, 16) > 1e6


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        bennett(gauss, gauss.pdf, 0)
