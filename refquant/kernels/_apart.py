"""Rows in memory that do not compete for the same lines of the cache."""

import numpy as np
import numpy.typing as npt

from refquant._types import Array


def apart(x: Array, dtype: npt.DTypeLike) -> Array:
    """`x` cast to `dtype`, in rows a line of the cache longer: its transpose is read fast.

    Rows a power of two apart, say 4096 bytes, compete for the same few lines.
    """
    wide: Array = np.empty((len(x), x.shape[1] + 64 // np.dtype(dtype).itemsize), dtype)
    wide[:, : x.shape[1]] = x
    return wide[:, : x.shape[1]]
