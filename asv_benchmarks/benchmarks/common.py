"""Limits, inputs and the quick mode that all benchmarks share."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from time import perf_counter
from types import ModuleType

import numpy as np

#: ``REFQUANT_BENCH=quick``: small inputs, one repetition; the smoke test and ``refquant bench``.
QUICK = os.environ.get("REFQUANT_BENCH", "full") == "quick"


class Benchmark:
    """Time and memory: no benchmark may hold the suite up."""

    timeout = 60.0
    if QUICK:
        warmup_time, repeat, number, rounds = 0.0, 1, 1, 1
    else:
        warmup_time, repeat, rounds = 0.05, (3, 10, 2.0), 2


class Quality(Benchmark):
    """A deterministic number, lower is better and never negative: asv compares by ratio."""


@lru_cache(maxsize=8)
def weights(kind: str, n: int = 200_000, dtype: str = "float32") -> np.ndarray:
    """Seeded synthetic values, the same on every machine; never change them, only append kinds."""
    rng = np.random.default_rng(0)
    if kind == "gauss":
        x = rng.standard_normal(n)
    elif kind == "laplace":
        x = rng.laplace(size=n)
    elif kind == "outlier":
        x = rng.standard_normal(n)
        x[:: max(n // 8, 1)] *= 40
    else:
        raise ValueError(f"`kind` must be gauss, laplace or outlier; got {kind}")
    x = x.astype(dtype)
    x.flags.writeable = False
    return x


def size(full: int) -> int:
    """`full` elements in a real run, at most 10,000 in a quick one."""
    return min(full, 10_000) if QUICK else full


def need(module: str) -> ModuleType:
    """A peer, or n/a (NotImplementedError) where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as err:
        raise NotImplementedError(f"{module} is not installed") from err


def evict() -> None:
    """Push every operand out of the caches: read four times as much as the last one holds."""
    _other_data().sum()


@lru_cache(maxsize=1)
def _other_data() -> np.ndarray:
    # Ones, since untouched zeros are all the same page of memory; and read, not written: what is
    # written would still be on its way to memory while the next call is timed.
    return np.ones(2**10 if QUICK else 2**24)


def least_time(
    runs: Sequence[Callable[[], object]],
    repeats: int = 3,
    *,
    before: Sequence[Callable[[], object]] | None = None,
) -> list[float]:
    """Least seconds of each of several calls, in turns, so that all meet the same machine.

    Just before the time of a run is taken, its own function of `before` is called.
    """
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for i, (record, run) in enumerate(zip(seconds, runs, strict=True)):
            if before:
                before[i]()
            start = perf_counter()
            run()
            record.append(perf_counter() - start)
    return [min(record) for record in seconds]


def share_of_time(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Time of `ours` over that of `theirs`, side by side; 0.1 is ten times as fast."""
    mine, other = least_time([ours, theirs], repeats=1 if QUICK else 7)
    return mine / other


def cold(run: Callable[[], object], code: Callable[[], object]) -> None:
    """Operands out of the caches, code in them: `code` is the same call of small operands.

    Without it the interpreter would be evicted too, and a call of many small steps wait for it.
    """
    evict()
    code()


def hot(run: Callable[[], object], code: Callable[[], object]) -> None:
    """Operands in the caches, as far as they fit, and the code too."""
    run()


#: What happens just before any call is timed, ours or a peer's: the one meaning of "operands".
#: Matched states matter: candidates listed in a row warm each other, and evict the big peer.
OPERANDS = {"cold": cold, "hot": hot}


def matched_times(
    runs: Sequence[Callable[[], object]],
    operands: str,
    codes: Sequence[Callable[[], object]],
) -> list[float]:
    """Least seconds of each call, all from the state of caches that `operands` names."""
    state = OPERANDS[operands]
    before = [partial(state, run, code) for run, code in zip(runs, codes, strict=True)]
    return least_time(runs, repeats=1 if QUICK else 25, before=before)


def matched_share(
    ours: Callable[[], object],
    theirs: Callable[[], object],
    operands: str,
    codes: Sequence[Callable[[], object]],
) -> float:
    """Time of `ours` over that of `theirs`, side by side, from matched states of the caches."""
    mine, other = matched_times([ours, theirs], operands, codes)
    return mine / other
