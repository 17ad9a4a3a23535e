"""Rows on uniform quantization: the laws of theory, and the four ways to place the levels."""

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant.calibration.aciq import GAUSS
from refquant.calibration.density import expected_mse
from refquant.calibration.minmax import absmax, minmax
from refquant.metrics import mse, predicted_mse, predicted_sqnr, sqnr
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, asymmetric, full_range, half_open, symmetric
from refquant.tour.subject import Row, RowFunction, Subject, decibels

__all__ = ["INTEGRAL", "ROWS", "expected_sqnr", "levels"]

INTEGRAL = "integral N(0,1)"


def evenly_spread_row(subject: Subject) -> Row:
    """Evenly spread values that fill the range: 6.02 dB a bit, exactly."""
    x = (np.arange(1_000_000) + 0.5) / 500_000 - 1
    return law("evenly spread", x, load_factor=3**0.5, source="6.02 b")


def sine_row(subject: Subject) -> Row:
    """A sine that fills the range: 1.76 dB more."""
    x = np.sin(2 * np.pi * (np.arange(1_000_000) + 0.5) / 999_983)
    return law("full-scale sine", x, load_factor=2**0.5, source="6.02 b + 1.76")


def four_sigma_row(subject: Subject) -> Row:
    """A bell that fills a range of four sigma: 7.27 dB less."""
    x = np.clip(subject.gauss, -4, 4)       # the law is of rounding alone
    return law("Gauss, 4 sigma", x, load_factor=4.0, source="6.02 b - 7.27")


def law(
    name: str, x: Array, load_factor: float, source: str, *, tolerance: float = 0.15
) -> Row:
    """8 bits on `x`, whose bound is `load_factor` times its root mean square."""
    bound = load_factor * mse(x, np.zeros_like(x)) ** 0.5
    # 256 steps in the whole range, levels in the middle of each, as the law has it.
    x_hat = (np.floor(np.clip(x / bound, -1, 1 - 1e-9) * 128) + 0.5) / 128 * bound
    row = Row(f"{name}, 8 bits", bits=8.0, mse=mse(x, x_hat), sqnr=sqnr(x, x_hat))
    return row.expect(predicted_sqnr(8, load_factor=load_factor), source, tolerance=tolerance)


def min_max_row(
    subject: Subject, *, name: str, make: Callable[[Array], Uniform], bits: int
) -> Row:
    """One placement of the levels, its bound the largest value."""
    row = subject.weights(f"{name}, {bits} bits", make)
    quantizer = make(subject.gauss)
    if bits == 8:                           # fine enough for the high-rate law
        predicted = predicted_mse(quantizer.scale)
        told = f"MSE {row.mse:.3e} is within 1 % of s²/12 = {predicted:.3e}"
        row = row.claim(told, abs(row.mse / predicted - 1) < 0.01)
    exact = fake_quantize(np.zeros(1, np.float32), flat(quantizer))[0] == 0
    row = row.claim("zero is exact", exact)
    return row.expect(expected_sqnr(quantizer), INTEGRAL)


def flat(quantizer: Uniform) -> Uniform:
    """A quantizer with one scale for data of any shape."""
    scale, zero_point = quantizer.scale.reshape(()), quantizer.zero_point.reshape(())
    return Uniform(scale, zero_point, quantizer.qmin, quantizer.qmax)


def levels(quantizer: Uniform) -> Array:
    """Every level of a quantizer with one scale, in float64."""
    codes = np.arange(quantizer.qmin, quantizer.qmax + 1)
    return flat(quantizer).decode(codes).astype(np.float64)


def expected_sqnr(quantizer: Uniform) -> float:
    """SQNR of unit Gauss data under one scale: the integral over each cell, summed."""
    return decibels(1.0, expected_mse(levels(quantizer), GAUSS))


def _asymmetric(x: npt.NDArray[np.float32], *, bits: int) -> Uniform:
    return asymmetric(*minmax(x), bits=bits)


def _symmetric(x: Array, *, bits: int, make: Callable[..., Uniform]) -> Uniform:
    return make(absmax(x), bits=bits)


PLACEMENTS: list[tuple[str, Callable[..., Uniform]]] = [
    ("symmetric", partial(_symmetric, make=symmetric)),
    ("half open", partial(_symmetric, make=half_open)),
    ("full range", partial(_symmetric, make=full_range)),
    ("asymmetric", _asymmetric),
]

ROWS: list[RowFunction] = [
    evenly_spread_row,
    sine_row,
    four_sigma_row,
    *(
        partial(min_max_row, name=name, make=partial(make, bits=bits), bits=bits)
        for bits in (8, 4, 2)
        for name, make in PLACEMENTS
    ),
]
