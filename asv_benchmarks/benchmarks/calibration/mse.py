"""Least-squares ranges: time of the search, and the error of each rule."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality, size, weights
from refquant.calibration.minmax import absmax
from refquant.calibration.mse import alternating_scale, omse, optimal_scale
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


class Mse(Benchmark):
    """A hundred candidates for one tensor: directly below a million values, then by histogram."""

    params = ([100_000, 1_000_000, 10_000_000], [4, 8])
    param_names = ("n", "bits")

    def setup(self, n, bits):
        self.x = weights("laplace", size(n))

    def time_omse(self, n, bits):
        omse(self.x, partial(symmetric, bits=bits))

    def peakmem_omse(self, n, bits):
        omse(self.x, partial(symmetric, bits=bits))


class MsePerChannel(Benchmark):
    params = (["omse", "optimal"],)
    param_names = ("rule",)

    def setup(self, rule):
        side = 32 if QUICK else 256
        self.x = weights("laplace", side * side).reshape(side, side)

    def time_per_channel(self, rule):
        if rule == "omse":
            omse(self.x, partial(symmetric, bits=4), axis=1)
        else:
            optimal_scale(self.x, -7, 7, axis=1)


class MseLeft(Quality):
    """Error of a rule over that of the exact optimum of the same codes."""

    params = (["minmax", "alternating", "omse", "optimal"], [2, 4], ["gauss", "laplace", "outlier"])
    param_names = ("rule", "bits", "kind")

    def track_error_over_the_optimum(self, rule, bits, kind):
        x = weights(kind, 5_000, "float64")
        top = 2 ** (bits - 1) - 1
        start = symmetric(absmax(x), bits=bits)
        quantizer = {
            "minmax": lambda: start,
            "alternating": lambda: alternating_scale(x, -top, top, start.scale).quantizer,
            "omse": lambda: omse(x, partial(symmetric, bits=bits)),
            "optimal": lambda: optimal_scale(x, -top, top),
        }[rule]()
        best = mse(x, fake_quantize(x, optimal_scale(x, -top, top)))
        return float(np.round(mse(x, fake_quantize(x, quantizer)) / best, 12))

    track_error_over_the_optimum.unit = "ratio"
