"""A Huffman stream of a million codes, code and all, beside zlib's Huffman coding alone."""

import bz2
import zlib
from functools import partial

import numpy as np

from benchmarks.common import Benchmark, share_of_time, size
from refquant.compression.huffman import huffman
from refquant.kernels import prefix_code

SPREAD = {"8 bits": 20, "4 bits": 3}


def refquant(codes):
    return huffman(codes).encode(codes).data


def bit_by_bit(codes):
    code = huffman(codes)
    symbols = codes.astype(np.int64) - code.low
    return prefix_code.encode_bit_by_bit(symbols, code._words(), code.lengths)


def zlib_huffman(codes):
    work = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return work.compress(codes.tobytes()) + work.flush()


IMPL = {
    "refquant": refquant,
    "bit by bit": bit_by_bit,
    "zlib": zlib_huffman,
    "bz2": lambda codes: bz2.compress(codes.tobytes()),
}


class PrefixCode(Benchmark):
    """Gaussian codes of a spread that fills about so many bits."""

    params = (list(IMPL), list(SPREAD))
    param_names = ("impl", "spread")

    def setup(self, impl, spread):
        drawn = np.random.default_rng(0).normal(size=size(2**20)) * SPREAD[spread]
        codes = np.clip(np.rint(drawn), -128, 127).astype(np.int8)
        self.call, self.ours = partial(IMPL[impl], codes), partial(refquant, codes)

    def time_encode(self, impl, spread):
        self.call()

    def peakmem_encode(self, impl, spread):
        self.call()

    def track_time_of_refquant_over_this(self, impl, spread):
        """Time over that of `impl`, side by side."""
        return share_of_time(self.ours, self.call)

    track_time_of_refquant_over_this.unit = "ratio"
