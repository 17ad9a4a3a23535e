"""Rows on calibration: 4 bits, one scale, only the rule that finds the range differs."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from refquant._types import Array
from refquant.calibration.aciq import (
    GAUSS,
    LAPLACE,
    Prior,
    aciq_bound,
    granular_noise_earlier,
    unit_bound,
)
from refquant.calibration.bit_allocation import channel_bits, water_filling
from refquant.calibration.entropy import entropy
from refquant.calibration.minmax import absmax, minmax
from refquant.calibration.moving_average import moving_average
from refquant.calibration.mse import omse, optimal_scale
from refquant.calibration.percentile import percentile_bound
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, code_range, symmetric
from refquant.tour.subject import Row, RowFunction, Subject, decibels, whole
from refquant.tour.uniform import INTEGRAL, expected_sqnr

__all__ = ["ROWS"]

BITS = 4
#: Least noise of a uniform 4-bit grid with 15 or 16 levels around zero, for unit Gauss data.
BEST_SYMMETRIC, BEST_FULL = 0.0128894, 0.0118640
#: ACIQ's best bound for unit Gauss data and 4 bits: the paper's, and an earlier reading's.
ACIQ_GAUSS, ACIQ_GAUSS_EARLIER, ACIQ_LAPLACE = 2.559136, 2.1923, 5.028640

Bound = Callable[[Array], Array]


def min_max_row(subject: Subject) -> Row:
    """Cover everything."""
    return bounded(subject, "min-max", absmax)


def moving_average_row(subject: Subject) -> Row:
    """Cover what was seen lately: 16 batches, each counting a tenth."""

    def bound(x: Array) -> Array:
        batches = np.array_split(x.reshape(-1), min(16, x.size))
        low, high = moving_average((minmax(batch) for batch in batches), rate=0.1)
        return np.maximum(-low, high).reshape((1,) * x.ndim)

    return bounded(subject, "moving average", bound)


def percentile_row(subject: Subject) -> Row:
    """Cover all but one in a thousand."""
    bound = partial(percentile_bound, p=0.999)
    found = float(bound(subject.gauss).item())
    told = f"bound {found:.3f} is within 5 % of 3.291, the quantile of N(0,1)"
    return bounded(subject, "percentile 99.9", bound).claim(told, abs(found / 3.2905 - 1) < 0.05)


def grid_row(subject: Subject) -> Row:
    """Least squares among a hundred bounds."""
    row = fitted(subject, "OMSE, 100 candidates", partial(omse, make=make), BEST_SYMMETRIC)
    return no_worse(subject, row, lambda x: make(absmax(x)), "min-max")


def exact_row(subject: Subject) -> Row:
    """Least squares, exactly."""
    codes = code_range(BITS, signed=True, narrow=True)
    row = fitted(subject, "OMSE, exact", lambda x: optimal_scale(x, *codes), BEST_SYMMETRIC)
    return no_worse(subject, row, partial(omse, make=make), "the 100 candidates")


def exact_full_row(subject: Subject) -> Row:
    """Least squares, exactly, with all 16 codes."""
    codes = code_range(BITS, signed=True)
    return fitted(subject, "OMSE, exact, 16 codes", lambda x: optimal_scale(x, *codes), BEST_FULL)


def lp_row(subject: Subject) -> Row:
    """Power 2.4 instead of 2: large errors count more, so the bound is wider."""
    search = partial(omse, make=make, candidates=32)
    least, wider = search(subject.gauss), search(subject.gauss, p=2.4)
    row = subject.weights("Lp, p = 2.4", partial(search, p=2.4))
    told = f"step {wider.scale.item():.4f} is no finer than {least.scale.item():.4f} of p = 2"
    return row.expect(expected_sqnr(wider), INTEGRAL).claim(
        told, wider.scale.item() >= least.scale.item()
    )


def kl_row(subject: Subject) -> Row:
    """Least divergence of the histogram, at the 8 bits it was made for."""
    row = subject.weights("KL, 8 bits", lambda x: symmetric(entropy(x), bits=8))
    expected = expected_sqnr(symmetric(entropy(subject.gauss), bits=8))
    # Most of the noise is that of the few values beyond the bound, so it varies.
    return row.expect(expected, INTEGRAL, tolerance=0.3)


def aciq_row(subject: Subject, *, name: str, prior: Prior, table: float, scale: float) -> Row:
    """The number from the paper's table, times the scale of the data."""
    found = float(aciq_bound(subject.gauss, bits=BITS, prior=prior).item())
    row = bounded(subject, name, partial(aciq_bound, bits=BITS, prior=prior), at=table * scale)
    told = f"bound {found:.3f} is within 1 % of {table * scale:.3f} (arXiv:1810.05723)"
    return row.claim(told, abs(found / (table * scale) - 1) < 0.01)


def aciq_earlier_row(subject: Subject) -> Row:
    """The earlier published reading: four times the rounding noise, a tighter bound."""
    factor = unit_bound(BITS, GAUSS, noise=granular_noise_earlier)

    def bound(x: Array) -> Array:
        return np.minimum(GAUSS.scale(x, None) * factor, absmax(x)).astype(x.dtype)

    row = bounded(subject, "ACIQ Gauss, earlier", bound, at=ACIQ_GAUSS_EARLIER)
    told = f"factor {factor:.4f} is {ACIQ_GAUSS_EARLIER} (authors' first code)"
    return row.claim(told, abs(factor - ACIQ_GAUSS_EARLIER) < 5e-5)


def channel_bits_row(subject: Subject) -> Row:
    """Channels share a budget of levels: the published rule."""
    return allocated(subject, "bits by ACIQ's rule", lambda b: channel_bits(b, bits=BITS))


def water_filling_row(subject: Subject) -> Row:
    """Channels share a budget of bits: more for the wider."""

    def whole_bits(bounds: Array) -> Array:
        return np.rint(water_filling(bounds, bits=BITS))

    return allocated(subject, "bits by water filling", whole_bits)


def make(bound: Array) -> Uniform:
    """4 bits, levels around zero."""
    return symmetric(bound, bits=BITS)


def fitted(subject: Subject, name: str, fit: Callable[[Array], Uniform], best: float) -> Row:
    """A row whose noise must be the `best` that its codes allow."""
    return subject.weights(name, fit).expect(decibels(1.0, best), "exact optimum")


def bounded(subject: Subject, name: str, bound: Bound, *, at: float | None = None) -> Row:
    """A row whose rule finds a bound, expected `at` a known place."""
    row = subject.weights(name, lambda x: make(bound(x)))
    quantizer = make(bound(subject.gauss) if at is None else np.array(at))
    return row.expect(expected_sqnr(quantizer), INTEGRAL if at is None else "1810.05723")


def no_worse(subject: Subject, row: Row, other: Callable[[Array], Uniform], name: str) -> Row:
    """The row, with the claim that no other bound of `other` leaves less noise."""
    noise = mse(subject.gauss, fake_quantize(subject.gauss, other(subject.gauss)))
    # 1e-6: a histogram may stand in for the data.
    return row.claim(f"MSE is no larger than by {name}", row.mse <= noise * (1 + 1e-6))


def allocated(subject: Subject, name: str, allocate: Callable[[Array], Array]) -> Row:
    """Each channel of the layer with outliers at its own width, all by min-max."""
    rows = whole(subject.layer)
    bounds = absmax(rows, axis=1)
    widths = np.clip(allocate(bounds.reshape(-1)), 2, 8).astype(int)
    noise, even = 0.0, 0.0
    for row, bound, bits in zip(rows, bounds, widths, strict=True):
        noise += mse(row, fake_quantize(row, symmetric(bound, bits=int(bits))))
        even += mse(row, fake_quantize(row, symmetric(bound, bits=BITS)))
    power = mse(rows, np.zeros_like(rows))
    bits_each = float(widths.mean()) + (32 + 4) / rows.shape[1]     # scale, and the width itself
    out = Row(name, bits=bits_each, outliers=decibels(power, noise / len(rows)))
    told = f"{out.outliers:.1f} dB beat {decibels(power, even / len(rows)):.1f} at 4 bits each"
    return out.claim(told, noise < even).claim(
        f"{widths.mean():.2f} bits on average are within 0.2 of 4", abs(widths.mean() - 4) < 0.2
    )


ROWS: list[RowFunction] = [
    min_max_row,
    moving_average_row,
    percentile_row,
    grid_row,
    exact_row,
    exact_full_row,
    lp_row,
    kl_row,
    partial(aciq_row, name="ACIQ Gauss", prior=GAUSS, table=ACIQ_GAUSS, scale=1.0),
    partial(
        aciq_row, name="ACIQ Laplace", prior=LAPLACE, table=ACIQ_LAPLACE,
        scale=math.sqrt(2 / math.pi),           # E|x| of N(0,1)
    ),
    aciq_earlier_row,
    channel_bits_row,
    water_filling_row,
]
