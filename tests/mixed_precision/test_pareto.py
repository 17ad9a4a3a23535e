"""The frontier and the dynamic program are what enumeration finds."""

import math

import numpy as np
import pytest
from _oracles.allocations import best, cost_of, staircase
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.pareto import dynamic_program, frontier, lower_hull
from refquant.mixed_precision.rate_distortion import at_price, by_price


@st.composite
def problems(draw):
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 4)))
    loss = draw(arrays(np.int64, shape, elements=st.integers(-5, 30)))
    unit = draw(st.sampled_from([1, 3, 1000]))
    cost = unit * draw(arrays(np.int64, shape, elements=st.integers(0, 12)))
    ties = [(0, shape[0] - 1)] if shape[0] > 1 and draw(st.booleans()) else []
    return loss, cost, ties


@given(problems())
def test_the_frontier_is_that_of_all_allocations(problem):
    loss, cost, ties = problem
    found = frontier(loss, cost, ties=ties)
    assert list(zip(found.cost.tolist(), found.loss.tolist(), strict=True)) == staircase(
        loss, cost, ties)
    for c, spent, lost in zip(found.choice, found.cost, found.loss, strict=True):
        assert (cost_of(cost, c), cost_of(loss, c)) == (spent, lost)
        assert all(c[i] == c[j] for i, j in ties)
    assert (np.diff(found.cost) > 0).all()
    assert (np.diff(found.loss) < 0).all()


@given(problems(), st.integers(0, 60_000))
def test_the_dynamic_program_is_the_best_of_all_allocations(problem, limit):
    loss, cost, ties = problem
    wanted = best(loss, [(cost, limit)], ties)
    if wanted is None:
        least = best(cost, [], ties)
        for solve in (lambda: dynamic_program(loss, cost, limit, ties=ties),
                      lambda: frontier(loss, cost, ties=ties).at(limit)):
            with pytest.raises(ValueError, match=f"got {limit}, but the least possible is {least}"):
                solve()
        return
    for choice in (dynamic_program(loss, cost, limit, ties=ties),
                   frontier(loss, cost, ties=ties).at(limit)):
        assert cost_of(loss, choice) == wanted
        assert cost_of(cost, choice) <= limit
        assert all(choice[i] == choice[j] for i, j in ties)


@given(problems(), st.integers(0, 60))
@settings(max_examples=25, deadline=None)
def test_three_methods_agree_on_the_least_loss(problem, limit):
    loss, cost, ties = problem
    limit += best(cost, [], ties)
    program = allocate(loss, [Budget("size", cost, limit)], ties=ties)
    assert cost_of(loss, dynamic_program(loss, cost, limit, ties=ties)) == program.loss


@given(problems())
def test_the_hull_is_what_prices_reach(problem):
    """Each corner has a price that makes it optimal; what a price gives has a corner's loss."""
    loss, cost, _ = problem
    found = frontier(loss, cost)
    corners = lower_hull(found.cost, found.loss)
    assert corners[0] == 0
    assert corners[-1] == len(found.cost) - 1
    slopes = -np.diff(found.loss[corners]) / np.diff(found.cost[corners])
    assert (np.diff(slopes) < 1e-12).all()                   # convex
    prices = np.r_[2 * slopes[:1], (slopes[1:] + slopes[:-1]) / 2, slopes[-1:] / 2]
    if len(corners) == 1:
        prices = np.array([1e9])
    for corner, price in zip(corners, prices, strict=True):
        paid = found.loss + price * found.cost
        assert paid[corner] == pytest.approx(paid.min())
        choice = at_price(loss, cost, price)
        assert cost_of(loss, choice) + price * cost_of(cost, choice) == pytest.approx(paid.min())


@given(st.integers(0, 2**32 - 1))
def test_costs_that_are_not_whole_have_a_frontier_too(seed):
    rng = np.random.default_rng(seed)
    loss, cost = rng.random((2, 4, 3))
    found = frontier(loss, cost)
    wanted = staircase(loss, cost)
    assert np.allclose(found.cost, [c for c, _ in wanted])
    assert np.allclose(found.loss, [x for _, x in wanted])
    assert np.array_equal(found.at(float(found.cost[-1])), found.choice[-1])
    with pytest.raises(TypeError, match="`cost` must be whole numbers"):
        dynamic_program(loss, cost, 2.0)


def test_a_middle_point_off_the_hull_is_optimal_for_its_limit_and_for_no_price():
    loss, cost = [[9.0, 8.0, 0.0]], [[0, 5, 10]]
    found = frontier(loss, cost)
    assert found.cost.tolist() == [0, 5, 10]
    assert lower_hull(found.cost, found.loss).tolist() == [0, 2]
    assert all(at_price(loss, cost, p)[0] != 1 for p in np.linspace(0, 3, 301))
    assert dynamic_program(loss, cost, 7).tolist() == [1]


def test_huge_costs_with_a_common_measure_are_small():
    cost = np.array([[1, 2], [3, 4]]) * 10**15
    assert dynamic_program([[5.0, 0], [1.0, 0]], cost, 5 * 10**15).tolist() == [1, 0]


def test_a_table_too_large_for_memory_is_refused():
    with pytest.raises(ValueError, match="use `frontier`"):
        dynamic_program([[1.0, 0.0]], [[1, 10**12]], 10**12)


def test_a_limit_without_bound_takes_the_best():
    assert dynamic_program([[1.0, 0.0]], [[1, 10]], 1e6).tolist() == [1]
    assert dynamic_program([[1.0, 0.0]], [[1, 10]], math.inf).tolist() == [1]
    assert frontier([[1.0, 0.0]], [[1, 10]]).at(math.inf).tolist() == [1]


@pytest.mark.parametrize("method", [
    lambda loss, cost, limit: frontier(loss, cost).at(limit), dynamic_program, by_price,
    lambda loss, cost, limit: allocate(loss, [Budget("size", cost, limit)]),
])
def test_no_method_takes_a_limit_that_is_no_number_or_sums_that_no_machine_holds(method):
    loss, cost = np.array([[1.0, 0.0]] * 2), np.array([[1, 10]] * 2)
    with pytest.raises(ValueError, match="must not be NaN"):
        method(loss, cost, math.nan)
    for huge in (np.full((2, 2), 2**62), np.full((2, 2), 2**63, np.uint64)):
        with pytest.raises(ValueError, match=r"less than 4\.6e\+18"):
            method(loss, huge, 1e30)
    with pytest.raises(ValueError, match="`loss` must be in units in which 2 layers"):
        method(loss * 1e308, cost, 20)


def test_free_choices_are_taken():
    assert dynamic_program([[1.0, 0.0]], [[0, 0]], 0).tolist() == [1]
