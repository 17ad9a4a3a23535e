"""Bytes judged bit by bit in Python integers, which share nothing with the folds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.kernels import packing

SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=21)


def bit_stream(row, bits, high_first):
    """Bytes of one row of codes, each bit placed alone."""
    out = [0] * -(-len(row) * bits // 8)
    for j, code in enumerate(row):
        for i in range(bits):
            at = j * bits + i
            if high_first:
                per = 8 // bits
                at = (j // per) * 8 + (per - 1 - j % per) * bits + i
            out[at // 8] |= (int(code) >> i & 1) << at % 8
    return out


@st.composite
def packable(draw):
    bits, signed = draw(st.integers(1, 4)), draw(st.booleans())
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    dtype = draw(st.sampled_from([np.int32, np.int64, np.int8 if signed else np.uint8]))
    codes = draw(hnp.arrays(dtype, draw(SHAPES), elements=st.integers(low, high)))
    return codes, bits, signed, bits != 3 and draw(st.booleans())


@given(case=packable())
@example(case=(np.array([-8, 7, -1], np.int8), 4, True, True))
@example(case=(np.arange(8, dtype=np.int32), 3, False, False))
def test_each_bit_is_where_the_layout_says(case):
    codes, bits, signed, high_first = case
    packed = packing.pack(codes, bits=bits, signed=signed, high_first=high_first)
    rows = codes.reshape(int(np.prod(codes.shape[:-1])), codes.shape[-1])
    expected = [bit_stream(row, bits, high_first) for row in rows]
    assert packed.shape == (*codes.shape[:-1], -(-codes.shape[-1] * bits // 8))
    assert packed.dtype == np.uint8
    assert packed.reshape(len(rows), packed.shape[-1]).tolist() == expected


@given(case=packable())
def test_unpack_inverts_pack(case):
    codes, bits, signed, high_first = case
    packed = packing.pack(codes, bits=bits, signed=signed, high_first=high_first)
    before = packed.copy()
    n = codes.shape[-1]
    back = packing.unpack(packed, n, bits=bits, signed=signed, high_first=high_first)
    assert back.dtype == (np.int8 if signed else np.uint8)
    assert np.array_equal(back, codes)
    assert np.array_equal(packed, before)


@given(case=packable(), dirt=st.integers(0, 255))
def test_bits_beyond_the_last_code_are_ignored(case, dirt):
    codes, bits, signed, high_first = case
    n = codes.shape[-1]
    packed = packing.pack(codes, bits=bits, signed=signed, high_first=high_first)
    free = packed.shape[-1] * 8 - n * bits
    mask = (2**free - 1) if high_first else (256 - 2 ** (8 - free)) % 256
    if n:
        packed[..., -1] |= dirt & mask
    back = packing.unpack(packed, n, bits=bits, signed=signed, high_first=high_first)
    assert np.array_equal(back, codes)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("tile", [8, 16, 64])
def test_tiles_do_not_show(bits, tile, monkeypatch):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, 131))
    whole = packing.pack(codes, bits=bits)
    monkeypatch.setattr(packing, "TILE", tile)
    assert np.array_equal(packing.pack(codes, bits=bits), whole)
    assert np.array_equal(packing.unpack(whole, 131, bits=bits), codes)


def test_a_strided_view_packs_like_its_copy():
    codes = np.random.default_rng(0).integers(0, 16, (6, 10))
    assert np.array_equal(packing.pack(codes.T, bits=4), packing.pack(codes.T.copy(), bits=4))


@given(codes=hnp.arrays(np.int8, SHAPES, elements=st.integers(-1, 1)))
def test_trits_are_base_three_numbers(codes):
    packed = packing.pack_trits(codes)
    n = codes.shape[-1]
    rows = codes.reshape(int(np.prod(codes.shape[:-1])), n)
    expected = [
        [
            sum(3**i * (int(row[5 * b + i]) + 1 if 5 * b + i < n else 1) for i in range(5))
            for b in range(-(-n // 5))
        ]
        for row in rows
    ]
    assert packed.reshape(len(rows), packed.shape[-1]).tolist() == expected
    assert np.array_equal(packing.unpack_trits(packed, n), codes)


def test_every_byte_of_trits_round_trips():
    packed = np.arange(243, dtype=np.uint8)[:, np.newaxis]
    assert np.array_equal(packing.pack_trits(packing.unpack_trits(packed, 5)), packed)


@given(seed=st.integers(0, 2**32 - 1), blocks=st.integers(0, 3))
def test_ggml_puts_j_and_j_plus_16_together(seed, blocks):
    codes = np.random.default_rng(seed).integers(0, 16, (2, 32 * blocks))
    packed = packing.ggml_nibbles(codes)
    for row, out in zip(codes, packed, strict=True):
        for b in range(blocks):
            for j in range(16):
                expected = row[32 * b + j] + 16 * row[32 * b + j + 16]
                assert out[16 * b + j] == expected
    assert np.array_equal(packing.unggml_nibbles(packed), codes)


@given(seed=st.integers(0, 2**32 - 1), words=st.integers(0, 3))
def test_awq_order_is_even_then_odd(seed, words):
    codes = np.random.default_rng(seed).integers(0, 16, (2, 8 * words))
    packed = packing.awq_nibbles(codes)
    for row, out in zip(codes, packed, strict=True):
        for w, word in enumerate(out):
            nibbles = [int(word) >> 4 * i & 15 for i in range(8)]
            assert nibbles == [row[8 * w + j] for j in (0, 2, 4, 6, 1, 3, 5, 7)]
    assert np.array_equal(packing.unawq_nibbles(packed), codes)
    assert np.array_equal(packing.unawq_nibbles(packed.view(np.int32)), codes)


@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 4), blocks=st.integers(0, 2))
def test_gptq_words_are_one_long_number(seed, bits, blocks):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (2, 32 * blocks))
    words = packing.gptq_words(codes, bits=bits)
    for row, out in zip(codes, words, strict=True):
        long = sum(int(code) << j * bits for j, code in enumerate(row))
        assert [int(w) for w in out] == [long >> 32 * i & 2**32 - 1 for i in range(bits * blocks)]
    assert np.array_equal(packing.ungptq_words(words, bits=bits), codes)
    assert np.array_equal(packing.ungptq_words(words.view(np.int32), bits=bits), codes)


def test_golden_B6_trits():
    assert np.log2(3) == pytest.approx(1.584962501, abs=1e-9)
    packed = packing.pack_trits(np.zeros(1000, int))
    assert packed.nbytes * 8 / 1000 / np.log2(3) - 1 == pytest.approx(0.009487605714, abs=1e-12)


def test_golden_B7_product_of_signs_by_popcount():
    a, b = np.array([1, 0, 1, 0, 0, 1]), np.array([1, 1, 0, 0, 1, 0])
    unequal = np.bitwise_count(packing.pack(a, bits=1) ^ packing.pack(b, bits=1)).sum()
    assert (unequal, 6 - 2 * int(unequal)) == (4, -2)
    assert (2 * a - 1) @ (2 * b - 1) == -2


@given(
    codes=hnp.arrays(
        np.int8, st.tuples(st.integers(0, 9), st.integers(0, 4)), elements=st.integers(-1, 1)
    )
)
def test_bitnet_rows_share_bytes_by_quarters(codes):
    packed = packing.bitnet_pairs(codes)
    quarter = -(-len(codes) // 4)
    for r, row in enumerate(codes):
        for k, code in enumerate(row):
            assert packed[r % quarter, k] >> 2 * (r // quarter) & 3 == code + 1
    assert np.array_equal(packing.unbitnet_pairs(packed, len(codes)), codes)


def test_onnx_puts_the_first_code_in_the_low_nibble_and_bitsandbytes_in_the_high():
    codes = np.array([1, 2])
    assert packing.pack(codes, bits=4) == 0x21
    assert packing.pack(codes, bits=4, high_first=True) == 0x12


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: packing.pack(np.array([16]), bits=4), ValueError, r"in \[0, 15\]; got 16"),
        (lambda: packing.pack(np.array([-1]), bits=2), ValueError, r"must lie in \[0, 3\]; got -1"),
        (lambda: packing.pack(np.array([2]), bits=2, signed=True), ValueError, r"\[-2, 1\]; got 2"),
        (lambda: packing.pack(np.array([1.0]), bits=4), TypeError, "must be integers; got float64"),
        (lambda: packing.pack(np.array(1), bits=4), ValueError, "at least one axis"),
        (lambda: packing.pack(np.array([1]), bits=5), ValueError, "must be at most 4; got 5"),
        (
            lambda: packing.pack(np.array([3, 16], np.uint8), bits=4),
            ValueError,
            "`codes` must lie in \\[0, 15\\]; got 16",
        ),
        (
            lambda: packing.pack(np.array([1]), bits=3, high_first=True),
            ValueError,
            "`high_first` must be False",
        ),
        (
            lambda: packing.unpack(np.zeros(3, np.uint8), 7, bits=4),
            ValueError,
            "`packed` must have 4 bytes for 7 codes of 4 bits; got 3",
        ),
        (lambda: packing.unpack(np.zeros(3), 6, bits=4), TypeError, "must be uint8; got float64"),
        (lambda: packing.unpack_trits(np.array([243], np.uint8), 5), ValueError, "got 243"),
        (lambda: packing.unpack_trits(np.zeros(1, np.uint8), 6), ValueError, "2 bytes for 6 trits"),
        (
            lambda: packing.ggml_nibbles(np.zeros(31, int)),
            ValueError,
            "`codes` must have rows a multiple of 32 long; got 31",
        ),
        (
            lambda: packing.unggml_nibbles(np.zeros(9, np.uint8)),
            ValueError,
            "`packed` must have rows a multiple of 16 long; got 9",
        ),
        (
            lambda: packing.awq_nibbles(np.zeros(9, int)),
            ValueError,
            "`codes` must have rows a multiple of 8 long; got 9",
        ),
        (
            lambda: packing.gptq_words(np.zeros(9, int), bits=4),
            ValueError,
            "`codes` of 4 bits must fill words of 32 bits; got rows of 9",
        ),
        (
            lambda: packing.ungptq_words(np.zeros(1, "u4"), bits=3),
            ValueError,
            "`packed` must hold whole codes of 3 bits; got rows of 1 words",
        ),
        (lambda: packing.unawq_nibbles(np.zeros(1)), TypeError, "must be uint32 or int32"),
        (lambda: packing.bitnet_pairs(np.zeros(4, int)), ValueError, "must be a matrix"),
        (lambda: packing.unbitnet_pairs(np.zeros((1, 1), np.uint8), 5), ValueError, "have 2 rows"),
        (lambda: packing.unbitnet_pairs(np.full((1, 1), 3, np.uint8), 4), ValueError, "got 3"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.int64])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("signed", [False, True])
def test_widths_and_lengths_from_an_array_count_like_others(kind, bits, signed):
    low = -(2 ** (bits - 1)) if signed else 0
    codes = low + np.arange(100) % 2**bits
    packed = packing.pack(codes, bits=kind(bits), signed=signed)
    assert np.array_equal(packed, packing.pack(codes, bits=bits, signed=signed))
    unpacked = packing.unpack(packed, kind(100), bits=kind(bits), signed=signed)
    assert np.array_equal(unpacked, codes)


@pytest.mark.parametrize("n", ["1", None, 1.0])
def test_lengths_that_are_no_integers_are_refused(n):
    for call in (lambda: packing.unpack(np.zeros(1, np.uint8), n, bits=4),
                 lambda: packing.unpack_trits(np.zeros(1, np.uint8), n)):
        with pytest.raises(TypeError, match="`n` must be an integer"):
            call()


def test_masks_are_refused_and_not_dropped():
    masked = np.ma.masked_array(np.zeros(8, np.uint8), True)
    for call in (lambda: packing.pack(masked, bits=4), lambda: packing.pack_trits(masked),
                 lambda: packing.unpack(masked, 8, bits=4), lambda: packing.awq_nibbles(masked)):
        with pytest.raises(TypeError, match="must not be masked"):
            call()
