"""Either kernel, on either side of the border, judged by the product of the codes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.kernels import bit_serial, float_fields, low_bit, ternary
from refquant.kernels.low_bit import SIGNS, TRITS, Levels, integers

LEVELS = [SIGNS, TRITS, integers(2), integers(4), integers(8), integers(3, signed=False)]


def codes_of(levels, shape, seed):
    number = (levels.high - levels.low) // levels.step + 1
    drawn = np.random.default_rng(seed).integers(0, number, shape)
    return levels.low + levels.step * drawn


@given(
    of=st.sampled_from(LEVELS),
    x=st.sampled_from(LEVELS),
    rows=st.sampled_from([0, 1, 100]),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 9), st.integers(0, 200)),
    seed=st.integers(0, 99),
)
def test_product_is_the_product_of_the_codes(of, x, rows, shape, seed):
    n, out, length = shape
    weight, left = codes_of(of, (out, length), seed), codes_of(x, (n, length), seed + 1)
    y = low_bit.product(left, low_bit.prepare(weight, of, x=x, rows=rows))
    assert y.dtype == np.int32
    assert np.array_equal(y, left @ weight.T)


@pytest.mark.parametrize(
    ("of", "x", "most", "kind"),
    [
        (SIGNS, SIGNS, 32, bit_serial.Planes),
        (SIGNS, integers(4), 8, bit_serial.Planes),
        (TRITS, integers(8), 1, ternary.Trits),
        (TRITS, TRITS, 7, ternary.Trits),
        (integers(2), integers(2), 7, bit_serial.Planes),
        (integers(8), integers(8), 0, bit_serial.Planes),
    ],
)
def test_the_border_is_where_the_table_says(of, x, most, kind):
    weight = codes_of(of, (3, 70), 0)
    assert type(low_bit.prepare(weight, of, x=x, rows=most).weight) is kind
    many = low_bit.prepare(weight, of, x=x, rows=most + 1)
    assert type(many.weight) is float_fields.Packed


@pytest.mark.parametrize("rows", [1, 100])
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, rows: low_bit.prepare(w, SIGNS, x=SIGNS, rows=rows), "must be -1 plus a mul"),
        (lambda w, rows: low_bit.prepare(w, Levels(0, 6, 2), x=SIGNS, rows=rows), "`of` must be S"),
        (lambda w, rows: low_bit.prepare(w, TRITS, x=Levels(3, 5), rows=rows), "`x` must be S"),
        (lambda w, rows: low_bit.prepare(2 * w, TRITS, x=SIGNS, rows=rows), r"\[-1, 1\]; got 2"),
        (
            lambda w, rows: low_bit.product(w, low_bit.prepare(w, TRITS, x=SIGNS, rows=rows)),
            "`x` must be -1 plus a multiple of 2; got 0",
        ),
        (
            lambda w, rows: low_bit.product(9 * w, low_bit.prepare(w, TRITS, x=TRITS, rows=rows)),
            r"`x` must lie in \[-1, 1\]; got 9",
        ),
        (
            lambda w, rows: low_bit.product(
                w[:, :1], low_bit.prepare(w, TRITS, x=TRITS, rows=rows)
            ),
            "`x` must have rows of 3 codes",
        ),
    ],
)
def test_bad_input_is_refused(call, message, rows):
    with pytest.raises(ValueError, match=message):
        call(np.array([[0, 1, 1]]), rows)


def test_more_or_fewer_bits_than_there_are_planes_for():
    with pytest.raises(ValueError, match="`bits` must be at least 2; got 1"):
        integers(1)
    with pytest.raises(ValueError, match="`bits` must be at most 8; got 9"):
        integers(9)
    assert Levels(0, 6, 2).planes == 2
