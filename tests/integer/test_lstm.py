"""LSTM of codes against runtimes, against a step in Python integers, and the real functions.

The checksums are of the hidden states that tflite-micro (wheel of October 2026) and
ai-edge-litert 2.3.0 (x86) gave for two calls in a row, time first, as bytes.
"""

import zlib

import numpy as np
import pytest
from _oracles import gemmlowp
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.arithmetic import multiply_by_quantized_multiplier, quantize_multiplier
from refquant.integer.lstm import Lstm, LstmGate, LstmState, lstm_litert, lstm_tflm
from refquant.integer.sigmoids import (
    interpolated_logistic,
    interpolated_tanh,
    short_logistic,
    short_tanh,
)
from refquant.quantizers.uniform import Uniform

CELLS, IN, TIME, BATCH = 4, 5, 6, 2
BOTH = pytest.mark.parametrize("run", [lstm_tflm, lstm_litert])


def record(scale: float, zero_point: int, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(zero_point), -top, top - 1)


def pattern(shape: tuple[int, ...], factor: int) -> np.ndarray:
    """Codes from -127 to 127 that no generator has to make again."""
    n = np.arange(int(np.prod(shape)))
    return ((n * factor + factor // 3) % 255 - 127).reshape(shape)


GATES = [
    LstmGate(pattern((CELLS, IN), 37 + 10 * k), 0.01, pattern((CELLS, CELLS), 53 + 6 * k), 0.008,
             pattern((CELLS,), 41 + 4 * k) * 60)
    for k in range(4)
]  # fmt: skip
X = pattern((TIME, BATCH, IN), 29)


def model(power=-12, clip=0.0, product=(1 / 128, -3), gates=None) -> Lstm:
    return Lstm(*(gates or GATES), record(0.02, 7, 8), record(1 / 128, -3, 8),
                record(2.0**power, 0, 16), clip, record(*product, 8))


def start(lstm: Lstm, batch: int = BATCH) -> LstmState:
    zero_point = int(lstm.hidden_quantizer.zero_point)
    shape = batch, len(lstm.input.bias)
    return LstmState(np.full(shape, zero_point), np.zeros(shape, int))


@pytest.mark.parametrize(
    ("lstm", "tflm", "litert"),
    [
        (model(-12), (1297637911, 2816956542), (1297637911, 2816956542)),
        (model(-11, 0.25, (0.01, 5)), (78857888, 2459143166), (2433710607, 3961922084)),
        (model(-15), (3625266957, 546587849), (3625266957, 1535821354)),
        (model(-17), (2341177252, 1937833378), (588733524, 977279974)),
        (model(-8, 10.0), (516045203, 2600363675), (588733524, 977279974)),
    ],
)
def test_two_sequences_are_answered_as_by_the_runtimes(lstm, tflm, litert):
    for run, expected in ((lstm_tflm, tflm), (lstm_litert, litert)):
        state = start(lstm)
        for checksum in expected:
            hidden, state = run(X, lstm, state)
            assert zlib.crc32(hidden.astype(np.int8).tobytes()) == checksum


def times(x: int, real: float) -> int:
    mantissa, shift = (int(part) for part in quantize_multiplier(real))
    high = gemmlowp.high_mul(x << max(shift, 0), mantissa, 32)
    return gemmlowp.divide_by_pot(high, max(-shift, 0))


def one_step(x, h, c, gates, power):
    """A LiteRT step of one cell in Python integers: input scale 1/50 at 7, hidden 1/128 at -3."""
    f32 = np.float32

    def gate(g: LstmGate) -> int:
        w, u = g.input_weight[0].tolist(), int(g.recurrent_weight[0, 0])
        first = times(sum(a * (b - 7) for a, b in zip(w, x, strict=True)) + int(g.bias[0]),
                      float(f32(g.input_scale) * f32(0.02) / f32(2.0**-12)))
        second = times(u * (h + 3), float(f32(g.recurrent_scale) * f32(1 / 128) / f32(2.0**-12)))
        return gemmlowp.saturated(gemmlowp.saturated(first, 16) + second, 16)

    i, f, o = (gemmlowp.logistic(gate(gates[k]), 3, 16) for k in (0, 1, 3))
    g = gemmlowp.tanh(gate(gates[2]), 3, 16)
    c = gemmlowp.divide_by_pot(f * c, 15) + gemmlowp.divide_by_pot(i * g, 30 + power)
    c = gemmlowp.saturated(c, 16)
    tanh = gemmlowp.tanh(c, 15 + power, 16)
    return gemmlowp.saturated(times(o * tanh, float(f32(2.0**-30 * 128))) - 3, 8), c


codes = st.integers(-128, 127)


@given(
    st.lists(codes, min_size=2, max_size=2), codes, st.integers(-(2**15), 2**15 - 1),
    st.lists(st.integers(-127, 127), min_size=16, max_size=16), st.integers(-15, -9),
)  # fmt: skip
def test_a_step_of_litert_is_the_formula_in_python_integers(x, h, c, weights, power):
    w = np.array(weights).reshape(4, 4)
    gates = [LstmGate(w[k:k + 1, :2], 0.02, w[k:k + 1, 2:3], 0.02, w[k, 3:] * 50) for k in range(4)]
    lstm = model(power, gates=gates)
    state = LstmState(np.array([[h]]), np.array([[c]]))
    hidden, after = lstm_litert(np.array([[x]]), lstm, state)
    assert (hidden.item(), after.cell.item()) == one_step(x, h, c, gates, power)


@BOTH
@pytest.mark.parametrize("cut", range(TIME + 1))
def test_a_sequence_in_two_parts_is_the_whole(run, cut):
    lstm = model(clip=0.25)
    whole, end = run(X, lstm, start(lstm))
    first, state = run(X[:cut], lstm, start(lstm))
    second, after = run(X[cut:], lstm, state)
    assert np.array_equal(whole, np.concatenate([first, second]))
    assert np.array_equal(end, after)


@BOTH
def test_rows_of_a_batch_are_independent(run):
    lstm = model()
    whole, _ = run(X, lstm, start(lstm))
    for row in range(BATCH):
        alone, _ = run(X[:, [row]], lstm, start(lstm, 1))
        assert np.array_equal(whole[:, [row]], alone)


def cell_from_nothing(run, before):
    """The cell, from 0, of one step with this in front of the nonlinearities of i and g."""
    logistic, tanh = (interpolated_logistic, interpolated_tanh) if run is lstm_tflm else (
        short_logistic, short_tanh)
    scale, unit = record(2.0**-12, 0, 16), record(2.0**-15, 0, 16)
    i, g = (int(f(np.array([before]), scale, unit)[0]) for f in (logistic, tanh))
    return times(i * g, 2.0**-15)


def one_cell(weight_scale=2.0**-6, bias=0, recurrent=0, recurrent_scale=1.0) -> Lstm:
    gate = LstmGate(np.zeros((1, 1), int), weight_scale, np.full((1, 1), recurrent),
                    recurrent_scale, np.array([bias]))
    return model(-15, gates=[gate] * 4)._replace(x_quantizer=record(2.0**-6, 7, 8))


def test_multipliers_are_products_in_float64_for_tflm_and_in_float32_for_litert():
    """Eight of eight random steps in which they part were answered so by the runtimes."""
    scale, x_scale = np.float32(1e-5), np.float32(0.02)
    single = float(scale * x_scale / np.float32(2.0**-12))
    double = float(scale) * float(x_scale) * 4096
    biases = np.arange(3_000_000, 4_000_000)
    both = [multiply_by_quantized_multiplier(biases, quantize_multiplier(m))
            for m in (single, double)]
    bias = int(biases[both[0] != both[1]][-1])
    lstm = one_cell(float(scale), bias)._replace(x_quantizer=record(float(x_scale), 7, 8))
    for run, real in ((lstm_tflm, double), (lstm_litert, single)):
        cell = run(np.array([[[7]]]), lstm, start(lstm, 1))[1].cell
        assert cell.item() == cell_from_nothing(run, times(bias, real))


def test_tflm_saturates_both_products_and_litert_the_first():
    lstm = one_cell(bias=30_000, recurrent=-127, recurrent_scale=2.0**-3)     # -64516 from h
    for run, before in ((lstm_tflm, 30_000 - 2**15), (lstm_litert, -(2**15))):
        state = LstmState(np.array([[124]]), np.array([[0]]))
        assert run(np.array([[[7]]]), lstm, state)[1].cell == cell_from_nothing(run, before)
    lstm = one_cell(bias=60_000, recurrent=-127, recurrent_scale=2.0**-5)     # -16129 from h
    for run in (lstm_tflm, lstm_litert):
        state = LstmState(np.array([[124]]), np.array([[0]]))
        cell = run(np.array([[[7]]]), lstm, state)[1].cell
        assert cell == cell_from_nothing(run, 2**15 - 1 - 16129)


def float_lstm(lstm: Lstm, x: np.ndarray) -> np.ndarray:
    """The real functions of the decoded codes."""

    def sigma(v):
        return 1 / (1 + np.exp(-v))

    x = lstm.x_quantizer.decode(x).astype(np.float64)
    h = c = np.zeros((x.shape[1], CELLS))
    hidden = []
    for now in x:
        i, f, g, o = (
            now @ (gate.input_weight * gate.input_scale).T + gate.bias * gate.input_scale * 0.02
            + h @ (gate.recurrent_weight * gate.recurrent_scale).T for gate in lstm[:4])
        c = sigma(f) * c + sigma(i) * np.tanh(g)
        h = sigma(o) * np.tanh(c)
        hidden.append(h)
    return np.array(hidden)


@BOTH
def test_hidden_states_are_near_those_of_the_real_functions(run):
    lstm = model()
    hidden, state = run(X, lstm, start(lstm))
    real = float_lstm(lstm, X)
    assert np.abs(lstm.hidden_quantizer.decode(hidden) - real).max() < 0.02     # 2.5 codes
    assert np.array_equal(hidden[-1], state.hidden)


def test_litert_without_a_tanh_multiplies_by_the_input_gate():
    """Nothing of g gets into the hidden state."""
    other = [*GATES[:2], GATES[3], GATES[3]]
    for power, differs in ((-16, False), (-12, True)):
        a, b = model(power), model(power, gates=other)
        first = lstm_litert(X[:1], a, start(a))[0], lstm_litert(X[:1], b, start(b))[0]
        assert (not np.array_equal(*first)) == differs


@BOTH
def test_cells_are_clipped(run):
    bounds = []
    for clip in (0.0, 0.1, 1e9):
        lstm = model(clip=clip)
        bounds.append(np.abs(run(X, lstm, start(lstm))[1].cell).max())
    assert bounds[0] == bounds[2] > bounds[1] == int(0.1 * 4096)


@BOTH
def test_arguments_stay_and_no_time_changes_nothing(run):
    lstm = model()
    state = start(lstm)
    before = X.copy(), state.hidden.copy(), state.cell.copy()
    run(X, lstm, state)
    assert all(np.array_equal(a, b) for a, b in zip(before, (X, *state), strict=True))
    hidden, after = run(X[:0], lstm, state)
    assert hidden.shape == (0, BATCH, CELLS)
    assert np.array_equal(after, state)


@BOTH
class TestErrors:
    def test_shapes(self, run):
        lstm = model()
        with pytest.raises(ValueError, match=r"`x` must have shape \(time, batch, in\); got"):
            run(X[0], lstm, start(lstm))
        with pytest.raises(ValueError, match=r"`input_weight` must have shape \(4, 4\)"):
            run(X[:, :, :4], lstm, start(lstm))
        with pytest.raises(ValueError, match=r"`hidden` must have shape \(2, 4\); got \(3, 4\)"):
            run(X, lstm, start(lstm, 3))
        bad = GATES[0]._replace(recurrent_weight=np.zeros((4, 3), int))
        with pytest.raises(ValueError, match=r"`recurrent_weight` must have shape \(4, 4\)"):
            run(X, model(gates=[bad, *GATES[1:]]), start(lstm))

    def test_codes(self, run):
        lstm = model()
        with pytest.raises(ValueError, match=r"`x` must lie in \[-128, 127\]; got 382"):
            run(X + 500, lstm, start(lstm))
        with pytest.raises(TypeError, match="`x` must be integers"):
            run(X * 1.0, lstm, start(lstm))

    def test_scale_of_the_cell(self, run):
        lstm = model()._replace(cell_quantizer=record(0.0003, 0, 16))
        with pytest.raises(ValueError, match=r"must have a power of two as scale; got 0\.0003"):
            run(X, lstm, start(lstm))
