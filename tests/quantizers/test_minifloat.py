"""Number formats: laws, then exact rounding of every short float, golden values, peers."""

import math
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from _oracles import float_rounding
from hypothesis import example, given
from hypothesis import strategies as st
from quantizers.contract import LAWS, check

from refquant import metrics
from refquant.quantizers.minifloat import (
    BF16,
    E2M1,
    E2M3,
    E3M2,
    E4M3FN,
    E4M3FNUZ,
    E5M2,
    E5M2FNUZ,
    E8M0,
    FORMATS,
    FP16,
    TF32,
    Minifloat,
    by_name,
    ieee,
    saturating,
)
from refquant.rounding import ceil, floor, half_away, stochastic, toward_zero

NAMES = list(FORMATS)
names = st.sampled_from(NAMES)
reals = st.floats(allow_nan=False)
# Close calls: a short float, moved by a few units in the last place of float64.
near_short = st.builds(
    lambda n, e, ulps: float(np.ldexp(n, e) + ulps * np.spacing(np.ldexp(float(n), e))),
    st.integers(-4096, 4096),
    st.integers(-160, 130),
    st.integers(-2, 2),
)
POLICIES = [
    (name, policy)
    for name in NAMES
    for policy in (saturating, ieee)
    if policy is saturating or FORMATS[name].nan is not None
]


def finite_levels(number_format: Minifloat) -> np.ndarray:
    levels = number_format.levels().astype(np.float64)
    return levels[np.isfinite(levels)]


# Laws


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contract(law, name: str, dtype) -> None:
    f = FORMATS[name]
    x = (np.random.default_rng(0).standard_normal((3, 4)) * f.max_value**0.5).astype(dtype)
    finite = np.flatnonzero(np.isfinite(f.levels()))
    check(law, f, x, codes=finite if f.code_bits <= 8 else None)


@pytest.mark.parametrize("name", NAMES)
def test_every_code_of_a_number_survives_decode_and_encode(name: str) -> None:  # P8
    levels = FORMATS[name].levels()
    numbers = np.flatnonzero(np.isfinite(levels))
    for dtype in (np.float32, np.float64):
        np.testing.assert_array_equal(
            FORMATS[name].encode(levels[numbers].astype(dtype)), numbers
        )


@pytest.mark.parametrize("name", [n for n in NAMES if FORMATS[n].infinity is not None])
def test_infinities_survive_under_ieee_overflow(name: str) -> None:
    f = FORMATS[name]
    codes = np.array([f.infinity, f.infinity | f.sign_bit])
    np.testing.assert_array_equal(f.encode(f.decode(codes), overflow=ieee), codes)


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_exactly_those_of_the_bit_patterns(name: str) -> None:
    levels = FORMATS[name].levels()
    for code in range(0, levels.size, 1 if levels.size <= 2**16 else 61):
        expected = float_rounding.number(name, code)
        got = float(levels[code])
        assert (math.isnan(expected) and math.isnan(got)) or (
            expected == got and math.copysign(1, expected) == math.copysign(1, got)
        ), (code, expected, got)


@given(names, reals | near_short)
@example("E4M3FN", 1.0625 + 2.0**-30)       # a float32 in between would lose the last bit
@example("E4M3FN", 464.0)
@example("E5M2", 61440.0)
@example("E8M0", 3.0)                       # a tie whose even neighbour is below
@example("E8M0", 1.5)                       # ... and above
@example("E8M0", 5e-324)
@example("BF16", 3.3961775292304957e38)
@example("TF32", 2.0**-137)
def test_rounding_is_exact_from_float64_and_happens_once(name: str, x: float) -> None:
    for policy in (saturating, ieee) if FORMATS[name].nan is not None else (saturating,):
        (expected,) = float_rounding.encode(name, [x], saturate=policy is saturating)
        assert FORMATS[name].encode(np.array([x]), overflow=policy)[0] == expected


@given(names, st.floats(-1e3, 1e3, width=32))
def test_no_representable_number_is_nearer(name: str, x: float) -> None:  # P8
    f = FORMATS[name]
    got = float(f.decode(f.encode(np.array(x))))
    error = abs(Fraction(x) - Fraction(got))
    neighbours = finite_levels(f)
    nearest = neighbours[np.argsort(np.abs(neighbours - x))[:3]]
    assert all(error <= abs(Fraction(x) - Fraction(float(v))) for v in nearest)


@given(names, st.lists(reals | near_short, min_size=2, max_size=20))
def test_encode_is_monotone(name: str, xs: list[float]) -> None:
    x = np.sort(np.array(xs))
    x_hat = FORMATS[name].decode(FORMATS[name].encode(x))
    assert (x_hat[:-1] <= x_hat[1:]).all()


@given(st.sampled_from([n for n in NAMES if FORMATS[n].signed]), reals | near_short)
def test_signed_formats_are_symmetric(name: str, x: float) -> None:
    f = FORMATS[name]
    assert f.decode(f.encode(np.array(-x))) == -f.decode(f.encode(np.array(x)))


@given(st.sampled_from(["FP16", "BF16", "E5M2", "E4M3FN", "E2M1"]), st.floats(0.01, 1000))
def test_relative_error_of_normal_numbers_is_bounded(name: str, x: float) -> None:
    f = FORMATS[name]
    x = float(np.clip(x, 2.0 ** (1 - f.bias), f.max_value))
    unit = 2.0 ** -(f.mantissa_bits + 1)
    assert abs(float(f.decode(f.encode(np.array(x)))) - x) <= x * unit / (1 + unit)


@given(names, st.floats(-500, 500))
def test_directed_rounding_brackets_the_number(name: str, x: float) -> None:
    f = FORMATS[name]
    low, high = finite_levels(f).min(), finite_levels(f).max()
    x = float(np.clip(x, low, high))
    down, up, zero = (
        f.decode(f.encode(np.array(x), rounding=r)) for r in (floor, ceil, toward_zero)
    )
    assert down <= x <= up
    assert abs(zero) <= abs(x)
    assert f.decode(f.encode(np.array(x))) in (down, up)


def test_ties_away_from_zero_is_another_rounding() -> None:
    x = np.array([0.25, -0.25, 0.75, 1.25, 2.5, 3.5, 5.0])
    got = E2M1.decode(E2M1.encode(x, rounding=half_away))
    np.testing.assert_array_equal(got, [0.5, -0.5, 1, 1.5, 3, 4, 6])


def test_stochastic_rounding_is_unbiased() -> None:
    rng, n, x = np.random.default_rng(0), 40_000, 2.3      # between 2 and 3
    values = E2M1.decode(E2M1.encode(np.full(n, x), rounding=partial(stochastic, rng=rng)))
    assert set(values) == {2.0, 3.0}
    # Standard error sqrt(f (1 - f) / n) = 0.0023; five of them.
    assert abs(values.mean(dtype=np.float64) - x) < 5 * (0.3 * 0.7 / n) ** 0.5


# Exact rounding of all short floats


@pytest.mark.parametrize("source", ["float16", "bfloat16"])
def test_all_65536_short_floats_round_exactly(source: str) -> None:
    patterns = np.arange(2**16, dtype=np.uint16)
    if source == "float16":
        x = patterns.view(np.float16).astype(np.float32)
    else:
        x = (patterns.astype(np.uint32) << 16).view(np.float32)
    x = x[~np.isnan(x)]
    values = x.astype(np.float64).tolist()
    for name, policy in POLICIES:
        expected = float_rounding.encode(name, values, saturate=policy is saturating)
        got = FORMATS[name].encode(x, overflow=policy)
        np.testing.assert_array_equal(got, np.array(expected), err_msg=f"{name} {policy.__name__}")


def test_fp16_is_numpy_float16() -> None:
    rng = np.random.default_rng(0)
    x32 = rng.integers(0, 2**32, 200_000, np.uint32).view(np.float32)
    x64 = rng.standard_normal(100_000) * 10.0 ** rng.uniform(-9, 6, 100_000)
    for x in (x32[~np.isnan(x32)], x64):
        with np.errstate(over="ignore"):
            expected = x.astype(np.float16).view(np.uint16)
        np.testing.assert_array_equal(FP16.encode(x, overflow=ieee), expected)


# Golden values


@pytest.mark.parametrize(
    ("number_format", "policy", "x", "expected"),
    [
        pytest.param(
            E4M3FN, saturating,
            [448, 464, 0.1, math.pi, 2.0**-10, 1.5 * 2.0**-9],
            [448, 448, 0.1015625, 3.25, 0, 0.00390625], id="F1",
        ),
        pytest.param(E4M3FN, ieee, [465], [math.nan], id="F2-ieee"),
        pytest.param(E4M3FN, saturating, [465], [448], id="F2-saturating"),
        pytest.param(
            E5M2, ieee, [57344, 61439, 61440, 2.0**-17], [57344, 57344, math.inf, 0], id="F3"
        ),
        pytest.param(
            E2M1, saturating,
            [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 7], [0, 1, 1, 2, 2, 4, 4, 6], id="F4",
        ),
        pytest.param(E4M3FN, saturating, [1.0625 + 2.0**-30], [1.125], id="F6"),
        pytest.param(E4M3FN, saturating, [1.0625 + 2.0**-20], [1.125], id="F7"),
        pytest.param(E8M0, saturating, [3.0], [2.0], id="F14"),
        pytest.param(E5M2, ieee, [61440], [math.inf], id="F16"),
        pytest.param(E4M3FN, saturating, [math.inf], [448], id="F17-saturating"),
        pytest.param(E4M3FN, ieee, [math.inf], [math.nan], id="F17-ieee"),
    ],
)  # fmt: skip
def test_golden_values(number_format, policy, x, expected) -> None:
    got = number_format.decode(number_format.encode(np.array(x, np.float64), overflow=policy))
    np.testing.assert_array_equal(got, np.array(expected, np.float32))


def test_golden_codes_of_one_F5() -> None:
    formats = (E4M3FN, E5M2, E4M3FNUZ, E5M2FNUZ, FP16, BF16)
    codes = [int(f.encode(np.array(1.0))) for f in formats]
    assert codes == [0x38, 0x3C, 0x40, 0x40, 0x3C00, 0x3F80]


def test_rounding_twice_goes_wrong_where_rounding_once_does_not_F7() -> None:
    x = np.array(1.0625 + 2.0**-20)
    assert E4M3FN.decode(E4M3FN.encode(FP16.decode(FP16.encode(x)))) == 1.0


def test_nan_of_a_format_without_nan_is_refused_F15() -> None:
    with pytest.raises(ValueError, match="must not contain NaN"):
        E2M1.encode(np.array([math.nan]))
    with pytest.raises(ValueError, match="`keep_nan` must be False"):
        E2M1.encode(np.array([math.nan]), keep_nan=True)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("FP16", (65504, 2.0**-14, 2.0**-24, 63487)),
        ("BF16", (3.38953139e38, 2.0**-126, 2.0**-133, 65279)),
        ("TF32", (3.40116213e38, 2.0**-126, 2.0**-136, None)),
        ("E5M2", (57344, 2.0**-14, 2.0**-16, 247)),
        ("E4M3FN", (448, 2.0**-6, 2.0**-9, 253)),
        ("E5M2FNUZ", (57344, 2.0**-15, 2.0**-17, 255)),
        ("E4M3FNUZ", (240, 2.0**-7, 2.0**-10, 255)),
        ("E2M3", (7.5, 1.0, 0.125, 63)),
        ("E3M2", (28, 0.25, 0.0625, 63)),
        ("E2M1", (6, 1.0, 0.5, 15)),
        ("E8M0", (2.0**127, 2.0**-127, 2.0**-127, 255)),
    ],
)
def test_ranges_are_those_of_the_standards(name: str, facts: tuple) -> None:
    largest, normal, smallest, distinct = facts
    f, levels = FORMATS[name], finite_levels(FORMATS[name])
    assert f.max_value == levels.max() == pytest.approx(largest, rel=1e-8)
    assert levels[levels > 0].min() == smallest
    assert f.decode(np.array(2**f.mantissa_bits if f.subnormals else 0)) == normal
    assert distinct is None or np.unique(levels).size == distinct


def test_sqnr_of_log_uniform_data_is_the_golden_constant_M5() -> None:
    # Evenly spread over the logarithm, by construction and not at random.
    x = 2.0 ** ((np.arange(200_000) + 0.5) / 200_000 * 6 - 3)
    got = metrics.sqnr(x, E4M3FN.decode(E4M3FN.encode(x)).astype(np.float64))
    assert got == pytest.approx(14.144470440581676 + 20 * 3 * np.log10(2), abs=0.01)


# Edges


def test_minus_zero_is_kept_where_the_format_has_it() -> None:
    x = np.array([-0.0, -1e-45], np.float32)
    for name, f in FORMATS.items():
        expected = 0 if name.endswith("UZ") or name == "E8M0" else f.sign_bit
        assert (f.encode(x) == expected).all(), name


@pytest.mark.parametrize("name", [n for n in NAMES if FORMATS[n].nan is not None])
def test_nan_is_kept_with_its_sign_on_request_only(name: str) -> None:
    f, x = FORMATS[name], np.array([math.nan, -math.nan])
    codes = f.encode(x, keep_nan=True)
    assert np.isnan(f.decode(codes)).all()
    np.testing.assert_array_equal(codes, [f.nan, f.nan | f.sign_bit])
    with pytest.raises(ValueError, match="`x` must not contain NaN"):
        f.encode(x)


def test_negative_numbers_are_out_of_the_range_of_e8m0() -> None:
    x = np.array([-1.0, -math.inf, 0.0, -0.0, 1.0])
    np.testing.assert_array_equal(E8M0.encode(x), [0, 0, 0, 0, 127])
    np.testing.assert_array_equal(E8M0.encode(x, overflow=ieee), [0xFF, 0xFF, 0, 0, 127])


@pytest.mark.parametrize("name", NAMES)
def test_shape_dtype_and_argument_are_kept(name: str) -> None:
    f = FORMATS[name]
    for x in (np.ones((2, 0, 3)), np.array(0.3, np.float32), np.linspace(-9, 9, 6).reshape(2, 3)):
        before = x.copy()
        codes = f.encode(x)
        assert codes.shape == x.shape
        assert codes.dtype == np.int32
        assert f.decode(codes).shape == x.shape
        assert f.decode(codes).dtype == np.float32
        np.testing.assert_array_equal(x, before)
    assert f.parameter_bits() == 0


def test_bad_input_gets_a_clear_error() -> None:
    with pytest.raises(TypeError, match="`x` must be float32 or float64; got int"):
        E4M3FN.encode(np.array([1]))
    with pytest.raises(TypeError, match="`codes` must be integers"):
        E4M3FN.decode(np.array([1.0]))
    with pytest.raises(ValueError, match=r"`codes` must lie in \[0, 15\]; got 16"):
        E2M1.decode(np.array([16]))
    with pytest.raises(ValueError, match="`overflow` must be saturating"):
        E2M1.encode(np.array([1.0]), overflow=ieee)
    with pytest.raises(ValueError, match=r"`name` must be one of FP16, .*; got 'E9M9'"):
        by_name("E9M9")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"exponent_bits": 9}, "`exponent_bits` must be at most 8; got 9"),
        ({"exponent_bits": 0}, "`exponent_bits` must be at least 1; got 0"),
        ({"mantissa_bits": -1}, "`mantissa_bits` must be at least 0; got -1"),
        ({"largest": 0x80}, "`largest` must be at most 127; got 128"),
        ({"infinity": 0x7E}, "`infinity` must be at least 127; got 126"),
        ({"nan": 0x81}, "`nan` must be at most 128; got 129"),
        ({"bias": 255}, "`bias` must keep the levels in float32"),
        ({"bias": -126}, "`bias` must keep the levels in float32"),
    ],
)
def test_impossible_descriptions_are_refused(facts: dict, message: str) -> None:
    good = {"exponent_bits": 4, "mantissa_bits": 3, "bias": 7, "largest": 0x7E}
    with pytest.raises(ValueError, match=message):
        Minifloat(**(good | facts))


def test_a_format_of_ones_own_is_one_line() -> None:
    e1m1 = Minifloat(1, 1, bias=0, largest=3)
    np.testing.assert_array_equal(e1m1.levels(), [0, 1, 2, 3, -0.0, -1, -2, -3])
    unsigned = Minifloat(2, 1, bias=1, largest=7, signed=False)
    np.testing.assert_array_equal(unsigned.levels(), [0, 0.5, 1, 1.5, 2, 3, 4, 6])
    np.testing.assert_array_equal(unsigned.encode(np.array([-2.0, 5.0])), [0, 6])


def test_formats_by_name() -> None:
    assert by_name("bf16") is BF16
    assert by_name("TF32") is TF32
    assert set(FORMATS.values()) == {
        FP16, BF16, TF32, E5M2, E4M3FN, E5M2FNUZ, E4M3FNUZ, E3M2, E2M3, E2M1, E8M0
    }  # fmt: skip


# Peers. What they answer where they are not exact is recorded here.


@pytest.mark.peer
def test_peer_ml_dtypes_rounds_float64_twice_F6() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([1.0625 + 2.0**-30, 2.0**-10 * (1 + 2.0**-40)])
    theirs = x.astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    ours = E4M3FN.decode(E4M3FN.encode(x))
    np.testing.assert_array_equal(ours, [1.125, 2.0**-9])
    if ml_dtypes.__version__ == "0.6.0":
        np.testing.assert_array_equal(theirs, [1.0, 0.0])


@pytest.mark.peer
def test_peer_ml_dtypes_observed_answers_F2_F14_F15() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if ml_dtypes.__version__ != "0.6.0":
        pytest.skip("the answers are those of ml_dtypes 0.6.0")
    assert np.isnan(np.float32(465).astype(ml_dtypes.float8_e4m3fn).astype(np.float32))
    assert np.float32(3).astype(ml_dtypes.float8_e8m0fnu).view(np.uint8) == 0x81   # ours 0x80
    with np.errstate(invalid="ignore"):
        no_nan = np.float32(math.nan).astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert no_nan == 0
    assert np.signbit(no_nan)


@pytest.mark.peer
def test_peer_torch_observed_answers_F2_F14() -> None:
    torch = pytest.importorskip("torch")
    x = torch.tensor([465.0, math.inf])
    fn = x.to(torch.float8_e4m3fn).to(torch.float32).tolist()
    if torch.__version__.startswith("2.13"):
        assert fn == [448.0, 448.0]
        assert x.to(torch.float8_e5m2).to(torch.float32).tolist() == [448.0, math.inf]
        assert torch.tensor([3.0]).to(torch.float8_e8m0fnu).view(torch.uint8).tolist() == [0x81]
    # In range nothing differs.
    y = torch.linspace(-440, 440, 10_001)
    for dtype, f in ((torch.float8_e4m3fn, E4M3FN), (torch.float8_e5m2, E5M2)):
        np.testing.assert_array_equal(y.to(dtype).view(torch.uint8).numpy(), f.encode(y.numpy()))


@pytest.mark.peer
def test_peer_gfloat_agrees_and_breaks_the_tie_of_e8m0_as_we_do_F14() -> None:
    gfloat = pytest.importorskip("gfloat")
    formats = pytest.importorskip("gfloat.formats")
    rng = np.random.default_rng(0)
    x = rng.standard_normal(300) * 8
    for name, info in (
        ("E4M3FN", formats.format_info_ocp_e4m3),
        ("E5M2", formats.format_info_ocp_e5m2),
        ("E3M2", formats.format_info_ocp_e3m2),
        ("E2M3", formats.format_info_ocp_e2m3),
        ("E2M1", formats.format_info_ocp_e2m1),
    ):
        f = FORMATS[name]
        theirs = [gfloat.round_float(info, float(v), sat=True) for v in x]
        np.testing.assert_array_equal(f.decode(f.encode(x)), theirs)
    assert gfloat.round_float(formats.format_info_ocp_e8m0, 3.0) == 2.0


@pytest.mark.peer
def test_peer_onnx_reference_gives_infinity_for_61440_F16() -> None:
    pytest.importorskip("onnx")
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    def cast(value: float, kind: int, saturate: int) -> float:
        node = helper.make_node("Cast", ["x"], ["y"], to=kind, saturate=saturate)
        back = helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT)
        graph = helper.make_graph(
            [node, back], "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
        (z,) = ReferenceEvaluator(model).run(None, {"x": np.array([value], np.float32)})
        return float(z[0])

    for value, number_format, kind in (
        (61440.0, E5M2, TensorProto.FLOAT8E5M2),
        (math.inf, E4M3FN, TensorProto.FLOAT8E4M3FN),      # F17
        (300.0, E4M3FNUZ, TensorProto.FLOAT8E4M3FNUZ),
        (1e5, E5M2FNUZ, TensorProto.FLOAT8E5M2FNUZ),
    ):
        for policy in (saturating, ieee):
            ours = number_format.encode(np.array([value]), overflow=policy)
            np.testing.assert_array_equal(
                cast(value, kind, int(policy is saturating)), number_format.decode(ours)[0]
            )


def test_six_bit_formats_have_even_steps_per_binade() -> None:
    positive = E2M3.levels()[:32]
    np.testing.assert_array_equal(
        np.diff(positive), np.repeat([0.125, 0.25, 0.5], [16, 8, 7]).astype(np.float32)
    )
    assert E3M2.levels()[1:3].tolist() == [0.0625, 0.125]


def test_a_name_is_a_string():
    with pytest.raises(TypeError, match="`name` must be a string; got 3"):
        by_name(3)
