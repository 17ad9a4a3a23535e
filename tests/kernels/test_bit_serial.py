"""Products of bit planes, judged by Python integers and by the matrix product of the codes."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.kernels import _planes, binary, bit_serial

#: Around a whole number of words, and nothing at all.
LENGTHS = st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 65, 127, 128, 130, 300]))


@st.composite
def integers(draw, n, bits=None):
    """Codes of 0 to 5 rows, how they are packed, and their planes."""
    bits = draw(st.integers(1, 8)) if bits is None else bits
    signed, seed = draw(st.booleans()), draw(st.integers(0, 99))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    rng, rows = np.random.default_rng(seed), draw(st.integers(0, 5))
    extreme = draw(st.booleans())
    codes = np.full((rows, n), low) if extreme else rng.integers(low, high + 1, (rows, n))
    return codes, bits, signed


@given(data=st.data(), n=LENGTHS)
def test_product_is_the_product_of_the_codes(data, n):
    (x, *how_x), (w, *how_w) = data.draw(integers(n)), data.draw(integers(n))
    planes_x = bit_serial.pack(x, bits=how_x[0], signed=how_x[1])
    planes_w = bit_serial.pack(w, bits=how_w[0], signed=how_w[1])
    y = bit_serial.product(planes_x, planes_w)
    assert y.dtype == np.int32
    assert np.array_equal(y, x @ w.T)
    assert np.array_equal(y, bit_serial.product_by_unpacking(planes_x, planes_w))


@given(data=st.data(), n=LENGTHS)
def test_signs_are_planes_with_an_offset(data, n):
    (x, bits, signed), (w, *_) = data.draw(integers(n)), data.draw(integers(n, bits=1))
    ones = np.abs(w)
    planes_x, signs = bit_serial.pack(x, bits=bits, signed=signed), binary.pack(ones)
    assert np.array_equal(bit_serial.product(planes_x, signs), x @ (2 * ones - 1).T)
    assert np.array_equal(bit_serial.product(signs, planes_x), (2 * ones - 1) @ x.T)
    assert np.array_equal(bit_serial.product(signs, signs), binary.product(signs, signs))


@given(data=st.data(), n=LENGTHS)
def test_each_bit_is_where_the_record_says(data, n):
    codes, bits, signed = data.draw(integers(n))
    planes = bit_serial.pack(codes, bits=bits, signed=signed)
    assert planes.words.shape == (bits, -(-n // 64), len(codes))
    for row, code_row in enumerate(codes.tolist()):
        for i in range(bits):
            number = sum((code >> i & 1) << k for k, code in enumerate(code_row))
            assert number == sum(int(w) << 64 * k for k, w in enumerate(planes.words[i, :, row]))
            assert planes.ones[i, row] == number.bit_count()
    assert np.array_equal(bit_serial.unpack(planes), codes)
    full = 2 ** (bits - 1)
    assert planes.bounds == ((-full, full - 1) if signed else (0, 2 * full - 1))


@given(data=st.data(), n=LENGTHS, dirt=st.integers(0, 2**64 - 1))
@example(data=None, n=65, dirt=2**64 - 1)
def test_bits_beyond_the_last_code_are_ignored(data, n, dirt):
    if data is None:
        x = w = np.ones((2, n), np.int64)
        bits, signed = 1, False
    else:
        x, bits, signed = data.draw(integers(n))
        w = data.draw(integers(n, bits=bits))[0] % 2
    clean = bit_serial.pack(x, bits=bits, signed=signed)
    weight = bit_serial.pack(w, bits=1)
    dirty = [with_dirt(planes, dirt) for planes in (clean, weight)]
    before = [planes.words.copy() for planes in dirty]
    assert np.array_equal(bit_serial.product(*dirty), bit_serial.product(clean, weight))
    assert np.array_equal(bit_serial.unpack(dirty[0]), x)
    assert all(np.array_equal(p.words, b) for p, b in zip(dirty, before, strict=True))


def with_dirt(planes, dirt):
    words = planes.words.copy()
    if planes.length % 64:
        words[:, -1] |= np.uint64(dirt >> planes.length % 64 << planes.length % 64)
    return planes._replace(words=words)


@pytest.mark.parametrize(
    ("tile", "counts", "rows", "most"),
    [(8, 8, 4, 2), (3, 9, 3, 9), (64, 640, 16, 1), (7, 70, 7, 3), (8, 64, 8, 1023), (32, 96, 9, 7)],
)
def test_tiles_do_not_show(tile, counts, rows, most, monkeypatch):
    rng = np.random.default_rng(0)
    x, w = rng.integers(-8, 8, (3, 333)), rng.integers(0, 4, (29, 333))
    monkeypatch.setattr(_planes, "TILE", tile)
    monkeypatch.setattr(_planes, "COUNTS", counts)
    monkeypatch.setattr(_planes, "ROWS", rows)
    monkeypatch.setattr(_planes, "MOST_WORDS", most)
    planes_x, weight = bit_serial.pack(x, bits=4, signed=True), bit_serial.pack(w, bits=2)
    assert np.array_equal(bit_serial.product(planes_x, weight), x @ w.T)


def test_scratch_is_bounded_whatever_the_shape():
    weight = bit_serial.pack(np.ones((5000, 640), np.uint8), bits=1)
    x = bit_serial.pack(np.ones((100, 640), np.uint8), bits=8)
    bit_serial.product(x, weight)                      # the first call imports what it needs
    tracemalloc.start()
    y = bit_serial.product(x, weight)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - y.nbytes < 2.5e6 + x.words.nbytes


def test_counts_of_a_long_row_do_not_overflow():
    # A thousand and a half words in a row, all ones: more than 16 bits hold.
    ones = bit_serial.pack(np.ones((1, 100_000), np.uint8), bits=1)
    assert bit_serial.product(ones, ones).tolist() == [[100_000]]


def test_the_buffer_of_numpy_is_left_as_it_was():
    before = np.getbufsize()
    planes = bit_serial.pack(np.ones((2, 70), int), bits=1)
    bit_serial.product(planes, planes)
    assert np.getbufsize() == before


def test_the_largest_sums_of_int32():
    # Codes of 2**7 squared: 2**17 of them are one too many.
    low = np.full((1, 2**17 - 1), -128, np.int8)
    planes = bit_serial.pack(low, bits=8, signed=True)
    assert bit_serial.product(planes, planes).tolist() == [[2**31 - 2**14]]
    longer = bit_serial.pack(np.full((1, 2**17), -128, np.int8), bits=8, signed=True)
    with pytest.raises(ValueError, match=r"sums that fit int32; got up to 2147483648"):
        bit_serial.product(longer, longer)


def planes(n=5, rows=2):
    return bit_serial.pack(np.ones((rows, n), int), bits=1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bit_serial.pack(np.array([[8]]), bits=3), ValueError, r"lie in \[0, 7\]; got 8"),
        (
            lambda: bit_serial.pack(np.array([[4]]), bits=3, signed=True),
            ValueError,
            r"lie in \[-4, 3\]; got 4",
        ),
        (lambda: bit_serial.pack(np.array([1]), bits=3), ValueError, r"shape \(rows, in\); got"),
        (lambda: bit_serial.pack(np.array([[1.0]]), bits=3), TypeError, "must be integers"),
        (lambda: bit_serial.pack(np.array([[1]]), bits=9), ValueError, "at most 8; got 9"),
        (
            lambda: bit_serial.product(planes(5), planes(6)),
            ValueError,
            "`x` must have rows of 6 codes, like `weight`; got 5",
        ),
        (
            lambda: bit_serial.product(planes(), planes()._replace(length=65)),
            ValueError,
            r"`weight.words` must have 1 planes of 2 words for 65 codes; got shape \(1, 1, 2\)",
        ),
        (
            lambda: bit_serial.unpack(planes()._replace(words=np.ones((1, 1, 2), np.int64))),
            TypeError,
            "`planes.words` must be uint64; got int64",
        ),
        (
            lambda: bit_serial.product(planes()._replace(ones=np.ones((1, 3))), planes()),
            ValueError,
            r"`x.ones` must have shape \(1, 2\)",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bits_from_an_array_count_like_others():
    codes = np.array([[1, -128, 127]])
    assert np.array_equal(
        bit_serial.unpack(bit_serial.pack(codes, bits=np.int8(8), signed=True)), codes)


@pytest.mark.parametrize("product", [bit_serial.product, binary.product])
def test_codes_that_were_not_packed_are_refused(product):
    packed = binary.pack(np.array([[1]]))
    for x, weight, name in ((np.array([[1]]), packed, "x"), (packed, np.array([[1]]), "weight")):
        with pytest.raises(TypeError, match=f"`{name}` must be `Planes`; got ndarray"):
            product(x, weight)
