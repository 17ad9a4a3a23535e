"""Companions of quantization on a network: time of a rewrite, and of training after it."""

from functools import partial

import numpy as np

from benchmarks.common import Benchmark
from refquant.apply import compress, train
from refquant.apply.rewrite import fold_batch_norms
from refquant.compression.deep_compression import share
from refquant.compression.low_rank import factorize
from refquant.compression.pruning import keep_largest
from refquant.nn.models import with_loss
from refquant.nn.small_models import PLAIN, split, trained

NAME = "c3.weight"


def plain(nodes, values):
    return nodes, values, None


def held(nodes, values):
    masks = {NAME: keep_largest(np.abs(values[NAME]), 0.8)}
    return nodes, compress.pruned(values, masks), compress.hold(masks)


def gradual(nodes, values):
    return nodes, values, compress.gradually([NAME], lambda step: 0.8)


def narrowed(nodes, values):
    return nodes, compress.narrowed(nodes, values, {"c2.weight": np.arange(32) < 16}), None


def factored(nodes, values):
    flat = values[NAME].reshape(len(values[NAME]), -1)
    return *compress.factored(nodes, values, {NAME: factorize(flat, 8)}), None


def shared(nodes, values):
    return *compress.with_codebooks(nodes, values, {NAME: share(values[NAME], 15)}), None


class Compress(Benchmark):
    params = (["plain", "held", "gradual", "narrowed", "factored", "shared"],)
    param_names = ("impl",)

    def setup(self, impl):
        model = trained(PLAIN, seed=0)
        self.network = fold_batch_norms(model.nodes, model.values)
        self.rewrite = partial(globals()[impl], *self.network)
        data = split()
        self.batch = {"x": data.x_train[:64], "labels": data.y_train[:64]}
        nodes, self.values, self.after = self.rewrite()
        self.nodes = with_loss(nodes)

    def time_rewrite(self, impl):
        self.rewrite()

    def time_ten_steps(self, impl):
        train.train(self.nodes, train.start(self.values, {}), lambda step: self.batch, steps=10,
                    rate=lambda step: 1e-3, after=self.after)
