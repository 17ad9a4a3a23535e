"""Something in front of every layer of the character model: what the extra pass costs."""

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.apply import inputs
from refquant.apply.simulate import weight_names
from refquant.nn.network import run
from refquant.nn.text import text_data, trained_text_model
from refquant.ptq.outlier_channel_splitting import split_channels
from refquant.ptq.rotation import hadamard


class Inputs(Benchmark):
    params = (["nothing", "divide", "repeat", "rotate"],)
    param_names = ("in_front",)

    def setup(self, in_front):
        self.model = trained_text_model()
        self.x = text_data().x_test[: 16 if QUICK else 4096]
        names = weight_names(self.model.nodes)[1:]
        weights = {name: self.model.values[name] for name in names}
        self.change = {
            "nothing": {},
            "divide": {n: np.ones(w.shape[1], np.float32) for n, w in weights.items()},
            "repeat": {n: split_channels(w, w.shape[1] // 20) for n, w in weights.items()},
            "rotate": {n: hadamard(w.shape[1]) for n, w in weights.items()},
        }[in_front]
        self.rewrite = getattr(inputs, in_front, inputs.divide)
        self.made = self.rewrite(self.model.nodes, self.model.values, self.change)

    def time_rewrite(self, in_front):
        self.rewrite(self.model.nodes, self.model.values, self.change)

    def time_run(self, in_front):
        run(self.made.nodes, {"x": self.x, **self.made.values})
