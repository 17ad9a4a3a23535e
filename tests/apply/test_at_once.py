"""Calls on joblib's backends: their order, their end, and arrays where NumPy expects them."""

import time
from typing import NamedTuple

import numpy as np
import pytest
from joblib import parallel_config

from refquant.apply._at_once import aligned, at_once


class Record(NamedTuple):
    name: str
    array: np.ndarray


def odd(array):
    """The array one byte behind where it should be."""
    raw = np.empty(array.nbytes + 1, np.uint8)
    made = np.ndarray(array.shape, array.dtype, raw, offset=1)
    made[...] = array
    assert not made.flags.aligned
    return made


def test_arrays_in_records_and_lists_come_to_lie_where_numpy_expects_them():
    x = np.arange(12.0).reshape(3, 4)
    record, (first, number, nothing) = aligned((Record("w", odd(x)), [odd(x), 3, None]))
    assert isinstance(record, Record)
    assert (record.name, number, nothing) == ("w", 3, None)
    for array in (record.array, first):
        assert array.flags.aligned
        assert np.array_equal(array, x)


def test_a_call_gets_its_arrays_where_numpy_expects_them():
    x = np.arange(12.0)
    (lies_right,) = at_once(lambda array: array.flags.aligned, [(odd(x),)])
    assert lies_right


def test_what_lies_right_is_not_copied():
    x = np.arange(12.0)
    assert aligned(x) is x
    assert aligned(x[::2]).base is x
    assert aligned(Record("w", x)).array is x


BACKENDS = [{"backend": "sequential"}, {"backend": "threading", "n_jobs": 2},
            {"backend": "loky", "n_jobs": 2}]


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_results_come_in_the_order_of_the_arguments(backend):
    with parallel_config(**backend):
        assert list(at_once(pow, ((i, 2) for i in range(9)))) == [i**2 for i in range(9)]
        assert list(at_once(pow, [])) == []
        done = at_once(pow, ((i, 2) for i in range(9)), return_as="generator_unordered")
        assert sorted(done) == [i**2 for i in range(9)]


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_who_stops_asking_ends_what_has_not_begun_without_a_warning(backend):
    begun = []

    def naps():
        for i in range(100):
            begun.append(i)
            yield (0.01,)

    def interrupted():
        for _ in at_once(time.sleep, naps()):
            raise KeyboardInterrupt

    with parallel_config(**backend), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert 1 <= len(begun) < 50


@pytest.mark.parametrize("backend", BACKENDS, ids=str)
def test_an_error_of_a_call_comes_out_as_it_is(backend):
    with parallel_config(**backend), pytest.raises(ZeroDivisionError):
        list(at_once(divmod, [(1, 1), (1, 0), (2, 1)]))


def test_a_backend_that_returns_all_at_once_serves_as_well():
    """`multiprocessing` knows no generators."""
    with parallel_config("multiprocessing", n_jobs=2):
        assert list(at_once(pow, ((i, 2) for i in range(9)))) == [i**2 for i in range(9)]
