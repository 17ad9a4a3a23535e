"""Training in few bits: a step of each kind over a step in floats, side by side."""

from functools import partial

import numpy as np

from benchmarks.common import QUICK, Quality, share_of_time
from refquant.apply.low_precision import (
    cast_gradients,
    fp8,
    initial_integers,
    integer_network,
    integer_sgd,
    stored_sgd,
)
from refquant.apply.train import SGD, start, train
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, initial_parameters, initial_statistics, with_loss
from refquant.quantizers.fixed_point import FixedPoint

STEPS = 1 if QUICK else 10


def half(g):
    return g.astype(np.float16).astype(g.dtype)


def run(nodes, optimizer, parameters, statistics, batch):
    state = start(parameters, statistics, optimizer)
    return partial(train, with_loss(nodes), state, lambda step: batch, steps=STEPS,
                   rate=lambda step: 0.01, optimizer=optimizer)


class LowPrecision(Quality):
    params = (["refquant"], ["stored in 8 bits", "FP16 gradients", "FP8", "integers"])
    param_names = ("impl", "kind")

    def track_step_over_float(self, impl, kind):
        data, size = digits(), 8 if QUICK else 64
        batch = {"x": data.x_train[:size], "labels": data.y_train[:size]}
        p, s = initial_parameters(rng=np.random.default_rng(0)), initial_statistics()
        net = digits_cnn(training=True)
        runs = {
            "float": run(net, SGD, p, s, batch),
            "stored in 8 bits": run(net, stored_sgd(FixedPoint(8, 7), seed=0), p, s, batch),
            "FP16 gradients": run(cast_gradients(net, half), SGD, p, s, batch),
            "FP8": run(fp8(net, keep=("stem.conv", "logits")), SGD, p, s, batch),
            "integers": run(integer_network(), integer_sgd(seed=0),
                            initial_integers(rng=np.random.default_rng(0)), {}, batch),
        }
        return share_of_time(runs[kind], runs["float"])

    track_step_over_float.unit = "of the time of a float step of the digits network"
