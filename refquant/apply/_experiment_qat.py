"""Post-training against training: ``python -m refquant.apply._experiment_qat``.

Five replicas of the digits network, weights and activations (or weights alone) at 2, 3, 4 and 8
bits, each method from the same float network: 210 steps of Adam, batch 64, rate 0.001 falling to
0 on a cosine, batch norms by batch. Stem and last layer have 8 bits and fixed grids; calibration
sees the first 256 training images. A second part starts from networks of the same architecture
and splits that were trained for 25 epochs at a rate of 0.003: their float accuracy is a point
lower, and rounding them without training costs far more. The table is ``experiment_qat.csv`` beside
this file: the same machine and BLAS give the same bytes.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.calibrate import collect
from refquant.apply.learned import (
    Make,
    dorefa_weights,
    fixed_grid,
    insert,
    keep_valid,
    lsq_activation,
    lsq_weight,
    moving_grid,
    pact_ceiling,
)
from refquant.apply.norms import evaluation, measured_again
from refquant.apply.simulate import ends, input_names, weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import omse
from refquant.granularity import all_but
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
from refquant.nn.optimizers import cosine
from refquant.nn.replicas import REPLICAS, replica
from refquant.qat.lsq import initial_scale
from refquant.quantizers.uniform import Uniform, asymmetric, code_range, symmetric

__all__ = ["METHODS", "TABLE", "Method", "Score", "measure", "prepared", "read_table", "subject"]

TABLE = Path(__file__).with_name("experiment_qat.csv")
STEPS, BATCH, RATE, SHOWN = 210, 64, 1e-3, 256
SLOW_STEPS, SLOW_RATE = 350, 3e-3

#: Data, bits -> the record that calibration finds.
Fit = Callable[[Array, int], Uniform]


class Subject(NamedTuple):
    """A trained network, its data, and what calibration saw."""

    model: Model
    data: Split
    seen: dict[str, Array]


class Method(NamedTuple):
    """What is fitted, and how it is trained; no maker means post-training alone.

    `again` measures the norms again, on the images that calibration saw, without labels.
    """

    weight_fit: Fit
    activation_fit: Fit
    weight_make: Make | None = None
    activation_make: Make | None = None
    again: bool = False


class Score(NamedTuple):
    """On the half of the digits not trained on."""

    accuracy: float
    nll: float


def weight_bound(w: Array, bits: int) -> Uniform:
    """The largest weight at the highest code; all codes."""
    return symmetric(np.abs(w).max(keepdims=True), bits=bits, narrow=False)


def weight_bound_by_channel(w: Array, bits: int) -> Uniform:
    return symmetric(np.abs(w).max(all_but(0, w.ndim), keepdims=True), bits=bits, narrow=False)


def weight_mse(w: Array, bits: int) -> Uniform:
    return omse(w, partial(symmetric, bits=bits, narrow=False), candidates=80)


def weight_mse_by_channel(w: Array, bits: int) -> Uniform:
    return omse(w, partial(symmetric, bits=bits, narrow=False), axis=all_but(0, w.ndim),
                candidates=80)


def weight_paper(w: Array, bits: int) -> Uniform:
    """The start of the LSQ paper."""
    qmin, qmax = code_range(bits, signed=True)
    return _step(initial_scale(w, qmax=qmax), qmin, qmax)


def activation_max(x: Array, bits: int) -> Uniform:
    return asymmetric(np.zeros(1, x.dtype), np.max(x, keepdims=True).reshape(1), bits=bits)


def activation_mse(x: Array, bits: int) -> Uniform:
    def levels(bound: Array) -> Uniform:
        return asymmetric(0 * bound, bound, bits=bits)

    q = omse(x, levels, candidates=80)
    return _step(q.scale.reshape(1), q.qmin, q.qmax)


def activation_paper(x: Array, bits: int) -> Uniform:
    qmin, qmax = code_range(bits, signed=False)
    return _step(initial_scale(x, qmax=qmax).reshape(1), qmin, qmax)


def _step(scale: Array, qmin: int, qmax: int) -> Uniform:
    return Uniform(scale, np.zeros(scale.shape, np.int32), qmin, qmax)


METHODS = {
    "PTQ min-max, per tensor": Method(weight_bound, activation_max),
    "PTQ min-max, per channel": Method(weight_bound_by_channel, activation_max),
    "PTQ mse, per tensor": Method(weight_mse, activation_mse),
    "PTQ mse, per channel": Method(weight_mse_by_channel, activation_mse),
    "PTQ mse, norms again": Method(weight_mse, activation_mse, again=True),
    "STE, moving min-max": Method(weight_bound, activation_max, moving_grid, fixed_grid),
    "STE, fixed mse steps": Method(weight_mse, activation_mse, fixed_grid, fixed_grid),
    "LSQ, paper's start": Method(weight_paper, activation_paper, lsq_weight, lsq_activation),
    "LSQ, mse start": Method(weight_mse, activation_mse, lsq_weight, lsq_activation),
    "PACT from max, STE": Method(weight_mse, activation_max, fixed_grid, pact_ceiling),
    "PACT from max, DoReFa": Method(weight_mse, activation_max, dorefa_weights, pact_ceiling),
    "PACT from mse, STE": Method(weight_mse, activation_mse, fixed_grid, pact_ceiling),
}


def subject(seed: int, origin: str = "replica") -> Subject:
    """Network, split and activations of one seed."""
    data = digits(seed=seed)
    model = replica(seed) if origin == "replica" else slow(data, seed)
    seen = collect(model.nodes, model.values, [{"x": data.x_train[:SHOWN]}],
                   names=input_names(model.nodes))
    return Subject(model, data, seen)


def slow(data: Split, seed: int) -> Model:
    """The same network trained at a lower rate, for fewer epochs."""
    rng = np.random.default_rng(seed)
    begun = start(initial_parameters(rng=rng), initial_statistics())
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, BATCH, rng=rng)
    state = train(with_loss(digits_cnn(training=True)), begun, batch, steps=SLOW_STEPS,
                  rate=cosine(SLOW_RATE, SLOW_STEPS))
    return Model(digits_cnn(), state.parameters, state.statistics)


def prepared(
    method: Method, on: Subject, bits: int, *, activations: bool
) -> tuple[list, dict[str, Array]]:  # type: ignore[type-arg]
    """Training nodes with quantizers, and all parameters."""
    network = with_loss(digits_cnn(training=True)), on.model.parameters
    weights = {name: on.model.parameters[name] for name in weight_names(on.model.nodes)}
    parts = [(weights, method.weight_fit, method.weight_make)]
    if activations:
        parts.append((on.seen, method.activation_fit, method.activation_make))
    for arrays, fit, make in parts:
        outer = {name: fit(arrays[name], 8) for name in ends(list(arrays))}
        inner = {n: fit(array, bits) for n, array in arrays.items() if n not in outer}
        network = insert(*network, outer, fixed_grid)
        network = insert(*network, inner, make or fixed_grid)
    return network


def measure(
    method: Method | None, on: Subject, bits: int, *, activations: bool, seed: int,
    steps: int = STEPS,
) -> Score:
    """The network quantized, trained if the method says so, and judged."""
    if method is None:                              # float, trained for as long
        nodes, parameters = with_loss(digits_cnn(training=True)), on.model.parameters
    else:
        nodes, parameters = prepared(method, on, bits, activations=activations)
    statistics = on.model.statistics
    if method is None or method.weight_make is not None:
        arrays = {"x": on.data.x_train, "labels": on.data.y_train}
        state = train(
            nodes, start(parameters, statistics),
            shuffled(arrays, BATCH, rng=np.random.default_rng(seed)),
            steps=steps, rate=cosine(RATE, steps), after=keep_valid)
        parameters, statistics = state.parameters, state.statistics
    elif method.again:
        images = on.data.x_train[:SHOWN]
        batches = [{"x": images[i : i + 128]} for i in range(0, SHOWN, 128)]
        statistics = measured_again(nodes[:-1], parameters, statistics, batches)
    return score(Model(evaluation(nodes), dict(parameters), dict(statistics)), on.data)


def score(model: Model, data: Split) -> Score:
    """Accuracy and mean negative log-likelihood of the test half."""
    logits = predict(model, data.x_test)
    nll = softmax_cross_entropy(logits, data.y_test)[0]
    return Score(float((logits.argmax(1) == data.y_test).mean()), float(nll))


def cases(origin: str = "replica") -> Iterator[tuple[str, str, int]]:
    """Method, what is quantized, and bits, of each line of the table."""
    yield "float", "", 32
    yield "float, trained on", "", 32
    if origin == "slow":
        for bits in (4, 3, 2):
            for name in ("PTQ min-max, per tensor", "PTQ min-max, per channel",
                         "PTQ mse, per tensor", "PTQ mse, norms again", "LSQ, mse start"):
                yield name, "WA", bits
        return
    for name, method in METHODS.items():
        trained = method.weight_make is not None
        for bits in (4, 3, 2) if trained else (8, 4, 3, 2):
            if name != "PACT from mse, STE" or bits == 2:
                yield name, "WA", bits
            if not name.startswith("PACT") and bits < 8:
                yield name, "W", bits


def line(name: str, what: str, bits: int, on: Subject, seed: int) -> Score:
    """One line of the table."""
    if name == "float":
        return score(on.model, on.data)
    return measure(METHODS.get(name), on, bits, activations=what == "WA", seed=seed)


def read_table(
    path: Path = TABLE, *, origin: str = "replica"
) -> dict[tuple[str, str, int], list[Score]]:
    """Scores by method, what is quantized and bits, in the order of the seeds."""
    found: dict[tuple[str, str, int], list[Score]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["origin"] != origin:
                continue
            key = row["method"], row["quantized"], int(row["bits"])
            found.setdefault(key, []).append(Score(float(row["accuracy"]), float(row["nll"])))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure every line on every replica and write the table."""
    from rich.progress import Progress
    from threadpoolctl import threadpool_limits

    from refquant.nn._artifacts import table_bytes, write_whole

    parser = argparse.ArgumentParser(description="Post-training against training, on digits.")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, default=REPLICAS)
    parser.add_argument("--origins", nargs="+", default=["replica", "slow"])
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows = []
    lines = [(origin, seed, case) for origin in options.origins
             for seed in range(options.seeds) for case in cases(origin)]
    with threadpool_limits(1), Progress() as bar:
        task = bar.add_task("training", total=len(lines))
        for origin, seed, (name, what, bits) in lines:
            if name == "float":
                on = subject(seed, origin)
            result = line(name, what, bits, on, seed)
            rows.append([origin, name, what, bits, seed, f"{result.accuracy:.4f}",
                         f"{result.nll:.4f}"])
            bar.update(task, advance=1, description=f"{origin} {seed} {name} {what}{bits}")
    fields = ["origin", "method", "quantized", "bits", "seed", "accuracy", "nll"]
    write_whole(options.out, table_bytes(fields, rows))


if __name__ == "__main__":
    main()
