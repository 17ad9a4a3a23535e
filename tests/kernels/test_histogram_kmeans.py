"""k-means on bins: exact for 16-bit values, next to exact for all others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.kernels.histogram_kmeans import histogram_kmeans, kmeans_of_16_bits
from refquant.quantizers.optimal_kmeans import optimal_kmeans

halves = st.floats(-1000, 1000, width=16)


def error(x, q):
    return np.sum((x.astype(np.float64) - q.decode(q.encode(x))) ** 2)


def as_bfloat16(x):
    return (np.asarray(x, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


@given(x=hnp.arrays(np.float32, st.integers(1, 60), elements=halves), k=st.integers(1, 8))
def test_float16_values_get_the_optimum_bit_for_bit(x, k):
    assert np.array_equal(kmeans_of_16_bits(x, k).levels, optimal_kmeans(x, k).levels)


@pytest.mark.parametrize("k", [1, 3, 16])
@pytest.mark.parametrize("convert", [as_bfloat16, lambda x: x.astype(np.float16)],
                         ids=["bfloat16", "float16"])
def test_sixteen_bits_are_enough_for_large_arrays_too(convert, k):
    x = convert(np.random.default_rng(0).normal(size=5000)).astype(np.float32).reshape(50, 100)
    assert np.array_equal(kmeans_of_16_bits(x, k).levels, optimal_kmeans(x, k).levels)


def test_both_zeros_are_one_value():
    x = np.array([0.0, -0.0, -0.0, 1.0, 5.0], np.float32)
    assert np.array_equal(kmeans_of_16_bits(x, 3).levels, [0, 1, 5])


@pytest.mark.parametrize("kind", ["normal", "laplace", "uniform", "exponential"])
@pytest.mark.parametrize("k", [1, 2, 16, 40])
def test_error_is_within_half_a_percent_of_the_optimum(kind, k):
    x = getattr(np.random.default_rng(0), kind)(size=8_000)
    best = error(x, optimal_kmeans(x, k))
    assert best * (1 - 1e-12) <= error(x, histogram_kmeans(x, k)) <= best * 1.005


def test_cuts_are_moved_bin_by_bin_in_the_end():
    """For many levels a run of bins is wide: 1.7 % are lost if the last pass is left out."""
    x = np.random.default_rng(0).laplace(size=8_000)
    assert error(x, histogram_kmeans(x, 128)) <= 1.01 * error(x, optimal_kmeans(x, 128))


@given(x=hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-50, 50).map(float)),
       k=st.integers(1, 6))
def test_values_in_different_bins_get_the_optimum(x, k):
    best, found = error(x, optimal_kmeans(x, k)), error(x, histogram_kmeans(x, k))
    assert found == pytest.approx(best, rel=1e-9, abs=1e-9)


def test_dtype_is_kept_and_few_values_are_the_levels():
    x = np.array([0.25, 3.0, 0.25], np.float32)
    q = histogram_kmeans(x, 5)
    assert q.levels.dtype == np.float32
    assert np.array_equal(q.levels, [0.25, 3.0])


def test_bad_input_is_refused():
    x = np.array([0.5, 1.0], np.float32)
    with pytest.raises(ValueError, match="`x` must not be empty"):
        histogram_kmeans(x[:0], 2)
    with pytest.raises(ValueError, match="must be finite"):
        histogram_kmeans(np.array([np.nan]), 2)
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        histogram_kmeans(x, 0)
    with pytest.raises(ValueError, match="`points` must be at least 1"):
        histogram_kmeans(x, 2, points=0)
    with pytest.raises(TypeError, match="`x` must be float32; got float64"):
        kmeans_of_16_bits(x.astype(np.float64), 2)
    with pytest.raises(ValueError, match="`x` must hold float16 or bfloat16 values"):
        kmeans_of_16_bits(np.array([1 + 2**-20], np.float32), 2)
    with pytest.raises(ValueError, match="must be finite"):
        kmeans_of_16_bits(np.array([np.inf], np.float32), 2)


@pytest.mark.peer
def test_inertia_is_no_higher_than_that_of_flash1dkmeans_and_scikit_learn():
    flash = pytest.importorskip("flash1dkmeans")
    cluster = pytest.importorskip("sklearn.cluster")
    x = np.random.default_rng(0).normal(size=100_000)
    ours = error(x, histogram_kmeans(x, 16))
    centres = cluster.KMeans(16, random_state=0).fit(x[:, np.newaxis]).cluster_centers_[:, 0]
    for levels in (np.sort(centres), np.sort(flash.kmeans_1d(x, 16, random_state=0)[0])):
        codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
        assert ours <= np.sum((x - levels[codes]) ** 2)
