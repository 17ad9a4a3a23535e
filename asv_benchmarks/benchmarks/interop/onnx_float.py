"""Opening a float ONNX model."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import open_float
from refquant.nn.models import trained_digits_cnn


class OnnxFloat(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        need("onnx")
        model = trained_digits_cnn()
        self.content = export_onnx(
            model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"])

    def time_open_float(self, impl):
        open_float(self.content)
