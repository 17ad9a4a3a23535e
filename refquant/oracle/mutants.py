"""Mutants: wrong implementations that the vectors must find out, each at least twice.

Vectors that every plausible mistake passes are worth nothing. So each operation comes
with the slips that were found in real libraries: ties away from zero, a reciprocal, the
zero point added too soon, a cast before the clip, swapped nibbles, an exponent from a
rounded logarithm, a scale that nobody checks. The gate asks three things of every file:
each mutant gives a wrong answer to at least two cases, each flag finds something out, and
a few cases, chosen greedily, suffice to catch them all. An answer to what must be rejected
is wrong, whatever it is, and so is an error where there is an answer.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from refquant.oracle._document import Kernel
from refquant.oracle._mutations import mutations, refusals
from refquant.oracle.vectors import Case, Group, VectorFile, load, names

__all__ = ["Gate", "gate", "kills", "kills_by_flag", "report"]

#: Statuses of which not every reply will do.
_DECIDED = ("defined", "reject")


class Gate(NamedTuple):
    """What the mutation gate found in one file.

    Attributes
    ----------
    kills : mapping of str to frozenset of str
        Mutant to the ids of the cases that it gets wrong.
    survivors : tuple of str
        Mutants with fewer than two wrong answers.
    idle_flags : tuple of str
        Flags whose cases find no mutant out.
    minimal : tuple of str
        Ids that, chosen greedily, find out every mutant.

    References
    ----------
    DeMillo, Lipton and Sayward, "Hints on Test Data Selection", 1978 (mutants).

    Examples
    --------
    >>> found = gate(load("quantize_affine.float32.int8"))
    >>> found.survivors, found.idle_flags, len(found.minimal) < 9
    ((), (), True)
    """

    kills: Mapping[str, frozenset[str]]
    survivors: tuple[str, ...]
    idle_flags: tuple[str, ...]
    minimal: tuple[str, ...]


def gate(file: VectorFile) -> Gate:
    """Verdict on one file.

    Parameters
    ----------
    file : VectorFile

    Returns
    -------
    Gate

    References
    ----------
    DeMillo, Lipton and Sayward, "Hints on Test Data Selection", 1978.

    Examples
    --------
    >>> "ties away" in gate(load("quantize_affine.float32.int8")).kills
    True
    """
    killed = kills(file)
    useful = kills_by_flag(file)
    # Of what is left open, no answer can be wrong.
    decided = {flag for case in file if case.status in _DECIDED for flag in case.flags}
    idle = tuple(flag for flag in file.notes if flag in decided and not useful.get(flag))
    survivors = tuple(name for name, ids in killed.items() if len(ids) < 2)
    return Gate(killed, survivors, idle, tuple(_greedy(killed)))


def kills(file: VectorFile) -> dict[str, frozenset[str]]:
    """Cases that each mutant gets wrong.

    Parameters
    ----------
    file : VectorFile

    Returns
    -------
    dict of str to frozenset of str
        Mutant to ids.

    References
    ----------
    DeMillo, Lipton and Sayward, "Hints on Test Data Selection", 1978.

    Examples
    --------
    >>> file = load("quantize_affine.float32.int8")
    >>> tie = next(case for case in file if "Tie" in case.flags)
    >>> tie.id in kills(file)["ties away"]
    True
    """
    answering = {
        name: frozenset(
            case.id for group in file.groups for case in _wrong(mutant, group, file))
        for name, mutant in mutations(file).items()
    }  # fmt: skip
    refusing = {
        name: frozenset(
            case.id for case in file
            if case.status in _DECIDED
            and refuses(case.params, case.inputs) != (case.status == "reject"))
        for name, refuses in refusals(file).items()
    }  # fmt: skip
    return answering | refusing


def kills_by_flag(file: VectorFile) -> dict[str, list[str]]:
    """Mutants that the cases with each flag find out.

    Parameters
    ----------
    file : VectorFile

    Returns
    -------
    dict of str to list of str
        Flag to mutants, sorted.

    References
    ----------
    C2SP Wycheproof, flags of cases.

    Examples
    --------
    >>> "zero point first" in kills_by_flag(load("quantize_affine.float32.int8"))["TieOddZp"]
    True
    """
    flags = {case.id: case.flags for case in file}
    found: dict[str, set[str]] = {}
    for name, ids in kills(file).items():
        for identity in ids:
            for flag in flags[identity]:
                found.setdefault(flag, set()).add(name)
    return {flag: sorted(killed) for flag, killed in found.items()}


def report() -> str:
    """Table of all files: mutants, kills of the weakest, and the size of the minimal set.

    Returns
    -------
    str

    References
    ----------
    DeMillo, Lipton and Sayward, "Hints on Test Data Selection", 1978.
    """
    lines = [f"{'file':44} cases mutants fewest kills  minimal set"]
    for name in names():
        file = load(name)
        found = gate(file)
        fewest = min((len(ids) for ids in found.kills.values()), default=0)
        lines.append(f"{name:44} {len(file):5} {len(found.kills):7} {fewest:12}  "
                     f"{len(found.minimal)}: {' '.join(found.minimal)}")
    return "\n".join(lines)


def _wrong(mutant: Kernel, group: Group, file: VectorFile) -> Iterator[Case]:
    """Cases of a group that a mutant gets wrong; numbers alone are asked all at once."""
    asked = [case for case in group.cases if case.base is not None]
    if not asked:
        return
    alone = all(np.ndim(v) == 0 for case in asked for v in case.inputs.values())
    with np.errstate(all="ignore"):
        if alone:
            stacked = {key: np.stack([case.inputs[key] for case in asked]) for key in file.inputs}
            answers = mutant(group.params, stacked)
            given = [{key: v[i] for key, v in answers.items()} for i in range(len(asked))]
        else:
            given = [dict(mutant(group.params, case.inputs)) for case in asked]
    for case, answer in zip(asked, given, strict=True):
        expected = case.base or {}
        if any(not np.array_equal(answer[key], expected[key]) for key in file.outputs):
            yield case


def _greedy(killed: Mapping[str, frozenset[str]]) -> Iterator[str]:
    """The case that most of the remaining mutants get wrong, again and again."""
    left = {name for name, ids in killed.items() if ids}
    while left:
        by_case: dict[str, set[str]] = {}
        for name in left:
            for identity in killed[name]:
                by_case.setdefault(identity, set()).add(name)
        best = min(by_case, key=lambda identity: (-len(by_case[identity]), identity))
        yield best
        left -= by_case[best]
