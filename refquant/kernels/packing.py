r"""Pack small codes into bytes and back: 1 to 4 bits each, or five trits to a byte.

Codes are packed along the last axis, rows start at a whole byte, and what is
left of the last byte is filled with zeros by `pack` and ignored by `unpack`.

The order of the codes in a byte is a convention, and nobody's is wrong:

==================  ==========================================================
layout              where code j goes
==================  ==========================================================
``pack``            low bits first: ONNX INT4 / UINT4 / INT2 (3 bits cross bytes)
``high_first``      high bits first: bitsandbytes 4-bit
``gptq_words``      the bytes of ``pack`` as words: GPTQ's 2, 3 and 4 bits
``ggml_nibbles``    blocks of 32: j in the low, j + 16 in the high nibble
``awq_nibbles``     eight to a word: 0, 2, 4, 6, 1, 3, 5, 7 from the low end
``bitnet_pairs``    2 bits, planar: row r, r + R/4, ... share a byte
``pack_trits``      five to a byte in base 3, first code in the ones place
==================  ==========================================================

Eight codes of b bits, a byte each, are one 64-bit word. Three folds
``v | v >> s`` bring neighbours together, pairs, then fours, then all eight
(SIMD within a register): no loop over codes and no product.
"""

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import as_unmasked, require_codes, require_int
from refquant.granularity import group, ungroup

__all__ = [
    "awq_nibbles",
    "bitnet_pairs",
    "ggml_nibbles",
    "gptq_words",
    "pack",
    "pack_trits",
    "unawq_nibbles",
    "unbitnet_pairs",
    "unggml_nibbles",
    "ungptq_words",
    "unpack",
    "unpack_trits",
]

#: Elements worked on at a time: the tile and its folds stay in the cache.
TILE = 2**18
TRITS = 5                                         # 3**5 = 243 fits a byte: 1.6 bits a code
_PLACES = (3 ** np.arange(TRITS)).astype(np.uint8)
_AWQ_ORDER = np.array([0, 2, 4, 6, 1, 3, 5, 7])


def pack(
    codes: Array, *, bits: int, signed: bool = False, high_first: bool = False
) -> Array:
    """Bytes that hold the codes of each row, `bits` bits apiece.

    Parameters
    ----------
    codes : ndarray of int, shape (..., n)
        From 0 to ``2**bits - 1``; from ``-2**(bits-1)`` to ``2**(bits-1) - 1``
        if `signed` (stored in two's complement).
    bits : int
        From 1 to 4.
    signed : bool
    high_first : bool
        The first code of a byte takes its high bits; not for 3 bits, whose codes
        cross bytes.

    Returns
    -------
    ndarray of uint8, shape (..., ceil(n * bits / 8))

    Raises
    ------
    ValueError
        If a code does not fit, or `bits` is out of range.

    References
    ----------
    ONNX, "4-bit integer types": the first element of a pair in the low nibble.

    Examples
    --------
    >>> pack(np.array([1, 2, 15]), bits=4)
    array([33, 15], dtype=uint8)
    >>> pack(np.array([1, 2, 15]), bits=4, high_first=True)
    array([ 18, 240], dtype=uint8)
    """
    bits = _check_order(bits, high_first)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    codes = _at_least_one_axis("codes", as_unmasked("codes", codes))
    if codes.dtype != np.uint8:                    # bytes are checked tile by tile, below
        codes = require_codes("codes", codes, low, high)
    n, together = codes.shape[-1], _together(bits)
    rows = codes.astype(np.uint8, copy=False)
    if n % together:
        rows = np.zeros((*codes.shape[:-1], -(-n // together) * together), np.uint8)
        rows[..., :n] = codes.astype(np.uint8, copy=False)
    flat = np.ascontiguousarray(rows).reshape(-1)
    word = np.dtype(f"<u{together}")
    wide = bits if bits == 3 else 1                # bytes that a word becomes
    packed = np.empty((flat.size // together, wide), np.uint8)
    for start in range(0, flat.size, TILE):
        tile = flat[start : start + TILE]
        if codes.dtype == np.uint8 and tile.max() > high:
            require_codes("codes", tile, low, high)
        v = tile.view(word)
        if signed:                                 # two's complement: drop copies of the sign
            v = v & word.type(_repeat(2**bits - 1, together))
        v = _fold(v, bits, together)
        part = packed[start // together : start // together + v.size]
        if bits == 3:
            part[...] = v.view(np.uint8).reshape(-1, together)[:, :3]
        else:
            np.copyto(part[:, 0], v, casting="unsafe")            # the low byte of each word
    packed = packed.reshape(*rows.shape[:-1], rows.shape[-1] // together * wide)
    packed = packed[..., : -(-n * bits // 8)]
    return np.take(_REVERSED[bits], packed) if high_first else packed


def unpack(
    packed: Array, n: int, *, bits: int, signed: bool = False, high_first: bool = False
) -> Array:
    """Codes of packed rows: the inverse of `pack`.

    Parameters
    ----------
    packed : ndarray of uint8, shape (..., ceil(n * bits / 8))
        Bits beyond the last code are ignored, whatever they are.
    n : int
        Codes in a row.
    bits : int
        From 1 to 4.
    signed, high_first : bool
        As packed.

    Returns
    -------
    ndarray of uint8, or int8 if `signed`, shape (..., n)

    Raises
    ------
    ValueError
        If the length of a row is not that of `n` codes.
    TypeError
        If `packed` is not uint8.

    References
    ----------
    ONNX, "4-bit integer types".

    Examples
    --------
    >>> unpack(np.array([33, 15], np.uint8), 3, bits=4, signed=True)
    array([ 1,  2, -1], dtype=int8)
    """
    bits, n = _check_order(bits, high_first), require_int("n", n, 0)
    packed = _rows_of_bytes(packed, -(-n * bits // 8), f"{n} codes of {bits} bits")
    packed = np.take(_REVERSED[bits], packed) if high_first else packed
    together = _together(bits)
    wide = bits if bits == 3 else 1
    words = -(-packed.shape[-1] // wide)
    if packed.shape[-1] % wide:
        filled = np.zeros((*packed.shape[:-1], words * wide), np.uint8)
        filled[..., : packed.shape[-1]] = packed
        packed = filled
    flat = np.ascontiguousarray(packed).reshape(-1, wide)
    codes = np.zeros(len(flat) * together, np.uint8)
    word = np.dtype(f"<u{together}")
    step = TILE // together
    for start in range(0, len(flat), step):
        part = flat[start : start + step]
        tile = codes[start * together : (start + len(part)) * together]
        v = tile.view(word)                        # worked on where it will stay
        if bits == 3:
            tile.reshape(-1, together)[:, :3] = part
        else:
            np.copyto(v, part[:, 0])
        _unfold(v, bits, together)
        if signed:                                 # (v ^ h) - h extends the sign bit h
            v ^= word.type(_repeat(2 ** (bits - 1), together))
            tile -= np.uint8(2 ** (bits - 1))
    codes = codes.reshape(*packed.shape[:-1], words * together)[..., :n]
    return codes.view(np.int8) if signed else codes


def pack_trits(codes: Array) -> Array:
    r"""Bytes that hold five ternary codes each, in base 3.

    .. math:: \text{byte} = \sum_{i=0}^{4} 3^i (c_i + 1) \le 242

    Parameters
    ----------
    codes : ndarray of int, shape (..., n)
        Each -1, 0 or 1. Rows are filled up with code 0.

    Returns
    -------
    ndarray of uint8, shape (..., ceil(n / 5))

    Raises
    ------
    ValueError
        If another code occurs.

    References
    ----------
    The base-3 byte of BitNet b1.58 runtimes; ggml's TQ1_0 puts the same five
    trits in another order and scales the byte by 256/243 (`quantizers/ggml`).

    Examples
    --------
    >>> pack_trits(np.array([1, -1, 0, 0, 1, -1]))
    array([200, 120], dtype=uint8)
    """
    codes = _rows_of_codes(codes, -1, 1)
    n = codes.shape[-1]
    rows = np.ones((*codes.shape[:-1], -(-n // TRITS) * TRITS), np.uint8)
    np.add(codes, 1, out=rows[..., :n], casting="unsafe")
    digits = group(rows, TRITS)
    packed = digits[..., 0].copy()
    for i in range(1, TRITS):                      # at most 242: never leaves a byte
        packed += digits[..., i] * _PLACES[i]
    return packed


def unpack_trits(packed: Array, n: int) -> Array:
    """Ternary codes of packed rows: the inverse of `pack_trits`.

    Parameters
    ----------
    packed : ndarray of uint8, shape (..., ceil(n / 5))
    n : int
        Codes in a row.

    Returns
    -------
    ndarray of int8, shape (..., n)

    Raises
    ------
    ValueError
        If the length of a row is not that of `n` codes, or a byte exceeds 242.
    TypeError
        If `packed` is not uint8.

    References
    ----------
    See `pack_trits`.

    Examples
    --------
    >>> unpack_trits(np.array([200, 120], np.uint8), 6)
    array([ 1, -1,  0,  0,  1, -1], dtype=int8)
    """
    n = require_int("n", n, 0)
    packed = _rows_of_bytes(packed, -(-n // TRITS), f"{n} trits")
    require_codes("packed", packed, 0, 242)
    rest = packed.copy()
    codes = np.empty((*packed.shape, TRITS), np.int8)
    for i in range(TRITS):
        rest, digit = np.divmod(rest, np.uint8(3))
        np.subtract(digit, 1, out=codes[..., i], casting="unsafe")
    return ungroup(codes)[..., :n]


def ggml_nibbles(codes: Array) -> Array:
    """Four-bit codes in ggml's order: j and j + 16 of a block of 32 share a byte.

    Parameters
    ----------
    codes : ndarray of int, shape (..., n), from 0 to 15
        `n` a multiple of 32.

    Returns
    -------
    ndarray of uint8, shape (..., n / 2)

    Raises
    ------
    ValueError
        If 32 does not divide `n`, or a code does not fit.

    References
    ----------
    ggml, ``block_q4_0``: ``qs[j] = x[j] | x[j + 16] << 4``.

    Examples
    --------
    >>> ggml_nibbles(np.arange(32) % 16)[:4]
    array([ 0, 17, 34, 51], dtype=uint8)
    """
    codes = _blocks("codes", _rows_of_codes(codes, 0, 15).astype(np.uint8), 32)
    packed = codes[..., :16] | codes[..., 16:] << 4
    return ungroup(packed)


def unggml_nibbles(packed: Array) -> Array:
    """Codes in ggml's order: the inverse of `ggml_nibbles`.

    Parameters
    ----------
    packed : ndarray of uint8, shape (..., n / 2)

    Returns
    -------
    ndarray of uint8, shape (..., n)

    Raises
    ------
    ValueError
        If 16 does not divide the bytes of a row.
    TypeError
        If `packed` is not uint8.

    References
    ----------
    ggml, ``block_q4_0``.

    Examples
    --------
    >>> unggml_nibbles(np.arange(16, dtype=np.uint8))[:4]
    array([0, 1, 2, 3], dtype=uint8)
    """
    bytes_ = _blocks("packed", _as_bytes(packed), 16)
    codes = np.concatenate([bytes_ & 15, bytes_ >> 4], axis=-1)
    return ungroup(codes)


def gptq_words(codes: Array, *, bits: int) -> Array:
    """Words of 32 bits that hold the codes of each row, the first in the lowest bits.

    Parameters
    ----------
    codes : ndarray of int, shape (..., n), from 0 to ``2**bits - 1``
        ``n * bits`` a multiple of 32; the axis is the input channels in GPTQ's files.
    bits : int
        From 1 to 4. Codes of 3 bits cross words, 32 codes to three words.

    Returns
    -------
    ndarray of uint32, shape (..., n * bits / 32)

    Raises
    ------
    ValueError
        If the codes of a row do not fill whole words, or a code does not fit.

    References
    ----------
    Frantar et al., "GPTQ", 2023, arXiv:2210.17323; the order is that of its
    authors' CUDA kernels, whose zero points are stored less one besides.

    Examples
    --------
    >>> hex(gptq_words(np.arange(8), bits=4)[0])
    '0x76543210'
    """
    packed = pack(codes, bits=bits)
    if np.shape(codes)[-1] * int(bits) % 32:
        raise ValueError(
            f"`codes` of {bits} bits must fill words of 32 bits; got rows of {np.shape(codes)[-1]}"
        )
    return np.ascontiguousarray(packed).view("<u4").astype(np.uint32, copy=False)


def ungptq_words(packed: Array, *, bits: int) -> Array:
    """Codes of packed words: the inverse of `gptq_words`.

    Parameters
    ----------
    packed : ndarray of uint32 or int32, shape (..., n * bits / 32)
    bits : int
        From 1 to 4.

    Returns
    -------
    ndarray of uint8, shape (..., n)

    Raises
    ------
    ValueError
        If the words of a row do not hold whole codes.
    TypeError
        If `packed` is not of 32-bit integers.

    References
    ----------
    Frantar et al., "GPTQ", 2023, arXiv:2210.17323.

    Examples
    --------
    >>> ungptq_words(np.array([0x76543210], np.uint32), bits=4)
    array([0, 1, 2, 3, 4, 5, 6, 7], dtype=uint8)
    """
    bits = require_int("bits", bits, 1, 4)
    words = _as_words(packed)
    n, rest = divmod(words.shape[-1] * 32, bits)
    if rest:
        raise ValueError(
            f"`packed` must hold whole codes of {bits} bits; got rows of {words.shape[-1]} words"
        )
    return unpack(np.ascontiguousarray(words.astype("<u4")).view(np.uint8), n, bits=bits)


def awq_nibbles(codes: Array) -> Array:
    """Four-bit codes in AWQ's order: words of eight, even positions first.

    Parameters
    ----------
    codes : ndarray of int, shape (..., n), from 0 to 15
        `n` a multiple of 8; the axis is the output channels in AWQ's files.

    Returns
    -------
    ndarray of uint32, shape (..., n / 8)
        Nibble i, from the low end, holds code 0, 2, 4, 6, 1, 3, 5, 7 for i = 0, ..., 7.

    Raises
    ------
    ValueError
        If 8 does not divide `n`, or a code does not fit.

    References
    ----------
    Lin et al., "AWQ", 2024, arXiv:2306.00978; the order is that of its GEMM kernel.

    Examples
    --------
    >>> hex(awq_nibbles(np.arange(8))[0])
    '0x75316420'
    """
    words = _blocks("codes", _rows_of_codes(codes, 0, 15).astype(np.uint32), 8)[..., _AWQ_ORDER]
    return np.bitwise_or.reduce(words << np.arange(0, 32, 4, dtype=np.uint32), axis=-1)


def unawq_nibbles(packed: Array) -> Array:
    """Codes in AWQ's order: the inverse of `awq_nibbles`.

    Parameters
    ----------
    packed : ndarray of uint32 or int32, shape (..., n / 8)

    Returns
    -------
    ndarray of uint8, shape (..., n)

    Raises
    ------
    TypeError
        If `packed` is not of 32-bit integers.

    References
    ----------
    Lin et al., "AWQ", 2024, arXiv:2306.00978.

    Examples
    --------
    >>> unawq_nibbles(np.array([0x75316420], np.uint32))
    array([0, 1, 2, 3, 4, 5, 6, 7], dtype=uint8)
    """
    words = _as_words(packed)[..., np.newaxis]
    nibbles = (words >> np.arange(0, 32, 4, dtype=np.uint32) & 15).astype(np.uint8)
    return ungroup(nibbles[..., np.argsort(_AWQ_ORDER)])


def bitnet_pairs(codes: Array) -> Array:
    """Ternary codes at 2 bits in BitNet's order: four quarters of the rows share bytes.

    Parameters
    ----------
    codes : ndarray of int, shape (out, in), each -1, 0 or 1

    Returns
    -------
    ndarray of uint8, shape (ceil(out / 4), in)
        Bits 2i and 2i + 1 of row r hold ``codes[r + i * ceil(out / 4)] + 1``.

    Raises
    ------
    ValueError
        If another code occurs or `codes` is not a matrix.

    References
    ----------
    The released BitNet b1.58 2B4T checkpoints, as read by Hugging Face transformers.

    Examples
    --------
    >>> bitnet_pairs(np.array([[1], [0], [-1], [1]]))
    array([[134]], dtype=uint8)
    """
    codes = _rows_of_codes(codes, -1, 1)
    if codes.ndim != 2:
        raise ValueError(f"`codes` must be a matrix; got shape {codes.shape}")
    quarter = -(-len(codes) // 4)
    packed = np.zeros((quarter, codes.shape[1]), np.uint8)
    for i in range(4):
        part = (codes[i * quarter : (i + 1) * quarter] + 1).astype(np.uint8)
        packed[: len(part)] |= part << 2 * i
    return packed


def unbitnet_pairs(packed: Array, out: int) -> Array:
    """Codes in BitNet's order: the inverse of `bitnet_pairs`.

    Parameters
    ----------
    packed : ndarray of uint8, shape (ceil(out / 4), in)
    out : int
        Rows of the matrix.

    Returns
    -------
    ndarray of int8, shape (out, in)

    Raises
    ------
    ValueError
        If the number of rows is not that of `out`, or a field holds 3.
    TypeError
        If `packed` is not uint8.

    References
    ----------
    See `bitnet_pairs`.

    Examples
    --------
    >>> unbitnet_pairs(np.array([[134]], np.uint8), 4).ravel()
    array([ 1,  0, -1,  1], dtype=int8)
    """
    packed, out = _as_bytes(packed), require_int("out", out, 0)
    if packed.ndim != 2 or len(packed) != -(-out // 4):
        raise ValueError(
            f"`packed` must have {-(-out // 4)} rows for {out} rows of codes; got {packed.shape}"
        )
    fields = np.concatenate([packed >> 2 * i & 3 for i in range(4)])[:out]
    require_codes("packed fields", fields, 0, 2)
    return fields.astype(np.int8) - 1


def _together(bits: int) -> int:
    """Codes that fill whole bytes together: 2, 4 or 8 to a word of that many bytes."""
    return 8 if bits == 3 else 8 // bits


def _fold(v: Array, bits: int, together: int) -> Array:
    """Fields of `bits` bits, one to a byte of each word, moved together at its low end.

    Bits above the fields are what they happen to be.
    """
    pair, gap = 1, 8 - bits
    while pair < together:
        # Neighbouring groups of `pair` fields stand 8 * pair bits apart: close the gap.
        moved = v >> v.dtype.type(pair * gap)
        v = np.bitwise_or(v, moved, out=moved)
        if bits == 3:
            # Each group leaves copies behind. Where the fields fill a byte the next shift
            # drops them; three bits do not, and they would fall on the fields.
            field = _repeat(2 ** (2 * pair * bits) - 1, together // (2 * pair), 16 * pair)
            v &= v.dtype.type(field)
        pair *= 2
    return v


def _unfold(v: Array, bits: int, together: int) -> None:
    """The inverse of `_fold`, in place; bits above the fields are dropped."""
    pair, gap = together // 2, 8 - bits
    while pair >= 1:
        field = _repeat(2 ** (pair * bits) - 1, together // pair, 8 * pair)
        v |= v << v.dtype.type(pair * gap)
        v &= v.dtype.type(field)
        pair //= 2


def _repeat(field: int, times: int, stride: int = 8) -> int:
    """The bit pattern `field` repeated every `stride` bits."""
    return sum(field << stride * i for i in range(times))


def _reversed_fields(bits: int) -> Array:
    """Each byte with the order of its fields of `bits` bits turned round."""
    fields = np.arange(256)[:, np.newaxis] >> np.arange(0, 8, bits) & 2**bits - 1
    return np.bitwise_or.reduce(fields << np.arange(8 - bits, -1, -bits), axis=1).astype(np.uint8)


_REVERSED = {bits: _reversed_fields(bits) for bits in (1, 2, 4)}


def _check_order(bits: int, high_first: bool) -> int:
    bits = require_int("bits", bits, 1, 4)
    if high_first and bits == 3:
        raise ValueError("`high_first` must be False for 3 bits, whose codes cross bytes; got True")
    return bits


def _at_least_one_axis(name: str, array: Array) -> Array:
    if array.ndim == 0:
        raise ValueError(f"`{name}` must have at least one axis; got a scalar")
    return array


def _rows_of_codes(codes: Array, low: int, high: int) -> Codes:
    rows = _at_least_one_axis("codes", as_unmasked("codes", codes))
    return require_codes("codes", rows, low, high)


def _as_bytes(packed: Array) -> Array:
    packed = as_unmasked("packed", packed)
    if packed.dtype != np.uint8:
        raise TypeError(f"`packed` must be uint8; got {packed.dtype}")
    return _at_least_one_axis("packed", packed)


def _as_words(packed: Array) -> Array:
    packed = as_unmasked("packed", packed)
    if packed.dtype not in (np.uint32, np.int32):
        raise TypeError(f"`packed` must be uint32 or int32; got {packed.dtype}")
    return _at_least_one_axis("packed", packed).astype(np.uint32, copy=False)


def _rows_of_bytes(packed: Array, length: int, what: str) -> Array:
    packed = _as_bytes(packed)
    if packed.shape[-1] != length:
        raise ValueError(f"`packed` must have {length} bytes for {what}; got {packed.shape[-1]}")
    return packed


def _blocks(name: str, rows: Array, block: int) -> Array:
    if rows.shape[-1] % block:
        raise ValueError(
            f"`{name}` must have rows a multiple of {block} long; got {rows.shape[-1]}"
        )
    return group(rows, block)
