"""AdaRound: time of a step, and error of the output relative to nearest rounding."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark, Quality
from refquant.calibration.mse import omse
from refquant.ptq.adaround import adaround
from refquant.quantizers.uniform import symmetric

OUT, WIDTH, SAMPLES, STEPS = (4, 12, 40, 5) if QUICK else (32, 144, 2000, 500)


def layer(bits):
    """A weight, correlated inputs, and a grid of least squared error for each row."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((OUT, WIDTH)).astype(np.float32)
    mix = rng.standard_normal((WIDTH, WIDTH)) * WIDTH**-0.5 + np.eye(WIDTH) / 2
    x = (rng.standard_normal((SAMPLES, WIDTH)) @ mix).astype(np.float32)
    return w, x, omse(w, partial(symmetric, bits=bits), axis=1)


def share(weight, rounded, x, quantizer):
    """Squared error of the output over that of nearest rounding on the same grid."""
    nearest = quantizer.decode(quantizer.encode(weight))
    return float(np.square(x @ (rounded - weight).T).mean()
                 / np.square(x @ (nearest - weight).T).mean())


class Adaround(Benchmark):
    params = (["refquant"], [2, 4])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        self.w, self.x, self.q = layer(bits)
        self.target = self.x @ self.w.T

    def time_steps(self, impl, bits):
        adaround(self.w, self.x, self.target, self.q, rng=np.random.default_rng(0), steps=STEPS)

    def peakmem_steps(self, impl, bits):
        adaround(self.w, self.x, self.target, self.q, rng=np.random.default_rng(0), steps=5)


class AdaroundError(Quality):
    params = (["refquant"], [2, 3, 4])
    param_names = ("impl", "bits")

    def track_error_over_nearest(self, impl, bits):
        w, x, q = layer(bits)
        r = adaround(w, x, x @ w.T, q, rng=np.random.default_rng(0), steps=STEPS, penalty=0.1)
        return share(w, r.weight, x, q)

    track_error_over_nearest.unit = "of nearest rounding's squared error"
