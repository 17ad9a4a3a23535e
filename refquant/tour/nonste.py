"""Rows on training without the straight-through estimator: what a training step sees of weights."""

import math
from functools import partial

import numpy as np

from refquant._types import Array
from refquant.calibration.minmax import absmax
from refquant.metrics import mse
from refquant.qat.combinatorial import descend, exhaustive, rounding_qubo
from refquant.qat.proximal import pull_to_binary
from refquant.qat.quant_noise import noise_mask, quant_noise
from refquant.qat.relaxed import gumbel, level_logits
from refquant.quantizer import Quantizer, fake_quantize
from refquant.quantizers.binary import Binary, xnor
from refquant.quantizers.uniform import symmetric
from refquant.tour.subject import Row, RowFunction, Subject, decibels

__all__ = ["ROWS"]

BITS = 4


def prox_row(subject: Subject) -> Row:
    """The W pulled until it lands: binary weights, and each pull the cheapest point there is."""

    def pulled(x: Array, quantizer: Quantizer) -> Array:
        assert isinstance(quantizer, Binary)
        return pull_to_binary(x, float(np.abs(x).max()), level=quantizer.scale)

    row = subject.weights("prox of the W", xnor, quantize=pulled)
    theta, line = np.linspace(-2, 2, 41), np.arange(-3000, 3001) / 1000
    ours = pull_to_binary(theta, 0.3, level=np.array(1.0))

    def price(z: Array, at: Array) -> Array:
        return np.asarray((z - at) ** 2 / 2 + 0.3 * np.abs(np.abs(z) - 1))

    least = price(line, theta[:, None]).min(1)
    row = row.claim("none of 6,001 points costs less than a pull of 0.3",
                    np.all(price(ours, theta) <= least + 1e-12))
    return row.expect(decibels(1, 1 - 2 / math.pi), "1-2/pi")


def noise_row(subject: Subject, *, share: float) -> Row:
    """QuantNoise: the error of a part of the weights, so that part of the error."""

    def noisy(x: Array, quantizer: Quantizer) -> Array:
        mask = noise_mask(x.shape, rate=share, rng=np.random.default_rng(0))
        return quant_noise(x, mask, project=partial(fake_quantize, quantizer=quantizer))[0]

    row = subject.weights(f"QuantNoise, p = {share:g}", lambda x: symmetric(absmax(x), bits=BITS),
                          quantize=noisy)
    step = float(absmax(subject.gauss).item()) / (2 ** (BITS - 1) - 1)
    return row.expect(decibels(1.0, share * step**2 / 12), "p s²/12")


def relaxed_row(subject: Subject) -> Row:
    """Levels drawn by relaxed quantization: rounding behind logistic noise of an eighth step."""
    x = subject.gauss.reshape(-1)[:20_000].astype(np.float64)
    step = float(absmax(subject.gauss).item()) / (2 ** (BITS - 1) - 1)
    codes = np.arange(-7, 8)
    logits, _ = level_logits(x, np.array([step]), np.array([step / 8]), codes=codes)
    drawn = step * codes[(logits + gumbel(logits.shape, rng=np.random.default_rng(0))).argmax(1)]
    noise = mse(x, drawn)
    row = Row("levels drawn by RQ", bits=float(BITS), mse=noise,
              sqnr=decibels(float(np.mean(x**2)), noise))
    # A logistic variable of width sigma has variance (pi sigma)**2 / 3.
    expected = step**2 * (1 / 12 + math.pi**2 / 192)
    return row.expect(decibels(float(np.mean(x**2)), expected), "s²/12+(πσ)²/3", tolerance=0.15)


def search_row(subject: Subject) -> Row:
    """Ten correlated inputs: coordinate descent on which weights go up, beside all 1,024 ways."""
    ratios = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        rows = rng.standard_normal((60, 10)) @ (rng.standard_normal((10, 10)) / 2 + np.eye(10))
        w, bits = rng.standard_normal(10), np.array([0.0, 1.0])
        qubo = rounding_qubo(w, np.array(0.5), rows.T @ rows / 60)
        nearest = (w / 0.5 % 1 >= 0.5).astype(float)
        costs = (qubo(nearest), descend(qubo, nearest, levels=bits).cost,
                 exhaustive(qubo, 10, levels=bits).cost)
        ratios.append(np.array(costs) / costs[2])
    near, found, _ = np.exp(np.log(ratios).mean(0))
    row = Row("descent on roundings", source="(of the output)")
    return row.claim(
        f"{found:.2f} times the least output error, nearest {near:.2f} times", found < near)


ROWS: list[RowFunction] = [
    prox_row,
    partial(noise_row, share=0.5),
    relaxed_row,
    search_row,
]
