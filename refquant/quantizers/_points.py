"""Data on a line, sorted: where a cell is a run, and its sums are differences of two others."""

import numpy as np

from refquant._types import Array
from refquant._validate import as_data, require_finite

__all__ = ["cell_means", "distinct_points", "settle"]


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
        weights = np.asarray(weights, np.float64)
        if weights.shape != x.shape:
            raise ValueError(
                f"`weights` must have the shape of `x`, {x.shape}; got {weights.shape}"
            )
        require_finite("weights", weights)
        if (weights < 0).any():
            raise ValueError(f"`weights` must not be negative; got {weights.min()}")
        weight = np.bincount(place, weights=weights.ravel())
    if not weight.any():
        weight = np.ones_like(weight)
    held = weight > 0
    return values[held].astype(np.float64), weight[held]


def cell_means(values: Array, weights: Array, cuts: Array) -> Array:
    """Weighted mean of each run ``values[cuts[i]:cuts[i + 1]]``; no run is empty."""
    starts = cuts[:-1]
    # Relative to the first value of the run: a run of one value is met exactly.
    origin = np.repeat(values[starts], np.diff(cuts))
    moment = np.add.reduceat(weights * (values - origin), starts)
    means = values[starts] + moment / np.add.reduceat(weights, starts)
    return np.clip(means, values[starts], values[cuts[1:] - 1])


def settle(values: Array, weights: Array, levels: Array, sweeps: int) -> tuple[Array, int, bool]:
    """Lloyd's algorithm on sorted points: the levels, the sweeps made, and whether cells stand.

    Each sweep gives every point to its nearest level (a tie to the lower) and moves
    every level to the mean of its points; a level without points stays.
    """
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
            return levels, done, True
        held = cuts[1:] > cuts[:-1]
        first, last = cuts[:-1][held], cuts[1:][held]
        means = origin + (moment[last] - moment[first]) / (mass[last] - mass[first])
        levels = levels.copy()
        # Rounding may not carry a mean out of its cell: one value is met exactly.
        levels[held] = np.clip(means, values[first], values[last - 1])
    return levels, sweeps, False
