"""Calls that need nothing of each other, where the caller has told joblib to run them."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, TypeVar

import numpy as np
from joblib import Parallel, delayed
from joblib.parallel import SequentialBackend, get_active_backend

__all__ = ["aligned", "at_once"]

_T = TypeVar("_T")


def at_once(
    function: Callable[..., _T], arguments: Iterable[tuple[Any, ...]], *,
    return_as: Literal["generator", "generator_unordered"] = "generator",
) -> Iterator[_T]:
    """The function of each tuple of arguments, as `itertools.starmap` but on joblib's backend.

    Results come in the order of the arguments, or as they are done. Who stops asking, by an
    error or by Ctrl-C, ends the calls that have not begun; joblib would warn of them.
    The backend `multiprocessing`, which knows no generators, returns all results or none.
    """
    calls = (delayed(_call)(function, a) for a in arguments)
    backend, _ = get_active_backend()
    if not (backend.supports_return_generator or isinstance(backend, SequentialBackend)):
        yield from Parallel()(calls)
        return
    results = Parallel(return_as=return_as)(calls)
    try:
        # `yield from` would close the results itself, and they would warn.
        for result in results:                          # noqa: UP028
            yield result
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            results.close()


def aligned(sent: _T) -> _T:
    """The same, its arrays at addresses that are multiples of their items.

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


def _call(function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
    return function(*aligned(arguments))
