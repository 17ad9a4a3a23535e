"""The histogram answers what the data would: errors and divergences."""

from functools import partial

import numpy as np
import pytest
from _oracles.samples import assert_leaves_argument_alone, assert_refuses_bad_data, vectors
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import halfnorm

from refquant.calibration.entropy import candidate_divergences
from refquant.kernels.histogram import ValueHistogram, kl_divergences, uniform_errors
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import asymmetric, full_range, half_open, symmetric

COUNTS = hnp.arrays(np.int64, st.integers(8, 60), elements=st.integers(0, 50)).filter(np.any)


def lopsided(bound, *, bits):
    return asymmetric(-bound / 3, bound, bits=bits)


MAKES = st.sampled_from([symmetric, half_open, full_range, lopsided])


def direct(x, make, bounds, p=2.0):
    x = x.astype(np.float64)
    return [np.sum(np.abs(x - fake_quantize(x, make(b))) ** p) for b in bounds]


@given(vectors(), st.integers(256, 1000))
@example(np.array([1.5]), 256)
@example(np.array([-3e38, 3e38], np.float32), 256)
@example(np.array([0.0, 1e-320]), 256)
def test_nothing_is_lost(x, bins):
    histogram = ValueHistogram.of(x, bins=bins)
    assert histogram.counts.sum() == x.size
    close = 1e-9 * float(np.abs(x).max())
    assert histogram.sums.sum() == pytest.approx(x.sum(dtype=float), abs=close)
    assert histogram.square_sum == pytest.approx(np.sum(x.astype(float) ** 2))
    assert (histogram.sums[histogram.counts == 0] == 0).all()


@given(vectors(min_size=2))
def test_means_lie_in_their_bins(x):
    histogram = ValueHistogram.of(x, bins=256)
    held = np.flatnonzero(histogram.counts)
    means = histogram.sums[held] / histogram.counts[held]
    # In float32 a value may fall on the wrong side of an edge by 2**-7 of a bin; one of a wide
    # range, by the rounding of the difference to the lowest.
    slack = histogram.width / 100 + 1e-12 * np.abs(x).max()
    assert (means >= histogram.low + held * histogram.width - slack).all()
    assert (means <= histogram.low + (held + 1) * histogram.width + slack).all()


@given(vectors(dtype=np.float64), MAKES, st.integers(2, 4))
def test_error_stays_within_its_bound_for_any_data(x, make, bits):
    make = partial(make, bits=bits)
    histogram = ValueHistogram.of(x)
    bounds = max(np.abs(x).max(), 1e-3) * np.array([1.0, 0.61, 0.3])
    scales = make(bounds).scale
    found = uniform_errors(histogram, make(bounds))
    # At most all values in cut bins: s w n / 2; and what rounding leaves of n A**2.
    rounding = 1e-12 * x.size * (4 * bounds + np.abs(x).max()) ** 2
    slack = scales * histogram.width * x.size / 2 + rounding
    assert (np.abs(found - direct(x, make, bounds)) <= slack).all()


@pytest.mark.parametrize("draw", ["standard_normal", "laplace"])
@pytest.mark.parametrize(("bits", "bins"), [(2, 2**16), (4, 2**16), (8, 2**18)])
def test_errors_of_a_million_values_are_good_to_1e_7(draw, bits, bins):
    x = getattr(np.random.default_rng(0), draw)(size=16 * bins)
    histogram = ValueHistogram.of(x, bins=bins)
    for make in (partial(symmetric, bits=bits), lambda b: asymmetric(-0.7 * b, b, bits=bits)):
        bounds = np.abs(x).max() * np.array([1.0, 0.5])
        found = uniform_errors(histogram, make(bounds))
        assert found == pytest.approx(direct(x, make, bounds), rel=1e-7)


@pytest.mark.parametrize("p", [1.0, 2.4, 3.0])
def test_other_powers_are_good_to_1e_6(p):
    x = np.maximum(np.random.default_rng(0).standard_normal(2**20), 0)
    make = partial(symmetric, bits=4)
    bounds = x.max() * np.array([1.0, 0.5])
    found = uniform_errors(ValueHistogram.of(x), make(bounds), p=p)
    assert found == pytest.approx(direct(x, make, bounds, p), rel=1e-6)


def test_a_few_huge_values_leave_the_others_few_bins_and_errors_good_to_1e_7():
    # A parabola in the cut bins instead of a cubic is off by 1.5e-7 here.
    x = np.random.default_rng(0).standard_normal(2**22)
    x[:: x.size // 8] *= 40
    make = partial(symmetric, bits=8)
    bounds = np.abs(x).max() * np.array([1.0, 0.7, 0.4])
    found = uniform_errors(ValueHistogram.of(x, bins=2**18), make(bounds))
    assert found == pytest.approx(direct(x, make, bounds), rel=1e-7)


def test_data_on_the_levels_have_no_error():
    x = np.arange(-7, 8).astype(np.float64).repeat(100)
    errors = uniform_errors(ValueHistogram.of(x), symmetric(np.array([7.0]), bits=4))
    assert errors == pytest.approx(0, abs=1e-9)


def test_chosen_candidate_is_that_of_the_data():
    x = np.random.default_rng(1).laplace(size=2**17)
    make = partial(symmetric, bits=4)
    bounds = np.abs(x).max() * np.arange(1, 65) / 64
    found = uniform_errors(ValueHistogram.of(x), make(bounds))
    assert np.argmin(found) == np.argmin(direct(x, make, bounds))


@given(COUNTS, st.integers(1, 8))
@example(np.array([2, 1, 0, 1]), 2)             # one count cut into an empty bin: infinite
def test_divergences_are_those_of_the_definition(counts, levels):
    slow, fast = (f(counts, levels=levels) for f in (candidate_divergences, kl_divergences))
    assert np.array_equal(np.isfinite(slow), np.isfinite(fast))
    held = np.isfinite(slow)
    assert fast[held] == pytest.approx(slow[held], abs=1e-12)


def test_divergences_of_2048_bins_are_those_of_the_definition():
    counts = np.rint(1e6 * np.diff(halfnorm.cdf(np.linspace(0, 6, 2049)))).astype(np.int64)
    slow, fast = candidate_divergences(counts), kl_divergences(counts)
    held = np.isfinite(slow)
    assert np.array_equal(held, np.isfinite(fast))
    assert np.abs(slow[held] - fast[held]).max() < 1e-12
    assert np.argmin(slow) == np.argmin(fast)


def test_memory_stays_below_twice_the_data():
    tracemalloc = pytest.importorskip("tracemalloc")
    x = np.random.default_rng(0).standard_normal(2**20).astype(np.float32)
    make = partial(symmetric, bits=4)
    tracemalloc.start()
    uniform_errors(ValueHistogram.of(x), make(np.linspace(0.1, 5, 2048, dtype=np.float32)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * x.nbytes


def test_bad_arguments_are_refused():
    assert_refuses_bad_data(ValueHistogram.of)
    assert_leaves_argument_alone(ValueHistogram.of)
    with pytest.raises(ValueError, match="must be finite"):
        ValueHistogram.of(np.array([-1.7e308, 1.7e308]))
    with pytest.raises(ValueError, match="`bins` must be at least 256"):
        ValueHistogram.of(np.ones(3), bins=100)
    with pytest.raises(ValueError, match="`scale` must be one row"):
        uniform_errors(ValueHistogram.of(np.ones(3)), symmetric(np.array(1.0), bits=4))
    for bad in (np.zeros(9, int), np.array([3, -1, 2])):
        with pytest.raises(ValueError, match="`counts` must be"):
            kl_divergences(bad, levels=2)
    with pytest.raises(ValueError, match="`levels` must be at most 3"):
        kl_divergences(np.ones(3, int), levels=4)


@pytest.mark.parametrize("divergences", [kl_divergences, candidate_divergences])
@pytest.mark.parametrize("counts", [3, [0, 0, 0], [0.5, 1.5], [-1, 2], ["1", "2"]])
def test_what_are_no_counts_is_refused_by_kernel_and_definition(divergences, counts):
    with pytest.raises((TypeError, ValueError), match=r"^`counts` must be "):
        divergences(np.array(counts), levels=1)


def test_no_number_of_steps_of_a_width_resonates_with_the_bins():
    histogram = ValueHistogram.of(np.array([0.0, 1.0]), bins=2**16)
    for steps in (14, 15, 254, 255):
        bins_to_a_step = 1 / steps / histogram.width
        assert abs(bins_to_a_step - round(bins_to_a_step)) > 0.02


def test_an_error_that_cancels_to_nothing_is_not_negative():
    rng = np.random.default_rng(0)
    for _ in range(50):
        q = symmetric(np.abs(rng.standard_normal(1)), bits=3)
        x = q.decode(rng.integers(-3, 4, size=100))
        assert uniform_errors(ValueHistogram.of(x), q)[0] >= 0
