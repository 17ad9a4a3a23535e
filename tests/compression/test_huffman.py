"""Huffman coding: optimal against all prefix codes, within a bit of the entropy, and invertible."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.compression.huffman import Encoded, Huffman, code_lengths, entropy, huffman
from refquant.quantizers.lloyd_max import gauss, lloyd_max

counts_lists = st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any)
code_arrays = hnp.arrays(np.int32, hnp.array_shapes(max_dims=2, max_side=40),
                         elements=st.integers(-20, 20))


def kraft(lengths):
    return sum(Fraction(1, 2 ** int(n)) for n in lengths if n)


@given(counts=counts_lists)
def test_words_fill_the_tree(counts):
    lengths = code_lengths(counts)
    used = np.count_nonzero(counts)
    assert np.array_equal(lengths > 0, np.array(counts) > 0)
    assert kraft(lengths) == (1 if used > 1 else Fraction(1, 2))


@given(counts=counts_lists)
def test_mean_length_is_within_a_bit_of_the_entropy(counts):
    mean = Huffman(code_lengths(counts)).mean_length(counts)
    if np.count_nonzero(counts) > 1:
        assert entropy(counts) * (1 - 1e-12) <= mean < entropy(counts) + 1
    else:
        assert (entropy(counts), mean) == (0, 1)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=5))
def test_no_prefix_code_is_shorter(counts):
    best = min(np.dot(counts, lengths)
               for lengths in itertools.product(range(1, len(counts)), repeat=len(counts))
               if kraft(lengths) <= 1)
    assert np.dot(counts, code_lengths(counts)) == best


@given(counts=counts_lists)
def test_words_are_prefix_free_and_canonical(counts):
    code = Huffman(code_lengths(counts))
    words = [word for word in code.words() if word]
    assert not any(b.startswith(a) for a, b in itertools.permutations(words, 2))
    ordered = sorted((len(word), symbol, word) for symbol, word in enumerate(code.words()) if word)
    values = [Fraction(int(word, 2), 2**n) for n, _, word in ordered]
    assert values == sorted(values)                     # longer words come later, too
    assert values[0] == 0


@given(codes=code_arrays)
def test_bytes_round_trip(codes):
    code = huffman(codes)
    stream = code.encode(codes)
    assert np.array_equal(code.decode(stream), codes.ravel())
    bits = sum(len(code.words()[c - code.low]) for c in codes.ravel().tolist())
    assert len(stream.data) == -(-bits // 8)


@given(codes=code_arrays)
def test_bytes_are_the_words_one_after_the_other(codes):
    code = huffman(codes)
    bits = "".join(code.words()[c - code.low] for c in codes.ravel().tolist())
    padded = bits + "0" * (-len(bits) % 8)
    expected = bytes(int(padded[i : i + 8], 2) for i in range(0, len(padded), 8))
    assert code.encode(codes).data == expected


@given(codes=code_arrays)
def test_lengths_alone_restore_the_code(codes):
    code = huffman(codes)
    again = Huffman(code.lengths.copy(), code.low)
    assert np.array_equal(again.decode(code.encode(codes)), codes.ravel())


def test_golden_N15_mean_length_and_entropy():
    p = [0.4, 0.2, 0.2, 0.1, 0.1]
    assert Huffman(code_lengths(p)).mean_length(p) == pytest.approx(2.2, abs=1e-12)
    assert entropy(p) == pytest.approx(2.121928094887362, abs=1e-12)


def test_codes_of_the_best_gaussian_quantizers():
    for bits, mean in ((2, 1.98945), (3, 2.88427), (4, 3.80923), (5, 4.77089)):
        best = lloyd_max(gauss, 2**bits)
        tail = gauss.tail(np.abs(best.quantizer.thresholds))
        below = np.where(best.quantizer.thresholds > 0, 1 - tail, tail)
        p = np.diff(np.concatenate([[0], below, [1]]))
        assert Huffman(code_lengths(p)).mean_length(p) == pytest.approx(mean, abs=5e-6)
        assert entropy(p) == pytest.approx(best.entropy, abs=1e-9)


def test_one_symbol_takes_one_bit_each():
    code = huffman(np.full(9, -3))
    assert code.words() == ["0"]
    assert code.encode(np.full(9, -3)) == Encoded(b"\0\0", 9)
    assert np.array_equal(code.decode(Encoded(b"\0\0", 9)), np.full(9, -3))


def test_an_empty_array_of_codes_is_an_empty_stream():
    code = Huffman(np.array([1, 1]))
    assert code.encode(np.zeros(0, np.int32)) == Encoded(b"", 0)
    assert code.decode(Encoded(b"", 0)).shape == (0,)


def test_words_of_very_unequal_counts_are_long_but_right():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(fibonacci)
    assert lengths.max() == 39
    code = Huffman(lengths)
    codes = np.array([0, 39, 1, 0, 20])
    assert np.array_equal(code.decode(code.encode(codes)), codes)
    with pytest.raises(ValueError, match="at most 48 bits; got 59"):
        code_lengths([2.0**i for i in range(60)])


def test_a_stream_that_is_cut_short_or_goes_on_is_refused():
    code = Huffman(np.array([1, 2, 2]))
    stream = code.encode(np.array([0, 1, 2, 1, 2, 0]))              # 10 bits
    with pytest.raises(ValueError, match="must hold 6 symbols; it ends after 4"):
        code.decode(Encoded(stream.data[:1], 6))
    with pytest.raises(ValueError, match="must end after 6 symbols; bits are left over"):
        code.decode(Encoded(stream.data + b"\0", 6))
    with pytest.raises(ValueError, match="bits are left over"):
        code.decode(Encoded(stream.data, 3))
    filled = stream.data[:-1] + bytes([stream.data[-1] | 1])        # in place of the zeros
    with pytest.raises(ValueError, match="bits are left over"):
        code.decode(Encoded(filled, 6))


def test_bits_that_begin_no_word_are_refused():
    code = Huffman(np.array([2, 2, 2]))                             # 11 is no word
    with pytest.raises(ValueError, match="must consist of words; none begins at bit 2"):
        code.decode(Encoded(b"\x30", 4))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="`codes` must not be empty"):
        huffman(np.zeros(0, np.int32))
    with pytest.raises(TypeError, match="`codes` must be integers"):
        huffman(np.zeros(3))
    with pytest.raises(ValueError, match="must be at most 16777216"):
        huffman(np.array([0, 2**25]))
    for counts in ([0, 0], [-1, 2], [np.nan], [np.inf]):
        with pytest.raises(ValueError, match="`counts` must be at least 0"):
            code_lengths(counts)
    with pytest.raises(ValueError, match="`counts` must not be empty"):
        entropy([])
    with pytest.raises(ValueError, match="inequality of Kraft"):
        Huffman(np.array([1, 1, 1]))
    with pytest.raises(ValueError, match="must have a word"):
        Huffman(np.array([0, 0]))
    with pytest.raises(ValueError, match="`codes` must have a word each; got 6"):
        Huffman(np.array([1, 0, 1]), low=5).encode(np.array([5, 6]))
    with pytest.raises(ValueError, match=r"`codes` must lie in \[5, 7\]; got 8"):
        Huffman(np.array([1, 0, 1]), low=5).encode(np.array([8]))


@pytest.mark.parametrize(("use", "error", "message"), [
    (lambda: code_lengths(3), ValueError, r"`counts` must have one axis; got shape \(\)"),
    (lambda: code_lengths([[1, 2], [3, 4]]), ValueError, "must have one axis; got shape"),
    (lambda: entropy(["a"]), TypeError, "`counts` must be real numbers; got <U1"),
    (lambda: entropy(None), TypeError, "`counts` must be real numbers; got object"),
    (lambda: entropy(np.ones(2, complex)), TypeError, "real numbers; got complex128"),
    (lambda: Huffman(np.array([1, 1])).mean_length([1, 2, 3]), ValueError,
     r"`counts` must have the shape of the lengths, \(2,\); got \(3,\)"),
    (lambda: Huffman(np.array([1, 0, 1]), low=5).mean_length([1, 2, 3]), ValueError,
     "`counts` must be 0 for symbols without a word; got some of 6"),
    (lambda: Huffman(np.array([1, 1]), low=2**31 - 1), ValueError, "`low` must be at most 214748"),
    (lambda: Huffman(np.array([1, 1])).decode(Encoded("ab", 1)), TypeError, "bytes; got str"),
    (lambda: Huffman(np.array([1, 1])).decode(Encoded(b"a", -1)), ValueError, "must be at least 0"),
])
def test_what_cannot_be_counted_or_decoded_is_named(use, error, message):
    with pytest.raises(error, match=message):
        use()


def test_symbols_up_to_the_largest_int32_are_decoded():
    code = Huffman(np.array([1, 1]), low=2**31 - 2)
    codes = np.array([2**31 - 1, 2**31 - 2])
    assert np.array_equal(code.decode(code.encode(codes)), codes)


def test_only_the_ratios_of_counts_matter():
    for factor in (2.0**1020, 2.0**-1070):
        counts = factor * np.array([1.0, 2, 1])
        assert entropy(counts) == Huffman(code_lengths(counts)).mean_length(counts) == 1.5


@given(codes=code_arrays, data=st.data())
def test_a_corrupted_stream_gives_symbols_or_a_named_error(codes, data):
    code = huffman(codes)
    stream = code.encode(codes)
    broken = data.draw(st.binary(max_size=len(stream.data) + 2))
    try:
        found = code.decode(Encoded(broken, stream.symbols))
    except ValueError as error:
        assert str(error).startswith("`stream` must ")      # noqa: PT017 - either answer is right
    else:
        assert np.isin(found, codes).all()
        assert found.size == stream.symbols


@pytest.mark.parametrize("stream", [b"ab", None, (b"ab", 1)])
def test_a_stream_that_was_not_encoded_is_refused(stream):
    with pytest.raises(TypeError, match="`stream` must be `Encoded`"):
        Huffman(np.array([1, 1])).decode(stream)


def test_memory_that_is_not_in_one_piece_is_read_as_bytes():
    code = Huffman(np.array([1, 1]))
    every_other = Encoded(memoryview(b"\xf0x\x0fx")[::2], 16)
    assert np.array_equal(code.decode(every_other), [1] * 4 + [0] * 8 + [1] * 4)


def test_the_entropy_of_what_is_certain_is_zero_and_not_minus_zero():
    for counts in ([5e-324, 1e308], [7], [0, 3]):
        assert str(entropy(counts)) == "0.0"
