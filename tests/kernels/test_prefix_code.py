"""Bit streams, judged by the words written out as text."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.compression.huffman import Huffman, huffman
from refquant.kernels import prefix_code


def as_text(symbols, code):
    """The bytes of the words one after the other, by way of a string."""
    words = code.words()
    text = "".join(words[s] for s in symbols)
    text += "0" * (-len(text) % 8)
    return bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))


@st.composite
def streams(draw):
    """A code of up to 300 symbols, some without a word, and symbols that have one."""
    size = draw(st.sampled_from([1, 2, 3, 17, 40, 256, 257, 300]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    if size <= 40 and draw(st.booleans()):              # words of 1, 2, 3, ... bits
        lengths = np.minimum(np.arange(1, size + 1), max(size - 1, 1))
    else:
        lengths = huffman(np.repeat(np.arange(size), rng.integers(1, 9, size))).lengths
    used = Huffman(np.where((rng.random(size) < 0.8) | (np.arange(size) == 0), lengths, 0))
    return used, rng.choice(np.flatnonzero(used.lengths), draw(st.integers(0, 400)))


@pytest.mark.parametrize(("tile", "worth"), [(2**16, 0), (2**16, 2**17), (7, 0), (1, 10**9)])
@given(case=streams())
@example(case=(Huffman(np.full(2, 48)), np.array([0, 1, 1, 0, 1])))
@example(case=(Huffman(np.full(4, 24)), np.array([3, 1, 2, 0, 1])))
@example(case=(Huffman(np.full(256, 8)), np.arange(24)))
def test_the_stream_is_the_words_one_after_the_other(tile, worth, case):
    code, symbols = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_code, "TILE", tile)
        patch.setattr(prefix_code, "WORTH_PAIRS", worth)
        given_words = symbols, code._words(), code.lengths
        data = prefix_code.encode(*given_words)
    assert data == as_text(symbols, code)
    assert data == prefix_code.encode_bit_by_bit(*given_words)


def test_many_symbols_go_by_pairs_and_across_tiles():
    symbols = np.minimum(np.random.default_rng(0).geometric(0.2, 300_001) - 1, 200)
    code = huffman(symbols)
    words = code._words()
    for form in (symbols, symbols.astype(np.uint8), symbols.astype(np.int16)[::-1]):
        data = prefix_code.encode(form, words, code.lengths)
        assert data == prefix_code.encode_bit_by_bit(form, words, code.lengths)
    stream = code.encode(symbols - 0)
    assert np.array_equal(code.decode(stream), symbols)


@pytest.mark.parametrize("encode", [prefix_code.encode, prefix_code.encode_bit_by_bit])
@pytest.mark.parametrize("n", [3, 2**17 + 1])
def test_a_symbol_without_a_word_is_named(encode, n):
    words, lengths = np.array([0, 0, 1]), np.array([1, 0, 1])
    for place in (0, 1, n - 1):
        symbols = np.zeros(n, np.int64)
        symbols[place] = 1
        with pytest.raises(ValueError, match="`symbols` must have a word each; got 1, which"):
            encode(symbols, words, lengths)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([3], [0, 1], [1, 1]), ValueError, r"`symbols` must lie in \[0, 1\]; got 3"),
        (([0], [0, 2], [1, 1]), ValueError, "`words` must have 1 bits at place 1; got 2"),
        (([0], [0], [1, 1]), ValueError, r"`words` must have shape \(2,\); got \(1,\)"),
        (([0], [0, 1], [1, 49]), ValueError, r"`lengths` must lie in \[0, 48\]; got 49"),
        (([0.5], [0, 1], [1, 1]), TypeError, "`symbols` must be integers; got float64"),
    ],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        prefix_code.encode(*map(np.array, arguments))


@pytest.mark.parametrize("encode", [prefix_code.encode, prefix_code.encode_bit_by_bit])
def test_no_alphabet_writes_nothing_and_lengths_are_one_row(encode):
    none = np.array([], int)
    assert encode(none, none, none) == b""
    with pytest.raises(ValueError, match=r"`lengths` must be one row; got shape \(1, 2\)"):
        encode(np.array([1]), np.array([[0, 1]]), np.array([[1, 1]]))
