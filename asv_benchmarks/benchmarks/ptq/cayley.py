"""Cayley steps: time by width, and what a learned rotation leaves of a random one's noise."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from benchmarks.ptq.rotation import four_bits, signed_hadamard
from refquant.ptq import cayley


class CayleyStep(Benchmark):
    params = ([16] if QUICK else [64, 256, 1024],)
    param_names = ("width",)

    def setup(self, width):
        rng = np.random.default_rng(0)
        self.rotation = signed_hadamard(width, rng=rng)
        self.gradient = rng.standard_normal((width, width))

    def time_step(self, width):
        cayley.cayley_step(self.rotation, self.gradient, 0.1)


def rows(kind, rng, n):
    """Half of the rows to learn from, half to judge."""
    x = rng.standard_normal((16 * n, n))
    if kind == "one direction":
        x[:, : n // 16] += np.outer(rng.random(len(x)) < 0.3, np.linspace(15, 40, n // 16))
    elif kind == "channels":
        x[:, : n // 16] *= 20
    else:
        x = rng.standard_t(3, x.shape)
    return x[::2], x[1::2]


class Cayley(Quality):
    """100 steps on the squared peaks, for outliers of three kinds."""

    params = (["one direction", "channels", "anywhere"],)
    param_names = ("outliers",)

    def setup(self, outliers):
        rng = np.random.default_rng(0)
        width = 16 if QUICK else 64
        self.rows, self.others = rows(outliers, rng, width)
        self.start = signed_hadamard(width, rng=rng)

    def learn(self):
        return cayley.learned_rotation(
            self.start, lambda r: self.rows.T @ cayley.squared_peaks(self.rows @ r)[1])

    def time_learn(self, outliers):
        self.learn()

    def track_noise(self, outliers):
        learned, random = (np.square(x - four_bits(x)).mean()
                           for x in (self.others @ self.learn(), self.others @ self.start))
        return float(learned / random)

    track_noise.unit = "of the noise of 4 bits after a random Hadamard matrix"
