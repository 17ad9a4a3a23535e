"""Labels against teachers: ``python -m refquant.apply._experiment_distillation``.

A narrow student (8, 16, 32 channels) with weights and activations of 2 or 3 bits, a wide float
teacher (32, 64, 128), both trained in float first: 25 epochs of Adam, batch 64, rate 0.003 falling
to 0 on a cosine. Then 24 epochs of the student with LSQ quantizers, from the same start, with the
same batches and rates for every method. Stem and last layer have 8 bits and fixed grids: a step
of 1/255 does not survive a rate of 0.003. The table is ``experiment_distillation.csv`` beside this
file. The same code, machine and BLAS give the same bytes; another order of summation anywhere in
them moves a row by a few images.
"""

import argparse
import csv
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.calibrate import collect
from refquant.apply.distill import TEACHER, enrolled, qkd, taught
from refquant.apply.learned import fixed_grid, insert, keep_valid, lsq_activation, lsq_weight
from refquant.apply.simulate import ends, input_names, weight_names
from refquant.apply.train import Batch, State, shuffled, start, train
from refquant.calibration.mse import omse
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn.data import Split, digits
from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import (
    Model,
    digits_cnn,
    initial_parameters,
    initial_statistics,
    predict,
    with_loss,
)
from refquant.nn.network import Node
from refquant.nn.optimizers import Schedule, constant, cosine
from refquant.qat.distillation import hinton
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric

__all__ = ["LESSONS", "RATES", "ROWS", "TABLE", "Class", "Score", "classroom", "measure",
           "read_table"]

TABLE = Path(__file__).with_name("experiment_distillation.csv")
SEEDS, BATCH, SHOWN = 5, 64, 256
EPOCH = 14                              # steps
FLOAT_STEPS, STEPS = 25 * EPOCH, 24 * EPOCH
PHASE = STEPS // 3
HEADER = ["bits", "rate", "method", "seed", "accuracy", "nll"]


class Class(NamedTuple):
    """What all lessons of one seed share."""

    data: Split
    student: Model
    teacher: Model
    batch: Batch
    seen: dict[str, Array]


class Pupil(NamedTuple):
    """A student with quantizers: to train, and to run."""

    training: list[Node]
    evaluation: list[Node]
    parameters: dict[str, Array]


class Score(NamedTuple):
    """On the half of the digits not trained on."""

    accuracy: float
    nll: float


def classroom(seed: int, teacher: Model | None = None) -> Class:
    """A student and a wide teacher, unless one is given, and batches with the teacher's logits."""
    data = digits(seed=seed)
    arrays = {"x": data.x_train, "labels": data.y_train}
    student = _trained(8, arrays, seed)
    teacher = _trained(32, arrays, seed) if teacher is None else teacher
    arrays |= {f"{TEACHER}logits": predict(teacher, data.x_train)}
    seen = collect(student.nodes, student.values, [{"x": data.x_train[:SHOWN]}],
                   names=input_names(student.nodes))
    batch = shuffled(arrays, BATCH, rng=np.random.default_rng([seed, 1]))
    return Class(data, student, teacher, batch, seen)


def _trained(width: int, arrays: dict[str, Array], seed: int) -> Model:
    """The float network of one width."""
    rng = np.random.default_rng([seed, width])
    batch = shuffled(arrays, BATCH, rng=rng)
    begin = start(initial_parameters(rng=rng, width=width), initial_statistics(width=width))
    end = train(with_loss(digits_cnn(training=True)), begin, batch, steps=FLOAT_STEPS,
                rate=cosine(3e-3, FLOAT_STEPS))
    return Model(digits_cnn(), end.parameters, end.statistics)


def pupil(at: Class, bits: int) -> Pupil:
    """The student with LSQ quantizers that start at the least squared error."""
    def weight(w: Array, b: int) -> Uniform:
        return omse(w, partial(symmetric, bits=b, narrow=False), candidates=80)

    def activation(x: Array, b: int) -> Uniform:
        return _flat(omse(x, lambda top: asymmetric(0 * top, top, bits=b), candidates=80))

    weights = {name: at.student.parameters[name] for name in weight_names(at.student.nodes)}
    edges = {n: weight(weights[n], 8) for n in ends([*weights])}
    edges |= {n: activation(at.seen[n], 8) for n in ends([*at.seen])}
    weight_plan = {n: weight(w, bits) for n, w in weights.items() if n not in edges}
    input_plan = {n: activation(x, bits) for n, x in at.seen.items() if n not in edges}

    def quantized(nodes: list[Node]) -> tuple[list[Node], dict[str, Array]]:
        inside = insert(nodes, at.student.parameters, edges, fixed_grid)
        inside = insert(*inside, weight_plan, lsq_weight)
        return insert(*inside, input_plan, lsq_activation)

    training, parameters = quantized(digits_cnn(training=True))
    return Pupil(training, quantized(digits_cnn())[0], parameters)


def _flat(quantizer: Uniform) -> Uniform:
    """One step for any number of axes."""
    return Uniform(quantizer.scale.reshape(1), quantizer.zero_point.reshape(1), quantizer.qmin,
                   quantizer.qmax)


def _long(step: int) -> float:
    """0.001 for two thirds of the steps, then down to 0 on a cosine."""
    flat = 2 * PHASE
    return constant(1e-3)(step) if step < flat else cosine(1e-3, STEPS - flat)(step - flat)


RATES: dict[str, Schedule] = {"0.001, long": _long, "0.003, cosine": cosine(3e-3, STEPS)}

#: A lesson: class, pupil, rate, steps of all phases together -> the state at the end.
Lesson = Callable[[Class, Pupil, Schedule, int], State]


def _labels(at: Class, one: Pupil, rate: Schedule, steps: int) -> State:
    return _one_loss(with_loss(one.training), at, one, rate, steps)


def _teacher(
    at: Class, one: Pupil, rate: Schedule, steps: int, *, temperature: float, alone: int = 0
) -> State:
    """Labels and the teacher's answers, after `alone` steps with labels only."""
    loss = partial(hinton, alpha=0.1, beta=0.9, temperature=temperature)
    state = start(one.parameters, at.student.statistics)
    loop = partial(train, batch=at.batch, rate=rate, after=keep_valid)
    if alone:
        state = loop(with_loss(one.training), state, steps=min(alone, steps))
    return loop(taught(one.training, loss), state, steps=steps)


def _one_loss(
    nodes: list[Node], at: Class, one: Pupil, rate: Schedule, steps: int
) -> State:
    state = start(one.parameters, at.student.statistics)
    return train(nodes, state, at.batch, steps=steps, rate=rate, after=keep_valid)


def _qkd(at: Class, one: Pupil, rate: Schedule, steps: int) -> State:
    def batch(step: int) -> dict[str, Array]:           # the teacher answers for itself
        return {k: v for k, v in at.batch(step).items() if not k.startswith(TEACHER)}

    state = enrolled(one.parameters, at.student.statistics, at.teacher)
    return qkd(one.training, digits_cnn(training=True), digits_cnn(), state, batch,
               ends=(steps // 3, 2 * steps // 3, steps), rate=rate, temperature=2.0, pace=0.1,
               loop=partial(train, after=keep_valid))


LESSONS: dict[str, Lesson] = {
    "labels": _labels,
    "teacher, T=1": partial(_teacher, temperature=1.0),
    "teacher, T=4": partial(_teacher, temperature=4.0),
    "labels, then teacher": partial(_teacher, temperature=4.0, alone=PHASE),
    "QKD": _qkd,
}
ROWS = [
    *((2, "0.001, long", lesson) for lesson in LESSONS),
    *((2, "0.003, cosine", lesson) for lesson in ("labels", "teacher, T=4")),
    *((3, "0.001, long", lesson) for lesson in ("labels", "teacher, T=4", "QKD")),
]


def measure(at: Class, bits: int, rate: str, lesson: str, *, steps: int = STEPS) -> Score:
    """Accuracy and mean surprise of the pupil after one lesson."""
    one = pupil(at, bits)
    state = LESSONS[lesson](at, one, RATES[rate], steps)
    return _judged(Model(one.evaluation, state.parameters, state.statistics), at.data)


def _judged(model: Model, data: Split) -> Score:
    logits = predict(model, data.x_test)
    loss, _ = softmax_cross_entropy(logits, data.y_test)
    return Score(float((logits.argmax(1) == data.y_test).mean()), float(loss))


def table(seeds: range) -> Iterator[list[str]]:
    """All rows, those of the float networks first."""
    for seed in seeds:
        at = classroom(seed)
        floats = {"float student": at.student, "float teacher": at.teacher}
        scores = [((32, "0.003, cosine", n), _judged(m, at.data)) for n, m in floats.items()]
        for row, score in [*scores, *((row, measure(at, *row)) for row in ROWS)]:
            yield [*map(str, row), str(seed), f"{score.accuracy:.4f}", f"{score.nll:.4f}"]


def read_table(path: Path = TABLE) -> dict[tuple[int, str, str], dict[int, Score]]:
    """Scores by seed of each row of a table."""
    found: dict[tuple[int, str, str], dict[int, Score]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            row = int(r["bits"]), r["rate"], r["method"]
            score = Score(float(r["accuracy"]), float(r["nll"]))
            found.setdefault(row, {})[int(r["seed"])] = score
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure all rows and write the table."""
    from rich.progress import Progress
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Labels against teachers, on the digits.")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, SEEDS), metavar=("FROM", "TO"))
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows = []
    with threadpool_limits(1), Progress() as bar:
        seeds = range(*options.seeds)
        task = bar.add_task("seeds", total=len(seeds) * (len(ROWS) + 2))
        for row in table(seeds):
            rows.append(row)
            write_whole(options.out, table_bytes(HEADER, rows))     # whole at any time
            bar.advance(task)
    for of, scores in read_table(options.out).items():
        a, n = (np.array([getattr(s, k) for s in scores.values()]) for k in Score._fields)
        spread = math.sqrt(a.var(ddof=1)) if len(a) > 1 else 0.0
        print(f"{of!s:45} {100 * a.mean():5.1f} +- {100 * spread:.1f}   nll {n.mean():.3f}")


if __name__ == "__main__":
    main()
