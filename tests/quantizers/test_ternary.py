"""Three levels: the exact optimum against brute force, the rules against their tables."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check
from scipy.stats import norm

from refquant.quantizers.ternary import Ternary, absmean, optimal, ttq, twn

W8 = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])
reals = st.floats(-100, 100, width=32)
vectors = hnp.arrays(np.float64, st.integers(1, 7), elements=reals)


def squared_error(x, q):
    return np.sum((x - q.decode(q.encode(x))) ** 2)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("axis", [None, 1])
def test_contract_of_the_optimum(law, axis):
    x = np.random.default_rng(0).normal(size=(3, 9))
    check(law, optimal(x, axis=axis), x)


@pytest.mark.parametrize("law", LAWS)
def test_contract_of_absmean(law):
    x = np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32)
    check(law, absmean(x), x)


def test_golden_B4_exact_optimum():
    q = optimal(W8)
    assert np.count_nonzero(q.encode(W8)) == 4
    assert q.positive == pytest.approx(0.5875, abs=1e-12)
    assert squared_error(W8, q) == pytest.approx(0.254375, abs=1e-12)


def test_golden_B5_bitnet_absmean():
    q = absmean(W8)
    assert q.scale == pytest.approx(0.3375, abs=1e-12)
    assert np.array_equal(q.encode(W8), [1, -1, 0, -1, 1, 0, 0, -1])


@given(x=vectors)
def test_optimum_equals_brute_force(x):
    best = np.sum(x**2)
    for codes in itertools.product((-1, 0, 1), repeat=x.size):
        c = np.array(codes)
        if c.any():
            level = max(c @ x / (c @ c), 0)
            best = min(best, np.sum((x - level * c) ** 2))
    assert squared_error(x, optimal(x)) <= best * (1 + 1e-9) + 1e-9


@given(x=vectors, ratio=st.floats(0, 1.5))
def test_no_rule_of_thumb_beats_the_optimum(x, ratio):
    assert squared_error(x, optimal(x)) <= squared_error(x, twn(x, ratio=ratio)) * (1 + 1e-9) + 1e-9


@given(x=vectors, dtype=st.sampled_from([np.float32, np.float64]))
@example(x=np.array([1.9690858125686646, 1.060276985168457]), dtype=np.float32)
def test_twn_level_is_the_mean_of_the_survivors(x, dtype):
    """Of those that the stored threshold spares: in float32 it is not 0.7 of the mean."""
    x = x.astype(dtype)
    q = twn(x)
    kept = np.abs(x)[q.encode(x) != 0].astype(np.float64)
    expected = kept.mean() if kept.size else 0
    assert q.positive == pytest.approx(expected, rel=1e-12 if dtype is np.float64 else 1e-7)


def test_golden_B2_and_B3_on_the_normal_density():
    # 2**16 cells of equal mass stand for the density, each by its mean; what the means
    # lack of the variance is added to the error. The cell with the cut is off by O(1/n).
    edges = norm.ppf(np.arange(2**16 + 1) / 2**16)
    x = 2**16 * -np.diff(norm.pdf(edges))
    inside = 1 - np.mean(x**2)
    best, rule = optimal(x), twn(x)
    assert best.threshold == pytest.approx(0.6120031895, abs=2e-5)
    assert best.positive == pytest.approx(1.224006368, abs=2e-5)
    assert squared_error(x, best) / x.size + inside == pytest.approx(0.1901740392, abs=1e-8)
    assert best.threshold / np.abs(x).mean() == pytest.approx(0.76703225, abs=2e-5)
    assert rule.threshold == pytest.approx(0.5585191926, abs=1e-9)
    assert rule.positive == pytest.approx(1.184160705, abs=2e-5)
    assert squared_error(x, rule) / x.size + inside == pytest.approx(0.1916247736, abs=2e-6)


def test_magnitudes_equal_to_the_threshold_of_twn_are_no_survivors():
    q = twn(np.array([2.0, -2.0]), ratio=1.0)
    assert (q.threshold, q.positive) == (2, 0)


def test_a_magnitude_equal_to_the_threshold_becomes_zero():
    q = Ternary(np.array(0.5), np.array(1.0), np.array(1.0))
    assert np.array_equal(q.encode(np.array([0.5, -0.5, 0.5000001])), [0, 0, 1])


def test_per_channel_is_per_tensor_on_each_slice():
    x = np.random.default_rng(2).normal(size=(4, 3, 5))
    for fit in (twn, optimal):
        whole = fit(x, axis=(1, 2))
        assert whole.threshold.shape == (4, 1, 1)
        for i in range(4):
            assert whole.positive[i, 0, 0] == fit(x[i]).positive.item()


def test_all_zero_weights_stay_zero():
    for q in (twn(np.zeros(3)), optimal(np.zeros(3))):
        assert np.array_equal(q.decode(q.encode(np.zeros(3))), np.zeros(3))


def test_constant_weights_are_exact():
    x = np.array([2.0, -2.0, 2.0])
    for q in (twn(x), optimal(x)):
        assert np.array_equal(q.decode(q.encode(x)), x)


def test_ttq_keeps_two_levels_and_counts_them():
    x = np.array([-1.0, 0.04, 0.5])
    q = ttq(x, np.array([0.8]), np.array([0.6]))
    assert np.array_equal(q.decode(q.encode(x)), [-0.8, 0, 0.6])
    assert (q.parameter_bits(), twn(x).parameter_bits()) == (64, 32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optimal(np.array([])), "`x` must not be empty"),
        (lambda: twn(np.array([np.inf])), "`x` must be finite; got inf"),
        (lambda: twn(W8, ratio=-1), "`ratio` must not be negative; got -1"),
        (lambda: absmean(W8, floor=0), "`floor` must be positive; got 0"),
        (lambda: Ternary(np.array(-1.0), np.array(1.0), np.array(1.0)), "`threshold` must not be"),
        (lambda: Ternary(np.array(1.0), np.array([1.0]), np.array(1.0)), "`negative` must have"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("power", [-900, 900])
def test_optimum_does_not_leave_float64(power):
    expected = np.ldexp(optimal(W8).positive, power)
    assert np.array_equal(optimal(np.ldexp(W8, power)).positive, expected)


@pytest.mark.parametrize("fit", [twn, optimal, absmean])
def test_means_of_the_largest_floats_are_no_sums_that_overflow(fit):
    x = np.array([1.7, 1.5, -1.6, 0.1])
    q, far = fit(x), fit(np.ldexp(x, 1023))
    assert np.array_equal(far.encode(np.ldexp(x, 1023)), q.encode(x))
    assert np.array_equal(far.decode(np.array([1])), np.ldexp(q.decode(np.array([1])), 1023))


@pytest.mark.parametrize("call", [
    lambda: twn(np.ones(2), ratio="a"),
    lambda: ttq(np.ones(2), 1.0, 1.0, ratio=np.ones(2)),
    lambda: absmean(np.ones(2), floor="a"),
])
def test_ratios_and_floors_that_are_no_numbers_are_refused(call):
    with pytest.raises(TypeError, match="must be a real number"):
        call()
