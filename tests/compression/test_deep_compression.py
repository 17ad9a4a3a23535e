"""Deep Compression: what is written is what was predicted, and what is read is what was written."""

import contextlib
import struct
import tracemalloc
from zlib import crc32

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from refquant.compression.deep_compression import (
    MAGIC,
    Relative,
    Shared,
    absolute,
    fixed_width,
    read,
    relative,
    share,
    sharing_ratio,
    size,
    write,
)
from refquant.compression.huffman import entropy, huffman
from refquant.compression.pruning import keep_largest

SEEDS = st.integers(0, 2**32 - 1)
CODES = st.lists(st.sampled_from([0] * 9 + [1, 2, 7]), max_size=300)


def sparse(seed, shape, sparsity=0.8):
    w = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return w * keep_largest(np.abs(w), sparsity)


def bundle(seed=0):
    return {"fc1.weight": share(sparse(seed, (30, 17)), 15), "fc1.bias": sparse(seed, 30, 0),
            "conv": share(sparse(seed, (4, 3, 3, 2), 0.5), 4), "none": np.empty((0, 3), np.float32)}


def equal(a, b):
    if isinstance(a, Shared):
        return all(np.array_equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b) and a.dtype == b.dtype


@given(CODES, st.integers(1, 6))
@example([], 2)
@example([0] * 40, 2)
@example([0, 0, 0, 1], 1)
def test_positions_come_back_from_gaps(codes, bits):
    codes = np.array(codes, np.int32)
    made = relative(codes, bits)
    assert np.array_equal(absolute(made), codes)
    assert made.gaps.size == 0 or 0 <= made.gaps.min() <= made.gaps.max() < 2**bits
    assert np.array_equal(made.codes[made.codes > 0], codes[codes > 0])
    assert (made.gaps[made.codes == 0] == 2**bits - 1).all()      # fillers are for long runs alone
    assert codes.size < 2**bits * (made.gaps.size + 1)


def test_the_figure_of_the_paper():
    """Figure 2: 3 bits, so a filler stands 8 places behind position 4, and then 3 more."""
    values = np.zeros(16, np.int32)
    values[[1, 4, 15]] = [34, 9, 17]
    made = relative(values, 3)
    assert (made.gaps + 1).tolist() == [2, 3, 8, 3]
    assert made.codes.tolist() == [34, 9, 0, 17]


@given(SEEDS, st.integers(1, 20), st.floats(0, 1))
def test_zeros_stay_and_the_rest_takes_at_most_k_values(seed, k, sparsity):
    w = sparse(seed, (9, 7), sparsity)
    made = share(w, k)
    assert np.array_equal(made.codes == 0, w == 0)
    assert len(made.codebook) <= k
    assert made.weight.dtype == np.float32
    if (w != 0).any():                          # every value has a member, and is their mean
        members = [w[made.codes == 1 + j] for j in range(len(made.codebook))]
        assert all(m.size for m in members)
        for m, level in zip(members, made.codebook, strict=True):
            assert level == pytest.approx(m.mean(), rel=1e-5, abs=1e-7)


def test_as_many_values_as_weights_lose_nothing():
    w = np.array([[0.0, 0.5], [-1.25, 3.0]], np.float32)
    assert np.array_equal(share(w, 3).weight, w)


@given(SEEDS, st.integers(1, 8), st.sampled_from([huffman, fixed_width]), st.floats(0, 1))
@settings(max_examples=40)
def test_the_formula_gives_the_bytes_that_are_written(seed, index_bits, prefix, sparsity):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(0, 9, rng.integers(1, 4)))
    arrays = {"ä": share(sparse(seed, shape, sparsity), int(rng.integers(1, 40))),
              "b": rng.normal(size=int(rng.integers(0, 5)))}
    data = write(arrays, index_bits=index_bits, prefix=prefix)
    assert len(data) == size(arrays, index_bits=index_bits, prefix=prefix)
    found = read(data)
    assert list(found) == ["ä", "b"]
    assert equal(found["ä"], arrays["ä"])
    assert equal(found["b"], arrays["b"].astype(np.float32))


@given(SEEDS, st.sampled_from([2, 4, 16]))
@settings(max_examples=20)
def test_sharing_alone_is_the_formula_of_the_paper(seed, k):
    """No weight pruned: the words of the codes and the codebook are what eq. (1) counts."""
    w = np.random.default_rng(seed).normal(size=256).astype(np.float32)
    made = share(w, k)
    words = fixed_width(made.codes).encode(made.codes).data
    if len(made.codebook) == k:
        stored = len(words) + made.codebook.nbytes
        assert w.nbytes / stored == pytest.approx(sharing_ratio(256, k), rel=1e-12)


@given(SEEDS)
@settings(max_examples=20)
def test_huffman_words_are_within_a_bit_of_the_entropy_and_never_longer_than_fixed_ones(seed):
    codes = relative(share(sparse(seed, (40, 20)), 15).codes, 4).codes
    counts = np.bincount(codes)
    code = huffman(codes)
    mean = counts[code.low :] @ code.lengths / codes.size
    assert entropy(counts) - 1e-12 <= mean < entropy(counts) + 1
    assert mean <= fixed_width(codes).lengths.max()


def test_an_archive_of_many_arrays_comes_back():
    arrays = bundle()
    found = read(write(arrays))
    assert list(found) == list(arrays)
    assert all(equal(found[name], arrays[name]) for name in arrays)


def test_an_archive_cut_off_anywhere_is_refused_in_one_line():
    data = write(bundle())
    for n in range(len(data)):
        with pytest.raises(ValueError, match=r"^`data` must [^\n]*$"):
            read(data[:n])


def test_a_changed_byte_anywhere_is_refused():
    data = write(bundle())
    for i in range(len(data)):
        bad = bytearray(data)
        bad[i] ^= 1 + i % 255
        with pytest.raises(ValueError, match=r"^`data` must"):
            read(bytes(bad))


def signed(content):
    """The bytes with a check sum that is right."""
    return content + struct.pack("<I", crc32(content))


@given(SEEDS)
@settings(max_examples=150)
def test_bytes_changed_on_purpose_do_no_harm(seed):
    """A right check sum over wrong bytes: a ValueError, or arrays no larger than the bytes bear."""
    rng = np.random.default_rng(seed)
    content = bytearray(write(bundle())[:-4])
    for _ in range(int(rng.integers(1, 4))):
        content[int(rng.integers(len(MAGIC), len(content)))] = int(rng.integers(256))
    tracemalloc.start()
    with contextlib.suppress(ValueError):       # and no other error
        read(signed(bytes(content)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7


HUGE = 2**32 - 1


@pytest.mark.parametrize(("body", "message"), [
    (struct.pack("<IHBB2I", 1, 0, 0, 2, HUGE, HUGE), "bytes too early"),
    (struct.pack("<IHBB1IBI", 1, 0, 8, 1, HUGE, 0, 0) + bytes(1 + 4 + 256 + 4),
     "0 entries are no 4294967295 codes"),
    (struct.pack("<IHBB1IBI", 1, 0, 8, 1, 5, 0, HUGE) + b"\1" + struct.pack("<I", 1) + b"\0",
     "1 bytes are no 4294967295 entries"),
    (struct.pack("<IHBB1IBI", 1, 0, 8, 1, 256, 0, 0) + bytes(1 + 4 + 256 + 4),
     "0 entries are no 256 codes"),
    (struct.pack("<IHBB1IBI", 1, 0, 8, 1, 5, 0, 9) + b"\1" + struct.pack("<I", 1) + b"\0",
     "1 bytes are no 9 entries"),
    (struct.pack("<IHBB1IBI", 1, 0, 9, 1, 5, 0, 0) + bytes(600), "gaps of at most 8 bits; got 9"),
    (struct.pack("<I", HUGE), "bytes too early"),
    (struct.pack("<IHBB", 1, 0, 0, 255) + struct.pack("<255I", *[1] * 255) + bytes(4),
     "`data` must have a possible shape"),
    (struct.pack("<I", 0) + b"!", "got 1 bytes more"),
    (struct.pack("<IHBB", 1, 0, 0, 0) + struct.pack("<f", np.nan), "`data` must be finite"),
])
def test_what_an_archive_declares_is_not_allocated(body, message):
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        read(signed(MAGIC + body))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


@pytest.mark.parametrize(("call", "message"), [
    (lambda: write({"w": Shared(np.zeros(256, np.float32), np.zeros(3, np.int32))}),
     "`w` must share at most 255 values; got 256"),
    (lambda: write({"w": Shared(np.zeros(2, np.float32), np.array([3]))}), r"`w` must lie in"),
    (lambda: write({"w": np.array([np.inf])}), "`w` must be finite; got inf"),
    (lambda: write({}, index_bits=9), "`index_bits` must be at most 8; got 9"),
    (lambda: share(np.array([np.nan]), 2), "`weight` must be finite; got nan"),
    (lambda: share(np.ones(2), 0), "`k` must be at least 1; got 0"),
    (lambda: relative(np.array([-1]), 2), "`codes` must lie in"),
    (lambda: relative(np.array([1]), 0), "`bits` must be at least 1; got 0"),
    (lambda: absolute(Relative(np.array([3]), np.array([1]), 3)), "must stay within 3 codes"),
    (lambda: absolute(Relative(np.array([3]), np.array([1, 1]), 9)), "a code for each of 1 gaps"),
    (lambda: sharing_ratio(0, 2), "`n` must be at least 1; got 0"),
    (lambda: read(b"PK\3\4"), "`data` must be an archive that `write` made"),
])
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
