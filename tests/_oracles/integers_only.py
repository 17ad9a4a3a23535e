"""Integers that refuse to become floats: an array, and a watch over every name of a frame."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

ALLOWED = "biu"


class FloatFound(AssertionError):
    """A float number where only integers may be."""


def _require_integers(where: str, *things: object) -> None:
    for thing in things:
        kind = getattr(getattr(thing, "dtype", None), "kind", None)
        if isinstance(thing, float) or (kind is not None and kind not in ALLOWED):
            raise FloatFound(f"{where} has {type(thing).__name__} {thing!r}")


class Integers(np.ndarray):
    """An array of integers; every operation on it that reads or makes a float raises."""

    @classmethod
    def of(cls, array):
        _require_integers("of", np.asarray(array))
        return np.asarray(array).view(cls)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **settings):
        plain = [x.view(np.ndarray) if isinstance(x, Integers) else x for x in inputs]
        _require_integers(ufunc.__name__, *plain)
        if out is not None:
            settings["out"] = tuple(o.view(np.ndarray) for o in out)
        result = getattr(ufunc, method)(*plain, **settings)
        _require_integers(ufunc.__name__, result)
        return result.view(Integers) if isinstance(result, np.ndarray) else result

    def astype(self, dtype, *args, **settings):
        if np.dtype(dtype).kind not in ALLOWED:
            raise FloatFound(f"astype({dtype})")
        return super().astype(dtype, *args, **settings)


@contextmanager
def no_floats(folder: str) -> Iterator[None]:
    """No name in any frame of code under `folder` may be bound to a float while this runs."""

    def watch(frame, event, value):
        if folder not in frame.f_code.co_filename:
            return None
        _require_integers(f"{frame.f_code.co_name}:{frame.f_lineno}",
                          *frame.f_locals.values(), *([value] if event == "return" else []))
        return watch

    before, asarray = sys.gettrace(), np.asarray
    np.asarray = np.asanyarray          # which would drop the subclass
    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
        np.asarray = asarray
