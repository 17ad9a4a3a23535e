"""Fixed-point multiplication against integers of Python and exact fractions."""

from fractions import Fraction
from math import ceil, floor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.arithmetic import (
    QuantizedMultiplier,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
    saturating_rounding_doubling_high_mul,
)

INT_MIN, INT_MAX = -(2**31), 2**31 - 1
int32s = st.integers(INT_MIN, INT_MAX)
multipliers = st.floats(2.0**-30, 2.0**3, allow_subnormal=False)


def ties_up(x: Fraction) -> int:
    return floor(x + Fraction(1, 2))


def ties_away(x: Fraction) -> int:
    return floor(x + Fraction(1, 2)) if x >= 0 else ceil(x - Fraction(1, 2))


def gemmlowp_high_mul(a: int, b: int) -> int:
    """The definition by truncating division, as gemmlowp states it."""
    if a == b == INT_MIN:
        return INT_MAX
    nudged = a * b + (2**30 if a * b >= 0 else 1 - 2**30)
    return abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)


@given(int32s, int32s)
def test_high_mul_is_the_product_over_two_to_the_31_with_ties_up(a, b):
    got = int(saturating_rounding_doubling_high_mul(a, b))
    assert got == min(ties_up(Fraction(a * b, 2**31)), INT_MAX)


@given(int32s, st.one_of(int32s, st.integers(-64, 63).map(lambda k: k * 2**25)))
def test_high_mul_is_gemmlowps_truncating_form(a, b):
    assert int(saturating_rounding_doubling_high_mul(a, b)) == gemmlowp_high_mul(a, b)


@given(int32s, int32s)
def test_high_mul_commutes_and_saturates_in_one_corner_only(a, b):
    product = saturating_rounding_doubling_high_mul(a, b)
    assert product == saturating_rounding_doubling_high_mul(b, a)
    assert INT_MIN <= product <= INT_MAX
    assert saturating_rounding_doubling_high_mul(INT_MIN, INT_MIN) == INT_MAX


@given(int32s, st.integers(0, 31))
def test_divide_by_power_of_two_rounds_ties_away(x, exponent):
    assert int(rounding_divide_by_pot(x, exponent)) == ties_away(Fraction(x, 2**exponent))


def test_divide_by_power_of_two_on_every_small_number():
    x, exponent = np.meshgrid(np.arange(-300, 301), np.arange(9))
    pairs = zip(x.ravel().tolist(), exponent.ravel().tolist(), strict=True)
    expected = [ties_away(Fraction(a, 2**e)) for a, e in pairs]
    assert rounding_divide_by_pot(x, exponent).ravel().tolist() == expected


@given(x=int32s, exponent=st.integers(0, 31))
def test_divide_by_power_of_two_is_odd(x, exponent):
    if x > INT_MIN:
        assert rounding_divide_by_pot(-x, exponent) == -rounding_divide_by_pot(x, exponent)


@given(multipliers)
def test_multiplier_is_the_nearest_with_31_bits(real):
    mantissa, shift = (int(part) for part in quantize_multiplier(real))
    assert 2**30 <= mantissa < 2**31
    # Half a unit of the last place; a mantissa that rounds up to 2**31 has none to spare.
    unit = Fraction(2) ** (shift - 31)
    assert abs(mantissa * unit - Fraction(real)) <= unit / 2


@given(multipliers, st.integers(-20, 20))
def test_powers_of_two_move_only_the_shift(real, k):
    mantissa, shift = quantize_multiplier(real)
    moved = quantize_multiplier(real * 2.0**k)
    if shift + k >= -31:
        assert (moved.mantissa, moved.shift) == (mantissa, shift + k)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (0.0, (0, 0)),
        (0.75, (1610612736, 0)),
        (1.0, (1073741824, 1)),
        (0.3, (1288490189, -1)),
        (1 / 6, (1431655765, -2)),
        (1 - 2.0**-33, (1073741824, 1)),
        (2.0**-32, (1073741824, -31)),
        (2.0**-33, (0, 0)),
        (5e-324, (0, 0)),
    ],
)
def test_known_multipliers(real, expected):
    mantissa, shift = quantize_multiplier(real)
    assert (int(mantissa), int(shift)) == expected


@given(int32s, multipliers)
def test_product_is_two_roundings_of_exact_fractions(x, real):
    mantissa, shift = (int(part) for part in quantize_multiplier(real))
    left, right = max(shift, 0), max(-shift, 0)
    if INT_MIN <= x * 2**left <= INT_MAX:
        once = ties_up(Fraction(x * 2**left * mantissa, 2**31))
        twice = ties_away(Fraction(once, 2**right))
        multiplier = quantize_multiplier(real)
        assert int(multiply_by_quantized_multiplier(x, multiplier)) == twice
        assert abs(twice - x * mantissa * Fraction(2) ** (shift - 31)) < 1


def test_rounding_twice_is_not_rounding_once():
    quarter = quantize_multiplier(0.25)
    x = np.array([1, 5, 6, 9, -2, -3, -6, -10])
    twice = multiply_by_quantized_multiplier(x, quarter)
    assert twice.tolist() == [1, 2, 2, 3, -1, -1, -2, -3]
    once = [ties_up(Fraction(int(a), 4)) for a in x]
    assert once == [0, 1, 2, 2, 0, -1, -1, -2]


def test_published_case_of_double_rounding():
    multiplier = QuantizedMultiplier(np.array(1583594044), np.array(-9))
    assert multiply_by_quantized_multiplier(7984, multiplier) == 12     # exactly 11.49912


def test_one_multiplier_per_channel_broadcasts():
    x = np.arange(-6, 6).reshape(3, 4) * 1000
    rows = quantize_multiplier(np.array([[0.1], [1.5], [0.007]]))
    whole = multiply_by_quantized_multiplier(x, rows)
    for row, real in zip(range(3), (0.1, 1.5, 0.007), strict=True):
        alone = multiply_by_quantized_multiplier(x[row], quantize_multiplier(real))
        assert np.array_equal(whole[row], alone)


def test_arguments_stay_and_empty_stays_empty():
    x = np.arange(4, dtype=np.int32)
    multiply_by_quantized_multiplier(x, quantize_multiplier(3.0))
    assert x.tolist() == [0, 1, 2, 3]
    empty = multiply_by_quantized_multiplier(np.zeros((0, 2), np.int32), quantize_multiplier(0.1))
    assert empty.shape == (0, 2)


class TestGolden:
    def test_L15(self):
        k = np.array([1, -1, 3, -3])
        # 3 * 2**30 is no int32: the factor k stands on the other side of the product.
        assert saturating_rounding_doubling_high_mul(2**30, k).tolist() == [1, 0, 2, -1]
        assert rounding_divide_by_pot(k, 1).tolist() == [1, -1, 2, -2]

    def test_L16(self):
        multiplier = quantize_multiplier(0.0003)
        assert (int(multiplier.mantissa), int(multiplier.shift)) == (1319413953, -11)
        x = np.array([5000, -5000, 12345])
        assert multiply_by_quantized_multiplier(x, multiplier).tolist() == [2, -2, 4]


class TestErrors:
    @pytest.mark.parametrize("big", [2**31, -(2**31) - 1])
    def test_operands_beyond_int32(self, big):
        for call in (
            lambda: saturating_rounding_doubling_high_mul(big, 1),
            lambda: saturating_rounding_doubling_high_mul(1, big),
            lambda: rounding_divide_by_pot(big, 1),
            lambda: multiply_by_quantized_multiplier(big, quantize_multiplier(0.5)),
        ):
            with pytest.raises(ValueError, match=r"must lie in \[-2147483648, 2147483647\]"):
                call()

    @pytest.mark.parametrize(("x", "real"), [(2**30, 2.0), (-(2**30) - 1, 2.0), (1, 2.0**40)])
    def test_shifting_left_out_of_int32(self, x, real):
        with pytest.raises(ValueError, match="must stay an int32 when shifted left"):
            multiply_by_quantized_multiplier(x, quantize_multiplier(real))

    def test_the_lowest_int32_is_still_one(self):
        assert multiply_by_quantized_multiplier(-(2**30), quantize_multiplier(1.5)) == -3 * 2**29

    @pytest.mark.parametrize("exponent", [-1, 32])
    def test_exponent_out_of_range(self, exponent):
        with pytest.raises(ValueError, match=r"`exponent` must lie in \[0, 31\]"):
            rounding_divide_by_pot(1, exponent)

    @pytest.mark.parametrize("real", [-0.1, np.nan, np.inf])
    def test_multiplier_not_a_nonnegative_number(self, real):
        with pytest.raises(ValueError, match="`real` must be finite and not negative"):
            quantize_multiplier(real)

    def test_floats_are_refused(self):
        with pytest.raises(TypeError, match="`x` must be integers"):
            multiply_by_quantized_multiplier(1.0, quantize_multiplier(0.5))


def test_a_multiplier_of_integers_is_taken_as_it_is():
    """So that a program can hold integers alone, and a rule be given either."""
    held = quantize_multiplier([0.3, 0.7])
    assert quantize_multiplier(held) is held
    x = np.array([1000, -1000])
    for again in (held, [0.3, 0.7]):
        y = multiply_by_quantized_multiplier(x, quantize_multiplier(again))
        assert y.tolist() == [300, -700]


@pytest.mark.parametrize("left", [31, 32, 64, 1000])
def test_what_a_large_left_shift_leaves_room_for(left):
    """2**31 times -1 is an int32; beyond that, only 0 stays one."""
    huge = QuantizedMultiplier(np.array(2**30), np.array(left))
    assert multiply_by_quantized_multiplier(0, huge) == 0
    if left == 31:
        assert multiply_by_quantized_multiplier(-1, huge) == -(2**30)
    for x in [1] if left == 31 else [1, -1]:
        with pytest.raises(ValueError, match=f"int32 when shifted left by `shift`; got {x}"):
            multiply_by_quantized_multiplier(x, huge)
