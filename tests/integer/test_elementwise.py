"""Element by element: worked numbers, exact fractions, and the bounds of each way."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.elementwise import (
    add,
    add_shifted,
    leaky_relu,
    leaky_relu_shifted,
    multiply,
    relu6_in_place,
    requantize,
    requantize_shifted,
    subtract,
    subtract_shifted,
)
from refquant.integer.requantize import double_away, in_float32, ratio_in_float32, single_up
from refquant.quantizers.uniform import Uniform

CODES = np.arange(-128, 128)
scales = st.floats(0.01, 1)
zeros = st.integers(-128, 127)


def q(scale, zero=0, bits=8):
    return Uniform(np.array(scale, np.float32), np.array(zero), -(2 ** (bits - 1)),
                   2 ** (bits - 1) - 1)


def exact(quantizer, code):
    return Fraction(float(quantizer.scale)) * (int(code) - int(quantizer.zero_point))


@st.composite
def trios(draw):
    return tuple(q(draw(scales), draw(zeros)) for _ in range(3))


@given(trios(), zeros, zeros)
def test_sums_and_differences_lie_within_a_code_of_the_exact_ones(three, m, n):
    a, b, y = three
    for operation, shifted, sign in ((add, add_shifted, 1), (subtract, subtract_shifted, -1)):
        real = (exact(a, m) + sign * exact(b, n)) / Fraction(float(y.scale)) + int(y.zero_point)
        real = min(max(real, -128), 127)
        for way in (operation, shifted):
            assert abs(int(way(np.array([m]), np.array([n]), a, b, y)[0]) - real) < 1


def test_worked_sum():
    a, b, y = q(0.5, -3), q(0.25, 5), q(0.6, 2)
    assert add(np.array([20]), np.array([-40]), a, b, y) == 2
    assert add_shifted(np.array([20]), np.array([-40]), a, b, y) == 2


@given(trios(), zeros, zeros, st.sampled_from([8, 16]))
def test_terms_are_shifted_by_twenty_bits_or_fifteen_before_they_meet(three, m, n, bits):
    a, b, y = (q(t.scale, int(t.zero_point) if bits == 8 else 0, bits) for t in three)
    left = {8: 20, 16: 15}[bits]
    unit = 2 * max(a.scale, b.scale)
    first, second = (
        int(double_away((c - int(t.zero_point)) << left, float(t.scale) / float(unit)))
        for c, t in ((m, a), (n, b)))
    real = float(unit) / float(np.float32(2**left) * y.scale)
    expected = np.clip(double_away(first + second, real) + y.zero_point, y.qmin, y.qmax)
    assert add(np.array([m]), np.array([n]), a, b, y)[0] == expected


@given(trios())
def test_sums_commute(three):
    a, b, y = three
    m, n = CODES[:, None], CODES[None, :]
    assert (add(m, n, a, b, y) == add(n, m, b, a, y)).all()
    assert (add_shifted(m, n, a, b, y) == add_shifted(n, m, b, a, y)).all()


@given(trios(), zeros, zeros)
def test_products_are_the_rule_of_integers(three, m, n):
    a, b, y = three
    p = (m - int(a.zero_point)) * (n - int(b.zero_point))
    for rule in (double_away, in_float32):
        real = float(ratio_in_float32(a.scale, b.scale, y.scale))
        expected = np.clip(rule(p, real) + y.zero_point, -128, 127)
        got = multiply(np.array([m]), np.array([n]), a, b, y, rule=rule, product=ratio_in_float32)
        assert got[0] == expected


def test_worked_product():
    a, b, y = q(0.5, -3, 16), q(0.25, 5, 16), q(0.6, 2, 16)
    y16 = multiply(np.array([20]), np.array([-40]), a, b, y, product=ratio_in_float32)
    assert y16 == -216 + 2


def test_requantized_codes_of_the_specification():
    x, y = q(0.05, 2), q(0.1, -7)
    assert requantize(np.array([3, 5, -1, -3]), x, y).tolist() == [-6, -5, -8, -9]
    assert requantize(CODES, x, x).tolist() == CODES.tolist()


@given(scales, zeros, scales, zeros)
def test_requantizing_is_within_a_code(s, z, t, u):
    x, y = q(s, z), q(t, u)
    real = (CODES - z) * float(x.scale) / float(y.scale) + u
    assert (np.abs(requantize(CODES, x, y) - np.clip(real, -128, 127)) < 1.001).all()


def test_eight_bits_behind_the_point_differ_by_one_at_times():
    x, y = q(0.05, 2), q(0.047, -7)
    off = requantize(CODES, x, y) - requantize_shifted(CODES, x, y)
    assert 0 < np.count_nonzero(off) < 128
    assert np.abs(off).max() == 1


@given(scales, zeros, scales, zeros)
def test_shifted_requantizing_is_the_formula(s, z, t, u):
    x, y = q(s, z), q(t, u)
    m = round(float(np.float32(256) * (x.scale / y.scale)))
    expected = [min(max(((c - z) * m + 128 + (u << 8)) >> 8, -128), 127) for c in CODES.tolist()]
    assert requantize_shifted(CODES, x, y).tolist() == expected


@given(scales, zeros, st.floats(0, 1))
def test_leaky_relu_is_two_requantizings(s, z, alpha):
    x = q(s, z)
    got = leaky_relu(CODES, x, x, alpha=alpha)
    assert (got[z <= CODES] == CODES[z <= CODES]).all()
    below = double_away(CODES - z, float(x.scale) * float(np.float32(alpha)) / float(x.scale))
    assert (got[z > CODES] == np.clip(below + z, -128, 127)[z > CODES]).all()
    ours = leaky_relu_shifted(CODES, x, x, alpha=alpha)
    assert np.abs(ours.astype(int) - got).max() <= 1


def test_relu6_in_place_does_not_rescale():
    x, y = q(0.5, 3), q(0.25, 3)
    assert relu6_in_place(np.array([-5, 10, 100]), x, y).tolist() == [3, 10, 15]


def test_sixteen_bit_sums_use_fifteen_more_bits():
    a = q(0.001, 0, 16)
    m, n = np.array([30000, -30000]), np.array([20000, -20000])
    assert add(m, n, a, a, a).tolist() == [32767, -32768]
    half = q(0.002, 0, 16)
    assert add(m, n, a, a, half, input_rule=single_up).tolist() == [25000, -25000]


def test_codes_outside_the_quantizer_are_refused():
    with pytest.raises(ValueError, match=r"`a` must lie in \[-128, 127\]; got 128"):
        add(np.array([128]), np.array([0]), q(1), q(1), q(1))
