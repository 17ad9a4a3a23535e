"""A teacher where labels are few: ``python -m refquant.apply._experiment_few_labels``.

A teacher of 64-128-128-10 has seen the labels of all 1,297 digits. Its student, 64-16-10, has

==================  ====================================================================
100 labels          images and labels of a hundred
answers             all images, and what the teacher says about them at T = 4; no label
all labels          all images and labels: what there is to be reached
labels and answers  both, weighed 0.1 and 0.9
==================  ====================================================================

and narrower ones, of 8 and 4 hidden units, the last two. Every lesson has the same start, steps
and rates (1200 of Adam, batches of 64, 0.01 falling to 0 on a cosine; chosen on seeds 10 to 14).
The table, ``few_labels.csv`` beside this file, takes a minute.
"""

import argparse
import csv
from collections.abc import Mapping
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant.apply.distill import TEACHER, taught
from refquant.apply.train import shuffled, start, train
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn.models import Model, predict, with_loss
from refquant.nn.network import Node
from refquant.nn.operations import linear, relu
from refquant.nn.optimizers import cosine
from refquant.nn.small_models import split
from refquant.qat.distillation import hinton

__all__ = ["LESSONS", "SEEDS", "TABLE", "measure", "read_table"]

TABLE = Path(__file__).with_name("few_labels.csv")
FIELDS = ["lesson", "units", "seed", "accuracy"]
SEEDS, FEW, BATCH = range(5), 100, 64
STEPS, RATE = 1200, 1e-2
TEACHER_STEPS, TEACHER_RATE = 600, 3e-3

#: Lesson -> hidden units of the students that get it.
LESSONS = {
    "100 labels": (16,),
    "answers": (16,),
    "all labels": (16, 8, 4),
    "labels and answers": (16, 8, 4),
}


def perceptron(sizes: tuple[int, ...]) -> list[Node]:
    """Linear layers with ReLU between them, from ``x`` to ``logits``."""
    nodes, source = [], "x"
    for i in range(1, len(sizes)):
        last = i == len(sizes) - 1
        name = "logits" if last else f"h{i}"
        nodes.append(Node(name, linear, (source, f"fc{i}.weight", f"fc{i}.bias")))
        if not last:
            nodes.append(Node(f"r{i}", relu, (name,)))
            source = f"r{i}"
    return nodes


def initial(sizes: tuple[int, ...], rng: np.random.Generator) -> dict[str, Array]:
    """Weights of variance 2 / inputs, biases of zero."""
    values: dict[str, Array] = {}
    for i, (n, out) in enumerate(pairwise(sizes), 1):
        weight = rng.standard_normal((out, n)) * (2 / n) ** 0.5
        values |= {f"fc{i}.weight": weight.astype(np.float32),
                   f"fc{i}.bias": np.zeros(out, np.float32)}
    return values


@lru_cache(maxsize=1)
def images() -> tuple[Array, Array, Array, Array]:
    """Rows of pixels and labels, to train on and to judge by."""
    data = split()
    x_train, x_test = (x.reshape(len(x), -1) for x in (data.x_train, data.x_test))
    return x_train, data.y_train, x_test, data.y_test


def trained(
    nodes: list[Node], sizes: tuple[int, ...], arrays: Mapping[str, Array], seed: int, *,
    steps: int, rate: float
) -> Model:
    """A network of these sizes; `nodes` has its loss."""
    rng = np.random.default_rng([seed, *sizes])
    begin = start(initial(sizes, rng), {})
    batch = shuffled(arrays, BATCH, rng=rng)
    state = train(nodes, begin, batch, steps=steps, rate=cosine(rate, steps))
    return Model(perceptron(sizes), state.parameters, {})


@lru_cache(maxsize=1)
def teacher_of(seed: int) -> tuple[Model, Array]:
    """The teacher, and its logits for all images."""
    sizes = (64, 128, 128, 10)
    x, y, _, _ = images()
    made = trained(with_loss(perceptron(sizes)), sizes, {"x": x, "labels": y}, seed,
                   steps=TEACHER_STEPS, rate=TEACHER_RATE)
    return made, predict(made, x)


def student_of(lesson: str, units: int, seed: int, *, steps: int = STEPS) -> Model:
    """The student after one lesson."""
    sizes = (64, units, 10)
    x, y, _, _ = images()
    arrays, nodes = {"x": x, "labels": y}, with_loss(perceptron(sizes))
    if lesson == "100 labels":
        few = np.random.default_rng([seed, FEW]).permutation(len(x))[:FEW]
        arrays = {"x": x[few], "labels": y[few]}
    elif lesson != "all labels":
        share = 0.1 if lesson == "labels and answers" else 0.0
        nodes = taught(perceptron(sizes),
                       partial(hinton, alpha=share, beta=1 - share, temperature=4.0))
        arrays |= {f"{TEACHER}logits": teacher_of(seed)[1]}
    return trained(nodes, sizes, arrays, seed, steps=steps, rate=RATE)


def judged(model: Model) -> float:
    """Accuracy on the 500 digits not trained on."""
    _, _, x, y = images()
    return float((predict(model, x).argmax(1) == y).mean())


def measure(lesson: str, units: int, seed: int) -> dict[str, str]:
    """One row of the table; the lesson "teacher" is the teacher itself."""
    made = teacher_of(seed)[0] if lesson == "teacher" else student_of(lesson, units, seed)
    row = (lesson, units, seed, f"{judged(made):.3f}")
    return {field: str(value) for field, value in zip(FIELDS, row, strict=True)}


def read_table(path: Path = TABLE) -> dict[tuple[str, int], Array]:
    """Accuracy by seed for each lesson and width."""
    found: dict[tuple[str, int], list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["lesson"], int(row["units"])), []).append(float(row["accuracy"]))
    return {key: np.array(scores) for key, scores in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """All rows into a file; it is replaced when the table is whole."""
    from rich.progress import track
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="A teacher where labels are few.")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, nargs=2, default=(SEEDS.start, SEEDS.stop),
                        metavar=("FROM", "TO"))
    options = parser.parse_args(arguments)
    lessons = [("teacher", 128), *((n, units) for n, widths in LESSONS.items() for units in widths)]
    cases = [(*lesson, seed) for seed in range(*options.seeds) for lesson in lessons]
    with threadpool_limits(1):
        found = [measure(*case) for case in track(cases, "measuring")]
    write_whole(options.out, table_bytes(FIELDS, ([row[f] for f in FIELDS] for row in found)))


if __name__ == "__main__":
    main()
