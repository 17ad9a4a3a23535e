"""Rows on training with a teacher: 2-bit weights on fixed grids, two epochs, labels or answers."""

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.calibrate import plan
from refquant.apply.distill import TEACHER, taught
from refquant.apply.simulate import ends, static, weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import omse
from refquant.granularity import all_but
from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.models import digits_cnn, predict, with_loss
from refquant.nn.network import Node
from refquant.nn.optimizers import cosine
from refquant.qat.distillation import hinton
from refquant.quantizer import bits_per_element
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

STEPS, BATCH, RATE = 28, 64, 1e-3


class Taught(NamedTuple):
    """What training came to, on the digits not trained on."""

    parameters: Mapping[str, Array]
    bits: float
    accuracy: float
    surprise: float


def lesson_row(subject: Subject, *, name: str, teacher: bool | None) -> Row:
    """Weights rounded, then trained by labels alone (False), or by a teacher too (True)."""
    found = _lesson(subject, teacher)
    row = Row(name, bits=found.bits, accuracy=found.accuracy)
    if teacher is None:
        row = row.claim(f"reads {found.accuracy:.0%} of the digits, not 60 %", found.accuracy < 0.6)
    else:
        before = _lesson(subject, None).surprise
        row = row.claim(f"surprise falls from {before:.2f} to {found.surprise:.2f} nats, to less "
                        "than a third", found.surprise < before / 3)
    if teacher:
        labels = _lesson(subject, False)
        row = row.claim(f"surprise {found.surprise:.3f} is below the {labels.surprise:.3f} of "
                        "labels alone", found.surprise < labels.surprise)
    return row


def resumed_row(subject: Subject, *, name: str) -> Row:
    """The same in two parts."""
    whole, parts = _lesson(subject, False), _trained(subject, False, (STEPS // 3, STEPS))
    same = all(np.array_equal(whole.parameters[k], v) for k, v in parts.parameters.items())
    row = Row(name, bits=parts.bits, accuracy=parts.accuracy)
    return row.claim(f"stopped after {STEPS // 3} steps and resumed, every parameter has the same "
                     "bits", same)


@lru_cache(maxsize=3)
def _lesson(subject: Subject, teacher: bool | None) -> Taught:
    return _trained(subject, teacher, () if teacher is None else (STEPS,))


def _trained(subject: Subject, teacher: bool | None, stops: tuple[int, ...]) -> Taught:
    """The shipped network with 2-bit weights, after training with pauses at `stops`."""
    model, data = subject.model, subject.data
    names = weight_names(model.nodes)
    grids = plan(model.parameters, _fit, names=[n for n in names if n not in ends(names)])
    arrays = {"x": data.x_train, "labels": data.y_train}
    nodes: list[Node] = with_loss(digits_cnn(training=True))
    if teacher:
        arrays[f"{TEACHER}logits"] = predict(model, data.x_train)
        nodes = taught(digits_cnn(training=True), partial(hinton, temperature=4.0))
    batch = shuffled(arrays, BATCH, rng=np.random.default_rng(0))
    state = start(model.parameters, model.statistics)
    for stop in stops:
        state = train(nodes, state, batch, steps=stop, rate=cosine(RATE, STEPS), tap=static(grids))
    tuned = model._replace(parameters=state.parameters, statistics=state.statistics)
    logits = predict(tuned, data.x_test, tap=static(grids))
    sizes = {n: model.parameters[n].size for n in grids}
    bits = sum(sizes[n] * bits_per_element(q, model.parameters[n].shape) for n, q in grids.items())
    return Taught(
        state.parameters, bits / sum(sizes.values()),
        float((logits.argmax(1) == data.y_test).mean()),
        float(softmax_cross_entropy(logits, data.y_test)[0]))


def _fit(weight: Array) -> Uniform:
    return omse(weight, partial(symmetric, bits=2), axis=all_but(0, weight.ndim))


ROWS: list[RowFunction] = [
    partial(lesson_row, name="rounded, not trained", teacher=None),
    partial(lesson_row, name="labels, two epochs", teacher=False),
    partial(resumed_row, name="the same, resumed"),
    partial(lesson_row, name="and a teacher, T = 4", teacher=True),
]
