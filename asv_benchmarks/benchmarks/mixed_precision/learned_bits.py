"""Learned bit-widths: time of a step of descent on the bits of one layer."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.mixed_precision.learned_bits import learn_bits


def wave(w, beta):
    """The squared sine of WaveQ with its derivatives."""
    waves, height = 2**beta - 1, 2**beta
    sine, double = np.sin(np.pi * w * waves), np.sin(2 * np.pi * w * waves)

    def pullback(g):
        by_beta = np.log(2) * (np.pi * w * double - sine**2 / height)
        return g * np.pi * waves * double / height, np.sum(g * by_beta, keepdims=True)

    return sine**2 / height, pullback


class LearnedBits(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.w = weights("gauss", size(50_000))

    def time_ten_steps(self, impl):
        learn_bits([self.w], wave, strength=1.0, price=0.01, steps=10)
