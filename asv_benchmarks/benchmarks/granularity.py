"""Granularity: views cost nothing; what finer groups buy and what they cost."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.granularity import as_rows, group, ungroup
from refquant.metrics import mse
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.uniform import symmetric

COLUMNS = 1024


def blocks_of(x, granularity):
    if granularity == "tensor":
        return x.reshape(1, -1)
    return x if granularity == "channel" else group(x, int(granularity))


class Granularity(Quality):
    params = (["gauss", "outlier"], ["tensor", "channel", "128", "32"])
    param_names = ("data", "granularity")

    def setup(self, data, granularity):
        rows = size(4_000_000) // COLUMNS
        self.x = weights(data, rows * COLUMNS).reshape(rows, COLUMNS)
        self.blocks = blocks_of(self.x, granularity)
        bound = np.abs(self.blocks).max(-1, keepdims=True)
        self.quantizer = symmetric(bound, bits=4)

    def time_group_and_ungroup(self, data, granularity):
        ungroup(group(self.x, 128))

    def time_rows_of_blocks(self, data, granularity):
        as_rows(self.blocks, axis=-1)

    def peakmem_fake_quantize(self, data, granularity):
        fake_quantize(self.blocks, self.quantizer)

    def track_relative_mse(self, data, granularity):
        noise = mse(self.blocks, fake_quantize(self.blocks, self.quantizer))
        return noise / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"

    def track_bits_per_weight(self, data, granularity):
        return bits_per_element(self.quantizer, self.blocks.shape, float_bits=16)

    track_bits_per_weight.unit = "bits/weight"
