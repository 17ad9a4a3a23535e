"""Rows on searches: the digits network within three bits per weight, a width for each layer."""

import time
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.search import judge, negative_loss, weight_costs, weight_versions
from refquant.calibration.mse import optimal_scale
from refquant.mixed_precision.cross_entropy import cross_entropy
from refquant.mixed_precision.environment import Environment, additive_cost, make_environment
from refquant.mixed_precision.local_search import local_search
from refquant.mixed_precision.search import Evaluate, search
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

CHOICES, AVERAGE = np.arange(2, 9, dtype=np.int32), 3


class Game(NamedTuple):
    """The network with every width, what policies may cost, and what they earn."""

    versions: dict[str, list[Array]]
    environment: Environment
    reward: Evaluate


@lru_cache(maxsize=1)
def game(subject: Subject) -> Game:
    """Rewards are minus the loss on 128 images of the training half."""
    model, data, names = subject.model, subject.data, subject.weight_names
    versions = weight_versions(
        model.parameters, names, CHOICES,
        lambda w, bits: optimal_scale(w, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1))
    costs = weight_costs(model.parameters, names, CHOICES)
    environment = make_environment(CHOICES, additive_cost(CHOICES, costs), slots=len(names),
                                   budget=float(AVERAGE * costs[:, 0].sum() / CHOICES[0]))
    score = partial(negative_loss, labels=data.y_train[:128])
    return Game(versions, environment,
                judge(model, versions, CHOICES, data.x_train[:128], score))


def searched_row(subject: Subject, *, name: str, method: str) -> Row:
    """What the best policy of a search leaves of the network."""
    versions, environment, reward = game(subject)
    uniform = np.full(environment.slots, AVERAGE, np.int32)
    begun, bits = time.perf_counter(), uniform
    if method != "uniform":
        agent = (local_search if method == "local" else cross_entropy)(environment)
        bits = search(agent, reward, evaluations=150, rng=np.random.default_rng(0)).policy
    seconds = time.perf_counter() - begun
    weights = {n: kinds[b - 2] for (n, kinds), b in zip(versions.items(), bits, strict=True)}
    cost = environment.cost(bits)
    row = Row(name, bits=AVERAGE * cost / environment.budget, seconds=seconds,
              accuracy=subject.accuracy(lambda n, value: weights.get(n, value)))
    row = row.claim("costs no more than three bits per weight", cost <= environment.budget)
    if method == "local":           # it begins there
        row = row.claim("loses no more than equal bits do", reward(bits) >= reward(uniform))
    return row


ROWS: list[RowFunction] = [
    partial(searched_row, name="3 bits everywhere", method="uniform"),
    partial(searched_row, name="local search, 150 policies", method="local"),
    partial(searched_row, name="cross-entropy, 150 policies", method="cross-entropy"),
]
