"""An archive of a pruned layer with shared weights: bytes and time, beside zip of the floats."""

import io

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.compression import deep_compression
from refquant.compression.huffman import huffman
from refquant.compression.pruning import keep_largest


class DeepCompression(Quality):
    """A fifth of the weights is left; the zip holds the same values."""

    params = (["huffman", "fixed width", "zip"],)
    param_names = ("impl",)

    def setup(self, impl):
        w = weights("gauss", size(200_000))
        self.shared = deep_compression.share(w * keep_largest(np.abs(w), 0.8), 15)
        self.prefix = huffman if impl == "huffman" else deep_compression.fixed_width
        self.data = self.write(impl)

    def write(self, impl):
        if impl != "zip":
            return deep_compression.write({"w": self.shared}, prefix=self.prefix)
        file = io.BytesIO()
        np.savez_compressed(file, w=self.shared.weight)
        return file.getvalue()

    def time_write(self, impl):
        self.write(impl)

    def time_read(self, impl):
        if impl == "zip":
            np.load(io.BytesIO(self.data))["w"].sum()
        else:
            deep_compression.read(self.data)["w"].weight.sum()

    def track_bits(self, impl):
        return 8 * len(self.data) / self.shared.codes.size

    track_bits.unit = "bits a weight"
