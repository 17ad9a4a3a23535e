"""The argument checks and their one form of message."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from refquant import _validate
from refquant._validate import (
    as_data,
    as_reals,
    require_axis,
    require_broadcastable,
    require_codes,
    require_counts,
    require_finite,
    require_fraction,
    require_int,
    require_kind,
    require_no_nan,
    require_nonempty,
    require_not_negative,
    require_positive,
    require_second_moment,
    require_symmetric,
)

anything = hnp.arrays(
    st.sampled_from([np.float32, np.float64]),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    elements=st.floats(width=32),
)


@given(x=anything)
def test_reals_pass_untouched(x):
    assert as_reals("x", x) is x


@pytest.mark.parametrize("dtype", [np.float16, np.int8, np.int64, bool, complex, object, ">f8"])
def test_other_kinds_are_refused(dtype):
    with pytest.raises(TypeError, match="`w` must be float32 or float64; got "):
        as_reals("w", np.zeros(2, dtype))


def test_lists_of_reals_count_as_float64_and_lists_of_integers_do_not():
    assert as_reals("x", [0.5, 1]).dtype == np.float64
    with pytest.raises(TypeError, match="got int64"):
        as_reals("x", [1, 2])


def refuses(check, *arguments):
    try:
        check(*arguments)
    except ValueError as error:
        return str(error).startswith("`x` must ")
    return False


@given(x=anything)
def test_checks_of_values_refuse_exactly_what_they_say(x):
    assert refuses(require_no_nan, "x", x) == np.isnan(x).any()
    assert refuses(require_finite, "x", x) == (not np.isfinite(x).all())
    assert refuses(require_nonempty, "x", x) == (x.size == 0)
    assert refuses(require_positive, "x", x) == (not (np.isfinite(x) & (x > 0)).all())
    assert refuses(as_data, "x", x) == (x.size == 0 or not np.isfinite(x).all())


def test_opposite_infinities_and_sums_that_overflow_are_not_nan():
    require_no_nan("x", np.array([np.inf, -np.inf]))
    require_no_nan("x", np.full(4, np.finfo(np.float32).max, np.float32))


@given(codes=hnp.arrays(st.sampled_from([np.uint8, np.int32, np.int64]), 3,
                        elements=st.integers(0, 100)), low=st.integers(0, 60))
def test_codes_outside_the_range_are_refused(codes, low):
    bad = (codes < low) | (codes > low + 40)
    if bad.any():
        with pytest.raises(ValueError, match=rf"in \[{low}, {low + 40}\]; got {codes[bad][0]}$"):
            require_codes("codes", codes, low, low + 40)
    else:
        assert require_codes("codes", codes, low, low + 40) is codes


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
@pytest.mark.parametrize(("low", "step"), [(-1, 2), (0, 2), (-128, 3), (-100, 8), (7, 4), (3, 1)])
def test_codes_between_two_steps_are_refused(low, step, dtype):
    """Also where their distance to `low` does not fit their own type."""
    ends = np.iinfo(dtype)
    good = np.arange(low, min(ends.max, 130) + 1, step)
    good = good[good >= ends.min].astype(dtype)
    high = int(good[-1])
    assert require_codes("codes", good, low, high, step=step) is good
    for bad in good[:-1] + np.array(step // 2, dtype) if step > 1 else []:
        message = f"`codes` must be {low} plus a multiple of {step}; got {bad}$"
        with pytest.raises(ValueError, match=message):
            require_codes("codes", np.array([good[0], bad]), low, high, step=step)


@given(parameter=hnp.array_shapes(min_dims=0, max_side=3), data=hnp.array_shapes(max_side=3))
def test_broadcastable_means_that_the_result_has_the_shape_of_the_data(parameter, data):
    try:
        np.broadcast_to(np.zeros(parameter), data)
        fits = True
    except ValueError:
        fits = False
    assert refuses(require_broadcastable, "x", np.zeros(parameter), data) == (not fits)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: require_no_nan("x", np.array([1, np.nan])), ValueError,
         "`x` must not contain NaN: no code stands for it"),
        (lambda: require_finite("x", np.array([1, -np.inf])), ValueError,
         "`x` must be finite; got -inf"),
        (lambda: require_nonempty("x", np.empty((0, 3))), ValueError,
         "`x` must not be empty; got shape (0, 3)"),
        (lambda: require_positive("scale", np.array([1.0, 0.0])), ValueError,
         "`scale` must be positive and finite; got 0.0"),
        (lambda: require_not_negative("p", -1), ValueError, "`p` must not be negative; got -1"),
        (lambda: require_not_negative("p", np.nan), ValueError,
         "`p` must not be negative; got nan"),
        (lambda: require_not_negative("p", np.inf), ValueError, "`p` must be finite; got inf"),
        (lambda: require_symmetric("h", np.array([[1.0, 0.5], [0.0, 1.0]])), ValueError,
         "`h` must be symmetric; got entries that are 0.5 apart"),
        (lambda: require_second_moment("h", np.diag([1.0, -2.0])), ValueError,
         "`h` must not be negative on its diagonal; got -2.0"),
        (lambda: require_positive("p", np.asarray(None)), TypeError,
         "`p` must be real numbers; got array(None, dtype=object)"),
        (lambda: as_reals("x", [[1.0], [2.0, 3.0]]), ValueError,
         "`x` must be an array; got rows that differ in shape"),
        (lambda: require_fraction("p", 0), ValueError, "`p` must lie in (0, 1]; got 0"),
        (lambda: require_fraction("p", 1.5), ValueError, "`p` must lie in (0, 1]; got 1.5"),
        (lambda: require_fraction("p", np.nan), ValueError, "`p` must lie in (0, 1]; got nan"),
        (lambda: require_int("bits", 1, 2), ValueError, "`bits` must be at least 2; got 1"),
        (lambda: require_int("bits", 9, 2, 8), ValueError, "`bits` must be at most 8; got 9"),
        (lambda: require_int("bits", 2.0, 2), TypeError, "`bits` must be an integer; got 2.0"),
        (lambda: require_int("bits", True, 0), TypeError, "`bits` must be an integer; got True"),
        (lambda: require_codes("codes", np.array([1.0]), 0, 1), TypeError,
         "`codes` must be integers; got float64"),
        (lambda: require_broadcastable("scale", np.ones((27, 1)), (64, 27)), ValueError,
         "`scale` must broadcast to the data of shape (64, 27); got (27, 1)"),
    ],
)
def test_messages_have_the_form_of_the_house(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value) == message


def test_integers_of_numpy_count():
    require_int("bits", np.int64(4), 2, 8)
    require_fraction("p", 1.0)


def test_every_check_is_listed():
    public = {name for name, value in vars(_validate).items()
              if getattr(value, "__module__", "") == _validate.__name__ and name[0] != "_"}
    assert public == set(_validate.__all__)


@pytest.mark.parametrize("n", [2, 16, 17, 40])
def test_one_entry_that_differs_is_found_wherever_it_is(n):
    matrix = np.ones((n, n), np.float32)
    require_symmetric("h", matrix)
    for i, j in zip(*np.triu_indices(n, 1), strict=True):
        for at in ((i, j), (j, i)):
            matrix[at] = np.nextafter(np.float32(1.001), np.float32(2))
            with pytest.raises(ValueError, match="`h` must be symmetric"):
                require_symmetric("h", matrix)
            matrix[at] = 1


def test_masked_arrays_are_refused_and_not_stripped_of_their_mask():
    with pytest.raises(TypeError, match="`x` must not be masked; got a MaskedArray"):
        as_reals("x", np.ma.masked_array([1.0, 99.0], [False, True]))


@pytest.mark.parametrize("axis", [None, (), 0, -2, np.int64(1), (0, 1), (-1, 0)])
def test_axes_of_the_data_pass(axis):
    require_axis(axis, 2)


@pytest.mark.parametrize("axis", [2.0, "4", True, [0], (0, 1.0)])
def test_axes_that_are_no_integers_are_refused(axis):
    with pytest.raises(TypeError, match="`axis` must be an integer, a tuple of integers or None"):
        require_axis(axis, 2)


@pytest.mark.parametrize("axis", [33, -3, (0, 2), (0, 0), (0, -2)])
def test_axes_outside_the_data_or_named_twice_are_refused(axis):
    with pytest.raises(ValueError, match="`axis` must name "):
        require_axis(axis, 2)


def test_a_scalar_has_no_axis():
    with pytest.raises(ValueError, match="of rank 0; got -1"):
        as_data("x", np.array(1.0), axis=-1)


@pytest.mark.parametrize("p", [None, "4", [0.5], 1j, True])
def test_fractions_that_are_no_numbers_are_refused(p):
    with pytest.raises(TypeError, match="`rate` must be a real number; got "):
        require_fraction("rate", p)


@pytest.mark.parametrize("counts", [[1.0, 2.0], ["1"], [True], [None]])
def test_counts_must_be_whole_numbers(counts):
    with pytest.raises(TypeError, match="`counts` must be integers; got "):
        require_counts("counts", np.array(counts))


@pytest.mark.parametrize("counts", [3, [[1, 2]], [0, 0], [2, -1], np.zeros(0, int)])
def test_counts_are_one_row_none_negative_not_all_zero(counts):
    with pytest.raises(ValueError, match="`counts` must be "):
        require_counts("counts", counts)


def test_codes_and_counts_keep_their_masks_or_are_refused():
    masked = np.ma.masked_array([1, 99], [False, True])
    for check in (lambda: require_codes("q", masked, 0, 99), lambda: require_counts("q", masked)):
        with pytest.raises(TypeError, match="`q` must not be masked; got a MaskedArray"):
            check()


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
def test_integers_of_numpy_become_those_of_python_which_cannot_overflow(kind):
    assert type(require_int("bits", kind(8), 2, 8)) is int


def test_another_kind_is_refused_by_name():
    require_kind("packed", 1, int)
    with pytest.raises(TypeError, match="`packed` must be `int`; got str"):
        require_kind("packed", "1", int)
