"""HQQ: time, and its error relative to that of the zero points it starts from."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.granularity import group
from refquant.ptq import hqq


class Hqq(Quality):
    params = ([4, 3, 2], [0.04, 1.0])
    param_names = ("bits", "deviation")

    def setup(self, bits, deviation):
        size = 64 if QUICK else 512
        weight = np.random.default_rng(0).standard_t(5, (size, size)) * deviation
        self.blocks = group(weight.astype(np.float32), 64)

    def time_fit(self, bits, deviation):
        hqq.hqq(self.blocks, bits=bits)

    def track_error(self, bits, deviation):
        losses = hqq.hqq(self.blocks, bits=bits).losses
        return losses[-1] / losses[0]

    track_error.unit = "of the mean absolute error with the zero points of min-max"
