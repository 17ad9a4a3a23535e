"""Sums over the blocks that share parameters, without a second array of the data."""

from collections.abc import Callable

import numpy as np

from refquant._types import Array, Axis
from refquant.granularity import as_rows

__all__ = ["block_sums"]

#: Elements worked on at a time.
PIECE = 2**16


def block_sums(
    x: Array, term: Callable[[Array], Array], *, axis: Axis = None, origin: Array | None = None
) -> Array:
    """Sum of ``term(x - origin)`` over each block in float64, kept axes of size 1.

    `term` works on each element by itself, and may write over what it is given.
    """
    rows, shape = as_rows(x, axis=axis)
    total = np.zeros((len(rows), 1))
    step = max(PIECE // max(len(rows), 1), 1)
    for start in range(0, rows.shape[1], step):
        piece = rows[:, start : start + step].astype(np.float64)
        if origin is not None:
            piece -= origin.reshape(-1, 1)
        total += np.sum(term(piece), axis=1, keepdims=True)
    return total.reshape(shape)
