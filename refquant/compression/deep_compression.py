r"""Deep Compression: weights pruned, what is left shared, and both written with few bits.

1. *Prune* (`refquant.compression.pruning`), and train what is left.
2. *Share*: the weights of a layer that are left take one of k values, `share`. Training the
   k values moves all members of each together.
3. *Write* where they are and which they are. Where: the number of zeros passed over since the
   last one, `relative`, in a few bits; a longer run is broken by *fillers*, entries whose
   value is zero. Which: the number of the value. Both by a Huffman code (`write`).

Sharing n weights of b bits alone makes a layer smaller by

.. math:: r = \frac{n\,b}{n \log_2 k + k\,b} .

That is the paper's formula, and it counts neither the tables of the codes nor a header.
`size` does: it predicts the archive to the byte.
"""

import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias
from zlib import crc32

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import as_reals, require_codes, require_finite, require_int
from refquant.compression.huffman import Encoded, Huffman, huffman
from refquant.quantizers.kmeans import linear, lloyd

__all__ = [
    "Prefix",
    "Relative",
    "Shared",
    "absolute",
    "fixed_width",
    "read",
    "relative",
    "share",
    "sharing_ratio",
    "size",
    "write",
]

#: Symbols that are going to be written -> a prefix code for them.
Prefix: TypeAlias = Callable[[Array], Huffman]

MAGIC = b"RQDC\x01"


class Shared(NamedTuple):
    """A weight of few values.

    Attributes
    ----------
    codebook : ndarray of float32, shape (k,)
        The values, ascending.
    codes : ndarray of int32, shape of the weight
        0 where the weight is zero, else 1 + the place in the codebook.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, section 3.
    """

    codebook: Array
    codes: Codes

    @property
    def weight(self) -> Array:
        """The values, float32."""
        return np.concatenate([np.zeros(1, np.float32), self.codebook])[self.codes]


class Relative(NamedTuple):
    """Codes that are mostly zero, as entries.

    Attributes
    ----------
    gaps : ndarray of int32, shape (entries,)
        Zeros passed over before each entry.
    codes : ndarray of int32, shape (entries,)
        The code there; 0 for a filler.
    length : int
        Of all codes.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, section 2 and figure 2.
    """

    gaps: Codes
    codes: Codes
    length: int


def share(weight: Array, k: int) -> Shared:
    """The weight with at most k different values besides zero.

    Parameters
    ----------
    weight : ndarray of float, finite
        Zeros have been pruned, and stay zero.
    k : int, at least 1

    Returns
    -------
    Shared
        Values by Lloyd's algorithm, from levels evenly spaced: large weights are few, yet
        matter. Fewer than k, where there are fewer weights or a value has no member.

    Raises
    ------
    ValueError
        If `weight` is not finite, or `k` is below 1.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, eq. (2) and section 3.2.

    Examples
    --------
    >>> made = share(np.array([[0.0, 1.0, 1.5], [4.0, 0.0, 4.5]]), 2)
    >>> made.codebook, made.codes
    (array([1.25, 4.25], dtype=float32), array([[0, 1, 1],
           [2, 0, 2]], dtype=int32))
    """
    weight = as_reals("weight", weight)
    require_finite("weight", weight)
    require_int("k", k, 1)
    codes = np.zeros(weight.shape, np.int32)
    left = weight[weight != 0]
    if not left.size:
        return Shared(np.empty(0, np.float32), codes)
    quantizer = lloyd(left, np.unique(linear(left, min(k, left.size)))).quantizer
    used, members = np.unique(quantizer.encode(left), return_inverse=True)
    codes[weight != 0] = 1 + members
    return Shared(quantizer.levels[used].astype(np.float32), codes)


def relative(codes: Array, bits: int) -> Relative:
    r"""Codes by the distances between those that are not zero.

    Parameters
    ----------
    codes : ndarray of int, >= 0
        Read in C order.
    bits : int, from 1 to 16
        A gap is at most :math:`2^b - 1`. A filler behind a gap of that size passes over
        :math:`2^b` zeros; also at the end, so that entries bound the length of the whole.

    Returns
    -------
    Relative

    Raises
    ------
    ValueError
        If a code is negative, or `bits` out of range.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, figure 2.

    Examples
    --------
    >>> relative(np.array([0, 3, 0, 0, 0, 0, 0, 7, 0]), 2)
    Relative(gaps=array([1, 3, 1], dtype=int32), codes=array([3, 0, 7], dtype=int32), length=9)
    """
    require_int("bits", bits, 1, 16)
    flat = require_codes("codes", codes, 0, 2**31 - 1).ravel()
    at = np.flatnonzero(flat)
    runs = np.diff(at, prepend=-1, append=flat.size) - 1          # zeros before each, and behind
    fillers, rest = np.divmod(runs, 2**bits)
    where = np.cumsum(fillers[:-1]) + np.arange(at.size)          # of each that is no filler
    entries = int(fillers.sum()) + at.size
    gaps, values = np.full(entries, 2**bits - 1, np.int32), np.zeros(entries, np.int32)
    gaps[where], values[where] = rest[:-1], flat[at]
    return Relative(gaps, values, flat.size)


def absolute(entries: Relative) -> Codes:
    """The codes that `relative` was given, in one row.

    Parameters
    ----------
    entries : Relative

    Returns
    -------
    ndarray of int32, shape (length,)

    Raises
    ------
    ValueError
        If the entries reach beyond the length, or are not as many codes as gaps.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, figure 2.

    Examples
    --------
    >>> absolute(Relative(np.array([1, 3, 1]), np.array([3, 0, 7]), 9))
    array([0, 3, 0, 0, 0, 0, 0, 7, 0], dtype=int32)
    """
    at = np.cumsum(entries.gaps.astype(np.int64) + 1) - 1
    if at.shape != np.shape(entries.codes):
        raise ValueError(f"`entries` must have a code for each of {at.size} gaps; "
                         f"got {np.size(entries.codes)}")
    if at.size and at[-1] >= entries.length:
        raise ValueError(f"`entries` must stay within {entries.length} codes; got one at {at[-1]}")
    codes = np.zeros(entries.length, np.int32)
    codes[at] = entries.codes
    return codes


def fixed_width(symbols: Array) -> Huffman:
    r"""Words of one length for all symbols that occur: what entropy coding is compared with.

    Parameters
    ----------
    symbols : ndarray of int, >= 0, not empty

    Returns
    -------
    Huffman
        Words of :math:`\lceil \log_2 n \rceil` bits, n the number of different symbols.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, eq. (1).

    Examples
    --------
    >>> fixed_width(np.array([0, 5, 0, 2])).words()
    ['00', '', '01', '', '', '10']
    """
    counts = np.bincount(symbols.ravel())
    bits = max(int(np.count_nonzero(counts) - 1).bit_length(), 1)
    return Huffman(np.where(counts > 0, bits, 0))


def sharing_ratio(n: int, k: int, bits: int = 32) -> float:
    r"""How much smaller a layer gets by sharing alone, :math:`nb / (n \log_2 k + kb)`.

    Parameters
    ----------
    n : int
        Weights.
    k : int
        Values that they share.
    bits : int
        b, of a weight before, and of each of the k values.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a number is below 1.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, eq. (1).

    Examples
    --------
    >>> sharing_ratio(16, 4)
    3.2
    """
    for name, number in (("n", n), ("k", k), ("bits", bits)):
        require_int(name, number, 1)
    return float(n * bits / (n * np.log2(k) + k * bits))


def size(
    arrays: Mapping[str, Array | Shared], *, index_bits: int = 4, prefix: Prefix = huffman
) -> int:
    r"""Bytes that `write` is going to take, from the numbers of symbols alone.

    Of a shared weight with e entries and k values, :math:`l_i` bits for symbol i:

    .. math:: 13 + 4 k + (k + 1) + 2^b
              + \left\lceil \tfrac18 \textstyle\sum_i l_i n_i \right\rceil_{codes}
              + \left\lceil \tfrac18 \textstyle\sum_i l_i n_i \right\rceil_{gaps} ,

    of any other array 4 for each number; for either, 4 + 4 for each axis + its name; and 13.

    Parameters
    ----------
    arrays : mapping of str to Shared or ndarray of float
    index_bits : int
        b, of a gap.
    prefix : callable, symbols -> Huffman
        `huffman`, or `fixed_width`.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        As `write`.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, eq. (1) and section 4.

    Examples
    --------
    >>> arrays = {"w": share(np.array([[0.0, 1.0, 1.5], [4.0, 0.0, 4.5]]), 2), "b": np.zeros(2)}
    >>> size(arrays) == len(write(arrays))
    True
    """
    total = 13
    for name, array in arrays.items():
        array = _checked(name, array)
        shape = (array.codes if isinstance(array, Shared) else array).shape
        total += 4 + len(name.encode()) + 4 * len(shape)
        if not isinstance(array, Shared):
            total += 4 * array.size
            continue
        entries, k = relative(array.codes, index_bits), len(array.codebook)
        total += 13 + 4 * k + (k + 1) + 2**index_bits
        for symbols in (entries.codes, entries.gaps):
            if symbols.size:
                code, counts = prefix(symbols), np.bincount(symbols)
                bits = int(counts[code.low :] @ code.lengths)
                total += -(-bits // 8)
    return total


def write(
    arrays: Mapping[str, Array | Shared], *, index_bits: int = 4, prefix: Prefix = huffman
) -> bytes:
    """An archive of shared weights, and of the arrays that stay as they are.

    Parameters
    ----------
    arrays : mapping of str to Shared or ndarray of float
        Biases, norms and the like are kept in float32.
    index_bits : int, from 1 to 8
        Of a gap.
    prefix : callable, symbols -> Huffman
        `huffman`, or `fixed_width`.

    Returns
    -------
    bytes
        Header, arrays one after the other, and a check sum.

    Raises
    ------
    ValueError
        If a codebook has more than 255 values, codes do not fit to theirs, or a number
        is not finite in float32.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, sections 2 to 4.

    Examples
    --------
    >>> read(write({"b": np.array([1.0, 2.0])}))
    {'b': array([1., 2.], dtype=float32)}
    """
    require_int("index_bits", index_bits, 1, 8)
    parts = [MAGIC, struct.pack("<I", len(arrays))]
    for name, array in arrays.items():
        array = _checked(name, array)
        shape = (array.codes if isinstance(array, Shared) else array).shape
        kind = index_bits if isinstance(array, Shared) else 0
        label = name.encode()
        parts += [struct.pack("<HBB", len(label), kind, len(shape)), label,
                  struct.pack(f"<{len(shape)}I", *shape)]
        if not isinstance(array, Shared):
            parts.append(array.astype("<f4").tobytes())
            continue
        entries, k = relative(array.codes, index_bits), len(array.codebook)
        parts += [struct.pack("<BI", k, entries.gaps.size), array.codebook.astype("<f4").tobytes()]
        for symbols, n in ((entries.codes, k + 1), (entries.gaps, 2**index_bits)):
            parts += _stream(symbols, n, prefix)
    content = b"".join(parts)
    return content + struct.pack("<I", crc32(content))


def read(data: bytes) -> dict[str, Array | Shared]:
    """The arrays of an archive.

    Parameters
    ----------
    data : bytes

    Returns
    -------
    dict of str to Shared or ndarray of float32
        Equal in every bit to what was written.

    Raises
    ------
    ValueError
        If the bytes are no archive, were cut off or changed, or declare more than they hold.

    Notes
    -----
    An archive that was made to do harm passes the check sum. Nothing is allocated that the
    bytes do not bear out: an entry stands for at most :math:`2^b` codes.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, sections 2 to 4.

    Examples
    --------
    >>> made = share(np.array([[0.0, 1.0, 1.5], [4.0, 0.0, 4.5]]), 2)
    >>> read(write({"w": made}))["w"].weight
    array([[0.  , 1.25, 1.25],
           [4.25, 0.  , 4.25]], dtype=float32)
    """
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError("`data` must be an archive that `write` made; it begins otherwise")
    if len(data) < 13 or crc32(data[:-4]) != struct.unpack("<I", data[-4:])[0]:
        raise ValueError("`data` must be a whole archive; its check sum says otherwise")
    source, arrays = _Reader(data[:-4], len(MAGIC)), {}
    (count,) = source.numbers("<I")
    for _ in range(count):
        length, kind, axes = source.numbers("<HBB")
        name = source.take(length).decode("utf-8", "replace")
        shape = source.numbers(f"<{axes}I")
        arrays[name] = _read_shared(source, shape, kind) if kind else source.floats(shape)
    if source.left():
        raise ValueError(f"`data` must end with its last array; got {source.left()} bytes more")
    return arrays


class _Reader:
    """Bytes that are taken from the front, and never more than there are."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, n: int) -> bytes:
        if n > self.left():
            raise ValueError(f"`data` must hold what it declares; it ends {n - self.left()} "
                             "bytes too early")
        self.at += n
        return self.data[self.at - n : self.at]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def floats(self, shape: tuple[int, ...]) -> Array:
        n = 1
        for axis in shape:                      # in whole numbers: a product may be huge
            n *= axis
        found = np.frombuffer(self.take(4 * n), "<f4").astype(np.float32)
        require_finite("data", found)
        return _shaped(found, shape)


def _read_shared(source: _Reader, shape: tuple[int, ...], bits: int) -> Shared:
    if bits > 8:
        raise ValueError(f"`data` must have gaps of at most 8 bits; got {bits}")
    k, entries = source.numbers("<BI")
    codebook, n = source.floats((k,)), 1
    for axis in shape:
        n *= axis
    codes, gaps = (_read_stream(source, entries, symbols) for symbols in (k + 1, 2**bits))
    if n >= 2**bits * (entries + 1):            # the run behind the last entry is shorter
        raise ValueError(f"`data` must hold what it declares; {entries} entries are no {n} codes")
    return Shared(codebook, _shaped(absolute(Relative(gaps, codes, n)), shape))


def _read_stream(source: _Reader, entries: int, symbols: int) -> Codes:
    lengths = np.frombuffer(source.take(symbols), np.uint8)
    (size_,) = source.numbers("<I")
    data = source.take(size_)
    if not entries:
        return np.empty(0, np.int32)
    if entries > 8 * size_:                     # a word has at least one bit
        raise ValueError(f"`data` must hold what it declares; {size_} bytes are no "
                         f"{entries} entries")
    return Huffman(lengths).decode(Encoded(data, entries))


def _stream(symbols: Codes, n: int, prefix: Prefix) -> list[bytes]:
    """The lengths of n words, and the words."""
    lengths, data = np.zeros(n, np.uint8), b""
    if symbols.size:
        code = prefix(symbols)
        lengths[code.low : code.low + code.lengths.size] = code.lengths
        data = Huffman(lengths).encode(symbols).data
    return [lengths.tobytes(), struct.pack("<I", len(data)), data]


def _checked(name: str, array: Array | Shared) -> Array | Shared:
    """What can be written, or a reason why not."""
    if not isinstance(array, Shared):
        array = as_reals(name, array).astype(np.float32)
        require_finite(name, array)
        return array
    if len(array.codebook) > 255:
        raise ValueError(f"`{name}` must share at most 255 values; got {len(array.codebook)}")
    require_finite(name, array.codebook)
    require_codes(name, array.codes, 0, len(array.codebook))
    return array


def _shaped(x: Array, shape: tuple[int, ...]) -> Array:
    try:
        return x.reshape(shape)
    except ValueError:
        raise ValueError(f"`data` must have a possible shape; got {shape}") from None
