r"""The block layouts of ggml (llama.cpp), byte for byte: Q4_0, Q8_0, TQ1_0, TQ2_0.

A row of weights becomes a row of blocks; each block is a few bytes of codes and
one float16 scale d, and stands for ``d * codes``.

==========  ========  ======  ======================  ======================  ========
layout      elements  bytes   d                       code                    bits
==========  ========  ======  ======================  ======================  ========
``Q8_0``    32        34      max|x| / 127            -127 .. 127             8.5
``Q4_0``    32        18      (extreme x) / -8        -8 .. 7, stored + 8     4.5
``TQ1_0``   256       54      max|x|                  -1 .. 1, base 3         1.6875
``TQ2_0``   256       66      max|x|                  -1 .. 1, 2 bits each    2.0625
==========  ========  ======  ======================  ======================  ========

All four choose codes by the unrounded float32 scale and store the rounded one:
together with their rounding rules this is the definition, and it is the reason
why a layout is a codec from numbers to bytes and not a quantizer with fixed levels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import as_reals, require_codes, require_no_nan, require_same_shape
from refquant.granularity import group, ungroup
from refquant.rounding import half_away, toward_zero

__all__ = ["Q4_0", "Q8_0", "TQ1_0", "TQ2_0", "Blocks", "Layout"]


class Blocks(NamedTuple):
    """What the bytes of a tensor say: ``scale * codes``.

    Attributes
    ----------
    scale : ndarray of float16, shape (..., blocks, 1)
    codes : ndarray of int32, shape (..., blocks, elements)
        Centred on zero, also where the bytes hold them shifted.

    References
    ----------
    ggml, ``ggml-common.h``: ``block_q4_0``, ``block_q8_0``, ``block_tq1_0``,
    ``block_tq2_0``.

    Examples
    --------
    >>> Blocks(np.array([[0.5]], np.float16), np.array([[1, -1]])).codes.shape
    (1, 2)
    """

    scale: Array
    codes: Codes


@dataclass(frozen=True)
class Layout:
    """How numbers become the bytes of one ggml type, and back.

    Attributes
    ----------
    block_size : int
        Elements of a block.
    block_bytes : int
        Bytes of a block.
    codes_of : callable, (n, block_size) float32 -> (scale (n, 1) float32, codes)
        The type's rule for scale and codes.
    pack_codes : callable, (n, block_size) codes -> (n, block_bytes - 2) uint8
    unpack_codes : callable, (n, block_bytes - 2) uint8 -> (n, block_size) codes
    scale_first : bool
        Whether the two bytes of the scale precede the codes.

    References
    ----------
    ggml, ``ggml-quants.c``: ``quantize_row_*_ref``, ``dequantize_row_*``.

    Examples
    --------
    >>> x = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
    >>> data = Q4_0.pack(x)
    >>> data.shape, float(np.abs(Q4_0.unpack(data) - x).max()) < 1 / 8
    ((1, 36), True)
    """

    block_size: int
    block_bytes: int
    codes_of: Callable[[Array], tuple[Array, Array]]
    pack_codes: Callable[[Array], Array]
    unpack_codes: Callable[[Array], Array]
    scale_first: bool

    @property
    def bits_per_element(self) -> float:
        """Bits that one element takes, its share of the scale included."""
        return self.block_bytes * 8 / self.block_size

    def quantize(self, x: Array) -> Blocks:
        """Scale and codes of each block of neighbours along the last axis.

        Parameters
        ----------
        x : ndarray of float32, shape (..., n)
            A multiple of `block_size` in the last axis.

        Returns
        -------
        Blocks
            A scale above 65504 has become infinite and one below 2**-25 zero:
            then `dequantize` gives infinities and NaN, or zeros, as ggml does.

        Raises
        ------
        ValueError
            If `block_size` does not divide the last axis, or `x` has a NaN or
            an infinity, of which ggml makes arbitrary codes.
        TypeError
            If `x` is not float32: the rules are float32 arithmetic.

        Examples
        --------
        >>> x = np.array([[127, 0.5, 1.5, -0.5] + [0] * 28], np.float32)
        >>> Q8_0.quantize(x).codes[0, 0, :4]
        array([127,   1,   2,  -1], dtype=int32)
        """
        x = as_reals("x", x)
        if x.dtype != np.float32:
            raise TypeError(f"`x` must be float32; got {x.dtype}")
        require_no_nan("x", x)
        if np.isinf(x).any():
            raise ValueError("`x` must be finite; got inf")
        rows = group(np.atleast_1d(x), self.block_size)
        scale, codes = self.codes_of(rows.reshape(-1, self.block_size))
        with np.errstate(over="ignore", under="ignore"):
            stored = scale.astype(np.float16).reshape(*rows.shape[:-1], 1)
        return Blocks(stored, codes.astype(np.int32).reshape(rows.shape))

    def dequantize(self, blocks: Blocks) -> Array:
        """Number that each element stands for.

        Parameters
        ----------
        blocks : Blocks

        Returns
        -------
        ndarray of float32, shape (..., n)

        Examples
        --------
        >>> Q8_0.dequantize(Blocks(np.full((1, 1), 0.5, np.float16), np.arange(32)[None]))[:3]
        array([0. , 0.5, 1. ], dtype=float32)
        """
        with np.errstate(invalid="ignore"):             # an infinite scale times code 0
            values = blocks.scale.astype(np.float32) * blocks.codes.astype(np.float32)
        return ungroup(values)

    def to_bytes(self, blocks: Blocks) -> Array:
        """Bytes of the blocks, as in a file.

        Parameters
        ----------
        blocks : Blocks

        Returns
        -------
        ndarray of uint8, shape (..., bytes)

        Raises
        ------
        ValueError
            If a block has the wrong number of codes, or there is not one scale for each.

        Examples
        --------
        >>> Q8_0.to_bytes(Blocks(np.ones((1, 1), np.float16), np.full((1, 32), -1)))[:4]
        array([  0,  60, 255, 255], dtype=uint8)
        """
        shape = np.shape(blocks.codes)
        if len(shape) < 2:
            raise ValueError(f"`blocks.codes` must have shape (..., blocks, elements); got {shape}")
        if shape[-1] != self.block_size:
            raise ValueError(f"`blocks` must hold {self.block_size} codes each; got {shape[-1]}")
        require_same_shape("blocks.scale", blocks.scale, (*shape[:-1], 1))
        codes = self.pack_codes(np.reshape(blocks.codes, (-1, self.block_size)))
        with np.errstate(over="ignore"):                # as in `quantize`
            scale = np.reshape(blocks.scale, (-1, 1)).astype("<f2").view(np.uint8)
        parts = [scale, codes] if self.scale_first else [codes, scale]
        return np.concatenate(parts, axis=1).reshape(*shape[:-2], shape[-2] * self.block_bytes)

    def from_bytes(self, data: Array) -> Blocks:
        """The blocks that bytes hold.

        Parameters
        ----------
        data : ndarray of uint8, shape (..., bytes)
            A multiple of `block_bytes` in the last axis.

        Returns
        -------
        Blocks

        Raises
        ------
        ValueError
            If `block_bytes` does not divide the last axis.
        TypeError
            If `data` is not uint8.

        Examples
        --------
        >>> data = np.array([0, 60] + [255] * 32, np.uint8)
        >>> Q8_0.from_bytes(data).scale, int(Q8_0.from_bytes(data).codes[0, 0])
        (array([[1.]], dtype=float16), -1)
        """
        data = np.asarray(data)
        if data.dtype != np.uint8:
            raise TypeError(f"`data` must be uint8; got {data.dtype}")
        if data.ndim == 0 or data.shape[-1] % self.block_bytes:
            raise ValueError(
                f"`data` must hold blocks of {self.block_bytes} bytes; got shape {data.shape}"
            )
        rows = group(np.ascontiguousarray(data), self.block_bytes)
        flat = rows.reshape(-1, self.block_bytes)
        cut = 2 if self.scale_first else self.block_bytes - 2
        first, second = np.ascontiguousarray(flat[:, :cut]), np.ascontiguousarray(flat[:, cut:])
        scale, codes = (first, second) if self.scale_first else (second, first)
        return Blocks(
            scale.view("<f2").astype(np.float16).reshape(*rows.shape[:-1], 1),
            self.unpack_codes(codes).astype(np.int32).reshape(*rows.shape[:-1], self.block_size),
        )

    def pack(self, x: Array) -> Array:
        """Bytes of `x`: `quantize`, then `to_bytes`.

        Parameters
        ----------
        x : ndarray of float32, shape (..., n)

        Returns
        -------
        ndarray of uint8, shape (..., n / block_size * block_bytes)

        Examples
        --------
        >>> Q4_0.pack(np.zeros((1, 32), np.float32))[0, :4]     # d is -0.0, the codes are 8
        array([  0, 128, 136, 136], dtype=uint8)
        """
        return self.to_bytes(self.quantize(x))

    def unpack(self, data: Array) -> Array:
        """Numbers of the bytes: `from_bytes`, then `dequantize`.

        Parameters
        ----------
        data : ndarray of uint8, shape (..., bytes)

        Returns
        -------
        ndarray of float32, shape (..., n)

        Examples
        --------
        >>> TQ2_0.unpack(TQ2_0.pack(np.full(256, -3, np.float32)))[:2]
        array([-3., -3.], dtype=float32)
        """
        return self.dequantize(self.from_bytes(data))


def _by_largest(x: Array, steps: float) -> tuple[Array, Array]:
    """Scale max|x| / steps; ties of the codes away from zero."""
    scale = np.max(np.abs(x), axis=1, keepdims=True) / np.float32(steps)
    return scale, half_away(_or_zero(_ratio(x, scale)))


def _q8_0(x: Array) -> tuple[Array, Array]:
    return _by_largest(x, 127)


def _ternary(x: Array) -> tuple[Array, Array]:
    return _by_largest(x, 1)


def _q4_0(x: Array) -> tuple[Array, Array]:
    """The element of largest magnitude becomes exactly -8; the other side has seven steps."""
    extreme = np.take_along_axis(x, np.argmax(np.abs(x), axis=1, keepdims=True), axis=1)
    scale = extreme / np.float32(-8)
    # Half up in the space of the codes, which are positive here: 8.5 is 8 plus a half.
    shifted = _or_zero(_ratio(x, scale) + np.float32(8.5))
    return scale, np.minimum(toward_zero(shifted), 15) - 8


def _ratio(x: Array, scale: Array) -> Array:
    """Quotient as ggml has it: times the rounded reciprocal, which is 0 for 0."""
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        return x * np.where(scale == 0, np.float32(0), np.float32(1) / scale)


def _or_zero(x: Array) -> Array:
    """0 for what is not finite, as x86 casts to int8; C leaves it undefined.

    The reciprocal overflows at scales below 2**-128. The stored scale is 0 there,
    so that the codes do not matter to the values.
    """
    return np.where(np.isfinite(x), x, np.float32(0))


def _pack_int8(codes: Array) -> Array:
    return require_codes("codes", codes, -128, 127).astype(np.int8).view(np.uint8)


def _unpack_int8(data: Array) -> Array:
    return data.view(np.int8)


def _pack_nibbles(codes: Array) -> Array:
    """Byte j holds element j below and element j + 16 above."""
    shifted = (require_codes("codes", codes, -8, 7) + 8).astype(np.uint8)
    return shifted[:, :16] | shifted[:, 16:] << 4


def _unpack_nibbles(data: Array) -> Array:
    return np.concatenate([data & 15, data >> 4], axis=1).astype(np.int8) - 8


def _pack_pairs_of_bits(codes: Array) -> Array:
    """Two halves of 128; byte j of a half holds its elements j, j + 32, j + 64, j + 96."""
    digits = (require_codes("codes", codes, -1, 2) + 1).astype(np.uint8).reshape(-1, 2, 4, 32)
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    return np.bitwise_or.reduce(digits << shifts, axis=2).reshape(-1, 64)


def _unpack_pairs_of_bits(data: Array) -> Array:
    shifts = np.array([0, 2, 4, 6], np.uint8).reshape(4, 1)
    digits = data.reshape(-1, 2, 1, 32) >> shifts & 3
    return digits.reshape(-1, 256).astype(np.int8) - 1


# TQ1_0 cuts its 256 elements into three pieces, 160 + 80 + 16. Each is a table of
# (digits, bytes): the column j, read from above, is byte j of the piece.
_PIECES = ((5, 32), (5, 16), (4, 4))


def _pack_base_three(codes: Array) -> Array:
    """Trits as fractions of 256 rounded up, the first one worth 81.

    With v the number, the byte is ceil(256 v / 243): then the leading trit is
    floor(3 byte / 256), and multiplying by 3 modulo 256 moves up the next.
    """
    trits, parts = require_codes("codes", codes, -1, 1) + 1, []
    for digits, width in _PIECES:
        piece, trits = trits[:, : digits * width], trits[:, digits * width :]
        worth = 3 ** np.arange(4, 4 - digits, -1).reshape(-1, 1)
        value = np.sum(piece.reshape(-1, digits, width) * worth, axis=1)
        parts.append(-(-256 * value // 243))
    return np.concatenate(parts, axis=1).astype(np.uint8)


def _unpack_base_three(data: Array) -> Array:
    trits, rest = [], data.astype(np.int32)
    for digits, width in _PIECES:
        piece, rest = rest[:, :width], rest[:, width:]
        shifted = piece[:, np.newaxis] * 3 ** np.arange(digits).reshape(-1, 1) % 256
        trits.append((shifted * 3 // 256).reshape(-1, digits * width))
    return np.concatenate(trits, axis=1) - 1


#: 8 bits: symmetric integers.
Q8_0 = Layout(32, 34, _q8_0, _pack_int8, _unpack_int8, scale_first=True)
#: 4 bits: a half-open range whose end is the extreme element.
Q4_0 = Layout(32, 18, _q4_0, _pack_nibbles, _unpack_nibbles, scale_first=True)
#: Ternary, five trits to a byte.
TQ1_0 = Layout(256, 54, _ternary, _pack_base_three, _unpack_base_three, scale_first=False)
#: Ternary, four to a byte.
TQ2_0 = Layout(256, 66, _ternary, _pack_pairs_of_bits, _unpack_pairs_of_bits, scale_first=False)
