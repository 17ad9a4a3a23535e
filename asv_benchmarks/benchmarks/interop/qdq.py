"""Writing codes into a model."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import open_float
from refquant.interop.qdq import with_codes
from refquant.nn.models import trained_digits_cnn
from refquant.workflow.weights import nearest


class Qdq(Benchmark):
    params = (["refquant"],)
    param_names = ("impl",)

    def setup(self, impl):
        need("onnx")
        model = trained_digits_cnn()
        self.model = open_float(export_onnx(
            model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
        self.codes = {x.weight: nearest(x.matrix, 4, x.matrix.shape[1]) for x in self.model.layers}

    def time_with_codes(self, impl):
        with_codes(self.model, self.codes)
