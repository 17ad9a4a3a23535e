"""ONNX's elementwise operators against exact fractions, the standard's tables, and themselves."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.integer.onnx_operators import (
    INT2,
    INT4,
    INT8,
    INT16,
    INT32,
    UINT2,
    UINT4,
    UINT8,
    UINT16,
    IntegerFormat,
    cast_integers,
    cast_to_codes,
    cast_to_values,
    dequantize_linear,
    quantize_linear,
)
from refquant.oracle.vectors import load
from refquant.quantizers.minifloat import (
    E2M1,
    E2M3,
    E3M2,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0,
)
from refquant.rounding import ceil, floor, half_up

F32 = np.float32
INTEGERS = [INT2, UINT2, INT4, UINT4, INT8, UINT8, INT16, UINT16]
FLOATS = [E2M1, E2M3, E3M2, E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ]
every_integer = pytest.mark.parametrize("integer", INTEGERS, ids=lambda f: f"{f.bits}{f.signed}")
every_format = pytest.mark.parametrize("fmt", [*INTEGERS, *FLOATS], ids=repr)

reals = st.floats(width=32, allow_nan=False, allow_infinity=False)
near = st.floats(-600, 600, width=32)
halves = st.integers(-600, 600).map(lambda n: n / 2)


def one(x, dtype=F32):
    return np.array([x], dtype)


def codes_of(fmt) -> np.ndarray:
    """All that stand for numbers."""
    if isinstance(fmt, IntegerFormat):
        return np.arange(fmt.qmin, fmt.qmax + 1)
    codes = np.arange(2**fmt.code_bits)
    return codes[np.isfinite(fmt.decode(codes))]


class TestQuantizeLinear:
    @given(
        x=reals | near | halves,
        exponent=st.integers(-9, 9),
        integer=st.sampled_from(INTEGERS),
        data=st.data(),
    )
    def test_power_of_two_scale_gives_the_exact_nearest_code(self, x, exponent, integer, data):
        z = data.draw(st.integers(integer.qmin, integer.qmax))
        code = quantize_linear(one(x), one(2.0**exponent), [z], output=integer)
        exact = round(Fraction(x) / Fraction(2) ** exponent) + z      # ties to even
        assert code == min(max(exact, integer.qmin), integer.qmax)

    @given(x=near, scale=st.floats(0.0625, 8, width=32), z=st.integers(0, 255))
    def test_any_scale_gives_a_code_within_half_a_step_of_the_exact_quotient(self, x, scale, z):
        code = int(quantize_linear(one(x), one(scale), [z])[0])
        quotient = Fraction(x) / Fraction(scale)
        if 0 < code < 255:
            # The quotient is rounded to float32 first: half a unit in the last place.
            assert abs(code - z - quotient) <= Fraction(1, 2) + abs(quotient) / 2**24

    @every_format
    def test_codes_come_back_from_their_values(self, fmt):
        codes, scale = codes_of(fmt), one(0.5)
        y = dequantize_linear(codes, scale, source=fmt)
        again = quantize_linear(y, scale, output=fmt)
        assert again.dtype == np.int32
        assert np.array_equal(again, codes)

    def test_axis_is_one_quantizer_per_slice(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2, 3, 4)).astype(F32)
        scale, zero = F32([0.1, 0.02, 0.3]), np.array([0, 7, 200])
        codes = quantize_linear(x, scale, zero, axis=1)
        for i in range(3):
            alone = quantize_linear(x[:, i], scale[i], zero[i])
            assert np.array_equal(codes[:, i], alone)
        assert np.array_equal(codes, quantize_linear(x, scale, zero, axis=-2))
        values = dequantize_linear(codes, scale, zero, axis=-2)
        assert np.array_equal(values[:, 2], dequantize_linear(codes[:, 2], scale[2], zero[2]))

    @given(length=st.integers(1, 9), block=st.integers(1, 5), axis=st.sampled_from([0, 1, -1]))
    def test_blocks_are_quantized_one_by_one_and_the_last_may_be_short(self, length, block, axis):
        rng = np.random.default_rng(length * 10 + block)
        shape = (length, 3) if axis == 0 else (3, length)
        x = rng.normal(size=shape).astype(F32)
        blocks = -(-length // block)
        scale = rng.uniform(0.01, 0.1, (blocks, 3) if axis == 0 else (3, blocks)).astype(F32)
        zero = rng.integers(0, 256, scale.shape)
        codes = quantize_linear(x, scale, zero, axis=axis, block_size=block)
        values = dequantize_linear(codes, scale, zero, axis=axis, block_size=block)
        for i in range(length):
            at = (i, slice(None)) if axis == 0 else (slice(None), i)
            of = (i // block, slice(None)) if axis == 0 else (slice(None), i // block)
            alone = [quantize_linear(v, s, z)
                     for v, s, z in zip(x[at], scale[of], zero[of], strict=True)]  # fmt: skip
            assert codes[at].tolist() == alone
            assert np.array_equal(values[at], (codes[at] - zero[of]).astype(F32) * scale[of])

    def test_L1_rounds_before_the_zero_point_is_added(self):
        x = F32([0.5, 1.5, 2.5, -0.5, -1.5])
        assert quantize_linear(x, one(1), [1], output=INT8).tolist() == [1, 3, 3, 1, -1]
        x = F32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
        assert quantize_linear(x, one(1), [3]).tolist() == [1, 1, 3, 3, 5, 5, 7]

    def test_Q5_Q6_Q7_infinity_and_huge_numbers_saturate(self):
        far = F32([3e9, np.inf, -np.inf, -1e30])
        for z in (-128, 0, 127):
            codes = quantize_linear(far, one(1), [z], output=INT8)
            assert codes.tolist() == [127, 127, -128, -128]

    def test_Q8_infinity_saturates_in_every_place_of_four_bits(self):
        far = np.full(5, np.inf, F32)
        assert quantize_linear(far, one(1), output=INT4).tolist() == [7] * 5
        assert quantize_linear(-far, one(1), output=UINT4).tolist() == [0] * 5

    def test_Q13_divides_by_the_scale(self):
        x = np.array([0xC1426666], np.uint32).view(F32)
        assert quantize_linear(x, one(0.1), output=INT8) == -121

    def test_L8_nan_becomes_the_smallest_code(self):
        assert quantize_linear(one(np.nan), one(1), [3], output=INT8) == -128

    def test_the_scale_decides_the_precision_of_the_division(self):
        x, scale = one(2049), one(1, np.float16)            # 2049 is no float16
        assert quantize_linear(x, scale, output=UINT16) == 2048
        assert quantize_linear(x, scale, output=UINT16, precision=F32) == 2049
        assert quantize_linear(x, one(1), output=UINT16, precision=np.float16) == 2048

    def test_subnormal_scale_divides(self):
        assert quantize_linear(one(3e-45), one(1e-45)) == 2

    def test_float8_saturates_or_overflows(self):
        x = F32([1, 1e6, -np.inf])
        assert quantize_linear(x, one(1), output=E5M2).tolist() == [0x3C, 0x7B, 0xFB]
        ieee = quantize_linear(x, one(1), output=E5M2, saturate=False)
        assert ieee.tolist() == [0x3C, 0x7C, 0xFC]

    def test_a_zero_point_makes_minus_zero_plus_zero_in_four_bits(self):
        assert quantize_linear(one(-0.0), one(1), [0], output=E2M1) == 0
        assert quantize_linear(one(-0.0), one(1), output=E2M1) == 8
        assert quantize_linear(one(-0.0), one(1), [0], output=E4M3FN) == 0x80

    def test_scales_may_be_powers_of_two_of_eight_bits(self):
        scale = E8M0.decode(np.array([[126, 128]]))
        x = F32([[1, 2, 3, 4]])
        codes = quantize_linear(x, scale, output=E2M1, block_size=2)
        assert codes.tolist() == [[4, 6, 3, 4]]
        assert np.array_equal(dequantize_linear(codes, scale, source=E2M1, block_size=2), x)


class TestDequantizeLinear:
    @given(q=st.integers(0, 65535), z=st.integers(0, 65535), scale=st.floats(2**-100, 8, width=32))
    def test_is_the_exact_product_rounded_once(self, q, z, scale):
        y = dequantize_linear(np.array([q]), one(scale), [z], source=UINT16)
        assert y.dtype == F32
        assert y == F32((q - z) * float(F32(scale)))        # 17 + 24 bits: exact in float64

    def test_output_dtype_may_be_wider_or_narrower_than_the_scale(self):
        codes = np.array([0, 3, 255])
        half = dequantize_linear(codes, one(0.1), output_dtype=np.float16)
        assert half.dtype == np.float16
        assert np.array_equal(half, (codes.astype(F32) * F32(0.1)).astype(np.float16))
        assert dequantize_linear(codes, one(0.1, np.float16)).dtype == np.float16
        wide = dequantize_linear(codes, one(0.1, np.float16), output_dtype=F32)
        assert np.array_equal(wide, codes.astype(F32) * F32(np.float16(0.1)))

    def test_bias_of_32_bits_is_rounded_to_float32_first(self):
        q = np.array([2**31 - 1, 2**24 + 1])
        y = dequantize_linear(q, one(0.5), source=INT32)
        assert y.tolist() == [2.0**30, 2.0**23]
        # ... but not before a zero point is subtracted.
        assert dequantize_linear(q[1:], one(1), [2**24], source=INT32) == 1

    def test_products_beyond_the_range_are_infinite(self):
        assert dequantize_linear(np.array([255]), one(1000), output_dtype=np.float16) == np.inf
        assert dequantize_linear(np.array([255]), one(3e38)) == np.inf

    def test_nan_stays_nan(self):
        assert np.isnan(dequantize_linear(np.array([0x7F]), one(2), source=E4M3FN))


class TestCast:
    @given(x=reals | near, integer=st.sampled_from(INTEGERS))
    def test_to_an_integer_drops_the_fraction_and_the_higher_bits(self, x, integer):
        code = int(cast_to_codes(one(x), integer)[0])
        assert integer.qmin <= code <= integer.qmax
        assert (code - int(x)) % 2**integer.bits == 0       # int() goes towards zero

    @given(q=st.integers(-(2**31), 2**31 - 1), integer=st.sampled_from([*INTEGERS, INT32]))
    def test_between_integers_keeps_the_lowest_bits(self, q, integer):
        code = int(cast_integers(np.array([q]), integer)[0])
        assert integer.qmin <= code <= integer.qmax
        assert (code - q) % 2**integer.bits == 0

    @every_format
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_every_code_comes_back_from_its_value(self, fmt, dtype):
        codes = codes_of(fmt)
        values = cast_to_values(codes, fmt, dtype)
        assert values.dtype == dtype
        assert np.array_equal(cast_to_codes(values, fmt), codes)

    @pytest.mark.parametrize("fmt", [E4M3FN, E4M3FNUZ, E5M2, E5M2FNUZ], ids=repr)
    @pytest.mark.parametrize("saturate", [True, False])
    def test_tables_of_the_standard(self, fmt, saturate):
        has_minus, has_infinity = fmt in (E4M3FN, E5M2), fmt is E5M2
        x = F32([0, -0.0, np.nan, np.inf, -np.inf, 1e6, -1e6])
        codes = cast_to_codes(x, fmt, saturate=saturate)
        assert codes[:2].tolist() == [0, fmt.sign_bit if has_minus else 0]
        y = fmt.decode(codes[2:])
        assert np.isnan(y[0])
        if saturate:
            assert y[1:].tolist() == [fmt.max_value, -fmt.max_value] * 2
        elif has_infinity:
            assert y[1:].tolist() == [np.inf, -np.inf] * 2
        else:
            assert np.isnan(y[1:]).all()

    @pytest.mark.parametrize(
        ("fmt", "x", "saturated", "otherwise"),
        [
            (E4M3FN, 464.0, 0x7E, 0x7E),
            (E4M3FN, 464.00003, 0x7E, 0x7F),
            (E4M3FN, 490.0, 0x7E, 0x7F),
            (E4M3FN, np.inf, 0x7E, 0x7F),
            (E5M2, 61440.0, 0x7B, 0x7C),
            (E5M2, 65535.0, 0x7B, 0x7C),
            (E5M2FNUZ, 1e6, 0x7F, 0x80),
            (E2M1, 7.0, 7, 7),
        ],
        ids=["tie", "C1", "C2", "C3-F17", "C4-F16", "C4", "C6", "C10"],
    )
    def test_golden_overflow(self, fmt, x, saturated, otherwise):
        assert cast_to_codes(one(x), fmt) == saturated
        assert cast_to_codes(one(x), fmt, saturate=False) == otherwise

    @pytest.mark.parametrize(
        ("bits", "up", "nearest_or_nan"),
        [
            (0x00000000, 0x00, 0xFF),           # C11
            (0x7F800000, 0xFE, 0xFF),           # C13
            (0x40400000, 0x81, 0x81),           # C14: 3.0, a tie
            (0x00500000, 0x01, 0x00),           # C15
            (0x00400000, 0x00, 0x00),           # C16: exactly 2**-127
            (0x00000001, 0x00, 0xFF),           # C17: 2**-149
            (0x7FC00000, 0xFF, 0xFF),
        ],
    )
    def test_golden_powers_of_two(self, bits, up, nearest_or_nan):
        x = np.array([bits], np.uint32).view(F32)
        assert cast_to_codes(x, E8M0) == up
        assert cast_to_codes(x, E8M0, saturate=False, rounding=half_up) == nearest_or_nan

    @given(x=st.floats(2.0**-120, 2.0**120, width=32))
    def test_powers_of_two_bracket_the_number(self, x):
        up, down, nearest = (
            Fraction(float(E8M0.decode(cast_to_codes(one(x), E8M0, rounding=r))[0]))
            for r in (ceil, floor, half_up)
        )
        assert down <= Fraction(x) <= up <= 2 * down
        assert nearest == (up if Fraction(x) >= down * Fraction(3, 2) else down)

    def test_C18_float64_is_rounded_once(self):
        just_above_a_tie = np.array([2.0**-10 * (1 + 2.0**-40)])
        assert cast_to_codes(just_above_a_tie, E4M3FN) == 1
        assert cast_to_codes(just_above_a_tie.astype(F32), E4M3FN) == 0

    @pytest.mark.parametrize("fmt", [E2M1, E2M3, E3M2], ids=repr)
    def test_C9_nan_becomes_minus_zero_where_there_is_none(self, fmt):
        assert cast_to_codes(one(np.nan), fmt) == fmt.sign_bit
        assert cast_to_codes(one(np.inf), fmt, saturate=False) == fmt.largest

    def test_sign_of_nan_is_kept_where_the_format_has_one(self):
        x = np.array([0x7FC00000, 0xFFC00000], np.uint32).view(F32)
        assert cast_to_codes(x, E4M3FN).tolist() == [0x7F, 0xFF]
        back = cast_to_values(np.array([0x7F, 0xFF]), E4M3FN)
        assert np.signbit(back).tolist() == [False, True]

    def test_to_half_precision_overflows_to_infinity(self):
        assert cast_to_values(np.array([254]), E8M0, np.float16) == np.inf
        assert cast_to_values(np.array([65535]), UINT16, np.float16) == np.inf


@pytest.mark.parametrize("shape", [(0,), (2, 0)])
def test_empty_stays_empty(shape):
    x = np.empty(shape, F32)
    for codes in (quantize_linear(x, one(1)), cast_to_codes(x, INT4), cast_to_codes(x, E8M0)):
        assert codes.shape == shape
        assert codes.dtype == np.int32
    q = np.empty(shape, np.int32)
    assert dequantize_linear(q, one(1)).shape == cast_to_values(q, E2M1).shape == shape
    assert cast_integers(q, INT2).shape == shape


@given(x=hnp.arrays(F32, st.integers(0, 5), elements=near))
def test_arguments_stay_as_they_are(x):
    before, scale, zero = x.copy(), one(0.25), np.array([3])
    codes = quantize_linear(x, scale, zero)
    dequantize_linear(codes, scale, zero)
    cast_to_codes(x, INT8)
    assert np.array_equal(x, before)
    assert scale == 0.25
    assert zero == 3


X, Q = np.zeros((2, 3), F32), np.zeros((2, 3), np.int32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: quantize_linear(Q, one(1)), TypeError,
         "`x` must be float32 or float16; got int32"),
        (lambda: quantize_linear(X, one(1, np.float64)), TypeError,
         "`scale` must be float32 or float16; got float64"),
        (lambda: quantize_linear(X, one(0)), ValueError,
         "`scale` must be positive and finite; got 0.0"),
        (lambda: quantize_linear(X, F32([1, 2])), ValueError,
         "`scale` must broadcast to the data of shape (2, 3); got (2,)"),
        (lambda: quantize_linear(X, F32([1, 2]), axis=-3), ValueError,
         "`axis` must be at least -2; got -3"),
        (lambda: quantize_linear(X, F32([1, 2, 3]), [1, 2]), ValueError,
         "`zero_point` must broadcast to the data of shape (2, 3); got (2,)"),
        (lambda: quantize_linear(X, F32([[1, 2], [1, 2]]), block_size=3), ValueError,
         "`scale` must have one element per block, (2, 1); got (2, 2)"),
        (lambda: quantize_linear(X, F32([1, 2]), block_size=-1), ValueError,
         "`block_size` must be at least 1; got -1"),
        (lambda: quantize_linear(X, one(1), [256]), ValueError,
         "`zero_point` must lie in [0, 255]; got 256"),
        (lambda: quantize_linear(X, one(1), [1], output=E4M3FN), ValueError,
         "`zero_point` must lie in [0, 0]; got 1"),
        (lambda: quantize_linear(X, one(1), precision=np.float64), TypeError,
         "`precision` must be float32 or float16; got float64"),
        (lambda: dequantize_linear(Q, one(-1)), ValueError,
         "`scale` must be positive and finite; got -1.0"),
        (lambda: dequantize_linear(X, one(1)), TypeError,
         "`codes` must be integers; got float32"),
        (lambda: dequantize_linear(Q - 1, one(1)), ValueError,
         "`codes` must lie in [0, 255]; got -1"),
        (lambda: dequantize_linear(Q, one(1), output_dtype=np.float64), TypeError,
         "`output_dtype` must be float32 or float16; got float64"),
        (lambda: cast_to_codes(Q, INT4), TypeError,
         "`x` must be float32 or float16 or float64; got int32"),
        (lambda: cast_to_codes(one(np.inf), INT4), ValueError,
         "`x` must be finite; got inf"),
        (lambda: cast_to_values(Q + 8, INT4), ValueError,
         "`codes` must lie in [-8, 7]; got 8"),
        (lambda: cast_to_values(Q, INT4, np.int8), TypeError,
         "`dtype` must be float32 or float16 or float64; got int8"),
        (lambda: cast_integers(np.array([2**31]), INT4), ValueError,
         "`codes` must lie in [-2147483648, 2147483647]; got 2147483648"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(("precision", "dialect"), [(None, "onnx"), (np.float32, "onnxruntime")])
def test_the_quotient_is_rounded_to_the_type_of_the_scale_unless_told_otherwise(precision, dialect):
    for case in load("quantize_affine.float16.int8"):
        if case.status == "defined":
            x, scale = (np.asarray(v).view(np.float16) for v in (
                case.inputs["x"], case.params["scale"]))
            code = quantize_linear(x, scale, case.params["zero_point"], output=INT8,
                                   precision=precision)
            assert int(code) % 256 == int(case.answer(dialect)["q"]), case.id
