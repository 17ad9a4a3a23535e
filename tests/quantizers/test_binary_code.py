"""Sums of signs: each search against the one below it, and all against brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check
from scipy.stats import norm

from refquant.quantizers.binary import xnor
from refquant.quantizers.binary_code import (
    BinaryCode,
    Coded,
    alternating,
    exhaustive,
    greedy,
    refined,
)

W8 = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
reals = st.floats(-100, 100, width=32)
rows = hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=reals)
SEARCHES = [greedy, refined, alternating]


def squared_error(x, coded):
    return np.sum((x - coded.quantizer.decode(coded.codes)) ** 2)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    "scales",
    [np.array([[[1.0]], [[0.375]], [[0.25]]]), np.array([[[1.0], [2.0]], [[0.25], [0.75]]])],
    ids=["per tensor", "per row"],
)
def test_contract(law, scales):
    check(law, BinaryCode(scales), np.random.default_rng(0).normal(size=(2, 40)))


def test_golden_N9_greedy_two_planes():
    coded = greedy(W8, planes=2)
    assert coded.quantizer.scales.ravel() == pytest.approx([0.3375, 0.25], abs=1e-12)
    assert squared_error(W8, coded) == pytest.approx(0.22375, abs=1e-12)


def test_golden_N10_normal_density():
    # 2**15 cells of equal mass stand for the density, each by its mean; what the means
    # lack of the variance is added to the error. So only cells with a cut inside are off.
    edges = norm.ppf(np.arange(2**15 + 1) / 2**15)
    x = 2**15 * -np.diff(norm.pdf(edges))
    inside = 1 - np.mean(x**2)
    error = lambda coded: squared_error(x, coded) / x.size + inside  # noqa: E731
    for planes, expected in ((1, 0.3633802276), (2, 0.130454), (3, 0.058394)):
        assert error(greedy(x, planes=planes)) == pytest.approx(expected, abs=2e-6)
    for planes, expected in ((2, 0.1250834917), (3, 0.050517)):
        assert error(refined(x, planes=planes)) == pytest.approx(expected, abs=4e-6)
    # Two planes reach the Lloyd-Max optimum; three stop at a local minimum, and
    # the two sweeps of the paper stop far before that.
    assert error(alternating(x, planes=2)) == pytest.approx(0.1174818478, abs=2e-6)
    assert error(alternating(x, planes=3)) == pytest.approx(0.036943, abs=2e-6)
    assert error(alternating(x, planes=3, max_sweeps=2)) == pytest.approx(0.044380, abs=2e-6)
    # The best three scales known, from random starts.
    best = BinaryCode(np.array([[0.988188], [0.748103], [0.451008]]))
    assert error(Coded(best, best.encode(x))) == pytest.approx(0.035267, abs=2e-6)


def test_golden_N11_one_step_of_qem():
    x, q = np.array([-1.5, -0.4, 0.3, 1.2, 0.6]), BinaryCode(np.array([0.5, 1.0]))
    assert np.array_equal(np.sort(q.decode(np.arange(4))), [-1.5, -0.5, 0.5, 1.5])
    signs = (q.encode(x)[:, np.newaxis] >> np.arange(2) & 1) * 2.0 - 1
    scales = np.linalg.lstsq(signs, x)[0]
    assert scales == pytest.approx([0.4583333333333333, 0.8916666666666667], abs=1e-12)
    # And from there a sweep of the search begins: it ends no worse.
    assert np.sum((x - signs @ scales) ** 2) <= squared_error(x, Coded(q, q.encode(x)))


@given(x=rows)
def test_one_plane_is_xnor(x):
    coded, q = greedy(x, planes=1, axis=1), xnor(x, axis=1)
    assert np.allclose(coded.quantizer.scales[0], q.scale, rtol=1e-12)
    assert np.array_equal(coded.codes, q.encode(x))


@given(x=rows, planes=st.integers(1, 4))
def test_alternating_is_never_worse_than_greedy(x, planes):
    first = squared_error(x, greedy(x, planes=planes, axis=1))
    assert squared_error(x, alternating(x, planes=planes, axis=1)) <= first * (1 + 1e-9) + 1e-7


@given(x=rows)
def test_refined_is_never_worse_than_greedy_for_two_planes(x):
    first = squared_error(x, greedy(x, planes=2, axis=1))
    assert squared_error(x, refined(x, planes=2, axis=1)) <= first * (1 + 1e-9) + 1e-7


@given(x=rows, planes=st.integers(1, 3), search=st.sampled_from(SEARCHES))
def test_no_search_makes_the_error_exceed_the_signal(x, planes, search):
    coded = search(x, planes=planes, axis=1)
    assert squared_error(x, coded) <= np.sum(x**2) * (1 + 1e-9) + 1e-7


@given(x=hnp.arrays(np.float64, st.integers(1, 4), elements=reals), planes=st.integers(1, 2))
def test_exhaustive_equals_brute_force(x, planes):
    best = np.inf
    for signs in itertools.product((-1.0, 1.0), repeat=planes * x.size):
        b = np.reshape(signs, (x.size, planes))
        scales = np.linalg.lstsq(b, x, rcond=None)[0]
        best = min(best, np.sum((x - b @ scales) ** 2))
    coded = exhaustive(x, planes=planes)
    assert squared_error(x, coded) == pytest.approx(best, rel=1e-6, abs=1e-6)
    for search in SEARCHES:
        assert best <= squared_error(x, search(x, planes=planes)) + 1e-6


def test_exhaustive_escapes_a_local_minimum():
    assert squared_error(W8, alternating(W8, planes=2)) == pytest.approx(0.22375)
    assert squared_error(W8, exhaustive(W8, planes=2)) == pytest.approx(0.46 / 3)


@given(x=rows, planes=st.integers(1, 4), search=st.sampled_from(SEARCHES))
def test_scales_come_sorted_and_nonnegative(x, planes, search):
    scales = search(x, planes=planes, axis=1).quantizer.scales
    assert (scales >= 0).all()
    assert (np.diff(scales, axis=0) <= 1e-9 * (1 + scales[:-1])).all()


def test_blocks_of_any_axis_are_searched_alone():
    x = np.random.default_rng(3).normal(size=(3, 4, 5))
    whole = alternating(x, planes=2, axis=(0, 2))
    assert whole.quantizer.scales.shape == (2, 1, 4, 1)
    for j in range(4):
        alone = alternating(x[:, j], planes=2)
        assert np.array_equal(whole.codes[:, j], alone.codes)


def test_a_tie_takes_the_lower_level():
    q = BinaryCode(np.array([[1.0], [0.5]]))           # levels -1.5, -0.5, 0.5, 1.5
    assert np.array_equal(q.decode(q.encode(np.array([-1.0, 0.0, 1.0]))), [-1.5, -0.5, 0.5])


def test_bits_are_the_planes_and_their_scales():
    q = greedy(np.ones((4, 8)), planes=3, axis=1).quantizer
    assert (q.code_bits, q.parameter_bits(float_bits=16)) == (3, 192)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: greedy(np.array([]), planes=1), "`x` must not be empty"),
        (lambda: greedy(W8, planes=0), "`planes` must be at least 1; got 0"),
        (lambda: greedy(np.array([np.nan]), planes=1), "`x` must be finite; got nan"),
        (lambda: exhaustive(np.ones(17), planes=1), "must not exceed 16; got 17"),
        (lambda: BinaryCode(np.array([-1.0])), "`scales` must not be negative; got -1.0"),
        (lambda: BinaryCode(np.array(1.0)), "`scales` must have the planes along its first axis"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scales_whose_sum_is_no_number_are_refused():
    with pytest.raises(ValueError, match="`scales` must have a finite sum; got inf"):
        BinaryCode(np.array([1.7e308, 1.7e308]))


@pytest.mark.parametrize("fit", [greedy, refined, alternating, exhaustive])
@pytest.mark.parametrize("power", [-900, -400, 400, 1021])
def test_a_power_of_two_changes_no_digit_however_large(fit, power):
    x = np.array([1.0, -2.0, 4.0, 0.5])
    coded, far = fit(x, planes=2), fit(np.ldexp(x, power), planes=2)
    assert np.array_equal(far.codes, coded.codes)
    assert np.array_equal(far.quantizer.scales, np.ldexp(coded.quantizer.scales, power))
