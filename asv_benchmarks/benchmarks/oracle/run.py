"""Run: vectors per second, asked and judged; with and without the placement sweep."""

import time
from dataclasses import replace

from refquant.oracle.adapters import Missing, Refquant, load_adapter
from refquant.oracle.run import placed, run
from refquant.oracle.vectors import load

from ..common import QUICK, Benchmark, Quality

INT8, INT2 = "quantize_affine.float32.int8", "quantize_affine.float32.int2"


class Run(Benchmark):
    params = (["refquant", "onnxruntime", "torch.decomposed"], [INT2 if QUICK else INT8])
    param_names = ("impl", "file")

    def setup(self, impl: str, name: str) -> None:
        try:
            self.adapter = Refquant("onnx") if impl == "refquant" else load_adapter(impl)
        except Missing as err:
            raise NotImplementedError(str(err)) from err
        self.file = load(name)
        self.one_group = replace(self.file, groups=self.file.groups[:1])
        self.dialect = "onnx" if impl != "torch.decomposed" else impl

    def time_run(self, impl: str, name: str) -> None:
        list(run(self.adapter, self.file, self.dialect))

    def time_placed(self, impl: str, name: str) -> None:
        list(placed(self.adapter, self.one_group))


class RunRate(Quality):
    """Seconds for a million vectors: the inverse of vectors per second, lower is better."""

    def track_seconds_per_million(self) -> float:
        file, adapter = load(INT8), Refquant("onnx")
        list(run(adapter, file, "onnx"))
        start = time.perf_counter()
        count = len(list(run(adapter, file, "onnx")))
        return (time.perf_counter() - start) / count * 1e6

    track_seconds_per_million.unit = "s per 1e6 vectors"
