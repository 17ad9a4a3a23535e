"""LSTM of codes: time of each arithmetic, and the distance from the real functions."""

import numpy as np

from refquant.integer.lstm import Lstm as Weights
from refquant.integer.lstm import LstmGate, LstmState, lstm_litert, lstm_tflm
from refquant.quantizers.uniform import Uniform

from ..common import QUICK, Benchmark, Quality

WAYS = {"tflm": lstm_tflm, "litert": lstm_litert}


def record(scale: float, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(0), -top, top - 1)


def model(inputs: int, cells: int) -> tuple[Weights, LstmState]:
    rng = np.random.default_rng(0)
    scale = 1 / 127 / np.sqrt(cells)

    def gate() -> LstmGate:
        wide, square = rng.integers(-127, 128, (cells, inputs)), rng.integers(
            -127, 128, (cells, cells))
        return LstmGate(wide, scale, square, scale, rng.integers(-9999, 9999, cells))

    gates = [gate() for _ in range(4)]
    lstm = Weights(*gates, record(1 / 40, 8), record(1 / 128, 8), record(2.0**-12, 16))
    return lstm, LstmState(np.zeros((1, cells), int), np.zeros((1, cells), int))


def real(lstm: Weights, x: np.ndarray) -> np.ndarray:
    """In float64, from decoded codes."""
    x = lstm.x_quantizer.decode(x).astype(np.float64)
    h = c = np.zeros((x.shape[1], len(lstm.input.bias)))
    hidden = []
    for now in x:
        i, f, g, o = (
            now @ (q.input_weight * q.input_scale).T + q.bias * q.input_scale / 40
            + h @ (q.recurrent_weight * q.recurrent_scale).T for q in lstm[:4])
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        hidden.append(h)
    return np.array(hidden)


class Lstm(Benchmark):
    params = ([*WAYS, "float64"],)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        self.lstm, self.state = model(40, 64)
        self.x = np.random.default_rng(0).integers(-128, 128, (2 if QUICK else 50, 1, 40))

    def time_sequence(self, impl: str) -> None:
        if impl == "float64":
            real(self.lstm, self.x)
        else:
            WAYS[impl](self.x, self.lstm, self.state)


class LstmQuality(Quality):
    params = (list(WAYS),)
    param_names = ("impl",)

    def track_error(self, impl: str) -> float:
        """Mean squared error of the hidden states of 20 steps, over their mean square."""
        lstm, state = model(40, 64)
        x = np.random.default_rng(1).integers(-128, 128, (20, 1, 40))
        hidden = lstm.hidden_quantizer.decode(WAYS[impl](x, lstm, state)[0])
        exact = real(lstm, x)
        return float(((hidden - exact) ** 2).mean() / (exact**2).mean())

    track_error.unit = "of the mean square"
