"""Writing codes into a model: time, and what is left of its bytes."""

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
        self.content = export_onnx(
            model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"])
        self.model = open_float(self.content)
        self.codes = {x.weight: nearest(x.matrix, 4, x.matrix.shape[1]) for x in self.model.layers}

    def time_with_codes(self, impl):
        with_codes(self.model, self.codes)

    def track_bytes_of_weights(self, impl):
        """Codes and scales as they are stored, over the floats that they stand for."""
        written = with_codes(self.model, self.codes)
        return len(written) / len(self.content)

    track_bytes_of_weights.unit = "of the bytes of the float model, whole files"
