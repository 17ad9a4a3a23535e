"""Rows on mixed precision: the digits network in 4 bits a weight on average, shared out."""

from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant.apply.mixed import candidates, divergences, sizes, traces
from refquant.apply.simulate import weight_names
from refquant.calibration.mse import omse
from refquant.metrics import sqnr
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.pareto import dynamic_program
from refquant.mixed_precision.rate_distortion import by_price
from refquant.mixed_precision.sensitivity import weighted_error
from refquant.nn.models import predict, with_loss
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

BITS, AVERAGE, IMAGES = (2, 3, 4, 5, 6, 8), 4, 64


class _Tables(NamedTuple):
    names: list[str]
    weights: list[list[Array]]
    size: Array
    limit: int
    divergence: Array
    curvature: Array


def mixed_row(subject: Subject, *, name: str, measured: bool, method: str) -> Row:
    """One allocation, put into the network."""
    made = _tables(subject)
    loss = made.divergence if measured else made.curvature
    choice = _choice(method, loss, made)
    rows = np.arange(len(choice))
    chosen = {n: made.weights[i][choice[i]] for i, n in enumerate(made.names)}

    def tap(value_name: str, value: Array) -> Array:
        return chosen.get(value_name, value)

    images = subject.data.x_test
    exact = predict(subject.model, images)
    logits = predict(subject.model, images, tap=tap)
    spent, lost = int(made.size[rows, choice].sum()), float(loss[rows, choice].sum())
    row = Row(
        name,
        bits=AVERAGE * spent / made.limit,
        sqnr=sqnr(exact, logits),
        source="(of the logits)",
        accuracy=float((logits.argmax(1) == subject.data.y_test).mean()),
    )
    if method == "uniform":
        return row
    same = float(loss[:, BITS.index(AVERAGE)].sum())
    row = row.claim(f"loses {lost / same:.2f} of what uniform bits lose in its own table, in no "
                    "more bits", lost <= same and spent <= made.limit)
    if method == "program":
        best = dynamic_program(loss, made.size, made.limit)
        least = float(loss[rows, best].sum())
        row = row.claim("integer program and dynamic program agree",
                        abs(lost - least) <= 1e-6 * float(loss.max()))
    return row


@lru_cache(maxsize=1)
def _tables(subject: Subject) -> _Tables:
    """Candidates, and what they cost and lose, once for all rows."""
    model = subject.model
    names = weight_names(model.nodes)
    fits = [partial(_fit, bits=bits) for bits in BITS]
    weights, size = candidates(model.values, names, fits), sizes(model.values, names, BITS)
    values = {**model.values, "x": subject.data.x_train[:IMAGES],
              "labels": subject.data.y_train[:IMAGES]}
    original = [model.values[name] for name in names]
    found = traces(with_loss(model.nodes), values, names, rng=np.random.default_rng(0), samples=2)
    mean = [of_layer.trace / w.size for of_layer, w in zip(found, original, strict=True)]
    return _Tables(names, weights, size, AVERAGE * int(size[:, 0].sum()) // BITS[0],
                   divergences(model.nodes, values, names, weights),
                   weighted_error(original, weights, mean))


def _fit(weight: Array, bits: int) -> Uniform:
    return omse(weight, partial(symmetric, bits=bits, narrow=False))


def _choice(method: str, loss: Array, made: _Tables) -> Codes:
    if method == "uniform":
        return np.full(len(loss), BITS.index(AVERAGE), np.int32)
    if method == "price":
        return by_price(loss, made.size, made.limit)
    return allocate(loss, [Budget("size", made.size, made.limit)]).choice


ROWS: list[RowFunction] = [
    partial(mixed_row, name="4 bits everywhere", measured=True, method="uniform"),
    partial(mixed_row, name="by curvature (HAWQ-V2)", measured=False, method="program"),
    partial(mixed_row, name="by divergence (ZeroQ)", measured=True, method="program"),
    partial(mixed_row, name="the same, by price", measured=True, method="price"),
]
