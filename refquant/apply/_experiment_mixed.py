"""Mixed precision at equal size, measured: ``python -m refquant.apply._experiment_mixed --out F``.

Weights alone are rounded, per tensor, clipped for least squared error, to 2, 3, 4, 5, 6 or 8 bits:
all ten layers of the digits network. Each method fills a table of sensitivities from 256 training
images, an integer program allocates an average number of bits, and the held-out half judges.

Two kinds of networks, five of each: the copies that ship (``replica``), and copies trained for
fewer epochs at a lower rate (``short``), which rounding hurts more. The same machine and BLAS give
the same file, byte for byte.
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.mixed import (
    allocated,
    candidates,
    divergences,
    eigenvalues,
    losses,
    sizes,
    traces,
)
from refquant.apply.simulate import weight_names
from refquant.calibration.mse import omse
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.sensitivity import added_loss, weighted_error
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn.data import Split, digits
from refquant.nn.models import Model, with_loss
from refquant.nn.network import run
from refquant.nn.replicas import REPLICAS, replica
from refquant.quantizers.uniform import Uniform, symmetric

__all__ = ["AVERAGES", "BITS", "CSV", "Problem", "Row", "read", "rows", "tables"]

BITS = (2, 3, 4, 5, 6, 8)
AVERAGES = (2.5, 3.0, 4.0)
CSV = Path(__file__).with_name("mixed_methods.csv")
IMAGES, SAMPLES, RANDOM = 256, 20, 30


class Row(NamedTuple):
    """One line of the file. The policy is the bits of the ten layers in the order of the run."""

    network: str
    seed: int
    bits: float
    method: str
    policy: str
    accuracy: float
    nll: float


class Problem:
    """A network, its candidates, and the judge."""

    def __init__(self, model: Model, data: Split) -> None:
        self.model, self.data = model, data
        self.names, self.nodes = weight_names(model.nodes), with_loss(model.nodes)
        self.weights = candidates(model.values, self.names, [partial(fit, bits=b) for b in BITS])
        self.size = sizes(model.values, self.names, BITS)
        shown = {"x": data.x_train[:IMAGES], "labels": data.y_train[:IMAGES]}
        self.values = {**model.values, **shown}

    def judge(self, choice: Sequence[int] | Array | None) -> tuple[float, float]:
        """Accuracy and mean negative log-likelihood on the held-out half; None is float."""
        values = self.model.values if choice is None else allocated(
            self.model.values, self.names, self.weights, choice)
        held_out = {"x": self.data.x_test, "labels": self.data.y_test}
        seen = run(self.nodes, {**values, **held_out}).values
        right = seen["logits"].argmax(1) == self.data.y_test
        return float(right.mean()), float(seen["loss"])

    def limit(self, average: float) -> float:
        """Bits of all codes together when the average is this."""
        return average * float(self.size[:, 0].sum()) / BITS[0]


def fit(weight: Array, bits: int) -> Uniform:
    """Per tensor, full range, least squared error."""
    return omse(weight, partial(symmetric, bits=bits, narrow=False))


def tables(problem: Problem, *, rng: np.random.Generator) -> Iterator[tuple[str, Array]]:
    """Name of each method and its table of sensitivities, the cheap ones first."""
    p = problem
    weights = [p.model.values[name] for name in p.names]
    error = weighted_error(weights, p.weights)
    yield "weights", error
    yield "divergence", divergences(p.model.nodes, p.values, p.names, p.weights)
    base = float(run(p.nodes, p.values).values["loss"])
    yield "loss", added_loss(losses(p.nodes, p.values, p.names, p.weights), base)
    top = eigenvalues(p.nodes, p.values, p.names, rng=rng)
    yield "eigenvalue", error * np.array([[found.value] for found in top])
    means = [found.trace / w.size for found, w in zip(
        traces(p.nodes, p.values, p.names, rng=rng, samples=SAMPLES), weights, strict=True)]
    yield "trace", error * np.array(means)[:, None]


def rows(
    problem: Problem, network: str, seed: int, found: Iterator[tuple[str, Array]],
    *, rng: np.random.Generator,
) -> Iterator[Row]:
    """Each method of `found`, and what it is compared with, at each average."""
    def row(bits: float, method: str, choice: Array | None) -> Row:
        policy = "" if choice is None else "".join(str(BITS[k]) for k in choice)
        accuracy, nll = problem.judge(choice)
        return Row(network, seed, bits, method, policy, round(accuracy, 6), round(nll, 5))

    yield row(32, "float", None)
    draws = rng.integers(0, len(BITS), (50_000, len(problem.names)))
    spent = problem.size[np.arange(len(problem.names)), draws].sum(1)
    for average in AVERAGES:
        if average in BITS:
            yield row(average, "uniform", np.full(len(problem.names), BITS.index(int(average))))
        feasible = draws[spent <= problem.limit(average)][:RANDOM]
        mean = np.mean([problem.judge(choice) for choice in feasible], axis=0)
        yield Row(network, seed, average, "random", "", round(mean[0], 6), round(mean[1], 5))
    for method, table in found:
        for average in AVERAGES:
            budget = Budget("size", problem.size, problem.limit(average))
            yield row(average, method, allocate(table, [budget]).choice)


def read(path: Path = CSV) -> list[Row]:
    """The rows of a file."""
    with path.open(encoding="utf-8", newline="") as file:
        return [Row(r["network"], int(r["seed"]), float(r["bits"]), r["method"], r["policy"],
                    float(r["accuracy"]), float(r["nll"])) for r in csv.DictReader(file)]


def short(seed: int) -> Model:
    """25 epochs at a rate of 0.003, where the copies that ship had 40 at 0.01."""
    from refquant.nn._train_replicas import fit as train

    return train(digits(seed=seed), rng=np.random.default_rng(seed), epochs=25, rate=3e-3)


def main(arguments: list[str] | None = None) -> None:
    """Measure all, and write the file."""
    from threadpoolctl import threadpool_limits

    from refquant.nn.memory import keep_freed_memory

    parser = argparse.ArgumentParser(description="Mixed precision on ten networks.")
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--seeds", type=int, default=REPLICAS)
    options = parser.parse_args(arguments)
    if options.seeds < 1 or not options.out.parent.is_dir():    # now, not when all is done
        parser.error("--seeds must be at least 1, and --out lie in a folder that is there")
    keep_freed_memory()
    made: list[Row] = []
    kinds: list[tuple[str, Callable[[int], Model]]] = [("replica", replica), ("short", short)]
    with threadpool_limits(1):
        for network, load in kinds:
            for seed in range(options.seeds):
                problem, rng = Problem(load(seed), digits(seed=seed)), np.random.default_rng(seed)
                for row in rows(problem, network, seed, tables(problem, rng=rng), rng=rng):
                    made.append(row)
                    print(*row, file=sys.stderr, flush=True)
    write_whole(options.out, table_bytes(Row._fields, made))


if __name__ == "__main__":
    main()
