"""Any levels: encoding by binary search, against the same elsewhere and against distances."""

import numpy as np

from benchmarks.common import Benchmark, need, size, weights
from refquant.quantizers.codebook import nearest


class Codebook(Benchmark):
    params = (["refquant", "naive", "torch"], [16, 256])
    param_names = ("impl", "levels")

    def setup(self, impl, levels):
        self.x = weights("gauss", size(100_000))
        self.levels = np.sort(np.random.default_rng(0).normal(size=levels)).astype(np.float32)
        q = nearest(self.levels)
        if impl == "refquant":
            self.run = lambda: q.encode(self.x)
        elif impl == "naive":
            self.run = lambda: np.abs(self.x[:, np.newaxis] - self.levels).argmin(axis=1)
        else:
            torch = need("torch")
            x, t = torch.from_numpy(self.x.copy()), torch.from_numpy(q.thresholds)
            self.run = lambda: torch.bucketize(x, t)

    def time_encode(self, impl, levels):
        self.run()

    def peakmem_encode(self, impl, levels):
        self.run()
