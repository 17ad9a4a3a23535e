"""GPTQ: time by width, and output error relative to nearest rounding with the same groups."""

from functools import partial

from benchmarks.common import QUICK, Quality
from benchmarks.ptq._problems import GROUP, fit, layer, relative_error
from refquant.ptq import gptq


class Gptq(Quality):
    params = ([32] if QUICK else [256, 1024], [4, 3, 2], ["as given", "by curvature"])
    param_names = ("width", "bits", "order")

    def setup(self, width, bits, order):
        self.weight, _, self.hessian = layer(width)

    def round(self, bits, order):
        if order == "as given":
            return gptq.gptq(self.weight, self.hessian, partial(fit, bits=bits),
                             group_size=GROUP)
        return gptq.gptq(self.weight, self.hessian, partial(fit, bits=bits), group_size=GROUP,
                         order=gptq.by_curvature, static_groups=True)

    def time_round(self, width, bits, order):
        self.round(bits, order)

    def track_error(self, width, bits, order):
        if width > 256:
            raise NotImplementedError("at the smaller width")
        return relative_error(self.weight, self.round(bits, order).weight, self.hessian, bits)

    track_error.unit = "of the output error of nearest rounding"
