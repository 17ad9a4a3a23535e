"""Logistic and tanh of codes: every code, against formulas in Python integers and runtimes.

The checksums are of the answers that tflite-micro (wheel of October 2026) and ai-edge-litert
2.3.0 (x86) gave for every code in ascending order, as little-endian integers.
"""

import math
import zlib
from fractions import Fraction

import numpy as np
import pytest
from _oracles import gemmlowp
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.arithmetic import quantize_multiplier
from refquant.integer.sigmoids import (
    even_table_logistic,
    even_table_tanh,
    fixed_logistic_codes,
    fixed_tanh_codes,
    float_table_logistic,
    float_table_tanh,
    interpolated_logistic,
    interpolated_tanh,
    is_power_of_two,
    short_logistic,
    short_tanh,
    sigmoid_table,
)
from refquant.quantizers.uniform import Uniform

INT8, INT16 = np.arange(-128, 128), np.arange(-(2**15), 2**15)
LOGISTIC, TANH = "logistic", "tanh"
EIGHT = {LOGISTIC: (1 / 256, -128), TANH: (1 / 128, 0)}
SIXTEEN = (2.0**-15, 0)
FIXED = {LOGISTIC: fixed_logistic_codes, TANH: fixed_tanh_codes}
FLOAT = {LOGISTIC: float_table_logistic, TANH: float_table_tanh}
EVEN = {LOGISTIC: even_table_logistic, TANH: even_table_tanh}
INTERPOLATED = {LOGISTIC: interpolated_logistic, TANH: interpolated_tanh}
SHORT = {LOGISTIC: short_logistic, TANH: short_tanh}
REAL = {LOGISTIC: lambda x: 1 / (1 + np.exp(-x)), TANH: np.tanh}


def record(scale: float, zero_point: int, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(zero_point), -top, top - 1)


def answers(table, kind, scale, zero_point=0):
    """The answer to every code."""
    if table in (FIXED, FLOAT, EVEN):
        return table[kind](INT8, record(scale, zero_point, 8), record(*EIGHT[kind], 8))
    return table[kind](INT16, record(scale, 0, 16), record(*SIXTEEN, 16))


def checksum(codes, dtype):
    return zlib.crc32(np.asarray(codes, dtype).tobytes())


@pytest.mark.parametrize(
    ("table", "kind", "scale", "zero_point", "expected"),
    [
        (FIXED, LOGISTIC, 0.0625, 4, 3336755308),
        (FIXED, LOGISTIC, 0.03, -100, 1756556865),
        (FIXED, LOGISTIC, 2.0540285, 51, 3651227261),
        (FIXED, LOGISTIC, 6.211839, -123, 638523938),
        (FIXED, LOGISTIC, 17.0, 0, 3193277673),
        (FLOAT, LOGISTIC, 0.03, -100, 1756556865),
        (FLOAT, LOGISTIC, 2.0540285, 51, 3313948264),
        (FLOAT, LOGISTIC, 6.211839, -123, 636936769),
        (FLOAT, LOGISTIC, 17.0, 0, 765027583),
        (FIXED, TANH, 0.0625, 4, 1664743146),
        (FIXED, TANH, 0.03, -100, 3323429362),
        (FIXED, TANH, 2.0540285, 51, 1746569837),
        (FIXED, TANH, 17.0, 0, 3193277673),
        (FLOAT, TANH, 0.0625, 4, 1664743146),
        (FLOAT, TANH, 17.0, 0, 765027583),
    ],
)
def test_every_8_bit_code_is_answered_as_by_the_runtimes(table, kind, scale, zero_point, expected):
    assert checksum(answers(table, kind, scale, zero_point), "i1") == expected


@pytest.mark.parametrize(
    ("table", "kind", "scale", "expected"),
    [
        (INTERPOLATED, LOGISTIC, 2.0**-12, 2458847814),
        (INTERPOLATED, LOGISTIC, 2.0**-12 * 1.0006, 2458847814),
        (INTERPOLATED, LOGISTIC, 2.0**-11, 3062741604),
        (INTERPOLATED, LOGISTIC, 1e-4, 4287529141),
        (INTERPOLATED, LOGISTIC, 3e-3, 1245218749),
        (SHORT, LOGISTIC, 2.0**-12, 2310271886),
        (SHORT, LOGISTIC, 2.0**-12 * 1.0006, 2310271886),
        (INTERPOLATED, TANH, 2.0**-12, 2883408844),
        (INTERPOLATED, TANH, 2.0**-11, 552662792),
        (INTERPOLATED, TANH, 1e-4, 648759154),
        (INTERPOLATED, TANH, 3e-3, 4218489060),
        (SHORT, TANH, 2.0**-12, 1890749950),
        (SHORT, TANH, 2.0**-11, 558921650),
    ],
)
def test_every_16_bit_code_is_answered_as_by_the_runtimes(table, kind, scale, expected):
    assert checksum(answers(table, kind, scale), "<i2") == expected


def beside_ties():
    """Scales, zero points and codes whose logistic is, to a unit of float32, between two codes."""
    for m in range(1, 255):
        p = (m + 0.5) / 256
        x = math.log(p / (1 - p))
        for k, units in ((1, 0), (37, -1), (90, 0), (127, 1)):
            steps = int(math.copysign(k, x))
            scale = np.float32(x / steps) * np.float32(1 + units * 2.0**-23)
            yield float(scale), -steps // 2, steps + -steps // 2


@pytest.mark.parametrize(("table", "expected"), [(EVEN, 1174503567), (FLOAT, 1475073761)])
def test_logistic_beside_ties_is_answered_as_by_the_runtimes(table, expected):
    """Where a tie goes, in what precision, and when the zero point is added, show here alone."""
    got = [int(answers(table, LOGISTIC, s, z)[c + 128]) for s, z, c in beside_ties()]
    assert checksum(got, "i1") == expected


@given(st.floats(-9, 0), st.integers(-128, 127))
def test_even_tables_round_the_nearest_float32_to_even(log_scale, zero_point):
    scale = float(np.float32(2.0**log_scale))
    logistic, tanh = (answers(EVEN, kind, scale, zero_point) for kind in (LOGISTIC, TANH))
    for code in range(-128, 128, 5):
        x = float(np.float32(scale) * np.float32(code - zero_point))
        value = float(np.float32(1 / (1 + math.exp(-x)) if x > -700 else 0.0))
        near = float(np.float32(Fraction(value) * 256 - 128))
        assert logistic[code + 128] == min(round(near), 127)
        assert tanh[code + 128] == min(round(float(np.float32(math.tanh(x))) * 128), 127)


@given(st.floats(-9, 5), st.integers(-128, 127), st.sampled_from([LOGISTIC, TANH]))
def test_fixed_codes_are_the_formula_in_python_integers(log_scale, zero_point, kind):
    scale = float(np.float32(2.0**log_scale))
    got = answers(FIXED, kind, scale, zero_point)
    mantissa, shift = (int(part) for part in quantize_multiplier(scale * 2.0**27))
    radius = int(Fraction(15 * 2**27) / Fraction(2) ** shift)
    for code in range(-128, 128, 5):
        v = code - zero_point
        if v <= -radius:
            expected = -128
        elif v >= radius:
            expected = 127
        else:
            high = gemmlowp.high_mul(v << max(shift, 0), mantissa, 32)
            a = gemmlowp.divide_by_pot(high, max(-shift, 0))
            raw = getattr(gemmlowp, kind)(a, 4, 32)
            y = gemmlowp.divide_by_pot(raw, 23) - 128 if kind == LOGISTIC else (
                gemmlowp.divide_by_pot(raw, 24))
            expected = gemmlowp.saturated(y, 8)
        assert got[code + 128] == expected


@given(st.floats(-9, 0), st.integers(-128, 127), st.sampled_from([LOGISTIC, TANH]))
def test_8_bit_codes_are_within_one_of_the_real_function(log_scale, zero_point, kind):
    scale = float(np.float32(2.0**log_scale))
    real = REAL[kind](scale * (INT8 - zero_point)) / EIGHT[kind][0] + EIGHT[kind][1]
    for table in (FIXED, FLOAT, EVEN):
        off = answers(table, kind, scale, zero_point) - np.minimum(real, 127)
        assert np.abs(off).max() <= 0.51


@pytest.mark.parametrize(("kind", "short", "long"), [(LOGISTIC, 7, 1.1), (TANH, 12, 2.2)])
def test_16_bit_codes_are_near_the_real_function(kind, short, long):
    real = np.minimum(REAL[kind](INT16 / 4096) * 2**15, 32767)
    assert np.abs(answers(SHORT, kind, 2.0**-12) - real).max() <= short
    assert np.abs(answers(INTERPOLATED, kind, 2.0**-12) - real).max() <= long


@given(st.floats(-20, -4), st.sampled_from([LOGISTIC, TANH]))
def test_interpolated_functions_rise_and_are_symmetric(log_scale, kind):
    y = answers(INTERPOLATED, kind, float(np.float32(2.0**log_scale)))
    assert (np.diff(y) >= 0).all()
    opposite = y[1:] + y[:0:-1]                         # of -32767 ... 32767 and of 32767 ...
    # The argument, in units of 2**-12 / 3, is rounded up for both signs.
    assert np.abs(opposite - (2**15 if kind == LOGISTIC else 0)).max() <= 3


def test_table_is_the_logistic_function_raised_a_little():
    table = sigmoid_table()
    assert table[:5].tolist() == [32768, 33451, 34133, 34813, 35493]
    assert (table.size, table[24], table[255]) == (256, 47911, 65535)
    raised = table[:255] - 65536 / (1 + np.exp(-np.arange(255) / 24))
    assert raised.min() > -0.51
    assert raised.max() < 1.2


def test_known_16_bit_values():
    x = np.array([4096, -4096])
    q, y = record(2.0**-12, 0, 16), record(*SIXTEEN, 16)
    assert interpolated_logistic(x, q, y).tolist() == [23956, 8812]
    assert interpolated_tanh(x, q, y).tolist() == [24956, -24956]
    assert short_logistic(x, q, y)[0] == 23952
    assert short_tanh(x, q, y)[0] == 24964


@given(st.integers(-30, 30))
def test_powers_of_two_are_known_by_their_logarithm(exponent):
    assert is_power_of_two(2.0**exponent, exponent)
    assert is_power_of_two(2.0**exponent * 1.0006, exponent)
    assert not is_power_of_two(2.0**exponent * 1.0008, exponent)
    assert not is_power_of_two(2.0**exponent, exponent + 1)


def test_arguments_stay_and_shapes_are_kept():
    x = np.array([[1, 2], [-3, 4]], np.int8)
    y = fixed_tanh_codes(x, record(0.1, 0, 8), record(*EIGHT[TANH], 8))
    assert (y.shape, y.dtype) == ((2, 2), np.int32)
    assert x.tolist() == [[1, 2], [-3, 4]]
    empty = np.zeros((0, 3), int)
    assert short_tanh(empty, record(2.0**-12, 0, 16), record(*SIXTEEN, 16)).shape == (0, 3)


class TestErrors:
    @pytest.mark.parametrize("kind", [LOGISTIC, TANH])
    def test_output_scales_are_fixed(self, kind):
        with pytest.raises(ValueError, match=r"must have scale 0.00.*got 0.0625 and 0"):
            FIXED[kind](INT8, record(0.1, 0, 8), record(0.0625, 0, 8))
        for table in (INTERPOLATED, SHORT):
            with pytest.raises(ValueError, match=r"`y_quantizer` must have scale 3.05"):
                table[kind](INT16, record(2.0**-12, 0, 16), record(0.0625, 0, 16))

    def test_short_functions_need_a_power_of_two(self):
        y = record(*SIXTEEN, 16)
        with pytest.raises(ValueError, match=r"scale 2\*\*-12; got 0.0004"):
            short_logistic(INT16, record(2.0**-11, 0, 16), y)
        with pytest.raises(ValueError, match=r"scale 2\*\*-12 or 2\*\*-11; got 0.0001"):
            short_tanh(INT16, record(0.0001, 0, 16), y)

    def test_codes_of_another_width(self):
        with pytest.raises(ValueError, match=r"codes of 8 bits; got \[-32768, 32767\]"):
            fixed_tanh_codes(INT8, record(0.1, 0, 16), record(*EIGHT[TANH], 8))
        with pytest.raises(ValueError, match=r"`x` must lie in \[-128, 127\]; got 128"):
            float_table_tanh(np.array([128]), record(0.1, 0, 8), record(*EIGHT[TANH], 8))
        with pytest.raises(TypeError, match="`x` must be integers"):
            interpolated_tanh(np.ones(2), record(0.1, 0, 16), record(*SIXTEEN, 16))
