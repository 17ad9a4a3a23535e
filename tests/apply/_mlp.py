"""The digits MLP of the experiments: 64-128-128-10, trained in a second."""

from functools import lru_cache
from itertools import pairwise

import numpy as np

from refquant.apply.train import shuffled, start, train
from refquant.nn.models import with_loss
from refquant.nn.network import Node, run
from refquant.nn.operations import linear, relu
from refquant.nn.optimizers import cosine
from refquant.nn.small_models import split

DATA = split()
X_TRAIN, X_TEST = (x.reshape(len(x), -1) for x in (DATA.x_train, DATA.x_test))
LAYERS = ("fc1.weight", "fc2.weight", "fc3.weight")
NODES = [
    Node("h1", linear, ("x", "fc1.weight", "fc1.bias")), Node("r1", relu, ("h1",)),
    Node("h2", linear, ("r1", "fc2.weight", "fc2.bias")), Node("r2", relu, ("h2",)),
    Node("logits", linear, ("r2", "fc3.weight", "fc3.bias")),
]


def initial(rng, sizes=(64, 128, 128, 10)):
    values = {}
    for i, (n, out) in enumerate(pairwise(sizes), 1):
        weight = rng.standard_normal((out, n)) * (2 / n) ** 0.5
        values |= {f"fc{i}.weight": weight.astype(np.float32),
                   f"fc{i}.bias": np.zeros(out, np.float32)}
    return values


def fit(values, rng, *, x=X_TRAIN, y=DATA.y_train, nodes=NODES, steps=600, rate=3e-3, after=None):
    batch = shuffled({"x": x, "labels": y}, 64, rng=rng)
    state = start(values, {})
    return train(with_loss(nodes), state, batch, steps=steps, rate=cosine(rate, steps),
                 after=after).parameters


@lru_cache
def trained(seed):
    rng = np.random.default_rng(seed)
    return fit(initial(rng), rng)


def accuracy(values, nodes=NODES):
    logits = run(nodes, {"x": X_TEST, **values}).values["logits"]
    return float((logits.argmax(1) == DATA.y_test).mean())
