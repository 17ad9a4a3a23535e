"""Sums looked up equal products in int64, for every pattern of digits."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.kernels import lookup
from refquant.kernels.lookup import pack, pack_ternary, product, unpack

SIDES = st.sampled_from([0, 1, 2, 3, 7, 8, 9, 17])
INNER = st.sampled_from([0, 1, 4, 5, 6, 8, 9, 100, 131, 700])


@st.composite
def operands(draw):
    """x, codes of the weight, and the packed weight, in a format drawn too."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, out = draw(INNER), draw(SIDES)
    bits, signed = draw(st.integers(0, 8)), draw(st.booleans())          # 0: ternary
    low, high = (-1, 1) if not bits else (0, 2**bits - 1)
    if bits and signed:
        low, high = low - 2 ** (bits - 1), high - 2 ** (bits - 1)
    fill = draw(st.sampled_from(["random", low, high]))
    random = fill == "random"
    codes = rng.integers(low, high + 1, (out, n)) if random else np.full((out, n), fill)
    x = rng.integers(-128, 256, (draw(SIDES), n))
    x = draw(st.sampled_from([x, np.full_like(x, -128), np.full_like(x, 255)]))
    return x, codes, pack(codes, bits=bits, signed=signed) if bits else pack_ternary(codes)


@given(case=operands(), dirt=st.integers(0, 242))
@example(case=(np.full((9, 700), 255), np.full((3, 700), 1), pack_ternary(np.ones((3, 700), int))),
         dirt=0)
def test_product_equals_the_product_in_int64(case, dirt):
    x, codes, packed = case
    if packed.shape[1] % packed.digits.shape[1]:
        places = packed.places.copy()               # digits beyond the last input mean nothing
        used = packed.shape[1] % packed.digits.shape[1]
        base = 3 if len(packed.digits) == 243 else 2
        places[:, -1] = places[:, -1] % base**used + dirt // base**used * base**used
        packed = packed._replace(places=places)
    before = packed.places.copy()
    assert np.array_equal(unpack(packed), codes)
    y = product(x, packed)
    assert y.dtype == np.int32
    assert np.array_equal(y, x @ codes.T)
    assert np.array_equal(packed.places, before)


def test_spans_and_tiles_meet_without_a_seam():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (lookup.OUTPUTS + 3, 300))
    x = rng.integers(0, 256, (2, 300), dtype=np.uint8)
    assert np.array_equal(product(x, pack_ternary(codes)), x @ codes.T)


def test_a_ternary_weight_takes_1_6_bits():
    packed = pack_ternary(np.zeros((64, 100), int))
    assert packed.places.nbytes * 8 / (64 * 100) == 1.6
    assert pack(np.zeros((64, 96), int), bits=3).places.nbytes * 8 / (64 * 96) == 3


def test_scratch_is_bounded():
    packed = pack_ternary(np.zeros((2000, 4000), int))
    x = np.ones((8, 4000), np.int8)
    tracemalloc.start()
    product(x, packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 8 * 2000 * 4 + 8 * 4000 * 4 + 1e6


@pytest.mark.parametrize(("call", "error", "says"), [
    (lambda: pack_ternary(np.array([[2]])), ValueError, r"`codes` must lie in \[-1, 1\]; got 2"),
    (lambda: pack_ternary(np.array([1])), ValueError, "`codes` must be a matrix"),
    (lambda: pack(np.array([[4]]), bits=2), ValueError, r"`codes` must lie in \[0, 3\]; got 4"),
    (lambda: pack(np.array([[2]]), bits=2, signed=True), ValueError, r"must lie in \[-2, 1\]"),
    (lambda: pack(np.array([[0]]), bits=9), ValueError, "`bits` must be at most 8"),
    (lambda: pack(np.array([[0.0]]), bits=2), TypeError, "`codes` must be integers"),
])
def test_bad_weights_are_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_bad_operands_are_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(lookup, "_sums", None)
    packed = pack_ternary(np.array([[1, 0]]))
    long = pack(np.zeros((1, 40_000), np.int8), bits=8)
    for x, weight, error, says in (
        (np.array([[256, 0]]), packed, ValueError, r"`x` must lie in \[-128, 255\]; got 256"),
        (np.array([[1.0, 0]]), packed, TypeError, "`x` must be integers"),
        (np.array([[1]]), packed, ValueError, "`x` must have rows of 2 codes"),
        (np.array([[1, 0]]), packed._replace(places=packed.places[:, :0]), ValueError,
         r"must have places of uint8 and shape \(1, 1, 1\)"),
        (np.array([[1, 0]]), packed._replace(places=packed.places | np.uint8(250)), ValueError,
         r"`packed.places` must lie in \[0, 242\]"),
        (np.ones((1, 40_000), np.int8), long, ValueError, "room in int32"),
    ):
        with pytest.raises(error, match=says):
            product(x, weight)


def test_places_that_do_not_fit_are_refused_by_both():
    packed = pack_ternary(np.array([[1, -1, 0]]))
    for broken, error, says in (
        (packed._replace(places=np.full_like(packed.places, 255)), ValueError, r"in \[0, 242\]"),
        (packed._replace(places=packed.places[:, :0]), ValueError, "must have places"),
        (packed.places, TypeError, "`packed` must be `Packed`; got ndarray"),
    ):
        for call in (lambda p: product(np.ones((1, 3), int), p), unpack):
            with pytest.raises(error, match=says):
                call(broken)


def test_bits_from_an_array_count_like_others():
    codes = np.array([[3, -128]])
    assert np.array_equal(unpack(pack(codes, bits=np.int8(8), signed=True)), codes)
