"""AWQ: time of both searches, and output error relative to nearest rounding in groups."""

from functools import partial

import numpy as np

from benchmarks.common import Quality
from benchmarks.ptq._problems import GROUP, fit, layer, nearest, relative_error
from refquant.ptq import awq
from refquant.quantizer import fake_quantize


class Awq(Quality):
    params = (["scale", "clip", "scale and clip"], [4, 3])
    param_names = ("search", "bits")

    def setup(self, search, bits):
        self.weight, x, self.hessian = layer()
        self.activation = np.abs(x).mean(0)

    def round(self, search, bits):
        scale = np.ones(len(self.activation))
        if "scale" in search:
            scale = awq.search_scale([self.weight], self.hessian, self.activation,
                                     partial(nearest, bits=bits)).scale
        scaled = self.weight * scale
        if "clip" in search:
            scaled = awq.clip_groups(scaled, self.hessian / np.outer(scale, scale),
                                     lambda w: fake_quantize(w, fit(w, bits)), group_size=GROUP)
        return nearest(scaled, bits) / scale

    def time_round(self, search, bits):
        self.round(search, bits)

    def track_error(self, search, bits):
        return relative_error(self.weight, self.round(search, bits), self.hessian, bits)

    track_error.unit = "of the output error of nearest rounding"
