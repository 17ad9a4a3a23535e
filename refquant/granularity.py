"""View an array as blocks that share parameters: per tensor, per channel, per group.

The one rule of the library: *parameters have the rank of the data and broadcast
against it*. So granularity is nothing but the axes that a reduction runs over.

================  =====================================  =======================
granularity       reduce over                            scale for (64, 3, 3, 16)
================  =====================================  =======================
per tensor        ``axis=None``                          (1, 1, 1, 1)
per channel       ``axis=all_but(0, x.ndim)``            (64, 1, 1, 1)
channel group     ``group(x, 8, axis=0)``, then 1..4     (8, 1, 1, 1, 1)
block (group)     ``group(x, 4)``, then ``axis=-1``      (64, 3, 3, 4, 1)
per token         ``axis=-1``                            (tokens, 1)
================  =====================================  =======================

Frameworks call ``axis`` the axis *kept*; here, as in NumPy, it is the axes
*reduced over*. `all_but` translates.
"""

import numpy as np

from refquant._types import Array, Axis
from refquant._validate import require_int

__all__ = ["all_but", "as_rows", "group", "ungroup"]


def all_but(kept: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Axes to reduce over so that one set of parameters per index of `kept` remains.

    Parameters
    ----------
    kept : int or tuple of int
        The channel axis, or axes; negative counts from the end.
    ndim : int
        Rank of the data.

    Returns
    -------
    tuple of int
        For the ``axis`` argument of a calibrator.

    Raises
    ------
    ValueError
        If an axis lies outside the data.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 2.1 (per channel); PyTorch's
    ``ch_axis`` is our `kept`.

    Examples
    --------
    >>> all_but(0, 4), all_but(-1, 2), all_but((0, 1), 3)
    ((1, 2, 3), (0,), (2,))
    """
    kept = (kept,) if isinstance(kept, (int, np.integer)) else tuple(kept)
    for axis in kept:
        require_int("kept", axis, -ndim, ndim - 1)
    stay = {axis % ndim for axis in kept}
    return tuple(axis for axis in range(ndim) if axis not in stay)


def group(x: Array, group_size: int, *, axis: int = -1) -> Array:
    """The same elements with `axis` split into blocks of `group_size` neighbours.

    ``(out, in)`` becomes ``(out, groups, group)``; a view where NumPy can make one.

    Parameters
    ----------
    x : ndarray, any shape
    group_size : int
        Must divide the length of `axis`. Pad first if it does not; zeros are
        harmless where the range contains zero anyway.
    axis : int
        The axis to split; the groups stand before the elements of a group.

    Returns
    -------
    ndarray
        One axis more than `x`. Reduce over the axis of the elements of a group
        (``axis=-1`` by default) to get one set of parameters per group.

    Raises
    ------
    ValueError
        If `group_size` does not divide the length of `axis`, or `x` has no axis.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-E: sub-channelwise
    quantization. Practice with language models says "group-wise".

    Examples
    --------
    >>> group(np.arange(6.0).reshape(1, 6), 3)
    array([[[0., 1., 2.],
            [3., 4., 5.]]])
    """
    if x.ndim == 0:
        raise ValueError("`x` must have an axis to split; got a scalar")
    require_int("axis", axis, -x.ndim, x.ndim - 1)
    require_int("group_size", group_size, 1)
    axis %= x.ndim
    n = x.shape[axis]
    if n % group_size:
        things = "columns" if axis == x.ndim - 1 else f"elements of axis {axis}"
        raise ValueError(f"`group_size` must divide {n} {things}; got {group_size}")
    return x.reshape(*x.shape[:axis], n // group_size, group_size, *x.shape[axis + 1 :])


def ungroup(x: Array, *, axis: int = -1) -> Array:
    """The array before `group`: two neighbouring axes joined again.

    Parameters
    ----------
    x : ndarray, at least two axes
    axis : int
        The axis of the elements of a group *as counted in the result*.

    Returns
    -------
    ndarray
        One axis fewer than `x`.

    Raises
    ------
    ValueError
        If `x` has fewer than two axes.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-E.

    Examples
    --------
    >>> x = np.arange(12.0).reshape(2, 6)
    >>> np.array_equal(ungroup(group(x, 3)), x)
    True
    """
    if x.ndim < 2:
        raise ValueError(f"`x` must have at least two axes; got shape {x.shape}")
    ndim = x.ndim - 1
    require_int("axis", axis, -ndim, ndim - 1)
    axis %= ndim
    return x.reshape(*x.shape[:axis], x.shape[axis] * x.shape[axis + 1], *x.shape[axis + 2 :])


def as_rows(x: Array, *, axis: Axis = None) -> tuple[Array, tuple[int, ...]]:
    """Each block that shares parameters as one row, and the shape of the parameters.

    For solvers that must see a block whole: sort it, search it, factor it. One
    result per row, reshaped to the second return value, broadcasts against `x`.

    Parameters
    ----------
    x : ndarray, any shape
    axis : int or tuple of int, optional
        Axes reduced over, as everywhere; all by default.

    Returns
    -------
    rows : ndarray, shape (blocks, elements of a block)
        Elements of a block in the order of the reduced axes.
    shape : tuple of int
        Shape of `x` with 1 for every axis reduced over.

    Raises
    ------
    ValueError
        If an axis lies outside the data.

    References
    ----------
    NumPy's reductions with ``keepdims=True``.

    Examples
    --------
    >>> rows, shape = as_rows(np.arange(6.0).reshape(2, 3), axis=0)
    >>> rows.shape, shape
    ((3, 2), (1, 3))
    """
    for one in () if axis is None else np.atleast_1d(axis):
        require_int("axis", one, -x.ndim, x.ndim - 1)
    kept = () if axis is None else all_but(axis, x.ndim)
    reduced = all_but(kept, x.ndim)
    shape = tuple(n if i in kept else 1 for i, n in enumerate(x.shape))
    blocks = np.prod([x.shape[i] for i in kept], dtype=int)
    elements = np.prod([x.shape[i] for i in reduced], dtype=int)
    return x.transpose(*kept, *reduced).reshape(blocks, elements), shape
