"""Rows on training without data: a plain network in 2-bit weights and 4-bit activations."""

from functools import lru_cache, partial

import numpy as np

from refquant._types import Array
from refquant.apply import _experiment_zero_shot as experiment
from refquant.quantizer import bits_per_element
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

BITS, IMAGES, STEPS = (2, 4), 64, 100


@lru_cache(maxsize=1)
def _network() -> experiment.Subject:
    return experiment.Subject.make("plain", 0)


@lru_cache(maxsize=1)
def _bits() -> float:
    """Per weight, the steps counted."""
    network = _network()
    plan = experiment.weight_plan(network, BITS[0])
    shapes = [network.folded.values[name].shape for name in plan]
    return float(np.average([bits_per_element(q, shape) for q, shape in
                             zip(plan.values(), shapes, strict=True)],
                            weights=[np.prod(shape) for shape in shapes]))


@lru_cache(maxsize=4)
def _images(kind: str) -> Array:
    if kind == "noise":
        return _network().noise(IMAGES)
    if kind == "real":
        return _network().real(IMAGES)
    return _network().distilled("batch", steps=STEPS, count=IMAGES)


@lru_cache(maxsize=8)
def _accuracy(kind: str, steps: int) -> float:
    return experiment.tuned(_network(), _images(kind), BITS, steps=steps)


def tuned_row(
    subject: Subject, *, name: str, images: str, steps: int = STEPS, gain: float = 0
) -> Row:
    """Trained on some images to say what the float network says; `gain` over noise."""
    row = Row(name, bits=_bits(), source="(a plain net)", accuracy=_accuracy(images, steps))
    if gain:
        more = row.accuracy - _accuracy("noise", steps)
        row = row.claim(f"reads {more:.1%} more than after noise, at least {gain:.0%}",
                        more >= gain)
    return row


ROWS: list[RowFunction] = [
    partial(tuned_row, name="not trained", images="noise", steps=0),
    partial(tuned_row, name="trained on noise", images="noise"),
    partial(tuned_row, name="trained on distilled", images="distilled", gain=0.1),
    partial(tuned_row, name="trained on real images", images="real", gain=0.1),
]
