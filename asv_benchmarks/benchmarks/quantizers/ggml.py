"""ggml's block layouts: weights to bytes and back, against gguf-py."""

import numpy as np

from benchmarks.common import Quality, need, size, weights
from refquant.metrics import mse
from refquant.quantizers.ggml import Q4_0, Q8_0, TQ1_0, TQ2_0

LAYOUTS = {"Q4_0": Q4_0, "Q8_0": Q8_0, "TQ1_0": TQ1_0, "TQ2_0": TQ2_0}


class Ggml(Quality):
    """A million Gaussian weights in rows of 1024."""

    params = (["refquant", "gguf"], list(LAYOUTS))
    param_names = ("impl", "layout")

    def setup(self, impl, layout):
        n = size(2**20) // 1024
        self.x = weights("gauss", n * 1024).reshape(n, 1024)
        if impl == "gguf":
            gguf = need("gguf")
            kind = gguf.GGMLQuantizationType[layout]
            self.pack = lambda: gguf.quants.quantize(self.x, kind)
            self.unpack = lambda: gguf.quants.dequantize(self.data, kind)
        else:
            self.pack = lambda: LAYOUTS[layout].pack(self.x)
            self.unpack = lambda: LAYOUTS[layout].unpack(self.data)
        self.data = self.pack()

    def time_pack(self, impl, layout):
        self.pack()

    def time_unpack(self, impl, layout):
        self.unpack()

    def peakmem_pack(self, impl, layout):
        self.pack()

    def track_relative_mse(self, impl, layout):
        return mse(self.x, self.unpack()) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"

    def track_bits_per_weight(self, impl, layout):
        return self.data.size * 8 / self.x.size

    track_bits_per_weight.unit = "bits"
