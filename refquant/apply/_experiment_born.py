"""Networks born in few bits, over seeds: ``python -m refquant.apply._experiment_born --out FILE``.

Every row trains the digits network (or, for WAGE, one of its own) on the training half of
``digits(seed=s)`` and judges it once on the other half. Batches of 64; the rate falls to 0 on
a cosine; seeds 5 to 9 were used to choose the rates, 0 to 4 to write the table. The same seed
gives the same row on the same machine and BLAS.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.low_precision import (
    cast_gradients,
    drawn,
    fp8,
    initial_integers,
    integer_network,
    integer_sgd,
    loss_scaled,
    scaled,
    stored_sgd,
)
from refquant.apply.train import ADAM, SGD, Optimizer, shuffled, start, train
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
from refquant.nn.network import Node, Op, insert_after
from refquant.nn.optimizers import cosine, sgd
from refquant.nn.replicas import replica
from refquant.qat.binary_connect import binary_connect, kept_within
from refquant.qat.bitnet import absmean_weight
from refquant.qat.low_precision import predicted
from refquant.qat.lsq import lsq
from refquant.qat.trained_ternary import initial_levels, ternary_weight, trained_levels
from refquant.qat.xnor_net import binary_weight, printed_weight
from refquant.quantizers.fixed_point import FixedPoint
from refquant.quantizers.uniform import symmetric
from refquant.rounding import half_even, stochastic_sign

__all__ = ["ROWS", "TABLE", "Measured", "measure", "read"]

TABLE = Path(__file__).with_name("born_in_low_precision.csv")
SEEDS = range(5)
BATCH = 64

#: Gradient descent without momentum: nothing but the weights remembers.
PLAIN_SGD = SGD._replace(step=partial(sgd, momentum=0.0))

#: Layers whose weights are quantized: all but the first and the last.
INNER = ("r1a", "r1b", "dw1", "pw1", "r2a", "r2b", "dw2", "pw2")


class Measured(NamedTuple):
    """One row of the table. What a row does not have is NaN.

    Attributes
    ----------
    group, row : str
    seed : int
    accuracy, nll : float
        On the test half: share right, and mean negative log-likelihood in nats.
    moved : float
        Share of stored weights that a step changes, mean over steps.
    drift : float
        Sum over all weights of (stored less float sum), in predicted standard deviations.
    spread : float
        Mean square of (stored less float sum), over the predicted variance.
    """

    group: str
    row: str
    seed: int
    accuracy: float
    nll: float
    moved: float = np.nan
    drift: float = np.nan
    spread: float = np.nan


class Watch:
    """How the stored weights of a run differ from the float sums of their updates."""

    def __init__(self, optimizer: Optimizer, step: float) -> None:
        self.inner, self.step_size = optimizer, step
        self.moved: list[float] = []
        self.difference: dict[str, Array] = {}
        self.variance: dict[str, Array] = {}
        self.ends: dict[str, Array] = {}
        self.optimizer = Optimizer(optimizer.start, self.step)

    def step(self, parameters, gradients, state, *, rate):  # type: ignore[no-untyped-def]
        """One step of the optimizer watched."""
        new, state = self.inner.step(parameters, gradients, state, rate=rate)
        changed = total = 0
        for name, g in gradients.items():
            if not name.endswith(".weight"):
                continue
            w, now = parameters[name].astype(np.float64), new[name].astype(np.float64)
            update = (-g.dtype.type(rate(name)) * g).astype(np.float64)
            zero = np.zeros(w.shape)
            self.difference[name] = self.difference.get(name, zero) + (now - w - update)
            self.variance[name] = self.variance.get(name, zero) + predicted(
                update[None], self.step_size).variance
            # A walk that met an end of the grid is no longer the one predicted.
            at_end = (now <= -1) | (now >= 1 - self.step_size)
            self.ends[name] = self.ends.get(name, np.zeros(w.shape, bool)) | at_end
            changed += int(np.count_nonzero(now != w))
            total += w.size
        self.moved.append(changed / total)
        return new, state

    def judged(self) -> tuple[float, float, float]:
        """Share moved, drift and spread."""
        free = {k: ~v for k, v in self.ends.items()}
        m = np.concatenate([self.difference[k][free[k]] for k in free])
        v = np.concatenate([self.variance[k][free[k]] for k in free])
        if not v.sum() > 0:
            return float(np.mean(self.moved)), np.nan, np.nan
        return (float(np.mean(self.moved)), float(m.sum() / np.sqrt(v.sum())),
                float(np.mean(m**2) / np.mean(v)))


def stored(seed: int, bits: int | None, rounding: Callable[..., Callable[[Array], Array]],
           *, epochs: int = 15) -> Measured:
    """Weights of few bits without a second copy: nothing else is trained."""
    parameters = initial_parameters(rng=np.random.default_rng(seed))
    name = "float"
    optimizer = PLAIN_SGD
    watch = None
    if bits is not None:
        grid = FixedPoint(bits, bits - 1)
        parameters = {k: grid.decode(grid.encode(v)).astype(v.dtype) if k.endswith(".weight")
                      else v for k, v in parameters.items()}
        # Draws of each width's own: with the same ones, errors at two widths correlate by 0.4.
        watch = Watch(stored_sgd(grid, seed=10 * bits + seed, rounding=rounding), grid.scale)
        optimizer = watch.optimizer
        name = f"{'stochastic' if rounding is drawn else 'nearest'} {bits}"
    model = _fit(digits_cnn, parameters, initial_statistics(), seed, epochs, 0.05, optimizer,
                 frozen=[k for k in parameters if not k.endswith(".weight")])
    judged = _judged("storage", name, seed, model)
    if watch is None:
        return judged
    moved, drift, spread = watch.judged()
    if rounding is not drawn:
        drift = spread = np.nan
    return judged._replace(moved=moved, drift=drift, spread=spread)


def nearest(rng: np.random.Generator) -> Callable[[Array], Array]:
    """Nearest rounding, whatever the generator."""
    return half_even


def half(g: Array) -> Array:
    """What FP16 keeps of a gradient; too large becomes infinite."""
    with np.errstate(over="ignore"):
        return g.astype(np.float16).astype(g.dtype)


def short_gradients(seed: int, kind: str, *, epochs: int = 15) -> Measured:
    """Adam from scratch, with gradients or products in fewer bits."""
    parameters = initial_parameters(rng=np.random.default_rng(seed))
    optimizer = ADAM

    def network(*, training: bool = False) -> list[Node]:
        nodes = digits_cnn(training=training)
        if kind == "fp8":
            return fp8(nodes, keep=("stem.conv", "logits"))
        return cast_gradients(nodes, half) if kind.startswith("fp16") else nodes

    if kind == "fp16 scaled":
        parameters |= {"loss.scale": np.asarray(2.0**16, np.float32),
                       "loss.clean": np.asarray(0.0, np.float32)}
        optimizer = loss_scaled(ADAM, interval=50)
    model = _fit(network, parameters, initial_statistics(), seed, epochs, 3e-3, optimizer,
                 finish=scaled if kind == "fp16 scaled" else list)
    return _judged("gradients", kind, seed, model)


def wage(seed: int, kind: str, *, epochs: int = 40, rate: float = 8.0) -> Measured:
    """Integers everywhere, or with nearest updates; or the same layers in floats, by Adam."""
    if kind == "the same in floats":
        weights = {k: np.random.default_rng(seed).standard_normal(v.shape).astype(np.float32)
                   * np.float32(2 / np.prod(v.shape[1:])) ** np.float32(0.5)
                   for k, v in initial_integers(rng=np.random.default_rng(seed)).items()}
        model = _fit(lambda training=False: _in_floats(), weights, {}, seed, epochs, 3e-3, ADAM)
        return _judged("integers", kind, seed, model)
    rounding = nearest if kind == "wage, nearest updates" else drawn
    model = _fit(lambda training=False: integer_network(),
                 initial_integers(rng=np.random.default_rng(seed)), {}, seed, epochs, rate,
                 integer_sgd(seed=seed, rounding=rounding))
    return _judged("integers", kind, seed, model)


def _in_floats() -> list[Node]:
    """The network of WAGE without any of its roundings."""
    endings, errors = (".integers", ".short", ".shift"), ("c1", "c2", "c3", "logits")
    short = {n.name: n.inputs[0] for n in integer_network()
             if n.name.endswith(endings) or n.name in errors}

    def origin(name: str) -> str:
        return origin(short[name]) if name in short else name

    kept = [n._replace(inputs=tuple(map(origin, n.inputs)))
            for n in integer_network() if n.name not in short]
    return [n._replace(name="logits") if n.name == "fc" else n for n in kept]


def two_levels(weight: Array) -> dict[str, Array]:
    """What TTQ trains besides the weight."""
    return initial_levels(weight)._asdict()


def one_step(weight: Array) -> dict[str, Array]:
    """What LSQ trains besides the weight: the step, from the one of least squared error."""
    return {"step": omse(weight, partial(symmetric, bits=2)).scale.astype(weight.dtype)}


def few_levels(
    seed: int, kind: str, op: Op, *, epochs: int, scratch: bool = False, project: bool = False,
    own: Callable[[Array], Mapping[str, Array]] = lambda weight: {}, judged: Op | None = None,
) -> Measured:
    """Weights of two or three levels; first and last layer, and activations, in floats."""
    if scratch:
        parameters: Mapping[str, Array] = initial_parameters(rng=np.random.default_rng(seed))
        statistics: Mapping[str, Array] = initial_statistics()
    else:
        model = replica(seed)
        parameters, statistics = model.parameters, model.statistics
    trained = {layer: own(parameters[f"{layer}.weight"]) for layer in INNER}
    more = {f"{layer}.{of}": v for layer, found in trained.items() for of, v in found.items()}
    parameters = {**parameters, **more}

    def network(*, training: bool = False) -> list[Node]:
        nodes = digits_cnn(training=training)
        for layer in INNER:
            names = (f"{layer}.weight", *(f"{layer}.{of}" for of in trained[layer]))
            now = op if training or judged is None else judged
            nodes = insert_after(nodes, names[0], Node(f"{layer}.levels", now, names))
        return nodes

    def after(values: dict[str, Array], step: int) -> dict[str, Array]:
        kept = {f"{layer}.weight" for layer in INNER} if project else set()
        return {k: kept_within(v) if k in kept else np.maximum(v, v.dtype.type(1e-6))
                if k in more else v for k, v in values.items()}

    if not epochs:
        model = Model(network(), dict(parameters), dict(statistics))
    else:
        model = _fit(network, parameters, statistics, seed, epochs, 3e-3 if scratch else 1e-3,
                     ADAM, after=after)
    return _judged("levels", kind, seed, model)


def drawn_signs(seed: int) -> Measured:
    """BinaryConnect with drawn signs while training, judged by the plain ones."""
    draw = partial(stochastic_sign, rng=np.random.default_rng(seed), hard=True)
    return few_levels(seed, "BinaryConnect, drawn", partial(binary_connect, sign=draw), epochs=25,
                      scratch=True, project=True, judged=binary_connect)


_FILTERS = partial(binary_weight, axis=(1, 2, 3)), partial(printed_weight, axis=(1, 2, 3))

#: Row -> what measures it, by seed.
ROWS: dict[str, Callable[[int], Measured]] = {
    "float": partial(stored, bits=None, rounding=drawn),
    **{f"{'stochastic' if r is drawn else 'nearest'} {bits}": partial(stored, bits=bits, rounding=r)
       for bits in (16, 12, 10, 8, 6) for r in (nearest, drawn)},
    **{kind: partial(short_gradients, kind=kind)
       for kind in ("float32", "fp16", "fp16 scaled", "fp8")},
    **{kind: partial(wage, kind=kind)
       for kind in ("wage", "wage, nearest updates", "the same in floats")},
    **{f"{name}, not trained": partial(few_levels, kind=f"{name}, not trained", op=op, epochs=0)
       for name, op in (("BWN", _FILTERS[0]), ("TWN", ternary_weight),
                        ("BitNet", absmean_weight))},
    **{name: partial(few_levels, kind=name, op=op, epochs=15)
       for name, op in (("BWN, chain rule", _FILTERS[0]), ("BWN, as printed", _FILTERS[1]),
                        ("TWN", ternary_weight), ("BitNet", absmean_weight))},
    "TTQ": partial(few_levels, kind="TTQ", op=trained_levels, epochs=15, own=two_levels),
    "LSQ": partial(few_levels, kind="LSQ", op=partial(lsq, qmin=-1, qmax=1), epochs=15,
                   own=one_step),
    "BinaryConnect, from floats": partial(
        few_levels, kind="BinaryConnect, from floats", op=binary_connect, epochs=15, project=True),
    "BinaryConnect": partial(
        few_levels, kind="BinaryConnect", op=binary_connect, epochs=25, scratch=True, project=True),
    "BinaryConnect, drawn": drawn_signs,
}


def measure(row: str, seed: int) -> Measured:
    """One row of the table."""
    return ROWS[row](seed)


def read(path: Path = TABLE) -> list[Measured]:
    """The table."""
    with path.open(newline="", encoding="utf-8") as file:
        return [Measured(r["group"], r["row"], int(r["seed"]),
                         *(float(r[f] or "nan") for f in Measured._fields[3:]))
                for r in csv.DictReader(file)]


def text(rows: Sequence[Measured]) -> str:
    """The table as it is written: five digits, empty where there is nothing."""
    return table_bytes(Measured._fields, (
        [*r[:3], *("" if np.isnan(v) else f"{v:.5f}" for v in r[3:])] for r in rows)).decode()


def _fit(
    network: Callable[..., list[Node]], parameters: Mapping[str, Array],
    statistics: Mapping[str, Array], seed: int, epochs: int, rate: float, optimizer: Optimizer,
    *, frozen: Sequence[str] = (),
    after: Callable[[dict[str, Array], int], dict[str, Array]] | None = None,
    finish: Callable[[list[Node]], list[Node]] = list,
) -> Model:
    data = digits(seed=seed)
    steps = epochs * (len(data.x_train) // BATCH)
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, BATCH,
                     rng=np.random.default_rng(seed))
    state = train(finish(with_loss(network(training=True))),
                  start(parameters, statistics, optimizer), batch, steps=steps,
                  rate=cosine(rate, steps), optimizer=optimizer, frozen=frozen, after=after)
    return Model(network(), state.parameters, state.statistics)


def _judged(group: str, row: str, seed: int, model: Model) -> Measured:
    data: Split = digits(seed=seed)
    logits = predict(model, data.x_test)
    right = float((logits.argmax(1) == data.y_test).mean())
    return Measured(group, row, seed, right, float(softmax_cross_entropy(logits, data.y_test)[0]))


def _all(names: Sequence[str], seeds: Sequence[int]) -> Iterator[Measured]:
    for name in names:
        for seed in seeds:
            yield measure(name, seed)


def main(arguments: list[str] | None = None) -> None:
    """Measure all rows, some minutes on one core, and write the table."""
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Train networks that are born in few bits.")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--rows", nargs="*", default=list(ROWS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    options = parser.parse_args(arguments)
    keep_freed_memory()
    rows = []
    with threadpool_limits(1):
        for one in _all(options.rows, options.seeds):
            rows.append(one)
            print(one, flush=True)
    write_whole(options.out, text(rows).encode())


if __name__ == "__main__":
    main()
