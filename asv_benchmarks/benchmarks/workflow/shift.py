"""Does a range still hold: time and memory, beside scipy's distance of distributions alone."""

import numpy as np

from benchmarks.common import Benchmark, size
from refquant.calibration.dynamic import per_tensor
from refquant.workflow.shift import Answers, fall, shift

N = size(1_000_000)


class Shift(Benchmark):
    params = (["refquant", "scipy"],)
    param_names = ("impl",)

    def setup(self, impl):
        rng = np.random.default_rng(0)
        self.reference, self.now = (rng.normal(size=N).astype(np.float32) for _ in range(2))
        self.quantizer = per_tensor(self.reference, bits=8)
        self.run = self.ours if impl == "refquant" else self.theirs

    def ours(self):
        return shift(self.reference, self.now, self.quantizer)

    def theirs(self):
        from scipy.stats import ks_2samp

        return ks_2samp(self.reference, self.now, method="asymp")

    def time_activation(self, impl):
        self.run()

    def peakmem_activation(self, impl):
        self.run()


class Fall(Benchmark):
    params = ([1000, 10_000],)
    param_names = ("n",)

    def setup(self, n):
        rng = np.random.default_rng(0)
        self.pairs = []
        for right in (0.95, 0.8):
            labels = rng.integers(0, 10, n)
            exact, coarse = (np.where(rng.random(n) < right, labels, rng.integers(0, 10, n))
                             for _ in range(2))
            self.pairs.append(Answers(labels, exact, coarse))

    def time_answers(self, n):
        fall(*self.pairs, rng=np.random.default_rng(0))
