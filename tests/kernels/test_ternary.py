"""Ternary products, judged by the matrix product of the codes."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.kernels import binary, bit_serial, ternary
from refquant.kernels.packing import pack_trits

LENGTHS = st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 65, 128, 200]))


def codes_of(rows, n, seed, low=-1, high=1):
    return np.random.default_rng(seed).integers(low, high + 1, (rows, n))


@given(
    n=LENGTHS,
    rows=st.integers(0, 5),
    out=st.integers(0, 5),
    bits=st.integers(1, 8),
    signed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_product_is_the_product_of_the_codes(n, rows, out, bits, signed, seed):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    x, w = codes_of(rows, n, seed, low, high), codes_of(out, n, seed + 1)
    planes, weight = bit_serial.pack(x, bits=bits, signed=signed), ternary.pack(w)
    y = ternary.product(planes, weight)
    assert y.dtype == np.int32
    assert np.array_equal(y, x @ w.T)
    assert np.array_equal(y, ternary.product_by_unpacking(planes, weight))
    assert np.array_equal(ternary.unpack(weight), w)


@given(n=LENGTHS, rows=st.integers(0, 5), seed=st.integers(0, 99))
def test_activations_may_be_signs_or_ternary_too(n, rows, seed):
    x, w = codes_of(rows, n, seed), codes_of(3, n, seed + 1)
    weight = ternary.pack(w)
    assert np.array_equal(ternary.product(ternary.pack(x), weight), x @ w.T)
    signs = binary.pack(np.abs(x))
    assert np.array_equal(ternary.product(signs, weight), (2 * np.abs(x) - 1) @ w.T)


def test_one_popcount_does_the_work_of_two():
    # All the ternary weights and bits there are.
    for w, x in itertools.product((-1, 0, 1), (0, 1)):
        not_zero, negative = int(w != 0), int(w < 0)
        assert (negative ^ (not_zero & x)) - negative == w * x


@given(n=LENGTHS, seed=st.integers(0, 99), dirt=st.integers(0, 2**64 - 1))
def test_empty_bits_count_for_nothing_whatever_they_are(n, seed, dirt):
    weight = ternary.pack(codes_of(3, n, seed))
    signs = binary.pack(codes_of(2, n, seed, 0, 1))
    dirty = weight._replace(words=weight.words.copy())
    if n % 64:
        dirty.words[:, -1] |= np.uint64(dirt >> n % 64 << n % 64)
    assert np.array_equal(ternary.product(signs, dirty), ternary.product(signs, weight))
    assert np.array_equal(ternary.unpack(dirty), ternary.unpack(weight))


@given(n=LENGTHS, rows=st.integers(0, 5), seed=st.integers(0, 99))
def test_base_three_bytes_become_the_same_planes(n, rows, seed):
    codes = codes_of(rows, n, seed)
    direct, through = ternary.pack(codes), ternary.pack_from_trits(pack_trits(codes), n)
    assert isinstance(through, ternary.Trits)
    assert np.array_equal(through.words, direct.words)
    assert np.array_equal(through.ones, direct.ones)


def test_sums_that_could_leave_int32_are_refused():
    # 2**31 / 128 codes of 8 bits; of x only the record, since it is refused before any work.
    n = 2**24
    long = np.zeros((1, n // 64, 1), np.uint64)
    weight = ternary.Trits(np.concatenate([long, long]), np.zeros((2, 1)), (1, -2), 0, n)
    coefficients = (1, 2, 4, 8, 16, 32, 64, -128)
    words = np.broadcast_to(long, (8, n // 64, 1))
    x = bit_serial.Planes(words, np.zeros((8, 1)), coefficients, 0, n)
    with pytest.raises(ValueError, match="sums that fit int32; got up to 2147483648"):
        ternary.product(x, weight)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ternary.pack(np.array([[-2]])), ValueError, r"must lie in \[-1, 1\]; got -2"),
        (lambda: ternary.pack(np.array([1])), ValueError, r"shape \(rows, in\); got \(1,\)"),
        (
            lambda: ternary.product(
                binary.pack(np.ones((1, 4), int)),
                bit_serial.pack(np.ones((1, 4), int), bits=2, signed=True),
            ),
            TypeError,
            "`weight` must be `Trits`, as `ternary.pack` makes them; got Planes",
        ),
        (
            lambda: ternary.product(
                binary.pack(np.ones((1, 4), int)), ternary.pack(np.ones((1, 5), int))
            ),
            ValueError,
            "`x` must have rows of 5 codes, like `weight`; got 4",
        ),
        (
            lambda: ternary.pack_from_trits(np.zeros((1, 2), np.uint8), 11),
            ValueError,
            "must have 3 bytes for 11 trits; got 2",
        ),
        (
            lambda: ternary.pack_from_trits(np.full((1, 1), 243, np.uint8), 5),
            ValueError,
            r"must lie in \[0, 242\]; got 243",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
