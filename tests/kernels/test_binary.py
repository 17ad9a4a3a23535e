"""XNOR products, judged by the matrix product of plus and minus one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.kernels import binary, bit_serial
from refquant.quantizers.binary import xnor

LENGTHS = st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 65, 128, 200]))


def signs(rows, n, seed):
    return np.random.default_rng(seed).integers(0, 2, (rows, n))


@given(n=LENGTHS, rows=st.integers(0, 5), out=st.integers(0, 5), seed=st.integers(0, 99))
def test_product_is_that_of_plus_and_minus_one(n, rows, out, seed):
    x, w = signs(rows, n, seed), signs(out, n, seed + 1)
    packed = binary.pack(x), binary.pack(w)
    y = binary.product(*packed)
    assert y.dtype == np.int32
    assert np.array_equal(y, (2 * x - 1) @ (2 * w - 1).T)
    assert np.array_equal(y, binary.product_by_unpacking(*packed))
    assert np.array_equal(binary.unpack(packed[0]), x)


@given(n=LENGTHS, seed=st.integers(0, 99), dirt=st.integers(0, 2**64 - 1))
def test_empty_bits_count_for_nothing_whatever_they_are(n, seed, dirt):
    clean = binary.pack(signs(3, n, seed))
    dirty = clean._replace(words=clean.words.copy())
    if n % 64:
        dirty.words[:, -1] |= np.uint64(dirt >> n % 64 << n % 64)
    expected = binary.product(clean, clean)
    assert np.array_equal(binary.product(dirty, clean), expected)
    assert np.array_equal(binary.product(clean, dirty), expected)
    assert np.array_equal(expected.diagonal(), [n, n, n])


def test_golden_B7_product_of_signs_by_popcount():
    a, b = np.array([[1, 0, 1, 0, 0, 1]]), np.array([[1, 1, 0, 0, 1, 0]])
    assert binary.product(binary.pack(a), binary.pack(b)).tolist() == [[-2]]


def test_with_the_scales_it_is_the_product_of_the_decoded_values():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 100)), rng.normal(size=(4, 100))
    of_x, of_w = xnor(x, axis=1), xnor(w, axis=1)
    counts = binary.product(binary.pack(of_x.encode(x)), binary.pack(of_w.encode(w)))
    decoded = of_x.decode(of_x.encode(x)) @ of_w.decode(of_w.encode(w)).T
    assert np.allclose(counts * of_x.scale * of_w.scale.T, decoded, rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: binary.pack(np.array([[-1, 1]])), ValueError, r"lie in \[0, 1\]; got -1"),
        (lambda: binary.pack(np.array([[True]])), TypeError, "must be integers; got bool"),
        (
            lambda: binary.product(
                binary.pack(np.ones((1, 4), int)),
                bit_serial.pack(np.ones((1, 4), int), bits=2),
            ),
            ValueError,
            "`weight` must hold signs; got planes of codes from 0 to 3",
        ),
        (
            lambda: binary.product(
                binary.pack(np.ones((1, 4), int)), binary.pack(np.ones((1, 5), int))
            ),
            ValueError,
            "`x` must have rows of 5 codes, like `weight`; got 4",
        ),
    ],
)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
