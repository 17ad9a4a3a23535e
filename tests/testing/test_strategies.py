"""Strategies: what they promise to draw, they draw; and nothing else."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from refquant.oracle._affine import RANGES
from refquant.testing import strategies as rq

few = settings(max_examples=60, suppress_health_check=list(HealthCheck))
quick = settings(max_examples=3000, suppress_health_check=list(HealthCheck), database=None)
TINY = 2.0**-126


@few
@given(rq.scales())
def test_scales_are_positive_float32(scale):
    assert 0 < scale < np.inf
    assert float(np.float32(scale)) == scale


@pytest.mark.parametrize("wanted", [
    lambda s: s < TINY, lambda s: np.float32(s) == np.float32(2.0**-149),
    lambda s: s > 2.0**120, lambda s: 1 < s < 1.000001, lambda s: 0.99999 < s < 1,
    lambda s: s >= TINY and np.log2(s) == int(np.log2(s)) and s > 2,
])
def test_every_kind_of_scale_is_drawn(wanted):
    assert wanted(find(rq.scales(), wanted, settings=quick))


@few
@given(rq.scales(subnormal=False))
def test_subnormal_scales_can_be_left_out(scale):
    assert scale >= TINY


@pytest.mark.parametrize("wanted", [-128, -127, 126, 127, 0, 1])
def test_zero_points_reach_both_ends(wanted):
    assert find(rq.zero_points(-128, 127), lambda z: z == wanted, settings=quick) == wanted


@few
@given(st.data(), rq.scales(), rq.zero_points(-8, 7))
def test_near_ties_are_within_two_units_of_a_tie(data, scale, zero_point):
    x = data.draw(rq.near_ties(scale, zero_point, -8, 7))
    assert np.isfinite(x)
    steps = Fraction(x) / Fraction(scale)
    half = steps - steps.__floor__() - Fraction(1, 2)
    ulp = Fraction(float(np.spacing(np.float32(abs(x))))) / Fraction(scale)
    overflowed = abs(x) > 3.4e38
    assert abs(half) <= Fraction(7, 2) * ulp or overflowed or ulp >= 1


def test_ties_themselves_are_drawn():
    assert find(rq.near_ties(0.25, 3, -8, 7), lambda x: x / 0.25 % 1 == 0.5, settings=quick)


@pytest.mark.parametrize("dtype", ["int8", "uint4"])
def test_boundaries_hold_both_ends_and_huge_numbers(dtype):
    low, high = RANGES[dtype]
    for wanted in (low - 0.5, high + 0.5, np.inf, 2.0**31):
        assert find(rq.boundaries(dtype), lambda x, w=wanted: x == w, settings=quick) == wanted


def test_bit_patterns_have_nan_with_payload_unless_told_otherwise():
    assert find(rq.bit_patterns(), lambda x: x.view(np.uint32) == 0x7F800001, settings=quick)
    never = rq.bit_patterns(nan=False)

    @few
    @given(never)
    def check(x):
        assert not np.isnan(x)

    check()


@few
@given(rq.tail_lengths(8))
def test_tail_lengths_are_short(n):
    assert 1 <= n <= 17


@few
@given(rq.affine_inputs(["uint4", "int8"]))
def test_affine_inputs_hang_together(given_):
    assert given_.x.dtype == np.float32
    assert given_.qmin <= given_.zero_point <= given_.qmax
    assert (given_.qmin, given_.qmax) in [(0, 15), (-128, 127)]
    assert 1 <= given_.x.size <= 33
    assert not np.isnan(given_.x).any()


@few
@given(rq.blocks(16))
def test_the_largest_of_a_block_is_at_or_below_a_power_of_two(block):
    assert block.shape == (16,)
    mantissa = int(np.abs(block).max().view(np.uint32)) & 0x7FFFFF
    assert mantissa >= 0x7FFFF0 or mantissa in (0, 1, 0x400000, 0x600000)


@pytest.mark.parametrize("bits", [2, 4])
def test_bits_behind_the_last_code_are_dirty(bits):
    @few
    @given(rq.packed_bytes(bits))
    def check(drawn):
        packed, n = drawn
        per_byte = 8 // bits
        assert packed.size == -(-n // per_byte)

    check()
    packed, _ = find(rq.packed_bytes(bits), lambda d: d[1] % (8 // bits) == 1, settings=quick)
    assert packed[-1] >> bits
