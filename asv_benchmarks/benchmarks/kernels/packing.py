"""Packing codes: time against a plain copy of the same bytes, and bits a code."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, need, share_of_time, size
from refquant.kernels import packing

N = size(100_000_000)


def _naive(codes, bits):
    per = 8 // bits
    fields = codes.reshape(-1, per) << np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(fields, axis=1)


def _torch(codes, bits):
    torch = need("torch")
    per = 8 // bits
    t = torch.from_numpy(codes)
    packed = t[::per].clone()
    for i in range(1, per):
        packed |= t[i::per] << i * bits
    return packed


IMPL = {
    "refquant": lambda codes, bits: packing.pack(codes, bits=bits),
    "naive": _naive,
    "copy": lambda codes, bits: codes.copy(),
    "torch": _torch,
}


class Packing(Benchmark):
    params = (list(IMPL), [1, 2, 4])
    param_names = ("impl", "bits")

    def setup(self, impl, bits):
        if impl == "torch":
            need("torch").set_num_threads(1)
        self.codes = np.random.default_rng(0).integers(0, 2**bits, N, dtype=np.uint8)
        self.packed = packing.pack(self.codes, bits=bits)

    def time_pack(self, impl, bits):
        IMPL[impl](self.codes, bits)

    def peakmem_pack(self, impl, bits):
        IMPL[impl](self.codes, bits)

    def time_unpack(self, impl, bits):
        if impl == "refquant":
            packing.unpack(self.packed, N, bits=bits)
        elif impl == "copy":
            self.codes.copy()
        else:
            shifts = np.arange(0, 8, bits, dtype=np.uint8)
            (self.packed[:, np.newaxis] >> shifts & 2**bits - 1).reshape(-1)

    def track_time_of_refquant_over_this(self, impl, bits):
        """Time to pack over that of `impl`, side by side; `copy` copies the unpacked bytes."""
        ours = partial(IMPL["refquant"], self.codes, bits)
        return share_of_time(ours, partial(IMPL[impl], self.codes, bits))

    track_time_of_refquant_over_this.unit = "ratio"

    def track_bits_per_code(self, impl, bits):
        return packing.pack(self.codes[:4000], bits=bits).size * 8 / 4000

    track_bits_per_code.unit = "bits"
