"""Arrays from odd addresses: the same numbers, where NumPy expects them."""

from typing import NamedTuple

import numpy as np

from refquant.apply._sent import aligned


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


def test_what_lies_right_is_not_copied():
    x = np.arange(12.0)
    assert aligned(x) is x
    assert aligned(x[::2]).base is x
    assert aligned(Record("w", x)).array is x
