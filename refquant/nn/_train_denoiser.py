"""Train the denoiser: ``python -m refquant.nn._train_denoiser --out FILE.npz``.

6,000 steps of Adam, batch 256, rate 0.004 falling to 0 on a cosine. The same machine and BLAS
give the same file, byte for byte.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant.nn._artifacts import arithmetic, ship
from refquant.nn._weights import WEIGHTS
from refquant.nn.denoiser import STEPS, diffuse, initial_denoiser, predict_noise, time_features
from refquant.nn.memory import keep_freed_memory
from refquant.nn.models import Model
from refquant.nn.network import backward, run
from refquant.nn.optimizers import adam, adam_start, cosine
from refquant.nn.small_models import split

__all__ = ["fit"]

TRAINING_STEPS, BATCH, RATE, SEED = 6000, 256, 4e-3, 0


def fit(
    images: Array, *, rng: np.random.Generator, steps: int = TRAINING_STEPS,
    progress: Callable[[float], None] = lambda loss: None,
) -> Model:
    """A denoiser trained on images, rows in [-1, 1]; `progress` hears of each step."""
    model = initial_denoiser(rng=rng)
    parameters, state, rate = model.parameters, adam_start(model.parameters), cosine(RATE, steps)
    for step in range(steps):
        clean = images[rng.integers(0, len(images), BATCH)]
        t = rng.integers(0, STEPS, BATCH)
        noise = rng.standard_normal(clean.shape, np.float32)
        x = np.concatenate([diffuse(clean, t, noise), time_features(t)], axis=1)
        trace = run(model.nodes, {"x": x, **parameters})
        error = trace.values["noise"] - noise
        gradients = backward(trace, {"noise": 2 * error / error.size})
        parameters, state = adam(parameters, gradients, state, rate=rate(step))
        progress(float((error**2).mean()))
    return model._replace(parameters=parameters)


def main(arguments: list[str] | None = None) -> None:
    """Train, judge once on the test part, write the weights and a manifest beside them."""
    from rich.progress import Progress
    from threadpoolctl import threadpool_limits

    parser = argparse.ArgumentParser(description="Train the denoiser of refquant.")
    parser.add_argument("--out", type=Path, default=WEIGHTS / "denoiser.npz")
    parser.add_argument("--steps", type=int, default=TRAINING_STEPS)
    options = parser.parse_args(arguments)
    keep_freed_memory()
    data, rng = split(), np.random.default_rng(SEED)
    train, test = (2 * x.reshape(len(x), -1) - 1 for x in (data.x_train, data.x_test))
    with threadpool_limits(1), Progress() as bar:
        task = bar.add_task("training", total=options.steps)
        model = fit(train, rng=rng, steps=options.steps,
                    progress=lambda loss: bar.advance(task))
        t = rng.integers(0, STEPS, len(test))
        noise = rng.standard_normal(test.shape, np.float32)
        error = predict_noise(model, diffuse(test, t, noise), t) - noise
        fingerprint = arithmetic()
    manifest = {
        "arithmetic": fingerprint,
        "mse": round(float((error**2).mean()), 4),
        "recipe": f"Adam {RATE}, cosine to 0, {options.steps} steps, batch {BATCH}",
        "seed": SEED,
        "split": "digits, 1297 to train; mse is that of the noise in the other 500",
    }
    ship(options.out, model.parameters, manifest)


if __name__ == "__main__":
    main()
