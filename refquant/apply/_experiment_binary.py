"""Binary and ternary weights, method by method: ``python -m refquant.apply._experiment_binary``.

Each method starts from three of the float networks of `refquant.nn.replicas` and trains for 15
epochs (Adam, batch 64, 1e-3 falling to 0 on a cosine) unless its row says otherwise. All weights
but those of the first convolution and of the classifier are binary (BWN) or ternary (TWN), with
levels of their own in each output filter; activations and norms stay float. Settings were chosen
on seeds 5 and 6, which the table does not contain. The same machine and BLAS give the same file,
byte for byte.
"""

import argparse
import csv
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.apply.train import Batch, shuffled, start, train
from refquant.calibration.minmax import absmax
from refquant.granularity import all_but
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn._train_replicas import fit
from refquant.nn.data import Split, digits
from refquant.nn.models import Model, digits_cnn, with_loss
from refquant.nn.network import Node, Op, Pullback, insert_after, run
from refquant.nn.optimizers import cosine
from refquant.nn.replicas import REPLICAS, replica
from refquant.qat.blending import blend, blend_schedule
from refquant.qat.periodic import sinreq
from refquant.qat.proximal import (
    Projection,
    binary_relax,
    geometric,
    pull_to,
    pull_to_binary,
    ramp,
)
from refquant.qat.quant_noise import noise_mask, quant_noise
from refquant.quantizer import fake_quantize
from refquant.quantizers.binary import xnor
from refquant.quantizers.ternary import twn
from refquant.quantizers.uniform import symmetric

__all__ = ["METHODS", "TABLE", "Case", "Outcome", "Row", "case", "measure", "read_table"]

TABLE = Path(__file__).with_name("binary_methods.csv")
BATCH, EPOCHS, RATE = 64, 15, 1e-3
STEPS = EPOCHS * (898 // BATCH)
SEEDS = (0, 1, 2)

#: The weights that are quantized: all but the first and the last.
LAYERS = ("r1a", "r1b", "dw1", "pw1", "r2a", "r2b", "dw2", "pw2")


class Case(NamedTuple):
    """What a method starts from: a float network, its data, and the seed of both."""

    model: Model
    data: Split
    seed: int


class Outcome(NamedTuple):
    """Accuracy and mean negative log-likelihood (nats) on the half not trained on."""

    accuracy: float
    nll: float


class Row(NamedTuple):
    """One line of the table."""

    levels: str
    method: str
    seed: int
    accuracy: float
    nll: float


#: As `train` takes it: parameters and step to a value and gradients.
Penalty: TypeAlias = Callable[[dict[str, Array], int], tuple[float, Mapping[str, Array]]]

#: A case to the network as it would be deployed, its weights rounded.
Method: TypeAlias = Callable[[Case], Model]


def bwn(weight: Array) -> Array:
    """The nearest weight of one magnitude per output filter."""
    return fake_quantize(weight, xnor(weight, axis=all_but(0, weight.ndim)))


def ternary(weight: Array) -> Array:
    """TWN: zero, or one magnitude per output filter."""
    return fake_quantize(weight, twn(weight, axis=all_but(0, weight.ndim)))


def min_max(weight: Array, *, bits: int) -> Array:
    """A uniform grid up to the largest magnitude of the tensor."""
    return fake_quantize(weight, symmetric(absmax(weight), bits=bits))


def rounded(model: Model, project: Projection) -> Model:
    """After training, or without: what is deployed."""
    return model._replace(parameters={
        k: project(v) if k.removesuffix(".weight") in LAYERS and k.endswith(".weight") else v
        for k, v in model.parameters.items()})


def straight_through(weight: Array, *, project: Projection) -> tuple[Array, Pullback]:
    """The rounded weight, and the gradient as if it were the weight."""
    return project(weight), lambda g: (g,)


def in_front(op: Op, *inputs: str) -> list[Node]:
    """The network with `op` after each of the weights; it reads `inputs` of that name too."""
    nodes = with_loss(digits_cnn(training=True))
    for layer in LAYERS:
        name = f"{layer}.weight"
        read = (name, *(i.format(name) for i in inputs))
        nodes = insert_after(nodes, name, Node(f"{name}.used", op, read))
    return nodes


def batches(case: Case, more: Callable[[int], Mapping[str, Array]] = lambda step: {}) -> Batch:
    """Shuffled images and labels, and what a schedule adds."""
    images = shuffled({"x": case.data.x_train, "labels": case.data.y_train}, BATCH,
                      rng=np.random.default_rng(case.seed))
    return lambda step: {**images(step), **more(step)}


def trained(
    case: Case, nodes: list[Node], batch: Batch, penalty: Penalty | None = None
) -> Model:
    """The network after `STEPS` steps of the common recipe."""
    state = start(case.model.parameters, case.model.statistics)
    state = train(nodes, state, batch, steps=STEPS, rate=cosine(RATE, STEPS), penalty=penalty)
    return Model(digits_cnn(), state.parameters, state.statistics)


def float_again(case: Case) -> Model:
    """As many steps of ordinary training: what the steps alone do."""
    return trained(case, with_loss(digits_cnn(training=True)), batches(case))


def after_training(case: Case, *, project: Projection) -> Model:
    """No training: the float weights rounded."""
    return rounded(case.model, project)


def by_straight_through(case: Case, *, project: Projection) -> Model:
    """The estimator that the others want to do without."""
    nodes = in_front(partial(straight_through, project=project))
    return rounded(trained(case, nodes, batches(case)), project)


def by_binary_relax(case: Case, *, project: Projection) -> Model:
    """The pull grows from 1 to 300 in three quarters of the steps, then weights are rounded."""
    until = STEPS * 3 // 4
    strength = partial(geometric, growth=300 ** (1 / until), until=until)
    nodes = in_front(partial(binary_relax, project=project), "strength")
    batch = batches(case, lambda step: {"strength": np.array(strength(step), np.float32)})
    return rounded(trained(case, nodes, batch), project)


def by_blending(case: Case, *, project: Projection) -> Model:
    """The blend is complete after four fifths of the steps; biases and norms go on."""
    nodes = in_front(partial(blend, project=project), "alpha")
    share = partial(blend_schedule, begin=0, end=STEPS * 4 // 5)
    batch = batches(case, lambda step: {"alpha": np.array(share(step), np.float32)})
    return rounded(trained(case, nodes, batch), project)


def by_prox(
    case: Case, *, project: Projection, binary: bool, epochs: int, rate: float, strength: float
) -> Model:
    """Pulled ever harder in two thirds of the steps; then rounded, and norms trained alone."""
    weights = [f"{layer}.weight" for layer in LAYERS]
    total = epochs * (len(case.data.x_train) // BATCH)
    until = total * 2 // 3

    def pull(parameters: dict[str, Array], step: int) -> dict[str, Array]:
        now = ramp(step + 1, rate=strength / until)
        new = dict(parameters)
        for name in weights:
            w = new[name]
            level = np.abs(w).mean(axis=all_but(0, w.ndim), keepdims=True)
            new[name] = (pull_to_binary(w, now, level=level) if binary
                         else pull_to(w, now, project=project))
        return new

    nodes, batch = with_loss(digits_cnn(training=True)), batches(case)
    schedule = cosine(rate, total)
    state = train(nodes, start(case.model.parameters, case.model.statistics), batch,
                  steps=until, rate=schedule, after=pull)
    hard = rounded(Model(digits_cnn(), state.parameters, state.statistics), project)
    state = train(nodes, state._replace(parameters=hard.parameters), batch, steps=total,
                  rate=schedule, frozen=weights)
    return Model(digits_cnn(), state.parameters, state.statistics)


def by_noise(case: Case, *, project: Projection, share: float) -> Model:
    """A new random share of the weights rounded at each step."""
    shapes = {f"{n}.weight": case.model.parameters[f"{n}.weight"].shape for n in LAYERS}

    def masks(step: int) -> dict[str, Array]:
        rng = np.random.default_rng([case.seed, step])
        return {f"{name}.mask": noise_mask(shape, rate=share, rng=rng)
                for name, shape in shapes.items()}

    nodes = in_front(partial(quant_noise, project=project), "{}.mask")
    return rounded(trained(case, nodes, batches(case, masks)), project)


def by_waves(case: Case, *, bits: int, strength: float) -> Model:
    """SinReQ on the grid that min-max will choose, ever stronger; then rounded."""
    def waves(parameters: dict[str, Array], step: int) -> tuple[float, dict[str, Array]]:
        now, total, gradients = strength * 1000 ** (step / STEPS - 1), 0.0, {}
        for name in (f"{layer}.weight" for layer in LAYERS):
            w = parameters[name]
            value, pullback = sinreq(w, np.asarray(symmetric(absmax(w), bits=bits).scale))
            total += now * float(value.sum())
            gradients[name] = pullback(np.full_like(w, now))[0]
        return total, gradients

    nodes = with_loss(digits_cnn(training=True))
    return rounded(trained(case, nodes, batches(case), penalty=waves), partial(min_max, bits=bits))


def _methods() -> dict[tuple[str, str], Method]:
    table: dict[tuple[str, str], Method] = {("float", "fine-tuned as long"): float_again}
    for levels, project in (("binary", bwn), ("ternary", ternary)):
        table[levels, "rounded after training"] = partial(after_training, project=project)
        table[levels, "straight-through"] = partial(by_straight_through, project=project)
        table[levels, "BinaryRelax"] = partial(by_binary_relax, project=project)
        table[levels, "AlphaBlend"] = partial(by_blending, project=project)
        slow = partial(by_prox, project=project, binary=levels == "binary")
        strength = 0.05 if levels == "binary" else 1.0
        table[levels, "ProxQuant"] = partial(slow, epochs=15, rate=1e-3, strength=strength)
        table[levels, "ProxQuant, 30 epochs, rate 1e-2"] = partial(
            slow, epochs=30, rate=1e-2, strength=strength)
    for bits in (3, 2):
        for share in (0.0, 0.1, 0.5, 1.0):
            table[f"{bits} bits, min-max", f"QuantNoise, p = {share:g}"] = partial(
                by_noise, project=partial(min_max, bits=bits), share=share)
    waves = partial(by_waves, bits=3, strength=1e-2)
    table["3 bits, min-max", "SinReQ, then rounded"] = waves
    return table


#: (levels, name) -> method; the order is that of the table.
METHODS = _methods()


@lru_cache(maxsize=1)
def case(seed: int) -> Case:
    """A float network and its data; seeds that do not ship are trained, for choosing settings."""
    data = digits(seed=seed)
    if seed < REPLICAS:
        return Case(replica(seed), data, seed)
    return Case(fit(data, rng=np.random.default_rng(seed)), data, seed)


def judged(model: Model, data: Split) -> Outcome:
    """On the half of `data` that was not trained on."""
    inputs = {"x": data.x_test, "labels": data.y_test, **model.values}
    values = run(with_loss(model.nodes), inputs).values
    right = values["logits"].argmax(1) == data.y_test
    return Outcome(float(right.mean()), float(values["loss"]))


def measure(levels: str, name: str, seed: int) -> Row:
    """One cell of the table, as it stands in the file: rounded to what its noise allows."""
    at = case(seed)
    accuracy, nll = judged(METHODS[levels, name](at), at.data)
    return Row(levels, name, seed, round(accuracy, 4), round(nll, 4))


def read_table(path: Path = TABLE) -> list[Row]:
    """The table that ships."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(r["levels"], r["method"], int(r["seed"]), float(r["accuracy"]),
                    float(r["nll"])) for r in csv.DictReader(file)]


def as_csv(rows: Iterable[Row]) -> bytes:
    """The table as bytes."""
    return table_bytes(Row._fields, rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure all methods on all seeds, or some, and write the table."""
    from threadpoolctl import threadpool_limits

    from refquant.nn.memory import keep_freed_memory

    parser = argparse.ArgumentParser(description="Train with binary and ternary weights.")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--only", default="", help="methods whose name contains this")
    options = parser.parse_args(arguments)
    keep_freed_memory()
    chosen = [key for key in METHODS if options.only in " ".join(key)]
    rows: dict[tuple[tuple[str, str], int], Row] = {}
    with threadpool_limits(1):
        for seed in options.seeds:
            for key in chosen:
                rows[key, seed] = measure(*key, seed)
                print(*rows[key, seed], sep=", ", flush=True)
    write_whole(options.out, as_csv(rows[key, seed] for key in chosen for seed in options.seeds))
    for key in chosen:
        values = np.array([rows[key, seed][3:] for seed in options.seeds])
        mean, spread = values.mean(0), values.std(0, ddof=1) if len(values) > 1 else (0, 0)
        print(f"{key[0]:16} {key[1]:34} {100 * mean[0]:5.1f} +- {100 * spread[0]:4.1f} %"
              f"  nll {mean[1]:.3f}")


if __name__ == "__main__":
    main()
