"""The character model at few bits: ``python -m refquant.apply._experiment_text``.

Weights of the two hidden layers, 82 % of all, with a step for each output; the rest stays float.
Three models (the shipped one, and two more seeds that are trained here and thrown away), each
quantized after training, trained with quantizers in it for 1,200 steps more, 30 % of the float
training (Adam, batch 256, rate 0.003 falling to 0 on a cosine), and born ternary in as many steps
as the float model took. The measure is bits per character on the first 20,000 contexts of the last
tenth of the text. The table is ``experiment_text.csv`` beside this file. The same code, machine,
BLAS and Python give the same bytes; another order of summation anywhere moves the last digits.
"""

import argparse
import csv
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant.apply.learned import Make, insert, keep_valid, lsq_weight, moving_grid
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import omse
from refquant.granularity import all_but
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn._train_text import BATCH, RATE, STEPS, fit
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import Model, with_loss
from refquant.nn.network import Node, insert_after
from refquant.nn.optimizers import cosine
from refquant.nn.text import (
    bits_per_character,
    initial_text_model,
    text_data,
    text_network,
    trained_text_model,
)
from refquant.qat.bitnet import absmean_weight, token_activation
from refquant.quantizers.uniform import Uniform, symmetric

__all__ = ["LAYERS", "ROWS", "SEEDS", "TABLE", "float_model", "measure", "read_table"]

TABLE = Path(__file__).with_name("experiment_text.csv")
SEEDS, MORE, MORE_RATE, JUDGED = 3, 1200, 3e-3, 20_000
LAYERS = ("fc1.weight", "fc2.weight")


def float_model(seed: int) -> Model:
    """The shipped model for seed 0, else one trained in the same way."""
    if seed == 0:
        return trained_text_model()
    data = text_data()
    numbers = np.concatenate([data.x_train[0], data.y_train])
    return fit(numbers, rng=np.random.default_rng(seed))


def largest(bits: int) -> Callable[[Array], Uniform]:
    """The largest weight of each output at the highest code."""
    return lambda w: symmetric(np.abs(w).max(all_but(0, w.ndim), keepdims=True), bits=bits,
                               narrow=False)


def least_squares(bits: int) -> Callable[[Array], Uniform]:
    """The step of each output with the least squared error."""
    return lambda w: omse(w, partial(symmetric, bits=bits, narrow=False),
                          axis=all_but(0, w.ndim), candidates=80)


def quantized(
    model: Model, fit: Callable[[Array], Uniform], make: Make
) -> tuple[list[Node], dict[str, Array]]:
    """The network with quantizers behind the hidden weights, and all parameters."""
    grids = {name: fit(model.parameters[name]) for name in LAYERS}
    return insert(model.nodes, model.parameters, grids, make)


def ternary(nodes: list[Node], *, activations: bool) -> list[Node]:
    """BitNet's estimators behind the hidden weights, and behind what these layers read."""
    for name in LAYERS:
        nodes = insert_after(nodes, name, Node(f"{name}.q", absmean_weight, (name,)))
    for name in ("embed", "fc1") if activations else ():
        nodes = insert_after(nodes, name, Node(f"{name}.q", token_activation, (name,)))
    return nodes


def trained(
    nodes: list[Node], parameters: dict[str, Array], *, seed: int, steps: int = MORE,
    rate: float = MORE_RATE,
) -> Model:
    """The network after some more steps."""
    data = text_data()
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, BATCH,
                     rng=np.random.default_rng([seed, 2]))
    state = train(with_loss(nodes), start(parameters, {}), batch, steps=steps,
                  rate=cosine(rate, steps), after=keep_valid)
    return Model(nodes, state.parameters, {})


def _more(model: Model, seed: int, bits: int, steps: int) -> Model:
    return trained(model.nodes, model.parameters, seed=seed, steps=steps)


def _ptq(model: Model, seed: int, bits: int, steps: int) -> Model:
    return Model(*quantized(model, largest(bits), moving_grid), {})


def _ste(model: Model, seed: int, bits: int, steps: int) -> Model:
    return trained(*quantized(model, largest(bits), moving_grid), seed=seed, steps=steps)


def _lsq(model: Model, seed: int, bits: int, steps: int) -> Model:
    return trained(*quantized(model, least_squares(bits), lsq_weight), seed=seed, steps=steps)


def _ste_soon(model: Model, seed: int, bits: int, steps: int) -> Model:
    return _ste(model, seed, bits, steps // 4)


def _lsq_soon(model: Model, seed: int, bits: int, steps: int) -> Model:
    return _lsq(model, seed, bits, steps // 4)


def _ternary(model: Model, seed: int, bits: int, steps: int) -> Model:
    return Model(ternary(model.nodes, activations=False), model.parameters, {})


def _ternary_ste(model: Model, seed: int, bits: int, steps: int) -> Model:
    return trained(ternary(model.nodes, activations=False), model.parameters, seed=seed,
                   steps=steps)


def _born(model: Model, seed: int, bits: int, steps: int) -> Model:
    """From scratch, in as many steps as the float model, whatever `steps` says."""
    new = initial_text_model(rng=np.random.default_rng(seed))
    return trained(ternary(text_network(), activations=True), new.parameters, seed=seed,
                   steps=STEPS, rate=RATE)


METHODS: dict[str, Callable[[Model, int, int, int], Model]] = {
    "float": lambda model, seed, bits, steps: model,
    "float, trained on": _more,
    "PTQ min-max": _ptq,
    "STE min-max": _ste,
    "LSQ": _lsq,
    "STE min-max, 300 steps": _ste_soon,
    "LSQ, 300 steps": _lsq_soon,
    "PTQ ternary": _ternary,
    "STE ternary": _ternary_ste,
    "b1.58 from scratch": _born,
}
ROWS = [
    ("float", 32), ("float, trained on", 32),
    *(("PTQ min-max", bits) for bits in (8, 4, 3, 2)),
    *((name, bits) for name in ("STE min-max", "LSQ") for bits in (4, 3, 2)),
    ("STE min-max, 300 steps", 2), ("LSQ, 300 steps", 2),
    ("PTQ ternary", 2), ("STE ternary", 2), ("b1.58 from scratch", 2),
]


def measure(model: Model, method: str, bits: int, *, seed: int, steps: int = MORE) -> float:
    """Bits per character of one row."""
    data = text_data()
    made = METHODS[method](model, seed, bits, steps)
    return bits_per_character(made, data.x_test[:JUDGED], data.y_test[:JUDGED])


def table(seeds: range) -> Iterator[tuple[str, int, int, float]]:
    """All rows of all seeds."""
    for seed in seeds:
        model = float_model(seed)
        for method, bits in ROWS:
            yield method, bits, seed, measure(model, method, bits, seed=seed)


def read_table(path: Path = TABLE) -> dict[tuple[str, int], Array]:
    """Bits per character of each row of a table, by seed."""
    found: dict[tuple[str, int], list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for r in csv.DictReader(file):
            found.setdefault((r["method"], int(r["bits"])), []).append(
                float(r["bits_per_character"]))
    return {row: np.array(values) for row, values in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Measure all rows and write the table."""
    from rich.progress import Progress
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="The character model at few bits.")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, nargs=2, default=(0, SEEDS), metavar=("FROM", "TO"))
    options = parser.parse_args(arguments)
    keep_freed_memory()
    seeds, rows = range(*options.seeds), []
    fields = ["method", "bits", "seed", "bits_per_character"]
    with threadpool_limits(1), Progress() as bar:
        task = bar.add_task("rows", total=len(ROWS) * len(seeds))
        for method, bits, seed, value in table(seeds):
            rows.append([method, bits, seed, f"{value:.4f}"])
            write_whole(options.out, table_bytes(fields, rows))     # whole at any time
            bar.advance(task)
    for row, values in read_table(options.out).items():
        print(f"{row!s:34}", values.round(3), f"{values.mean():.3f}")


if __name__ == "__main__":
    main()
