"""Ten layers with losses that add up, so that the best policy is known exactly."""

import numpy as np

from benchmarks.common import QUICK
from refquant.mixed_precision.environment import (
    LayerShape,
    additive_cost,
    layer_states,
    make_environment,
)
from refquant.mixed_precision.search import search

CHOICES = np.arange(2, 9)
SIZES = np.array([144, 2304, 2304, 144, 512, 9216, 9216, 288, 2048, 640])    # of the digits CNN
WORTH = np.exp(np.random.default_rng(0).normal(0, 2, 10))
EVALUATIONS = 40 if QUICK else 300


def environment(average=3):
    cost = additive_cost(CHOICES, np.outer(SIZES, CHOICES))
    return make_environment(CHOICES, cost, slots=10, budget=average * int(SIZES.sum()))


def states():
    return layer_states([LayerShape(s in (144, 288), 16, 16, 1, 3, int(s), 64) for s in SIZES])


def loss(bits):
    return float(WORTH @ 4.0 ** -np.asarray(bits))


def best_loss(average=3):
    """By dynamic programming over the spent budget, in units of 16 weights."""
    room = average * int(SIZES.sum()) // 16
    best = np.zeros(room + 1)
    for size, worth in zip(SIZES // 16, WORTH, strict=True):
        after = np.full(room + 1, np.inf)
        for bits in CHOICES:
            spent = int(size * bits)
            after[spent:] = np.minimum(after[spent:], best[: room + 1 - spent]
                                       + worth * 4.0 ** -int(bits))
        best = after
    return float(best[room])


def excess(make, seeds=(0, 1, 2)):
    """Mean loss of what an agent finds, over the least possible, minus 1."""
    found = [search(make(), lambda bits: -loss(bits), evaluations=EVALUATIONS,
                    rng=np.random.default_rng(seed)) for seed in seeds]
    return float(np.mean([-f.reward for f in found])) / best_loss() - 1


def steps(agent, count=EVALUATIONS):
    """Questions and answers alone: the search without the network."""
    search(agent, lambda bits: -loss(bits), evaluations=count, rng=np.random.default_rng(0))
