"""Companding: encoding through the curve against the codebook of the same grid."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizers.companding import companded, mu_law


class Companding(Quality):
    """`naive` bends every value, then rounds."""

    params = (["refquant", "naive"], [0.3, 0.01])
    param_names = ("impl", "loudness")

    def setup(self, impl, loudness):
        self.x = np.clip(weights("laplace", size(100_000)) * np.float32(loudness), -1, 1)
        self.q = companded(np.array(1.0, np.float32), bits=8)
        self.run = (lambda: self.q.encode(self.x)) if impl == "refquant" else (
            lambda: np.clip((mu_law(self.x) + 1) * 128, 0, 255).astype(np.int32))

    def time_encode(self, impl, loudness):
        self.run()

    def track_relative_mse(self, impl, loudness):
        return mse(self.x, self.q.decode(self.run())) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the signal"
