"""QuantNoise: time of a mask and of the noisy weight with its gradient."""

import numpy as np

from benchmarks.common import Benchmark, size, weights
from refquant.calibration.minmax import absmax
from refquant.qat.quant_noise import noise_mask, quant_noise
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


class QuantNoise(Benchmark):
    params = (["refquant"], [1, 8])
    param_names = ("impl", "block")

    def setup(self, impl, block):
        self.w = weights("gauss", size(200_000)).reshape(-1, 80)
        self.grid = symmetric(absmax(self.w), bits=4)

    def time_noise(self, impl, block):
        mask = noise_mask(self.w.shape, rate=0.1, block=block, rng=np.random.default_rng(0))
        quant_noise(self.w, mask, project=lambda w: fake_quantize(w, self.grid))[1](self.w)
