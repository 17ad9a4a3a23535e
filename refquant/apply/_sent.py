"""What came from another process, as if it had been made here."""

from typing import Any, TypeVar

import numpy as np

__all__ = ["aligned"]

_T = TypeVar("_T")


def aligned(sent: _T) -> _T:
    """The same, its arrays at addresses that a multiple of their items divides.

    dask leaves an array where it lay in a message. NumPy takes another path for one at an odd
    address, sums in another order there, and the last bits of a result would depend on where
    it was computed. Arrays made here are returned as they are; records and lists are looked
    into.
    """
    made: Any = sent
    if isinstance(sent, np.ndarray):
        made = np.require(sent, requirements="A")
    elif isinstance(sent, tuple) and hasattr(sent, "_fields"):
        made = type(sent)(*map(aligned, sent))
    elif isinstance(sent, (list, tuple)):
        made = type(sent)(map(aligned, sent))
    result: _T = made
    return result
