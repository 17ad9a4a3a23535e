"""Folding: time for a large layer, and what it leaves of the function in float32."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.nn.convolution import conv2d
from refquant.nn.normalization import batch_norm
from refquant.ptq.batchnorm_folding import fold, fold_forward


class BatchnormFolding(Quality):
    params = (["after", "before"],)
    param_names = ("norm",)

    def setup(self, norm):
        rng = np.random.default_rng(0)
        channels = 32 if QUICK else 256
        shape = (channels, 3, 3, channels)
        self.weight = (rng.standard_normal(shape) / channels).astype(np.float32)
        draws = rng.standard_normal((4, channels))
        draws[3] = np.exp(draws[3])
        self.norm = draws.astype(np.float32)
        self.fold = fold if norm == "after" else fold_forward
        self.x = rng.standard_normal((1, 8, 8, channels)).astype(np.float32)

    def time_fold(self, norm):
        self.fold(self.weight, None, *self.norm)

    def track_error(self, norm):
        """Of the folded float32 layer against layer and norm in float64."""
        x, weight, arrays = (v.astype(np.float64) for v in (self.x, self.weight, self.norm))
        if norm == "after":
            exact = batch_norm(conv2d(x, weight)[0], *arrays)[0]
        else:
            exact = conv2d(batch_norm(x, *arrays)[0], weight)[0]
        folded = conv2d(self.x, *self.fold(self.weight, None, *self.norm))[0]
        return float(np.abs(folded - exact).max() / np.abs(exact).max())

    track_error.unit = "of the largest value"
