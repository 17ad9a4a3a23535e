"""Entropy calibration by its canonical definition."""

import numpy as np
import pytest
from _oracles.samples import POWERS, assert_leaves_argument_alone, assert_refuses_bad_data, vectors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import halfnorm

from refquant.calibration.entropy import candidate_divergences, entropy, least_divergence
from refquant.calibration.minmax import absmax
from refquant.calibration.statistics import Histogram

COUNTS = hnp.arrays(np.int64, st.integers(4, 24), elements=st.integers(0, 9)).filter(np.any)

#: rint(1e6 * dF) of a half-normal density, 2048 bins on [0, 6].
HALF_NORMAL = np.rint(1e6 * np.diff(halfnorm.cdf(np.linspace(0, 6, 2049)))).astype(np.int64)


def by_the_definition(counts, levels, i):
    """One candidate, with loops over levels and bins and nothing else."""
    p = [int(c) for c in counts[:i]]
    p[-1] += int(sum(counts[i:]))
    q = [0.0] * i
    for level in range(levels):
        bins = [j for j in range(i) if levels * j // i == level and counts[j] > 0]
        for j in bins:
            q[j] = sum(int(counts[k]) for k in bins) / len(bins)
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return np.inf
    total_p, total_q = sum(p), sum(q)
    return sum(
        a / total_p * np.log(a / total_p * total_q / b)
        for a, b in zip(p, q, strict=True)
        if a > 0
    )


@given(COUNTS, st.integers(1, 4))
def test_every_candidate_is_that_of_the_definition(counts, levels):
    expected = [by_the_definition(counts, levels, i) for i in range(levels, len(counts) + 1)]
    assert candidate_divergences(counts, levels=levels) == pytest.approx(expected, abs=1e-12)


@given(COUNTS, st.integers(1, 4), st.integers(2, 1000))
def test_only_the_ratios_of_the_counts_matter(counts, levels, factor):
    plain, scaled = (candidate_divergences(c, levels=levels) for c in (counts, counts * factor))
    assert scaled == pytest.approx(plain, abs=1e-12)


@given(COUNTS, st.integers(1, 4))
def test_the_first_of_the_least_wins(counts, levels):
    least = least_divergence(Histogram(counts, 0, 0.5), levels=levels)
    every = candidate_divergences(counts, levels=levels)
    assert least.bound == least.bins * 0.5
    if least.bins < len(counts) or len(counts) > levels:
        chosen = every[least.bins - levels]
        assert chosen == pytest.approx(every.min(), abs=1e-12)
        assert (every[: least.bins - levels] > chosen - 1e-12).all()


@given(vectors(dtype=np.float64, max_size=30), POWERS)
def test_bound_scales_with_the_data(x, factor):
    plain, scaled = (entropy(a, levels=4, bins=16) for a in (x, x * factor))
    assert np.array_equal(scaled, plain * factor)


@given(vectors())
def test_bound_is_never_above_the_largest_value(x):
    bound = entropy(x, levels=4, bins=16)
    assert bound.dtype == x.dtype
    assert bound.shape == (1,)
    assert 0 <= bound <= absmax(x)


def test_golden_c10():
    least = least_divergence(Histogram(HALF_NORMAL, 0, 6 / 2048))
    assert least.bins == 1407
    assert least.bound == pytest.approx(4.1220703125, abs=1e-9)
    assert least.divergence == pytest.approx(4.3758145980241035e-05, abs=1e-12)


def test_golden_c11():
    spiked = HALF_NORMAL.copy()
    spiked[0] += 10**6
    least = least_divergence(Histogram(spiked, 0, 6 / 2048))
    assert least.bins == 640
    assert least.bound == pytest.approx(1.875, abs=1e-12)


def test_exponential_density_is_cut_at_9_664():
    edges = np.linspace(0, 16, 2049)
    counts = np.rint(1e6 * (np.exp(-edges[:-1]) - np.exp(-edges[1:]))).astype(np.int64)
    least = least_divergence(Histogram(counts, 0, 16 / 2048))
    assert (least.bins, least.bound) == (1237, 9.6640625)


def test_golden_c14():
    # One candidate, as in onnxruntime's defaults of 128 bins and 128 levels: min-max.
    counts = np.arange(1, 129)
    least = least_divergence(Histogram(counts, 0, 0.25), levels=128)
    assert (least.bins, least.bound) == (128, 32.0)


def test_a_constant_is_its_own_bound():
    # Any cut below would move all counts into a bin that Q leaves empty: infinite.
    assert entropy(np.full(10, -1.5)) == 1.5
    assert entropy(np.full(10, 1.9375)) == 1.9375


def test_zeros_have_bound_zero():
    assert entropy(np.zeros((2, 3))).tolist() == [[0]]


def test_bins_below_the_histogram_are_empty_ones():
    shifted = Histogram(HALF_NORMAL[100:], 100, 1.0)
    padded = Histogram(np.concatenate([np.zeros(100, np.int64), HALF_NORMAL[100:]]), 0, 1.0)
    assert least_divergence(shifted) == least_divergence(padded)


def test_bad_arguments_are_refused():
    assert_refuses_bad_data(entropy)
    assert_leaves_argument_alone(entropy)
    with pytest.raises(ValueError, match="`levels` must be at least 1"):
        entropy(np.ones(3), levels=0)
    with pytest.raises(ValueError, match="absolute values"):
        least_divergence(Histogram.of(np.array([-1.0, 1.0])))
    with pytest.raises(ValueError, match="`levels` must be at most 3"):
        candidate_divergences(np.ones(3, int), levels=4)


def test_the_largest_float32_is_a_bound():
    largest = np.finfo(np.float32).max
    assert entropy(np.array([largest, -largest])) == largest
