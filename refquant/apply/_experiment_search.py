"""Searches compared on the digits: ``python -m refquant.apply._experiment_search --out FOLDER``.

Four tables, over the replicas of seeds 0, 1, 2: ``_experiment_search.csv`` (agents at equal
numbers of evaluations), ``_experiment_additive.csv`` (the same on losses that add up, beside the
exact optimum), ``_experiment_dnas.csv`` (both objectives) and ``_experiment_joint.csv``
(architecture and bits together). The same machine and BLAS write the same bytes.

Seconds are never the same. ``--seconds`` takes those of one replica at 3 bits, on a machine that
does nothing else, and writes ``_experiment_search_seconds.csv`` alone.

Rewards are minus the loss on the first 256 training images; test images are looked at only when
a search is over. A killed run goes on where it was: give it the same ``--work``.
"""

import argparse
import csv
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant.apply.search import (
    alternating,
    judge,
    layer_shapes,
    negative_loss,
    noisy,
    supernet,
    supernet_logits,
    weight_costs,
    weight_versions,
)
from refquant.apply.simulate import static, weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import optimal_scale
from refquant.mixed_precision.cross_entropy import cross_entropy
from refquant.mixed_precision.differentiable import (
    Objective,
    annealed,
    cost_product,
    cost_sum,
    likeliest,
)
from refquant.mixed_precision.environment import (
    Environment,
    additive_cost,
    layer_states,
    make_environment,
)
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.mixed_precision.joint import evolution, size_fitness
from refquant.mixed_precision.local_search import local_search, random_search
from refquant.mixed_precision.reinforcement import ddpg
from refquant.mixed_precision.search import Agent, Evaluate, Found, Progress, search, silent
from refquant.nn.data import Split, digits
from refquant.nn.models import Model, accuracy, digits_cnn, with_loss
from refquant.nn.network import run
from refquant.nn.optimizers import cosine
from refquant.nn.replicas import replica
from refquant.nn.small_models import (
    PLAIN,
    SEPARABLE,
    Architecture,
    initial_values,
    network,
)
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform

__all__ = ["AGENTS", "OBJECTIVES", "Subject", "additive_row", "agent_row", "dnas_row",
           "environment_of", "joint_row", "searched", "subject", "table"]

FOLDER = Path(__file__).parent
CHOICES = np.arange(2, 9, dtype=np.int32)
SEEDS, AVERAGES, EVALUATIONS = (0, 1, 2), (2.5, 3.0, 4.0), 300
IMAGES = 256

#: Agents by name: environment and states to an agent.
AGENTS: Mapping[str, Callable[[Environment, Array], Agent]] = {
    "random": lambda environment, states: random_search(environment),
    "local": lambda environment, states: local_search(environment),
    "cross-entropy": lambda environment, states: cross_entropy(environment),
    "DDPG": ddpg,
}

#: Objectives of DNAS by name, the cost in bits per weight.
OBJECTIVES: Mapping[str, Objective] = {
    "sum 0.002": partial(cost_sum, weight=0.002),
    "sum 0.02": partial(cost_sum, weight=0.02),
    "sum 0.1": partial(cost_sum, weight=0.1),
    "product": partial(cost_product, beta=1.0, gamma=0.9),
}


class Subject(NamedTuple):
    """One replica, and what searches ask of it."""

    seed: int
    model: Model
    data: Split
    names: list[str]
    quantizers: dict[str, list[Uniform]]
    versions: dict[str, list[Array]]
    reward: Evaluate
    costs: Array
    states: Array


def quantizer(weight: Array, bits: int) -> Uniform:
    """Signed codes, one step per tensor, the one with the least squared error."""
    return optimal_scale(weight, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@cache
def subject(seed: int) -> Subject:
    """The replica of a seed, its weights quantized with every width."""
    model, data = replica(seed), digits(seed=seed)
    names = weight_names(model.nodes)
    quantizers = {n: [quantizer(model.parameters[n], int(b)) for b in CHOICES] for n in names}
    versions = {n: [fake_quantize(model.parameters[n], q) for q in quantizers[n]] for n in names}
    x, labels = data.x_train[:IMAGES], data.y_train[:IMAGES]
    reward = judge(model, versions, CHOICES, x, partial(negative_loss, labels=labels))
    shapes = layer_shapes(model.nodes, {"x": x[:1], **model.values})
    return Subject(seed, model, data, names, quantizers, versions, reward,
                   weight_costs(model.parameters, names, CHOICES), layer_states(shapes))


def environment_of(s: Subject, average: float) -> Environment:
    """No more than so many bits per weight."""
    weights = int(s.costs[:, 0].sum()) // int(CHOICES[0])
    return make_environment(CHOICES, additive_cost(CHOICES, s.costs), slots=len(s.names),
                            budget=average * weights)


def searched(
    s: Subject, average: float, method: str, *, evaluations: int = EVALUATIONS,
    checkpoint: Path | None = None, progress: Progress = silent,
) -> Found:
    """What an agent finds; the seed of the replica is that of the search."""
    environment = environment_of(s, average)
    equal = [np.full(len(s.names), int(average), np.int32)] if float(average).is_integer() else []
    return search(AGENTS[method](environment, s.states), s.reward, evaluations=evaluations,
                  rng=np.random.default_rng(s.seed), first=equal, checkpoint=checkpoint, every=10,
                  progress=progress)


@cache
def losses_alone(seed: int) -> Array:
    """Loss that each layer adds with each width, the others in 8 bits; shape (layers, choices)."""
    s = subject(seed)
    eight = np.full(len(s.names), CHOICES[-1], np.int32)
    best, losses = s.reward(eight), np.empty(s.costs.shape)
    for i, k in np.ndindex(losses.shape):
        bits = eight.copy()
        bits[i] = CHOICES[k]
        losses[i, k] = max(best - s.reward(bits), 0.0)
    return losses


def exact(s: Subject, average: float) -> Codes:
    """The best policy if losses of layers added up."""
    budget = Budget("size", s.costs, environment_of(s, average).budget)
    return CHOICES[allocate(losses_alone(s.seed), [budget]).choice]


def additive_row(s: Subject, average: float) -> dict[str, Any]:
    """Every agent on losses that add up, and the least that there is."""
    loss, environment = additive_cost(CHOICES, losses_alone(s.seed)), environment_of(s, average)
    row: dict[str, Any] = {"seed": s.seed, "budget": average, "evaluations": EVALUATIONS,
                           "least": round(loss(exact(s, average)), 6)}
    for method, make in AGENTS.items():
        found = search(make(environment, s.states), lambda bits: -loss(bits),
                       evaluations=EVALUATIONS, rng=np.random.default_rng(s.seed))
        row[method] = round(-found.reward, 6)
    return row


def judged(s: Subject, bits: Codes, *, epochs: int = 10) -> dict[str, Any]:
    """What a policy is worth on the test half, at once and after training with it."""
    weights = dict(zip(s.names, (kinds[b - 2] for kinds, b in
                                 zip(s.versions.values(), bits, strict=True)), strict=True))
    values = {"x": s.data.x_test, **s.model.values, **weights}
    logits = run(s.model.nodes, values).values["logits"]
    return {
        "bits": " ".join(map(str, bits)),
        "average": round(float(bits @ s.costs[:, 0] / s.costs[:, 0].sum()), 4),
        "test_loss": round(-negative_loss(logits, s.data.y_test), 4),
        "test_accuracy": round(float((logits.argmax(1) == s.data.y_test).mean()), 4),
        "tuned_accuracy": round(tuned(s, bits, epochs=epochs), 4),
    }


def tuned(s: Subject, bits: Codes, *, epochs: int) -> float:
    """Test accuracy after some epochs of training behind fixed quantizers (plain STE)."""
    tap = static({n: s.quantizers[n][b - 2] for n, b in zip(s.names, bits, strict=True)})
    batch = shuffled({"x": s.data.x_train, "labels": s.data.y_train}, 64,
                     rng=np.random.default_rng(s.seed))
    steps = epochs * (len(s.data.x_train) // 64)
    state = start(s.model.parameters, s.model.statistics)
    state = train(with_loss(digits_cnn(training=True)), state, batch, steps=steps,
                  rate=cosine(1e-3, max(steps, 1)), tap=tap)
    model = Model(digits_cnn(), state.parameters, state.statistics)
    return accuracy(model, s.data.x_test, s.data.y_test, tap=tap)


def agent_row(
    s: Subject, average: float, method: str, *, checkpoint: Path | None = None,
    progress: Progress = silent, epochs: int = 10,
) -> dict[str, Any]:
    """One agent on one replica within one budget."""
    row: dict[str, Any] = {"seed": s.seed, "budget": average, "method": method}
    found = None
    if method == "uniform":
        bits = np.full(len(s.names), int(average), np.int32)
    elif method == "integer program":
        bits = exact(s, average)
    else:
        found = searched(s, average, method, evaluations=EVALUATIONS, checkpoint=checkpoint,
                         progress=progress)
        bits = found.policy
    looks = s.costs.size if method == "integer program" else 1
    row |= {"evaluations": found.rewards.size if found else looks,
            "distinct": found.distinct if found else looks,
            "reward": round(s.reward(bits), 6), **judged(s, bits, epochs=epochs)}
    if found:
        row |= {"warm_up": round(float(found.rewards[:20].mean()), 4),
                "ending": round(float(found.rewards[-20:].mean()), 4)}
        row |= {f"at_{n}": round(float(found.best_so_far()[n - 1]), 6)
                for n in range(30, EVALUATIONS + 1, 30)}
    return row


def dnas_row(
    s: Subject, objective: str, *, pairs: int = 200,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Any]:
    """One supernet trained, looked at eleven times, and the policy it ends with."""
    row, logits = supernet_trained(s, objective, pairs=pairs, progress=progress)
    return row | judged(s, likeliest(logits, CHOICES))


def supernet_trained(
    s: Subject, objective: str, *, pairs: int = 200,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[dict[str, Any], list[Array]]:
    """Half of the training images for weights, half for logits: what happened, and the logits.

    A step looks at 64 images, and going back costs about as much as two more looks: 200 pairs
    of steps cost what 300 evaluations of 256 images cost.
    """
    per_weight = s.costs / (s.costs[:, 0].sum() / CHOICES[0])
    nodes = supernet(digits_cnn(training=True), s.quantizers, per_weight, OBJECTIVES[objective])
    rng, steps = np.random.default_rng(s.seed), 2 * pairs
    half = len(s.data.x_train) // 2
    first, second = (
        shuffled({"x": s.data.x_train[part], "labels": s.data.y_train[part]}, 64, rng=rng)
        for part in (slice(half), slice(half, None)))
    batch = noisy(first, second, s.names, CHOICES, annealed(5.0, 0.1, steps), rng=rng)
    optimizer = alternating(lambda name: name.endswith(".logits"), factor=100.0)
    state = start(s.model.parameters | supernet_logits(s.names, CHOICES), s.model.statistics,
                  optimizer)
    row: dict[str, Any] = {"seed": s.seed, "objective": objective, "steps": steps}
    seen = {"x": s.data.x_train[half:][:IMAGES], "labels": s.data.y_train[half:][:IMAGES],
            "temperature": np.array(1.0, np.float32)}
    seen |= {name.removesuffix("weight") + "noise": np.zeros(len(CHOICES), np.float32)
             for name in s.names}
    for tenth in range(11):
        state = train(nodes, state, batch, steps=tenth * steps // 10, rate=cosine(1e-3, steps),
                      optimizer=optimizer, progress=progress)
        trace = run(nodes, {**seen, **state.parameters, **state.statistics})
        pressure = float(np.asarray(trace.pullbacks[-1][1](np.array(1.0, np.float32))[1]))
        row |= {f"task_{tenth}": round(float(trace.values["task"]), 5),
                f"cost_{tenth}": round(float(trace.values["cost"]), 4),
                f"pressure_{tenth}": float(f"{pressure:.4g}")}
    return row, [state.parameters[n.removesuffix("weight") + "logits"] for n in s.names]


#: Channels, kinds of block, and widths of the genomes: two genes of the network, four of bits.
CHANNELS, KINDS, WIDTHS = (8, 16, 24), (PLAIN, SEPARABLE), np.array([2, 3, 4, 6, 8])
PARTS = ((len(CHANNELS), len(KINDS)), (len(WIDTHS),) * 4)
TARGET = 30_000                                 # bits of all weights

#: Which of the four genes gives the bits of a layer.
GENE = {"c1": 0, "c2": 1, "d1": 1, "p1": 1, "c3": 2, "d2": 2, "p2": 2, "fc": 3}


def architecture(channels: int, kind: Architecture) -> Architecture:
    """The small network with another number of channels in its first layer."""
    def scaled(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n * channels // 16 if n >= 16 else n for n in shape)

    layers = tuple(layer._replace(shape=scaled(layer.shape)) for layer in kind.layers)
    return kind._replace(layers=layers)


class Raised(NamedTuple):
    """A network of a genome, trained in floats, and its weights with every width."""

    model: Model
    versions: dict[str, list[Array]]


def raised(data: Split, channels: int, kind: Architecture, *, seed: int) -> Raised:
    """Fifteen epochs of Adam on all training images but the last 256."""
    made = architecture(channels, kind)
    model = initial_values(made, rng=np.random.default_rng(seed))
    batch = shuffled({"x": data.x_train[:-IMAGES], "labels": data.y_train[:-IMAGES]}, 64,
                     rng=np.random.default_rng(seed))
    steps = 15 * (len(data.x_train) - IMAGES) // 64
    state = train(with_loss(network(made, training=True)), start(model.parameters,
                  model.statistics), batch, steps=steps, rate=cosine(1e-2, steps))
    model = Model(network(made), state.parameters, state.statistics)
    return Raised(model, weight_versions(model.parameters, weight_names(model.nodes), WIDTHS,
                                         quantizer))


def joint_row(seed: int, *, evaluations: int = 200) -> dict[str, Any]:
    """Evolution of network and bits, beside the best of all genomes, and one after the other.

    Quality is the mean probability of the label (geometric) on the last 256 training images.
    """
    data = digits(seed=seed)
    networks = {(i, j): raised(data, c, kind, seed=seed)
                for i, c in enumerate(CHANNELS) for j, kind in enumerate(KINDS)}

    @cache
    def worth(genome: tuple[int, ...]) -> tuple[float, float, float]:
        """Fitness, size and quality."""
        model, versions = networks[genome[0], genome[1]]
        bits = np.array([WIDTHS[genome[2 + GENE[n.removesuffix(".weight")]]] for n in versions])
        size = float(sum(model.parameters[n].size * b for n, b in zip(versions, bits, strict=True)))
        score = partial(negative_loss, labels=data.y_train[-IMAGES:])
        quality = float(np.exp(judge(model, versions, WIDTHS, data.x_train[-IMAGES:], score)(bits)))
        return size_fitness(quality, size, target=TARGET), size, quality

    def fitness(genome: Codes) -> float:
        return worth(tuple(map(int, genome)))[0]

    found = search(evolution(PARTS), fitness, evaluations=evaluations,
                   rng=np.random.default_rng(seed))
    counts = [n for part in PARTS for n in part]
    best = max(np.ndindex(*counts), key=lambda genome: worth(genome)[0])
    # One after the other: the fittest network with 8 bits everywhere, then its best bits.
    last = len(WIDTHS) - 1
    first = max(networks, key=lambda key: worth((*key, *(last,) * 4))[0])
    then = max((g for g in np.ndindex(*counts) if g[:2] == first), key=lambda g: worth(g)[0])
    row: dict[str, Any] = {"seed": seed, "evaluations": evaluations, "distinct": found.distinct,
                           "genomes": int(np.prod(counts))}
    for name, genome in (("joint", tuple(map(int, found.policy))), ("best", best),
                         ("in_turn", then)):
        value, size, quality = worth(genome)
        row |= {f"{name}_genome": " ".join(map(str, genome)), f"{name}_fitness": round(value, 5),
                f"{name}_size": int(size), f"{name}_quality": round(quality, 5)}
    return row


def seconds_rows() -> list[dict[str, Any]]:
    """What each search takes on the first replica at 3 bits, and nothing after it."""
    s = subject(SEEDS[0])
    losses_alone.cache_clear()                  # the questions of the integer program count
    runs: dict[str, Callable[[], Any]] = {
        method: partial(searched, s, 3.0, method) for method in AGENTS}
    runs["integer program"] = partial(exact, s, 3.0)
    runs["DNAS"] = lambda: supernet_trained(s, "sum 0.002")
    rows = []
    for method, run_once in runs.items():
        begun = time.process_time()
        run_once()
        rows.append({"method": method, "seconds": round(time.process_time() - begun, 2)})
    return rows


def tasks() -> Iterator[tuple[str, str, Callable[..., dict[str, Any]]]]:
    """Table and name of each row, and how to measure it."""
    for seed in SEEDS:
        for average in AVERAGES:
            equal = ("uniform",) if average.is_integer() else ()
            for method in (*AGENTS, "integer program", *equal):
                yield "search", f"seed {seed}, {average} bits, {method}", partial(
                    lambda i, *rest, **more: agent_row(subject(i), *rest, **more),
                    seed, average, method)
    for seed in SEEDS:
        for average in AVERAGES:
            yield "additive", f"seed {seed}, {average} bits", partial(
                lambda i, *rest, **more: additive_row(subject(i), *rest), seed, average)
    for seed in SEEDS:
        for objective in OBJECTIVES:
            yield "dnas", f"seed {seed}, {objective}", partial(
                lambda i, *rest, **more: dnas_row(subject(i), *rest), seed, objective)
    for seed in SEEDS:
        yield "joint", f"seed {seed}", partial(lambda i, **more: joint_row(i), seed)


def table(name: str) -> list[dict[str, str]]:
    """The rows that ship: ``search``, ``additive``, ``dnas``, ``joint`` or ``search_seconds``."""
    with (FOLDER / f"_experiment_{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: list[str] | None = None) -> None:
    """Measure all rows that are not in the work folder, then write the tables."""
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar
    from threadpoolctl import threadpool_limits

    from refquant.nn._artifacts import write_whole
    from refquant.nn.memory import keep_freed_memory

    parser = argparse.ArgumentParser(description="Compare searches for bit-widths.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of the tables")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--work", type=Path, help="folder of unfinished work")
    what.add_argument("--seconds", action="store_true", help="take the times instead")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    if options.seconds:
        with threadpool_limits(1):
            write_whole(options.out / "_experiment_search_seconds.csv", _csv(seconds_rows()))
        return
    options.work.mkdir(parents=True, exist_ok=True)
    jobs = list(tasks())
    shown = sys.stderr.isatty()
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    found: dict[str, list[dict[str, Any]]] = {}
    bar = Bar(*columns, console=Console(stderr=True), disable=not shown)
    with threadpool_limits(1), bar:
        task = bar.add_task("", total=len(jobs))
        for i, (kind, name, measure) in enumerate(jobs, start=1):
            key = options.work / f"{kind} {name}.json"
            if not key.exists():
                if shown:
                    bar.update(task, description=name)
                else:
                    print(f"{i} of {len(jobs)}: {kind}, {name}", file=sys.stderr, flush=True)
                more = {"checkpoint": key.with_suffix(".npz")} if kind == "search" else {}
                write_whole(key, json.dumps(measure(**more)).encode())
            found.setdefault(kind, []).append(json.loads(key.read_text("utf-8")))
            bar.advance(task)
    for kind, rows in found.items():
        write_whole(options.out / f"_experiment_{kind}.csv", _csv(rows))


def _csv(rows: list[dict[str, Any]]) -> bytes:
    from refquant.nn._artifacts import table_bytes

    names = list(dict.fromkeys(name for row in rows for name in row))
    return table_bytes(names, ([row.get(name, "") for name in names] for row in rows))


if __name__ == "__main__":
    main()
