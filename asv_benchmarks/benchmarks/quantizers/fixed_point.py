"""Fixed point: what a power of two for a scale costs in time and in error."""

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.fixed_point import covering
from refquant.quantizers.uniform import symmetric

FITS = {
    "refquant": lambda bound, bits: covering(float(bound), total_bits=bits),
    "free scale": lambda bound, bits: symmetric(bound, bits=bits),
}


class FixedPoint(Quality):
    """A million numbers; the free scale is what integers with a stored scale reach."""

    params = (list(FITS), [8, 16], ["gauss", "laplace"])
    param_names = ("impl", "bits", "data")

    def setup(self, impl, bits, data):
        self.x = weights(data, size(1_000_000))
        self.q = FITS[impl](np.abs(self.x).max(), bits)

    def time_fake_quantize(self, impl, bits, data):
        fake_quantize(self.x, self.q)

    def peakmem_fake_quantize(self, impl, bits, data):
        fake_quantize(self.x, self.q)

    def track_relative_mse(self, impl, bits, data):
        return mse(self.x, fake_quantize(self.x, self.q)) / mse(self.x, np.zeros_like(self.x))

    track_relative_mse.unit = "fraction of the variance"
