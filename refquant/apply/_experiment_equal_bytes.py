"""Ways to make a network small, at equal bytes: writes the table of the book's chapter.

``python -m refquant.apply._experiment_equal_bytes`` takes six minutes on one core. Budgets are
the bytes of the weights in 8, 4, 3 and 2 bits with a scale of 32 bits per channel; every other
method gets as near to them as it can from below. Norms and biases are left out.

Every method is trained as the networks themselves were: 40 epochs of Adam, 0.01 falling to 0 on
a cosine. On two other networks, of seeds 3 and 4, a rate of 0.002 was worse for quantization,
pruning and low rank and made no difference for Deep Compression, nor did 0.02 for distillation.
What a network is before that is judged with norms measured again: averages of the whole one
would say more about the averages than about the method.
"""

import argparse
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.compress import (
    factored,
    hold,
    pruned,
    with_codebooks,
)
from refquant.apply.distill import TEACHER, taught
from refquant.apply.layerwise import parallel
from refquant.apply.norms import measured_again
from refquant.apply.simulate import static
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import omse
from refquant.calibration.second_moment import SecondMoment
from refquant.compression.deep_compression import Shared, relative, share, size
from refquant.compression.low_rank import break_even, factorize_for
from refquant.compression.pruning import keep_largest_of_all
from refquant.granularity import all_but
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn.data import digits
from refquant.nn.models import (
    Model,
    accuracy,
    digits_cnn,
    initial_parameters,
    initial_statistics,
    predict,
    with_loss,
)
from refquant.nn.network import Node, Tap, untouched
from refquant.nn.optimizers import cosine
from refquant.nn.replicas import replica
from refquant.qat.distillation import hinton
from refquant.quantizers.uniform import symmetric

__all__ = ["BITS", "METHODS", "SEEDS", "TABLE", "measure"]

TABLE = Path(__file__).with_name("equal_bytes.csv")
FIELDS = ["method", "bits", "seed", "bytes", "accuracy", "trained"]
SEEDS, BITS = range(3), (8, 4, 3, 2)
STEPS, RATE, BATCH = 560, 1e-2, 64
SHOWN, VALUES = 256, 15
GAPS, WIDTHS = range(3, 9), range(32, 0, -1)
#: Bits of a student that is distilled and quantized.
STUDENT_BITS = 4


class Small(NamedTuple):
    """A network made small: how to run and train it, and what its weights take."""

    nodes: list[Node]
    training: list[Node]
    values: dict[str, Array]
    statistics: dict[str, Array]
    bytes: int
    tap: Tap = untouched
    after: Callable[[dict[str, Array], int], Mapping[str, Array]] | None = None


class Case(NamedTuple):
    """One network and one budget."""

    model: Model
    bits: int
    seed: int

    @property
    def allowed(self) -> int:
        """Bytes of the weights in `bits` bits, a scale per channel."""
        return in_bits(self.model.parameters, self.bits)


def weights(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """All weights of layers; norms and biases are others."""
    return {n: v for n, v in parameters.items() if n.endswith(".weight")}


def in_bits(parameters: Mapping[str, Array], bits: int) -> int:
    """Bytes of the weights in `bits` bits, a scale per channel."""
    return sum(-(-v.size * bits // 8) + 4 * len(v) for v in weights(parameters).values())


def in_floats(parameters: Mapping[str, Array]) -> int:
    """Bytes of the weights as they are; no scales."""
    return sum(v.nbytes for v in weights(parameters).values())


def whole(model: Model) -> Small:
    """The network as it is."""
    return Small(digits_cnn(), digits_cnn(training=True), dict(model.parameters),
                 dict(model.statistics), in_floats(model.parameters))


def quantized(model: Model, bits: int) -> Small:
    """Codes per channel, scales of least squared error; trained straight through."""
    plan = {name: omse(w, partial(symmetric, bits=bits), axis=all_but(0, w.ndim))
            for name, w in weights(model.parameters).items()}
    return whole(model)._replace(bytes=in_bits(model.parameters, bits), tap=static(plan))


def thinned(model: Model, sparsity: float) -> Small:
    """Weights pruned together by magnitude; what is left in 32 bits, and gaps in the best few."""
    names = list(weights(model.parameters))
    kept = dict(zip(names, keep_largest_of_all([np.abs(model.parameters[n]) for n in names],
                                               sparsity), strict=True))
    entries = {bits: sum(relative(m.astype(np.int32), bits).gaps.size for m in kept.values())
               for bits in GAPS}
    return whole(model)._replace(
        values=pruned(model.parameters, kept), after=hold(kept),
        bytes=min(n * (32 + bits) for bits, n in entries.items()) // 8 + 1)


def thin(model: Model, allowed: int, seed: int) -> Small:
    """Factors for the inputs of each layer, the ranks of least relative error for the bytes.

    One rule for all layers, the same share of its numbers, would leave a stem of 16 x 9 one
    direction of nine, and nothing behind it can mend that.
    """
    seen = {n: m.hessian.astype(np.float64) for n, m in moments(seed).items()}
    flat = {n: model.parameters[n].reshape(len(model.parameters[n]), -1) for n in seen}
    ranks = 1 + max(min(w.shape) for w in flat.values())
    lost, cost = (np.zeros((len(flat), ranks)) for _ in range(2))   # choice 0: the layer whole
    for i, (name, w) in enumerate(flat.items()):
        everything = factorize_for(w, seen[name], 0).lost
        cost[i] = 4 * w.size
        for rank in range(1, break_even(w.shape) + 1):
            lost[i, rank] = factorize_for(w, seen[name], rank).lost / everything
            cost[i, rank] = 4 * rank * sum(w.shape)
    others = sum(4 * v.size for n, v in weights(model.parameters).items() if n not in flat)
    chosen = allocate(lost, [Budget("bytes", cost, allowed - others)]).choice
    factors = {
        name: factorize_for(w, seen[name], int(rank))
        for (name, w), rank in zip(flat.items(), chosen, strict=True)
        if 0 < rank <= break_even(w.shape)}
    one, two = (factored(digits_cnn(training=t), model.parameters, factors)
                for t in (False, True))
    taken = sum(v.nbytes for n, v in one.values.items()
                if n.endswith((".weight", ".left", ".right")))
    return Small(one.nodes, two.nodes, one.values, dict(model.statistics), taken)


@lru_cache(maxsize=1)
def moments(seed: int) -> dict[str, SecondMoment]:
    """Second moment of what enters each layer that is not depthwise, on some images."""
    class Seen(NamedTuple):
        weight: Array
        moment: SecondMoment

    model, x = replica(seed), digits(seed=seed).x_train[:SHOWN]
    names = [n for n in weights(model.parameters) if not n.startswith("dw")]
    made = parallel(model.nodes, model.values, [{"x": x}], SecondMoment.of, Seen, names=names)
    return {name: result.moment for name, result in made.results.items()}


def deep(model: Model, sparsity: float) -> Small:
    """Pruned, with 15 values a layer, written by Huffman's code."""
    pruned_ = thinned(model, sparsity)
    shares: dict[str, Shared] = {n: share(pruned_.values[n], VALUES)
                                 for n in weights(model.parameters)}
    one, two = (with_codebooks(digits_cnn(training=t), pruned_.values, shares)
                for t in (False, True))
    return Small(one.nodes, two.nodes, one.values, dict(model.statistics),
                 min(size(shares, index_bits=bits) for bits in GAPS))


def student(allowed: int, seed: int, taken: Callable[[Mapping[str, Array]], int]) -> Model:
    """The widest network of the same kind that fits, before it has learned anything."""
    for width in WIDTHS:
        rng = np.random.default_rng([seed, width])
        parameters = initial_parameters(rng=rng, width=width)
        if taken(parameters) <= allowed:
            return Model(digits_cnn(), parameters, initial_statistics(width=width))
    raise ValueError(f"`allowed` must hold a network; got {allowed} bytes")


def largest(make: Callable[[float], Small], allowed: int, ways: Array) -> tuple[float, Small]:
    """The first of the ways, the most generous first, that fits."""
    for way in ways:
        small = make(float(way))
        if small.bytes <= allowed:
            return float(way), small
    raise ValueError(f"`allowed` must hold something; got {allowed} bytes")


#: What a method makes of a case: the network before training (None: there is none), its bytes,
#: and its accuracy after training.
Made = tuple[Small | None, int, float]


def by_quantization(case: Case) -> Made:
    return tuned(quantized(case.model, case.bits), case)


def by_pruning(case: Case) -> Made:
    ways = np.linspace(0.7, 0.995, 60)
    return tuned(largest(partial(thinned, case.model), case.allowed, ways)[1], case)


def by_low_rank(case: Case) -> Made:
    return tuned(thin(case.model, case.allowed, case.seed), case)


def by_deep_compression(case: Case) -> Made:
    """Half of the steps to train what is left, half to train the values."""
    sparsity, small = largest(partial(deep, case.model), case.allowed, np.linspace(0, 0.98, 50))
    again = trained(thinned(case.model, sparsity), case, STEPS // 2)
    # Training has moved weights, so that the same sparsity may take a few bytes more.
    second = largest(partial(deep, again), case.allowed, np.linspace(sparsity, 0.98, 50))[1]
    _, _, after = tuned(second, case, STEPS - STEPS // 2)
    return small, small.bytes, after


def by_width(case: Case, *, taught_by: Callable[[Case], Model | None]) -> Made:
    """A narrow network that learns from labels, and from the answers of a teacher if it has one."""
    narrow = whole(student(case.allowed, case.seed, in_floats))
    _, _, after = tuned(narrow, case, teacher=taught_by(case))
    return None, narrow.bytes, after


def by_distillation_in_bits(case: Case) -> Made:
    """A wider one: half of the steps in float, half with weights of 4 bits."""
    taken = partial(in_bits, bits=STUDENT_BITS)
    narrow = whole(student(case.allowed, case.seed, taken))
    made = quantized(trained(narrow, case, STEPS // 2, teacher=case.model), STUDENT_BITS)
    _, _, after = tuned(made, case, STEPS - STEPS // 2, teacher=case.model)
    return None, made.bytes, after


METHODS: dict[str, Callable[[Case], Made]] = {
    "quantization": by_quantization,
    "pruning": by_pruning,
    "low rank": by_low_rank,
    "Deep Compression": by_deep_compression,
    "narrow": partial(by_width, taught_by=lambda case: None),
    "distillation": partial(by_width, taught_by=lambda case: case.model),
    "distilled, 4 bits": by_distillation_in_bits,
}


def trained(small: Small, case: Case, steps: int, *, teacher: Model | None = None) -> Model:
    """The network after so many steps, beside a teacher if there is one."""
    data = digits(seed=case.seed)
    arrays = {"x": data.x_train, "labels": data.y_train}
    nodes = with_loss(small.training)
    if teacher is not None:
        arrays |= {f"{TEACHER}logits": predict(teacher, data.x_train)}
        nodes = taught(small.training, partial(hinton, alpha=0.1, beta=0.9, temperature=4.0))
    batch = shuffled(arrays, BATCH, rng=np.random.default_rng(case.seed))
    state = train(nodes, start(small.values, small.statistics), batch, steps=steps,
                  rate=cosine(RATE, steps), tap=small.tap, after=small.after)
    return Model(small.nodes, state.parameters, state.statistics)


def tuned(
    small: Small, case: Case, steps: int = STEPS, *, teacher: Model | None = None
) -> Made:
    """Before training, bytes, accuracy after."""
    data = digits(seed=case.seed)
    made = trained(small, case, steps, teacher=teacher)
    return small, small.bytes, accuracy(made, data.x_test, data.y_test, tap=small.tap)


def untrained(small: Small, seed: int) -> float:
    """Accuracy before training, norms measured again on some images."""
    data = digits(seed=seed)
    values = {name: small.tap(name, value) for name, value in small.values.items()}
    statistics = measured_again(small.training, values, small.statistics,
                                [{"x": data.x_train[:SHOWN]}])
    return accuracy(Model(small.nodes, values, statistics), data.x_test, data.y_test)


def measure(method: str, bits: int, seed: int) -> dict[str, str]:
    """One row of the table; no accuracy before training where there is no network yet."""
    case = Case(replica(seed), bits, seed)
    small, taken, after = METHODS[method](case)
    before = "" if small is None else f"{untrained(small, seed):.4f}"
    row = (method, bits, seed, taken, before, f"{after:.4f}")
    return {field: str(value) for field, value in zip(FIELDS, row, strict=True)}


def main(arguments: list[str] | None = None) -> None:
    """All rows into a file; it is replaced when the table is whole."""
    from rich.progress import track
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Compare ways to compress at equal bytes.")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    cases = [(m, b, s) for b in BITS for m in METHODS for s in SEEDS]
    with threadpool_limits(1):
        found = [measure(*case) for case in track(cases, "measuring")]
    write_whole(options.out, table_bytes(FIELDS, ([row[f] for f in FIELDS] for row in found)))


if __name__ == "__main__":
    main()
