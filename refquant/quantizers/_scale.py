"""The rule for a scale that cannot serve, the same wherever a scale comes from data."""

import numpy as np
import numpy.typing as npt

from refquant._types import Array

__all__ = ["usable"]


def usable(scale: Array, dtype: npt.DTypeLike) -> Array:
    """`scale` in `dtype`, with 1 where it is zero or subnormal.

    An all-zero block is exact at any scale, and 1 keeps the division defined. A
    subnormal scale has lost its precision and its reciprocal may be infinite,
    so such a block, smaller than any normal number, counts as zero too.
    """
    with np.errstate(over="ignore"):
        scale = np.asarray(scale).astype(dtype)
    return np.where(scale >= np.finfo(scale.dtype).smallest_normal, scale, np.ones_like(scale))
