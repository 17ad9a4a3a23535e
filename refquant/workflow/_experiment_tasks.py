"""What the same bits cost different tasks: writes the table of the book's chapter.

``python -m refquant.workflow._experiment_tasks`` takes some minutes on one core. Weights alone are
rounded, a scale per output channel, by the largest weight or by least squared error.

========  =======================================================  =========================
task      network                                                  an answer that looks not
========  =======================================================  =========================
digit     `PLAIN`, the digits as they are                          one of ten
canvas    256-128-64-10, the digit somewhere on a canvas           one of ten
place     256-128-64-4, the *same* canvases: the box of the digit  the mean box
found     as place, but right is a box that overlaps by half       the mean box
letter    `trained_text_model`, the next character                 how often each occurs
drawing   `trained_denoiser`, digits out of noise                  the noise itself
========  =======================================================  =========================

``canvas`` and ``place`` differ in nothing but the question, ``place`` and ``found`` in nothing but
the judge; so the three tell the task from the network. Of the first four there are five networks;
of the last two one ships, and the five repetitions are five stretches of text and five draws of
noise.
"""

import argparse
import csv
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from refquant._types import Array
from refquant.apply._experiment_few_labels import initial, perceptron
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.minmax import absmax
from refquant.calibration.mse import omse
from refquant.granularity import all_but
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn.denoiser import sample, trained_denoiser
from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.models import Model
from refquant.nn.network import Node, Op, run
from refquant.nn.optimizers import cosine
from refquant.nn.small_models import PLAIN, split, trained
from refquant.nn.text import bits_per_character, text_data, trained_text_model
from refquant.quantizer import Fit, Quantizer
from refquant.quantizers.uniform import symmetric
from refquant.workflow.tasks import Placed, degradation, kept, overlap, placed, squared_error

__all__ = ["BITS", "RULES", "SEEDS", "TABLE", "TASKS", "Task", "frechet", "measure", "rows"]

TABLE = Path(__file__).with_name("tasks.csv")
FIELDS = ["task", "rule", "seed", "chance", "float", "bits", "score", "kept"]
SEEDS, BITS = range(5), (8, 7, 6, 5, 4, 3, 2)
SIDE, COPIES, STEPS, BATCH, RATE = 16, 8, 2000, 64, 3e-3
CHARACTERS, IMAGES, COUNT, HALF = 4000, 400, 20, 0.5


def by_largest(weight: Array, bits: int) -> Quantizer:
    """The largest weight of a channel is the largest code."""
    return symmetric(absmax(weight, axis=all_but(0, weight.ndim)), bits=bits)


def by_least_error(weight: Array, bits: int) -> Quantizer:
    """The bound of a channel has least squared error."""
    return omse(weight, partial(symmetric, bits=bits), axis=all_but(0, weight.ndim))


class Rule(Protocol):
    """A quantizer of so many bits for a weight."""

    def __call__(self, weight: Array, bits: int) -> Quantizer: ...


RULES: dict[str, Rule] = {"largest": by_largest, "least error": by_least_error}


class Task(NamedTuple):
    """A network, what it is judged by, and the score of an answer that does not look."""

    nodes: list[Node]
    values: dict[str, Array]
    score: Callable[[dict[str, Array]], float]
    chance: float


def digit(seed: int) -> Task:
    model, data = trained(PLAIN, seed=seed), split()
    nodes, values = fold_batch_norms(model.nodes, model.values)
    return Task(nodes, values, partial(share_right, nodes, data.x_test, data.y_test), 0.1)


def canvas(seed: int) -> Task:
    """Which digit, wherever it is."""
    data, (_, seen) = split(), canvases(seed)
    nodes, values = taught(seed, 10, softmax_cross_entropy)
    return Task(nodes, values, partial(share_right, nodes, flat(seen), data.y_test), 0.1)


def place(seed: int, judge: Callable[[Array], Array] = lambda share: share) -> Task:
    """Where, whichever digit it is: the mean of what `judge` makes of the overlaps."""
    some, seen = canvases(seed)
    nodes, values = taught(seed, 4, squared_error)

    def score(v: dict[str, Array]) -> float:
        boxes = run(nodes, {"x": flat(seen), **v}).values[nodes[-1].name]
        return float(judge(overlap(boxes, seen.boxes)).mean())

    middle = np.repeat(some.boxes.mean(0, keepdims=True), len(seen.boxes), 0)
    return Task(nodes, values, score, float(judge(overlap(middle, seen.boxes)).mean()))


def found(seed: int) -> Task:
    """Share of boxes that would count as found."""
    return place(seed, lambda share: share >= HALF)


def letter(seed: int) -> Task:
    """Bits per character on the stretch of text with this number."""
    text, model = text_data(), trained_text_model()
    part = slice(seed * CHARACTERS, (seed + 1) * CHARACTERS)
    x, y = text.x_test[part], text.y_test[part]
    often = np.bincount(text.y_train, minlength=int(text.y_test.max()) + 1) + 1
    return Task(model.nodes, model.values,
                lambda v: bits_per_character(Model(model.nodes, v, {}), x, y),
                float(-np.log2(often / often.sum())[y].mean()))


def drawing(seed: int) -> Task:
    """Distance of what is drawn from digits, both as Gaussians of pixels."""
    model, data = trained_denoiser(), split()
    digits = 2 * data.x_train.reshape(-1, 64) - 1
    noise = np.random.default_rng(seed).standard_normal((IMAGES, 64), np.float32)
    return Task(model.nodes, model.values,
                lambda v: frechet(digits, sample(Model(model.nodes, v, {}), noise, count=COUNT)),
                frechet(digits, noise))


TASKS: dict[str, Callable[[int], Task]] = {
    "digit": digit, "canvas": canvas, "place": place, "found": found, "letter": letter,
    "drawing": drawing}


def frechet(x: Array, y: Array) -> float:
    r"""Distance of two Gaussians, :math:`|m - m'|^2 + \mathrm{tr}(C + C' - 2 (C C')^{1/2})`."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = np.cov(x.T), np.cov(y.T)
    # The trace of the root: the eigenvalues of a product of two such matrices are not negative.
    root = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root)


def share_right(nodes: list[Node], x: Array, y: Array, values: dict[str, Array]) -> float:
    """Accuracy."""
    return float((run(nodes, {"x": x, **values}).values[nodes[-1].name].argmax(1) == y).mean())


@lru_cache(maxsize=1)
def canvases(seed: int) -> tuple[Placed, Placed]:
    """Digits to train on, `COPIES` places each, and to judge by; places differ by the seed."""
    data, rng = split(), np.random.default_rng(seed)
    return (placed(np.concatenate([data.x_train] * COPIES), SIDE, rng=rng),
            placed(data.x_test, SIDE, rng=rng))


def flat(some: Placed) -> Array:
    """Rows of pixels."""
    return some.images.reshape(len(some.images), -1)


@lru_cache(maxsize=2)
def taught(seed: int, outputs: int, loss: Op) -> tuple[list[Node], dict[str, Array]]:
    """Three layers, trained on the canvases of the seed to answer one of the questions."""
    sizes, rng = (SIDE**2, 128, 64, outputs), np.random.default_rng(seed)
    nodes, begin = perceptron(sizes), start(initial(sizes, rng), {})
    some, _ = canvases(seed)
    targets = some.boxes if loss is squared_error else np.tile(split().y_train, COPIES)
    batch = shuffled({"x": flat(some), "target": targets}, BATCH, rng=rng)
    state = train([*nodes, Node("loss", loss, (nodes[-1].name, "target"))], begin, batch,
                  steps=STEPS, rate=cosine(RATE, STEPS))
    return nodes, state.parameters


def measure(task: str, rule: str, seed: int) -> list[dict[str, str]]:
    """A row for each width."""
    made = TASKS[task](seed)
    exact = made.score(made.values)
    fits: dict[int, Fit] = {b: partial(RULES[rule], bits=b) for b in BITS}
    found = degradation(made.values, weight_names(made.nodes), fits, made.score)
    return [dict(zip(FIELDS, map(str, (
        task, rule, seed, f"{made.chance:.5f}", f"{exact:.5f}", bits, f"{score:.5f}",
        f"{kept(score, exact, made.chance):.5f}")), strict=True)) for bits, score in found.items()]


def rows() -> list[dict[str, str]]:
    """The table that ships."""
    with TABLE.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(arguments: list[str] | None = None) -> None:
    """All rows into a file; it is replaced when the table is whole."""
    from rich.progress import track
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Compare what bits cost different tasks.")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    cases = [(t, r, s) for t in TASKS for s in SEEDS for r in RULES]
    with threadpool_limits(1):
        found = [row for case in track(cases, "measuring") for row in measure(*case)]
    write_whole(options.out, table_bytes(FIELDS, ([row[f] for f in FIELDS] for row in found)))


if __name__ == "__main__":
    main()
