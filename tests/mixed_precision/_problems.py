"""Small separable problems whose best policy can be found by looking at all of them."""

import itertools

import numpy as np

from refquant.mixed_precision.environment import additive_cost, make_environment

CHOICES = [2, 4, 8]


def problem(seed, slots=4):
    """An environment, and a reward that is a sum over slots, growing with the bits."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 20, slots)
    gains = np.sort(rng.random((slots, len(CHOICES))), axis=1)
    budget = int(sizes.sum() * rng.uniform(2.2, 7))
    env = make_environment(
        CHOICES, additive_cost(CHOICES, np.outer(sizes, CHOICES)), slots=slots, budget=budget)

    def reward(bits):
        return float(gains[np.arange(slots), np.searchsorted(CHOICES, bits)].sum())

    return env, reward


def best_by_enumeration(env, reward):
    policies = map(np.array, itertools.product(CHOICES, repeat=env.slots))
    return max(reward(bits) for bits in policies if env.cost(bits) <= env.budget)
