"""OBQ: time for a small layer, and output error relative to nearest rounding."""

from benchmarks.common import QUICK, Quality
from benchmarks.ptq._problems import fit, layer, relative_error
from refquant.ptq import obq
from refquant.ptq.gptq import gptq

SIZE = 16 if QUICK else 48


class Obq(Quality):
    params = (["left to right", "cheapest first", "gptq"],)
    param_names = ("order",)

    def setup(self, order):
        self.weight, _, self.hessian = layer(SIZE)

    def round(self, order):
        if order == "gptq":
            return gptq(self.weight, self.hessian, fit).weight
        choose = obq.cheapest_first if order == "cheapest first" else obq.left_to_right
        return obq.obq(self.weight, self.hessian, fit, choose=choose).weight

    def time_round(self, order):
        self.round(order)

    def track_error(self, order):
        return relative_error(self.weight, self.round(order), self.hessian, group_size=SIZE)

    track_error.unit = "of the output error of nearest rounding"
