"""FP8: a scaled cast there and one back, beside torch; and what an adder of few bits loses."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Quality
from benchmarks.qat._born import _There
from refquant.qat.fp8_training import FP16_WIDE, cast, chunked_sum, fp8_forward


class Fp8Training(_There):
    @staticmethod
    def ours(w):
        return fp8_forward(w)

    @staticmethod
    def theirs(torch, t):
        scale = 2.0 ** torch.floor(torch.log2(448 / t.detach().abs().max()))
        return t + ((t * scale).to(torch.float8_e4m3fn).to(t.dtype) / scale - t).detach()


class Fp8TrainingSums(Quality):
    params = (["refquant"], [8, 64, 4096])
    param_names = ("impl", "chunk")

    def track_relative_error(self, impl, chunk):
        """Of sums of 4096 positive terms with 9 bits of mantissa."""
        x = np.random.default_rng(0).uniform(0, 2, (2 if QUICK else 50, 4096))
        total = chunked_sum(x, cast=partial(cast, number_format=FP16_WIDE), chunk=chunk)
        return float(np.abs(total / x.sum(1) - 1).mean())

    track_relative_error.unit = "of the sum"
