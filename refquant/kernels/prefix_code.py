"""Words of a prefix code, one after the other: a bit stream made 64 bits at a time.

The place of each word is the sum of the lengths before it. Its bits, moved there,
fall into one word of 64 bits or two, and all that fall into the same are joined by
OR: a segmented reduction, and no loop over bits or symbols. For up to 256 symbols
two neighbours are one entry of a table, which halves the work.
"""

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes, require_same_shape

__all__ = ["encode", "encode_bit_by_bit"]

#: Symbols or pairs at a time, half a megabyte for each work array.
TILE = 2**16
#: A word of 48 bits leaves room for its length in the same 64.
LONGEST = 48
#: As many symbols at least, or the table of pairs costs more than it saves.
WORTH_PAIRS = 2**17
_LENGTH = np.uint64(63)
MISSING = 63            # in place of the length, where a symbol has no word


def encode(symbols: Array, words: Array, lengths: Array) -> bytes:
    """Bit stream of the symbols, the first bit highest in its byte.

    Parameters
    ----------
    symbols : ndarray of int, any shape, in C order
        Places in `words`.
    words : ndarray of int, shape (alphabet,)
        Of each symbol, as a number.
    lengths : ndarray of int, shape (alphabet,)
        Bits of each word, at most 48; 0 for a symbol that does not occur.

    Returns
    -------
    bytes
        The last byte is filled up with zeros.

    Raises
    ------
    ValueError
        If a symbol is outside the alphabet or has no word, a word is longer than 48
        bits or than its length, or `lengths` are not one row.
    TypeError
        If an argument is not of integers.

    References
    ----------
    Huffman, 1952, doi:10.1109/JRPROC.1952.273898; the reduction is ours.

    Examples
    --------
    >>> encode(np.array([1, 1, 0, 2]), np.array([2, 0, 3]), np.array([2, 1, 2])).hex()
    '2c'
    """
    symbols, words, lengths = _checked(symbols, words, lengths)
    runs = [(symbols, _aligned(words, lengths))]
    few = lengths.size <= 256 and lengths.max(initial=0) <= LONGEST // 2
    if few and symbols.size >= WORTH_PAIRS:
        even = symbols[: symbols.size // 2 * 2].astype(np.uint8, copy=False)
        runs = [(even.view("<u2"), _pairs(words, lengths)), (symbols[even.size :], runs[0][1])]
    whole, rest, used = [], np.uint64(0), 0
    for part, table in runs:
        for start in range(0, part.size, TILE):
            entry = np.take(table, part[start : start + TILE])
            length = entry & _LENGTH
            if length.max() == MISSING:
                bad = symbols[lengths[symbols] == 0][0]
                raise ValueError(f"`symbols` must have a word each; got {bad}, which has none")
            stream, end = _joined(entry ^ length, length, used)
            stream[0] |= rest
            whole.append(stream[: end // 64].astype(">u8").tobytes())
            rest, used = stream[end // 64], end % 64
    return b"".join(whole) + int(rest).to_bytes(8, "big")[: -(-used // 8)]


def encode_bit_by_bit(symbols: Array, words: Array, lengths: Array) -> bytes:
    """What `encode` must return: bit j of all words at once, each in its place.

    Parameters
    ----------
    symbols : ndarray of int, any shape
    words : ndarray of int, shape (alphabet,)
    lengths : ndarray of int, shape (alphabet,)

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        As `encode`.

    References
    ----------
    Huffman, 1952, doi:10.1109/JRPROC.1952.273898.

    Examples
    --------
    >>> encode_bit_by_bit(np.array([1, 1, 0, 2]), np.array([2, 0, 3]), np.array([2, 1, 2])).hex()
    '2c'
    """
    symbols, words, lengths = _checked(symbols, words, lengths)
    if (lengths[symbols] == 0).any():
        bad = symbols[lengths[symbols] == 0][0]
        raise ValueError(f"`symbols` must have a word each; got {bad}, which has none")
    word, length = words[symbols], lengths[symbols]
    start = np.cumsum(length) - length
    bits = np.zeros(int(length.sum()), np.uint8)
    for j in range(int(lengths.max(initial=0))):
        longer = length > j
        bits[start[longer] + j] = word[longer] >> (length[longer] - 1 - j) & 1
    return np.packbits(bits).tobytes()


def _checked(
    symbols: npt.ArrayLike, words: npt.ArrayLike, lengths: npt.ArrayLike
) -> tuple[Array, Array, Array]:
    lengths = require_codes("lengths", lengths, 0, LONGEST).astype(np.int64)
    words = require_codes("words", words, 0, 2**LONGEST - 1).astype(np.int64)
    if lengths.ndim != 1:
        raise ValueError(f"`lengths` must be one row; got shape {lengths.shape}")
    require_same_shape("words", words, lengths.shape)
    if (words >> lengths).any():
        bad = np.flatnonzero(words >> lengths)[0]
        raise ValueError(f"`words` must have {lengths[bad]} bits at place {bad}; got {words[bad]}")
    symbols = require_codes("symbols", symbols, 0, lengths.size - 1)
    return symbols.reshape(-1), words, lengths


def _aligned(words: Array, lengths: Array) -> Array:
    """Each word at the upper end of 64 bits, its length or `MISSING` at the lower."""
    held = lengths > 0
    moved = words.astype(np.uint64) << np.where(held, 64 - lengths, 0).astype(np.uint64)
    return np.where(held, moved | lengths.astype(np.uint64), np.uint64(MISSING))


def _pairs(words: Array, lengths: Array) -> Array:
    """The same for two symbols in a row, at ``first + 256 * second``."""
    word, length = np.zeros((2, 256), np.int64)
    word[: words.size], length[: words.size] = words, lengths
    joined = word << length[:, np.newaxis] | word[:, np.newaxis]
    both = np.where((length > 0) & (length[:, np.newaxis] > 0), length + length[:, np.newaxis], 0)
    return _aligned(joined.ravel(), both.ravel())


def _joined(word: Array, length: Array, used: int) -> tuple[Array, int]:
    """The words of a tile in 64 bits each, the first `used` left free; the bit after the last."""
    end = np.cumsum(length, dtype=np.uint64)
    end += np.uint64(used)
    place = end - length
    here = (place >> np.uint64(6)).view(np.int64)
    place &= _LENGTH
    # Where the words of a new 64 bits begin: the OR of each run fills one of them.
    first = np.flatnonzero(here[1:] != here[:-1]) + 1
    first = np.concatenate([np.zeros(1, np.intp), first])
    stream = np.zeros(int(end[-1]) // 64 + 2, np.uint64)
    stream[here[first]] = np.bitwise_or.reduceat(word >> place, first)
    # What the last word of a run has beyond the 64 bits; a shift by 64 is done in two.
    last = np.append(first[1:] - 1, word.size - 1)
    stream[here[last] + 1] |= word[last] << np.uint64(1) << (np.uint64(63) - place[last])
    return stream, int(end[-1])
