"""Parts of a product on several threads: NumPy and BLAS let go of the interpreter meanwhile."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_T = TypeVar("_T")


def for_each(parts: Iterable[_T], work: Callable[[_T], object], threads: int) -> None:
    """Call `work` with each part, up to `threads` at once; no two may write to the same place."""
    if threads == 1:
        for part in parts:
            work(part)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, parts):
            pass
