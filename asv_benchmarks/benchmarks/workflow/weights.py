"""Codes by method: output error over nearest rounding on one grid, and the time it takes."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.calibration.second_moment import output_error
from refquant.workflow.weights import Seen, by_adaround, by_gptq, clipped, nearest

METHODS = {"nearest": nearest, "clip": clipped, "gptq": by_gptq,
           "adaround": partial(by_adaround, rng=np.random.default_rng(0), steps=100)}


def problem():
    n = 64 if QUICK else 256
    rng = np.random.default_rng(0)
    w = rng.standard_normal((n, n)).astype(np.float32)
    x = (rng.standard_normal((4 * n, n)) @ rng.standard_normal((n, n))).astype(np.float32)
    return w, Seen.of(x, x[:256])


class Weights(Benchmark):
    params = (list(METHODS),)
    param_names = ("impl",)

    def setup(self, impl):
        self.w, self.seen = problem()

    def time_codes(self, impl):
        METHODS[impl](self.w, 4, 32, self.seen)


class WeightsError(Quality):
    params = (["clip", "gptq", "adaround"], [3, 4])
    param_names = ("impl", "bits")

    def track_error_over_nearest(self, impl, bits):
        w, seen = problem()
        ours, base = (output_error(w - m(w, bits, 32, seen).decoded(), seen.moment.hessian)
                      for m in (METHODS[impl], nearest))
        return ours / base

    track_error_over_nearest.unit = "times the output error of nearest"
