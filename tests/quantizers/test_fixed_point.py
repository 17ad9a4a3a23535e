"""Fixed point: exact rationals, both notations, saturation."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from quantizers.contract import LAWS, check

from refquant.quantizers.fixed_point import (
    FixedPoint,
    covering,
    multiply,
    q_arm,
    q_ti,
    rescale,
)
from refquant.quantizers.uniform import Uniform
from refquant.rounding import floor, half_up

formats = st.builds(
    FixedPoint,
    st.integers(2, 16),
    st.integers(-8, 24),
    signed=st.booleans(),
)
INSTANCES = [
    FixedPoint(8, 7),
    FixedPoint(8, 6, narrow=True),
    FixedPoint(4, -2),
    FixedPoint(6, 12),
    FixedPoint(5, 3, signed=False),
]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("quantizer", INSTANCES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contract(law, quantizer, dtype) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)) * quantizer.max_value / 2
    check(law, quantizer, x.astype(dtype))


@given(formats, st.floats(-1e6, 1e6) | st.integers(-4000, 4000).map(lambda n: n / 2**9))
@example(FixedPoint(8, 7), 1.0)
@example(FixedPoint(8, 0), 2.5)
def test_encode_is_exact_rounding_of_the_rational(f: FixedPoint, x: float) -> None:
    expected = min(max(round(Fraction(x) * Fraction(2) ** f.frac_bits), f.qmin), f.qmax)
    assert f.encode(np.array(x)) == expected


@given(formats, st.data())
def test_decode_is_exact_and_encode_inverts_it(f: FixedPoint, data) -> None:
    q = data.draw(st.integers(f.qmin, f.qmax))
    x = f.decode(np.array(q))
    assert Fraction(float(x)) == Fraction(q) * Fraction(2) ** -f.frac_bits
    assert f.encode(x) == q


@given(formats, st.floats(-1e3, 1e3))
def test_fixed_point_is_uniform_with_a_power_of_two_scale(f: FixedPoint, x: float) -> None:
    uniform = Uniform(np.array(f.scale), np.array(f.qmin - f.qmin), f.qmin, f.qmax)
    assert f.encode(np.array(x)) == uniform.encode(np.array(x))


@pytest.mark.parametrize("total", [25, 26, 31, 32])
def test_long_codes_are_exact_in_float64(total: int) -> None:
    f = FixedPoint(total, total - 1)
    codes = np.array([f.qmin, f.qmin + 1, -1, 0, 1, f.qmax - 1, f.qmax])
    x = f.decode(codes)
    assert x.dtype == (np.float32 if total <= 25 else np.float64)
    np.testing.assert_array_equal(f.encode(x), codes)


@given(st.integers(0, 8), st.integers(0, 8))
def test_the_two_notations_differ_by_the_sign_bit(m: int, n: int) -> None:
    if m + n == 0:
        return
    assert q_ti(m, n) == q_arm(m + 1, n)
    f = q_ti(m, n)
    assert float(f.decode(np.array(f.qmin))) == -(2.0**m)
    assert f.max_value == 2.0**m - 2.0**-n


@given(st.floats(2.0**-40, 2.0**40), st.integers(3, 16), st.booleans())
@example(1.0, 8, True)
@example(1.0, 8, False)
@example(math.nextafter(1.0, 0), 8, False)
def test_covering_is_the_finest_format_that_holds_the_bound(
    bound: float, bits: int, tight: bool
) -> None:
    f = covering(bound, total_bits=bits, tight=tight)
    top = Fraction(2) ** (bits - 1 - f.frac_bits)
    assert Fraction(bound) < top or (tight and Fraction(bound) == top)
    finer = top / 2
    assert Fraction(bound) >= finer if not tight else Fraction(bound) > finer
    # Rounding may still clip, by less than a step; a tight format by exactly one at most.
    error = abs(Fraction(float(f.decode(f.encode(np.array(bound))))) - Fraction(bound))
    assert error <= Fraction(f.scale)


@given(st.integers(-128, 127), st.integers(-128, 127), st.integers(0, 7))
def test_product_is_the_rational_rounded_half_up(a: int, b: int, n: int) -> None:
    exact = Fraction(a * b, 2**n)
    expected = min(max(math.floor(exact + Fraction(1, 2)), -128), 127)
    assert multiply(np.array(a), np.array(b), FixedPoint(8, n)) == expected


@given(st.integers(-(2**62), 2**62), st.integers(0, 62))
@example(-(2**62), 62)
@example(2**62, 1)
def test_rescale_rounds_half_up_without_overflow(acc: int, shift: int) -> None:
    expected = min(max(math.floor(Fraction(acc, 2**shift) + Fraction(1, 2)), -128), 127)
    assert rescale(np.array(acc), shift, FixedPoint(8, 7)) == expected


def test_golden_q07_F13() -> None:
    q7 = q_ti(0, 7)
    assert q7 == q_arm(1, 7) == FixedPoint(8, 7)
    assert q7.encode(np.array(1.0)) == 127
    assert q7.decode(np.array(127)) == np.float32(0.9921875)
    assert multiply(np.array(-128), np.array(-128), q7) == 127


def test_rounding_is_a_function() -> None:
    x = np.array([-0.75, 0.75, 0.5])
    f = FixedPoint(8, 1)
    np.testing.assert_array_equal(f.encode(x), [-2, 2, 1])
    np.testing.assert_array_equal(f.encode(x, rounding=half_up), [-1, 2, 1])
    np.testing.assert_array_equal(f.encode(x, rounding=floor), [-2, 1, 1])


def test_covering_of_nothing_is_that_of_one() -> None:
    assert covering(0.0) == covering(1.0) == FixedPoint(8, 6)


def test_bad_input_gets_a_clear_error() -> None:
    with pytest.raises(ValueError, match="`total_bits` must be at least 2; got 1"):
        FixedPoint(1, 0)
    with pytest.raises(ValueError, match="`total_bits` must be at most 31; got 32"):
        FixedPoint(32, 0, signed=False)
    with pytest.raises(ValueError, match="`frac_bits` must be at most 126"):
        FixedPoint(8, 127)
    with pytest.raises(ValueError, match="`narrow` must be False"):
        FixedPoint(8, 7, signed=False, narrow=True)
    for bound in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="`bound` must be finite and not negative"):
            covering(bound)
    with pytest.raises(ValueError, match=r"`a` must lie in \[-128, 127\]; got 128"):
        multiply(np.array(128), np.array(1), FixedPoint(8, 7))
    with pytest.raises(ValueError, match="`shift` must be at least 0"):
        rescale(np.array(1), -1, FixedPoint(8, 7))
    with pytest.raises(ValueError, match="`shift` must be at least 0"):
        multiply(np.array(1), np.array(1), FixedPoint(8, -1))


def test_mantissa_bits_are_those_of_the_largest_number() -> None:
    assert FixedPoint(8, 6).mantissa_bits == 6         # 127/64 = 1.984375
    assert FixedPoint(4, 2).mantissa_bits == 2


@pytest.mark.parametrize("bits", [24, 25])
@pytest.mark.parametrize("signed", [False, True])
def test_the_ends_of_every_width_are_decoded_exactly(bits, signed):
    q = FixedPoint(bits, 0, signed=signed)
    ends = np.array([q.qmin, q.qmin + 1, q.qmax - 1, q.qmax])
    assert q.decode(ends).tolist() == ends.tolist()


def test_widths_from_an_array_count_like_others():
    for kind in (np.int8, np.uint8, np.int64):
        q = FixedPoint(kind(8), kind(7))
        assert (q.qmin, q.qmax, q.scale) == (-128, 127, 2**-7)


@pytest.mark.parametrize("bound", ["1", None, np.ones(2)])
def test_a_bound_that_is_no_number_is_refused(bound):
    with pytest.raises(TypeError, match="`bound` must be a real number"):
        covering(bound)
