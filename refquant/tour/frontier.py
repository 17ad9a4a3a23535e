"""Rows on the frontier: points drawn by an exact score with a rounded state, bits by input."""

import time
from functools import lru_cache, partial

import numpy as np

from refquant._types import Array
from refquant.apply.cascade import cascade, margin, threshold_for
from refquant.apply.loop import per_step
from refquant.calibration.mse import omse
from refquant.nn.denoiser import noise_left, sampling_steps
from refquant.nn.mixture import flow, ring
from refquant.nn.network import run
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.rounding import stochastic
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

FEW, MANY, BITS = 20, 160, 8


def reach(t: int) -> float:
    """A centre of the ring, and five deviations around it."""
    left = float(noise_left(t))
    return float(left**0.5 + 5 * (left * ring().std ** 2 + 1 - left) ** 0.5)


@lru_cache(maxsize=4)
def grids(count: int) -> dict[int, Uniform]:
    """A grid for each step of a walk, the widest first."""
    return {t: symmetric(np.array(reach(t)), bits=BITS) for t in sampling_steps(count).tolist()}


@lru_cache(maxsize=16)
def typical_error(count: int, kind: str) -> float:
    """Median distance of 100 points from where floats would take them in as many steps."""
    noise = np.random.default_rng(0).standard_normal((100, 2))
    made, rng = grids(count), np.random.default_rng(1)
    widest = next(iter(made.values()))
    if kind == "at random":
        def tap(name: str, value: Array) -> Array:
            rounding = partial(stochastic, rng=rng)
            return (widest.decode(widest.encode(value, rounding=rounding)) if name == "state"
                    else value)

        drawn = flow(ring(), noise, count=count, tap=tap)
    else:
        looped = per_step({t: {"state": q if kind == "own grids" else widest}
                           for t, q in made.items()})
        drawn = flow(ring(), noise, count=count, tap=looped.tap, watch=looped.watch)
    exact = flow(ring(), noise, count=count)
    return float(np.median(np.linalg.norm(drawn - exact, axis=1)))


def flow_row(subject: Subject, *, count: int, kind: str) -> Row:
    """A walk from noise to a ring of Gaussians, by a formula, with a state of eight bits."""
    begun = time.perf_counter()
    error = typical_error(count, kind)
    row = Row(f"{count} steps, {kind}", bits=BITS, seconds=time.perf_counter() - begun)
    if kind == "own grids":
        return row.claim("a grid for each step takes two fifths off the error",
                         error < 0.6 * typical_error(count, "nearest"))
    if kind == "at random":
        return row.claim("rounding at random halves the error of nearest",
                         error < 0.5 * typical_error(count, "nearest"))
    if count == FEW:
        return row.claim("points end within a third of their scatter", error < ring().std / 3)
    return row.claim("more steps than the grid can follow lose more",
                     error > 4 * typical_error(FEW, "nearest"))


def cascade_row(subject: Subject) -> Row:
    """Four bits where they are sure, eight where not; chosen on one half, judged on the other."""
    data = subject.data
    begun = time.perf_counter()
    low, high = (partial(_logits, subject, _weights(subject, bits)) for bits in (4, 8))
    first, second = low(data.x_test[::2]), high(data.x_test[::2])
    threshold = threshold_for(margin(first), first.argmax(1) == second.argmax(1), at_most=0.01)
    x, y = data.x_test[1::2], data.y_test[1::2]
    answers = cascade(x, low, high, threshold=threshold)
    right = float((answers.logits.argmax(1) == y).mean())
    differ = float((answers.logits.argmax(1) != high(x).argmax(1)).mean())
    row = Row("4 bits, 8 where unsure", bits=answers.mean_bits(4, 8), accuracy=right,
              seconds=time.perf_counter() - begun)
    return (row.claim("reads fewer bits than 8 for everything", row.bits < 8)
            .claim("answers as 8 bits do in 95 of 100", differ <= 0.05))


def _weights(subject: Subject, bits: int) -> dict[str, Array]:
    fit = partial(symmetric, bits=bits, narrow=False)
    return {name: fake_quantize(w, omse(w, fit)) for name in subject.weight_names
            for w in [subject.model.parameters[name]]}


def _logits(subject: Subject, weights: dict[str, Array], x: Array) -> Array:
    values = {**subject.model.values, **weights, "x": x}
    return run(subject.model.nodes, values).values["logits"]


ROWS: list[RowFunction] = [
    partial(flow_row, count=FEW, kind="nearest"),
    partial(flow_row, count=FEW, kind="own grids"),
    partial(flow_row, count=MANY, kind="nearest"),
    partial(flow_row, count=MANY, kind="at random"),
    cascade_row,
]
