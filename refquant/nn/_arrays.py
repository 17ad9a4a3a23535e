"""Two array tricks that the operations share."""

import numpy as np

from refquant._types import Array

__all__ = ["column_sums", "padded"]


def column_sums(x: Array) -> Array:
    """Sum over all axes but the last, in the dtype of `x`.

    ``ones @ X`` is a BLAS call; ``X.sum(0)`` on a tall, narrow matrix walks it
    with an inner loop as short as a row, which is many times slower.
    """
    columns = x.reshape(-1, x.shape[-1])
    return np.ones(len(columns), x.dtype) @ columns


def padded(x: Array, padding: int) -> Array:
    """`x` of shape (n, height, width, channels) with a frame of zeros; contiguous."""
    if padding == 0:
        return np.ascontiguousarray(x)
    n, height, width, channels = x.shape
    out = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), x.dtype)
    out[:, padding : padding + height, padding : padding + width] = x
    return out
