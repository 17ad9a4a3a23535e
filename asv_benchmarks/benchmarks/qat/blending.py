"""AlphaBlend: time of a blended weight and its gradient."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.qat.blending import blend
from refquant.quantizers.binary import sign


class Blending(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.w = weights("gauss", size(200_000))
        self.alpha = np.array(0.3, np.float32)

    def time_blend(self, impl):
        blend(self.w, self.alpha, project=sign)[1](self.w)
