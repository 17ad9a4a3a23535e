"""What synthetic images are worth: ``python -m refquant.apply._experiment_zero_shot``.

Six shipped networks (``PLAIN`` and ``SEPARABLE``, three seeds each), 128 images of each kind; one
row per figure in ``zero_shot.csv``. A quarter of an hour on one core; networks that are in the file
already are not measured again, so it goes on where it was stopped. The columns:

experiment   ``rounding`` (AdaRound), ``training`` (W and A in few bits), ``ranges`` (A alone),
             ``gap`` (statistics), ``sensitivity`` (rank correlation with real images),
             ``generator``
network      name of the architecture
seed         of the network, of the images and of everything drawn
setting      bits, or what is measured
images       where they come from
value        accuracy on the 500 test images, unless the setting says otherwise
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from refquant._types import Array
from refquant.apply.calibrate import observe, plan
from refquant.apply.mixed import candidates, divergences
from refquant.apply.reconstruct import Layer, reconstruct
from refquant.apply.rewrite import Rewritten, fold_batch_norms
from refquant.apply.simulate import input_names, static, weight_names, with_quantized
from refquant.apply.train import Batch, shuffled, start
from refquant.apply.zero_shot import (
    GENERATOR,
    drawn,
    fine_tune,
    generator_nodes,
    statistics_gaps,
    statistics_loss,
    train_generator,
)
from refquant.calibration.mse import omse
from refquant.calibration.statistics import Range
from refquant.nn._artifacts import table_bytes, write_whole
from refquant.nn.data import Split
from refquant.nn.models import Model
from refquant.nn.network import Tap, run, untouched
from refquant.nn.normalization import Running
from refquant.nn.optimizers import adam_start
from refquant.nn.small_models import PLAIN, SEPARABLE, Architecture, split, trained
from refquant.ptq.adaround import adaround
from refquant.quantizer import Quantizer
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric
from refquant.zero_shot import batchnorm_statistics
from refquant.zero_shot.batchnorm_statistics import (
    Distance,
    batch_distance,
    distill,
    gaussian_divergence,
    sample_distance,
)
from refquant.zero_shot.generator import class_spread, generate, initial_generator

__all__ = ["Row", "Subject", "measured", "rows_of"]

FILE = Path(__file__).with_name("zero_shot.csv")
FIELDS = ["experiment", "network", "seed", "setting", "images", "value"]
NETWORKS = {architecture.name: architecture for architecture in (PLAIN, SEPARABLE)}
SEEDS, IMAGES, SHAPE = range(3), 128, (8, 8, 1)

DISTANCES: dict[str, Distance] = {
    "batch": batch_distance, "sample": sample_distance, "divergence": gaussian_divergence}


class Row(NamedTuple):
    """One figure."""

    experiment: str
    network: str
    seed: int
    setting: str
    images: str
    value: float


class Subject(NamedTuple):
    """A network, before and after folding, and the digits."""

    architecture: Architecture
    seed: int
    model: Model
    folded: Rewritten
    data: Split
    pixels: Running

    @classmethod
    def make(cls, name: str, seed: int) -> "Subject":
        model, data = trained(NETWORKS[name], seed=seed), split()
        # What preprocessing would know: one mean and one variance for all pixels.
        pixels = Running(np.array([data.x_train.mean(dtype=np.float64)], np.float32),
                         np.array([data.x_train.var(dtype=np.float64)], np.float32))
        return cls(NETWORKS[name], seed, model, fold_batch_norms(model.nodes, model.values), data,
                   pixels)

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def accuracy(self, values: Mapping[str, Array], tap: Tap = untouched) -> float:
        """Share of the test images that the folded network reads with other values."""
        inputs = {"x": self.data.x_test, **values}
        logits = run(self.folded.nodes, inputs, tap=tap).values["logits"]
        return float((logits.argmax(1) == self.data.y_test).mean())

    def noise(self, count: int = IMAGES) -> Array:
        """Normal pixels of the mean and variance of the training set."""
        noise = self.rng().standard_normal((count, *SHAPE)).astype(np.float32)
        return self.pixels.mean + np.sqrt(self.pixels.variance) * noise

    def distilled(self, kind: str, *, steps: int = 500, count: int = IMAGES) -> Array:
        """The noise, after a descent in a distance; the rate of 0.5 is for unit deviation."""
        loss = statistics_loss(self.model.nodes, self.model.values, known={"x": self.pixels},
                               distance=DISTANCES[kind])
        begin = batchnorm_statistics.start(
            self.noise(count), rate=0.5 * float(self.pixels.variance[0]) ** 0.5)
        return distill(loss, begin, steps=steps).x

    def real(self, count: int = IMAGES) -> Array:
        return self.data.x_train[self.rng().permutation(len(self.data.x_train))[:count]]


# The four uses of images.

def rounded(subject: Subject, images: Array, bits: int) -> float:
    """Accuracy after AdaRound of all weights, per channel; activations stay float."""
    def method(layer: Layer) -> Array:
        grid = omse(layer.weight, partial(symmetric, bits=bits), axis=1)
        return adaround(layer.weight, layer.x, layer.target, grid, rng=np.random.default_rng(1),
                        bias=layer.bias, activation=layer.activation).weight

    nodes, values = subject.folded
    return subject.accuracy(
        reconstruct(nodes, values, {"x": images}, method, names=weight_names(nodes)))


def fit_weight(weight: Array, bits: int) -> Uniform:
    """Per channel, least squared error."""
    return omse(weight, partial(symmetric, bits=bits), axis=tuple(range(1, weight.ndim)))


def weight_plan(subject: Subject, bits: int) -> dict[str, Uniform]:
    nodes, values = subject.folded
    return {name: fit_weight(values[name], bits) for name in weight_names(nodes)}


def activation_plan(subject: Subject, images: Array, bits: int) -> dict[str, Quantizer]:
    """Per tensor, least to greatest; the input of the network in 8 bits."""
    nodes, values = subject.folded
    names = input_names(nodes)
    seen = observe(nodes, values, [{"x": images}], Range.of, names=names)

    def make(r: Range, bits: int) -> Quantizer:
        return asymmetric(np.minimum(r.low, 0), np.maximum(r.high, 0), bits=bits)

    return plan(seen, partial(make, bits=bits)) | plan(seen, partial(make, bits=8), names=["x"])


def tuned(
    subject: Subject, images: Array, bits: tuple[int, int], *, steps: int = 300,
    batch: Batch | None = None,
) -> float:
    """Accuracy after training with weights and activations in few bits, ranges from the images."""
    tap = static({**weight_plan(subject, bits[0]), **activation_plan(subject, images, bits[1])})
    batch = batch or shuffled({"x": images}, 64, rng=subject.rng())
    nodes, values = subject.folded
    return subject.accuracy(fine_tune(nodes, values, batch, tap, steps=steps), tap)


def sensitivity(subject: Subject, images: Array, bits: int) -> Array:
    """Divergence of the predictions when one layer alone has few bits, for each layer."""
    nodes, values = subject.folded
    names = weight_names(nodes)
    weights = candidates(values, names, [partial(fit_weight, bits=bits)])
    return divergences(nodes, {**values, "x": images}, names, weights)[:, 0]


# Generators.

def generator(subject: Subject, weight: float, steps: int = 600) -> dict[str, Array]:
    """Trained in front of the network; with weight 0 by its verdict alone.

    Ten times the published rate, since the steps are so few.
    """
    nodes = generator_nodes(subject.model.nodes, subject.model.values, shape=SHAPE, weight=weight)
    rng = subject.rng()
    begin = start(initial_generator(10, 64, rng=rng), {}, GENERATOR)
    return train_generator(nodes, subject.model.values, begin, steps=steps, rng=rng,
                           rate=1e-2).parameters


def adversarial(subject: Subject, steps: int = 4000, size: int = 64) -> dict[str, Array]:
    """A conditional GAN, which needs the real images: its discriminator sees them and no network.

    Two layers on both sides, Adam of GANs, the generator's loss the one that does not saturate.
    """
    rng = subject.rng()
    ours = initial_generator(10, 64, rng=rng)
    theirs: dict[str, Array] = {
        "w": (rng.standard_normal((128, 74)) * (2 / 74) ** 0.5).astype(np.float32),
        "b": np.zeros(128, np.float32),
        "v": (rng.standard_normal(128) * (1 / 128) ** 0.5).astype(np.float32)}
    step, mine, other = GENERATOR.step, adam_start(ours), adam_start(theirs)
    real, labels = subject.data.x_train.reshape(-1, 64), subject.data.y_train

    def judge(rows: Array, wanted: float) -> tuple[dict[str, Array], Array]:
        """Gradients of the logistic loss by the discriminator and by what it sees."""
        before = rows @ theirs["w"].T + theirs["b"]
        slope = np.where(before > 0, 1, 0.2).astype(np.float32)
        score = (before * slope) @ theirs["v"]
        g = ((1 / (1 + np.exp(-score)) - wanted) / len(rows)).astype(np.float32)
        inner = g[:, None] * theirs["v"] * slope
        return ({"w": inner.T @ rows, "b": inner.sum(0), "v": g @ (before * slope)},
                inner @ theirs["w"])

    for _ in range(steps):
        chosen = rng.integers(0, len(real), size)
        noise = rng.standard_normal((size, 32)).astype(np.float32)
        wanted = rng.integers(0, 10, size)
        images, pullback = generate(noise, wanted, *ours.values(), shape=(64,))
        one_hot = np.eye(10, dtype=np.float32)
        fake = np.hstack([images, one_hot[wanted]])
        true = np.hstack([real[chosen], one_hot[labels[chosen]]])
        parts = judge(true, 0.9)[0], judge(fake, 0.0)[0]
        theirs, other = step(theirs, {k: parts[0][k] + parts[1][k] for k in theirs}, other,
                             rate=5e-4)
        _, by_image = judge(fake, 1.0)
        gradients = dict(zip(ours, pullback(by_image[:, :64])[2:], strict=True))
        ours, mine = step(ours, gradients, mine, rate=5e-4)
    return dict(ours)


# All of it for one network.

def images_of(subject: Subject, say: Callable[[str], None]) -> dict[str, Array]:
    """Images of each kind that needs no generator."""
    found = {"real": subject.real(), "gaussian": subject.noise(),
             "uniform": subject.rng().random((IMAGES, *SHAPE), np.float32)}
    for kind in DISTANCES:
        say(f"distilling by {kind}")
        found[kind] = subject.distilled(kind)
    return found


def rows_of(subject: Subject, say: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """Every figure of one network."""
    name, seed = subject.architecture.name, subject.seed
    row = partial(Row, network=name, seed=seed)
    nodes, values = subject.folded
    images = images_of(subject, say)
    makers: dict[str, Batch] = {}
    for kind, train_it in (("generator", partial(generator, weight=0.1)),
                           ("verdict alone", partial(generator, weight=0.0)),
                           ("GAN", adversarial)):
        say(f"training {kind}")
        makers[kind] = drawn(train_it(subject), shape=SHAPE, size=64, rng=subject.rng())
        images[kind] = np.concatenate([makers[kind](step)["x"] for step in (0, 1)])
        judged = drawn_for_judging(makers[kind])
        logits = run(nodes, {"x": judged["x"], **values}).values["logits"]
        yield row("generator", setting="labels agreed", images=kind,
                  value=float((logits.argmax(1) == judged["labels"]).mean()))
        spread = class_spread(judged["x"], judged["labels"], 10)
        yield row("generator", setting="spread in class", images=kind,
                  value=float(np.nanmean(spread)))
    yield row("generator", setting="spread in class", images="real", value=float(
        class_spread(subject.data.x_train, subject.data.y_train, 10).mean()))

    yield row("rounding", setting="float", images="none", value=subject.accuracy(values))
    for kind, some in images.items():
        say(f"using {kind}")
        for distance in ("batch", "sample"):
            gaps = statistics_gaps(subject.model.nodes, subject.model.values, some,
                                   distance=DISTANCES[distance])
            yield row("gap", setting=distance, images=kind, value=sum(gaps.values()))
        off = some.mean(dtype=np.float64) - subject.pixels.mean[0]
        wide = some.std(dtype=np.float64) - subject.pixels.variance[0] ** 0.5
        yield row("gap", setting="pixels", images=kind, value=float(off**2 + wide**2))
        for bits in (4, 3):
            tap = static(activation_plan(subject, some, bits))
            yield row("ranges", setting=f"A{bits}", images=kind,
                      value=subject.accuracy(values, tap))
        for bits in (3, 2):
            omega = sensitivity(subject, some, bits)
            real = sensitivity(subject, subject.data.x_train, bits)
            yield row("sensitivity", setting=f"W{bits}", images=kind,
                      value=float(spearmanr(omega, real).statistic))
            if bits == 2 or kind in ("real", "gaussian", "batch"):
                yield row("rounding", setting=f"W{bits}", images=kind,
                          value=rounded(subject, some, bits))
        for w in ((2,) if name == "plain" else (3, 2)):
            yield row("training", setting=f"W{w}A4", images=kind,
                      value=tuned(subject, some, (w, 4), batch=makers.get(kind)))
    for bits in (3, 2):
        near = with_quantized(values, weight_plan(subject, bits))
        yield row("rounding", setting=f"W{bits}", images="none", value=subject.accuracy(near))
    for w in ((2,) if name == "plain" else (3, 2)):
        yield row("training", setting=f"W{w}A4", images="none",
                  value=tuned(subject, images["real"], (w, 4), steps=0))


def drawn_for_judging(batch: Batch) -> dict[str, Array]:
    """640 images that no step of training sees."""
    parts = [batch(step) for step in range(100_000, 100_010)]
    return {name: np.concatenate([part[name] for part in parts]) for name in ("x", "labels")}


def measured(path: Path = FILE) -> list[Row]:
    """The rows in the file."""
    with path.open(newline="") as file:
        return [Row(experiment, network, int(seed), setting, images, float(value))
                for experiment, network, seed, setting, images, value in list(csv.reader(file))[1:]]


def _save(rows: list[Row], path: Path) -> None:
    write_whole(path, table_bytes(FIELDS, ([*row[:-1], f"{row.value:.4g}"] for row in rows)))


def main(arguments: list[str] | None = None) -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description="What synthetic images are worth.")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args(arguments)
    rows = measured(options.out) if options.out.exists() else []
    done = {(row.network, row.seed) for row in rows}
    for seed in SEEDS:
        for name in NETWORKS:
            if (name, seed) not in done:
                rows += rows_of(Subject.make(name, seed), partial(_say, f"{name} {seed}"))
                _save(rows, options.out)


def _say(where: str, text: str) -> None:
    print(f"{where}: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
