"""Train the small networks: ``python -m refquant.nn._train_small --out FILE.npz``.

15 epochs of Adam, batch 64, rate 0.004 falling to 0 on a cosine, no augmentation; five
networks of each architecture. The same machine and BLAS give the same file, byte for byte.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant.nn._artifacts import arithmetic, ship
from refquant.nn._weights import WEIGHTS
from refquant.nn.data import Split, batches
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import Model, accuracy, with_loss
from refquant.nn.network import backward, run
from refquant.nn.normalization import updated_statistics
from refquant.nn.optimizers import adam, adam_start, cosine
from refquant.nn.small_models import (
    PLAIN,
    SEEDS,
    SEPARABLE,
    SEPARABLE6,
    Architecture,
    initial_values,
    network,
    split,
)

__all__ = ["fit"]

EPOCHS, BATCH, RATE = 15, 64, 4e-3


def fit(
    architecture: Architecture, data: Split, *, rng: np.random.Generator, epochs: int = EPOCHS,
    progress: Callable[[float], None] = lambda loss: None,
) -> Model:
    """A network trained on the training part of `data`; `progress` hears of each epoch."""
    model = initial_values(architecture, rng=rng)
    nodes, parameters, statistics = (
        with_loss(network(architecture, training=True)), model.parameters, model.statistics)
    state = adam_start(parameters)
    rate = cosine(RATE, epochs * (len(data.x_train) // BATCH))
    for _ in range(epochs):
        losses = []
        for index in batches(len(data.x_train), BATCH, rng=rng):
            inputs = {"x": data.x_train[index], "labels": data.y_train[index]}
            trace = run(nodes, inputs | parameters)
            gradients = backward(trace, {"loss": 1.0})
            parameters, state = adam(parameters, gradients, state, rate=rate(state.steps))
            statistics = updated_statistics(trace, statistics)
            losses.append(float(trace.values["loss"]))
        progress(float(np.mean(losses)))
    return model._replace(parameters=parameters, statistics=statistics)


def main(arguments: list[str] | None = None) -> None:
    """Train all, judge each once on the test part, write weights and a manifest beside them."""
    from rich.progress import Progress
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Train the small networks of refquant.")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "small_models.npz")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    data = split()
    arrays: dict[str, Array] = {}
    judged: dict[str, float] = {}
    with threadpool_limits(1), Progress() as bar:
        task = bar.add_task("training", total=3 * SEEDS * options.epochs)
        for architecture in (PLAIN, SEPARABLE, SEPARABLE6):
            for seed in range(SEEDS):
                model = fit(architecture, data, rng=np.random.default_rng(seed),
                            epochs=options.epochs, progress=lambda loss: bar.advance(task))
                name = f"{architecture.name}.{seed}"
                arrays |= {f"{name}.{k}": v for k, v in model.values.items()}
                judged[name] = round(accuracy(model, data.x_test, data.y_test), 4)
        fingerprint = arithmetic()
    manifest = {
        "accuracy": judged,
        "arithmetic": fingerprint,
        "recipe": f"Adam {RATE}, cosine to 0, {options.epochs} epochs, batch {BATCH}",
        "split": "digits / 16, 1297 to train; accuracy is that of the other 500",
    }
    ship(options.out, arrays, manifest)


if __name__ == "__main__":
    main()
