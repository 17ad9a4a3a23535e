"""Powers of two: both readings against exact rationals, APoT against the authors' sets."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from quantizers.contract import LAWS, check, nearest

from refquant.quantizers.power_of_two import (
    PowerOfTwo,
    apot,
    apot_levels,
    linear_nearest,
    log_nearest,
)

X = np.random.default_rng(0).normal(size=(3, 20))
floats = st.floats(-300, 300, width=32)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_contract_of_the_linear_reading(law, bits):
    check(law, linear_nearest(np.array([[2.0], [1.0], [3.0]]), bits=bits), X)


@pytest.mark.parametrize("law", [law for law in LAWS if law is not nearest])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contract_of_the_log_reading_but_for_nearest(law, dtype):
    check(law, log_nearest(np.array(2.0, dtype), bits=4), X.astype(dtype))


@pytest.mark.parametrize("law", LAWS)
def test_contract_of_apot(law):
    check(law, apot(np.array([[2.0], [1.0], [3.0]]), bits=4), X)


def exponent_floor(x):
    """Greatest k with 2**k <= x, for a positive Fraction."""
    k = x.numerator.bit_length() - x.denominator.bit_length()
    return k if Fraction(2) ** k <= x else k - 1


@given(x=floats, bits=st.integers(2, 6), top=st.integers(-3, 4), single=st.booleans())
@example(x=float(np.float32(0.5**0.5)), bits=4, top=0, single=True)
@example(x=0.5**0.5, bits=4, top=0, single=False)
@example(x=float(np.nextafter(0.5**0.5, 0)), bits=4, top=0, single=False)
@example(x=float(np.nextafter(4.0, 0)), bits=4, top=3, single=False)
def test_log_reading_rounds_the_logarithm_exactly(x, bits, top, single):
    dtype = np.float32 if single else np.float64
    q = log_nearest(np.array(2.0**top, dtype), bits=bits)
    n, expected = 2 ** (bits - 1) - 1, 0
    if x != 0:
        magnitude = abs(Fraction(x))
        k = exponent_floor(magnitude)
        k += (magnitude / Fraction(2) ** k) ** 2 >= 2           # half-up in log2
        expected = min(max(k - top + n, 0), n) * (1 if x > 0 else -1)
    assert q.encode(np.array(x, dtype)) == expected


@given(x=floats, bits=st.integers(2, 6), top=st.integers(-3, 4))
@example(x=0.75, bits=4, top=0)
@example(x=2.0**-7, bits=4, top=0)
def test_linear_reading_is_the_nearest_value_and_a_tie_is_the_smaller(x, bits, top):
    q = linear_nearest(np.array(2.0**top), bits=bits)
    levels = [Fraction(0), *(Fraction(2) ** (top - j) for j in range(2 ** (bits - 1) - 1))]
    chosen = Fraction(float(q.decode(q.encode(np.array(x)))))
    distances = {level: abs(abs(Fraction(x)) - level) for level in levels}
    assert abs(chosen) == min(levels, key=lambda level: (distances[level], level))


@given(x=floats, bits=st.integers(2, 8), logarithmic=st.booleans())
def test_negating_the_data_negates_the_codes(x, bits, logarithmic):
    q = PowerOfTwo(np.array(4.0), bits, logarithmic)
    assert q.encode(np.array(-x)) == -q.encode(np.array(x))


@given(x=st.floats(2.0**-5.4, 2.0**1.4))
def test_relative_error_is_at_most_a_third_or_root_two_minus_one(x):
    for fit, bound in ((linear_nearest, 1 / 3), (log_nearest, 2**0.5 - 1)):
        q = fit(np.array(2.0), bits=4)
        value = q.decode(q.encode(np.array(x)))
        assert abs(value - x) <= bound * x * (1 + 1e-12)


def test_golden_N14_log_quantizer():
    # FSR = 0: levels 2**-7 .. 2**-1, hence 4 bits with the sign. The table has 0.25 for
    # 0.36, but 0.36**2 > 2 * 0.25**2: its logarithm is nearer to -1.
    x = np.array([1, 0.71, 0.7, 0.36, 0.25, 0.1, 2**-7.4, 2**-7.6])
    q = log_nearest(np.array(0.5), bits=4)
    assert np.array_equal(q.decode(q.encode(x)), [0.5, 0.5, 0.5, 0.5, 0.25, 0.125, 2**-7, 0])
    assert q.decode(q.encode(np.array(0.35))) == 0.25


@pytest.mark.parametrize(
    ("bits", "factor", "expected"),
    [
        pytest.param(2, 4, [0, 1, 2, 4], id="N1"),
        pytest.param(3, 10, [0, 1, 2, 3, 4, 6, 8, 10], id="N2"),
        pytest.param(4, 48, [0, 1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 24, 32, 33, 36, 48], id="N3"),
        pytest.param(5, 100, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 17, 20, 21, 24, 28, 32,
                              34, 36, 38, 48, 52, 64, 65, 68, 69, 72, 76, 96, 100], id="N4"),
    ],
)
def test_golden_apot_levels(bits, factor, expected):
    assert apot_levels(bits) * factor == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_apot_is_every_sum_of_one_choice_from_each_set(bits):
    n = bits // 2
    sets = [[Fraction(0), *(Fraction(1, 2 ** (i + j * n)) for j in range(3))] for i in range(n)]
    sums = sorted({sum(choice) for choice in product(*sets)})
    assert apot_levels(bits) == pytest.approx([float(s / sums[-1]) for s in sums], abs=1e-15)
    assert len(sums) == 2**bits


def test_apot_with_a_sign_has_zero_once_and_two_bits_are_ternary():
    assert np.array_equal(apot(np.array(3.0), bits=2).levels, [-3, 0, 3])
    q = apot(np.array(3.0, np.float32), bits=5)
    assert q.levels.size == 31
    assert q.levels.dtype == np.float32
    assert np.array_equal(q.levels, -q.levels[::-1])
    assert q.code_bits == 5
    assert apot(np.array(0.0), bits=3, signed=False).levels[-1] == 1


def test_largest_level_is_the_power_nearest_to_the_bound():
    bound = np.array([1.4, 1.42, 1.49, 1.51, 2.0, 0.0])
    assert np.array_equal(log_nearest(bound, bits=4).largest, [1, 2, 2, 2, 2, 1])
    assert np.array_equal(linear_nearest(bound, bits=4).largest, [1, 1, 1, 2, 2, 1])


def test_a_tie_for_the_largest_level_goes_up_where_there_is_a_higher_power():
    assert linear_nearest(np.array(1.5), bits=4).largest == 2
    for dtype, top in ((np.float32, 127), (np.float64, 1023)):
        bound = np.array(np.finfo(dtype).max)
        for fit in (linear_nearest, log_nearest):
            assert fit(bound, bits=4).largest == 2.0**top


def test_an_exponent_is_stored_in_eight_bits():
    assert linear_nearest(np.ones((4, 1)), bits=4).parameter_bits() == 32


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PowerOfTwo(np.array(3.0), 4), "`largest` must be a power of two; got 3.0"),
        (lambda: PowerOfTwo(np.array(-1.0), 4), "`largest` must be positive"),
        (lambda: PowerOfTwo(np.array(1.0), 9), "`bits` must be at most 8; got 9"),
        (lambda: PowerOfTwo(np.array(2.0**-100, np.float32), 7),
         "`largest` must leave the smallest level a normal number; got"),
        (lambda: log_nearest(np.array(-1.0), bits=4), "`bound` must not be negative"),
        (lambda: linear_nearest(np.array(np.inf), bits=4), "`bound` must be finite"),
        (lambda: apot_levels(7), "`bits` must be 1 to 6 or 8"),
        (lambda: apot(np.array(1.0), bits=1), "`bits` must be at least 1; got 0"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.int8])
def test_codes_without_a_sign_mean_what_others_mean(dtype):
    q = PowerOfTwo(np.array(1.0), 3)
    assert q.decode(np.arange(4, dtype=dtype)).tolist() == [0, 0.25, 0.5, 1]


def test_bits_from_an_array_count_like_others():
    q = PowerOfTwo(np.array(1.0), np.int8(8))
    assert q.decode(np.array([-127, 127])).tolist() == [-1, 1]
