"""Adapters: what asking in bits costs, per library; one array of many cases."""

import numpy as np

from refquant.oracle.adapters import Missing, load_adapter
from refquant.oracle.vectors import bits

from ..common import Benchmark, size, weights

IMPLS = ["refquant", "onnxruntime", "onnx.reference", "torch.fbgemm", "torch.decomposed"]
TYPES = {"x": "float32", "q": "int8"}
GRID = {"scale": bits(np.array(0.0235, np.float32)), "zero_point": 3, "qmin": -128, "qmax": 127,
        "granularity": "per_tensor"}


class Adapters(Benchmark):
    params = (IMPLS,)
    param_names = ("impl",)

    def setup(self, impl: str) -> None:
        try:
            self.adapter = load_adapter(impl)
        except Missing as err:
            raise NotImplementedError(str(err)) from err
        self.inputs = {"x": bits(weights("gauss", size(100_000)))}
        self.time_run(impl)                     # a session is built once

    def time_run(self, impl: str) -> None:
        self.adapter.run("quantize_affine", TYPES, GRID, self.inputs)
