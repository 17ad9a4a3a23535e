"""All weights of a small network learn their roundings from 128 images: time, and mistakes."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Quality
from refquant.apply.reconstruct import reconstruct
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.mse import omse
from refquant.nn.network import run
from refquant.nn.small_models import SEPARABLE, split, trained
from refquant.ptq.adaround import adaround
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import symmetric


def nearest(layer):
    return fake_quantize(layer.weight, omse(layer.weight, partial(symmetric, bits=3), axis=1))


def learned(layer):
    grid = omse(layer.weight, partial(symmetric, bits=3), axis=1)
    return adaround(layer.weight, layer.x, layer.target, grid, rng=np.random.default_rng(0),
                    bias=layer.bias, activation=layer.activation, steps=5 if QUICK else 500,
                    rate=0.03).weight


METHODS = {"nearest": nearest, "adaround": learned}


class Reconstruct(Quality):
    params = (list(METHODS),)
    param_names = ("method",)

    def setup(self, method):
        self.data, model = split(), trained(SEPARABLE)
        self.nodes, self.values = fold_batch_norms(model.nodes, model.values)
        self.images = self.data.x_train[: 16 if QUICK else 128]

    def replaced(self, method):
        return reconstruct(self.nodes, self.values, {"x": self.images}, METHODS[method],
                           names=weight_names(self.nodes))

    def time_network(self, method):
        self.replaced(method)

    def track_error_rate(self, method):
        inputs = {"x": self.data.x_test, **self.replaced(method)}
        logits = run(self.nodes, inputs).values["logits"]
        return 100 * float((logits.argmax(1) != self.data.y_test).mean())

    track_error_rate.unit = "% of the test images, 3 bits"
