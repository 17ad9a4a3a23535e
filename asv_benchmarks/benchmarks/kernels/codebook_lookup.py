"""Encoding without a search: tables and integer adds against searches and logarithms."""

import numpy as np

from benchmarks.common import Benchmark, need, share_of_time, size, weights
from refquant.kernels.codebook_lookup import encode_lookup, encode_power_of_two, lookup_table
from refquant.quantizers.codebook import nearest
from refquant.quantizers.power_of_two import log_nearest


class CodebookLookup(Benchmark):
    """`naive` is the binary search of NumPy."""

    params = (["refquant", "naive", "torch"], [16, 256])
    param_names = ("impl", "levels")

    def setup(self, impl, levels):
        x = weights("gauss", size(10_000_000))
        q = nearest(np.linspace(-3, 3, levels).astype(np.float32))
        thresholds = q.thresholds.astype(np.float32)
        table = lookup_table(q)
        self.ours = lambda: encode_lookup(x, table)
        if impl == "refquant":
            self.run = self.ours
        elif impl == "naive":
            self.run = lambda: np.searchsorted(thresholds, x)
        else:
            torch = need("torch")
            torch.set_num_threads(1)
            data, bounds = torch.from_numpy(x.copy()), torch.from_numpy(thresholds)
            self.run = lambda: torch.bucketize(data, bounds)

    def time_encode(self, impl, levels):
        self.run()

    def peakmem_encode(self, impl, levels):
        self.run()

    def track_time_of_refquant_over_this(self, impl, levels):
        """Time over that of `impl`, side by side."""
        return share_of_time(self.ours, self.run)

    track_time_of_refquant_over_this.unit = "ratio"


class EncodePowerOfTwo(Benchmark):
    """`naive` splits with frexp, torch takes a logarithm."""

    params = (["refquant", "naive", "torch"],)
    param_names = ("impl",)

    def setup(self, impl):
        x = weights("gauss", size(10_000_000))
        q = log_nearest(np.array(4.0, np.float32), bits=4)
        if impl == "refquant":
            self.run = lambda: encode_power_of_two(x, q)
        elif impl == "naive":
            self.run = lambda: q.encode(x)
        else:
            torch = need("torch")
            torch.set_num_threads(1)
            data = torch.from_numpy(x.copy())
            self.run = lambda: data.sign() * data.abs().log2().round().clamp(-5, 2).exp2()

    def time_encode(self, impl):
        self.run()
