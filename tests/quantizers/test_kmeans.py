"""Lloyd's algorithm: both steps optimal, the starts, the worked figure of Deep Compression."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.quantizers.kmeans import (
    centroid_gradients,
    density,
    forgy,
    linear,
    lloyd,
    plus_plus,
)

reals = st.floats(-100, 100, width=32)
vectors = hnp.arrays(np.float64, st.integers(1, 30), elements=reals)

# Figure 3 of Han et al.: 4 x 4 weights, and the gradient of the loss for them.
WEIGHT = np.array([[2.09, -0.98, 1.48, 0.09], [0.05, -0.14, -1.08, 2.12],
                   [-0.91, 1.92, 0.00, -1.03], [1.87, 0.00, 1.53, 1.49]])
GRADIENT = np.array([[-0.03, -0.01, 0.03, 0.02], [-0.01, 0.01, -0.02, 0.12],
                     [-0.01, 0.02, 0.04, 0.01], [-0.07, -0.02, 0.01, -0.02]])


def error(x, q, weights=1.0):
    return np.sum(weights * (x - q.decode(q.encode(x))) ** 2)


def test_golden_N6_centroids():
    assert lloyd(WEIGHT, linear(WEIGHT, 4)).quantizer.levels == pytest.approx([-1, 0, 1.5, 2])


def test_golden_N7_centroid_gradients_and_one_step():
    q = lloyd(WEIGHT, linear(WEIGHT, 4)).quantizer
    gradient = centroid_gradients(GRADIENT, q.encode(WEIGHT), 4)
    assert gradient == pytest.approx([-0.03, 0.04, 0.02, 0.04], abs=1e-9)
    assert q.levels - gradient == pytest.approx([-0.97, -0.04, 1.48, 1.96], abs=1e-9)


@given(x=vectors, k=st.integers(1, 6))
def test_at_the_end_each_level_is_the_mean_of_its_cell(x, k):
    found = lloyd(x, density(x, k))
    assert found.converged
    codes = found.quantizer.encode(x)
    for j in np.unique(codes):
        assert found.quantizer.levels[j] == pytest.approx(x[codes == j].mean(), abs=1e-9)


@given(x=vectors, k=st.integers(1, 6))
def test_no_sweep_raises_the_error(x, k):
    before = np.inf
    for sweeps in range(1, 6):
        now = error(x, lloyd(x, linear(x, k), sweeps=sweeps).quantizer)
        assert now <= before * (1 + 1e-9) + 1e-9
        before = now


@given(x=vectors, k=st.integers(1, 5), data=st.data())
def test_whole_weights_count_repetitions(x, k, data):
    times = data.draw(hnp.arrays(np.int64, x.shape, elements=st.integers(0, 3)))
    if not times.any():
        return
    start = linear(x, k)
    weighted = lloyd(x, start, weights=times.astype(float)).quantizer
    repeated = lloyd(np.repeat(x, times), start).quantizer
    assert weighted.levels == pytest.approx(repeated.levels, abs=1e-9)


def test_a_value_between_two_levels_goes_to_the_lower():
    found = lloyd(np.array([0.0, 1.0, 2.0]), np.array([0.0, 2.0]), sweeps=1).quantizer
    assert np.array_equal(found.levels, [0.5, 2.0])


@given(x=vectors)
def test_a_level_without_values_stays(x):
    levels = lloyd(x, np.array([-1000.0, 0.0, 1000.0])).quantizer.levels
    assert levels[0] == -1000
    assert levels[2] == 1000
    assert levels[1] == pytest.approx(x.mean(), abs=1e-9)


@given(x=vectors, k=st.integers(1, 6), seed=st.integers(0, 9))
def test_random_starts_are_values_of_the_data(x, k, seed):
    distinct = np.unique(x)
    k = min(k, distinct.size)
    for start in (forgy, plus_plus):
        levels = start(x, k, rng=np.random.default_rng(seed))
        assert np.isin(levels, distinct).all()
        assert (np.diff(levels) > 0).all()


def test_linear_and_density_starts_are_what_they_say():
    x = np.arange(101, dtype=np.float32)
    assert np.array_equal(linear(x, 5), np.array([0, 25, 50, 75, 100], np.float32))
    assert np.array_equal(density(x, 4), np.array([12.5, 37.5, 62.5, 87.5], np.float32))
    assert linear(x, 5).dtype == density(x, 5).dtype == np.float32


def test_plus_plus_prefers_far_values():
    # 1000 values at 0, one at 1: after a first draw of 0 the second must be 1.
    x = np.concatenate([np.zeros(1000), [1.0]])
    for seed in range(20):
        assert np.array_equal(plus_plus(x, 2, rng=np.random.default_rng(seed)), [0, 1])




class Drawn:
    """A generator whose uniform draws are given."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def random(self):
        return self.draws.pop(0)


def test_plus_plus_draws_by_the_squared_distance_and_by_how_often_a_value_occurs():
    # Odds 3 : 1 : 1 at first. From 0, then, 1 : 9 for the other two.
    x = np.array([0.0, 0, 0, 1, 3])
    for first, second, levels in ((0.59, 0.09, [0, 1]), (0.59, 0.11, [0, 3]), (0.61, 0.0, [0, 1])):
        assert np.array_equal(plus_plus(x, 2, rng=Drawn(first, second)), levels)


def test_starts_and_sweeps_at_the_ends_of_the_floats_lose_nothing():
    for dtype in (np.float32, np.float64):
        largest = np.finfo(dtype).max
        x = np.array([-largest, 0, largest, largest], dtype)
        assert np.array_equal(linear(x, 3), x[:3])
        assert np.array_equal(density(x, 2), np.array([-largest / 4, largest], dtype))
        assert np.array_equal(plus_plus(x, 3, rng=np.random.default_rng(0)), x[:3])
        assert np.array_equal(lloyd(x, linear(x, 3)).quantizer.levels, x[:3])
    tiny = np.ldexp(np.array([0.0, 1, 5, 6]), -1060)
    assert np.array_equal(lloyd(tiny, tiny[[0, 3]]).quantizer.levels, np.ldexp([0.5, 5.5], -1060))


def test_a_cell_that_weighs_less_than_a_rounding_keeps_its_level():
    x = np.array([0.0, 1.0, 2.0])
    found = lloyd(x, x, weights=np.array([1.0, 1e-17, 1.0]))
    assert np.array_equal(found.quantizer.levels, x)


def test_the_gradient_of_a_level_passes_on_what_is_not_finite():
    largest = np.finfo(np.float32).max
    gradient = np.array([np.nan, np.inf, largest, largest], np.float32)
    found = centroid_gradients(gradient, np.array([0, 1, 2, 2]), 3)
    assert np.array_equal(found, [np.nan, np.inf, np.inf], equal_nan=True)


@given(codes=hnp.arrays(np.int32, 12, elements=st.integers(0, 4)),
       gradient=hnp.arrays(np.float32, 12, elements=st.floats(-10, 10, width=32)))
def test_centroid_gradient_is_the_derivative_of_the_loss(codes, gradient):
    # L = sum g * levels[codes] is linear in the levels: a difference of 1 is exact.
    expected = [np.sum(gradient[codes == j], dtype=np.float64) for j in range(5)]
    found = centroid_gradients(gradient, codes, 5)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, abs=1e-4)


def test_bad_input_is_refused():
    x = np.array([1.0, 1.0, 2.0])
    rng = np.random.default_rng(0)
    for start in (forgy, plus_plus):
        with pytest.raises(ValueError, match="`k` must not exceed the 2 distinct values of `x`"):
            start(x, 3, rng=rng)
    with pytest.raises(ValueError, match="`k` must be at least 1"):
        linear(x, 0)
    with pytest.raises(ValueError, match="`x` must not be empty"):
        lloyd(x[:0], np.zeros(2))
    with pytest.raises(ValueError, match="`levels` must ascend"):
        lloyd(x, np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="`levels` must have one axis"):
        lloyd(x, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="`weights` must not be negative"):
        lloyd(x, np.zeros(2), weights=-x)
    with pytest.raises(ValueError, match="`weights` must have the shape of `x`"):
        lloyd(x, np.zeros(2), weights=np.ones(2))
    with pytest.raises(ValueError, match="must be finite"):
        density(np.array([np.inf]), 1)
    with pytest.raises(ValueError, match="`codes` must have the shape"):
        centroid_gradients(x, np.array([0]), 2)
    with pytest.raises(ValueError, match=r"`codes` must lie in \[0, 1\]"):
        centroid_gradients(x, np.array([0, 1, 2]), 2)
