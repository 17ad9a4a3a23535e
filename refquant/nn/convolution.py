"""Convolution slides one small weight over the image; here it is one matrix product.

Gather the pixels under each position of the kernel into a row, and every output
channel is an inner product with that row: `conv2d` is `linear` on patches. A
depthwise convolution has one kernel per channel and no product to speak of: it is
a sum of shifted, scaled images.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from refquant._types import Array
from refquant._validate import require_int
from refquant.nn._arrays import column_sums, padded
from refquant.nn.network import Pullback

__all__ = ["conv2d", "depthwise_conv2d", "patches"]


def patches(x: Array, kernel: tuple[int, int], *, stride: int = 1, padding: int = 0) -> Array:
    """The pixels under each position of the kernel, one row per position.

    ``conv2d(x, w)`` is ``patches(x, ...) @ w.reshape(out, -1).T``: whatever works
    on the inputs of a linear layer (GPTQ, AdaRound) works on a convolution
    through this function.

    Parameters
    ----------
    x : ndarray, shape (n, height, width, in)
    kernel : tuple of int
        Height and width of the kernel.
    stride : int
        Distance between positions.
    padding : int
        Width of the frame of zeros around the image.

    Returns
    -------
    ndarray, shape (n, out_height, out_width, kernel_height * kernel_width * in)
        Contiguous; a row has the order of ``weight[o].ravel()``.

    Raises
    ------
    ValueError
        If the kernel is larger than the padded image.

    References
    ----------
    Chellapilla et al., 2006, "High performance convolutional neural networks for
    document processing", section 3 (unrolling).

    Examples
    --------
    >>> patches(np.arange(9.0).reshape(1, 3, 3, 1), (2, 2))[0, 0, 0]
    array([0., 1., 3., 4.])
    """
    require_int("stride", stride, 1)
    require_int("padding", padding, 0)
    kh, kw = kernel
    n, height, width, channels = x.shape
    if kh > height + 2 * padding or kw > width + 2 * padding:
        raise ValueError(
            f"`kernel` must fit the padded image of {height + 2 * padding} by "
            f"{width + 2 * padding} pixels; got {kernel}"
        )
    # A row of pixels is one run of numbers, so a window of kw pixels is one run too.
    rows = padded(x, padding).reshape(n, height + 2 * padding, -1)
    windows = sliding_window_view(rows, (kh, kw * channels), axis=(1, 2))
    windows = windows[:, ::stride, :: stride * channels]
    return np.ascontiguousarray(windows).reshape(*windows.shape[:3], -1)


def conv2d(
    x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0
) -> tuple[Array, Pullback]:
    r"""Convolution (in fact correlation, as everywhere in deep learning).

    .. math:: y_{n,i,j,o} = b_o + \sum_{k,l,c} w_{o,k,l,c}\, x_{n,\,si+k-p,\,sj+l-p,\,c}

    Parameters
    ----------
    x : ndarray of float, shape (n, height, width, in)
    weight : ndarray of float, shape (out, kernel_height, kernel_width, in)
    bias : ndarray of float, shape (out,), optional
    stride : int
        s, the distance between positions.
    padding : int
        p, the width of the frame of zeros.

    Returns
    -------
    value : ndarray, shape (n, out_height, out_width, out)
    pullback : callable
        Gradients of `x`, `weight` and, if given, `bias`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    LeCun et al., 1998, Proc. IEEE 86(11), section II-A.

    Examples
    --------
    >>> image = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> y, pullback = conv2d(image, np.ones((1, 2, 2, 1)), stride=2)
    >>> y[0, :, :, 0]
    array([[10., 18.],
           [42., 50.]])
    >>> pullback(np.ones_like(y))[1].ravel()
    array([20., 24., 36., 40.])
    """
    if weight.ndim != 4 or x.ndim != 4 or weight.shape[3] != x.shape[3]:
        raise ValueError(
            f"`weight` must have shape (out, height, width, {x.shape[-1]}); got {weight.shape}"
        )
    out, kh, kw, _ = weight.shape
    flat = weight.reshape(out, -1)
    cols = patches(x, (kh, kw), stride=stride, padding=padding)
    shape = (*cols.shape[:3], out)
    cols = cols.reshape(-1, flat.shape[1])
    y = cols @ flat.T
    if bias is not None:
        y += bias

    def pullback(g: Array) -> tuple[Array | None, ...]:
        rows = g.reshape(-1, out)
        if stride == 1 and kh == kw and padding < kh:
            # Each pixel collects from the positions that saw it: the same convolution
            # with the kernel flipped and its two channel axes swapped.
            flipped = weight[:, ::-1, ::-1].transpose(1, 2, 0, 3).reshape(-1, x.shape[3])
            dx = patches(g.reshape(shape), (kh, kw), padding=kh - 1 - padding)
            dx = (dx.reshape(-1, len(flipped)) @ flipped).reshape(x.shape)
        else:
            dx = _scatter((rows @ flat).reshape(*shape[:3], kh, kw, -1), x, stride, padding)
        parts = dx, (rows.T @ cols).reshape(weight.shape)
        return parts if bias is None else (*parts, column_sums(rows))

    return y.reshape(shape), pullback


def depthwise_conv2d(
    x: Array, weight: Array, bias: Array | None = None, *, stride: int = 1, padding: int = 0
) -> tuple[Array, Pullback]:
    r"""Convolution of each channel with a kernel of its own.

    .. math:: y_{n,i,j,c} = b_c + \sum_{k,l} w_{c,k,l}\, x_{n,\,si+k-p,\,sj+l-p,\,c}

    Parameters
    ----------
    x : ndarray of float, shape (n, height, width, channels)
    weight : ndarray of float, shape (channels, kernel_height, kernel_width, 1)
    bias : ndarray of float, shape (channels,), optional
    stride : int
        s, the distance between positions.
    padding : int
        p, the width of the frame of zeros.

    Returns
    -------
    value : ndarray, shape (n, out_height, out_width, channels)
    pullback : callable
        Gradients of `x`, `weight` and, if given, `bias`.

    Raises
    ------
    ValueError
        If the shapes do not fit.

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861, eq. (3).

    Examples
    --------
    >>> image = np.arange(8.0).reshape(1, 2, 2, 2)
    >>> depthwise_conv2d(image, np.array([1.0, 10.0]).reshape(2, 1, 1, 1))[0][0, 0]
    array([[ 0., 10.],
           [ 2., 30.]])
    """
    require_int("stride", stride, 1)
    require_int("padding", padding, 0)
    n, height, width, channels = x.shape
    if weight.ndim != 4 or weight.shape[0] != channels or weight.shape[3] != 1:
        raise ValueError(
            f"`weight` must have shape ({channels}, height, width, 1); got {weight.shape}"
        )
    kh, kw = weight.shape[1:3]
    out_h = (height + 2 * padding - kh) // stride + 1
    out_w = (width + 2 * padding - kw) // stride + 1
    if out_h < 1 or out_w < 1:
        raise ValueError(f"`weight` must fit the padded image; got kernel {(kh, kw)}")
    # Every stride-th pixel of every stride-th row, for each of the stride**2 places to start:
    # under one element of the kernel lies a part of one such grid, and a row of the part is one
    # run of numbers, which the kernel, repeated along it, multiplies at once.
    framed = padded(x, padding)
    grids = {(k, m): framed[:, k::stride, m::stride] for k in range(stride) for m in range(stride)}
    grids = {at: np.ascontiguousarray(grid) for at, grid in grids.items()}
    kernels = np.tile(weight[..., 0].transpose(1, 2, 0), out_w)

    def under(grids: dict[tuple[int, int], Array], k: int, m: int) -> Array:
        """The pixels under element (k, m) of the kernel, at all positions; a view."""
        grid, row, column = grids[k % stride, m % stride], k // stride, m // stride
        runs = grid.reshape(n, grid.shape[1], -1)
        return runs[:, row : row + out_h, column * channels : (column + out_w) * channels]

    y = under(grids, 0, 0) * kernels[0, 0]
    for k in range(kh):
        for m in range(kw):
            if k or m:
                y += under(grids, k, m) * kernels[k, m]
    y = y.reshape(n, out_h, out_w, channels)
    if bias is not None:
        y += bias

    def pullback(g: Array) -> tuple[Array | None, ...]:
        rows = g.reshape(n, out_h, -1)
        d_grids = {at: np.zeros_like(grid) for at, grid in grids.items()}
        d_weight = np.empty((kh, kw, channels), weight.dtype)
        for k in range(kh):
            for m in range(kw):
                view = under(d_grids, k, m)
                view += rows * kernels[k, m]
                product = rows * under(grids, k, m)
                d_weight[k, m] = column_sums(product.reshape(-1, channels))
        d_framed = np.empty_like(framed)
        for (k, m), grid in d_grids.items():
            d_framed[:, k::stride, m::stride] = grid
        parts = _unframed(d_framed, padding), d_weight.transpose(2, 0, 1)[..., None]
        return parts if bias is None else (*parts, column_sums(g))

    return y, pullback


def _scatter(d_patches: Array, x: Array, stride: int, padding: int) -> Array:
    """Gradient of the image: every patch adds its own gradient where it was taken."""
    n, height, width, channels = x.shape
    _, out_h, out_w, kh, kw, _ = d_patches.shape
    dx = np.zeros((n, height + 2 * padding, width + 2 * padding, channels), x.dtype)
    for k in range(kh):
        for m in range(kw):
            dx[_places(k, m, (out_h, out_w), stride)] += d_patches[:, :, :, k, m]
    return _unframed(dx, padding)


def _places(k: int, m: int, out: tuple[int, int], stride: int) -> tuple[slice, slice, slice]:
    """The pixels under element (k, m) of the kernel, at all positions."""
    rows, columns = (out[0] - 1) * stride + 1, (out[1] - 1) * stride + 1
    return slice(None), slice(k, k + rows, stride), slice(m, m + columns, stride)


def _unframed(x: Array, padding: int) -> Array:
    """`x` without its frame."""
    return x[:, padding : x.shape[1] - padding, padding : x.shape[2] - padding]
