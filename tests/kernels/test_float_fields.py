"""Fields of floats: every product equals that in int64, also where a field is full."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refquant.kernels import float_fields
from refquant.kernels.float_fields import COLUMNS, LAYOUTS, choose, pack, product, unpack

#: low, high, step of the weights.
TERNARY, BINARY, INT2, INT3, INT4 = (-1, 1, 1), (-1, 1, 2), (-2, 1, 1), (-4, 3, 1), (-8, 7, 1)
FORMATS = [TERNARY, BINARY, INT2, INT3, INT4]
SIDES = st.sampled_from([0, 1, 2, 3, 4, 7, 13])
INNER = st.sampled_from([0, 1, 2, 5, 11, 12, 63, 124, 125, 249, 255, 257, 1030])


def draw_codes(rng, shape, low, high, step, fill):
    if fill == "random":
        return low + step * rng.integers(0, (high - low) // step + 1, shape)
    return np.full(shape, low if fill == "least" else high)


@st.composite
def operands(draw):
    low, high, step = draw(st.sampled_from(FORMATS))
    x_max = draw(st.sampled_from([1, 2, 8, 100, 128]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(INNER)
    fills = st.sampled_from(["random", "least", "most"])
    x = draw_codes(rng, (draw(SIDES), n), -x_max, x_max, 1, draw(fills))
    weight = draw_codes(rng, (draw(SIDES), n), low, high, step, draw(fills))
    return x, weight, (low, high, step), x_max


def packed_of(weight, form, x_max):
    low, high, step = form
    return pack(weight, low=low, high=high, step=step, x_max=x_max)


def what_means_nothing(packed):
    """All bits above the fields, and of digits beyond the last row and the last input."""
    kind, (_, fields, width), bits = packed.words.dtype.type, packed.layout, packed.bits
    (out, n), (rows, columns) = packed.shape, packed.grid
    free = np.full((rows, columns), ~kind(2 ** (fields * width) - 1))
    for f, p in np.ndindex(fields, packed.digits):
        beyond = np.arange(p * rows, (p + 1) * rows)[:, np.newaxis] >= n
        beyond = beyond | (np.arange(f * columns, (f + 1) * columns) >= out)
        free[beyond] |= kind(2**bits - 1) << kind(f * width + p * bits)
    tiles = [free[:, c : c + COLUMNS].ravel() for c in range(0, columns, COLUMNS)]
    return np.concatenate([np.empty(0, kind), *tiles])


@given(case=operands(), dirt=st.booleans())
@example(case=(np.full((3, 1030), -1), np.full((7, 1030), -1), TERNARY, 1), dirt=True)
@example(case=(np.ones((1, 1030), int), np.ones((4, 1030), int), TERNARY, 1), dirt=True)
@example(case=(np.full((2, 1030), -128), np.full((4, 1030), -8), INT4, 128), dirt=True)
def test_product_equals_the_product_in_int64(case, dirt):
    x, weight, form, x_max = case
    packed = packed_of(weight, form, x_max)
    if dirt:
        packed = packed._replace(words=packed.words | what_means_nothing(packed))
    before = x.copy(), packed.words.copy()
    assert np.array_equal(unpack(packed), weight)
    y = product(x, packed)
    assert y.dtype == np.int32
    assert np.array_equal(y, x @ weight.T)
    assert np.array_equal(x, before[0])
    assert np.array_equal(packed.words, before[1])


@pytest.mark.parametrize("form", [TERNARY, INT4])
def test_tiles_and_spans_of_chunks_meet_without_a_seam(form):
    """More columns than a tile, more rows of x than a block, more chunks than 127."""
    rng = np.random.default_rng(0)
    for m, out, n, x_max in ((2, 3 * COLUMNS + 5, 40, 1), (300, 5, 30, 8), (1, 4, 20_000, 1)):
        low, high, step = form
        x = rng.integers(-x_max, x_max + 1, (m, n), dtype=np.int8)
        weight = draw_codes(rng, (out, n), low, high, step, "random")
        packed = packed_of(weight, form, x_max)
        assert np.array_equal(product(x, packed), x @ weight.T)
        assert np.array_equal(product(x, packed, threads=2), x @ weight.T)
        dirty = packed._replace(words=packed.words | what_means_nothing(packed))
        assert np.array_equal(product(x, dirty), x @ weight.T)
    ones = np.ones((1, 20_000), int)
    for sign in (-1, 1):
        weight = np.full((6, 20_000), low if sign < 0 else high)      # all fields are full
        assert np.array_equal(product(sign * ones, packed_of(weight, form, 1)),
                              sign * ones @ weight.T)


@given(u_max=st.integers(1, 255), x_max=st.integers(1, 2**18))
@example(u_max=1, x_max=128)
def test_the_chosen_layout_holds_the_products_of_a_word(u_max, x_max):
    digits = {one: one.width // u_max.bit_length() for one in LAYOUTS}
    fits = [one for one in LAYOUTS if 1 <= digits[one] <= (2**one.width - 1) // (u_max * x_max)]
    if fits:
        one = choose(u_max, x_max)
        assert one in fits
        mantissa = 24 if one.dtype is np.float32 else 53
        assert one.fields * one.width <= mantissa
    else:
        with pytest.raises(ValueError, match="`x_max` must leave room"):
            choose(u_max, x_max)


def test_a_field_that_is_full_to_the_last_bit_does_not_spill():
    """255 products of binary digits by +1, all of them 1, in the middle field alone."""
    n = 2040                                             # eight whole chunks of 248, and more
    weight = np.full((3, n), -1)
    weight[1] = 1
    packed = packed_of(weight, BINARY, 1)
    assert packed.layout.width == 8
    for sign in (1, -1):
        x = np.full((1, n), sign)
        assert product(x, packed).tolist() == [[-sign * n, sign * n, -sign * n]]


def test_bits_of_a_weight():
    weight = np.ones((4096, 1024), np.int8)
    bits = {form: packed_of(weight, form, 1).words.nbytes * 8 / weight.size for form in
            (BINARY, TERNARY, INT4)}
    assert 1.33 < bits[BINARY] < 1.35
    assert 2.66 < bits[TERNARY] < 2.68
    assert 5.3 < bits[INT4] < 5.4


def test_scratch_is_bounded():
    rng = np.random.default_rng(0)
    packed = packed_of(rng.integers(-1, 2, (3000, 2000)), TERNARY, 1)
    x = rng.integers(-1, 2, (1024, 2000), dtype=np.int8)
    tracemalloc.start()
    product(x, packed)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024 * 3000 * 4 + 256 * 2000 * 4 * 3 + 4e6


@pytest.mark.parametrize(("change", "error", "says"), [
    ({"codes": np.array([[2]])}, ValueError, r"`codes` must lie in \[-1, 1\]; got 2"),
    ({"codes": np.array([[0]]), "step": 2}, ValueError, "must be -1 plus a multiple of 2; got 0"),
    ({"codes": np.array([[1.0]])}, TypeError, "`codes` must be integers"),
    ({"codes": np.array([1])}, ValueError, "`codes` must be a matrix"),
    ({"x_max": 2**30}, ValueError, "`x_max` must leave room"),
    ({"codes": np.ones((1, 2**16), int), "x_max": 2**15}, ValueError, "room in int32"),
    ({"x_max": 0}, ValueError, "`x_max` must be at least 1"),
])
def test_bad_weights_are_refused(change, error, says):
    arguments = {"codes": np.array([[1, 0]]), "low": -1, "high": 1, "x_max": 1, **change}
    with pytest.raises(error, match=says):
        pack(arguments.pop("codes"), **arguments)


def test_bad_operands_are_refused_before_any_work(monkeypatch):
    def never(*_):
        raise AssertionError("worked before checking")

    monkeypatch.setattr(float_fields, "_product", never)
    packed = packed_of(np.array([[1, 0]]), TERNARY, 1)
    for x, error, says in (
        (np.array([[1, 2]]), ValueError, r"`x` must lie in \[-1, 1\]; got 2"),
        (np.array([[1.0, 0]]), TypeError, "`x` must be integers"),
        (np.array([[1]]), ValueError, "`x` must have rows of 2 codes"),
        (np.array([1, 0]), ValueError, "`x` must have rows of 2 codes"),
    ):
        with pytest.raises(error, match=says):
            product(x, packed)
    with pytest.raises(ValueError, match="`packed` must have 1 x 1 words"):
        product(np.array([[1, 0]]), packed._replace(words=packed.words[:0]))


def test_words_that_do_not_fit_are_refused_by_both():
    packed = pack(np.array([[1, -1, 0]]), low=-1, high=1, x_max=1)
    for broken, error, says in (
        (packed._replace(words=packed.words[:0]), ValueError, "words of uint32; got shape"),
        (packed._replace(words=packed.words.astype(np.uint64)), ValueError, "words of uint32"),
        (packed.words, TypeError, "`packed` must be `Packed`; got ndarray"),
    ):
        for call in (lambda p: product(np.ones((1, 3), int), p), unpack):
            with pytest.raises(error, match=says):
                call(broken)


def test_bounds_that_are_no_integers_or_leave_no_room_are_refused():
    codes = np.array([[1]])
    for low, high, error, says in (
        (1, 1, ValueError, "`high` must be at least 2; got 1"),
        (-1.0, 1, TypeError, "`low` must be an integer"),
        (-1, "a", TypeError, "`high` must be an integer"),
    ):
        with pytest.raises(error, match=says):
            pack(codes, low=low, high=high, x_max=1)


def test_bounds_from_an_array_count_like_others():
    packed = pack(np.array([[1, -128]]), low=np.int8(-128), high=np.int8(127), x_max=np.int8(1))
    assert unpack(packed).tolist() == [[1, -128]]
