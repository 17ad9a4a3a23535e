"""The rules of requantization against fractions, published tables and the law of their parting."""

from fractions import Fraction
from math import ceil, floor, frexp, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.requantize import (
    RULES,
    double_away,
    double_up,
    dyadic,
    in_float32,
    in_float64,
    lanes,
    product_in_float32,
    product_in_float64,
    qmn,
    qmn_truncated,
    ratio_in_float32,
    reduced_16x8,
    single_up,
    tosa_double,
    tosa_single,
)

sums = st.integers(-(2**31), 2**31 - 1)
small = st.floats(2.0**-30, 0.999999, allow_subnormal=False)


def up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def away(x: Fraction) -> int:
    return up(x) if x >= 0 else ceil(x - Fraction(1, 2))


def mantissa_and_shift(m: float) -> tuple[int, int]:
    fraction, n = frexp(m)
    q = away(Fraction(fraction) * 2**31)
    return (q // 2, n + 1) if q == 2**31 else (q, n)


def high(x: int, m: float) -> tuple[Fraction, int]:
    """SRDHM of the shifted sum over the right shift, which remains to be rounded."""
    q, n = mantissa_and_shift(m)
    top = up(Fraction((x << max(n, 0)) * q, 2**31))
    return Fraction(top, 2 ** max(-n, 0)), n


@given(sums, small)
def test_double_rules_round_the_high_half_and_then_the_shift(x, m):
    if mantissa_and_shift(m)[1] <= 0:
        rest, _ = high(x, m)
        assert double_away(x, m) == away(rest)
        assert double_up(x, m) == up(rest)


@given(st.integers(-(2**20), 2**20), st.floats(1, 500))
def test_multipliers_above_one_shift_left_first(x, m):
    rest, n = high(x, m)
    assert n > 0
    assert double_away(x, m) == double_up(x, m) == rest


@given(sums, st.floats(2.0**-31, 2.0**29))
def test_single_rule_rounds_the_whole_product(x, m):
    q, n = mantissa_and_shift(m)
    expected = up(Fraction(x * q) * Fraction(2) ** (n - 31))
    assert single_up(x, m) == expected
    if n <= 29:
        assert tosa_single(x, m) == expected


@given(sums, st.floats(2.0**-31, 2.0**28))
def test_tosa_double_nudges_small_multipliers_by_the_sign(x, m):
    q, n = mantissa_and_shift(m)
    nudge = (2**30 if x >= 0 else -(2**30)) if n < 0 else 0
    assert tosa_double(x, m) == up(Fraction(x * q + nudge) * Fraction(2) ** (n - 31))


@given(st.integers(-(2**47), 2**47 - 1), st.floats(2.0**-31, 127))
def test_reduced_rule_keeps_fifteen_bits_of_the_multiplier(x, m):
    q, n = mantissa_and_shift(m)
    short = min(up(Fraction(q, 2**16)), 0x7FFF)
    assert reduced_16x8(x, m) == up(Fraction(x * short) * Fraction(2) ** (n - 15))


@given(sums, st.floats(2.0**-31, 0.99))
def test_float64_rule_rounds_the_float64_product_away(x, m):
    assert in_float64(x, m) == away(Fraction(float(x) * m))


@given(sums, st.floats(2.0**-31, 0.99))
def test_float32_rule_rounds_the_float32_product_to_even(x, m):
    exact = Fraction(float(np.float32(x))) * Fraction(float(np.float32(m)))
    assert in_float32(x, m) == round(Fraction(float(np.float32(float(exact)))))   # 48 bits: exact


@given(st.integers(-(2**22), 2**22), st.floats(2.0**-31, 0.99))
def test_dyadic_rule_rounds_the_product_to_even_once(x, m):
    q, n = mantissa_and_shift(m)
    assert dyadic(x, m) == round(Fraction(x * q) * Fraction(2) ** (n - 31))


@given(sums, st.integers(0, 31))
def test_shifts_alone_round_up_or_down(x, right):
    assert qmn(x, 2.0**-right) == up(Fraction(x, 2**right))
    assert qmn_truncated(x, 2.0**-right) == x >> right


@pytest.mark.parametrize(("x", "da", "du", "s"), [
    (1, 1, 1, 0), (5, 2, 2, 1), (6, 2, 2, 2), (9, 3, 3, 2),
    (-2, -1, 0, 0), (-3, -1, 0, -1), (-6, -2, -1, -1), (-10, -3, -2, -2),
])
def test_a_quarter_of_small_numbers(x, da, du, s):
    assert [int(rule(x, 0.25)) for rule in (double_away, double_up, single_up)] == [da, du, s]


def test_published_case_of_tensorflow_issue_25087():
    m = 1583594044 * 2.0**-40
    assert [int(RULES[name](7984, m)) for name in ("DA", "DU", "S")] == [12, 12, 11]


def test_published_case_that_only_float32_explains():
    scales = np.float32([0.05296124518, 0.02409377880, 0.11484327912])
    m = product_in_float64(*scales)                    # 6.50000047
    assert [int(rule(585, m)) for rule in RULES.values()] == [7, 7, 7, 7, 7]
    assert in_float32(585, ratio_in_float32(*scales)) == 6


@pytest.mark.parametrize(("x", "expected"), [(39, [7, 7, 6, 6, 7]), (-39, [-7, -6, -6, -6, -7])])
def test_the_example_that_separates_all_rules(x, expected):
    m = product_in_float64(0.5, 0.25, 0.75)
    assert [int(rule(x, m)) for rule in RULES.values()] == expected


def test_products_of_scales_are_rounded_where_they_say():
    x, w, y = np.float32([0.1, 0.3, 0.7])
    exact = Fraction(float(x)) * Fraction(float(w)) / Fraction(float(y))
    assert abs(Fraction(float(product_in_float64(x, w, y))) / exact - 1) < Fraction(2, 2**53)
    assert product_in_float32(x, w, y) == float(x * w) / float(y)
    assert ratio_in_float32(x, w, y) == float(x * w / y)
    assert float(ratio_in_float32(0.5, 0.25, 0.6)) == 0.2083333283662796
    assert product_in_float32(x, w, y) != product_in_float64(x, w, y)


@pytest.mark.parametrize("right", range(9))
def test_each_pair_parts_on_half_of_two_to_the_minus_shift(right):
    rng, n = np.random.default_rng(right), 200_000
    x = rng.integers(-(2**24), 2**24, n)
    real = rng.uniform(0.5, 1, n) * 2.0**-right
    a, b, c = double_away(x, real), double_up(x, real), single_up(x, real)
    law = 0.5 ** (right + 1) if right else 0.0
    five_errors = 5 * sqrt(law * (1 - law) / n)
    for one, other in ((a, b), (a, c), (b, c)):
        assert abs((one != other).mean() - law) <= five_errors
        assert np.abs(one - other).max() <= 1


@given(st.integers(0, 40), st.integers(1, 9))
def test_lanes_give_each_place_its_own_rule(n, width):
    x = np.arange(-n, 3 * n).reshape(4, n) if n else np.zeros((4, 0), int)
    got = lanes(double_up, double_away, width=width)(x, 0.25)
    whole = n // width * width
    assert (got[:, :whole] == double_up(x[:, :whole], 0.25)).all()
    assert (got[:, whole:] == double_away(x[:, whole:], 0.25)).all()


@pytest.mark.parametrize(("rule", "x", "m"), [
    (double_away, 2**31, 0.5), (double_up, 2**31, 0.5), (single_up, 2**31, 0.5),
    (double_up, 2**30, 4.0), (double_away, 2**30, 4.0), (in_float32, 2**31, 0.5),
    (in_float64, 2**53 + 1, 0.5), (in_float64, 1, -1.0), (in_float32, 1, np.nan),
    (reduced_16x8, 2**47, 0.5), (reduced_16x8, 1, 128.0), (dyadic, 2**54, 0.5),
    (tosa_single, 1, 2.0**-40), (tosa_double, 1, 2.0**29), (qmn, 1, 0.3), (qmn, 1, 2.0),
])
def test_what_leaves_the_range_is_refused(rule, x, m):
    with pytest.raises(ValueError, match="must"):
        rule(x, m)


def test_a_lane_of_no_width_is_refused():
    with pytest.raises(ValueError, match="`width` must be at least 1; got 0"):
        lanes(double_up, double_away, width=0)
