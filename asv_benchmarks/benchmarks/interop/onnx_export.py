"""Writing a network of ours as ONNX."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.interop.onnx_export import export_onnx
from refquant.nn.models import trained_digits_cnn


class OnnxExport(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        need("onnx")
        self.model = trained_digits_cnn()

    def time_export_onnx(self, impl):
        export_onnx(self.model.nodes, self.model.values,
                    {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"])
