"""QuIP: time, and output error relative to nearest rounding and beside GPTQ."""

from functools import partial

import numpy as np

from benchmarks.common import Quality
from benchmarks.ptq._problems import SIZE, fit, layer, relative_error
from refquant.ptq import quip
from refquant.ptq.gptq import gptq
from refquant.ptq.rotation import kronecker, orthogonal


class Quip(Quality):
    params = (["gptq", "kronecker", "orthogonal", "polished"], [4, 3, 2])
    param_names = ("method", "bits")

    def setup(self, method, bits):
        self.weight, _, self.hessian = layer()

    def round(self, method, bits):
        if method == "gptq":
            return gptq(self.weight, self.hessian, partial(fit, bits=bits)).weight
        return quip.quip(self.weight, self.hessian, partial(quip.fixed_range, bits=bits),
                         rotation=orthogonal if method == "orthogonal" else kronecker,
                         sweeps=10 if method == "polished" else 0,
                         rng=np.random.default_rng(0)).weight

    def time_round(self, method, bits):
        self.round(method, bits)

    def track_error(self, method, bits):
        rounded = self.round(method, bits)
        return relative_error(self.weight, rounded, self.hessian, bits, group_size=SIZE)

    track_error.unit = "of the output error of nearest rounding"
