"""Granularity: reshapes that lose nothing, and axes as NumPy counts them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant.granularity import all_but, as_rows, group, ungroup

shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)


@st.composite
def array_and_axis(draw):
    shape = draw(shapes)
    return np.arange(np.prod(shape)).reshape(shape), draw(st.integers(-len(shape), len(shape) - 1))


@given(case=array_and_axis())
def test_all_but_keeps_exactly_the_channels(case):
    x, kept = case
    reduced = x.sum(all_but(kept, x.ndim), keepdims=True)
    expected = tuple(n if i == kept % x.ndim else 1 for i, n in enumerate(x.shape))
    assert reduced.shape == expected


@given(ndim=st.integers(0, 5), data=st.data())
def test_all_but_is_the_complement_of_its_argument(ndim, data):
    kept = data.draw(st.sets(st.integers(0, ndim - 1))) if ndim else set()
    assert set(all_but(tuple(kept), ndim)) == set(range(ndim)) - kept
    assert all_but(tuple(k - ndim for k in kept), ndim) == all_but(tuple(kept), ndim)


@given(case=array_and_axis(), groups=st.integers(1, 3))
def test_ungroup_inverts_group_without_copying(case, groups):
    x, axis = case
    x = np.repeat(x, groups, axis)
    blocks = group(x, x.shape[axis] // groups, axis=axis)
    assert blocks.ndim == x.ndim + 1
    assert blocks.shape[axis % x.ndim] == groups
    assert np.shares_memory(blocks, x)
    assert np.array_equal(ungroup(blocks, axis=axis), x)


@given(case=array_and_axis(), groups=st.integers(1, 3))
def test_a_block_holds_neighbours(case, groups):
    x, axis = case
    x = np.repeat(x, groups, axis)
    size = x.shape[axis] // groups
    blocks = group(x, size, axis=axis)
    for index in range(groups):
        piece = np.take(x, range(index * size, (index + 1) * size), axis)
        assert np.array_equal(np.take(blocks, index, axis % x.ndim), piece)


def test_empty_arrays_have_no_groups_or_empty_ones():
    assert group(np.empty((3, 0)), 4).shape == (3, 0, 4)
    assert group(np.empty((0, 8)), 4).shape == (0, 2, 4)
    assert ungroup(np.empty((3, 0, 4))).shape == (3, 0)


@given(case=array_and_axis(), data=st.data())
def test_rows_are_the_blocks_that_share_parameters(case, data):
    x, _ = case
    axes = data.draw(st.none() | st.sets(st.integers(0, x.ndim - 1)).map(tuple))
    rows, shape = as_rows(x, axis=axes)
    expected = x.sum(axes, keepdims=True)
    assert shape == expected.shape
    assert np.array_equal(rows.sum(axis=1).reshape(shape), expected)
    assert rows.size == x.size


def test_rows_keep_the_order_of_the_reduced_axes():
    x = np.arange(24).reshape(2, 3, 4)
    rows, shape = as_rows(x, axis=(0, 2))
    assert np.array_equal(rows[1], x[:, 1, :].ravel())
    assert shape == (1, 3, 1)
    assert as_rows(x)[0].shape == (1, 24)
    assert as_rows(np.array(5.0))[1] == ()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group(np.ones((2, 12)), 5), "`group_size` must divide 12 columns; got 5"),
        (lambda: group(np.ones((6, 2)), 4, axis=0), "must divide 6 elements of axis 0; got 4"),
        (lambda: group(np.ones(4), 0), "`group_size` must be at least 1; got 0"),
        (lambda: group(np.ones(4), 2, axis=1), "`axis` must be at most 0; got 1"),
        (lambda: group(np.array(1.0), 1), "`x` must have an axis to split; got a scalar"),
        (lambda: ungroup(np.ones(4)), r"`x` must have at least two axes; got shape \(4,\)"),
        (lambda: ungroup(np.ones((2, 2)), axis=-2), "`axis` must be at least -1; got -2"),
        (lambda: all_but(2, 2), "`kept` must be at most 1; got 2"),
        (lambda: all_but((0, -3), 2), "`kept` must be at least -2; got -3"),
        (lambda: as_rows(np.ones(3), axis=1), "`axis` must be at most 0; got 1"),
    ],
)
def test_axes_and_sizes_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_group_size_must_be_whole():
    with pytest.raises(TypeError, match=r"`group_size` must be an integer; got 2\.0"):
        group(np.ones(4), 2.0)
