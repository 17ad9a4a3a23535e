"""Explain: finding a case among all, and writing its steps."""

from refquant.oracle.explain import explain, find
from refquant.oracle.vectors import cases

from ..common import Benchmark


class Explain(Benchmark):
    def setup(self) -> None:
        self.case = cases("quantize_affine.float32.int8", flag="NearTie")[0]

    def time_find(self) -> None:
        find(self.case.id)

    def time_explain(self) -> None:
        explain(self.case)
