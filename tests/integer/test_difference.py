"""The law of two roundings, measured; and the worked steps against the rules themselves."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.difference import compare_rules, expected_rate, work_out
from refquant.integer.requantize import (
    double_away,
    double_up,
    dyadic,
    in_float32,
    in_float64,
    reduced_16x8,
    single_up,
)

RULES = [double_away, double_up, single_up, in_float32, in_float64]
PAIRS = [(double_away, double_up), (double_away, single_up), (double_up, single_up)]
N = 400_000


def measured(first, second, right: int, seed: int) -> tuple[float, float]:
    """Rate at which two rules part for a right shift, and its standard error."""
    rng = np.random.default_rng([seed, right])
    real = rng.uniform(0.5, 1, N) * 2.0**-right
    sums = rng.integers(-(2**20), 2**20, N)
    rate = float(compare_rules(sums, real, first, second).apart.mean())
    return rate, float(np.sqrt(max(rate * (1 - rate), 1e-12) / N))


@pytest.mark.parametrize("right", range(9))
@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_rules_part_on_one_sum_in_two_to_the_shift_plus_one(first, second, right):
    """Seeds fixed; 3.3 standard errors: one of 27 fair tests fails with a chance of 3 %."""
    rate, error = measured(first, second, right, seed=1)
    law = 2.0 ** -(right + 1) if right else 0.0
    assert expected_rate(0.7 * 2.0**-right, first, second) == law
    if right:
        assert abs(rate - law) < 3.3 * error
    else:
        assert rate <= 2e-5             # exact ties alone: about 2**-31 of all sums


@pytest.mark.parametrize("right", range(1, 6))
@pytest.mark.parametrize("once", [in_float32, in_float64])
@pytest.mark.parametrize("twice", [double_away, double_up])
def test_any_single_rounding_parts_from_a_double_one_by_the_same_law(twice, once, right):
    rate, error = measured(twice, once, right, seed=2)
    assert abs(rate - 2.0 ** -(right + 1)) < 3.3 * error + 2e-4     # F32 has 24 bits


def test_rules_that_round_once_hardly_part():
    for first, second in ((single_up, in_float64), (single_up, in_float32)):
        rate, _ = measured(first, second, 4, seed=3)
        assert expected_rate(0.04, first, second) == 0
        assert rate < 0.01


@pytest.mark.parametrize("right", range(1, 7))
def test_ties_away_and_ties_up_part_below_zero_alone(right):
    rng = np.random.default_rng([5, right])
    real, sums = rng.uniform(0.5, 1, N) * 2.0**-right, rng.integers(-(2**20), 2**20, N)
    found = compare_rules(sums, real, double_away, double_up)
    below = sums < 0
    assert not found.apart[~below].any()
    assert (found.expected == np.where(below, 2.0**-right, 0)).all()
    law, count = 2.0**-right, int(below.sum())
    assert abs(found.apart[below].mean() - law) < 3.3 * np.sqrt(law * (1 - law) / count) + 1e-12


def test_a_rule_never_parts_from_itself():
    assert not compare_rules(np.arange(-99, 99), 0.3, double_up, double_up).apart.any()
    assert expected_rate(0.3, double_up, double_up) == 0


sums = st.integers(-(2**24), 2**24)
reals = st.floats(2.0**-20, 8.0)


@given(sums, reals, st.sampled_from(RULES))
def test_worked_steps_end_where_the_rule_does(x, real, rule):
    worked = work_out(x, real, rule)
    assert worked.result == int(rule(np.array(x), np.array(real)))
    assert worked.steps[-1].endswith(str(worked.result))


@given(st.integers(-(2**46), 2**46), st.floats(2.0**-15, 1.0))
def test_worked_steps_of_the_short_multiplier_end_where_the_rule_does(x, real):
    assert work_out(x, real, reduced_16x8).result == int(
        reduced_16x8(np.array(x), np.array(real)))


@given(sums, reals, st.sampled_from([double_away, double_up, single_up]))
def test_each_step_is_true(x, real, rule):
    """The lines are Python: what stands left of a sign of equality is what stands right of it."""
    first, *steps = work_out(x, real, rule).steps
    value = Fraction(eval(first.removeprefix("M = ").replace("2**(", "Fraction(2)**("),
                          {"Fraction": Fraction}))
    assert abs(value - Fraction(real)) <= Fraction(real) / 2**31
    for step in steps:
        left, right = step.split(" -> ")[0].rsplit(" = ", 1)
        assert eval(left) == float(right)


@given(sums, reals, st.sampled_from(RULES), st.sampled_from(RULES))
def test_two_rules_are_never_more_than_one_apart(x, real, first, second):
    if abs(x * real) < 2**22:           # beyond, float32 has no fraction left to round
        assert compare_rules([x], real, first, second).largest <= 1


def test_a_rule_without_steps_is_refused():
    with pytest.raises(ValueError, match="`rule` must be one of double_away"):
        work_out(1, 0.5, dyadic)
