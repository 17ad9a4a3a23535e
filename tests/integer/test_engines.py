"""Engines: where they agree, and the differences they are known for."""

import zlib

import numpy as np
import pytest

from refquant.integer import elementwise
from refquant.integer.engines import ENGINES, LITERT_REF, LITERT_X86, TFLM, XNNPACK, Engine, Sums
from refquant.integer.requantize import (
    double_away,
    double_up,
    in_float32,
    in_float64,
    lanes,
    single_up,
)
from refquant.quantizers.uniform import Uniform

CODES = np.arange(-128, 128)


def q(scale, zero=0, bits=8):
    return Uniform(np.array(scale, np.float32), np.array(zero), -(2 ** (bits - 1)),
                   2 ** (bits - 1) - 1)


def test_rules_of_the_atlas():
    assert [e.convolution.narrow.rule for e in ENGINES.values()] == [
        double_away, double_away, double_up, in_float32]
    assert [e.fully_connected.narrow.rule for e in ENGINES.values()] == [
        double_away, in_float64, double_up, in_float32]
    for layer in (LITERT_X86.depthwise, LITERT_X86.transposed, LITERT_X86.transposed_apart):
        assert layer.narrow.rule == lanes(double_up, double_away, width=8)
    assert all(isinstance(e, Engine) and isinstance(e.depthwise, Sums) for e in ENGINES.values())


def test_sixteen_bit_codes_pass_xnnpack_by():
    a = q(0.001, 0, 16)
    codes = np.arange(-32768, 32768, 7)
    for name in ("add", "subtract", "multiply"):
        there, here = (getattr(e, name)(codes, codes[::-1], a, a, a) for e in (XNNPACK, LITERT_X86))
        assert (there == here).all()
    assert (XNNPACK.requantize(codes, a, q(0.002, 0, 16))
            == TFLM.requantize(codes, a, q(0.002, 0, 16))).all()


def test_requantizing_rounds_by_position_in_the_optimized_kernels():
    x, y = q(0.05), q(0.2)                          # -2 / 4 is a tie
    codes = np.full(17, -2)
    assert TFLM.requantize(codes, x, y).tolist() == [-1] * 17
    assert LITERT_X86.requantize(codes, x, y).tolist() == [0] * 16 + [-1]


def test_mean_of_the_optimized_kernels_folds_the_zero_point():
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (1, 7, 7, 24))
    x, y = q(0.05, 30), q(0.041, -11)
    ways = [e.mean(codes, (1, 2), x, y, keep=True) for e in ENGINES.values()]
    assert all(w.shape == (1, 1, 1, 24) for w in ways)
    assert max(np.abs(w - ways[0]).max() for w in ways) == 1
    line = LITERT_X86.mean(codes, (3,), x, y, keep=True)
    lost = LITERT_X86.mean(codes, (1, 2), x, y, keep=False)
    assert (lost == LITERT_REF.mean(codes, (1, 2), x, y, keep=False)).all()
    assert (line == LITERT_REF.mean(codes, (3,), x, y, keep=True)).all()


#: Scales of a, b and their sum under which terms often lie beside a tie of one rule or another.
DECIMAL, ZEROS = (0.1, 0.08, 0.2), (-41, -52, -67)


def patterns(*shapes):
    """Codes that no generator has to make again."""
    for factor, shape in zip((37, 59), shapes, strict=True):
        n = np.arange(int(np.prod(shape)))
        yield ((n * factor + n // 256 * 7) % 256 - 128).reshape(shape)


@pytest.mark.parametrize(("first", "second", "expected"), [
    ((1, 41, 23), (1, 41, 23), 1192916044),
    ((64, 39), (1, 39), 3487120917),
    ((39,), (64, 39), 3628011882),
    ((64, 47), (64, 1), 2148697336),
    ((1, 1), (50, 47), 4130927223),
    ((4, 1, 12), (1, 30, 12), 2651907459),
    ((12, 1, 40), (1, 9, 40), 192400372),
    ((1, 9, 1), (12, 9, 40), 3777785593),
    ((1, 9, 1), (12, 1, 40), 732096437),
])
def test_sums_of_eight_bits_are_answered_as_by_the_optimized_kernels(first, second, expected):
    """Checksums of what LiteRT 2.3.0 gave: its loop knows places, and what is spread how."""
    a, b = patterns(first, second)
    x, y, z = (q(s, zero) for s, zero in zip(DECIMAL, ZEROS, strict=True))
    found = LITERT_X86.add(a, b, x, y, z)
    assert found.shape == np.broadcast_shapes(first, second)
    assert zlib.crc32(found.astype(np.int8).tobytes()) == expected


def test_sums_of_sixteen_bits_leave_the_last_places_to_another_rule():
    a, b, y = (q(s, 0, 16) for s in DECIMAL)
    m, n = np.random.default_rng(0).integers(-32768, 32768, (2, 400_000))
    found = LITERT_X86.add(m, n, a, b, y)
    assert (found == elementwise.add(m, n, a, b, y, input_rule=single_up)).all()
    one, other = (elementwise.add(m, n, a, b, y, input_rule=r) for r in (single_up, double_away))
    apart = np.flatnonzero(one != other)
    assert apart.size >= 15
    few = apart[:15]
    assert (LITERT_X86.add(m[few], n[few], a, b, y) == other[few]).all()
    spread = LITERT_X86.add(m[apart][:, None], n[apart], a, b, y)
    assert (spread == elementwise.add(m[apart][:, None], n[apart], a, b, y)).all()


def test_relu6_of_tflm_forgets_to_rescale():
    x, y = q(0.05), q(0.1)
    assert TFLM.relu6(np.array([60]), x, y) == 60
    assert LITERT_REF.relu6(np.array([60]), x, y) == 30


@pytest.mark.parametrize("engine", ENGINES.values(), ids=list(ENGINES))
def test_every_engine_squashes_within_two_codes(engine):
    x = q(0.05, 4)
    real = (CODES - 4) * 0.05
    logistic = engine.logistic(CODES, x, q(1 / 256, -128))
    assert np.abs(logistic + 128 - np.clip(256 / (1 + np.exp(-real)), 0, 255)).max() < 2
    tanh = engine.tanh(CODES, x, q(1 / 128))
    assert np.abs(tanh - np.clip(128 * np.tanh(real), -128, 127)).max() < 2
    softmax = engine.softmax(CODES[None, ::32], x, q(1 / 256, -128), beta=1.0)
    exp = np.exp(0.05 * CODES[::32])
    assert np.abs(softmax + 128 - 256 * exp / exp.sum()).max() < 2
    wide = engine.softmax(CODES[None, ::32] * 16, q(0.01, 0, 16), q(2.0**-15, 0, 16), beta=1.0)
    exp = np.exp(0.16 * CODES[::32])
    assert np.abs(wide - 32768 * exp / exp.sum()).max() < 200


def test_floats_become_codes_and_come_back():
    y = q(0.1, 3)
    for engine in ENGINES.values():
        codes = engine.quantize(np.float32([0.0, 1.0, -100]), y)
        assert codes.tolist() == [3, 13, -128]
        assert np.abs(engine.dequantize(codes, y) - [0, 1, -13.1]).max() < 1e-5


def test_leaky_relu_and_relu_of_every_engine():
    x = q(0.1, 3)
    for engine in ENGINES.values():
        assert engine.leaky_relu(np.array([13, -7]), x, x, alpha=0.5).tolist() == [13, -2]
        assert engine.relu(np.array([13, -7]), x, x, activation=(-1.0, 1.0)).tolist() == [13, -7]


def test_softmax_of_wide_codes_multiplies_scale_and_beta_in_its_own_precision():
    """A case in which LiteRT gives 3422 and TFLM 3423 in the same place of a random file."""
    x, y = q(0.00080738, 0, 16), q(2.0**-15, 0, 16)
    rng = np.random.default_rng(0)
    apart = 0
    for _ in range(200):
        codes = rng.integers(-32768, 32768, (16, 24))
        ways = [e.softmax(codes, x, y, beta=2.5).astype(int) for e in (TFLM, LITERT_REF)]
        assert np.abs(ways[0] - ways[1]).max() <= 1
        apart += np.count_nonzero(ways[0] != ways[1])
    assert apart < 200
