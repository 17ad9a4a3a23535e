"""Bits for channels of different width: model noise over that of equal bits."""

import numpy as np

from benchmarks.common import Benchmark
from refquant.calibration.bit_allocation import channel_bits, channel_levels, water_filling

RULES = {
    "equal": lambda bounds, bits: np.full(bounds.shape, float(bits)),
    "levels": lambda bounds, bits: np.log2(channel_levels(bounds, bits=bits)),
    "rounded": lambda bounds, bits: channel_bits(bounds, bits=bits),
    "bits": lambda bounds, bits: water_filling(bounds, bits=bits),
}


class BitAllocation(Benchmark):
    params = (list(RULES), [2, 4])
    param_names = ("rule", "bits")

    def setup(self, rule, bits):
        self.bounds = np.exp(np.random.default_rng(0).standard_normal(1024))

    def time_rule(self, rule, bits):
        RULES[rule](self.bounds, bits)

    def track_noise_over_equal_bits(self, rule, bits):
        noise = self.bounds**2 / 4.0 ** RULES[rule](self.bounds, bits)
        return float(noise.sum() / (self.bounds**2 / 4.0**bits).sum())

    def track_bits_per_channel(self, rule, bits):
        return float(np.mean(RULES[rule](self.bounds, bits)))

    track_noise_over_equal_bits.unit = "ratio"
    track_bits_per_channel.unit = "bits"
