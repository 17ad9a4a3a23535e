"""The first derivation against the floating point of the machine, on numbers, not on trust."""

import operator
from fractions import Fraction
from itertools import islice
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.oracle import _casts
from refquant.oracle._exact import (
    BF16,
    F16,
    F32,
    F64,
    exponent,
    half_away,
    half_up,
    integer,
    product,
    quotient,
    total,
)
from refquant.oracle._words import floats, splitmix64
from refquant.oracle.vectors import load_table
from refquant.rounding import half_away as half_away_numpy

patterns = st.integers(0, 2**32 - 1)


def single(u: int) -> np.float32:
    return np.uint32(u).view(np.float32)


@pytest.mark.parametrize(("binary", "dtype"), [(F16, np.float16), (F32, np.float32),
                                               (F64, np.float64)])
@given(u=st.integers(0, 2**64 - 1))
def test_number_and_bits_are_those_of_numpy(binary, dtype, u):
    width = np.dtype(dtype).itemsize
    u %= 256**width
    x = np.array(u, f"u{width}").view(dtype)[()]
    number = binary.number(u)
    if np.isnan(x):
        assert number is None
    else:
        assert float(number) == float(x)
        assert binary.bits(number, negative_zero=bool(np.signbit(x))) == u
        assert binary.rounded(number) == number


@pytest.mark.parametrize(("binary", "dtype"), [(F16, np.float16), (F32, np.float32)])
@given(x=st.floats(allow_nan=False, allow_infinity=False))
def test_rounding_is_that_of_a_cast_from_float64(binary, dtype, x):
    with np.errstate(over="ignore"):
        expected = float(np.float64(x).astype(dtype))
    assert float(binary.rounded(Fraction(x))) == expected


@given(a=patterns, b=patterns)
@pytest.mark.parametrize(("ours", "theirs"), [(product, operator.mul), (total, operator.add),
                                              (quotient, operator.truediv)])
def test_one_operation_rounded_once_is_that_of_float32(ours, theirs, a, b):
    if ours is quotient and not b % 2**31:
        return                                          # a divisor of zero is not asked for
    with np.errstate(all="ignore"):
        expected = theirs(single(a), single(b))
    found = F32.rounded(ours(F32.number(a), F32.number(b)))
    if np.isnan(expected):
        assert found is None
    else:
        assert float(found) == float(expected)


@given(u=patterns)
def test_bfloat16_rounds_float32_to_even(u):
    x = F32.number(u)
    if isinstance(x, Fraction):
        rounded = (u + 0x7FFF + (u >> 16 & 1)) >> 16
        assert BF16.bits(BF16.rounded(x), negative_zero=bool(u >> 31)) == rounded


@given(x=st.fractions())
def test_integer_rules(x):
    away = half_away(x)
    assert abs(away - x) <= Fraction(1, 2)
    assert abs(half_up(x) - x) <= Fraction(1, 2)
    assert half_up(x) >= away if x < 0 else half_up(x) == away
    assert integer(x, half_away, -5, 5) == min(max(away, -5), 5)
    if x:
        e = exponent(x)
        assert Fraction(2) ** e <= abs(x) < Fraction(2) ** (e + 1)


def test_half_away_is_that_of_the_library_on_halves():
    x = np.arange(-9, 10) / 2
    assert [half_away(Fraction(v)) for v in x] == half_away_numpy(x).tolist()


def test_infinities_clip_and_nan_stays_open():
    assert integer(inf, round, -8, 7) == 7
    assert integer(-inf, round, -8, 7) == -8
    assert integer(None, round, -8, 7) is None
    assert product(Fraction(0), inf) is None
    assert total(inf, -inf) is None
    assert quotient(Fraction(1), inf) == 0
    assert quotient(inf, inf) is None
    assert F32.bits(None, nan=0x7FC00000) == 0x7FC00000
    with pytest.raises(ValueError, match="must be a number of the format"):
        F16.bits(Fraction(1, 3))


def test_what_rounds_to_the_next_power_of_two_overflows():
    for binary, largest, first in ((F16, 65504, 65520), (F32, 2**128 - 2**104, 2**128 - 2**103)):
        assert binary.rounded(Fraction(first)) == inf
        assert binary.rounded(Fraction(-first)) == -inf
        assert binary.rounded(Fraction(first - 1)) == largest
        assert binary.rounded(Fraction(2 * first)) == inf
    assert F16.bits(inf) == 0x7C00
    assert F16.bits(-inf) == 0xFC00


def test_splitmix64_gives_its_published_words():
    assert list(islice(splitmix64(1234567), 3)) == [
        6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_random_floats_keep_to_their_exponents():
    x = np.array(list(islice(floats(0, low=-3, high=2), 500)), np.uint32).view(np.float32)
    assert (np.abs(x) >= 2.0**-3).all()
    assert (np.abs(x) < 2.0**3).all()
    assert (x < 0).any()
    assert (x > 4).any()


class TestTables:
    @pytest.mark.parametrize("target", [t for t, f in _casts.FORMATS.items() if f.code_bits <= 8])
    def test_every_half_precision_number_of_every_policy(self, target):
        """All 2**16 float16 and bfloat16, against the encoder of the library."""
        f, every = _casts.FORMATS[target], np.arange(2**16, dtype=np.uint16)
        half = every.view(np.float16).astype(np.float32)
        brain = (every.astype(np.uint32) << 16).view(np.float32)
        for overflow in _casts.policies(target):
            for rounding in _casts.roundings(target):
                kind = "" if rounding == "even" else f".{rounding}"
                table = load_table(f"{target}.{overflow}{kind}")
                for x in (half, brain):
                    known = x[~np.isnan(x)]
                    u = known.view(np.uint32)
                    codes = f.encode(known, rounding=_casts.ROUNDINGS[rounding],
                                     overflow=_casts.OVERFLOWS[overflow])
                    assert np.array_equal(table[2 * (u >> 16) + ((u & 0xFFFF) != 0)], codes)

    def test_a_table_that_two_derivations_disagree_on_is_not_published(self, monkeypatch):
        wrong = {**_casts.ROUNDINGS, "even": _casts.ROUNDINGS["half_up"]}
        monkeypatch.setattr(_casts, "ROUNDINGS", wrong)
        with pytest.raises(_casts.Disagreement, match="thresholds and encoder differ"):
            _casts.table_of("float4_e2m1fn", "saturate", "even")

    def test_a_format_with_finer_midpoints_has_no_table(self):
        with pytest.raises(_casts.Disagreement, match="no table can hold it"):
            _casts.table_of("float16", "saturate", "even")
