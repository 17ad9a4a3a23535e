r"""Huffman coding: frequent codes get short words, and no word begins another.

Quantization codes are far from equally frequent: those near zero prevail. A prefix
code with words of length :math:`l_i` exists if and only if (Kraft)

.. math:: \sum_i 2^{-l_i} \le 1,

and joining the two rarest symbols again and again gives the lengths of least mean,
which is within one bit of the entropy,

.. math:: H \le \sum_i p_i l_i < H + 1.

Only the lengths need to be stored. *Canonical* words count upwards: in the order of
(length, symbol), each is the last one plus one, with zeros appended where the length
grows.
"""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import (
    as_unmasked,
    require_codes,
    require_int,
    require_kind,
    require_nonempty,
)
from refquant.kernels import prefix_code

__all__ = ["Encoded", "Huffman", "code_lengths", "entropy", "huffman"]

#: Words are held in 64 bits with room to spare; 2**32 symbols need no more.
LONGEST = 48


def entropy(counts: npt.ArrayLike) -> float:
    r"""Bits that a symbol carries on average, :math:`H = -\sum_i p_i \log_2 p_i`.

    Parameters
    ----------
    counts : ndarray, >= 0, not all zero
        How often each symbol occurs, or its probability.

    Returns
    -------
    float
        No code can use fewer bits on average.

    Raises
    ------
    ValueError
        If a count is negative or not finite, or all are zero.

    References
    ----------
    Shannon, "A Mathematical Theory of Communication", 1948, section 6.

    Examples
    --------
    >>> entropy([1, 1, 2])
    1.5
    """
    weights = _counts(counts)
    p = weights[weights > 0] / weights.max()            # so that no sum overflows
    p /= p.sum()
    p = p[p > 0]
    return float(max(-(p @ np.log2(p)), 0.0)) + 0.0         # 0, not -0


def code_lengths(counts: npt.ArrayLike) -> Array:
    """Length of the word of each symbol, 0 for symbols that do not occur.

    Parameters
    ----------
    counts : ndarray, shape (symbols,), >= 0, not all zero
        How often each symbol occurs, or its probability.

    Returns
    -------
    ndarray of int64, shape (symbols,)
        Of least mean; a symbol alone gets length 1, for an empty word would say
        nothing about how many there are.

    Raises
    ------
    ValueError
        If a count is negative or not finite, all are zero, or a word would be
        longer than 48 bits.

    Notes
    -----
    Several sets of lengths can have the least mean. Here equal counts are joined in
    the order of the symbols, joined ones last, which keeps the longest word short.

    References
    ----------
    Huffman, "A Method for the Construction of Minimum-Redundancy Codes", 1952,
    doi:10.1109/JRPROC.1952.273898.

    Examples
    --------
    >>> code_lengths([40, 20, 20, 10, 10])
    array([2, 2, 2, 3, 3])
    """
    weights = _counts(counts)
    if weights.ndim != 1:
        raise ValueError(f"`counts` must have one axis; got shape {weights.shape}")
    # A tree in the heap: weight, tie break, the symbols below.
    heap = [(float(weights[s]), int(s), [int(s)]) for s in np.flatnonzero(weights)]
    lengths = np.zeros(weights.size, np.int64)
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
    heapq.heapify(heap)
    joined = weights.size
    while len(heap) > 1:
        least, _, few = heapq.heappop(heap)
        second, _, more = heapq.heappop(heap)
        symbols = few + more
        lengths[symbols] += 1                   # all below move down by one
        heapq.heappush(heap, (least + second, joined, symbols))
        joined += 1
    if lengths.max() > LONGEST:
        raise ValueError(f"words must have at most {LONGEST} bits; got {lengths.max()}")
    return lengths


class Encoded(NamedTuple):
    r"""A bit stream, as it would be stored.

    Attributes
    ----------
    data : bytes
        The words one after the other, the first bit highest in its byte; the last
        byte is filled up with zeros.
    symbols : int
        How many there are.

    References
    ----------
    Huffman, 1952, doi:10.1109/JRPROC.1952.273898.

    Examples
    --------
    >>> Encoded(b"\x80", 1).symbols
    1
    """

    data: bytes
    symbols: int


@dataclass(frozen=True, eq=False)
class Huffman:
    """A canonical code for the symbols ``low, low + 1, ...``.

    Attributes
    ----------
    lengths : ndarray of int64, shape (symbols,)
        Of the words; 0 for a symbol without one. All that a file must hold.
    low : int
        The first symbol, for instance the `qmin` of a quantizer.

    Raises
    ------
    ValueError
        If there is no word, or no prefix code has these lengths (Kraft).

    References
    ----------
    Huffman, 1952, doi:10.1109/JRPROC.1952.273898; Schwartz and Kallick, 1964, for
    the canonical order.

    Examples
    --------
    >>> code = Huffman(np.array([2, 1, 2]), low=-1)
    >>> code.words()
    ['10', '0', '11']
    >>> code.encode(np.array([0, 0, -1, 1]))
    Encoded(data=b',', symbols=4)
    >>> code.decode(code.encode(np.array([0, 0, -1, 1])))
    array([ 0,  0, -1,  1], dtype=int32)
    """

    lengths: Array
    low: int = 0

    def __post_init__(self) -> None:
        lengths = require_codes("lengths", self.lengths, 0, LONGEST).astype(np.int64)
        object.__setattr__(self, "lengths", lengths)
        require_int("low", self.low, -(2**31), 2**31 - max(lengths.size, 1))
        used = [int(n) for n in lengths[lengths > 0]]
        if lengths.ndim != 1 or not used:
            raise ValueError(f"`lengths` must have a word in one row; got {lengths.tolist()}")
        # In whole numbers: 2**LONGEST times the sum of Kraft.
        if sum(2 ** (LONGEST - n) for n in used) > 2**LONGEST:
            raise ValueError("`lengths` must obey the inequality of Kraft; they are too short")

    def words(self) -> list[str]:
        """Word of each symbol, as zeros and ones; empty for a symbol without one."""
        return [f"{word:0{n}b}" if n else ""
                for word, n in zip(self._words().tolist(), self.lengths.tolist(), strict=True)]

    def encode(self, codes: Array) -> Encoded:
        """Bit stream of the codes, in C order.

        Parameters
        ----------
        codes : ndarray of int
            Each of them with a word; an empty array gives an empty stream.

        Returns
        -------
        Encoded
        """
        codes = require_codes("codes", codes, self.low, self.low + self.lengths.size - 1)
        narrow = np.uint8 if self.lengths.size <= 256 else np.int64
        symbols = np.subtract(codes, self.low, dtype=np.int64).astype(narrow)
        try:
            data = prefix_code.encode(symbols, self._words(), self.lengths)
        except ValueError:
            bad = codes.ravel()[self.lengths[symbols.ravel()] == 0][0]
            raise ValueError(
                f"`codes` must have a word each; got {bad}, which was never counted"
            ) from None
        return Encoded(data, symbols.size)

    def decode(self, stream: Encoded) -> Codes:
        """Codes that a bit stream stands for, in one row.

        Parameters
        ----------
        stream : Encoded

        Returns
        -------
        ndarray of int32, shape (symbols,)

        Raises
        ------
        ValueError
            If the stream ends within a word, holds bits that begin no word, or goes
            on after its last symbol. (Most flipped bits only change the symbols.)
        TypeError
            If `stream` is not `Encoded`, or its data are not bytes.
        """
        require_kind("stream", stream, Encoded)
        require_int("symbols", stream.symbols, 0)
        if not isinstance(stream.data, (bytes, bytearray, memoryview)):
            raise TypeError(f"`stream` must hold bytes; got {type(stream.data).__name__}")
        bits = np.unpackbits(np.frombuffer(bytes(stream.data), np.uint8)).tolist()
        # Of each length: the first word, how many there are, and where their symbols begin.
        order = np.lexsort((np.arange(self.lengths.size), self.lengths))
        order = order[self.lengths[order] > 0]
        counts = np.bincount(self.lengths[order], minlength=LONGEST + 1).tolist()
        symbols = (order + self.low).tolist()
        longest = int(self.lengths.max())
        found: list[int] = []
        at = 0
        for _ in range(stream.symbols):
            word = first = begin = 0
            for n in range(1, longest + 1):
                if at == len(bits):
                    raise ValueError(
                        f"`stream` must hold {stream.symbols} symbols; it ends after {len(found)}"
                    )
                word, first = 2 * word + bits[at], 2 * first
                at += 1
                if word - first < counts[n]:
                    found.append(symbols[begin + word - first])
                    break
                first, begin = first + counts[n], begin + counts[n]
            else:
                raise ValueError(
                    f"`stream` must consist of words; none begins at bit {at - longest}"
                )
        if len(bits) - at >= 8 or any(bits[at:]):
            raise ValueError(
                f"`stream` must end after {stream.symbols} symbols; bits are left over"
            )
        return np.array(found, np.int32)

    def mean_length(self, counts: npt.ArrayLike) -> float:
        """Bits a symbol, if symbols occur as often as in `counts`.

        Parameters
        ----------
        counts : ndarray, shape of `lengths`, >= 0, not all zero
            How often each symbol occurs, or its probability.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If `counts` has another shape, or counts a symbol that has no word.
        """
        weights = _counts(counts)
        if weights.shape != self.lengths.shape:
            raise ValueError(
                f"`counts` must have the shape of the lengths, {self.lengths.shape}; "
                f"got {weights.shape}"
            )
        if weights[self.lengths == 0].any():
            bad = np.flatnonzero((weights > 0) & (self.lengths == 0))[0] + self.low
            raise ValueError(f"`counts` must be 0 for symbols without a word; got some of {bad}")
        share = weights / weights.max()
        return float(share @ self.lengths / share.sum())

    def _words(self) -> Array:
        """Word of each symbol, as a number."""
        words = np.zeros(self.lengths.size, np.int64)
        word = last = 0
        for symbol in np.lexsort((np.arange(words.size), self.lengths)):
            length = int(self.lengths[symbol])
            if length:
                word <<= length - last
                words[symbol], last = word, length
                word += 1
        return words


def huffman(codes: Array) -> Huffman:
    """The canonical Huffman code for the frequencies of given codes.

    Parameters
    ----------
    codes : ndarray of int, not empty

    Returns
    -------
    Huffman
        For the symbols from the least code to the greatest.

    Raises
    ------
    ValueError
        If `codes` is empty, or the range from least to greatest exceeds 2**24.
    TypeError
        If `codes` are not integers.

    References
    ----------
    Huffman, 1952, doi:10.1109/JRPROC.1952.273898; Han et al., "Deep Compression",
    2016, arXiv:1510.00149, section 4, for quantized weights.

    Examples
    --------
    >>> codes = np.array([0, 0, 0, 1, -1, 0])
    >>> huffman(codes).words()
    ['10', '0', '11']
    """
    codes = require_codes("codes", codes, -(2**31), 2**31 - 1)
    require_nonempty("codes", codes)
    low, high = int(codes.min()), int(codes.max())
    require_int("max(codes) - min(codes)", high - low, 0, 2**24)
    return Huffman(code_lengths(np.bincount(codes.ravel().astype(np.int64) - low)), low)


def _counts(counts: npt.ArrayLike) -> Array:
    array = as_unmasked("counts", counts)
    require_nonempty("counts", array)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"`counts` must be real numbers; got {array.dtype}")
    weights = array.astype(np.float64)
    good = np.isfinite(weights) & (weights >= 0)
    if not good.all() or not weights.any():
        bad = weights[~good].flat[0] if not good.all() else "zeros alone"
        raise ValueError(f"`counts` must be at least 0 and finite, not all zero; got {bad}")
    return weights
