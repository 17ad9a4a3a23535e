r"""Encode, decode and fake-quantize fast: all the steps on one tile before the next tile.

The definition in `refquant.quantizers.uniform` walks the whole array once for
each of its steps, and every walk goes out to main memory. Here a tile of two
megabytes stays in the cache while ``divide, round, clip, multiply`` pass over it,
each writing where the last one did. Nothing else is different: the arithmetic
is the same, so the results are, bit for bit.

========================  =====================================================
what is tempting          why it is not done
========================  =====================================================
multiply by ``1 / s``     another number, other codes near ties; division is as
                          fast once memory is not in the way
``min`` and ``max``       two passes where ``clip`` takes one
clip every tile           its least and largest code are found in half the time,
                          mostly lie inside, and are NaN if any element is
========================  =====================================================
"""

from collections.abc import Iterator
from types import EllipsisType
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes, Rounding
from refquant._validate import (
    as_reals,
    as_unmasked,
    require_broadcastable,
    require_codes,
    require_no_nan,
)
from refquant.quantizers.uniform import Uniform
from refquant.rounding import half_even

__all__ = ["decode", "encode", "fake_quantize", "stochastic_round"]

#: Bytes of a tile: it and its source share the last-level cache. Smaller tiles fit a
#: nearer cache and lose more to the calls, seven for each tile.
TILE = 2**21

_Index: TypeAlias = tuple[int | slice | EllipsisType, ...]


def encode(x: Array, uniform: Uniform, *, rounding: Rounding = half_even) -> Codes:
    """Code of each element: what ``uniform.encode(x)`` returns, in less time and memory.

    Parameters
    ----------
    x : ndarray of float, any shape that ``uniform.scale`` broadcasts to
    uniform : Uniform
    rounding : callable, ndarray -> ndarray
        Called on one tile after the other, so it must round each element by
        itself: a function of `refquant.rounding`, or `stochastic_round`.

    Returns
    -------
    ndarray of int32, shape of `x`

    Raises
    ------
    ValueError
        If `x` has a NaN or `uniform` does not broadcast to it.
    TypeError
        If `x` is not float32 or float64.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> encode(np.array([-1.0, 0.1, 9.0]), symmetric(np.array(1.5), bits=3))
    array([-2,  0,  3], dtype=int32)
    """
    x, scale, zero_point = _broadcast(x, uniform)
    codes = np.empty(x.shape, np.int32)
    for tile in _tiles(x.shape, zero_point.dtype):
        wide = np.empty(codes[tile].shape, zero_point.dtype)
        _encode(x[tile], scale[tile], zero_point[tile], uniform, rounding, out=wide)
        np.copyto(codes[tile], wide, casting="unsafe")
    return codes


def decode(codes: Array, uniform: Uniform) -> Array:
    """Real value of each code: what ``uniform.decode(codes)`` returns, in less time and memory.

    Parameters
    ----------
    codes : ndarray of int, any shape that ``uniform.scale`` broadcasts to
    uniform : Uniform

    Returns
    -------
    ndarray of float, dtype of the scale, shape of `codes`

    Raises
    ------
    ValueError
        If a code is outside ``[qmin, qmax]`` or `uniform` does not broadcast to them.
    TypeError
        If `codes` are not integers.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> decode(np.array([-2, 0, 3]), symmetric(np.array(1.5), bits=3))
    array([-1. ,  0. ,  1.5])
    """
    codes, dtype = as_unmasked("codes", codes), uniform.work_dtype
    require_broadcastable("scale", uniform.scale, codes.shape)
    scale = np.broadcast_to(uniform.scale, codes.shape)
    zero_point = np.broadcast_to(uniform.zero_point.astype(dtype), codes.shape)
    shifted = uniform.zero_point.any()
    values = np.empty(codes.shape, uniform.scale.dtype)
    for tile in _tiles(codes.shape, dtype):
        given = require_codes("codes", codes[tile], uniform.qmin, uniform.qmax)
        steps = values[tile] if dtype == values.dtype else np.empty(given.shape, dtype)
        np.copyto(steps, given, casting="unsafe")
        if shifted:
            steps -= zero_point[tile]
        np.multiply(steps, scale[tile], out=values[tile], dtype=dtype, casting="same_kind")
    return values


def fake_quantize(
    x: Array, uniform: Uniform, *, rounding: Rounding = half_even, out: Array | None = None
) -> Array:
    """Value of each element after a round trip through its code, which is never stored.

    Parameters
    ----------
    x : ndarray of float, any shape that ``uniform.scale`` broadcasts to
    uniform : Uniform
    rounding : callable, ndarray -> ndarray
        As in `encode`.
    out : ndarray, shape and dtype of `x`, optional
        Where to write; it may be `x` itself. Fresh memory costs as much as
        two or three of the passes.

    Returns
    -------
    ndarray
        ``uniform.decode(uniform.encode(x))`` in the shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `x` has a NaN, `uniform` does not broadcast to it, or `out` differs
        from it in shape or dtype. After a NaN, `out` is partly written.
    TypeError
        If `x` is not float32 or float64.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3, eq. (12).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> fake_quantize(np.array([-1.0, 0.1, 9.0]), symmetric(np.array(1.5), bits=3))
    array([-1. ,  0. ,  1.5])
    """
    x, scale, zero_point = _broadcast(x, uniform)
    x_hat = _output(x, out)
    shifted = uniform.zero_point.any()
    one_dtype = x.dtype == zero_point.dtype == uniform.scale.dtype
    for tile in _tiles(x.shape, zero_point.dtype):
        work = x_hat[tile] if one_dtype else np.empty(x_hat[tile].shape, zero_point.dtype)
        _encode(x[tile], scale[tile], zero_point[tile], uniform, rounding, out=work)
        if shifted:
            work -= zero_point[tile]
        np.multiply(work, scale[tile], out=work)
        if not one_dtype:                       # decode returns the dtype of the scale
            x_hat[tile] = work.astype(uniform.scale.dtype, copy=False)
    return x_hat


def stochastic_round(
    x: Array, *, rng: np.random.Generator, out: Array | None = None
) -> Array:
    r"""Stochastic rounding with 16 random bits an element, four elements to a draw.

    .. math:: P(\lfloor x \rfloor + 1) = 2^{-16}\, \mathrm{round}(2^{16} f),
              \qquad f = x - \lfloor x \rfloor,

    with ties to even: `refquant.rounding.stochastic_few_bits` with 16 bits and
    the same lanes returns the same numbers. The bias of an element is
    :math:`2^{-17}` at most, and averages to zero for continuous data and on every
    dyadic grid.

    Parameters
    ----------
    x : ndarray of float, any shape
    rng : numpy.random.Generator
        For each tile of n elements, ``ceil(n / 4)`` integers of 64 bits; element i
        takes the i-th 16 bits of them in memory. `numpy.random.SFC64` is fastest.
    out : ndarray, shape and dtype of `x`, optional
        Where to write; it may be `x` itself.

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`; NaN and infinities as they are.

    Raises
    ------
    ValueError
        If `out` differs from `x` in shape or dtype.
    TypeError
        If `x` is not float32 or float64.

    References
    ----------
    Fitzgibbon and Felix, "On Stochastic Rounding with Few Random Bits", 2025,
    arXiv:2504.20634.

    Examples
    --------
    >>> y = stochastic_round(np.full(10_000, 0.3), rng=np.random.default_rng(0))
    >>> np.unique(y), round(y.mean(), 2)
    (array([0., 1.]), np.float64(0.3))
    """
    x = as_reals("x", x)
    rounded = _output(x, out)
    # A float from 2 * half up to 4 * half has a last place of 2**-16: adding three halves puts
    # the value on the grid of the lanes, ties to even, as whole numbers in its low bits.
    half = 2.0 ** (np.finfo(x.dtype).nmant - 17)
    middle = x.dtype.type(3 * half)
    whole = np.dtype(f"u{x.itemsize}")
    for tile in _tiles(x.shape, x.dtype, 2):        # with their lanes, two arrays share the cache
        part = x[tile]
        n = -(-part.size // 4)
        draws = rng.integers(0, 2**64 - 1, endpoint=True, size=n, dtype=np.uint64)
        lanes = draws.view(np.uint16)[: part.size].reshape(part.shape)
        # Not for NaN. Where a lane takes the value below 2 * half, it counts for half as much:
        # `ceil` finds the same whole number.
        if part.min() >= -half and part.max() <= half:
            steps = np.add(part, middle, out=rounded[tile])
            bits = steps.view(whole)
            np.subtract(bits, lanes, out=bits)                  # exact: steps of 2**-16
            np.ceil(steps, out=steps)                           # up if the lane is below the rest
            steps -= middle
        else:
            rounded[tile] = _carry(part, lanes)
    return rounded


def _carry(x: Array, lanes: Array) -> Array:
    """The same in steps of 2**-16 that need no common last place, for values of any size."""
    below = np.floor(x)
    with np.errstate(over="ignore", invalid="ignore"):          # infinity less infinity moves not
        wanted = np.rint(x * 2**16) - below * 2**16
    return below + (lanes < wanted)


def _output(x: Array, out: Array | None) -> Array:
    """`out`, or a new array like `x`."""
    if out is None:
        return np.empty(x.shape, x.dtype)
    if out.shape != x.shape or out.dtype != x.dtype:
        raise ValueError(
            f"`out` must have shape {x.shape} and dtype {x.dtype}; got {out.shape} and {out.dtype}"
        )
    return out


def _broadcast(x: Array, uniform: Uniform) -> tuple[Array, Array, Array]:
    """The data; scale and zero point as views of its shape, the latter in the dtype to work in."""
    x = as_reals("x", x)
    require_broadcastable("scale", uniform.scale, x.shape)
    zero_point = uniform.zero_point.astype(np.result_type(x.dtype, uniform.work_dtype))
    return x, np.broadcast_to(uniform.scale, x.shape), np.broadcast_to(zero_point, x.shape)


def _encode(
    x: Array, scale: Array, zero_point: Array, uniform: Uniform, rounding: Rounding, *, out: Array
) -> None:
    """Write the code of each element to `out`, as a float."""
    with np.errstate(over="ignore"):            # an overflowing ratio is infinite, and saturates
        np.divide(x, scale, out=out, dtype=out.dtype)
    if rounding is half_even:
        np.rint(out, out=out)
    else:
        out[...] = rounding(out)
    out += zero_point                           # even if it is 0: -0.0 becomes 0.0
    least, most = out.min(), out.max()
    if np.isnan(least):
        require_no_nan("x", x)
    if least < uniform.qmin or most > uniform.qmax:
        # Bounds of the dtype of the data: whole numbers of Python would be converted each time.
        low, high = out.dtype.type(uniform.qmin), out.dtype.type(uniform.qmax)
        out.clip(low, high, out=out)


def _tiles(
    shape: tuple[int, ...], dtype: npt.DTypeLike, arrays: int = 1
) -> Iterator[_Index]:
    """Indices that cut an array into tiles, each contiguous if the array is, in C order.

    As many trailing axes as fit into a tile stay whole; the axis before them is
    cut into runs; along the axes before that a tile has one index.
    """
    most = max(TILE // arrays // np.dtype(dtype).itemsize, 1)
    if 0 in shape:
        return
    whole, inner = len(shape), 1
    while whole > 0 and inner * shape[whole - 1] <= most:
        whole -= 1
        inner *= shape[whole]
    if whole == 0:
        yield (...,)
        return
    n = shape[whole - 1]
    pieces = -(-n * inner // most)
    run = -(-n // pieces)
    for leading in np.ndindex(shape[: whole - 1]):
        for start in range(0, n, run):
            # The ellipsis makes it a view even of a single element.
            yield (*leading, slice(start, start + run), ...)
