"""Optimal k-means against brute force, against every start of Lloyd, and its invariants."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check

import refquant.quantizers.optimal_kmeans as optimal_module
from refquant.quantizers.kmeans import density, forgy, linear, lloyd, plus_plus
from refquant.quantizers.optimal_kmeans import optimal_cuts, optimal_kmeans

reals = st.floats(-100, 100, width=32)
small = hnp.arrays(np.float64, st.integers(1, 9), elements=reals)
coarse = hnp.arrays(np.float64, st.integers(1, 9), elements=st.integers(-9, 9).map(float))
large = hnp.arrays(np.float64, st.integers(1, 60), elements=reals)


def error(x, q, weights=1.0):
    return np.sum(weights * (x - q.decode(q.encode(x))) ** 2)


def brute_force(x, k, weights):
    """Least error over all ways to cut the sorted data into at most k runs."""
    order = np.argsort(x, kind="stable")
    x, h = x[order], weights[order]
    best = np.inf
    for cuts in itertools.combinations_with_replacement(range(x.size + 1), k - 1):
        total = 0.0
        for a, b in itertools.pairwise((0, *cuts, x.size)):
            if h[a:b].sum() > 0:
                mean = np.average(x[a:b], weights=h[a:b])
                total += np.sum(h[a:b] * (x[a:b] - mean) ** 2)
        best = min(best, total)
    return best


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("axis", [None, 1])
def test_contract(law, axis):
    x = np.random.default_rng(0).normal(size=(3, 12)).astype(np.float32)
    check(law, optimal_kmeans(x, 5, axis=axis), x)


@pytest.mark.parametrize("data", [small, coarse], ids=["reals", "with ties"])
def test_no_partition_is_better(data):
    @given(x=data, k=st.integers(1, 4), seed=st.integers(0, 99))
    def equals_brute_force(x, k, seed):
        h = np.random.default_rng(seed).integers(0, 4, x.size).astype(float)
        h = h if h.any() else np.ones_like(h)
        for weights in (None, h):
            used = np.ones_like(x) if weights is None else weights
            found = error(x, optimal_kmeans(x, k, weights=weights), used)
            assert found <= brute_force(x, k, used) + 1e-9

    equals_brute_force()


@given(x=large, k=st.integers(1, 9), seed=st.integers(0, 9))
def test_no_start_of_lloyd_is_better(x, k, seed):
    best = error(x, optimal_kmeans(x, k)) * (1 - 1e-9) - 1e-9
    rng = np.random.default_rng(seed)
    k = min(k, np.unique(x).size)
    for start in (linear(x, k), density(x, k), forgy(x, k, rng=rng), plus_plus(x, k, rng=rng)):
        assert best <= error(x, lloyd(x, start).quantizer)


@given(x=large, k=st.integers(1, 9))
def test_the_optimum_is_a_fixed_point_of_lloyd_and_no_worse_with_a_level_more(x, k):
    q = optimal_kmeans(x, k)
    again = lloyd(x, q.levels).quantizer
    assert error(x, again) == pytest.approx(error(x, q), rel=1e-9, abs=1e-9)
    assert error(x, optimal_kmeans(x, k + 1)) <= error(x, q) + 1e-9


@given(x=large, extra=st.integers(0, 3))
def test_enough_levels_are_the_distinct_values(x, extra):
    distinct = np.unique(x)
    q = optimal_kmeans(x, distinct.size + extra)
    assert np.array_equal(q.levels, distinct)
    assert error(x, q) == 0


@given(x=hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(0, 40).map(float)),
       k=st.integers(1, 6))
def test_halving_breaks_ties_as_the_table_does(x, k):
    values, counts = np.unique(x, return_counts=True)
    table = optimal_cuts(values, counts.astype(float), k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimal_module, "SMALL", 0)
        assert np.array_equal(optimal_cuts(values, counts.astype(float), k), table)


@given(x=large, k=st.integers(1, 6))
def test_halving_finds_the_table_that_the_plain_recursion_finds(x, k):
    values = np.unique(x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimal_module, "SMALL", 0)               # no table of all cells
        cuts = optimal_cuts(values, np.ones(values.size), k)
    assert np.array_equal(cuts, optimal_cuts(values, np.ones(values.size), k))
    # Plain O(k n^2), each cell's error computed by itself.
    n = values.size
    cost = np.array([[np.var(values[i:j]) * (j - i) if i < j else np.inf
                      for j in range(n + 1)] for i in range(n + 1)])
    row = cost[0]
    for _ in range(1, min(k, n)):
        row = np.min(row[:, None] + cost, axis=0)
    found = sum(cost[a, b] for a, b in itertools.pairwise(cuts))
    assert found == pytest.approx(row[n], rel=1e-9, abs=1e-9)


def test_equal_cuts_go_left():
    # 0 1 2 in two cells: {0} {1 2} and {0 1} {2} cost the same.
    assert np.array_equal(optimal_cuts(np.array([0.0, 1.0, 2.0]), np.ones(3), 2), [0, 1, 3])


def test_golden_O8_sum_of_squares_and_centroids():
    x = np.array([0.1, 0.2, 0.9, 1, 1.1, 3, 3.2, 10])
    q = optimal_kmeans(x, 3)
    assert error(x, q) == pytest.approx(0.912, abs=1e-9)
    assert q.levels == pytest.approx([0.66, 3.1, 10], abs=1e-9)


def test_golden_N8_hessian_weighted():
    x, h = np.array([0.0, 1, 2, 10]), np.array([1.0, 1, 10, 1])
    q = optimal_kmeans(x, 2, weights=h)
    assert q.levels == pytest.approx([1.75, 10], abs=1e-12)
    assert error(x, q, h) == pytest.approx(4.25, abs=1e-12)


def test_an_outlier_set_ruins_the_density_start_but_not_the_optimum():
    x = np.concatenate([np.random.default_rng(0).normal(size=1000), [1e3, 2e3]])
    assert error(x, lloyd(x, density(x, 4)).quantizer) > 80 * error(x, optimal_kmeans(x, 4))


@given(x=hnp.arrays(np.float64, (3, 8), elements=reals), k=st.integers(1, 5))
@example(x=np.vstack([np.zeros(8), np.arange(8.0), np.ones(8)]), k=3)
def test_channels_are_solved_alone_and_short_ones_repeat_their_last_level(x, k):
    together = optimal_kmeans(x, k, axis=1)
    assert together.levels.shape[1:] == (3, 1)
    for row, levels in zip(x, together.levels[:, :, 0].T, strict=True):
        alone = optimal_kmeans(row, k).levels
        assert np.array_equal(levels[: alone.size], alone)
        assert (levels[alone.size :] == alone[-1]).all()


@given(x=coarse, k=st.integers(1, 4), shift=st.sampled_from([-(2.0**33), 2.0**33]))
def test_values_far_from_zero_lose_nothing(x, k, shift):
    near = error(x, optimal_kmeans(x, k))
    far = error(x + shift, optimal_kmeans(x + shift, k))
    assert far == pytest.approx(near, rel=1e-4, abs=1e-4)


@given(x=large, k=st.integers(1, 5))
def test_scaling_by_a_power_of_two_scales_the_levels_exactly(x, k):
    assert np.array_equal(optimal_kmeans(x * 4, k).levels, optimal_kmeans(x, k).levels * 4)


@pytest.mark.parametrize("exponent", [-1000, -600, 600, 1010])
@pytest.mark.parametrize("small", [0, 256])
def test_values_at_the_ends_of_float64_lose_nothing(exponent, small, monkeypatch):
    monkeypatch.setattr(optimal_module, "SMALL", small)
    x = np.array([0.0, 1.0, 2.0, -9.0, -10.0])
    far = optimal_kmeans(np.ldexp(x, exponent), 2).levels
    assert np.array_equal(np.ldexp(far, -exponent), [-9.5, 1.0])
    by_weight = optimal_kmeans(x, 2, weights=np.ldexp(np.ones(5), exponent)).levels
    assert np.array_equal(by_weight, [-9.5, 1.0])


@pytest.mark.parametrize("small", [0, 256])
def test_weights_below_the_rounding_of_the_others_do_no_harm(small, monkeypatch):
    monkeypatch.setattr(optimal_module, "SMALL", small)
    x = np.array([0.0, 1.0, 2.0, 3.0])
    for tiny in (1e-17, 1e-200, 1e-320):
        for place in range(4):
            h = np.ones(4)
            h[place] = tiny
            best = brute_force(x, 2, h)
            assert error(x, optimal_kmeans(x, 2, weights=h), h) <= best + 1e-15


def test_all_distinct_values_are_levels_however_far_apart():
    x = np.array([-1.7e308, 0.0, 5e-324, 1.0, 1.7e308])
    assert np.array_equal(optimal_kmeans(x, 9).levels, x)


def test_weights_that_are_all_zero_count_the_same():
    x = np.array([0.0, 1.0, 5.0])
    assert np.array_equal(optimal_kmeans(x, 2, weights=np.zeros(3)).levels,
                          optimal_kmeans(x, 2).levels)


def test_bad_input_is_refused():
    x = np.array([0.0, 1.0])
    with pytest.raises(ValueError, match="`x` must not be empty"):
        optimal_kmeans(x[:0], 1)
    with pytest.raises(ValueError, match="`k` must be at least 1; got 0"):
        optimal_kmeans(x, 0)
    with pytest.raises(ValueError, match="must be finite"):
        optimal_kmeans(np.array([np.nan]), 1)
    with pytest.raises(TypeError, match="`x` must be float"):
        optimal_kmeans(np.array([1, 2]), 1)
    with pytest.raises(ValueError, match="`weights` must not be negative"):
        optimal_kmeans(x, 1, weights=-x)
    with pytest.raises(ValueError, match="`weights` must have the shape"):
        optimal_kmeans(x, 1, weights=np.ones(3))
    with pytest.raises(ValueError, match=r"`weights` must have the shape of `x`, \(1, 2\)"):
        optimal_kmeans(x[np.newaxis], 1, weights=np.ones((2, 2)), axis=1)
    with pytest.raises(TypeError, match="`weights` must be float32 or float64; got complex128"):
        optimal_kmeans(x, 1, weights=np.ones(2, complex))
    with pytest.raises(ValueError, match="`weights` must be finite"):
        optimal_kmeans(x, 1, weights=np.array([1, np.nan]))


@pytest.mark.peer
def test_no_worse_than_scikit_learn():
    cluster = pytest.importorskip("sklearn.cluster")
    x = np.random.default_rng(0).laplace(size=3000)
    peer = cluster.KMeans(8, n_init=3, random_state=0).fit(x[:, None]).inertia_
    assert error(x, optimal_kmeans(x, 8)) <= peer * (1 + 1e-9)
