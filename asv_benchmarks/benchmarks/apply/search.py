"""Judging a policy on the digits network, and one step of a supernet beside a plain one."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark, share_of_time
from refquant.apply import search
from refquant.apply.simulate import weight_names
from refquant.mixed_precision.differentiable import cost_sum
from refquant.nn.data import digits
from refquant.nn.models import digits_cnn, with_loss
from refquant.nn.network import backward, run
from refquant.nn.replicas import replica
from refquant.quantizers.uniform import symmetric

CHOICES = np.arange(2, 9)


def _fit(weight, bits):
    return symmetric(np.abs(weight).max(), bits=bits)


class Search(Benchmark):
    def setup(self):
        model, data = replica(0), digits(seed=0)
        names = weight_names(model.nodes)
        versions = search.weight_versions(model.parameters, names, CHOICES, _fit)
        self.judge = search.judge(model, versions, CHOICES, data.x_train[:256],
                                  partial(search.negative_loss, labels=data.y_train[:256]))
        quantizers = {n: [_fit(model.parameters[n], int(b)) for b in CHOICES] for n in names}
        costs = search.weight_costs(model.parameters, names, CHOICES)
        self.plain = with_loss(digits_cnn(training=True))
        self.mixed = search.supernet(digits_cnn(training=True), quantizers, costs / 26816,
                                     partial(cost_sum, weight=0.1))
        images = {"x": data.x_train[:64], "labels": data.y_train[:64]}
        batch = search.noisy(*[lambda step: images] * 2, names, CHOICES, lambda step: 1.0,
                             rng=np.random.default_rng(0))
        self.values = {**batch(0), **model.values, **search.supernet_logits(names, CHOICES)}

    def time_judge_256_images(self):
        self.judge(CHOICES[np.arange(10) % 7])

    def track_step_of_the_supernet_over_a_plain_one(self):
        return share_of_time(*(lambda n=nodes: backward(run(n, self.values), {"loss": 1.0})
                               for nodes in (self.mixed, self.plain)))

    track_step_of_the_supernet_over_a_plain_one.unit = "ratio"
