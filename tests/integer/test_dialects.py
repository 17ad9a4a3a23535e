"""Dialects against their recorded answers, exact fractions, and the runtimes themselves."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.dialects import (
    AIMET,
    BREVITAS,
    DIALECTS,
    EXACT,
    LITERT_OPTIMIZED,
    LITERT_REFERENCE,
    ONNX_REFERENCE,
    ONNXRUNTIME,
    TORCH_DECOMPOSED,
    TORCH_FAKE,
    TORCH_PER_CHANNEL,
    TORCH_QUANTIZE,
    XNNPACK,
    _add_int32,
    _fma,
    _x86_int32,
    dynamic_quantize,
    onnxruntime_tool_parameters,
)
from refquant.quantizers.uniform import Uniform, code_range

F32 = np.float32
TIES = np.array([0.5, 1.5, 2.5, -0.5, -1.5], F32)
ODDITIES = np.array([np.nan, np.inf, -np.inf, 1e10], F32)
every_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: d.name)

#: Those that saturate before they convert to integer.
SATURATING = [
    ONNXRUNTIME, TORCH_QUANTIZE, TORCH_PER_CHANNEL, TORCH_FAKE, TORCH_DECOMPOSED, XNNPACK,
    BREVITAS, AIMET, EXACT,
]
OVERFLOWING = [ONNX_REFERENCE, LITERT_REFERENCE, LITERT_OPTIMIZED]


def uniform(scale, zero_point, *, signed=True) -> Uniform:
    return Uniform(np.array(scale, F32), np.array(zero_point), *code_range(8, signed=signed))


def codes(dialect, x, scale, zero_point, *, signed=True) -> list[int]:
    return dialect.encode(np.asarray(x, F32), uniform(scale, zero_point, signed=signed)).tolist()


def near_ties(rng, scale, n):
    """Float32 values at a half point of the grid, or up to two neighbours from it."""
    x = F32(scale) * (rng.integers(-140, 140, n) + F32(0.5)).astype(F32)
    for _ in range(2):
        towards = rng.choice([-np.inf, 0, np.inf], n).astype(F32)
        x = np.where(towards == 0, x, np.nextafter(x, towards))
    return x.astype(F32)


def settings(count=30):
    """Random scales and zero points, the same each time."""
    rng = np.random.default_rng(0)
    return [(F32(rng.uniform(1e-3, 1)), int(rng.integers(-128, 128))) for _ in range(count)]


class TestGolden:
    def test_L1_to_L4(self):
        assert codes(ONNXRUNTIME, TIES, 1, 1) == [1, 3, 3, 1, -1]
        assert codes(ONNX_REFERENCE, TIES, 1, 1) == [1, 3, 3, 1, -1]
        assert codes(TORCH_QUANTIZE, TIES, 1, 1) == [2, 2, 4, 0, 0]
        assert codes(LITERT_REFERENCE, TIES, 1, 1) == [2, 3, 4, 0, -1]
        fake = uniform(1, 1)
        assert TORCH_FAKE.decode(TORCH_FAKE.encode(TIES, fake), fake).tolist() == [0, 2, 2, 0, -2]

    def test_L5(self):
        assert codes(LITERT_OPTIMIZED, [0.5] * 9, 1, 0) == [0] * 8 + [1]

    @pytest.mark.parametrize(
        ("dialect", "code"),
        [(ONNXRUNTIME, 127), (TORCH_QUANTIZE, 128), (LITERT_REFERENCE, 127), (XNNPACK, 128)],
    )
    def test_L6(self, dialect, code):
        assert codes(dialect, [0.273939937], 0.00214854861, 0, signed=False) == [code]

    @pytest.mark.parametrize(("dialect", "code"), [(ONNXRUNTIME, 127), (TORCH_QUANTIZE, 128)])
    def test_L7(self, dialect, code):
        assert codes(dialect, [np.nextafter(F32(0.5), F32(0))], 1, 127, signed=False) == [code]

    @pytest.mark.parametrize(
        ("dialect", "expected"),
        [
            (ONNXRUNTIME, [-128, 127, -128, 127]),
            (ONNX_REFERENCE, [-128, -128, -128, -128]),
            (TORCH_QUANTIZE, [127, 127, -128, 127]),
            (LITERT_REFERENCE, [-128, -128, -128, -128]),
            (XNNPACK, [127, 127, -128, 127]),
        ],
    )
    def test_L8(self, dialect, expected):
        assert codes(dialect, ODDITIES, 1, 0) == expected

    def test_L9(self):
        low, high = F32([-0.5]), F32([254.5])

        def zero_point(parameters, signed):
            quantizer = parameters(low, high, bits=8, signed=signed)
            assert quantizer.scale == 1
            return int(quantizer.zero_point[0])

        assert zero_point(TORCH_QUANTIZE.parameters, False) == 0
        assert zero_point(ONNXRUNTIME.parameters, False) == 0
        assert zero_point(onnxruntime_tool_parameters, False) == 0
        assert zero_point(LITERT_REFERENCE.parameters, False) == 1
        assert zero_point(LITERT_REFERENCE.parameters, True) == -128

    @pytest.mark.parametrize("dialect", [ONNXRUNTIME, ONNX_REFERENCE], ids=["ort", "reference"])
    def test_L10(self, dialect):
        y, quantizer = dynamic_quantize(F32([0, 2, -3, -2.5, 1.34, 0.5]), dialect)
        assert y.tolist() == [153, 255, 0, 26, 221, 179]
        assert quantizer.scale == pytest.approx(0.0196078431372549, abs=1e-7)
        assert quantizer.zero_point == 153

    def test_L13(self):
        x = [1e-40, 1, -1, 0]
        assert codes(ONNXRUNTIME, x, 1e-40, 0) == [1, 127, -128, 0]
        assert codes(TORCH_QUANTIZE, x, 1e-40, 0) == [127, 127, -128, 127]

    @pytest.mark.parametrize(
        ("dialect", "scale"), [(ONNXRUNTIME, 1.0), (ONNX_REFERENCE, 0.00392156862745098)]
    )
    def test_L14(self, dialect, scale):
        zeros, quantizer = dynamic_quantize(F32([0, 0]), dialect)
        assert quantizer.scale == pytest.approx(scale, abs=1e-8)
        assert zeros.tolist() == [0, 0]


class TestTheDocumentedTable:
    @every_dialect
    def test_integers_are_their_own_codes(self, dialect):
        x = np.arange(-100, 101).astype(F32)
        assert codes(dialect, x, 1, 3) == (np.arange(-100, 101) + 3).tolist()

    @pytest.mark.parametrize("dialect", SATURATING, ids=lambda d: d.name)
    @pytest.mark.parametrize("zero_point", [-128, -1, 0, 127])
    def test_infinity_and_large_numbers_saturate(self, dialect, zero_point):
        far = [np.inf, -np.inf, 1e10, -1e10, 3e9]
        assert codes(dialect, far, 1, zero_point) == [127, -128, 127, -128, 127]

    @pytest.mark.parametrize("dialect", OVERFLOWING, ids=lambda d: d.name)
    @pytest.mark.parametrize(("zero_point", "code"), [(-128, 127), (-1, 127), (0, -128), (5, -128)])
    @pytest.mark.parametrize("copies", [1, 4])
    def test_what_is_no_int32_becomes_int_min_plus_zero_point(
        self, dialect, zero_point, code, copies
    ):
        far = np.tile([*ODDITIES, -1e10, 3e9], copies)
        assert set(codes(dialect, far, 1, zero_point)) == {code}

    @pytest.mark.parametrize("zero_point", [0, 7, 255])
    @pytest.mark.parametrize(
        ("dialect", "code"),
        [(ONNXRUNTIME, 0), (TORCH_QUANTIZE, 255), (TORCH_FAKE, 0), (XNNPACK, 255), (AIMET, 0)],
    )
    def test_nan_has_a_code(self, dialect, code, zero_point):
        assert codes(dialect, [np.nan], 1, zero_point, signed=False) == [code]

    @pytest.mark.parametrize("dialect", [TORCH_DECOMPOSED, TORCH_PER_CHANNEL], ids=lambda d: d.name)
    def test_nan_is_the_low_byte_of_int_min_where_it_is_cast(self, dialect):
        assert codes(dialect, [np.nan], 1, 100) == [0]

    def test_fused_and_separate_addition_differ_beside_a_tie(self):
        # x * (1 / s) is not -34.5 but rounds to it: with 3 added a tie, or not one.
        x, scale = F32(float.fromhex("-0x1.b99998p+1")), F32(0.1)
        assert x * (1 / scale) == -34.5
        assert codes(TORCH_PER_CHANNEL, [x], scale, 3) == [-32]
        assert codes(TORCH_QUANTIZE, [x], scale, 3) == [-31]

    def test_the_remainder_of_eight_divides_in_double(self):
        # x / s is 1/2 after rounding to float32 and just below it in truth.
        x, scale = F32(float.fromhex("0x1.30dad2p+6")), F32(0.93513733)
        assert x / scale == F32(81.5)
        assert float(x) / float(scale) < 81.5
        assert codes(LITERT_REFERENCE, [x], scale, 0) == [82]
        assert codes(LITERT_OPTIMIZED, [x], scale, 0) == [81]

    def test_xnnpack_refuses_a_subnormal_scale(self):
        with pytest.raises(ValueError, match="`scale` must be a normal float32"):
            codes(XNNPACK, [0.0], 1e-38, 0)

    def test_torch_fake_and_quantize_differ_on_every_tie_if_the_zero_point_is_odd(self):
        ties = np.arange(-32, 32).astype(F32) + F32(0.5)
        fake, quantize = (np.array(codes(d, ties, 1, 3)) for d in (TORCH_FAKE, TORCH_QUANTIZE))
        assert (fake != quantize).all()
        fake, quantize = (np.array(codes(d, ties, 1, 4)) for d in (TORCH_FAKE, TORCH_QUANTIZE))
        assert (fake == quantize).all()


class TestArithmetic:
    @given(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60),
                  max_value=2.0**60),
        st.floats(2.0**-30, 2.0**30, width=32),
        st.integers(-128, 255),
    )
    def test_fma_rounds_the_exact_sum_once(self, a, b, c):
        exact = Fraction(a) * Fraction(b) + c
        assert Fraction(float(_fma(F32(a), F32(b), F32(c)))) == nearest_float32(exact)

    def test_fma_where_float64_would_round_twice(self):
        # 127.5 - 2**-18 is a midpoint of float32. The sum lies 2**-51 below it, which
        # float64 does not keep; and from the midpoint the tie goes up. With u = 2**-11,
        # the product of 1 + u and 1 - u + u * u is 1 + u**3.
        u = 2.0**-11
        a, b, c = F32(1 + u), F32(-(2.0**-18) * (1 - u + u * u)), F32(127.5)
        exact = Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c))
        assert Fraction(float(_fma(a, b, c))) == nearest_float32(exact)
        twice = F32(float(a) * float(b) + float(c))
        assert twice != _fma(a, b, c)

    def test_x86_conversion_answers_int_min_for_all_that_does_not_fit(self):
        x = F32([0, -3, 2147483520, 2147483648, -2147483648, -2147483904, np.nan, np.inf, -np.inf])
        low = -(2**31)
        assert _x86_int32(x).tolist() == [0, -3, 2147483520, low, low, low, low, low, low]

    @given(st.integers(-(2**31), 2**31 - 1), st.integers(-128, 255))
    def test_sum_is_modulo_two_to_the_32(self, a, b):
        total = int(_add_int32(np.array(a, np.int32), np.array(b, np.int32)))
        assert -(2**31) <= total < 2**31
        assert (total - a - b) % 2**32 == 0


def nearest_float32(x: Fraction) -> Fraction:
    """Nearest float32, ties to even, by integer arithmetic (normal range)."""
    if x == 0:
        return x
    exponent = 0
    while abs(x) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    return round(x / unit) * unit       # Python rounds a Fraction half to even


class TestAgainstExactRationals:
    """What is defined by mathematics: correct rounding of the exact quotient."""

    @staticmethod
    def exact(x, scale, zero_point):
        ratio = (Fraction(float(v)) / Fraction(float(scale)) for v in x)
        return np.array([min(max(round(r) + zero_point, -128), 127) for r in ratio])

    def test_uniform_on_float64_copies_is_exact(self):
        rng = np.random.default_rng(0)
        for scale, zero_point in settings(10):
            x = near_ties(rng, scale, 100)
            q = Uniform(np.float64(scale).reshape(()), np.array(zero_point), -128, 127)
            found = q.encode(x.astype(np.float64))
            assert np.array_equal(found, self.exact(x, scale, zero_point))

    @every_dialect
    def test_scale_a_power_of_two_leaves_only_the_ties(self, dialect):
        rng = np.random.default_rng(0)
        x = near_ties(rng, 0.125, 400)
        tie = (x / F32(0.125)) % 1 == 0.5
        found = np.array(codes(dialect, x, 0.125, 0))
        if dialect is AIMET:            # which adds 128 before it rounds: 2**-17 is lost there
            tie = np.abs((x / F32(0.125)) % 1 - 0.5) < 2.0**-16
        assert np.array_equal(found[~tie], self.exact(x[~tie], 0.125, 0))

    def test_the_exact_dialect_is_exact(self):
        rng = np.random.default_rng(0)
        for scale, zero_point in settings():
            x = near_ties(rng, scale, 100)
            found = codes(EXACT, x, scale, zero_point)
            assert np.array_equal(found, self.exact(x, scale, zero_point))

    def test_brevitas_and_aimet_add_before_they_round(self):
        assert codes(BREVITAS, TIES, 1, 1) == [2, 2, 4, 0, 0]       # to even
        assert codes(AIMET, TIES, 1, 1) == [2, 3, 4, 1, 0]          # up: from -128 all is above
        below = np.nextafter(F32(0.5), F32(0))
        assert codes(EXACT, [below], 1, 127, signed=False) == [127]
        assert codes(BREVITAS, [below], 1, 127, signed=False) == [128]

    @every_dialect
    def test_never_more_than_one_code_from_the_exact_one(self, dialect):
        rng = np.random.default_rng(0)
        for scale, zero_point in settings(5):
            x = near_ties(rng, scale, 200)
            away = np.array(codes(dialect, x, scale, zero_point)) - self.exact(x, scale, zero_point)
            assert np.abs(away).max() <= 1

    @every_dialect
    def test_monotone_on_each_side_of_the_lanes(self, dialect):
        x = np.sort(near_ties(np.random.default_rng(0), 0.1, 512))
        assert (np.diff(codes(dialect, x, 0.1, 3)) >= 0).all()


class TestContract:
    @every_dialect
    @given(scale=st.floats(2.0**-20, 2.0**20, width=32), zero_point=st.integers(-128, 127))
    def test_encode_inverts_decode_and_real_zero_is_exact(self, dialect, scale, zero_point):
        q, every_code = uniform(scale, zero_point), np.arange(-128, 128)
        assert np.array_equal(dialect.encode(dialect.decode(every_code, q), q), every_code)
        assert dialect.encode(F32([0.0, -0.0]), q).tolist() == [zero_point] * 2
        assert dialect.decode(np.array(zero_point), q) == 0

    @every_dialect
    def test_one_scale_per_channel_is_each_channel_alone(self, dialect):
        x = near_ties(np.random.default_rng(0), 0.1, 3 * 8).reshape(3, 8)
        scale, zero_point = F32([[0.1], [0.3], [2]]), np.array([[3], [0], [-7]])
        q = Uniform(scale, zero_point, -128, 127)
        alone = [codes(dialect, x[i], scale[i, 0], int(zero_point[i, 0])) for i in range(3)]
        found = dialect.encode(x, q)
        assert found.dtype == np.int32
        assert found.tolist() == alone

    @every_dialect
    def test_shape_is_kept_arguments_stay_and_empty_stays_empty(self, dialect):
        x = np.arange(6, dtype=F32).reshape(1, 2, 3)
        q = uniform(1, 0)
        assert dialect.encode(x, q).shape == (1, 2, 3)
        assert np.array_equal(x.ravel(), np.arange(6))
        assert dialect.encode(F32(2.0), q).shape == ()
        assert dialect.encode(np.zeros((0, 3), F32), q).shape == (0, 3)
        assert dialect.decode(np.zeros((2, 0), np.int32), q).dtype == F32

    @every_dialect
    def test_float64_data_are_refused(self, dialect):
        with pytest.raises(TypeError, match="`x` must be float32"):
            dialect.encode(np.zeros(3), uniform(1, 0))

    @every_dialect
    def test_shapes_that_do_not_broadcast_and_codes_out_of_range(self, dialect):
        q = Uniform(np.ones((2, 1), F32), np.zeros((2, 1), int), -128, 127)
        with pytest.raises(ValueError, match="`scale` must broadcast"):
            dialect.encode(np.zeros((3, 4), F32), q)
        with pytest.raises(ValueError, match="`scale` must broadcast"):
            dialect.decode(np.zeros((3, 4), int), q)
        with pytest.raises(ValueError, match="`codes` must lie in"):
            dialect.decode(np.full((2, 4), 128), q)


RULES = [*(d.parameters for d in DIALECTS), onnxruntime_tool_parameters]
every_rule = pytest.mark.parametrize("rule", RULES)


class TestParameters:
    @every_rule
    @pytest.mark.parametrize("signed", [False, True])
    @given(ends=st.tuples(*2 * [st.floats(-1000, 1000, width=32)]))
    def test_range_is_covered_to_within_half_a_step(self, rule, signed, ends):
        low, high = F32(min(*ends)), F32(max(*ends))
        if max(high, 0) - min(low, 0) < 1e-2:       # where floors and special cases begin
            return
        q = rule(np.array([low]), np.array([high]), bits=8, signed=signed)
        bottom, top = q.decode(np.array([q.qmin])), q.decode(np.array([q.qmax]))
        slack = q.scale * F32(0.501)
        assert (bottom <= min(low, 0) + slack).all()
        assert (top >= max(high, 0) - slack).all()
        assert q.scale == pytest.approx(
            (float(max(high, 0)) - float(min(low, 0))) / 255, rel=2.0**-22
        )

    @every_rule
    def test_each_channel_alone(self, rule):
        low, high = F32([[-1], [-0.5], [-3]]), F32([[2], [254.5], [0]])
        together = rule(low, high, bits=8, signed=True)
        assert together.scale.shape == (3, 1)
        for i in range(3):
            alone = rule(low[i], high[i], bits=8, signed=True)
            assert (alone.scale, alone.zero_point) == (together.scale[i], together.zero_point[i])

    def test_an_empty_range(self):
        zero = F32([0])

        def scale_and_zero_point(rule, signed):
            q = rule(zero, zero, bits=8, signed=signed)
            return float(q.scale[0]), int(q.zero_point[0])

        assert scale_and_zero_point(TORCH_QUANTIZE.parameters, False) == (2.0**-23, 0)
        assert scale_and_zero_point(onnxruntime_tool_parameters, True) == (1, 0)
        assert scale_and_zero_point(ONNXRUNTIME.parameters, False) == (1, 0)
        with pytest.raises(ValueError, match="TFLite would choose the scale 0"):
            LITERT_REFERENCE.parameters(zero, zero, bits=8, signed=True)

    @pytest.mark.parametrize(
        ("low", "high", "zero_point"),
        [(-0.09192708, 0.4596354, 43), (-0.15907553, 0.09209636, 161)],
    )
    def test_tflite_trusts_the_end_of_the_range_with_the_smaller_error(
        self, low, high, zero_point
    ):
        # Both ends give the same number but for the last bit of float64: here a tie apart.
        q = LITERT_REFERENCE.parameters(F32([low]), F32([high]), bits=8, signed=False)
        assert q.zero_point == zero_point

    @every_rule
    @pytest.mark.parametrize(("low", "high"), [(2, 1), (-np.inf, 0), (0, np.nan)])
    def test_a_range_that_is_none(self, rule, low, high):
        with pytest.raises(ValueError, match="must"):
            rule(F32([low]), F32([high]), bits=8, signed=True)

    def test_nothing_to_take_a_range_from(self):
        with pytest.raises(ValueError, match="`x` must not be empty"):
            dynamic_quantize(np.zeros(0, F32), ONNXRUNTIME)
        with pytest.raises(ValueError, match="`x` must be finite"):
            dynamic_quantize(F32([1, np.inf]), ONNXRUNTIME)
        with pytest.raises(TypeError, match="`x` must be float32"):
            dynamic_quantize(np.zeros(3), ONNXRUNTIME)


# The runtimes themselves. None of the claims depends on the vector unit (measured with AVX2
# alone, and with AVX-512): 0 mismatches everywhere.


def count_mismatches(run, dialect, n=2003):
    """Codes that differ, over 30 settings; n is no multiple of 8."""
    rng = np.random.default_rng(1)
    wrong = 0
    for scale, zero_point in settings():
        x = np.concatenate([near_ties(rng, scale, n), ODDITIES, -ODDITIES])
        expected = dialect.encode(x, Uniform(scale.reshape(()), np.array(zero_point), -128, 127))
        wrong += np.count_nonzero(run(x, scale, zero_point) != expected)
    return wrong


def onnx_model(onnx, op, inputs, outputs):
    """One node as a model; inputs and outputs are (name, type, shape)."""
    helper = onnx.helper
    node = helper.make_node(op, [name for name, *_ in inputs], [name for name, *_ in outputs])
    values = [
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in side]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph([node], op, *values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def quantize_linear(onnx):
    kinds = onnx.TensorProto
    inputs = [("x", kinds.FLOAT, [None]), ("s", kinds.FLOAT, []), ("z", kinds.INT8, [])]
    return onnx_model(onnx, "QuantizeLinear", inputs, [("y", kinds.INT8, [None])])


def dynamic_quantize_linear(onnx):
    kinds = onnx.TensorProto
    outputs = [("y", kinds.UINT8, [None]), ("s", kinds.FLOAT, []), ("z", kinds.UINT8, [])]
    return onnx_model(onnx, "DynamicQuantizeLinear", [("x", kinds.FLOAT, [None])], outputs)


def feed(x, scale, zero_point):
    return {"x": x, "s": np.array(scale, F32), "z": np.array(zero_point, np.int8)}


@pytest.mark.peer
class TestOnnx:
    def test_onnxruntime_has_no_mismatch(self):
        onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        session = ort.InferenceSession(quantize_linear(onnx).SerializeToString())
        run = lambda *setting: session.run(None, feed(*setting))[0]     # noqa: E731
        assert count_mismatches(run, ONNXRUNTIME) == 0
        assert run(F32([1e-40, 1, -1, 0]), F32(1e-40), 0).tolist() == [1, 127, -128, 0]

    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_reference_evaluator_has_no_mismatch(self):
        onnx = pytest.importorskip("onnx")
        reference = pytest.importorskip("onnx.reference")
        session = reference.ReferenceEvaluator(quantize_linear(onnx))
        run = lambda *setting: session.run(None, feed(*setting))[0]     # noqa: E731
        assert count_mismatches(run, ONNX_REFERENCE) == 0

    def test_dynamic_quantize_linear(self):
        onnx, ort = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        reference = pytest.importorskip("onnx.reference")
        model = dynamic_quantize_linear(onnx)
        rng = np.random.default_rng(0)
        tensors = [F32([0, 0]), F32([-0.5, 254.5]), F32([1, 3]), F32([-1])]
        tensors += [rng.normal(rng.normal(), 1, 50).astype(F32) for _ in range(200)]
        for session, dialect in (
            (ort.InferenceSession(model.SerializeToString()), ONNXRUNTIME),
            (reference.ReferenceEvaluator(model), ONNX_REFERENCE),
        ):
            for x in tensors:
                y, scale, zero_point = session.run(None, {"x": x})
                found, q = dynamic_quantize(x, dialect)
                assert (q.scale, q.zero_point) == (scale, zero_point)
                assert np.array_equal(found, y)

    def test_offline_tool(self):
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")
        tool = pytest.importorskip("onnxruntime.quantization.quant_utils")
        rng = np.random.default_rng(0)
        for _ in range(300):
            low, high = np.sort(rng.normal(size=2)).astype(F32)
            qmin, qmax = (np.array(end, np.uint8) for end in (0, 255))
            zero_point, scale = tool.compute_scale_zp(low, high, qmin, qmax)
            q = onnxruntime_tool_parameters(low, high, bits=8, signed=False)
            assert (q.scale, q.zero_point) == (scale, zero_point)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")       # torch announces removals at import and at call
class TestTorch:
    def test_quantize_per_tensor_has_no_mismatch(self):
        torch = pytest.importorskip("torch")

        def per_tensor(x, scale, zero_point):
            x = torch.from_numpy(x)
            made = torch.quantize_per_tensor(x, float(scale), zero_point, torch.qint8)
            return made.int_repr().numpy()

        assert count_mismatches(per_tensor, TORCH_QUANTIZE) == 0
        subnormal = per_tensor(F32([1e-40, 1, -1, 0]), F32(1e-40), 0)
        assert subnormal.tolist() == [127, 127, -128, 127]

    def test_quantize_per_channel_has_no_mismatch(self):
        torch = pytest.importorskip("torch")

        def per_channel(x, scale, zero_point):
            scale, zero_point = torch.tensor([float(scale)]), torch.tensor([zero_point])
            x = torch.from_numpy(x)[None]
            made = torch.quantize_per_channel(x, scale, zero_point, 0, torch.qint8)
            return made.int_repr().numpy()[0]

        # Separate multiply and add with AVX2 alone, whatever the engine; where the compiler
        # or the machine fuses them, this kernel is that of one tensor.
        known = [count_mismatches(per_channel, d) for d in (TORCH_PER_CHANNEL, TORCH_QUANTIZE)]
        assert 0 in known, known

    def test_fake_quantize_has_no_mismatch(self):
        torch = pytest.importorskip("torch")
        rng = np.random.default_rng(1)
        for scale, zero_point in settings():
            x = np.concatenate([near_ties(rng, scale, 2003), ODDITIES, -ODDITIES])
            q = Uniform(scale.reshape(()), np.array(zero_point), -128, 127)
            found = torch.fake_quantize_per_tensor_affine(
                torch.from_numpy(x), float(scale), zero_point, -128, 127
            )
            expected = TORCH_FAKE.decode(TORCH_FAKE.encode(x, q), q)
            assert np.array_equal(found.numpy(), expected)

    def test_decomposed_has_no_mismatch(self):
        torch = pytest.importorskip("torch")
        pytest.importorskip("torch.ao.quantization.fx._decomposed")

        def run(x, scale, zero_point):
            return torch.ops.quantized_decomposed.quantize_per_tensor(
                torch.from_numpy(x), float(scale), zero_point, -128, 127, torch.int8
            ).numpy()

        assert count_mismatches(run, TORCH_DECOMPOSED) == 0

    def test_dequantize(self):
        torch = pytest.importorskip("torch")
        every_code = np.arange(-128, 128)
        for scale, zero_point in settings():
            q = Uniform(scale.reshape(()), np.array(zero_point), -128, 127)
            made = torch._make_per_tensor_quantized_tensor(
                torch.from_numpy(every_code.astype(np.int8)), float(scale), zero_point
            )
            assert np.array_equal(made.dequantize().numpy(), TORCH_QUANTIZE.decode(every_code, q))

    def test_observer(self):
        torch = pytest.importorskip("torch")
        observers = pytest.importorskip("torch.ao.quantization.observer")
        rng = np.random.default_rng(0)
        ranges = [np.sort(rng.normal(size=2)).astype(F32) for _ in range(200)]
        for ends in [*ranges, F32([0, 0]), F32([-0.5, 254.5]), F32([0, 1e-9])]:
            for signed, dtype in ((True, torch.qint8), (False, torch.quint8)):
                observer = observers.MinMaxObserver(dtype=dtype)
                observer(torch.from_numpy(ends))
                scale, zero_point = observer.calculate_qparams()
                q = TORCH_QUANTIZE.parameters(ends[:1], ends[1:], bits=8, signed=signed)
                assert (q.scale[0], q.zero_point[0]) == (scale.item(), zero_point.item())


def litert_model(schema, n, scale, zero_point):
    """A model of one QUANTIZE operation, n float32 in and n int8 out."""
    flatbuffers = pytest.importorskip("flatbuffers")
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 1
    x, y = schema.TensorT(), schema.TensorT()
    x.name, x.shape, x.type, x.buffer = b"x", [n], schema.TensorType.FLOAT32, 0
    y.name, y.shape, y.type, y.buffer = b"y", [n], schema.TensorType.INT8, 0
    y.quantization = schema.QuantizationParametersT()
    y.quantization.scale, y.quantization.zeroPoint = [float(scale)], [zero_point]
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, [0], [1]
    op.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
    op.builtinOptions = schema.QuantizeOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [x, y], [op], [0], [1]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("dialect", "resolver"),
    [
        (LITERT_REFERENCE, "BUILTIN_REF"),
        (LITERT_OPTIMIZED, "BUILTIN_WITHOUT_DEFAULT_DELEGATES"),
        (XNNPACK, "AUTO"),
    ],
    ids=["reference", "optimized", "xnnpack"],
)
@pytest.mark.parametrize("n", [2003, 7])
def test_litert_has_no_mismatch(dialect, resolver, n):
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

    def run(x, scale, zero_point):
        session = interpreter.Interpreter(
            model_content=litert_model(schema, x.size, scale, zero_point),
            experimental_op_resolver_type=getattr(interpreter.OpResolverType, resolver),
            num_threads=1,
        )
        session.allocate_tensors()
        session.set_tensor(session.get_input_details()[0]["index"], x)
        session.invoke()
        return session.get_tensor(session.get_output_details()[0]["index"])

    assert count_mismatches(run, dialect, n) == 0
