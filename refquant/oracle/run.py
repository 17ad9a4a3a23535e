"""Run: ask an adapter every question of a vector file, and say what became of each.

A library under test may raise, hang, crash or answer nonsense; each of these is a result
for the case concerned, never the end of the run. An adapter given by name works in a
process of its own with a time limit; an adapter given as an object works in this one.

===============  =====================================================================
outcome          of a case
===============  =====================================================================
``MATCH``        the answer has the dialect's bits; or any answer will do
``MISMATCH``     it has other bits
``PLACEMENT``    it depends on where in an array the element stands
``REJECTED``     the adapter refused what the dialect answers
``ERROR``        an exception, or an answer of the wrong type or shape
``CRASH``        the process died
``TIMEOUT``      no answer within the limit
``UNSUPPORTED``  not asked: the adapter says why
===============  =====================================================================
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.oracle._worker import VIEWS, Broken, Crash, Timeout, Worker, answers, called, one_line
from refquant.oracle.adapters import Adapter, Missing, Reject, Types
from refquant.oracle.vectors import DTYPES, Case, Group, Named, VectorFile

__all__ = ["FAILURES", "WIDTH", "Outcome", "Result", "placed", "run"]

#: Lanes of a wide vector unit: the placement sweep tries lengths 1 to ``2 * WIDTH + 1``.
WIDTH = 16
#: Crashes or hangs in a row after which the rest of a group is not asked, but taken for the same.
PATIENCE = 3
#: Operations that treat each element alone.
ELEMENTWISE = frozenset({"quantize_affine", "dequantize_affine", "cast"})

#: An answer, or why there is none.
Reply: TypeAlias = Any


class Outcome(Enum):
    """What became of a question.

    References
    ----------
    NIST ACVP, dispositions of test cases.

    Examples
    --------
    >>> Outcome.MATCH.value
    'match'
    """

    MATCH = "match"
    MISMATCH = "mismatch"
    PLACEMENT = "placement"
    REJECTED = "rejected"
    ERROR = "error"
    CRASH = "crash"
    TIMEOUT = "timeout"
    UNSUPPORTED = "unsupported"


#: Everything but a match, and what was not asked.
FAILURES = frozenset(Outcome) - {Outcome.MATCH, Outcome.UNSUPPORTED}
_BROKEN = {Crash: Outcome.CRASH, Timeout: Outcome.TIMEOUT, Broken: Outcome.ERROR}


@dataclass(frozen=True, eq=False)
class Result:
    """One case, asked.

    Attributes
    ----------
    case : Case
    outcome : Outcome
    detail : str
        A line: the exception, the reason, or where the answer changed.
    answer : mapping of str to ndarray, or None
        Bits, where there were any of the right type and shape.

    References
    ----------
    NIST ACVP, validation results.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> from refquant.oracle.vectors import load
    >>> first = next(run(Refquant("onnx"), load("quantize_affine.float32.int8"), "onnx"))
    >>> first.outcome, int(first.answer["q"])
    (<Outcome.MATCH: 'match'>, 3)
    """

    case: Case
    outcome: Outcome
    detail: str = ""
    answer: Named | None = None


def run(
    adapter: Adapter | str, file: VectorFile, dialect: str, *, sweep: bool = False,
    timeout: float = 30.0,
) -> Iterator[Result]:
    """Result of each case of a file, in order.

    Cases of one number each are asked together, as one array; where that fails, one by one. Three
    crashes or hangs in a row stand for the rest of their group.

    Parameters
    ----------
    adapter : Adapter or str
        As an object it runs in this process, without a limit; by name (see
        `refquant.oracle.adapters.load_adapter`) in another.
    file : VectorFile
    dialect : str
        Whose answers are the right ones.
    sweep : bool
        Look for answers that depend on the place, see `placed`.
    timeout : float
        Seconds for one group of cases.

    Yields
    ------
    Result

    Raises
    ------
    ValueError
        If the file does not cover the dialect.
    refquant.oracle.adapters.Missing
        If the library behind the adapter is not installed.

    References
    ----------
    NIST ACVP; C2SP Wycheproof.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> from refquant.oracle.vectors import load
    >>> file = load("quantize_affine.float32.int8")
    >>> wrong = [r.case.flags for r in run(Refquant("tflite.reference"), file, "onnx")
    ...          if r.outcome is Outcome.MISMATCH]
    >>> ("Tie",) in wrong
    True
    """
    if dialect not in file.dialects:
        raise ValueError(f"`dialect` must be one of {', '.join(file.dialects)} in {file.name}; "
                         f"got {dialect!r}")
    with _opened(adapter, timeout) as asked:
        for group in file.groups:
            yield from _group_results(asked, file, group, dialect, sweep)


def placed(adapter: Adapter | str, file: VectorFile, *, timeout: float = 30.0
           ) -> Iterator[tuple[Case, str]]:
    """Cases whose answer depends on their place in an array, and where it changed.

    Arrays of each length from 1 to ``2 * WIDTH + 1`` are filled with the case itself, and
    with the cases of its group in turn, so that each stands at each index of each length; and
    the group is read through a strided view and from unaligned memory.

    Parameters
    ----------
    adapter : Adapter or str
    file : VectorFile
        Of an operation that treats each element alone; others yield nothing.
    timeout : float
        Seconds for one group.

    Yields
    ------
    tuple of Case and str

    References
    ----------
    onnxruntime, pull request 28606: a body that rounds unlike its tail.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> from refquant.oracle.vectors import load
    >>> list(placed(Refquant("onnx"), load("quantize_affine.float32.int2")))
    []
    """
    with _opened(adapter, timeout) as asked:
        for group in file.groups:
            if _supported(asked, file, group) is True and _stackable(file, group.cases):
                yield from _moved(asked, file, group).items()


@contextmanager
def _opened(adapter: Adapter | str | Worker, timeout: float) -> Iterator[Any]:
    if not isinstance(adapter, str):
        yield adapter
        return
    worker = Worker(adapter, timeout=timeout)
    try:
        yield worker
    finally:
        worker.close()


def _types(file: VectorFile) -> Types:
    return {**file.params, **file.inputs, **file.outputs}


def _supported(adapter: Any, file: VectorFile, group: Group) -> bool | str | Exception:
    try:
        found = adapter.supports(file.op, _types(file), group.params)
    except (Crash, Timeout, Broken) as err:
        return type(err)(f"`supports` failed: {err}")
    except Exception as err:
        return Broken(f"`supports` failed: {one_line(err)}")
    if isinstance(found, (bool, np.bool_)) and found:
        return True
    return str(found or "it does not say why")


def _group_results(
    adapter: Any, file: VectorFile, group: Group, dialect: str, sweep: bool
) -> Iterator[Result]:
    asked = [case for case in group.cases if case.status != "withdrawn"]
    if not asked:
        return
    reason = _supported(adapter, file, group)
    if isinstance(reason, Exception):
        yield from (Result(case, _BROKEN[type(reason)], str(reason)) for case in asked)
        return
    if reason is not True:
        yield from (Result(case, Outcome.UNSUPPORTED, str(reason)) for case in asked)
        return
    stackable = _stackable(file, asked)
    replies = _ask_together(adapter, file, group, asked) if stackable else None
    if replies is None:
        replies = list(_ask_apart(adapter, file, group, asked))
    moved = _moved(adapter, file, group) if sweep and stackable else {}
    for case, reply in zip(asked, replies, strict=True):
        result = _judged(case, reply, dialect)
        if case in moved and result.outcome in (Outcome.MATCH, Outcome.MISMATCH):
            result = Result(case, Outcome.PLACEMENT, moved[case], result.answer)
        yield result


def _stackable(file: VectorFile, cases: Sequence[Case]) -> bool:
    """Whether the questions are single numbers, which may stand in one array."""
    return file.op in ELEMENTWISE and all(
        not pattern.ndim for case in cases for pattern in case.inputs.values())


def _ask_together(
    adapter: Any, file: VectorFile, group: Group, cases: Sequence[Case]
) -> list[Reply] | None:
    """Answers from one array; None if that was refused or failed."""
    reply = _checked(adapter, file, group, _stacked(cases),
                     dict.fromkeys(file.outputs, (len(cases),)))
    if isinstance(reply, Exception):
        return None
    return [{key: found[i] for key, found in reply.items()} for i in range(len(cases))]


def _ask_apart(
    adapter: Any, file: VectorFile, group: Group, cases: Sequence[Case]
) -> Iterator[Reply]:
    """Answers one by one; after `PATIENCE` crashes or hangs in a row the group is given up."""
    lost = 0
    for case in cases:
        reply = _checked(adapter, file, group, case.inputs, _shapes(case))
        yield reply
        lost = lost + 1 if isinstance(reply, (Crash, Timeout)) else 0
        if lost == PATIENCE:
            break
    else:
        return
    given_up = type(reply)(f"not asked after {lost} in a row: {reply}")
    yield from [given_up] * (len(cases) - cases.index(case) - 1)


def _stacked(cases: Sequence[Case]) -> dict[str, Array]:
    return {key: np.stack([case.inputs[key] for case in cases]) for key in cases[0].inputs}


def _shapes(case: Case) -> dict[str, tuple[int, ...]] | None:
    """Of the outputs, as far as an answer shows them."""
    known = case.base or next((a for a in case.differs.values() if a), None)
    return {key: pattern.shape for key, pattern in known.items()} if known else None


def _checked(
    adapter: Any, file: VectorFile, group: Group, inputs: Named,
    shapes: Mapping[str, tuple[int, ...]] | None,
) -> Reply:
    """Answer of the right type and shape, or the exception that says what happened instead."""
    try:
        if isinstance(adapter, Worker):
            reply = adapter.run(file.op, _types(file), group.params, inputs)
        else:
            reply = called(adapter, file.op, _types(file), group.params, inputs)
    except (Reject, Broken, Crash, Timeout) as err:
        return err
    return _well_formed(reply, file, shapes)


def _well_formed(
    reply: Reply, file: VectorFile, shapes: Mapping[str, tuple[int, ...]] | None
) -> Reply:
    if isinstance(reply, Exception):
        return reply
    if not isinstance(reply, Mapping) or set(reply) != set(file.outputs):
        got = sorted(map(str, reply)) if isinstance(reply, Mapping) else type(reply).__name__
        return Broken(f"the answer must have {', '.join(sorted(file.outputs))}; got {got}")
    for key, dtype in file.outputs.items():
        found, wanted = reply[key], np.dtype(f"u{DTYPES[dtype]}")
        kind = getattr(found, "dtype", type(found).__name__)
        if kind != wanted:
            return Broken(f"`{key}` must have the type {wanted}; got {kind}")
        if shapes and np.shape(found) != shapes[key]:
            return Broken(f"`{key}` must have the shape {shapes[key]}; got {np.shape(found)}")
    return reply


def _judged(case: Case, reply: Reply, dialect: str) -> Result:
    if isinstance(reply, (Crash, Timeout)):
        return Result(case, _BROKEN[type(reply)], str(reply))
    refused = isinstance(reply, Exception)
    if case.status == "reject":
        if refused:
            return Result(case, Outcome.MATCH, str(reply))
        return Result(case, Outcome.MISMATCH, f"must be rejected: {case.reason}", reply)
    expected = case.answer(dialect) if case.status == "defined" else None
    if isinstance(reply, Reject):
        outcome = Outcome.MATCH if expected is None else Outcome.REJECTED
        return Result(case, outcome, str(reply))
    if refused:
        return Result(case, Outcome.ERROR, str(reply))
    if expected is None or all(np.array_equal(reply[k], expected[k]) for k in expected):
        return Result(case, Outcome.MATCH, "", reply)
    return Result(case, Outcome.MISMATCH, "", reply)


def _moved(adapter: Any, file: VectorFile, group: Group) -> dict[Case, str]:
    """Cases whose answer is not always that of the group's array, with the first such place."""
    cases = [c for c in group.cases if c.status in ("defined", "unspecified")]
    if not cases:
        return {}
    whole = _stacked(cases)
    base = _checked(adapter, file, group, whole, dict.fromkeys(file.outputs, (len(cases),)))
    if isinstance(base, Exception):
        return {}                               # no array to compare with: judged one by one
    found: dict[Case, str] = {}
    places = list(_places(len(cases)))
    arrays = [("", {key: pattern[at] for key, pattern in whole.items()}) for _, at in places]
    arrays += [(view, whole) for view in VIEWS]
    places += [(f"{view} memory", np.arange(len(cases))) for view in VIEWS]
    for (where, at), reply in zip(places, _many(adapter, file, group, arrays), strict=True):
        reply = _well_formed(reply, file, dict.fromkeys(file.outputs, (at.size,)))
        for i, which in enumerate(at):
            case = cases[which]
            if case in found:
                continue
            if isinstance(reply, Exception):
                found[case] = f"{where}: {reply}"
            elif any(reply[k][i] != base[k][which] for k in base):
                found[case] = f"another answer at index {i} of {where}"
    return found


def _places(count: int) -> Iterator[tuple[str, Array]]:
    """For each length: each case alone, and all in turn, from each start."""
    for length in range(1, 2 * WIDTH + 2):
        for start in range(count):
            yield f"{length} copies", np.full(length, start)
            if length > 1:
                yield f"{length} different elements", (start + np.arange(length)) % count


def _many(
    adapter: Any, file: VectorFile, group: Group, arrays: Sequence[tuple[str, Named]]
) -> list[Reply]:
    """Replies to many arrays; from a worker in few messages."""
    question = file.op, _types(file), group.params
    if not isinstance(adapter, Worker):
        return answers(adapter, *question, arrays)
    found: list[Reply] = []
    for i in range(0, len(arrays), 1024):
        part = arrays[i:i + 1024]
        try:
            found += adapter.run_all(*question, part)
        except (Reject, Broken, Crash, Timeout) as err:
            found += [err] * len(part)
    return found


def missing(adapter: str) -> str | None:
    """Why an adapter cannot be had on this machine, or None."""
    try:
        Worker(adapter, timeout=30.0).close()
    except Missing as err:
        return str(err)
    return None
