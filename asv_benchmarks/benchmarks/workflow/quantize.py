"""A float ONNX model to a QDQ model, all layers."""

import numpy as np

from benchmarks.common import Benchmark, need
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import open_float
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow.quantize import observe, quantize_layers
from refquant.workflow.weights import by_gptq, nearest

METHODS = {"nearest": nearest, "gptq": by_gptq}


class Quantize(Benchmark):
    params = (list(METHODS),)
    param_names = ("impl",)

    def setup(self, impl):
        need("onnx")
        model = trained_digits_cnn()
        self.model = open_float(export_onnx(
            model.nodes, model.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
        self.seen = observe(self.model, [{"x": digits().x_train[:64]}],
                            rng=np.random.default_rng(0))

    def time_quantize_layers(self, impl):
        quantize_layers(self.model, METHODS[impl], bits=dict.fromkeys(self.seen, 4),
                        group_size=None, seen=self.seen)
