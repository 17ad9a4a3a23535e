"""Conformance: checking one dialect, and naming the dialect among all."""

from refquant.oracle.adapters import Refquant
from refquant.oracle.conformance import check, identify
from refquant.oracle.vectors import load

from ..common import Benchmark

FILES = ["quantize_affine.float32.int8", "quantize_affine.float32.int4"]


class Conformance(Benchmark):
    params = (FILES,)
    param_names = ("file",)

    def setup(self, name: str) -> None:
        load(name)
        self.adapter = Refquant("onnx")
        check(self.adapter, "onnx", ops=[name])

    def time_check(self, name: str) -> None:
        check(self.adapter, "onnx", ops=[name])

    def time_identify(self, name: str) -> None:
        identify(self.adapter, ops=[name])
