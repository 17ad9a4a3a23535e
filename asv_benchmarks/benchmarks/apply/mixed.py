"""Sensitivities of the digits network: a table of divergences against traces of Hessians."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Benchmark
from refquant.apply import mixed
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.nn.data import digits
from refquant.nn.models import with_loss
from refquant.nn.replicas import replica
from refquant.quantizers.uniform import symmetric

IMAGES, SAMPLES = (8, 1) if QUICK else (256, 4)


class Mixed(Benchmark):
    """Per layer: six runs from the layer on, or four samples of two gradients each."""

    params = (["divergences", "traces"],)
    param_names = ("table",)

    def setup(self, table):
        model, data = replica(0), digits(seed=0)
        self.nodes, self.names = with_loss(model.nodes), weight_names(model.nodes)
        self.values = {**model.values, "x": data.x_train[:IMAGES], "labels": data.y_train[:IMAGES]}
        fits = [partial(self.fit, bits=bits) for bits in (2, 3, 4, 5, 6, 8)]
        self.weights = mixed.candidates(model.values, self.names, fits)

    def fit(self, w, bits):
        return symmetric(absmax(w), bits=bits)

    def time_table(self, table):
        if table == "divergences":
            mixed.divergences(self.nodes, self.values, self.names, self.weights)
        else:
            mixed.traces(self.nodes, self.values, self.names, rng=np.random.default_rng(0),
                         samples=SAMPLES)
