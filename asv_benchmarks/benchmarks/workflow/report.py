"""The report of a tensor: time, and memory beside the tensor; of several, by jobs."""

from joblib import parallel_config

from benchmarks.common import Benchmark, size, weights
from refquant.workflow.report import examine, examine_all
from refquant.workflow.tensors import Stored


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


class ReportAll(Benchmark):
    params = (["threading"], [1, 2])
    param_names = ("impl", "jobs")

    def setup(self, impl, jobs):
        n = size(250_000) // 256
        w = weights("laplace", n * 256).reshape(n, 256)
        self.stored = [Stored(f"w{i}", w.shape, lambda: w) for i in range(8)]

    def time_examine_all(self, impl, jobs):
        with parallel_config(impl, n_jobs=jobs):
            examine_all(self.stored)

    def peakmem_examine_all(self, impl, jobs):
        self.time_examine_all(impl, jobs)
