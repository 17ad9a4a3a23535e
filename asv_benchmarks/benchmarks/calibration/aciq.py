"""Analytic clipping: time of the estimate, and its error over that of the search."""

from functools import partial

from benchmarks.common import Benchmark, Quality, size, weights
from refquant.calibration.aciq import GAUSS, LAPLACE, aciq_bound
from refquant.calibration.mse import omse
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

PRIORS = {"gauss": GAUSS, "laplace": LAPLACE}


class Aciq(Benchmark):
    params = (list(PRIORS),)
    param_names = ("prior",)

    def setup(self, prior):
        self.x = weights("laplace", size(1_000_000))

    def time_bound(self, prior):
        aciq_bound(self.x, bits=4, prior=PRIORS[prior])


class AciqError(Quality):
    params = (list(PRIORS), ["gauss", "laplace", "outlier"], [2, 4, 8])
    param_names = ("prior", "kind", "bits")

    def track_error_over_omse(self, prior, kind, bits):
        x = weights(kind, 100_000, "float64")
        make = partial(symmetric, bits=bits)
        bound = aciq_bound(x, bits=bits, prior=PRIORS[prior])
        return mse(x, fake_quantize(x, make(bound))) / mse(x, fake_quantize(x, omse(x, make)))

    track_error_over_omse.unit = "ratio"
