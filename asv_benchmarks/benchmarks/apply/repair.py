"""Repairs of five small networks whose weights have 4 bits per tensor: mistakes, and time."""

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.apply.repair import (
    correct_biases,
    correct_biases_without_data,
    correct_moments,
    equalize,
    norm_statistics,
)
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.nn.network import run
from refquant.nn.small_models import SEPARABLE, split, trained
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric

METHODS = ["none", "empirical", "moments", "analytic", "equalized", "equalized, empirical"]


class Repair(Quality):
    params = (METHODS,)
    param_names = ("method",)

    def setup(self, method):
        self.data = split()
        self.models = [trained(SEPARABLE, seed=seed) for seed in range(1 if QUICK else 5)]

    def repaired(self, model, method):
        nodes, values = fold_batch_norms(model.nodes, model.values)
        statistics = norm_statistics(model.nodes, model.values)
        if method.startswith("equalized"):
            values, statistics = equalize(nodes, values, statistics)[:2]
        names = set(weight_names(nodes))
        q = {n: fake_quantize(v, symmetric(absmax(v), bits=4)) if n in names else v
             for n, v in values.items()}
        if method.endswith("empirical"):
            q = correct_biases(nodes, values, q, {"x": self.data.x_train[:256]})
        if method == "moments":
            q = correct_moments(nodes, values, q, {"x": self.data.x_train[:256]})
        if method == "analytic":
            q = correct_biases_without_data(nodes, values, q, statistics)
        return nodes, q

    def time_repair(self, method):
        self.repaired(self.models[0], method)

    def track_error_rate(self, method):
        wrong = []
        for model in self.models:
            nodes, values = self.repaired(model, method)
            logits = run(nodes, {"x": self.data.x_test, **values}).values["logits"]
            wrong.append((logits.argmax(1) != self.data.y_test).mean())
        return 100 * float(np.mean(wrong))

    track_error_rate.unit = "% of the test images, mean of the networks"
