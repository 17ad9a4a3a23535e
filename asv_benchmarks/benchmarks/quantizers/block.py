"""Block formats: time of scale and codes together, and the error per bit."""

from functools import partial

import numpy as np

from benchmarks.common import Quality, need, size, weights
from refquant.granularity import group
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.block import (
    MXINT8_ELEMENT,
    block_floating_point,
    ceil_rule,
    even_rule,
    floor_rule,
    mx,
    nvfp4,
    rceil_rule,
)
from refquant.quantizers.minifloat import E2M1, E2M3, E4M3FN

FITS = {
    "mxfp8": (32, partial(mx, element=E4M3FN)),
    "mxfp6": (32, partial(mx, element=E2M3)),
    "mxint8": (32, partial(mx, element=MXINT8_ELEMENT)),
    "mxfp4": (32, mx),
    "nvfp4": (16, nvfp4),
    "bfp4": (32, partial(block_floating_point, bits=4)),
}
RULES = {"floor": floor_rule, "ceil": ceil_rule, "rceil": rceil_rule, "even": even_rule}


def relative(x, x_hat):
    return mse(x, x_hat) / mse(x, np.zeros_like(x))


class Block(Quality):
    """Fit, encode and decode a million numbers."""

    params = (["refquant", "gguf"], list(FITS), ["gauss", "laplace"])
    param_names = ("impl", "fit", "data")

    def setup(self, impl, fit, data):
        block_size, choose = FITS[fit]
        self.x = group(weights(data, size(2**20) // 32 * 32), block_size)
        if impl == "gguf":
            if fit != "mxfp4":
                raise NotImplementedError("gguf has MXFP4 alone")
            gguf = need("gguf")
            kind = gguf.GGMLQuantizationType.MXFP4
            self.round_trip = lambda: gguf.quants.dequantize(
                gguf.quants.quantize(self.x, kind), kind
            )
        else:
            self.round_trip = lambda: fake_quantize(self.x, choose(self.x))

    def time_round_trip(self, impl, fit, data):
        self.round_trip()

    def peakmem_round_trip(self, impl, fit, data):
        self.round_trip()

    def track_relative_mse(self, impl, fit, data):
        return relative(self.x, self.round_trip())

    track_relative_mse.unit = "fraction of the variance"


class BlockRules(Quality):
    """What the rule for the scale does to the error, in equally many bits."""

    params = (list(RULES), ["E2M1", "E4M3FN"], ["gauss", "laplace"])
    param_names = ("rule", "element", "data")

    def setup(self, rule, element, data):
        x = group(weights(data, size(200_000) // 32 * 32), 32)
        self.x = x
        self.q = mx(x, element={"E2M1": E2M1, "E4M3FN": E4M3FN}[element], rule=RULES[rule])

    def track_relative_mse(self, rule, element, data):
        return relative(self.x, fake_quantize(self.x, self.q))

    track_relative_mse.unit = "fraction of the variance"
