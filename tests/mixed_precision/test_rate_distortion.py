"""Water levels by the laws of optimality, whole bits by enumeration, prices by duality."""

import itertools

import numpy as np
import pytest
from _oracles.allocations import best, cost_of
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.mixed_precision.pareto import frontier, lower_hull
from refquant.mixed_precision.rate_distortion import (
    at_price,
    by_price,
    distortion,
    reverse_water_filling,
    whole_bits,
)

VARIANCES = st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=6).map(np.array)
EXAMPLE = np.array([4.0, 1.0, 0.5, 0.05, 0.01])
ONES = np.ones(5, int)


@given(VARIANCES, st.data())
def test_every_layer_with_bits_has_the_error_of_the_water_level_and_no_layer_more(v, data):
    n = np.array(data.draw(st.lists(st.integers(1, 500), min_size=len(v), max_size=len(v))))
    bits = data.draw(st.floats(0, 5000))
    rates = reverse_water_filling(v, n, bits)
    assert (rates >= 0).all()
    assert (n * rates).sum() == pytest.approx(bits, rel=1e-9, abs=1e-6)
    errors = v * 4.0**-rates
    level = errors.max()
    assert np.allclose(errors[rates > 0], level, rtol=1e-9)
    assert (v[rates == 0] <= level * (1 + 1e-9)).all()


@given(VARIANCES, st.data())
def test_no_other_rates_of_the_same_sum_have_less_distortion(v, data):
    n = np.array(data.draw(st.lists(st.integers(1, 9), min_size=len(v), max_size=len(v))))
    bits = data.draw(st.floats(0.1, 40))
    least = distortion(v, n, reverse_water_filling(v, n, bits))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    for _ in range(20):
        other = rng.dirichlet(np.ones(len(v))) * bits / n
        assert distortion(v, n, other) >= least * (1 - 1e-9)
    assert distortion(v, n, np.full(len(v), bits / n.sum())) >= least * (1 - 1e-9)


def test_the_example_of_five_layers():
    rates = reverse_water_filling(EXAMPLE, ONES, 7.5)
    assert np.allclose(rates, [3.29, 2.29, 1.79, 0.13, 0], atol=5e-3)
    assert distortion(EXAMPLE, ONES, rates) == pytest.approx(0.1772, abs=5e-5)
    assert distortion(EXAMPLE, ONES, np.full(5, 1.5)) == pytest.approx(0.695, abs=5e-4)


@given(VARIANCES, st.integers(0, 12), st.integers(1, 4))
def test_whole_bits_are_optimal_when_layers_are_equal(v, bits, count):
    v = v[:4]
    n = np.full(len(v), count)
    given_bits = whole_bits(v, n, bits * count)
    assert (n * given_bits).sum() <= bits * count
    least = min(distortion(v, n, r) for r in itertools.product(range(bits + 1), repeat=len(v))
                if sum(r) <= bits and max(r) <= 8)
    assert distortion(v, n, given_bits) == pytest.approx(least, rel=1e-12)


@given(VARIANCES, st.data())
def test_whole_bits_are_never_worse_than_the_same_for_all(v, data):
    n = np.array(data.draw(st.lists(st.integers(1, 500), min_size=len(v), max_size=len(v))))
    each = data.draw(st.integers(0, 8))
    budget = each * int(n.sum()) + data.draw(st.integers(0, 100))
    rates = whole_bits(v, n, budget)
    assert (n * rates).sum() <= budget
    assert rates.max() <= 8
    assert distortion(v, n, rates) <= distortion(v, n, np.full(len(v), each)) * (1 + 1e-12)


def tables(elements):
    shape = st.shared(st.tuples(st.integers(1, 5), st.integers(1, 4)), key="shape")
    return shape.flatmap(lambda s: arrays(np.int64, s, elements=elements))


@given(tables(st.integers(0, 30)), tables(st.integers(0, 12)), st.floats(0, 20))
def test_no_allocation_that_costs_as_much_or_less_beats_one_at_a_price(loss, cost, price):
    choice = at_price(loss, cost, price)
    assert best(loss, [(cost, cost_of(cost, choice))]) == pytest.approx(
        cost_of(loss, choice), abs=1e-9) or price == 0
    if price == 0:
        assert cost_of(loss, choice) == loss.min(1).sum()


@given(tables(st.integers(0, 30)), tables(st.integers(0, 12)), st.integers(0, 60))
def test_by_price_stays_within_the_limit_and_is_optimal_at_corners(loss, cost, limit):
    stairs = frontier(loss, cost)
    if limit < stairs.cost[0]:
        with pytest.raises(ValueError, match=f"the least possible is {stairs.cost[0]}"):
            by_price(loss, cost, limit)
        return
    assert cost_of(cost, by_price(loss, cost, limit)) <= limit
    for corner in lower_hull(stairs.cost, stairs.loss):
        choice = by_price(loss, cost, int(stairs.cost[corner]))
        assert cost_of(loss, choice) == stairs.loss[corner]


@given(tables(st.integers(0, 30)), tables(st.integers(0, 12)), st.data())
def test_by_price_is_never_worse_than_a_uniform_choice_at_its_cost(loss, cost, data):
    k = data.draw(st.integers(0, loss.shape[1] - 1))
    choice = by_price(loss, cost, int(cost[:, k].sum()))
    assert cost_of(loss, choice) <= loss[:, k].sum()


def test_where_greed_ends_worse_than_uniform_the_uniform_choice_is_taken():
    loss, cost = [[8, 3, 1], [9, 9, 5]], [[5, 9, 14], [1, 2, 4]]
    assert by_price(loss, cost, 11).tolist() == [1, 1]


def test_the_rest_is_spent():
    """The hull has the corners 0 and 10; half of the way is left to greed."""
    assert by_price([[9.0, 8.0, 0.0]], [[0, 5, 10]], 9).tolist() == [1]


def test_the_rest_goes_where_a_unit_of_cost_saves_most():
    """Two changes that save 2 for 4 units, before one that saves 3 for 8; none is on the hull."""
    loss = [[9.0, 7.0, 0.0], [9.0, 7.0, 0.0], [9.0, 6.0, 0.0]]
    assert by_price(loss, [[0, 4, 12], [0, 4, 12], [0, 8, 12]], 8).tolist() == [1, 1, 0]


def test_without_bits_nobody_gets_any():
    assert whole_bits(EXAMPLE, ONES, 0).tolist() == [0] * 5
    assert whole_bits(EXAMPLE, ONES, 9, largest=0).tolist() == [0] * 5


def test_costs_may_be_small_real_numbers():
    cost = [[1e-9, 2e-9], [1e-9, 3e-9]]
    assert by_price([[1.0, 0.0], [5.0, 0.0]], cost, 4.5e-9).tolist() == [0, 1]


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: reverse_water_filling(np.array([1.0, 0.0]), np.array([1, 1]), 2), ValueError,
     "`variances` must be positive"),
    (lambda: reverse_water_filling(np.array([1.0]), np.array([1, 1]), 2), ValueError, "shape"),
    (lambda: reverse_water_filling(np.array([1.0, 1.0]), np.array([1, 0]), 2), ValueError,
     "`counts` must be positive"),
    (lambda: reverse_water_filling(np.array([1.0]), np.array([1]), -1), ValueError, "`bits`"),
    (lambda: whole_bits(np.array([1.0]), np.array([1]), 1.5), TypeError, "`bits`"),
    (lambda: distortion(np.array([1.0]), np.array([1.5]), [1]), TypeError, "`counts`"),
    (lambda: at_price([[1.0]], [[1]], -1.0), ValueError, "`price` must not be negative"),
])
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
