"""SVDF of codes: time of a step for each width of the state, and what the width buys."""

import numpy as np

from refquant.integer.svdf import Svdf as Layer
from refquant.integer.svdf import svdf
from refquant.quantizers.uniform import Uniform

from ..common import Benchmark, Quality


def record(scale: float, bits: int) -> Uniform:
    top = 2 ** (bits - 1)
    return Uniform(np.array(scale, np.float32), np.array(0), -top, top - 1)


def layer(bits: int) -> Layer:
    rng = np.random.default_rng(0)
    top = 2 ** (bits - 1) - 1
    v = rng.uniform(-1, 1, (128, 8))
    return Layer(rng.integers(-127, 128, (128, 40)), 0.01, np.rint(v * top).astype(int), 1 / top,
                 np.zeros(64, int), record(1 / 40, 8), record(40 / top, bits), record(0.6, 8))


class Svdf(Benchmark):
    params = ([8, 16],)
    param_names = ("state_bits",)

    def setup(self, state_bits: int) -> None:
        self.layer = layer(state_bits)
        self.x = np.random.default_rng(0).integers(-128, 128, (1, 40))
        self.state = np.zeros((1, 128, 8), int)

    def time_step(self, state_bits: int) -> None:
        svdf(self.x, self.layer, self.state)


class SvdfQuality(Quality):
    params = ([8, 16],)
    param_names = ("state_bits",)

    def track_error(self, state_bits: int) -> float:
        """Mean squared distance from the exact answers of 20 steps."""
        q = layer(state_bits)
        x = np.random.default_rng(1).integers(-128, 128, (20, 1, 40))
        state, exact_state, total = np.zeros((1, 128, 8), int), np.zeros((1, 128, 8)), 0.0
        for now in x:
            y, state = svdf(now, q, state)
            a = (now / 40) @ (q.feature_weight * 0.01).T
            exact_state = np.concatenate([exact_state[:, :, 1:], a[:, :, None]], axis=2)
            terms = exact_state * (q.time_weight * q.time_scale)
            exact = np.clip(terms.reshape(1, 64, -1).sum(-1) / 0.6, -128, 127)
            total += float(((y - exact) ** 2).mean()) / len(x)
        return total

    track_error.unit = "squared codes"
