"""Four ways to make a network small, at equal bytes: writes the table of the book's chapter.

``python -m refquant.apply._experiment_equal_bytes`` takes two minutes on one core. Budgets are
the bytes of the weights in 8, 4, 3 and 2 bits with a scale of 32 bits per channel; every other
method gets as near to them as it can from below. Norms and biases cost all the same, and are
left out.
"""

import argparse
import csv
import io
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
from refquant.apply.layerwise import parallel
from refquant.apply.simulate import static
from refquant.apply.train import shuffled, start, train
from refquant.calibration.mse import omse
from refquant.calibration.second_moment import SecondMoment
from refquant.compression.deep_compression import Shared, relative, share, size
from refquant.compression.low_rank import break_even, factorize_for
from refquant.compression.pruning import keep_largest_of_all
from refquant.granularity import all_but
from refquant.nn._artifacts import write_whole
from refquant.nn.data import digits
from refquant.nn.models import Model, accuracy, digits_cnn, with_loss
from refquant.nn.network import Node, Tap, untouched
from refquant.nn.optimizers import cosine
from refquant.nn.replicas import replica
from refquant.quantizers.uniform import symmetric

__all__ = ["BITS", "METHODS", "SEEDS", "TABLE", "measure"]

TABLE = Path(__file__).with_name("equal_bytes.csv")
FIELDS = ["method", "bits", "seed", "bytes", "accuracy", "trained"]
SEEDS, BITS = range(3), (8, 4, 3, 2)
STEPS, RATE, BATCH, VALUES = 150, 2e-3, 64, 15
GAPS = range(3, 9)


class Small(NamedTuple):
    """A network made small: how to run and train it, and what its weights take."""

    nodes: list[Node]
    training: list[Node]
    values: dict[str, Array]
    bytes: int
    tap: Tap = untouched
    after: Callable[[dict[str, Array], int], Mapping[str, Array]] | None = None


def weights(model: Model) -> dict[str, Array]:
    """All weights of layers; norms and biases are others."""
    return {n: v for n, v in model.parameters.items() if n.endswith(".weight")}


def budget(model: Model, bits: int) -> int:
    """Bytes of the weights in `bits` bits, a scale per channel."""
    return sum(-(-v.size * bits // 8) + 4 * len(v) for v in weights(model).values())


def quantized(model: Model, bits: int, seed: int) -> Small:
    """Codes per channel, scales of least squared error; trained straight through."""
    plan = {name: omse(w, partial(symmetric, bits=bits), axis=all_but(0, w.ndim))
            for name, w in weights(model).items()}
    return Small(digits_cnn(), digits_cnn(training=True), model.parameters,
                 budget(model, bits), static(plan))


def thinned(model: Model, sparsity: float) -> Small:
    """Weights pruned together by magnitude; what is left in 32 bits, and gaps in the best few."""
    names = list(weights(model))
    kept = dict(zip(names, keep_largest_of_all([np.abs(model.parameters[n]) for n in names],
                                               sparsity), strict=True))
    entries = {bits: sum(relative(m.astype(np.int32), bits).gaps.size for m in kept.values())
               for bits in GAPS}
    return Small(digits_cnn(), digits_cnn(training=True), pruned(model.parameters, kept),
                 min(n * (32 + bits) for bits, n in entries.items()) // 8 + 1, after=hold(kept))


def thin(model: Model, share_: float, seed: int) -> Small:
    """Factors for the inputs of each layer with the same share of its numbers."""
    factors = {}
    for name, moment in moments(seed).items():
        flat = model.parameters[name].reshape(len(model.parameters[name]), -1)
        rank = max(break_even(flat.shape, int(share_ * flat.size)), 1)
        if rank <= break_even(flat.shape):
            factors[name] = factorize_for(flat, moment.hessian.astype(np.float64), rank)
    one, two = (factored(digits_cnn(training=t), model.parameters, factors)
                for t in (False, True))
    taken = sum(4 * v.size for n, v in one.values.items()
                if n.endswith((".weight", ".left", ".right")))
    return Small(one.nodes, two.nodes, one.values, taken)


@lru_cache(maxsize=1)
def moments(seed: int) -> dict[str, SecondMoment]:
    """Second moment of what enters each layer that is not depthwise, on 256 images."""
    class Seen(NamedTuple):
        weight: Array
        moment: SecondMoment

    model, x = replica(seed), digits(seed=seed).x_train[:256]
    names = [n for n in weights(model) if not n.startswith("dw")]
    made = parallel(model.nodes, model.values, [{"x": x}], SecondMoment.of, Seen, names=names)
    return {name: result.moment for name, result in made.results.items()}


def deep(model: Model, sparsity: float) -> tuple[Small, dict[str, Shared]]:
    """Pruned, with 15 values a layer, written by Huffman's code."""
    start_ = thinned(model, sparsity)
    shares = {n: share(start_.values[n], VALUES) for n in weights(model)}
    one, two = (with_codebooks(digits_cnn(training=t), start_.values, shares)
                for t in (False, True))
    return Small(one.nodes, two.nodes, one.values,
                 min(size(shares, index_bits=bits) for bits in GAPS)), shares


def largest(make: Callable[[float], Small], allowed: int, ways: Array) -> Small:
    """The first of the ways, the most generous first, that fits."""
    for way in ways:
        small = make(float(way))
        if small.bytes <= allowed:
            return small
    raise ValueError(f"`allowed` must hold something; got {allowed} bytes")


def by_quantization(model: Model, bits: int, seed: int) -> tuple[Small, float]:
    small = quantized(model, bits, seed)
    return small, tuned(small, model, seed)


def by_pruning(model: Model, bits: int, seed: int) -> tuple[Small, float]:
    small = largest(partial(thinned, model), budget(model, bits), np.linspace(0.7, 0.995, 60))
    return small, tuned(small, model, seed)


def by_low_rank(model: Model, bits: int, seed: int) -> tuple[Small, float]:
    small = largest(lambda s: thin(model, s, seed), budget(model, bits),
                    np.arange(0.9, -0.01, -0.005))
    return small, tuned(small, model, seed)


def by_deep_compression(model: Model, bits: int, seed: int) -> tuple[Small, float]:
    """Half of the steps to train what is left, half to train the values."""
    allowed = budget(model, bits)
    ways = np.linspace(0, 0.98, 50)
    small = largest(lambda s: deep(model, s)[0], allowed, ways)
    sparsity = next(float(s) for s in ways if deep(model, float(s))[0].bytes <= allowed)
    first = thinned(model, sparsity)
    parameters, statistics = trained(first, model, seed, STEPS // 2)
    again = model._replace(parameters=parameters, statistics=statistics)
    # Training has moved weights, so that the same sparsity may take a few bytes more.
    second = largest(lambda s: deep(again, s)[0], allowed, np.linspace(sparsity, 0.98, 50))
    return small, tuned(second, again, seed, STEPS - STEPS // 2)


METHODS: dict[str, Callable[[Model, int, int], tuple[Small, float]]] = {
    "quantization": by_quantization,
    "pruning": by_pruning,
    "low rank": by_low_rank,
    "Deep Compression": by_deep_compression,
}


def trained(
    small: Small, model: Model, seed: int, steps: int
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Parameters and statistics after so many steps."""
    data = digits(seed=seed)
    batch = shuffled({"x": data.x_train, "labels": data.y_train}, BATCH,
                     rng=np.random.default_rng(seed))
    state = train(with_loss(small.training), start(small.values, model.statistics), batch,
                  steps=steps, rate=cosine(RATE, steps), tap=small.tap, after=small.after)
    return state.parameters, state.statistics


def tuned(small: Small, model: Model, seed: int, steps: int = STEPS) -> float:
    """Accuracy on the test half after training."""
    parameters, statistics = trained(small, model, seed, steps)
    return judged(small._replace(values=parameters), statistics, seed)


def judged(small: Small, statistics: Mapping[str, Array], seed: int) -> float:
    """Accuracy on the test half."""
    data = digits(seed=seed)
    model = Model(small.nodes, dict(small.values), dict(statistics))
    return accuracy(model, data.x_test, data.y_test, tap=small.tap)


def measure(method: str, bits: int, seed: int) -> dict[str, str]:
    """One row of the table."""
    model = replica(seed)
    small, after = METHODS[method](model, bits, seed)
    before = judged(small, model.statistics, seed)
    row = (method, bits, seed, small.bytes, f"{before:.4f}", f"{after:.4f}")
    return {field: str(value) for field, value in zip(FIELDS, row, strict=True)}


def main(arguments: list[str] | None = None) -> None:
    """All rows into a file; it is replaced when the table is whole."""
    from rich.progress import track
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Compare ways to compress at equal bytes.")
    parser.add_argument("--out", type=Path, default=TABLE)
    options = parser.parse_args(arguments)
    cases = [(m, b, s) for b in BITS for m in METHODS for s in SEEDS]
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    with threadpool_limits(1):
        for case in track(cases, "measuring"):
            writer.writerow(measure(*case))
    write_whole(options.out, text.getvalue().encode())


if __name__ == "__main__":
    main()
