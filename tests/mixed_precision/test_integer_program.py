"""The integer program is the best of all allocations, and says what cannot be had."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _oracles.allocations import best, cost_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from refquant.mixed_precision.integer_program import Allocation, Budget, allocate
from refquant.mixed_precision.pareto import dynamic_program, frontier

DATA = Path(os.environ.get("REFQUANT_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
RESNET18 = DATA / "hawq_v3_resnet18.json"
SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def problems(draw):
    """Whole losses (so that sums are exact), one to three budgets, perhaps two tied layers."""
    shape = draw(SHAPES)
    table = arrays(np.int64, shape, elements=st.integers(0, 20))
    loss = draw(table)
    budgets = [Budget(name, draw(table), draw(st.integers(0, 60)))
               for name in ("size", "latency", "bops")[: draw(st.integers(1, 3))]]
    ties = [(0, shape[0] - 1)] if shape[0] > 1 and draw(st.booleans()) else []
    return loss, budgets, ties


@given(problems())
@settings(max_examples=60, deadline=None)
def test_it_equals_brute_force_under_several_budgets_and_ties(problem):
    loss, budgets, ties = problem
    wanted = best(loss, [(b.cost, b.limit) for b in budgets], ties)
    if wanted is None:
        with pytest.raises(ValueError, match="`budgets` must be within reach"):
            allocate(loss, budgets, ties=ties)
        return
    found = allocate(loss, budgets, ties=ties)
    assert found.loss == wanted
    assert found.loss == cost_of(loss, found.choice)
    for b in budgets:
        assert found.costs[b.name] == cost_of(b.cost, found.choice) <= b.limit
    assert all(found.choice[i] == found.choice[j] for i, j in ties)


def test_one_that_passes_a_budget_by_the_solvers_tolerance_is_ruled_out():
    """1 part in 10**9 too dear: the solver would take it."""
    cost = np.array([[10**9, 0], [1, 0]])
    found = allocate([[0.0, 1.0], [0.0, 0.1]], [Budget("size", cost, 10**9)])
    assert found.choice.tolist() == [0, 1]
    assert found.costs == {"size": 10**9}


def test_a_sum_of_floats_may_meet_its_limit_in_any_order():
    found = allocate([[0.0], [0.0], [0.0]], [Budget("ms", [[0.1], [0.2], [0.3]], 0.6)])
    assert found.costs["ms"] == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"got ms 0.59, but the least possible is 0\.6"):
        allocate([[0.0], [0.0], [0.0]], [Budget("ms", [[0.1], [0.2], [0.3]], 0.59)])


def test_small_sensitivities_count_as_much_as_large_ones():
    cost = [[1, 2], [1, 2]]
    for scale in (1e-12, 1e12):
        found = allocate(np.array([[3.0, 0], [5.0, 0]]) * scale, [Budget("size", cost, 3)])
        assert found.choice.tolist() == [0, 1]


def test_a_budget_may_be_a_bare_triple():
    assert allocate([[1.0, 0.0]], [("size", [[1, 9]], 5)]).costs == {"size": 1}


def test_it_is_exact_where_the_best_loses_little_beside_the_worst():
    """Six orders of magnitude, as from 2 bits to 8: the solver alone stops short of the best."""
    rng = np.random.default_rng(0)
    for _ in range(60):
        loss = 10.0 ** -np.arange(1, 7) * rng.lognormal(sigma=1, size=(8, 1))
        cost = rng.integers(1, 30, (8, 1)) * np.array([2, 3, 4, 5, 6, 8])
        limit = int(5 * cost[:, 0].sum() // 2)
        best = dynamic_program(loss, cost, limit)
        assert allocate(loss, [Budget("size", cost, limit)]).loss <= (1 + 1e-5) * loss[
            np.arange(8), best].sum()


def test_without_budgets_each_layer_takes_its_best():
    assert allocate([[3.0, 1.0, 2.0]], []).choice.tolist() == [1]
    assert allocate(np.zeros((2, 2)), []).loss == 0


def test_a_budget_that_cannot_be_met_is_named_with_the_least_possible():
    loss, cost = np.zeros((2, 2)), np.array([[2, 4], [20, 40]])
    with pytest.raises(ValueError, match="within reach; got size 21, but the least possible is 22"):
        allocate(loss, [Budget("size", cost, 21), Budget("bops", cost, 30)])
    with pytest.raises(ValueError, match=r"got size 21.* is 22; and bops 5.* is 22"):
        allocate(loss, [Budget("size", cost, 21), Budget("bops", cost, 5)])


def test_budgets_that_cannot_be_met_together_are_named_with_the_least_possible():
    size, ms = np.array([[1, 5]]), np.array([[9, 3]])
    message = r"within reach together; got ms 4, but with size 2 the least possible is 9"
    with pytest.raises(ValueError, match=message):
        allocate(np.zeros((1, 2)), [Budget("size", size, 2), Budget("ms", ms, 4)])


def test_ties_count_in_the_least_possible():
    cost = np.array([[1, 5], [5, 1]])
    assert allocate(np.zeros((2, 2)), [Budget("size", cost, 2)]).costs == {"size": 2}
    with pytest.raises(ValueError, match="the least possible is 6"):
        allocate(np.zeros((2, 2)), [Budget("size", cost, 2)], ties=[(0, 1)])


@pytest.mark.skipif(os.name != "posix", reason="the C library has another name elsewhere")
def test_what_c_prints_while_the_solver_runs_is_thrown_away():
    """HiGHS 1.12 leaves a line of its own on standard output in one solve of a hundred."""
    script = """
import ctypes, os
from refquant.mixed_precision.integer_program import _hushed
print("before")
with _hushed():
    os.write(1, b"direct")
    ctypes.CDLL(None).puts(b"held back in a buffer of C")
print("after")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.split() == ["before", "after"]


@pytest.mark.parametrize(("loss", "budgets", "ties", "error", "message"), [
    ([[1.0]], [Budget("a", [[1]], 1), Budget("a", [[1]], 1)], [], ValueError, "different names"),
    ([[1.0]], [Budget("a", [[1, 2]], 1)], [], ValueError, "`a` must have shape"),
    ([[1.0]], [Budget("a", [[-1]], 1)], [], ValueError, "`a` must not be negative"),
    ([[1.0]], [Budget("a", [["x"]], 1)], [], TypeError, "`a` must hold real numbers"),
    ([[1.0]], [Budget("a", [[1]], "1")], [], TypeError, "`limit of a`"),
    ([[math.nan]], [], [], ValueError, "`loss` must be finite"),
    ([1.0], [], [], ValueError, r"`loss` must have shape \(layers, choices\)"),
    ([[1.0]], [], [(0, 1)], ValueError, "`ties` must name layers below 1"),
    ([[1.0]], [], [(0.5,)], TypeError, "`ties` must hold numbers"),
])
def test_what_does_not_fit_is_refused(loss, budgets, ties, error, message):
    with pytest.raises(error, match=message):
        allocate(loss, budgets, ties=ties)


def resnet18():
    """Tables of the published case, choices 4 and 8 bits, and for each budget cost and limit."""
    if not RESNET18.exists():
        pytest.skip("no published traces: set REFQUANT_DATA")
    d = json.loads(RESNET18.read_text())
    trace = np.array(d["mean_trace"])
    loss = np.stack([trace * d["weight_error_4bit"], trace * d["weight_error_8bit"]], 1)
    n, macs = np.array(d["parameters"]), np.array(d["macs"])
    costs = {
        "size": np.stack([n * 4, n * 8], 1),
        "bops": np.stack([macs * 16, macs * 64], 1),
        "latency": np.stack([d["latency_ms_int4"], d["latency_ms_int8"]], 1),
    }
    limits = {name: c[:, 0].sum() + (c[:, 1].sum() - c[:, 0].sum()) / 2
              for name, c in costs.items()}
    return d, loss, costs, limits


@pytest.mark.parametrize(("name", "loss_is", "spent", "limit"), [
    ("size", 0.074506, 7.2656, 7.9805),             # MB of parameters, as published
    ("bops", 0.215689, 65.028, 66.232),             # in the notebook's units
    ("latency", 0.202674, 4.2201, 4.2462),          # ms
])
def test_the_published_case_gives_the_published_allocations(name, loss_is, spent, limit):
    d, loss, costs, limits = resnet18()
    budget = Budget(name, costs[name], float(limits[name]))
    found = allocate(loss, [budget], ties=d["tied_layers"])
    assert isinstance(found, Allocation)
    assert "".join("48"[k] for k in found.choice) == d["optimal_bits"][name]
    assert found.loss == pytest.approx(loss_is, abs=6e-7)
    unit = {"size": 8 * 2**20, "bops": 64e6 * 16, "latency": 1}[name]
    assert found.costs[name] / unit == pytest.approx(spent, rel=2e-5)
    assert limits[name] / unit == pytest.approx(limit, rel=2e-5)
    # Two derivations more: the staircase, and, where costs are whole, dynamic programming.
    stairs = frontier(loss, costs[name], ties=d["tied_layers"])
    assert np.array_equal(stairs.at(limits[name]), found.choice)
    if name != "latency":
        again = dynamic_program(loss, costs[name], limits[name], ties=d["tied_layers"])
        assert np.array_equal(again, found.choice)


def test_the_published_case_equals_brute_force_over_all_65536():
    d, loss, costs, limits = resnet18()
    assert loss[:, 0].sum() == pytest.approx(1.3077, abs=6e-5)
    assert loss[:, 1].sum() == pytest.approx(0.0043, abs=6e-5)
    free = [i for i in range(19) if i not in {j for _, j in d["tied_layers"]}]
    bits = np.array(list(itertools.product((0, 1), repeat=len(free))))
    choice = np.zeros((len(bits), 19), int)
    choice[:, free] = bits
    for i, j in d["tied_layers"]:
        choice[:, j] = choice[:, i]
    rows = np.arange(19)
    losses = loss[rows, choice].sum(1)
    spent = {name: c[rows, choice].sum(1) for name, c in costs.items()}
    for name in costs:
        least = losses[spent[name] <= limits[name]].min()
        budget = Budget(name, costs[name], float(limits[name]))
        assert allocate(loss, [budget], ties=d["tied_layers"]).loss == pytest.approx(least)
    # All three at once.
    every = np.all([spent[name] <= limits[name] for name in costs], axis=0)
    budgets = [Budget(name, costs[name], float(limits[name])) for name in costs]
    found = allocate(loss, budgets, ties=d["tied_layers"])
    assert found.loss == pytest.approx(losses[every].min())
    assert found.loss >= allocate(loss, budgets[:1], ties=d["tied_layers"]).loss
