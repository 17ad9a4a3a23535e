"""Rows on training: weights and activations in 2 bits, the first and the last layer in 8."""

from functools import lru_cache, partial

import numpy as np

from refquant._types import Array
from refquant.apply.calibrate import collect
from refquant.apply.learned import (
    Make,
    Prepared,
    fixed_grid,
    insert,
    keep_valid,
    lsq_activation,
    lsq_weight,
)
from refquant.apply.norms import evaluation
from refquant.apply.simulate import ends, input_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import omse
from refquant.nn.models import Model, accuracy, digits_cnn, with_loss
from refquant.nn.optimizers import cosine
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

BITS, STEPS = 2, 50


def trained_row(subject: Subject, *, name: str, makes: tuple[Make, Make], steps: int) -> Row:
    """The network from its calibrated plan, after so many steps."""
    weights, inputs = _plans(subject)
    net = Prepared(with_loss(digits_cnn(training=True)), subject.model.parameters)
    for plan, make in zip((weights, inputs), makes, strict=True):
        net = insert(*net, plan, make)
    parameters, statistics = net.parameters, subject.model.statistics
    if steps:
        data = {"x": subject.data.x_train, "labels": subject.data.y_train}
        state = train(
            net.nodes, start(parameters, statistics),
            shuffled(data, 64, rng=np.random.default_rng(0)), steps=steps,
            rate=cosine(3e-3, steps), factors=_pace, after=keep_valid)
        parameters, statistics = state.parameters, state.statistics
    model = Model(evaluation(net.nodes), parameters, statistics)
    judged = accuracy(model, subject.data.x_test, subject.data.y_test)
    row = Row(name, bits=_bits(subject, weights), accuracy=judged)
    if not steps:
        return row.claim(f"reads {100 * judged:.0f} %, at most 30", judged <= 0.3)
    before = _untrained(subject)
    return row.claim(
        f"{steps} steps gain {100 * (judged - before):.0f} points, at least 50",
        judged - before >= 0.5)


@lru_cache(maxsize=1)
def _untrained(subject: Subject) -> float:
    """Accuracy of the plan as calibration found it."""
    return trained_row(subject, name="", makes=(fixed_grid, fixed_grid), steps=0).accuracy


@lru_cache(maxsize=1)
def _plans(subject: Subject) -> tuple[dict[str, Uniform], dict[str, Uniform]]:
    """Grids of least squared error, one for each weight and each input of a layer."""
    model, images = subject.model, subject.data.x_train[:256]
    seen = collect(model.nodes, model.values, [{"x": images}], names=input_names(model.nodes))
    weights = {n: model.parameters[n] for n in subject.weight_names}
    outer = {*ends(list(weights)), *ends(list(seen))}
    return ({n: _of_weight(w, 8 if n in outer else BITS) for n, w in weights.items()},
            {n: _of_input(x, 8 if n in outer else BITS) for n, x in seen.items()})


def _of_weight(w: Array, bits: int) -> Uniform:
    return omse(w, partial(symmetric, bits=bits, narrow=False), candidates=40)


def _of_input(x: Array, bits: int) -> Uniform:
    q = omse(x, lambda bound: asymmetric(0 * bound, bound, bits=bits), candidates=40)
    return Uniform(q.scale.reshape(1), q.zero_point.reshape(1), q.qmin, q.qmax)


def _pace(name: str) -> float:
    """Steps are smaller numbers than weights, and learn at a third of their rate."""
    return 0.3 if name.endswith(".scale") else 1.0


def _bits(subject: Subject, plan: dict[str, Uniform]) -> float:
    """Mean bits of a weight, with its share of the scale."""
    sizes = {n: subject.model.parameters[n].size for n in plan}
    total = sum(q.code_bits * sizes[n] + q.parameter_bits() for n, q in plan.items())
    return total / sum(sizes.values())


ROWS: list[RowFunction] = [
    partial(trained_row, name="calibrated, not trained", makes=(fixed_grid, fixed_grid), steps=0),
    partial(trained_row, name="straight through", makes=(fixed_grid, fixed_grid), steps=STEPS),
    partial(trained_row, name="LSQ", makes=(lsq_weight, lsq_activation), steps=STEPS),
]
