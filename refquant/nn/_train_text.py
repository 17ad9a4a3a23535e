"""Train the character model: ``python -m refquant.nn._train_text --out FILE.npz``.

4,000 steps of Adam, batch 256, rate 0.004 falling to 0 on a cosine. The same machine, BLAS
and Python give the same file, byte for byte.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant.nn._artifacts import arithmetic, ship
from refquant.nn._weights import WEIGHTS
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import Model, with_loss
from refquant.nn.network import backward, run
from refquant.nn.optimizers import adam, adam_start, cosine
from refquant.nn.text import CONTEXT, bits_per_character, initial_text_model

__all__ = ["fit"]

STEPS, BATCH, RATE, SEED = 4000, 256, 4e-3, 0


def fit(
    numbers: Array, *, rng: np.random.Generator, steps: int = STEPS,
    progress: Callable[[float], None] = lambda loss: None,
) -> Model:
    """A model trained on a text of characters as numbers; `progress` hears of each step."""
    model = initial_text_model(rng=rng)
    nodes, parameters = with_loss(model.nodes), model.parameters
    state, rate = adam_start(parameters), cosine(RATE, steps)
    windows = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    for step in range(steps):
        batch = windows[rng.integers(0, len(windows), BATCH)]
        trace = run(nodes, {"x": batch[:, :-1], "labels": batch[:, -1], **parameters})
        gradients = backward(trace, {"loss": 1.0})
        parameters, state = adam(parameters, gradients, state, rate=rate(step))
        progress(float(trace.values["loss"]))
    return model._replace(parameters=parameters)


def main(arguments: list[str] | None = None) -> None:
    """Train, judge once on the last tenth, write the weights and a manifest beside them."""
    from pydoc_data.topics import topics

    from rich.progress import Progress
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Train the character model of refquant.")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "text_model.npz")
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    text = "".join(topics[name] for name in sorted(topics))
    characters, numbers = np.unique([ord(c) for c in text], return_inverse=True)
    train, test = np.split(numbers, [len(numbers) * 9 // 10])
    with threadpool_limits(1), Progress() as bar:
        task = bar.add_task("training", total=options.steps)
        model = fit(train, rng=np.random.default_rng(SEED), steps=options.steps,
                    progress=lambda loss: bar.advance(task))
        windows = np.lib.stride_tricks.sliding_window_view(test, CONTEXT + 1)[:20_000]
        measured = bits_per_character(model, windows[:, :-1], windows[:, -1])
        fingerprint = arithmetic()
    manifest = {
        "arithmetic": fingerprint,
        "bits_per_character": round(measured, 4),
        "python": sys.version.split()[0],
        "recipe": f"Adam {RATE}, cosine to 0, {options.steps} steps, batch {BATCH}",
        "seed": SEED,
        "text": f"pydoc_data.topics, sorted by name, {len(text)} characters, first nine tenths; "
        "judged on 20000 of the rest",
    }
    ship(options.out, {**model.parameters, "characters": characters.astype(np.int64)}, manifest)


if __name__ == "__main__":
    main()
