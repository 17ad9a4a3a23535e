"""Codes that only move."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.integer.movement import concatenate, pad, strided_slice
from refquant.quantizers.uniform import Uniform


def q(scale=0.5, zero=-3):
    return Uniform(np.array(scale), np.array(zero), -128, 127)


def test_padding_stands_for_zero():
    x = np.arange(4).reshape(2, 2)
    out = pad(x, [[1, 0], [0, 2]], q())
    assert out.shape == (3, 4)
    assert (out[1:, :2] == x).all()
    assert q().decode(out[:1]).tolist() == [[0.0] * 4]
    assert (pad(x, [[1, 0], [0, 0]], q(), code=9)[0] == 9).all()


def test_joined_codes_mean_the_same():
    parts = [np.zeros((1, 2), int), np.ones((2, 2), int)]
    assert concatenate(parts, [q()] * 3, axis=0).shape == (3, 2)
    with pytest.raises(ValueError, match="`quantizers` must have one scale and zero point"):
        concatenate([np.zeros(1, int)] * 2, [q(), q(0.25), q()], axis=0)


@given(st.integers(-6, 6), st.integers(-6, 6), st.sampled_from([-2, -1, 1, 2, 3]),
       st.integers(0, 1), st.integers(0, 1))
def test_slices_are_those_of_python(begin, end, stride, from_start, to_end):
    x = np.arange(5)
    expected = list(range(5))[None if from_start else begin : None if to_end else end : stride]
    got = strided_slice(x, [begin], [end], [stride], begin_mask=from_start, end_mask=to_end)
    assert got.tolist() == expected


def test_a_shrunk_axis_is_gone():
    x = np.arange(6).reshape(2, 3)
    assert strided_slice(x, [1, 0], [2, 3], [1, 2], shrink_axis_mask=1).tolist() == [3, 5]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: pad(np.zeros(2, int), [[1, 1], [1, 1]], q()), "`widths` must be 1 pairs"),
    (lambda: pad(np.zeros(2, int), [[-1, 1]], q()), "`widths` must lie"),
    (lambda: strided_slice(np.zeros(2), [0], [1], [0]), "`strides` must not be 0"),
    (lambda: strided_slice(np.zeros(2), [0, 0], [1, 1], [1, 1]), "`begin` must have at most 1"),
])
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
