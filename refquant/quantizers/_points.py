"""Data on a line, sorted: where a cell is a run, and its sums are differences of two others."""

import numpy as np

from refquant._types import Array
from refquant._validate import as_data, as_reals, require_finite

__all__ = ["as_weights", "cell_means", "distinct_points", "settle", "to_unit"]


def to_unit(values: Array, *others: Array) -> tuple[Array, int]:
    """`values` over the power of two just above all magnitudes, and its exponent.

    Squares and sums of what results neither overflow nor vanish, and since such a
    factor changes no digit, nothing else differs.
    """
    largest = max(float(np.max(np.abs(array))) for array in (values, *others))
    exponent = int(np.frexp(largest)[1])
    return np.ldexp(values, -exponent), exponent


def as_weights(x: Array, weights: Array) -> Array:
    """`weights` as what can weigh the elements of `x`: reals of its shape, none negative."""
    weights = as_reals("weights", weights)
    if weights.shape != x.shape:
        raise ValueError(f"`weights` must have the shape of `x`, {x.shape}; got {weights.shape}")
    require_finite("weights", weights)
    if (weights < 0).any():
        raise ValueError(f"`weights` must not be negative; got {weights.min()}")
    return weights


def distinct_points(x: Array, weights: Array | None) -> tuple[Array, Array]:
    """Distinct values in ascending order, and the weight of each; both float64.

    Values without weight are left out, unless no value has any: then all weigh 1.
    """
    x = as_data("x", x)
    values, place = np.unique(x.ravel(), return_inverse=True)
    weight: Array
    if weights is None:
        weight = np.bincount(place).astype(np.float64)
    else:
        # Only ratios of weights matter.
        share, _ = to_unit(as_weights(x, weights).astype(np.float64))
        weight = np.bincount(place, weights=share.ravel())
    if not weight.any():
        weight = np.ones_like(weight)
    held = weight > 0
    return values[held].astype(np.float64), weight[held]


def cell_means(values: Array, weights: Array, cuts: Array) -> Array:
    """Weighted mean of each run ``values[cuts[i]:cuts[i + 1]]``; no run is empty."""
    starts = cuts[:-1]
    # Relative to the first value of the run: a run of one value is met exactly.
    unit, exponent = to_unit(values)
    origin = np.repeat(unit[starts], np.diff(cuts))
    moment = np.add.reduceat(weights * (unit - origin), starts)
    means = np.ldexp(unit[starts] + moment / np.add.reduceat(weights, starts), exponent)
    return np.clip(means, values[starts], values[cuts[1:] - 1])


def settle(values: Array, weights: Array, levels: Array, sweeps: int) -> tuple[Array, int, bool]:
    """Lloyd's algorithm on sorted points: the levels, the sweeps made, and whether cells stand.

    Each sweep gives every point to its nearest level (a tie to the lower) and moves
    every level to the mean of its points; a level without points stays.
    """
    values, exponent = to_unit(values, levels)
    levels = np.ldexp(levels, -exponent)
    # About the mean: sums of values far from zero would swamp their differences.
    origin = np.average(values, weights=weights)
    mass = np.concatenate([[0.0], np.cumsum(weights)])
    moment = np.concatenate([[0.0], np.cumsum(weights * (values - origin))])
    cuts = np.zeros(levels.size + 1, np.intp)
    for done in range(sweeps):
        middle = levels[:-1] / 2 + levels[1:] / 2
        inner = np.searchsorted(values, middle, side="right")
        previous, cuts = cuts, np.concatenate([[0], inner, [values.size]])
        if np.array_equal(cuts, previous):
            return np.ldexp(levels, exponent), done, True
        held = cuts[1:] > cuts[:-1]
        first, last = cuts[:-1][held], cuts[1:][held]
        width, moved = mass[last] - mass[first], moment[last] - moment[first]
        # A cell that weighs less than a rounding of the whole is as good as empty.
        weighs = width > 0
        means = np.where(weighs, origin + moved / np.where(weighs, width, 1), levels[held])
        levels = levels.copy()
        # Rounding may not carry a mean out of its cell: one value is met exactly.
        levels[held] = np.clip(means, values[first], values[last - 1])
    return np.ldexp(levels, exponent), sweeps, False
