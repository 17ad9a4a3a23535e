"""What the allocators share: tables of losses and costs, layers that are tied, exact sums."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import (
    as_unmasked,
    require_finite,
    require_nonempty,
    require_number,
    require_same_shape,
)

__all__ = ["as_cost", "as_loss", "best_uniform", "groups", "largest_within", "merged",
           "require_limit", "spread", "total", "within"]

#: A sum of floats may pass its limit by this share: the same sum in another order does.
_ROUNDING = 1e-12


def as_loss(name: str, table: npt.ArrayLike) -> Array:
    """A table (layers, choices) of numbers, finite and with finite sums, as float64."""
    array = as_unmasked(name, table)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must hold real numbers; got {array.dtype}")
    if array.ndim != 2:
        raise ValueError(f"`{name}` must have shape (layers, choices); got {array.shape}")
    require_nonempty(name, array)
    require_finite(name, array)
    reals = array.astype(np.float64)
    _require_sums_below(np.finfo(np.float64).max, name, reals)
    return reals


def as_cost(name: str, table: npt.ArrayLike, shape: tuple[int, ...]) -> Array:
    """A table of costs >= 0: int64 if whole, so that sums are exact, else float64."""
    array = as_unmasked(name, table)
    whole = array.dtype.kind in "iu"
    reals = as_loss(name, array)
    require_same_shape(name, array, shape)
    if (array < 0).any():
        raise ValueError(f"`{name}` must not be negative; got {array.min()}")
    if whole:
        _require_sums_below(float(2**62), name, reals)
    return array.astype(np.int64) if whole else reals


def require_limit(name: str, limit: float) -> None:
    """Whether a limit is a number, which may be infinite: no cost is within a NaN, or beyond."""
    require_number(name, limit)
    if np.isnan(limit):
        raise ValueError(f"`{name}` must not be NaN; got {limit}")


def groups(layers: int, ties: Iterable[Sequence[int]]) -> list[list[int]]:
    """Each layer in the one group of those that share its choice, by first member."""
    group_of = {i: [i] for i in range(layers)}
    for tie in ties:
        for i in tie:
            if isinstance(i, (bool, np.bool_)) or not isinstance(i, (int, np.integer)):
                raise TypeError(f"`ties` must hold numbers of layers; got {i!r}")
            if not 0 <= i < layers:
                raise ValueError(f"`ties` must name layers below {layers}; got {i}")
        joined = sorted({int(j) for i in tie for j in group_of[int(i)]})
        for i in joined:
            group_of[i] = joined
    return [group for i, group in group_of.items() if group[0] == i]


def merged(table: Array, group_list: Sequence[Sequence[int]]) -> Array:
    """The table with one row for each group: the sum of its layers."""
    return np.stack([table[list(group)].sum(0) for group in group_list])


def spread(choice: Array, group_list: Sequence[Sequence[int]], layers: int) -> Codes:
    """The choice of each layer, from that of its group."""
    out = np.empty(layers, np.int32)
    for k, group in zip(choice, group_list, strict=True):
        out[list(group)] = k
    return out


def total(table: Array, choice: Array) -> float:
    """Sum of the chosen entries: an int of Python, or the float next to the exact sum."""
    picked = table[np.arange(len(table)), choice]
    return int(picked.sum()) if table.dtype.kind == "i" else math.fsum(picked)


def within(cost: float, limit: float) -> bool:
    """Whether a cost meets its limit; exact for whole numbers."""
    return cost <= (limit if isinstance(cost, int) else limit * (1 + _ROUNDING))


def largest_within(limit: float, table: Array) -> float:
    """The largest sum of entries of a table that is `within` a limit."""
    return limit if table.dtype.kind == "i" else limit * (1 + _ROUNDING)


def best_uniform(loss: Array, cost: Array, limit: float) -> Codes | None:
    """The best of the allocations that give all layers the same choice, if one fits."""
    fits = [np.full(len(loss), k, np.int32) for k in range(loss.shape[1])]
    fits = [choice for choice in fits if within(total(cost, choice), limit)]
    return min(fits, key=lambda choice: total(loss, choice), default=None)


def _require_sums_below(most: float, name: str, table: Array) -> None:
    """Whether any allocation of a table can be added up."""
    largest = float(np.abs(table).max())
    if largest >= most / len(table):
        raise ValueError(f"`{name}` must be in units in which {len(table)} layers add up to less "
                         f"than {most:.2g}; got {largest:.2g} for one")
