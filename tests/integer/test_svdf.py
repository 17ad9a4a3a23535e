"""SVDF of codes against runtimes and against the formula in Python integers.

The checksums are of the answers of tflite-micro (wheel of October 2026) to seven steps, as
bytes; with a state of 16 bits ai-edge-litert 2.3.0 (x86) gave the same.
"""

import zlib

import numpy as np
import pytest
from _oracles import gemmlowp
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.arithmetic import quantize_multiplier
from refquant.integer.svdf import Svdf, svdf
from refquant.quantizers.uniform import Uniform

STEPS, BATCH, IN, MEMORY, FILTERS, UNITS = 7, 2, 6, 4, 6, 3


def record(scale: float, zero_point: int, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(zero_point), -top, top - 1)


def pattern(shape: tuple[int, ...], factor: int, top: int = 127) -> np.ndarray:
    n = np.arange(int(np.prod(shape)))
    return ((n * factor + factor // 3) % (2 * top + 1) - top).reshape(shape)


def layer(bits: int = 8, zero_point: int = 0, scale: float = 0.4, time_scale: float = 0.01) -> Svdf:
    time = pattern((FILTERS, MEMORY), 53) if bits == 8 else pattern((FILTERS, MEMORY), 1021, 3000)
    return Svdf(pattern((FILTERS, IN), 37), 0.02, time, time_scale, pattern((UNITS,), 41) * 30,
                record(0.05, 9, 8), record(scale, zero_point, bits), record(0.5, -7, 8))


X = pattern((STEPS, BATCH, IN), 29)
LAYERS = [layer(), layer(8, -20, 0.1, 0.02), layer(16, 0, 0.002, 0.0005)]


def run(layer: Svdf, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    shape = x.shape[1], *layer.time_weight.shape
    state = np.full(shape, int(layer.state_quantizer.zero_point))
    answers = []
    for now in x:
        y, state = svdf(now, layer, state)
        answers.append(y)
    return np.array(answers), state


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(LAYERS[0], 3415374008), (LAYERS[1], 752358853), (LAYERS[2], 3334436377)],
)
def test_seven_steps_are_answered_as_by_the_runtimes(layer, expected):
    assert zlib.crc32(run(layer, X)[0].astype(np.int8).tobytes()) == expected


def times(x: int, real: float) -> int:
    mantissa, shift = (int(part) for part in quantize_multiplier(real))
    high = gemmlowp.high_mul(x << max(shift, 0), mantissa, 32)
    return gemmlowp.divide_by_pot(high, max(-shift, 0))


@given(
    st.lists(st.integers(-128, 127), min_size=IN, max_size=IN),
    st.lists(st.integers(-128, 127), min_size=24, max_size=24),
    st.sampled_from(LAYERS),
)
def test_a_step_is_the_formula_in_python_integers(x, state, layer):
    f32 = np.float32
    state = np.array(state).reshape(1, FILTERS, MEMORY)
    y, after = svdf(np.array([x]), layer, state)
    s_state, z = f32(layer.state_quantizer.scale), int(layer.state_quantizer.zero_point)
    bits = layer.state_quantizer.code_bits
    totals = layer.bias.tolist()
    for f in range(FILTERS):
        dot = sum(w * (c - 9) for w, c in zip(layer.feature_weight[f].tolist(), x, strict=True))
        new = gemmlowp.saturated(times(dot, float(f32(0.05) * f32(0.02) / s_state)), bits) + z
        new = (new + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        memory = [*state[0, f, 1:].tolist(), new]
        assert after[0, f].tolist() == memory
        weights = layer.time_weight[f].tolist()
        totals[f // 2] += sum(w * (a - z) for w, a in zip(weights, memory, strict=True))
    real = float(s_state * f32(layer.time_scale) / f32(0.5))
    assert y[0].tolist() == [gemmlowp.saturated(times(t, real) - 7, 8) for t in totals]


@pytest.mark.parametrize("layer", LAYERS)
def test_an_input_is_forgotten_after_its_memory(layer):
    other = X.copy()
    other[0] = -other[0]
    a, b = run(layer, X)[0], run(layer, other)[0]
    assert not np.array_equal(a[:MEMORY], b[:MEMORY])
    assert np.array_equal(a[MEMORY:], b[MEMORY:])


@pytest.mark.parametrize("layer", LAYERS)
def test_rows_of_a_batch_are_independent(layer):
    whole, _ = run(layer, X)
    for row in range(BATCH):
        assert np.array_equal(whole[:, [row]], run(layer, X[:, [row]])[0])


def test_answers_are_near_the_real_ones():
    layer = LAYERS[2]
    x = 0.05 * (X - 9)
    a = x @ (layer.feature_weight * 0.02).T                     # step, batch, filter
    v = layer.time_weight * 0.0005
    a = np.concatenate([np.zeros((MEMORY - 1, BATCH, FILTERS)), a])
    filtered = sum(a[k:k + STEPS] * v[:, k] for k in range(MEMORY))
    real = filtered.reshape(STEPS, BATCH, UNITS, -1).sum(-1) + layer.bias * 0.002 * 0.0005
    y = np.clip(real / 0.5 - 7, -128, 127)
    assert np.abs(run(layer, X)[0] - y).max() < 0.52


def test_arguments_stay():
    state = np.zeros((BATCH, FILTERS, MEMORY), int)
    x = X[0].copy()
    svdf(x, LAYERS[0], state)
    assert not state.any()
    assert np.array_equal(x, X[0])


class TestErrors:
    state = np.zeros((BATCH, FILTERS, MEMORY), int)

    def test_shapes(self):
        with pytest.raises(ValueError, match=r"`x` must have shape \(batch, in\); got \(7, 2, 6\)"):
            svdf(X, LAYERS[0], self.state)
        with pytest.raises(ValueError, match=r"`state` must have shape \(2, 6, 4\); got \(2, 6, 3"):
            svdf(X[0], LAYERS[0], self.state[:, :, 1:])
        with pytest.raises(ValueError, match=r"`feature_weight` must have shape \(6, 5\)"):
            svdf(X[0, :, 1:], LAYERS[0], self.state)
        with pytest.raises(ValueError, match="`bias` must divide the 6 filters; got 4 units"):
            svdf(X[0], LAYERS[0]._replace(bias=np.zeros(4, int)), self.state)

    def test_codes(self):
        with pytest.raises(ValueError, match=r"`state` must lie in \[-128, 127\]; got 500"):
            svdf(X[0], LAYERS[0], self.state + 500)
        with pytest.raises(TypeError, match="`x` must be integers"):
            svdf(X[0] * 1.0, LAYERS[0], self.state)
