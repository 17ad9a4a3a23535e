"""The digits network read back from its file: time to read, and of a run beside that of ours."""

import numpy as np

from benchmarks.common import QUICK, Benchmark, need
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import open_float
from refquant.interop.onnx_import import import_onnx
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.nn.network import run


class OnnxImport(Benchmark):
    params = (["own", "imported"],)
    param_names = ("impl",)

    def setup(self, impl):
        need("onnx")
        net = trained_digits_cnn()
        self.model = open_float(export_onnx(
            net.nodes, net.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
        made = net if impl == "own" else import_onnx(self.model)
        self.nodes = made.nodes
        self.values = {"x": digits().x_test[: 8 if QUICK else 64], **made.values}

    def time_import(self, impl):
        import_onnx(self.model)

    def time_run(self, impl):
        run(self.nodes, self.values)
