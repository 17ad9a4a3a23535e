"""The plain operations: value forward, gradient back.

Each takes arrays and returns ``(value, pullback)``. Images are
``(n, height, width, channels)``; weights put the output channel first, so that
"per channel" is ``all_but(0, weight.ndim)`` for every layer. Results have the
dtype of the data: float32 to train, float64 to check.
"""

from collections.abc import Iterator

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.nn._arrays import column_sums
from refquant.nn.network import Pullback

__all__ = [
    "add",
    "average_pool",
    "flatten",
    "global_average_pool",
    "linear",
    "max_pool",
    "relu",
    "relu6",
]


def linear(x: Array, weight: Array, bias: Array | None = None) -> tuple[Array, Pullback]:
    r"""Affine map of each row, :math:`y = x W^T + b`.

    Parameters
    ----------
    x : ndarray of float, shape (..., in)
    weight : ndarray of float, shape (out, in)
    bias : ndarray of float, shape (out,), optional

    Returns
    -------
    value : ndarray, shape (..., out)
    pullback : callable
        Gradients of `x`, `weight` and, if given, `bias`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-A (the problem set-up).

    Examples
    --------
    >>> y, pullback = linear(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([0.5]))
    >>> y
    array([[11.5]])
    >>> [g.tolist() for g in pullback(np.array([[1.0]]))]
    [[[3.0, 4.0]], [[1.0, 2.0]], [1.0]]
    """
    if weight.ndim != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"`weight` must have shape (out, {x.shape[-1]}); got {weight.shape}")
    # Two-dimensional on purpose: a product with a 3-D operand leaves BLAS.
    rows = x.reshape(-1, x.shape[-1])
    y = rows @ weight.T
    if bias is not None:
        y += bias
    out = y.reshape(*x.shape[:-1], len(weight))

    def pullback(g: Array) -> tuple[Array | None, ...]:
        g = g.reshape(-1, len(weight))
        parts = (g @ weight).reshape(x.shape), g.T @ rows
        return parts if bias is None else (*parts, column_sums(g))

    return out, pullback


def relu(x: Array) -> tuple[Array, Pullback]:
    r"""Positive part, :math:`\max(x, 0)`; its gradient at 0 is 0.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    value : ndarray, shape of `x`
    pullback : callable

    References
    ----------
    Nair and Hinton, 2010, ICML (rectified linear units).

    Examples
    --------
    >>> y, pullback = relu(np.array([-1.0, 0.0, 2.0]))
    >>> y, pullback(np.ones(3))
    (array([0., 0., 2.]), (array([0., 0., 1.]),))
    """
    y = np.maximum(x, 0)
    return y, lambda g: (g * (y > 0),)


def relu6(x: Array) -> tuple[Array, Pullback]:
    r"""Values clipped to [0, 6]; the gradient is 0 at both corners.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    value : ndarray, shape of `x`
    pullback : callable

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861 (MobileNets); Jacob et al., 2018,
    arXiv:1712.05877, section 4.1: a fixed range suits fixed-point codes.

    Examples
    --------
    >>> y, pullback = relu6(np.array([-1.0, 2.0, 7.0]))
    >>> y, pullback(np.ones(3))
    (array([0., 2., 6.]), (array([0., 1., 0.]),))
    """
    y = np.clip(x, 0, 6)
    return y, lambda g: (g * ((y > 0) & (y < 6)),)


def add(x: Array, other: Array) -> tuple[Array, Pullback]:
    """Sum of two arrays of one shape: the joint of a residual block.

    Parameters
    ----------
    x, other : ndarray of float, same shape

    Returns
    -------
    value : ndarray
    pullback : callable

    Raises
    ------
    ValueError
        If the shapes differ: a silent broadcast would need a sum on the way back.

    References
    ----------
    He et al., 2016, arXiv:1512.03385, eq. (1).

    Examples
    --------
    >>> add(np.array([1.0]), np.array([2.0]))[0]
    array([3.])
    """
    if x.shape != other.shape:
        raise ValueError(f"`other` must have shape {x.shape}; got {other.shape}")
    return x + other, lambda g: (g, g)


def flatten(x: Array) -> tuple[Array, Pullback]:
    """All axes but the first joined, in C order.

    Parameters
    ----------
    x : ndarray, shape (n, ...)

    Returns
    -------
    value : ndarray, shape (n, features)
    pullback : callable

    References
    ----------
    LeCun et al., 1998, Proc. IEEE 86(11), section II-B (maps into full layers).

    Examples
    --------
    >>> flatten(np.zeros((2, 4, 4, 3)))[0].shape
    (2, 48)
    """
    return x.reshape(len(x), int(np.prod(x.shape[1:]))), lambda g: (g.reshape(x.shape),)


def global_average_pool(x: Array) -> tuple[Array, Pullback]:
    """Mean of each channel over the image.

    Parameters
    ----------
    x : ndarray of float, shape (n, height, width, channels)

    Returns
    -------
    value : ndarray, shape (n, channels)
    pullback : callable

    References
    ----------
    Lin et al., 2013, arXiv:1312.4400, section 3.2.

    Examples
    --------
    >>> global_average_pool(np.arange(4.0).reshape(1, 2, 2, 1))[0]
    array([[1.5]])
    """
    n, height, width, channels = x.shape
    pixels = height * width

    def pullback(g: Array) -> tuple[Array | None, ...]:
        return (np.broadcast_to((g / pixels)[:, None, None], x.shape),)

    return x.reshape(n, pixels, channels).sum(1) / pixels, pullback


def average_pool(x: Array, *, size: int, stride: int | None = None) -> tuple[Array, Pullback]:
    """Mean of each window of `size` by `size` pixels.

    Parameters
    ----------
    x : ndarray of float, shape (n, height, width, channels)
    size : int
        Side of the window; rows and columns that fill no window are dropped.
    stride : int, optional
        Distance between windows; `size` if not given.

    Returns
    -------
    value : ndarray, shape (n, out_height, out_width, channels)
    pullback : callable

    Raises
    ------
    ValueError
        If the window is larger than the image.

    References
    ----------
    LeCun et al., 1998, Proc. IEEE 86(11), section II-B (subsampling).

    Examples
    --------
    >>> average_pool(np.arange(4.0).reshape(1, 2, 2, 1), size=2)[0].ravel()
    array([1.5])
    """
    windows = list(_windows(x, size, stride))
    count = len(windows)

    def pullback(g: Array) -> tuple[Array | None, ...]:
        dx = np.zeros_like(x)
        share = g / count
        for view in windows:
            dx[view] += share
        return (dx,)

    return sum((x[view] for view in windows[1:]), start=x[windows[0]]) / count, pullback


def max_pool(x: Array, *, size: int, stride: int | None = None) -> tuple[Array, Pullback]:
    """Largest value of each window of `size` by `size` pixels.

    The gradient goes to one winner per window: the first in C order among equals.

    Parameters
    ----------
    x : ndarray of float, shape (n, height, width, channels)
    size : int
        Side of the window; rows and columns that fill no window are dropped.
    stride : int, optional
        Distance between windows; `size` if not given.

    Returns
    -------
    value : ndarray, shape (n, out_height, out_width, channels)
    pullback : callable

    Raises
    ------
    ValueError
        If the window is larger than the image.

    References
    ----------
    Krizhevsky et al., 2012, NeurIPS, section 3.4 (overlapping pooling).

    Examples
    --------
    >>> y, pullback = max_pool(np.array([1.0, 5.0, 5.0, 2.0]).reshape(1, 2, 2, 1), size=2)
    >>> y.ravel(), pullback(np.ones_like(y))[0].ravel()
    (array([5.]), array([0., 1., 0., 0.]))
    """
    windows = list(_windows(x, size, stride))
    best = x[windows[0]].copy()
    winner = np.zeros(best.shape, np.intp)
    for i, view in enumerate(windows[1:], start=1):
        better = x[view] > best
        best[better] = x[view][better]
        winner[better] = i

    def pullback(g: Array) -> tuple[Array | None, ...]:
        dx = np.zeros_like(x)
        for i, view in enumerate(windows):
            dx[view] += g * (winner == i)
        return (dx,)

    return best, pullback


def _windows(x: Array, size: int, stride: int | None) -> Iterator[tuple[slice, slice, slice]]:
    """For each place in a window, the slices of `x` with that place of all windows."""
    stride = size if stride is None else stride
    require_int("size", size, 1, min(x.shape[1:3]))
    require_int("stride", stride, 1)
    rows = (x.shape[1] - size) // stride * stride + 1
    columns = (x.shape[2] - size) // stride * stride + 1
    for i in range(size):
        for j in range(size):
            yield slice(None), slice(i, i + rows, stride), slice(j, j + columns, stride)
