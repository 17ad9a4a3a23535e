"""Blocks that share a scale: exact exponents, golden values of OCP MX and NVFP4, laws."""

import math
from fractions import Fraction

import numpy as np
import pytest
from _oracles import float_rounding
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from quantizers.contract import LAWS, check

from refquant import quantizer as quantizers
from refquant.granularity import group
from refquant.quantizers.block import (
    MXINT8_ELEMENT,
    Block,
    block_floating_point,
    ceil_rule,
    even_rule,
    floor_rule,
    mx,
    nvfp4,
    rceil_rule,
)
from refquant.quantizers.fixed_point import FixedPoint
from refquant.quantizers.minifloat import E2M1, E2M3, E3M2, E4M3FN, E5M2, E8M0, FORMATS
from refquant.rounding import floor

ELEMENTS = {
    "E4M3FN": E4M3FN, "E5M2": E5M2, "E3M2": E3M2, "E2M3": E2M3, "E2M1": E2M1,
    "MXINT8": MXINT8_ELEMENT,
}  # fmt: skip
RULES = [floor_rule, ceil_rule, rceil_rule, even_rule]
elements = st.sampled_from(list(ELEMENTS))
rules = st.sampled_from(RULES)
amaxes = st.floats(2.0**-100, 2.0**100) | st.builds(
    lambda e, k: float(np.ldexp(1.0, e) * (1 + k * 2.0**-52)),
    st.integers(-100, 100), st.integers(-3, 3),
)  # fmt: skip
blocks = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 3), st.integers(1, 8)),
    elements=st.floats(-100, 100, width=32),
)  # fmt: skip


def log2_floor(a: Fraction) -> int:
    """The exponent by counting, without a logarithm."""
    e = 0
    while a >= 2:
        a, e = a / 2, e + 1
    while a < 1:
        a, e = a * 2, e - 1
    return e


INSTANCES = [
    (mx(np.linspace(-3, 7, 12).reshape(3, 4)), (3, 4)),
    (mx(np.linspace(-3, 7, 12, dtype=np.float32).reshape(3, 4), element=E4M3FN), (3, 4)),
    (mx(np.linspace(-3, 7, 12).reshape(3, 4), element=MXINT8_ELEMENT, axis=0), (3, 4)),
    (mx(np.ones((2, 3, 4), np.float32), rule=rceil_rule, element=E3M2), (2, 3, 4)),
    (nvfp4(np.linspace(-3, 7, 12, dtype=np.float32).reshape(3, 4)), (3, 4)),
    (nvfp4(np.linspace(-3, 7, 12).reshape(3, 4)), (3, 4)),
    (block_floating_point(np.linspace(-1, 9, 12).reshape(3, 4), bits=4), (3, 4)),
    (Block(np.array(0.3), E2M3), (2, 5)),
]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("quantizer", "shape"), INSTANCES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contract(law, quantizer, shape, dtype) -> None:
    x = np.random.default_rng(0).standard_normal(shape) * 3
    if isinstance(quantizer.element, FixedPoint):
        codes = np.arange(quantizer.element.qmin, quantizer.element.qmax + 1)
    else:
        codes = np.flatnonzero(np.isfinite(quantizer.element.levels()))
    check(law, quantizer, x.astype(dtype), codes=codes)


# The rules


@given(elements, amaxes)
@example("E2M1", math.nextafter(8, 0))
@example("E2M1", 8.0)
@example("E4M3FN", 448.0)
@example("MXINT8", 127 / 64)
def test_rules_are_the_exact_logarithms(name: str, amax: float) -> None:
    element, a = ELEMENTS[name], Fraction(amax)
    largest = Fraction(element.max_value)
    low, top = log2_floor(a), log2_floor(largest)
    got = [int(rule(np.array(amax), element)) for rule in RULES]
    ceiling = low if a == Fraction(2) ** low else low + 1
    ratio = a / largest
    tightest = log2_floor(ratio)
    tightest += ratio > Fraction(2) ** tightest
    # Round the fraction half up to M bits, then take the exponent again.
    steps = a / Fraction(2) ** (low - element.mantissa_bits)
    rounded = math.floor(steps + Fraction(1, 2)) * Fraction(2) ** (low - element.mantissa_bits)
    assert got == [low - top, ceiling - top, tightest, log2_floor(rounded) - top]


@given(elements, amaxes)
def test_bounds_of_the_scaled_maximum(name: str, amax: float) -> None:  # P9
    element, a = ELEMENTS[name], Fraction(amax)
    largest = Fraction(element.max_value)
    floor_, ceil_, rceil_, even_ = (
        a / Fraction(2) ** int(rule(np.array(amax), element)) for rule in RULES
    )
    assert 2 ** log2_floor(largest) <= floor_ < 2 ** (log2_floor(largest) + 1)
    assert ceil_ <= largest
    assert largest / 2 < rceil_ <= largest
    assert ceil_ in (floor_, floor_ / 2)
    assert even_ in (floor_, floor_ / 2)


@given(elements, amaxes, rules, st.integers(-20, 20))
def test_scaling_the_data_by_a_power_of_two_shifts_the_exponent(name, amax, rule, k) -> None:  # P1
    element = ELEMENTS[name]
    shifted = rule(np.array(amax * 2.0**k), element)
    assert shifted == rule(np.array(amax), element) + k


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_logarithm_is_rounded_just_below_a_power_of_two(dtype) -> None:
    """A float32 logarithm of nextafter(8, 0) is 3."""
    powers = np.ldexp(np.ones(200, dtype), np.arange(-100, 100))
    below = np.nextafter(powers, dtype(0))
    np.testing.assert_array_equal(floor_rule(below, E2M1), floor_rule(powers, E2M1) - 1)
    np.testing.assert_array_equal(ceil_rule(below, E2M1), ceil_rule(powers, E2M1))


def test_golden_floor_exponents_F8() -> None:
    amax = np.array([1, 3, 5, 6, 7, np.nextafter(np.float32(8), np.float32(0)), 8], np.float32)
    np.testing.assert_array_equal(floor_rule(amax, E2M1), [-2, -1, 0, 0, 0, 0, 1])


def test_golden_four_rules_at_seven_F9() -> None:
    rules = (floor_rule, rceil_rule, ceil_rule, even_rule)
    assert [int(rule(np.array(7.0), E2M1)) for rule in rules] == [0, 1, 1, 1]


def test_exponents_at_five_to_eight() -> None:
    amax = np.array([5, 6, 6.01, 7, 8])
    expected = {
        floor_rule: [0, 0, 0, 0, 1],
        rceil_rule: [0, 0, 1, 1, 1],
        ceil_rule: [1, 1, 1, 1, 1],
        even_rule: [0, 0, 0, 1, 1],
    }
    for rule, exponents in expected.items():
        np.testing.assert_array_equal(rule(amax, E2M1), exponents)


# MX


def test_golden_mxfp8_of_500_F10() -> None:
    x = np.array([[500.0]])
    for rule, scale, value in ((floor_rule, 1, 448), (rceil_rule, 2, 512)):
        q = mx(x, element=E4M3FN, rule=rule)
        assert q.scale == scale
        assert q.decode(q.encode(x)) == value


def test_golden_mxint8_F11() -> None:
    x = np.array([[1.999, -1.999, 0.1]])
    q = mx(x, element=MXINT8_ELEMENT)
    assert q.scale == 1
    np.testing.assert_array_equal(q.encode(x), [[127, -128, 6]])
    clamped = mx(x, element=FixedPoint(8, 6, narrow=True))
    assert clamped.scale == 1
    np.testing.assert_array_equal(clamped.encode(x), [[127, -127, 6]])


@given(blocks, elements, rules)
@example(np.array([[0.0, -0.0]], np.float32), "E2M1", floor_rule)
@example(np.array([[1e-45, 0.0]], np.float32), "E4M3FN", floor_rule)
@example(np.array([[3.4e38, 1.0]], np.float32), "E5M2", ceil_rule)
def test_mx_is_exact(x: np.ndarray, name: str, rule) -> None:
    element, q = ELEMENTS[name], mx(x, element=ELEMENTS[name], rule=rule)
    codes = q.encode(x)
    for i, row in enumerate(x):
        amax = float(np.abs(row).max())
        exponent = int(rule(np.array(amax), element)) if amax else -127
        exponent = min(max(exponent, -127), 127)
        assert float(q.scale[i, 0]) == 2.0**exponent
        scaled = [float(v) * 2.0**-exponent for v in row]
        if name == "MXINT8":
            expected = [min(max(round(Fraction(v) * 64), -128), 127) for v in scaled]
        else:
            expected = float_rounding.encode(name, scaled, saturate=True)
        np.testing.assert_array_equal(codes[i], expected)


@given(blocks, elements)
def test_the_tight_rules_never_clip(x: np.ndarray, name: str) -> None:  # P9
    element = ELEMENTS[name]
    for rule in (ceil_rule, rceil_rule):
        q = mx(x, element=element, rule=rule)
        limit = q.scale.astype(np.float64) * element.max_value
        assert (np.abs(x.astype(np.float64)) <= limit).all()


@given(blocks, elements, rules)
def test_scale_is_a_power_of_two_that_e8m0_holds(x: np.ndarray, name: str, rule) -> None:
    scale = mx(x, element=ELEMENTS[name], rule=rule).scale
    np.testing.assert_array_equal(E8M0.decode(E8M0.encode(scale)), scale)


def test_zero_block_has_scale_byte_zero_and_decodes_to_zero() -> None:
    x = np.zeros((2, 32), np.float32)
    x[1, 0] = 3
    q = mx(x)
    np.testing.assert_array_equal(E8M0.encode(q.scale), [[0], [126]])
    np.testing.assert_array_equal(q.decode(q.encode(x)), x)


def test_minus_zero_is_kept() -> None:
    x = np.array([[-0.0, 1.0]], np.float32)
    q = mx(x)
    assert np.signbit(q.decode(q.encode(x))[0, 0])


@pytest.mark.parametrize("name", list(ELEMENTS))
def test_bits_per_element_are_those_of_the_standard(name: str) -> None:
    x = group(np.ones((4, 64), np.float32), 32)
    element = ELEMENTS[name]
    assert quantizers.bits_per_element(mx(x, element=element), x.shape) == element.code_bits + 0.25


def test_block_floating_point_of_eight_bits_is_mxint8() -> None:
    x = np.random.default_rng(0).standard_normal((5, 32))
    bfp, mxint8 = block_floating_point(x), mx(x, element=MXINT8_ELEMENT)
    np.testing.assert_array_equal(bfp.scale, mxint8.scale)
    np.testing.assert_array_equal(bfp.encode(x), mxint8.encode(x))


@given(hnp.arrays(np.float64, (2, 6), elements=st.floats(-1e3, 1e3)), st.integers(3, 12))
def test_block_floating_point_clips_by_less_than_a_step(x: np.ndarray, bits: int) -> None:
    q = block_floating_point(x, bits=bits)
    step = q.scale * 2.0 ** -(bits - 2)
    error = np.abs(q.decode(q.encode(x)) - x)
    assert (error <= step).all()
    inside = x <= q.scale * q.element.max_value
    assert (error[inside] <= (step / 2 * np.ones_like(x))[inside]).all()


# NVFP4


def test_golden_two_levels_of_nvfp4_F12() -> None:
    x = np.zeros((2, 16), np.float32)
    x[0, 3], x[1, 5] = 1, -4
    q = nvfp4(x)
    assert q.tensor_scale == pytest.approx(0.001488095238095238, abs=1e-9)
    assert q.tensor_scale == float(np.float32(4) / np.float32(2688))
    np.testing.assert_array_equal(q.scale, [[112], [448]])
    np.testing.assert_array_equal(E4M3FN.decode(E4M3FN.encode(q.scale)), q.scale)
    assert quantizers.bits_per_element(q, x.shape) == 4 + 8 / 16 + 32 / 32


@given(blocks)
@example(np.array([[4.0, 0.0], [1e-9, 0.0]], np.float32))
@example(np.zeros((2, 3), np.float32))
@example(np.full((1, 2), 1e-40, np.float32))
def test_nvfp4_is_exact(x: np.ndarray) -> None:
    q = nvfp4(x)
    amax = np.abs(x).max()
    tensor = np.float32(amax / np.float32(2688))
    if tensor < np.finfo(np.float32).smallest_normal:
        tensor = np.float32(1)
    assert q.tensor_scale == float(tensor)
    codes = q.encode(x)
    for i, row in enumerate(x):
        block = float(np.abs(row).max())
        if block == 0:
            scale = 1.0
        else:
            (code,) = float_rounding.encode(
                "E4M3FN", [block / (6 * float(tensor))], saturate=True
            )
            scale = float(float_rounding.number("E4M3FN", max(code, 1)))
        assert float(q.scale[i, 0]) == scale
        # The element by brute force over exact products.
        step = Fraction(scale) * Fraction(float(tensor))
        for v, code in zip(row, codes[i], strict=True):
            errors = [
                abs(Fraction(float(v)) - step * Fraction(float(level)))
                for level in FORMATS["E2M1"].levels()
            ]
            assert errors[code] == min(errors)


def test_nvfp4_divides_by_both_scales_at_once_and_rounds_once() -> None:
    # Next to the tie at 2.5 steps: in float32 most of these quotients are 2.5 itself.
    wrong_way = 0
    for tensor in np.random.default_rng(0).uniform(1, 2, 200).astype(np.float32):
        q = Block(np.array(1.0, np.float32), E2M1, tensor_scale=float(tensor))
        x = np.array(2.5, np.float32) * tensor
        exact = Fraction(float(x)) - Fraction(5, 2) * Fraction(float(tensor))
        assert q.decode(q.encode(x)) == np.float32(3 if exact > 0 else 2) * tensor
        wrong_way += exact > 0
    assert wrong_way > 20


def test_nvfp4_scales_that_would_vanish_are_the_smallest() -> None:
    q = nvfp4(np.array([[1e4, 0], [1e-9, 0], [0, 0]], np.float32))
    np.testing.assert_array_equal(q.scale, [[448], [2.0**-9], [1]])


# Edges


@pytest.mark.parametrize("fit", [mx, nvfp4, block_floating_point])
def test_scales_of_no_data_or_of_infinity_are_refused(fit) -> None:
    with pytest.raises(ValueError, match="`x` must not be empty"):
        fit(np.ones((2, 0)))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="`x` must be finite"):
            fit(np.array([1.0, bad]))
    with pytest.raises(TypeError, match="`x` must be float32 or float64"):
        fit(np.array([1, 2]))


def test_bad_input_gets_a_clear_error() -> None:
    with pytest.raises(ValueError, match="`group_size` must divide 40 columns; got 32"):
        mx(group(np.ones((2, 40)), 32))
    with pytest.raises(ValueError, match="`scale` must be positive and finite; got 0"):
        Block(np.array(0.0), E2M1)
    with pytest.raises(ValueError, match="`tensor_scale` must be positive and finite; got -1"):
        Block(np.array(1.0), E2M1, tensor_scale=-1.0)
    with pytest.raises(ValueError, match="`bits` must be at least 3; got 2"):
        block_floating_point(np.ones(3), bits=2)
    with pytest.raises(ValueError, match=r"`scale` must broadcast to the data of shape \(3, 4\)"):
        Block(np.ones((2, 1)), E2M1).encode(np.ones((3, 4)))
    with pytest.raises(ValueError, match="`tensor_scale` must be positive and finite; got inf"):
        nvfp4(np.array([1e300]))


def test_rounding_is_a_function() -> None:
    q = Block(np.array(1.0), E2M1)
    codes = q.encode(np.array([2.9, -2.9]), rounding=floor)
    np.testing.assert_array_equal(q.decode(codes), [2, -3])


def test_dtype_of_the_data_is_kept() -> None:
    for dtype in (np.float32, np.float64):
        x = np.ones((2, 4), dtype)
        for q in (mx(x), nvfp4(x), block_floating_point(x)):
            assert q.scale.dtype == dtype
            assert q.decode(q.encode(x)).dtype == dtype


# Peers


@pytest.mark.peer
def test_peer_gguf_mxfp4_agrees_away_from_its_ties_and_its_logarithm() -> None:
    """gguf breaks ties towards zero, where MX (and we) go to the even code."""
    gguf = pytest.importorskip("gguf")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 32)).astype(np.float32)
    theirs = gguf.quants.dequantize(
        gguf.quants.quantize(x, gguf.GGMLQuantizationType.MXFP4), gguf.GGMLQuantizationType.MXFP4
    )
    q = mx(x)
    assert not np.isin(np.abs(x / q.scale), [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5]).any()
    np.testing.assert_array_equal(q.decode(q.encode(x)), theirs)
    ties = np.zeros((1, 32), np.float32)
    ties[0, :5] = [4, 0.25, 0.75, 2.5, 3.5]
    back = gguf.quants.dequantize(
        gguf.quants.quantize(ties, gguf.GGMLQuantizationType.MXFP4),
        gguf.GGMLQuantizationType.MXFP4,
    )
    np.testing.assert_array_equal(back[0, 1:5], [0, 0.5, 2, 3])
    np.testing.assert_array_equal(mx(ties).decode(mx(ties).encode(ties))[0, 1:5], [0, 1, 2, 4])


@pytest.mark.peer
def test_peer_gguf_takes_the_logarithm_in_float32() -> None:
    gguf = pytest.importorskip("gguf")
    x = np.zeros((1, 32), np.float32)
    x[0, 0] = np.nextafter(np.float32(8), np.float32(0))
    byte = gguf.quants.quantize(x, gguf.GGMLQuantizationType.MXFP4)[0, 0]
    ours = E8M0.encode(mx(x).scale)[0, 0]
    assert ours == 127
    assert byte in (127, 128)           # 128 in gguf 0.19.0


@pytest.mark.parametrize("fit", [mx, nvfp4, block_floating_point])
def test_axes_outside_the_data_are_refused(fit):
    with pytest.raises(ValueError, match="`axis` must name axes of data of rank 2; got 5"):
        fit(np.ones((2, 3)), axis=5)


@pytest.mark.parametrize("scale", ["1", np.ones(2)])
def test_a_tensor_scale_is_one_number(scale):
    with pytest.raises(TypeError, match="`tensor_scale` must be a real number"):
        Block(np.ones(1), E2M1, tensor_scale=scale)
