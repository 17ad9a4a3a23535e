"""ggml blocks: layouts by hand, the rounding rules in exact rationals, the peer byte for byte."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.metrics import sqnr
from refquant.quantizers.ggml import Q4_0, Q8_0, TQ1_0, TQ2_0, Blocks, Layout

LAYOUTS = {"Q4_0": Q4_0, "Q8_0": Q8_0, "TQ1_0": TQ1_0, "TQ2_0": TQ2_0}
CODES = {"Q4_0": (-8, 7), "Q8_0": (-127, 127), "TQ1_0": (-1, 1), "TQ2_0": (-1, 1)}
NAMES = list(LAYOUTS)
layouts = pytest.mark.parametrize("name", NAMES)
ordinary = st.floats(-(2.0**14), 2.0**14, width=32).filter(lambda v: v == 0 or abs(v) > 2.0**-10)


def a_block(name: str, data) -> np.ndarray:
    some = data.draw(hnp.arrays(np.float32, 32, elements=ordinary))
    return np.concatenate([some, np.roll(some, 3) / 2] * 4)[: LAYOUTS[name].block_size]


def padded(values: list[float], n: int) -> np.ndarray:
    return np.array(values + [0.0] * (n - len(values)), np.float32)


# Laws


@given(st.sampled_from(NAMES), st.data())
def test_bytes_hold_scale_and_codes(name: str, data) -> None:
    f = LAYOUTS[name]
    low, high = CODES[name]
    codes = data.draw(
        hnp.arrays(np.int32, (2, 1, f.block_size), elements=st.integers(low, high))
    )
    scale = np.array([[[0.5]], [[-3.0]]], np.float16)
    packed = f.to_bytes(Blocks(scale, codes))
    assert packed.shape == (2, f.block_bytes)
    assert packed.dtype == np.uint8
    back = f.from_bytes(packed)
    np.testing.assert_array_equal(back.codes, codes)
    np.testing.assert_array_equal(back.scale, scale)


@given(st.sampled_from(NAMES), st.data())
def test_codes_lie_in_the_range_and_errors_within_a_step(name: str, data) -> None:
    f, x = LAYOUTS[name], a_block(name, data)
    blocks = f.quantize(x)
    low, high = CODES[name]
    assert blocks.codes.min() >= low
    assert blocks.codes.max() <= high
    step = abs(float(blocks.scale[0, 0]))
    # Half a step, one for the side of Q4_0 with seven steps, and the rounding of d to float16.
    limit = step * (1 if name == "Q4_0" else 0.5) + np.abs(x).max() * 2.0**-10
    assert np.abs(f.unpack(f.pack(x)) - x).max() <= limit


@given(st.sampled_from(NAMES), st.data(), st.integers(-3, 1))
def test_scaling_by_a_power_of_two_scales_d_alone(name: str, data, k: int) -> None:
    f, x = LAYOUTS[name], a_block(name, data)
    one, other = f.quantize(x), f.quantize(x * np.float32(2.0**k))
    np.testing.assert_array_equal(other.codes, one.codes)
    if np.abs(one.scale.astype(np.float64)).max() > 2.0**-10:        # stays a normal float16
        np.testing.assert_array_equal(
            other.scale.astype(np.float64), one.scale.astype(np.float64) * 2.0**k
        )


@given(st.sampled_from(["Q8_0", "TQ1_0", "TQ2_0"]), st.data())
def test_symmetric_layouts_are_odd_functions(name: str, data) -> None:
    f, x = LAYOUTS[name], a_block(name, data)
    np.testing.assert_array_equal(f.quantize(-x).codes, -f.quantize(x).codes)


@given(st.sampled_from(["Q8_0", "TQ1_0", "TQ2_0"]), st.data())
def test_ties_go_away_from_zero_in_exact_arithmetic(name: str, data) -> None:
    """On whole and half multiples of a power-of-two scale nothing is inexact but the rounding."""
    f, top = LAYOUTS[name], CODES[name][1]
    halves = data.draw(
        hnp.arrays(np.int32, f.block_size, elements=st.integers(-2 * top, 2 * top))
    )
    halves[0] = 2 * top
    expected = [int(math.copysign(math.floor(abs(Fraction(int(h), 2)) + Fraction(1, 2)), h))
                for h in halves]  # fmt: skip
    np.testing.assert_array_equal(f.quantize(halves.astype(np.float32) / 2).codes[0], expected)


@given(st.data())
def test_ties_of_q4_0_go_up_among_the_stored_codes(data) -> None:
    halves = data.draw(hnp.arrays(np.int32, 32, elements=st.integers(-16, 16)))
    halves[0] = -16
    expected = [min(math.floor(Fraction(int(h), 2) + Fraction(1, 2)), 7) for h in halves]
    np.testing.assert_array_equal(Q4_0.quantize(halves.astype(np.float32) / 2).codes[0], expected)


def test_extreme_of_q4_0_is_exact_and_its_mirror_saturates() -> None:
    for extreme in (-8.0, 8.0):
        values = Q4_0.unpack(Q4_0.pack(padded([extreme, -extreme], 32)))
        np.testing.assert_array_equal(values[:2], [extreme, -extreme * 7 / 8])


# Bytes by hand


def test_golden_block_of_q4_0_L11() -> None:
    x = padded([-8, 7, 8, 3.5, -3.5, 0.5, -0.5, 2.5], 32)
    blocks = Q4_0.quantize(x)
    assert blocks.scale == 1
    np.testing.assert_array_equal(blocks.codes[0, :8] + 8, [0, 15, 15, 12, 5, 9, 8, 11])
    np.testing.assert_array_equal(Q4_0.dequantize(blocks)[:8], [-8, 7, 7, 4, -3, 1, 0, 3])


def test_codes_come_from_the_rounded_reciprocal_of_the_scale() -> None:
    # gguf 0.19: 64. The quotient by the scale, 63.49999, would give 63.
    x = np.zeros((1, 32), np.float32)
    x[0, :2] = 5.2772126, 2.6386063
    assert Q8_0.quantize(x).codes[0, 0, :2].tolist() == [127, 64]


def test_golden_block_of_q8_0_L12() -> None:
    x = padded([127, 0.5, 1.5, 2.5, -0.5, -1.5], 32)
    blocks = Q8_0.quantize(x)
    assert blocks.scale == 1
    np.testing.assert_array_equal(blocks.codes[0, :6], [127, 1, 2, 3, -1, -2])
    np.testing.assert_array_equal(Q8_0.pack(x)[:8], [0x00, 0x3C, 127, 1, 2, 3, 255, 254])


def test_golden_five_trits_B8() -> None:
    codes = np.zeros((1, 256), np.int32)
    codes[0, 0:160:32] = np.array([2, 1, 0, 1, 2]) - 1
    assert 2 * 81 + 1 * 27 + 0 * 9 + 1 * 3 + 2 == 194
    data = TQ1_0.to_bytes(Blocks(np.ones((1, 1), np.float16), codes))
    assert data[0] == 205 == math.ceil(Fraction(194 * 256, 243))


def test_every_five_trits_survive_their_byte() -> None:
    """All 243, as the leading trits of the fraction byte / 256."""
    trits = np.stack(np.meshgrid(*[[0, 1, 2]] * 5, indexing="ij"), -1).reshape(-1, 5)
    for start in range(0, 243, 32):
        some = trits[start : start + 32]
        codes = np.zeros((1, 256), np.int32)
        codes[0, :160].reshape(5, 32)[:, : len(some)] = some.T - 1
        data = TQ1_0.to_bytes(Blocks(np.ones((1, 1), np.float16), codes))
        values = some @ 3 ** np.arange(4, -1, -1)
        expected = [math.ceil(Fraction(256 * int(v), 243)) for v in values]
        np.testing.assert_array_equal(data[: len(some)], expected)
        np.testing.assert_array_equal(TQ1_0.from_bytes(data).codes, codes)


def test_nibbles_of_q4_0_lie_sixteen_apart() -> None:
    codes = np.concatenate([np.arange(16), np.arange(16)])[None] - 8
    data = Q4_0.to_bytes(Blocks(np.ones((1, 1), np.float16), codes))
    np.testing.assert_array_equal(data, [0x00, 0x3C] + [0x11 * i for i in range(16)])


def test_first_bytes_of_a_repeating_ternary_tq2_0() -> None:
    codes = (np.arange(256) % 3 - 1)[None]
    data = TQ2_0.to_bytes(Blocks(np.ones((1, 1), np.float16), codes))
    np.testing.assert_array_equal(data[:3], [0x18, 0x61, 0x86])
    np.testing.assert_array_equal(data[-2:], [0x00, 0x3C])


@layouts
def test_bits_per_element(name: str) -> None:
    expected = {"Q4_0": 4.5, "Q8_0": 8.5, "TQ1_0": 1.6875, "TQ2_0": 2.0625}
    assert LAYOUTS[name].bits_per_element == expected[name]


# Edges


@layouts
def test_zero_block(name: str) -> None:
    f = LAYOUTS[name]
    x = np.zeros((2, f.block_size), np.float32)
    blocks = f.quantize(x)
    np.testing.assert_array_equal(blocks.scale, np.zeros((2, 1, 1)))
    np.testing.assert_array_equal(blocks.codes, np.zeros((2, 1, f.block_size)))
    np.testing.assert_array_equal(f.unpack(f.pack(x)), x)
    assert np.signbit(blocks.scale).all() == (name == "Q4_0")      # 0 / -8 is -0


def test_scale_beyond_float16_is_infinite() -> None:
    x = padded([127 * 65520.0, 1e7, -1.0], 32)
    blocks = Q8_0.quantize(x)
    assert np.isposinf(blocks.scale)
    values = Q8_0.dequantize(blocks)
    assert np.isposinf(values[0])
    assert np.isnan(values[2])              # infinity times the code 0
    assert Q8_0.quantize(padded([127 * 65519.0], 32)).scale == 65504


def test_scale_below_float16_is_zero_though_the_codes_are_not() -> None:
    x = padded([127 * 2.0**-25, -(127 * 2.0**-25)], 32)
    blocks = Q8_0.quantize(x)
    assert blocks.scale == 0
    np.testing.assert_array_equal(blocks.codes[0, :2], [127, -127])
    np.testing.assert_array_equal(Q8_0.dequantize(blocks), np.zeros(32))


@layouts
def test_codes_use_the_scale_before_it_is_rounded(name: str) -> None:
    f = LAYOUTS[name]
    x = np.random.default_rng(0).standard_normal((50, f.block_size)).astype(np.float32)
    blocks = f.quantize(x)
    largest = np.abs(x).max(axis=1)
    steps = {"Q4_0": 8, "Q8_0": 127}.get(name, 1)
    assert (np.abs(blocks.scale.astype(np.float32)).ravel() != largest / np.float32(steps)).any()
    np.testing.assert_array_equal(np.abs(blocks.codes).max(axis=(1, 2)), steps)


@layouts
def test_reciprocal_that_overflows_gives_zeros(name: str) -> None:
    x = np.full(LAYOUTS[name].block_size, 1e-42, np.float32)
    x[1] = 0
    assert not LAYOUTS[name].unpack(LAYOUTS[name].pack(x)).any()


@layouts
def test_rows_blocks_and_empty_arrays(name: str) -> None:
    f = LAYOUTS[name]
    x = np.random.default_rng(1).standard_normal((2, 3, 2 * f.block_size)).astype(np.float32)
    before, data = x.copy(), f.pack(x)
    assert data.shape == (2, 3, 2 * f.block_bytes)
    assert f.unpack(data).shape == x.shape
    np.testing.assert_array_equal(data[1, 2, f.block_bytes :], f.pack(x[1, 2, f.block_size :]))
    np.testing.assert_array_equal(x, before)
    assert f.pack(x[:0]).shape == (0, 3, 2 * f.block_bytes)
    assert f.unpack(f.pack(x[:0])).shape == (0, 3, 2 * f.block_size)
    assert f.pack(x[..., :0]).shape == (2, 3, 0)
    strided = np.repeat(data, 2, axis=-1)[..., ::2]
    np.testing.assert_array_equal(f.unpack(strided), f.unpack(data))


@layouts
def test_bad_input_gets_a_clear_error(name: str) -> None:
    f = LAYOUTS[name]
    n = f.block_size
    with pytest.raises(ValueError, match=f"`group_size` must divide {n + 1} columns; got {n}"):
        f.pack(np.ones(n + 1, np.float32))
    with pytest.raises(ValueError, match=f"`data` must hold blocks of {f.block_bytes} bytes"):
        f.unpack(np.zeros(f.block_bytes - 1, np.uint8))
    with pytest.raises(TypeError, match="`data` must be uint8; got int32"):
        f.unpack(np.zeros(f.block_bytes, np.int32))
    with pytest.raises(TypeError, match="`x` must be float32; got float64"):
        f.pack(np.ones(n))
    with pytest.raises(ValueError, match="`x` must not contain NaN"):
        f.pack(np.full(n, np.nan, np.float32))
    with pytest.raises(ValueError, match="`x` must be finite; got inf"):
        f.pack(np.full(n, np.inf, np.float32))
    with pytest.raises(ValueError, match=f"`blocks` must hold {n} codes each; got 3"):
        f.to_bytes(Blocks(np.ones((1, 1), np.float16), np.zeros((1, 3), np.int32)))
    with pytest.raises(ValueError, match="`codes` must lie in"):
        f.to_bytes(Blocks(np.ones((1, 1), np.float16), np.full((1, n), 200)))


def test_signal_to_noise_of_gaussian_weights() -> None:
    """21.32 and 45.42 dB, measured by others on a million samples, to +-0.05 on 65,536."""
    x = np.random.default_rng(0).standard_normal((512, 128)).astype(np.float32)
    assert sqnr(x, Q4_0.unpack(Q4_0.pack(x))) == pytest.approx(21.32, abs=0.05)
    assert sqnr(x, Q8_0.unpack(Q8_0.pack(x))) == pytest.approx(45.42, abs=0.05)


# The peer


FAMILIES = {
    "normal": lambda rng: rng.standard_normal((300, 256)),
    "ties": lambda rng: rng.integers(-254, 255, (300, 256)) / 2,
    "small integers": lambda rng: rng.integers(-8, 9, (300, 256)),
    "half grid": lambda rng: rng.choice([-1, -0.5, 0, 0.25, 0.5, 1], (300, 256)),
    "zero": lambda rng: np.zeros((2, 256)),
    "one spike": lambda rng: np.eye(256),
    "float16 underflow": lambda rng: rng.standard_normal((100, 256)) * 1e-7,
    "float16 overflow": lambda rng: rng.standard_normal((100, 256)) * 1e7,
    "subnormal": lambda rng: rng.standard_normal((100, 256)) * 1e-40,
    "huge": lambda rng: rng.uniform(-3e38, 3e38, (100, 256)),
}


@pytest.mark.peer
@layouts
@pytest.mark.parametrize("family", list(FAMILIES))
def test_peer_gguf_writes_the_same_bytes(name: str, family: str) -> None:
    gguf = pytest.importorskip("gguf")
    kind, f = gguf.GGMLQuantizationType[name], LAYOUTS[name]
    x = FAMILIES[family](np.random.default_rng(0)).astype(np.float32)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.quantize(x, kind)
        back = gguf.quants.dequantize(theirs, kind)
    if family == "subnormal":       # its casts of infinity are the processor's: compare the values
        np.testing.assert_array_equal(f.unpack(f.pack(x)), back)
    else:
        np.testing.assert_array_equal(f.pack(x), theirs)
    np.testing.assert_array_equal(f.unpack(theirs), back)


@pytest.mark.peer
@layouts
def test_peer_gguf_reads_any_bytes_alike(name: str) -> None:
    gguf = pytest.importorskip("gguf")
    f = LAYOUTS[name]
    data = np.random.default_rng(0).integers(0, 256, (200, 4 * f.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        theirs = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    np.testing.assert_array_equal(f.unpack(data), theirs)


@given(hnp.arrays(np.uint8, (3, 54)))
@example(np.full((3, 54), 255, np.uint8))
def test_any_byte_of_tq1_0_reads_as_trits(data: np.ndarray) -> None:
    assert np.isin(TQ1_0.from_bytes(data).codes, [-1, 0, 1]).all()


def test_a_layout_is_a_record() -> None:
    assert isinstance(Q4_0, Layout)
    with pytest.raises(AttributeError):
        Q4_0.block_size = 64


def test_blocks_of_the_wrong_shape_are_refused():
    one = np.ones((1, 1), np.float16)
    for scale, codes, says in (
        (one, np.zeros(32, int), r"`blocks.codes` must have shape \(..., blocks, elements\)"),
        (one, np.array(1), r"`blocks.codes` must have shape \(..., blocks, elements\)"),
        (np.ones((2, 1)), np.zeros((1, 32), int), r"`blocks.scale` must have shape \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=says):
            Q8_0.to_bytes(Blocks(scale, codes))
