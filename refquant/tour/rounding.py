"""Rows on rounding: 4 bits, one scale, only the rounding differs."""

import math
from functools import partial
from typing import cast

import numpy as np

from refquant._types import Array, Rounding
from refquant.calibration.minmax import absmax
from refquant.metrics import mse
from refquant.quantizer import Quantizer
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.rounding import (
    ceil,
    floor,
    half_away,
    half_even,
    half_up,
    stochastic,
    stochastic_few_bits,
    stochastic_sign,
    toward_zero,
)
from refquant.tour.subject import Row, RowFunction, Subject, decibels

__all__ = ["ROWS"]

BITS = 4
#: The fraction f of evenly spread values, in steps, at the middle of 4096 cells.
FRACTIONS = (np.arange(4096) + 0.5) / 4096


def half_even_row(subject: Subject) -> Row:
    """Nearest, ties to even: noise of 1/12 step**2, no bias."""
    return rounded(subject, "half even", half_even, noise=1 / 12, source="s²/12 Bennett")


def half_away_row(subject: Subject) -> Row:
    """Nearest, ties away from zero."""
    return rounded(subject, "half away from zero", half_away, noise=1 / 12, source="s²/12 Bennett")


def half_up_row(subject: Subject) -> Row:
    """Nearest, ties up."""
    return rounded(subject, "half up", half_up, noise=1 / 12, source="s²/12 Bennett")


def floor_row(subject: Subject) -> Row:
    """Down: four times the noise, and half a step of bias."""
    return rounded(subject, "floor", floor, noise=1 / 3, source="s²/3", bias=-0.5)


def ceil_row(subject: Subject) -> Row:
    """Up: as floor, with the other sign."""
    return rounded(subject, "ceil", ceil, noise=1 / 3, source="s²/3", bias=0.5)


def toward_zero_row(subject: Subject) -> Row:
    """Drop the fraction: as much noise, and everything shrinks."""
    scale = float(absmax(subject.gauss).item()) / (2 ** (BITS - 1) - 1)
    x = (np.arange(200_000) + 0.5) / 25_000             # half the bell, up to 8 sigma
    density = np.exp(-x * x / 2)
    noise = np.sum(density * (x - np.trunc(x / scale) * scale) ** 2) / density.sum() / scale**2
    return rounded(subject, "toward zero", toward_zero, noise=noise, source="integral N(0,1)")


def stochastic_row(subject: Subject) -> Row:
    """Stochastic: twice the noise of nearest, and no bias for any value."""
    rounding = partial(stochastic, rng=np.random.default_rng(0))
    return rounded(subject, "stochastic", rounding, noise=1 / 6, source="s²/6 Gupta 2015")


def few_bits_row(subject: Subject, *, random_bits: int) -> Row:
    """Stochastic with few random bits: the fraction is put on their grid first."""
    up = np.rint(FRACTIONS * 2**random_bits) / 2**random_bits
    noise = float(np.mean(up * (1 - FRACTIONS) ** 2 + (1 - up) * FRACTIONS**2))
    name = f"stochastic, {random_bits} random bits"
    rounding = partial(stochastic_few_bits, random_bits=random_bits, rng=np.random.default_rng(0))
    return rounded(subject, name, rounding, noise=noise, source="2504.20634")


def stochastic_sign_row(subject: Subject) -> Row:
    """One random bit: plus with the probability of the logistic function."""
    x = subject.gauss
    sign = stochastic_sign(x, rng=np.random.default_rng(0))
    noise = mse(x, sign)
    t = (np.arange(-80_000, 80_000) + 0.5) / 10_000
    density = np.exp(-t * t / 2)
    expected = 2 - 2 * np.sum(density * t * np.tanh(t / 2)) / density.sum()
    row = Row("stochastic sign", bits=1.0, mse=noise, sqnr=decibels(1.0, noise))
    return row.expect(decibels(1.0, expected), "E = tanh(x/2)")


def rounded(
    subject: Subject,
    name: str,
    rounding: Rounding,
    *,
    noise: float,
    source: str,
    bias: float = 0.0,
) -> Row:
    """A row under `rounding`, which must have this noise and bias, in steps."""

    def quantize(x: Array, quantizer: Quantizer) -> Array:
        uniform = cast(Uniform, quantizer)
        return uniform.decode(uniform.encode(x, rounding=rounding))

    row = subject.weights(name, lambda x: symmetric(absmax(x), bits=BITS), quantize=quantize)
    quantizer = symmetric(absmax(subject.gauss), bits=BITS)
    step = float(quantizer.scale.item())
    error = (quantize(subject.gauss, quantizer).astype(np.float64) - subject.gauss) / step
    # Five standard errors of the mean of that many errors.
    limit = 5 * math.sqrt(noise / error.size)
    told = f"mean error {error.mean():+.4f} step is within {limit:.4f} of {bias:g}"
    row = row.claim(told, abs(error.mean() - bias) <= limit)
    return row.expect(decibels(1.0, noise * step**2), source)


ROWS: list[RowFunction] = [
    half_even_row,
    half_away_row,
    half_up_row,
    floor_row,
    ceil_row,
    toward_zero_row,
    stochastic_row,
    partial(few_bits_row, random_bits=2),
    partial(few_bits_row, random_bits=8),
    stochastic_sign_row,
]
