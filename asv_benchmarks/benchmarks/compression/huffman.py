"""Huffman coding of quantized values: bits above the entropy, and time, against zlib."""

import zlib

import numpy as np

from benchmarks.common import Quality, size, weights
from refquant.compression.huffman import entropy, huffman
from refquant.quantizers.uniform import symmetric


class Huffman(Quality):
    """zlib with Huffman coding only: no search for repetitions."""

    params = (["refquant", "zlib"], [4, 8])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        x = weights("gauss", size(200_000))
        self.codes = symmetric(np.abs(x).max(), bits=bits).encode(x)
        self.small = self.codes.astype(np.int8).tobytes()
        self.pack, self.unpack = self.pair(impl)
        self.packed = self.pack()

    def pair(self, impl):
        if impl == "refquant":
            def pack():
                code = huffman(self.codes)
                return code, code.encode(self.codes)
            return pack, lambda: self.packed[0].decode(self.packed[1])

        def deflate():
            work = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
            return work.compress(self.small) + work.flush()
        return deflate, lambda: zlib.decompress(self.packed, -15)

    def time_encode(self, impl, bits):
        self.pack()

    def time_decode(self, impl, bits):
        self.unpack()

    def track_excess_bits(self, impl, bits):
        """Bits a symbol above the entropy."""
        stored = len(self.packed) if impl == "zlib" else len(self.packed[1].data)
        counts = np.bincount(self.codes - self.codes.min())
        return stored * 8 / self.codes.size - entropy(counts)

    track_excess_bits.unit = "bits"
