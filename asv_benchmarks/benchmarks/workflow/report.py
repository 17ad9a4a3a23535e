"""The report of a tensor: time, and memory beside the tensor."""

from benchmarks.common import Benchmark, size, weights
from refquant.workflow.report import examine


class Report(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        n = size(1_000_000) // 256
        self.w = weights("laplace", n * 256).reshape(n, 256)

    def time_examine(self, impl):
        examine("w", self.w)

    def peakmem_examine(self, impl):
        examine("w", self.w)
