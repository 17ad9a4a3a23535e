"""What all scales from data need: a mean that cannot overflow, and a rule for what cannot serve."""

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Axis

__all__ = ["mean_of", "usable"]


def mean_of(x: Array, *, axis: Axis, where: Array | bool = True) -> Array:
    """Mean over `axis`, kept as size 1, in float64; 0 where there is nothing to average."""
    count = np.sum(np.broadcast_to(where, x.shape), axis=axis, keepdims=True)
    with np.errstate(over="ignore"):
        total = np.sum(x, axis=axis, keepdims=True, dtype=np.float64, where=where)
    if not np.isfinite(total).all():            # a sum beyond float64, whose mean is not
        small: Array = np.ldexp(x.astype(np.float64), -64)
        total = np.sum(small, axis=axis, keepdims=True, where=where)
        return np.asarray(np.ldexp(total / np.maximum(count, 1), 64))
    return np.asarray(total / np.maximum(count, 1))


def usable(scale: Array, dtype: npt.DTypeLike) -> Array:
    """`scale` in `dtype`, with 1 where it is zero or subnormal.

    An all-zero block is exact at any scale, and 1 keeps the division defined. A
    subnormal scale has lost its precision and its reciprocal may be infinite,
    so such a block, smaller than any normal number, counts as zero too.
    """
    with np.errstate(over="ignore"):
        scale = np.asarray(scale).astype(dtype)
    return np.where(scale >= np.finfo(scale.dtype).smallest_normal, scale, np.ones_like(scale))
