"""Opening a float ONNX model, beside reading its weights alone with onnx."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import open_float
from refquant.nn.models import trained_digits_cnn


class OnnxFloat(Benchmark):
    params = (["refquant", "onnx"],)
    param_names = ("impl",)

    def setup(self, impl):
        self.onnx = need("onnx")
        self.run = self.ours if impl == "refquant" else self.theirs
        model = trained_digits_cnn()
        self.content = export_onnx(
            model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"])

    def ours(self):
        return open_float(self.content)

    def theirs(self):
        proto = self.onnx.load_model_from_string(self.content)
        return [self.onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]

    def time_open_float(self, impl):
        self.run()

    def peakmem_open_float(self, impl):
        self.run()
