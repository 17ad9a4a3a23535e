"""Softmax of codes against the formula in Python integers, runtimes and the real function.

The checksums are of the answers of tflite-micro (wheel of October 2026) and ai-edge-litert
2.3.0 (x86) to fixed codes, as little-endian integers of 16 bits.
"""

import math
import zlib

import numpy as np
import pytest
from _oracles import gemmlowp
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.arithmetic import quantize_multiplier
from refquant.integer.softmax import (
    fixed_softmax,
    float_table_softmax,
    interpolation_table,
    table_softmax,
)
from refquant.quantizers.uniform import Uniform

ROWS8 = np.arange(240).reshape(20, 12) * 37 % 256 - 128
ROWS16 = np.arange(240).reshape(20, 12) * 7919 % 65536 - 32768
rows = st.lists(st.integers(-128, 127), min_size=1, max_size=40).map(np.array)
scales = st.floats(-9, 1).map(lambda e: float(np.float32(2.0**e)))
betas = st.floats(0.1, 3).map(lambda b: float(np.float32(b)))


def record(scale: float, zero_point: int, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(zero_point), -top, top - 1)


Y8, Y16 = record(1 / 256, -128, 8), record(2.0**-16, -32768, 16)
SYMMETRIC = record(2.0**-15, 0, 16)


def checksum(codes):
    return zlib.crc32(np.asarray(codes, "<i2").tobytes())


def real(x, scale, beta, y):
    exp = np.exp(beta * scale * (x - x.max(-1, keepdims=True)))
    return exp / exp.sum(-1, keepdims=True) / y.scale + y.zero_point


def one_row(row, scale, beta, output_bits):
    """The formula, in Python integers."""
    mantissa, shift = (int(p) for p in quantize_multiplier(min(beta * scale * 2**26, 2**31 - 1)))
    lowest = -math.floor(31 * 2.0**26 / 2.0**shift)
    exps = []
    for d in (x - max(row) for x in row):
        a = gemmlowp.high_mul(d << shift, mantissa, 32) if d >= lowest else None
        exps.append(0 if a is None else gemmlowp.exp_negative(a, 5, 32))
    total = sum(gemmlowp.divide_by_pot(e, 12) for e in exps)
    h = 32 - total.bit_length()
    reciprocal = gemmlowp.reciprocal((total << h) - 2**31, 32)
    low, high = -(2 ** (output_bits - 1)), 2 ** (output_bits - 1) - 1
    products = [gemmlowp.high_mul(reciprocal, e, 32) for e in exps]
    y = [gemmlowp.divide_by_pot(p, 12 - h + 31 - output_bits) + low for p in products]
    return [max(low, min(v, high)) for v in y]


@given(rows, scales, betas)
def test_fixed_softmax_is_the_formula_in_python_integers(x, scale, beta):
    for y in (Y8, Y16):
        got = fixed_softmax(x, record(scale, 0, 8), y, beta=beta)
        assert got.tolist() == one_row(x.tolist(), scale, beta, y.code_bits)


@pytest.mark.parametrize(
    ("y", "scale", "beta", "fixed", "table"),
    [
        (Y8, 0.0625, 1.0, 2441450777, 2441450777),
        (Y8, 0.0625, 0.7, 540615991, 540615991),
        (Y8, 0.01, 1.0, 880218950, 880218950),
        (Y8, 0.01, 0.7, 3711958741, 3711958741),
        (Y16, 0.0625, 1.0, 271875020, 271875020),
        (Y16, 0.0625, 0.7, 2493938990, 1339541158),
        (Y16, 0.01, 1.0, 1325553417, 1325553417),
        (Y16, 0.01, 0.7, 1247132964, 1247132964),
    ],
)
def test_8_bit_rows_are_answered_as_by_the_runtimes(y, scale, beta, fixed, table):
    x = record(scale, 0, 8)
    assert checksum(fixed_softmax(ROWS8, x, y, beta=beta)) == fixed
    assert checksum(float_table_softmax(ROWS8, x, y, beta=beta)) == table


@pytest.mark.parametrize(
    ("scale", "beta", "expected"),
    [
        (2.0**-12, 1.0, 4057257005),
        (2.0**-12, 0.7, 2542981947),
        (1e-4, 1.0, 3118147089),
        (1e-4, 0.7, 1850270321),
    ],
)
def test_16_bit_rows_are_answered_as_by_the_runtimes(scale, beta, expected):
    for dtype in (np.float32, np.float64):
        y = table_softmax(ROWS16, record(scale, 0, 16), SYMMETRIC, beta=beta, dtype=dtype)
        assert checksum(y) == expected


@given(rows, scales, betas)
def test_8_bit_softmax_is_near_the_real_one(x, scale, beta):
    for y, off in ((Y8, 0.51), (Y16, 2)):
        exact = np.minimum(real(x, scale, beta, y), y.qmax)
        for softmax in (fixed_softmax, float_table_softmax):
            got = softmax(x, record(scale, 0, 8), y, beta=beta)
            assert np.abs(got - exact).max() <= off


@given(
    st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1, max_size=20).map(np.array),
    st.floats(-18, -8).map(lambda e: float(np.float32(2.0**e))),
)
def test_16_bit_softmax_is_near_the_real_one(x, scale):
    exact = np.minimum(real(x, scale, 1.0, SYMMETRIC), 32767)
    got = table_softmax(x, record(scale, 0, 16), SYMMETRIC)
    # What is far below the largest code counts as the first entry of the table, 2.
    assert np.abs(got - exact).max() <= 4 + 2 * x.size


@given(rows, scales, st.integers(-128, 127), st.integers(-50, 50))
def test_shift_of_all_codes_and_the_zero_point_change_nothing(x, scale, zero_point, by):
    x = x // 2
    for softmax in (fixed_softmax, float_table_softmax):
        at_zero = softmax(x, record(scale, 0, 8), Y8)
        assert np.array_equal(at_zero, softmax(x + by, record(scale, zero_point, 8), Y8))


@given(rows, scales)
def test_larger_codes_get_larger_shares_and_the_order_does_not_matter(x, scale):
    y = fixed_softmax(x, record(scale, 0, 8), Y16)
    order = np.argsort(x, kind="stable")
    assert (np.diff(y[order]) >= 0).all()
    assert np.array_equal(fixed_softmax(x[order], record(scale, 0, 8), Y16), y[order])


def test_rows_are_independent():
    whole = fixed_softmax(ROWS8, record(0.05, 0, 8), Y8)
    alone = [fixed_softmax(row, record(0.05, 0, 8), Y8) for row in ROWS8]
    assert np.array_equal(whole, alone)
    whole = table_softmax(ROWS16, record(1e-4, 0, 16), SYMMETRIC)
    alone = [table_softmax(row, record(1e-4, 0, 16), SYMMETRIC) for row in ROWS16]
    assert np.array_equal(whole, alone)
    for softmax in (fixed_softmax, float_table_softmax):
        assert softmax(np.zeros((0, 3), int), record(0.05, 0, 8), Y8).shape == (0, 3)


def test_known_values():
    x = np.array([30, 10, -20])
    assert fixed_softmax(x, record(0.0625, 0, 8), Y8).tolist() == [64, -73, -120]
    assert float_table_softmax(x, record(0.0625, 0, 8), Y8).tolist() == [64, -73, -120]


def test_512_equal_codes_are_a_tie_which_the_float_table_rounds_away():
    x = np.zeros(512, int)
    assert set(float_table_softmax(x, record(0.1, 0, 8), Y8).tolist()) == {-127}
    assert set(float_table_softmax(x[:511], record(0.1, 0, 8), Y8).tolist()) == {-127}


@pytest.mark.parametrize(("n", "code"), [(1024, -32704), (4096, -32752), (5000, -32755)])
def test_wide_rows_of_equal_codes_with_16_bit_results(n, code):
    assert set(fixed_softmax(np.zeros(n, int), record(0.1, 0, 8), Y16).tolist()) == {code}


def test_table_errs_half_as_much_as_chords_between_exact_entries():
    table = interpolation_table(np.exp, -10.0, 0.0)
    ends, middles = np.arange(512) * 10 / 512 - 10, (np.arange(512) + 0.5) * 10 / 512 - 10
    chord = (np.exp(ends) + np.exp(ends + 10 / 512)) / 2 * 2**15 - np.exp(middles) * 2**15
    off = (table[:-1] + table[1:]) / 2 - np.exp(middles) * 2**15
    assert chord.max() > 1.5
    assert np.abs(off[:-1]).max() < chord.max() / 2 + 0.8
    assert table[0] == 2
    assert table[-1] == 32767
    assert (np.diff(interpolation_table(lambda x: 1 / (1 + x), 0.0, 1.0)) < 0).all()


class TestErrors:
    def test_output_quantizers(self):
        for softmax in (fixed_softmax, float_table_softmax):
            with pytest.raises(ValueError, match=r"scale 2.*-8 and zero point -128.*got 0.1 and 0"):
                softmax(ROWS8, record(0.1, 0, 8), record(0.1, 0, 8))
        with pytest.raises(ValueError, match=r"`y_quantizer` must have 16 bits and scale 2\*\*-15"):
            table_softmax(ROWS16, record(0.1, 0, 16), Y16)

    def test_beta(self):
        with pytest.raises(ValueError, match="`beta` must be positive and finite; got -1"):
            fixed_softmax(ROWS8, record(0.1, 0, 8), Y8, beta=-1.0)
        with pytest.raises(ValueError, match=r"times the scale must be above 2\*\*-26"):
            fixed_softmax(ROWS8, record(2.0**-26, 0, 8), Y8)

    def test_sums_that_runtimes_abort_on(self):
        with pytest.raises(ValueError, match="sum of exponentials below 512; got 512"):
            fixed_softmax(np.zeros(512, int), record(0.1, 0, 8), Y8)
        with pytest.raises(ValueError, match="sum of exponentials below 8192; got 8192"):
            fixed_softmax(np.zeros(8192, int), record(0.1, 0, 8), Y16)

    def test_codes_that_are_none(self):
        with pytest.raises(ValueError, match=r"`x` must lie in \[-128, 127\]; got 200"):
            fixed_softmax(np.array([200]), record(0.1, 0, 8), Y8)
        with pytest.raises(TypeError, match="`x` must be integers"):
            float_table_softmax(np.array([2.0]), record(0.1, 0, 8), Y8)

    def test_differences_beyond_int32(self):
        with pytest.raises(ValueError, match="must stay an int32 when shifted left"):
            table_softmax(np.array([-32768, 32767]), record(8.0, 0, 16), SYMMETRIC)
