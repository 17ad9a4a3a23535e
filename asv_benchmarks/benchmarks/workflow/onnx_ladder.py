"""Rungs of the ladder on a file: the digits network in two bits, time and accuracy lost."""

import numpy as np

from benchmarks.common import QUICK, Quality, need
from refquant.interop.onnx_export import export_onnx
from refquant.interop.onnx_float import open_float
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow.onnx_ladder import blame, output_of, rungs_for_file
from refquant.workflow.quantize import observe


class OnnxLadder(Quality):
    params = (["nearest", "clip", "moments", "GPTQ", "AdaRound", "mixed"],)
    param_names = ("impl",)

    def setup(self, impl):
        need("onnx")
        net, data, n = trained_digits_cnn(), digits(), 32 if QUICK else 300
        self.model = open_float(export_onnx(
            net.nodes, net.values, {"x": (np.float32, ("n", 8, 8, 1))}, ["logits"]))
        fit = [{"x": data.x_train[:n]}]
        seen = observe(self.model, fit, rng=np.random.default_rng(0))
        self.rungs = rungs_for_file(self.model, seen, fit, bits=2, output="logits",
                                    rng=np.random.default_rng(0))
        self.judge, self.labels = [{"x": data.x_test[:n]}], data.y_test[:n]

    def right(self, output):
        return float((output.argmax(1) == self.labels).mean())

    def time_rung(self, impl):
        self.rungs[impl]()

    def time_blame(self, impl):
        if impl == "nearest":
            blame(self.model, self.rungs[impl](), self.judge, output="logits", judge=self.right)

    def track_drop(self, impl):
        content = self.rungs[impl]().content
        before, after = (self.right(output_of(self.model, c, self.judge, "logits"))
                         for c in (None, content))
        return max(100 * (before - after), 0.0)

    track_drop.unit = "points of accuracy below float, weights in 2 bits"

    def track_size(self, impl):
        return self.rungs[impl]().size / 1e3

    track_size.unit = "kB of the file"
