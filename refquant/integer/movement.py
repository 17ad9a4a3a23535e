"""Move codes without changing them: pad, join and cut tensors.

No arithmetic, and one trap: what stands for nothing is the zero point, not 0, and codes
may be joined only if they mean the same.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import require_codes, require_int
from refquant.quantizers.uniform import Uniform

__all__ = ["concatenate", "pad", "strided_slice"]


def pad(
    x: Array, widths: npt.ArrayLike, quantizer: Uniform, *, code: int | None = None
) -> Codes:
    """Codes with more of them around, which stand for zero.

    Parameters
    ----------
    x : ndarray of int
    widths : ndarray of int, shape (axes, 2)
        How many before and after, per axis.
    quantizer : Uniform
        Of the output.
    code : int, optional
        What to pad with instead of the zero point.

    Returns
    -------
    ndarray of int32

    Raises
    ------
    ValueError
        If a width is negative or there is not one pair per axis.

    References
    ----------
    TensorFlow Lite, operators PAD and PADV2.

    Examples
    --------
    >>> pad(np.array([7]), [[1, 0]], Uniform(np.array(0.5), np.array(-3), -128, 127))
    array([-3,  7], dtype=int32)
    """
    x = np.asarray(x)
    pairs = require_codes("widths", widths, 0, 2**31 - 1)
    if pairs.shape != (x.ndim, 2):
        raise ValueError(f"`widths` must be {x.ndim} pairs; got shape {pairs.shape}")
    fill = int(quantizer.zero_point.item()) if code is None else code
    return np.pad(x, pairs.tolist(), constant_values=fill).astype(np.int32)


def concatenate(parts: Sequence[Array], quantizers: Sequence[Uniform], *, axis: int) -> Codes:
    """Codes of several tensors joined along an axis.

    Parameters
    ----------
    parts : sequence of ndarray of int
    quantizers : sequence of Uniform
        Of the parts, and of the output: all with the same scale and zero point.
    axis : int

    Returns
    -------
    ndarray of int32

    Raises
    ------
    ValueError
        If two quantizers differ.

    References
    ----------
    TensorFlow Lite, operator CONCATENATION.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(-3), -128, 127)
    >>> concatenate([np.array([1]), np.array([2, 3])], [q, q, q], axis=0)
    array([1, 2, 3], dtype=int32)
    """
    pairs = {(float(q.scale.item()), int(q.zero_point.item())) for q in quantizers}
    if len(pairs) > 1:
        raise ValueError(
            f"`quantizers` must have one scale and zero point; got {sorted(pairs)[:2]}")
    return np.concatenate(parts, axis=axis).astype(np.int32)


def strided_slice(
    x: Array,
    begin: Sequence[int],
    end: Sequence[int],
    strides: Sequence[int],
    *,
    begin_mask: int = 0,
    end_mask: int = 0,
    shrink_axis_mask: int = 0,
) -> Array:
    """Every stride-th element between two corners, the way TensorFlow counts them.

    Parameters
    ----------
    x : ndarray
    begin, end, strides : sequence of int
        One per axis from the first, negative counts from the end; strides are not 0.
    begin_mask, end_mask, shrink_axis_mask : int
        Bit i set: axis i from its first element, to its last, or only the element
        `begin`, without the axis.

    Returns
    -------
    ndarray
        A view.

    Raises
    ------
    ValueError
        If there are more corners than axes, or a stride is 0.

    References
    ----------
    TensorFlow Lite, operator STRIDED_SLICE.

    Examples
    --------
    >>> strided_slice(np.arange(6).reshape(2, 3), [0, 2], [2, 0], [1, -1], shrink_axis_mask=1)
    array([2, 1])
    """
    if not len(begin) == len(end) == len(strides) <= x.ndim:
        raise ValueError(f"`begin` must have at most {x.ndim} places; got {len(begin)}")
    pick: list[slice | int] = []
    for i, (first, last, step) in enumerate(zip(begin, end, strides, strict=True)):
        require_int("stride", step, -(2**31))
        if step == 0:
            raise ValueError("`strides` must not be 0; got 0")
        if shrink_axis_mask >> i & 1:
            pick.append(int(first))
            continue
        pick.append(slice(None if begin_mask >> i & 1 else int(first),
                          None if end_mask >> i & 1 else int(last), int(step)))
    return x[tuple(pick)]
