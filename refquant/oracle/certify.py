"""Certify: all 2**32 float32 against a conversion table of 131,072 entries.

Each table decides the code of every float32 (see `refquant.oracle.vectors.load_table`), so
comparing an implementation with it on all inputs is no sample but a proof for that machine.
The inputs go by in blocks; a run can be stopped, and started again where it stopped.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant.oracle._worker import Broken, Crash, Timeout, Worker, called
from refquant.oracle.adapters import Adapter, Reject
from refquant.oracle.vectors import load_table, table_names

__all__ = ["Certificate", "certify"]

BLOCK = 2**20
INFINITY = 0x7F800000


class Certificate(NamedTuple):
    """What came out.

    Attributes
    ----------
    table : str
    impl : str
        Name and version.
    first, last : int
        Bits of the first input, and of the first that was not asked.
    mismatches : int
        Inputs with another code than the table's.
    nans : int
        NaN among them, which are not asked: in some formats they have no code.
    examples : tuple of (int, int, int)
        Bits, code expected, code found: the first mismatch of each run of inputs.

    References
    ----------
    IEEE 754-2019, section 5.4.2.

    Examples
    --------
    >>> Certificate("float8_e5m2.ieee", "mine 1", 0, 2**32, 0, 16777214, ()).mismatches
    0
    """

    table: str
    impl: str
    first: int
    last: int
    mismatches: int
    nans: int
    examples: tuple[tuple[int, int, int], ...]


def certify(
    adapter: Adapter | str, table: str, *, first: int = 0, last: int = 2**32, step: int = 1,
    timeout: float = 60.0, progress: Callable[[int], None] | None = None,
) -> Certificate:
    """Certificate of a cast from float32, over a range of bit patterns.

    Parameters
    ----------
    adapter : Adapter or str
    table : str
        One of `refquant.oracle.vectors.table_names`: format, policy beyond the largest and,
        unless to even, rounding.
    first, last : int
        Range of bit patterns, `last` excluded; 0 and 2**32 for a proof.
    step : int
        Every so many patterns only: a sample.
    timeout : float
        Seconds for one block of 2**20 inputs.
    progress : callable, optional
        Called with the next pattern after each block. A KeyboardInterrupt ends the run: the
        certificate says how far it came.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError
        If there is no such table or range, or the adapter cannot cast to that format.

    References
    ----------
    TestFloat: exhaustive where the type is small enough.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> certify(Refquant(), "float8_e4m3fn.saturate", last=2**32, step=65_521).mismatches
    0
    """
    if table not in table_names():
        raise ValueError(f"`table` must be one of {', '.join(table_names())}; got {table!r}")
    if not 0 <= first < last <= 2**32 or step < 1:
        raise ValueError(f"`first` and `last` must be a range of 32 bits, `step` positive; "
                         f"got {first}, {last}, {step}")
    target, overflow, *rest = table.split(".")
    types = {"x": "float32", "y": target, "overflow": "text", "rounding": "text"}
    params = {"overflow": overflow, "rounding": rest[0] if rest else "even"}
    entries = load_table(table)
    worker = Worker(adapter, timeout=timeout) if isinstance(adapter, str) else None
    asked = worker or adapter
    mismatches = nans = 0
    examples: list[tuple[int, int, int]] = []
    at = first
    try:
        reason = asked.supports("cast", types, params)      # type: ignore[union-attr]
        if reason is not True:
            raise ValueError(f"`impl` must support this cast; {reason}")
        while at < last:
            end = min(at + BLOCK * step, last)
            u = np.arange(at, end, step, dtype=np.uint64).astype(np.uint32)
            known = (u & 0x7FFFFFFF) <= INFINITY        # a NaN has any code, or none
            nans += int(u.size - known.sum())
            u, at = u[known], end
            if not u.size:
                continue
            expected = entries[2 * (u >> 16).astype(np.intp) + ((u & 0xFFFF) != 0)]
            try:
                if worker:
                    found = worker.run("cast", types, params, {"x": u})["y"]
                else:
                    found = called(adapter, "cast", types, params, {"x": u})["y"]
            except (Reject, Broken, Crash, Timeout) as err:
                raise ValueError(f"`impl` must answer; from {u[0]:08x} on: {err}") from None
            wrong = np.asarray(found) != expected
            mismatches += int(wrong.sum())
            starts = np.flatnonzero(wrong & ~np.concatenate([[False], wrong[:-1]]))
            examples += [(int(u[i]), int(expected[i]), int(found[i]))
                         for i in starts[: max(0, 16 - len(examples))]]
            if progress:
                progress(at)
    except KeyboardInterrupt:
        pass                                    # what was asked is certain; `last` tells
    finally:
        name = f"{asked.name} {asked.version}"              # type: ignore[union-attr]
        if worker:
            worker.close()
    return Certificate(table, name, first, at, mismatches, nans, tuple(examples))
