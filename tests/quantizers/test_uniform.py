"""Uniform quantization: exact codes against fractions, the bounds, and every edge."""

from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from _oracles import exact
from _oracles.memory import peak_over_arrays
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check

from refquant.granularity import group
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import (
    Uniform,
    asymmetric,
    code_range,
    full_range,
    half_open,
    opposite_zero_point,
    symmetric,
)
from refquant.rounding import floor, half_away, half_up, stochastic

DTYPES = [np.float32, np.float64]
CENTRED = [symmetric, half_open, full_range, partial(symmetric, narrow=False)]
W8 = np.array([0.9, -0.2, 0.05, -0.7, 0.4, 0.0, 0.1, -0.35])

WEIGHTS = np.random.default_rng(0).normal(size=(3, 4, 8))
LOW, HIGH = WEIGHTS.min(-1, keepdims=True), WEIGHTS.max(-1, keepdims=True)
INSTANCES = {
    "per tensor": symmetric(np.array(2.0), bits=8),
    "wide": symmetric(np.array(2.0), bits=4, narrow=False),
    "float32": asymmetric(np.float32(-1), np.float32(2), bits=8),
    "per channel": half_open(np.abs(WEIGHTS).max((1, 2), keepdims=True), bits=4),
    "per group": asymmetric(LOW, HIGH, bits=2),
    "per token": asymmetric(LOW.astype(np.float32), HIGH.astype(np.float32), bits=3, signed=True),
    "full range": full_range(np.array([1.0]), bits=2),
    "one bit": asymmetric(np.array(-1.0), np.array(2.0), bits=1),
    "22 bits of float32": symmetric(np.float32(2), bits=22),
    "23 bits of float32": asymmetric(np.float32(-1), np.float32(2), bits=23),
    "31 bits": asymmetric(np.array(-1.0), np.array(2.0), bits=31),
    "32 bits": symmetric(np.array(2.0), bits=32, narrow=False),
    "codes far from zero": Uniform(np.float32(0.1), np.array(2**31 - 4), 2**31 - 8, 2**31 - 1),
    "subnormal scale": Uniform(np.float32(1e-42), np.array(1), 0, 7),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", list(INSTANCES))
def test_contract(law, name):
    q = INSTANCES[name]
    x = WEIGHTS.astype(q.scale.dtype)
    check(law, q, x * np.float32(1e-42) if "subnormal" in name else x)


# Exact codes -------------------------------------------------------------------------------------

bit_widths = st.sampled_from([1, 2, 3, 4, 7, 8, 16, 24, 25, 31])
scales = st.floats(1e-30, 1e30)


@given(
    x=st.floats(allow_nan=False) | st.floats(-100, 100),
    scale=scales,
    bits=bit_widths,
    signed=st.booleans(),
    share=st.floats(0, 1),
)
def test_codes_are_those_of_exact_arithmetic(x, scale, bits, signed, share):
    qmin, qmax = code_range(bits + (bits == 1 and signed), signed=signed)
    zero_point = qmin + round(share * (qmax - qmin))
    q = Uniform(np.array(scale), np.array(zero_point), qmin, qmax)
    code = int(q.encode(np.array(x)))
    expected = exact.uniform_code(x, scale, zero_point, qmin, qmax)
    # Only the division is rounded: a code may differ by one where the ratio is a tie to 2**-52.
    if code != expected:
        assert abs(code - expected) == 1
        assert exact.distance_to_tie(x, scale) <= Fraction(1, 2**52)


@given(
    code=st.integers(-(2**31), 2**31 - 1),
    eighths=st.integers(-8, 8),
    power=st.integers(-60, 60),
    bits=st.integers(2, 32),
)
def test_codes_are_exact_without_exception_for_steps_that_are_powers_of_two(
    code, eighths, power, bits
):
    qmin, qmax = code_range(bits, signed=True)
    q = Uniform(np.array(2.0**power), np.array(0), qmin, qmax)
    x = (code + eighths / 8) * 2.0**power
    assert int(q.encode(np.array(x))) == exact.uniform_code(x, 2.0**power, 0, qmin, qmax)


@given(code=st.integers(), scale=scales, bits=bit_widths, share=st.floats(0, 1))
def test_values_are_those_of_exact_arithmetic_rounded_once(code, scale, bits, share):
    qmin, qmax = code_range(bits, signed=False)
    zero_point, code = round(share * qmax), code % (qmax + 1)
    q = Uniform(np.array(scale), np.array(zero_point), qmin, qmax)
    assert float(q.decode(np.array(code))) == float(Fraction(scale) * (code - zero_point))


@pytest.mark.parametrize("bits", [20, 22, 23])
def test_float32_keeps_every_code_apart_up_to_23_bits(bits):
    rng = np.random.default_rng(0)
    for scale in rng.uniform(1, 2, 50).astype(np.float32):
        q = Uniform(scale, np.array(0), 0, 2**bits - 1)
        codes = 2**bits - 1 - np.arange(1000)           # the largest are the closest calls
        assert np.array_equal(q.encode(q.decode(codes)), codes)


@given(x=hnp.arrays(np.float64, 5, elements=st.floats(-20, 20)))
def test_any_rounding_passes_through(x):
    q = Uniform(np.array(0.5), np.array(3), 0, 15)
    for rounding in (floor, half_away, half_up):
        expected = np.clip(rounding(x / 0.5) + 3, 0, 15)
        assert np.array_equal(q.encode(x, rounding=rounding), expected)


def test_stochastic_rounding_stays_within_a_step():
    x = np.random.default_rng(0).uniform(-1, 1, 1000)
    q = symmetric(np.array(1.0), bits=4)
    codes = q.encode(x, rounding=partial(stochastic, rng=np.random.default_rng(0)))
    assert (np.abs(q.decode(codes) - x) < q.scale).all()


# Bounds and invariances --------------------------------------------------------------------------

ends = st.tuples(*[st.floats(-1e6, 1e6, width=32)] * 2).map(sorted)


@given(ends=ends, bits=st.integers(1, 12), signed=st.booleans(), dtype=st.sampled_from(DTYPES))
@example(ends=[-0.5, 254.5], bits=8, signed=False, dtype=np.float64)
def test_asymmetric_error_is_half_a_step_although_the_zero_point_is_rounded(
    ends, bits, signed, dtype
):
    assume(bits > 1 or not signed)
    low, high = (np.array(end, dtype) for end in ends)
    q = asymmetric(low, high, bits=bits, signed=signed)
    bottom, top = min(ends[0], 0.0), max(ends[1], 0.0)
    x = np.linspace(bottom, top, 1001).astype(dtype)
    error = np.abs(x.astype(np.float64) - q.decode(q.encode(x)))
    # Rounding of the step, of the ratio and of the value: each a share eps / 2 of the width.
    slack = 2 * np.finfo(dtype).eps * (top - bottom)
    assert (error <= q.scale.astype(np.float64) / 2 + slack).all()


@given(ends=ends, bits=st.integers(1, 16))
def test_asymmetric_represents_zero_exactly_and_signed_codes_have_the_same_levels(ends, bits):
    low, high = (np.array(end) for end in ends)
    q = asymmetric(low, high, bits=bits)
    assert float(q.decode(q.encode(np.array(0.0)))) == 0
    if bits > 1:
        other = asymmetric(low, high, bits=bits, signed=True)
        shift = 2 ** (bits - 1)
        assert (other.scale, other.qmin) == (q.scale, -shift)
        # The same, except where a tie goes to the even zero point of each: bits > 1 keeps parity.
        assert other.zero_point == q.zero_point - shift


@given(make=st.sampled_from(CENTRED), bound=st.floats(1e-3, 1e3), bits=st.integers(2, 12),
       share=st.floats(-1, 1))
def test_centred_error_is_half_a_step_inside_the_levels(make, bound, bits, share):
    q = make(np.array(bound), bits=bits)
    low, high = q.decode(np.array(q.qmin)), q.decode(np.array(q.qmax))
    x = np.clip(np.array(share * bound), low, high)
    assert abs(x - q.decode(q.encode(x))) <= q.scale / 2 * (1 + 1e-12)


vectors = hnp.arrays(np.float32, st.integers(1, 20), elements=st.floats(-1e3, 1e3, width=32))


@given(x=vectors, bits=st.integers(1, 8))
@example(x=np.array([1e-38, -3e-38], np.float32), bits=8)
def test_fake_quantization_is_idempotent_bit_for_bit_in_float32(x, bits):
    makers = [asymmetric(x.min(), x.max(), bits=bits)]
    makers += [make(np.abs(x).max(), bits=bits) for make in CENTRED if bits > 1]
    for q in makers:
        once = fake_quantize(x, q)
        assert once.tobytes() == fake_quantize(once, q).tobytes()


@given(x=vectors, bits=st.integers(2, 8), power=st.integers(-40, 40))
def test_scaling_by_a_power_of_two_scales_exactly(x, bits, power):
    x = x.astype(np.float64)
    for make in CENTRED:
        q, scaled = (make(np.abs(v).max(), bits=bits) for v in (x, x * 2.0**power))
        if (x != 0).any() and np.abs(x).max() > 1e-200:
            assert np.array_equal(scaled.encode(x * 2.0**power), q.encode(x))
            assert np.array_equal(
                fake_quantize(x * 2.0**power, scaled), fake_quantize(x, q) * 2.0**power
            )


@given(x=vectors, bits=st.integers(2, 8))
def test_negating_the_data_negates_the_codes_of_narrow_symmetric_levels(x, bits):
    q = symmetric(np.abs(x).max(), bits=bits)
    assert np.array_equal(q.encode(-x), -q.encode(x))


@given(x=hnp.arrays(np.float32, (3, 4, 8), elements=st.floats(-10, 10, width=32)),
       bits=st.integers(2, 8), seed=st.integers(0, 9))
def test_channels_are_independent_and_their_order_does_not_matter(x, bits, seed):
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    codes = asymmetric(low, high, bits=bits).encode(x)
    for channel, expected in zip(x, codes, strict=True):
        q = asymmetric(channel.min(), channel.max(), bits=bits)
        assert np.array_equal(q.encode(channel), expected)
    order = np.random.default_rng(seed).permutation(3)
    shuffled = asymmetric(low[order], high[order], bits=bits)
    assert np.array_equal(shuffled.encode(x[order]), codes[order])


def squared_error(x, scale, axis=None):
    q = Uniform(np.asarray(scale), np.zeros(np.shape(scale), int), -7, 7)
    return np.sum((x - fake_quantize(x, q)) ** 2, axis)


def test_finer_groups_can_raise_the_error_of_min_max_steps():
    # One step of 1 fits {7, 3, 2} exactly; alone, {3, 2} gets the step 3/7 and 2 misses it.
    x = np.array([7.0, 0.0, 3.0, 2.0])
    whole = squared_error(x, np.abs(x).max() / 7)
    halves = group(x, 2)
    parts = squared_error(halves, np.abs(halves).max(-1, keepdims=True) / 7)
    assert whole == 0 < parts


@given(x=hnp.arrays(np.float64, 8, elements=st.integers(-50, 50)))
def test_finer_groups_never_raise_the_error_of_the_best_steps(x):
    # The best of a list of steps: the coarse choice stays open to each group.
    steps = np.arange(1, 60).reshape(-1, 1) / 8
    best = lambda block: squared_error(np.tile(block, (59, 1)), steps, 1).min()  # noqa: E731
    assert sum(best(block) for block in group(x, 4)) <= best(x)


# Constructors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 33))
def test_code_ranges_have_the_stated_size(bits):
    assert code_range(bits, signed=True) == (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    low, high = code_range(bits, signed=True, narrow=True)
    assert -low == high == 2 ** (bits - 1) - 1
    if bits < 32:
        assert code_range(bits, signed=False) == (0, 2**bits - 1)
    q = symmetric(np.array(1.0), bits=bits, narrow=False)
    assert q.code_bits == bits
    assert half_open(np.array(1.0), bits=bits).decode(np.array(-(2 ** (bits - 1)))) == -1


@given(bound=st.floats(1e-30, 1e30), bits=st.integers(2, 32))
def test_constructors_put_the_bound_where_they_say(bound, bits):
    bound = np.array(bound)
    q = symmetric(bound, bits=bits)
    assert float(q.decode(np.array(q.qmax))) == pytest.approx(float(bound), rel=4e-16)
    q = half_open(bound, bits=bits)
    assert float(q.decode(np.array(q.qmin))) == -bound
    q = full_range(bound, bits=bits)
    steps_across = Fraction(float(2 * bound)) / Fraction(float(q.scale))
    assert float(steps_across) == pytest.approx(2**bits - 1, rel=4e-16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_and_subnormal_ranges_get_scale_one(dtype):
    tiny = np.finfo(dtype).smallest_normal
    for bound in (0.0, -0.0, np.finfo(dtype).smallest_subnormal, tiny * 0.9):
        bound = np.abs(np.array([bound], dtype))
        made = [*(make(bound, bits=8) for make in CENTRED), asymmetric(-bound, bound, bits=8)]
        for q in made:
            assert q.scale == 1
            assert q.scale.dtype == dtype
            assert q.decode(q.encode(np.zeros(1, dtype))) == 0


def test_only_the_blocks_that_are_zero_get_scale_one():
    q = symmetric(np.array([[0.0], [1.27]]), bits=8)
    assert np.array_equal(q.scale, [[1.0], [0.01]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_largest_ranges_work_or_are_refused_but_never_overflow(dtype, bits):
    largest = np.finfo(dtype).max
    for low, high in [(-largest, largest), (-largest, 0), (0, largest), (-largest / 2, largest)]:
        low, high = np.array(low, dtype), np.array(high, dtype)
        try:
            q = asymmetric(low, high, bits=bits)
        except ValueError as error:
            assert "`scale` must" in str(error)         # noqa: PT017 - either outcome is right
        else:
            x = np.array([low, high, 0, np.inf, -np.inf], dtype)
            assert np.isfinite(q.decode(q.encode(x))).all()


def test_a_range_of_three_quarters_of_float64_is_no_problem():
    q = asymmetric(np.array(-1.3e308), np.array(1.3e308), bits=8)
    assert float(q.scale) == pytest.approx(1.3e308 / 127.5, rel=1e-15)


def test_a_step_that_overflows_is_refused():
    largest = np.finfo(np.float32).max
    with pytest.raises(ValueError, match="`scale` must be positive and finite; got inf"):
        asymmetric(-largest, largest, bits=1)
    with pytest.raises(ValueError, match=r"`scale` must keep every level within 3\.403e\+38; got"):
        asymmetric(-largest, largest, bits=8)


@given(zero_point=hnp.arrays(np.int32, 3))
def test_both_sign_conventions_name_the_same_levels(zero_point):
    other = opposite_zero_point(zero_point)
    codes, scale = np.arange(3), 0.25
    ours = scale * (codes - zero_point.astype(np.int64))
    # The survey: Q = Int(r / S) - Z and r = S (Q + Z).
    assert np.array_equal(scale * (codes + other), ours)
    assert np.array_equal(opposite_zero_point(other), zero_point)


# Data --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", DTYPES)
@pytest.mark.parametrize("scale", DTYPES)
def test_either_dtype_of_data_meets_either_dtype_of_scale(data, scale):
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(data)
    for shape in [(), (1, 1), (5, 1)]:
        q = Uniform(np.full(shape, 0.1, scale), np.zeros(shape, int), -8, 7)
        wide = Uniform(q.scale.astype(np.float64), q.zero_point, -8, 7)
        if np.float64 in (data, scale):
            assert np.array_equal(q.encode(x), wide.encode(x.astype(np.float64)))
        assert q.decode(q.encode(x)).dtype == scale
        assert fake_quantize(x, q).dtype == data


def test_a_single_number_comes_back_as_an_array():
    q = symmetric(np.array(1.0), bits=8)
    codes = q.encode(np.array(0.3))
    assert isinstance(codes, np.ndarray)
    assert codes.shape == ()
    assert isinstance(q.decode(codes), np.ndarray)
    assert isinstance(q.encode(0.3), np.ndarray)


@pytest.mark.parametrize("scale", [1e-44, np.finfo(np.float32).tiny, 1e30])
def test_values_too_large_for_the_ratio_saturate_silently(scale):
    q = Uniform(np.float32(scale), np.array(0), -8, 7)
    x = np.array([1e38, -1e38, np.inf, -np.inf], np.float32)
    assert np.array_equal(q.encode(x), [7, -8, 7, -8])


def test_minus_zero_is_zero():
    q = asymmetric(np.array(-1.0), np.array(2.0), bits=8)
    for zero in (0.0, -0.0, -1e-9):
        assert q.encode(np.array(zero)) == 85
        assert not np.signbit(q.decode(q.encode(np.array(zero))))


def test_integers_of_any_width_are_codes():
    q = asymmetric(np.array(-1.0), np.array(2.0), bits=8)
    for dtype in (np.uint8, np.int16, np.int64, np.uint64):
        assert np.array_equal(q.decode(np.array([0, 85, 255], dtype)), q.decode([0, 85, 255]))
    narrow = Uniform(np.array(0.5), np.array(3, np.uint8), -8, 7)
    assert narrow.decode(np.array([1], np.uint8)) == -1         # 1 - 3, not 254


# Golden values -----------------------------------------------------------------------------------


def test_golden_U1_U2_U3_affine_codes():
    q = asymmetric(np.array(-1.0), np.array(2.0), bits=8)
    assert float(q.scale) == pytest.approx(0.011764705882352941, abs=1e-15)
    assert q.zero_point == 85
    assert asymmetric(np.array(-1.0), np.array(2.0), bits=8, signed=True).zero_point == -43
    codes = q.encode(np.array([-1, -0.5, 0, 1, 2, 3]))
    assert np.array_equal(codes, [0, 43, 85, 170, 255, 255])
    assert opposite_zero_point(q.zero_point) == -85


def test_golden_U4_two_symmetric_steps():
    bound = np.array(2.0)
    steps = [float(make(bound, bits=8).scale) for make in (symmetric, full_range)]
    assert steps == pytest.approx([0.015748031496062992, 0.01568627450980392], abs=1e-15)


def test_golden_U5_full_range_is_not_symmetric():
    q = full_range(np.array(1.0), bits=8)
    codes = q.encode(np.array([-1.0, 1.0]))
    assert np.array_equal(codes, [-128, 127])
    assert q.decode(codes) == pytest.approx([-1.003921568627451, 0.996078431372549], abs=1e-12)


def test_golden_U6_the_range_is_widened_to_contain_zero():
    q = asymmetric(np.array(3.0), np.array(7.0), bits=8)
    assert float(q.scale) == pytest.approx(0.027450980392156862, abs=1e-15)
    assert q.zero_point == 0


def test_golden_L9_zero_point_of_a_tie_is_even():
    assert asymmetric(np.array(-0.5), np.array(254.5), bits=8).zero_point == 0


# Errors ------------------------------------------------------------------------------------------

ONE, ZERO = np.array(1.0), np.array(0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Uniform(np.array(0.0), ZERO, 0, 1), ValueError, "`scale` must be positive and"),
        (lambda: Uniform(np.array(-1.0), ZERO, 0, 1), ValueError, r"and finite; got -1\.0"),
        (lambda: Uniform(np.array(np.nan), ZERO, 0, 1), ValueError, "and finite; got nan"),
        (lambda: Uniform(np.array(np.inf), ZERO, 0, 1), ValueError, "and finite; got inf"),
        (lambda: Uniform(np.array(1), ZERO, 0, 1), TypeError, "`scale` must be float32 or"),
        (lambda: Uniform(np.float16(1), ZERO, 0, 1), TypeError, "float64; got float16"),
        (lambda: Uniform(ONE, np.array(0.0), 0, 1), TypeError, "`zero_point` must be integers"),
        (lambda: Uniform(ONE, np.array(2), 0, 1), ValueError, r"must lie in \[0, 1\]; got 2"),
        (lambda: Uniform(ONE, np.array([0]), 0, 1), ValueError, r"the shape of `scale`, \(\); got"),
        (lambda: Uniform(ONE, ZERO, 0, 0), ValueError, "`qmax` must be at least 1; got 0"),
        (lambda: Uniform(ONE, ZERO, 0, 2**31), ValueError, "`qmax` must be at most 2147483647"),
        (lambda: Uniform(ONE, ZERO, 0.0, 1), TypeError, "`qmin` must be an integer"),
        (lambda: symmetric(ONE, bits=1), ValueError, "`bits` must be at least 2; got 1"),
        (lambda: symmetric(ONE, bits=33), ValueError, "`bits` must be at most 32; got 33"),
        (lambda: asymmetric(-ONE, ONE, bits=32), ValueError, "`bits` must be at most 31; got 32"),
        (lambda: asymmetric(-ONE, ONE, bits=0), ValueError, "`bits` must be at least 1; got 0"),
        (lambda: code_range(8, signed=False, narrow=True), ValueError, "`narrow` must be False"),
        (lambda: symmetric(-ONE, bits=8), ValueError, r"`bound` must not be negative; got -1\.0"),
        (lambda: symmetric(ONE * np.inf, bits=8), ValueError, "`bound` must be finite; got inf"),
        (lambda: symmetric(np.array(1), bits=8), TypeError, "`bound` must be float32 or float64"),
        (lambda: asymmetric(ONE * np.nan, ONE, bits=8), ValueError, "`low` must be finite"),
        (lambda: asymmetric(-ONE, ONE * np.inf, bits=8), ValueError, "`high` must be finite"),
        (lambda: asymmetric(np.array([-1.0, 3.0]), np.array([0.0, 2.0]), bits=8), ValueError,
         r"`low` must not exceed `high`; got 3\.0 and 2\.0"),
        (lambda: asymmetric(np.ones(2), np.ones(3), bits=8), ValueError,
         r"`low` and `high` must broadcast; got shapes \(2,\) and \(3,\)"),
        (lambda: INSTANCES["per channel"].encode(np.ones((2, 4))), ValueError,
         r"`scale` must broadcast to the data of shape \(2, 4\); got \(3, 1, 1\)"),
        (lambda: INSTANCES["per tensor"].decode(np.array([128])), ValueError,
         r"`codes` must lie in \[-127, 127\]; got 128"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


# Memory and peers --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_encode_and_decode_stay_below_twice_their_arrays(dtype):
    x = np.random.default_rng(0).normal(size=(1000, 500)).astype(dtype)
    q = asymmetric(x.min(1, keepdims=True), x.max(1, keepdims=True), bits=8)
    assert peak_over_arrays(q.encode, x) < 2.02
    assert peak_over_arrays(q.decode, q.encode(x)) < 2.02


@pytest.mark.peer
def test_onnxruntime_gives_the_same_codes():
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node],
        "quantize",
        [helper.make_tensor_value_info("x", kind.FLOAT, [None]),
         helper.make_tensor_value_info("s", kind.FLOAT, []),
         helper.make_tensor_value_info("z", kind.UINT8, [])],
        [helper.make_tensor_value_info("y", kind.UINT8, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    for scale in np.float32([0.5, 0.0123, 0.00214854861]):
        q = Uniform(np.array(scale), np.array(85), 0, 255)
        ties = ((np.arange(-90, 180) + 0.5) * scale).astype(np.float32)
        x = np.concatenate([ties, rng.normal(size=20_000).astype(np.float32)])
        (codes,) = session.run(None, {"x": x, "s": q.scale, "z": np.array(85, np.uint8)})
        assert np.array_equal(codes, q.encode(x))
