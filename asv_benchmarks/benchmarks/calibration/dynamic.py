"""Static against dynamic ranges: time of a call, and error where tokens differ in size."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.calibration.dynamic import per_tensor, per_token, quantize_dynamic, static
from refquant.metrics import mse

FITS = {"per_tensor": per_tensor, "per_token": per_token}


class Dynamic(Benchmark):
    params = (["static", *FITS],)
    param_names = ("ranges",)

    def setup(self, ranges):
        rng = np.random.default_rng(0)
        shape = (2, 64, 32) if QUICK else (2, 1024, 768)
        # Tokens whose sizes spread over a factor of about ten.
        data = rng.standard_normal(shape) * np.exp(rng.standard_normal((*shape[:2], 1)))
        known, self.x = data.astype(np.float32)
        self.fixed = static([known], bits=8)

    def _codes(self, ranges):
        if ranges == "static":
            return self.fixed.encode(self.x), self.fixed
        return quantize_dynamic(self.x, partial(FITS[ranges], bits=8))

    def time_codes(self, ranges):
        self._codes(ranges)

    def track_mse(self, ranges):
        codes, quantizer = self._codes(ranges)
        return mse(self.x, quantizer.decode(codes))

    track_mse.unit = "squared units of the data"
