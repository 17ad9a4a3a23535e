"""Reading .tflite files."""

from refquant.interop.tflite import read_tflite

from ..common import Benchmark
from .tflite_program import content


class Tflite(Benchmark):
    params = (["refquant"], ["resnet8_int8", "kws_ref_model_int8"])
    param_names = ("impl", "model")

    def setup(self, impl: str, model: str) -> None:
        self.data = content(model)

    def time_read(self, impl: str, model: str) -> None:
        read_tflite(self.data)

    def peakmem_read(self, impl: str, model: str) -> None:
        read_tflite(self.data)
