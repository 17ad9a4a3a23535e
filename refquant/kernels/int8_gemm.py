r"""Multiply matrices of integer codes exactly, with the float arithmetic of BLAS.

NumPy's own product of integers is a plain loop; its product of floats is a tuned
library, a hundred times as fast. And a float *is* an exact integer as long as it
is small: every whole number up to :math:`2^{24}` is a float32, up to
:math:`2^{53}` a float64. If no partial sum can leave that range, in whatever
order the library adds, then nothing is ever rounded:

.. math:: \Bigl|\sum_{k \in S} w_{jk} x_{ik}\Bigr|
          \le \max|x| \cdot \max_j \sum_k |w_{jk}| \le 2^{24}

`plan` turns this bound into a way to compute, and is the only place that does.
Sums beyond the bound are cut into chunks that obey it (for int8, 1024 products
of at most :math:`2^{14}`) and the chunks are added as integers.

=====================================  ========================================
call                                   when
=====================================  ========================================
``gemm(x, weight, dtype=np.int32)``    once, from small codes; little memory
``prepare(weight, x_max=128)``         once per layer: checks, and casts weights
``gemm_prepared(x, prepared)``         many times: casts `x`, multiplies, casts
``gemm_definition(x, weight)``         to judge the others: int64 throughout
=====================================  ========================================

All return ``x @ weight.T``, shapes ``(m, in)`` and ``(out, in)`` to ``(m, out)``.
Zero points are the caller's: subtract them first (codes less a zero point are
int16), or afterwards, since :math:`\sum_k w_{jk} (x_{ik} - z) = (x w^T)_{ij} - z
\sum_k w_{jk}`, which `Prepared` keeps as ``sums``.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import as_unmasked, require_int, require_kind
from refquant.kernels._apart import apart
from refquant.kernels._threads import for_each

__all__ = ["Plan", "Prepared", "gemm", "gemm_definition", "gemm_prepared", "plan", "prepare"]

#: Rows of x that are cast at a time: enough work for BLAS to make up for casting the weight.
X_ROWS = 1024
#: Weights of a layer so small that the calls count: then there are three, for a single tile.
SMALL = 2**18
#: Products that a chunk may add: more would not be faster, and take more memory.
MOST = 2048
#: Below this many products in a chunk, adding up chunks costs more than float64 does.
LEAST = 128


class Plan(NamedTuple):
    """In which numbers to add up, and how many products at a time.

    Attributes
    ----------
    dtype : type
        ``np.float32``, ``np.float64`` or ``np.int64``.
    chunk : int
        Products whose sum, in any order, is exact in `dtype`.

    References
    ----------
    IEEE 754-2019, section 3.3: the significands of binary32 and binary64.

    Examples
    --------
    >>> Plan(np.float32, 1024).chunk
    1024
    """

    dtype: type
    chunk: int


def plan(total: int, w_max: int, x_max: int) -> Plan:
    r"""Cheapest exact way to add up products of weights and codes.

    =====================================================  ======================
    bound                                                  plan
    =====================================================  ======================
    :math:`\max_j \sum_k |w_{jk}| \max|x| \le 2^{24}`      float32, all at once
    :math:`c \max|w| \max|x| \le 2^{24}`, c at least 128   float32, chunks of c
    :math:`\max_j \sum_k |w_{jk}| \max|x| \le 2^{53}`      float64, all at once
    otherwise                                              int64, without BLAS
    =====================================================  ======================

    Parameters
    ----------
    total : int
        Largest sum of the magnitudes of the weights of one output.
    w_max, x_max : int
        Largest magnitudes of a weight and of a code.

    Returns
    -------
    Plan
        Its chunk is at most 2048, to bound the memory of the kernel.

    References
    ----------
    The exactness of integer products in floating point is used in this way by
    Dumas, Giorgi, Pernet, 2008, arXiv:cs/0601133 (FFLAS).

    Examples
    --------
    >>> plan(total=2**17, w_max=128, x_max=128).chunk == MOST       # 2**17 * 2**7 == 2**24
    True
    >>> plan(total=2**17 + 1, w_max=128, x_max=128).chunk
    1024
    >>> plan(total=2**17 + 1, w_max=128, x_max=2**15).dtype is np.float64
    True
    """
    bound = total * x_max
    chunk = 2**24 // max(w_max * x_max, 1)
    if bound <= 2**24:
        return Plan(np.float32, MOST)
    if chunk >= LEAST:
        return Plan(np.float32, min(chunk, MOST))
    if bound <= 2**53:
        return Plan(np.float64, MOST)
    return Plan(np.int64, MOST)


class Prepared(NamedTuple):
    """Weights ready for `gemm_prepared`.

    Attributes
    ----------
    weight : ndarray of float32, float64 or int64, shape (out, in)
        The codes, cast: four or eight bytes each.
    chunk : int
        Products to add up before going over to integers.
    x_max : int
        Largest magnitude of a code that the bound allows for.
    sums : ndarray of int64, shape (out,)
        Sum of the codes of each output, to correct for a zero point.
    dtype : type
        Of the result: ``np.int32`` or ``np.int64``.

    References
    ----------
    See `prepare`.

    Examples
    --------
    >>> prepare(np.array([[1, -2]], np.int8)).sums
    array([-1])
    """

    weight: Array
    chunk: int
    x_max: int
    sums: Array
    dtype: type


def gemm(x: Array, weight: Array, *, dtype: type = np.int32, threads: int = 1) -> Array:
    """Exact product ``x @ weight.T`` of integer codes, weights kept small.

    Tiles of both operands are cast as they are needed, which takes a few percent
    of the time of the product itself if `x` has some tens of rows.

    Parameters
    ----------
    x : ndarray of int, shape (m, in)
    weight : ndarray of int, shape (out, in)
        Both int64, or of 8, 16 or 32 bits, signed or not.
    dtype : type
        ``np.int32``, or ``np.int64`` for products that may leave it.
    threads : int
        Parts of the weight multiplied at the same time. More than one helps if there are
        some tens of rows of `x`, idle cores, and a BLAS held to one thread.

    Returns
    -------
    ndarray of `dtype`, shape (m, out)
        Beside it at most 20 megabytes are in use for each thread (40 if float64 is needed).

    Raises
    ------
    ValueError
        If the shapes do not match, a sum could overflow `dtype`, or `threads` is below 1.
    TypeError
        If an operand is not of integers.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eqs. (7)-(9).

    Examples
    --------
    >>> gemm(np.array([[1, 2], [-128, 0]], np.int8), np.array([[3, -4]], np.int8))
    array([[  -5],
           [-384]], dtype=int32)
    """
    x, weight = _matrix("x", x), _matrix("weight", weight)
    w_max, x_max = _largest_by_type(weight), _largest_by_type(x)
    total = weight.shape[1] * w_max             # crude, and enough for most codes of 8 bits
    if total * x_max > 2**31 - 1:
        total = _largest_sum(weight)
    _require_room(total * x_max, dtype)
    way = plan(total, w_max, x_max)
    return _product(x, weight, way.dtype, way.chunk, dtype, threads)


def prepare(weight: Array, *, x_max: int = 128, dtype: type = np.int32) -> Prepared:
    """Weights cast once, with everything checked that can be before `x` is known.

    Parameters
    ----------
    weight : ndarray of int, shape (out, in)
    x_max : int
        Largest magnitude of a code that will come: 128 for int8, 255 for uint8
        or its difference to a zero point, 32768 for int16.
    dtype : type
        Of the products: ``np.int32`` or ``np.int64``.

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError
        If `weight` is not a matrix, or a sum could overflow `dtype`.
    TypeError
        If `weight` is not of integers.

    References
    ----------
    See `gemm`.

    Examples
    --------
    >>> prepare(np.array([[3, -4]], np.int8), x_max=2**15).weight
    array([[ 3., -4.]], dtype=float32)
    """
    weight = _matrix("weight", weight)
    x_max = require_int("x_max", x_max, 0)
    total = _largest_sum(weight)
    _require_room(total * x_max, dtype)
    way = plan(total, _largest(weight), x_max)
    sums = weight.sum(axis=1, dtype=np.int64)
    return Prepared(weight.astype(way.dtype), way.chunk, x_max, sums, dtype)


def gemm_prepared(x: Array, prepared: Prepared, *, threads: int = 1) -> Array:
    """Exact product ``x @ weight.T`` of integer codes, the weights cast beforehand.

    Parameters
    ----------
    x : ndarray of int, shape (m, in)
        Magnitudes at most ``prepared.x_max``. If the dtype says so (int8 for
        128), they are not looked at.
    prepared : Prepared
    threads : int
        As in `gemm`.

    Returns
    -------
    ndarray of ``prepared.dtype``, shape (m, out)
        Beside it no more memory than `gemm` needs.

    Raises
    ------
    ValueError
        If the shapes do not match or a code is larger than announced.
    TypeError
        If `x` is not of integers, or `prepared` not `Prepared`.

    References
    ----------
    See `gemm`.

    Examples
    --------
    >>> weight = prepare(np.array([[3, -4]], np.int8))
    >>> gemm_prepared(np.array([[1, 2], [-128, 0]], np.int8), weight)
    array([[  -5],
           [-384]], dtype=int32)
    """
    x = _matrix("x", x)
    require_kind("prepared", prepared, Prepared)
    by_type = _OF_DTYPE[x.dtype.char]
    if by_type > prepared.x_max and (found := _largest(x)) > prepared.x_max:
        raise ValueError(f"`x` must not exceed {prepared.x_max} in magnitude; got {found}")
    weight = prepared.weight
    return _product(x, weight, weight.dtype.type, prepared.chunk, prepared.dtype, threads)


def gemm_definition(x: Array, weight: Array) -> Array:
    """Product ``x @ weight.T`` in int64 from the beginning: what the others must equal.

    Parameters
    ----------
    x : ndarray of int, shape (m, in)
    weight : ndarray of int, shape (out, in)

    Returns
    -------
    ndarray of int64, shape (m, out)
        Modulo 2**64, where a sum leaves it: the others refuse.

    Raises
    ------
    ValueError
        If the shapes do not match.
    TypeError
        If an operand is not of integers.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eqs. (7)-(9).

    Examples
    --------
    >>> gemm_definition(np.array([[1, 2]], np.int8), np.array([[3, -4]], np.int8))
    array([[-5]])
    """
    x, weight = _matrix("x", x), _matrix("weight", weight)
    _require_rows_like(weight, x)
    return x.astype(np.int64) @ weight.astype(np.int64).T


class _Tiles(NamedTuple):
    """Shape of a tile of the weight, and whether it is the left operand of BLAS."""

    weight_first: bool
    rows: int
    columns: int


def _tiles(m: int) -> _Tiles:
    """What is fastest for m rows of x; m x rows x chunk <= 10**6 spares BLAS a copy.

    =========  ===========================================================
    rows of x  tile
    =========  ===========================================================
    below 16   ``x @ tile.T``, 64 whole rows: memory is read in one sweep
    below 256  ``tile @ x.T``, 256 whole rows: BLAS likes the longer
               operand on the left
    more       ``x @ tile.T``, 512 rows, one chunk at a time
    =========  ===========================================================
    """
    if m < 16:
        return _Tiles(False, 64, 4096)
    return _Tiles(True, 256, 4096) if m < 256 else _Tiles(False, 512, 0)


def _product(
    x: Array, weight: Array, work: type, most: int, dtype: type, threads: int
) -> Array:
    """Multiply in `work`, and add up chunks of `most` products in `dtype`."""
    (m, k), n = x.shape, len(weight)
    require_int("threads", threads, 1)
    _require_rows_like(weight, x)
    if k <= most and m <= X_ROWS and n <= MOST and n * k <= SMALL:
        tile: Array = x.astype(work) @ weight.astype(work, copy=False).T
        return tile.astype(dtype, copy=False)
    out: Array = np.empty((m, n), dtype) if k else np.zeros((m, n), dtype)
    if not out.size or not k:
        return out
    share = -(-n // threads)
    for i in range(0, m, X_ROWS):
        rows, place = x[i : i + X_ROWS], out[i : i + X_ROWS]
        for_each(
            (slice(j, j + share) for j in range(0, n, share)),
            lambda part, rows=rows, place=place: _write_rows(  # type: ignore[misc]
                rows, weight[part], work, most, place[:, part]),
            threads,
        )
    return out


def _write_rows(x: Array, weight: Array, work: type, most: int, out: Array) -> None:
    """Write the product of at most `X_ROWS` rows to `out`, tile by tile of the weight."""
    (m, k), n, cast = x.shape, len(weight), weight.dtype != work
    weight_first, rows, columns = _tiles(m)
    rows = min(rows if cast else max(rows, SMALL // (m * most)), n)
    columns = min(max(columns // most, 1) * most, k)                # whole chunks
    # Fresh memory costs more than the passes over it: these buffers serve all tiles.
    wide_left: Array = np.empty((columns, m) if weight_first else (m, columns), work)
    wide_tile: Array = np.empty(rows * columns if cast else 0, work)
    product: Array = np.empty(rows * m, work)
    whole, total = np.empty((2, rows * m), out.dtype)
    for start in range(0, k, columns):
        block = x[:, start : start + columns]
        left = wide_left[: block.shape[1]] if weight_first else wide_left[:, : block.shape[1]]
        np.copyto(left, apart(block, x.dtype).T if weight_first else block, casting="unsafe")
        for j in range(0, n, rows):
            tile = weight[j : j + rows, start : start + columns]
            if cast:
                right = wide_tile[: tile.size].reshape(tile.shape)
                np.copyto(right, tile, casting="unsafe")
                tile = right
            shape = (len(tile), m) if weight_first else (m, len(tile))
            sums, added, floats = (
                part[: m * len(tile)].reshape(shape) for part in (total, whole, product))
            for s in range(0, tile.shape[1], most):
                part = tile[:, s : s + most]
                if weight_first:
                    np.matmul(part, left[s : s + most], out=floats)
                else:
                    np.matmul(left[:, s : s + most], part.T, out=floats)
                np.copyto(added if s else sums, floats, casting="unsafe")
                if s:
                    sums += added
            place = out[:, j : j + rows]
            np.add(place if start else 0, sums.T if weight_first else sums, out=place)


#: Largest magnitude of each kind of integers that is taken, by its NumPy character.
_OF_DTYPE = {
    np.dtype(kind).char: max(-int(np.iinfo(kind).min), int(np.iinfo(kind).max))
    for kind in ("b", "B", "h", "H", "i", "I", "l", "q")
}
_LIMITS: dict[type, int] = {np.int32: 2**31 - 1, np.int64: 2**63 - 1}


def _matrix(name: str, codes: npt.ArrayLike) -> Array:
    array = as_unmasked(name, codes)
    if array.dtype.char not in _OF_DTYPE or not array.dtype.isnative:
        raise TypeError(
            f"`{name}` must be integers, int64 or of at most 32 bits; got {array.dtype}"
        )
    if array.ndim != 2:
        raise ValueError(f"`{name}` must be a matrix; got shape {array.shape}")
    return array


def _require_rows_like(weight: Array, x: Array) -> None:
    if x.shape[1] != weight.shape[1]:
        raise ValueError(f"`x` must have rows of {weight.shape[1]} codes; got shape {x.shape}")


def _largest_by_type(codes: Array) -> int:
    """The same, but codes of 8 bits are not looked at: the bound is good enough for them."""
    return _OF_DTYPE[codes.dtype.char] if codes.itemsize == 1 else _largest(codes)


def _largest(codes: Array) -> int:
    """Largest magnitude, as a Python integer: that of -128 is 128."""
    return max(int(codes.max()), -int(codes.min())) if codes.size else 0


def _largest_sum(weight: Array) -> int:
    """Largest sum of magnitudes of one row."""
    if not weight.size:
        return 0
    if weight.itemsize == 8:
        return max(sum(abs(int(w)) for w in row) for row in weight)
    # |w| is 2 max(w, 0) - w, and neither half needs more bits than w.
    positive = np.maximum(weight, weight.dtype.type(0)).sum(axis=1, dtype=np.int64)
    return int((2 * positive - weight.sum(axis=1, dtype=np.int64)).max())


def _require_room(bound: int, dtype: type) -> None:
    if not any(dtype is kind for kind in _LIMITS):
        raise TypeError(f"`dtype` must be np.int32 or np.int64; got {dtype!r}")
    if bound > _LIMITS[dtype]:
        wider = "; take dtype=np.int64" if dtype is np.int32 else ""
        raise ValueError(
            f"`weight` must leave room in {np.dtype(dtype)} for sums of products; "
            f"they could reach {bound}{wider}"
        )
