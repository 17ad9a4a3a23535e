"""How vector files are put together and written: always the same bytes for the same content."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.oracle import vectors
from refquant.oracle._flags import notes

CORPUS_VERSION = "2026.11.0"
SCHEMA_VERSION = "1.0.0"

#: Bits by name.
Named: TypeAlias = Mapping[str, Array]
#: One implementation of an operation: parameters and inputs (bits) -> outputs (bits).
Kernel: TypeAlias = Callable[[Mapping[str, Any], Named], Named]

_ENCODING = (
    "bit patterns as hexadecimal digits, most significant first, two for each byte; arrays in C "
    "order; types below 8 bits take a byte, signed ones in two's complement; floats are IEEE 754 "
    "or the codes of the format; plain integers are decimal"
)
_METHOD = "exact rational and integer arithmetic, every operation of a kernel rounded once by hand"
_CHECK = "the library's own NumPy arithmetic in the types of the kernels: equal in every bit"


class Disagreement(Exception):
    """The two derivations differ: nothing may be published."""


@dataclass(frozen=True)
class Operation:
    """Name and types of an operation."""

    name: str
    inputs: Mapping[str, str]
    params: Mapping[str, str]
    outputs: Mapping[str, str]

    def as_json(self) -> dict[str, Any]:
        """Its form in a file."""
        lists = {"in": self.inputs, "params": self.params, "out": self.outputs}
        return {"name": self.name, **{k: [list(i) for i in v.items()] for k, v in lists.items()}}


@dataclass(frozen=True)
class Draft:
    """A question before it is answered: bits of the inputs, flags."""

    inputs: Named
    flags: Sequence[str]
    status: str = "defined"
    reason: str = ""


@dataclass
class Drafts:
    """Questions that share parameters; floats among these as bits, arrays with their type."""

    params: Mapping[str, Any]
    comment: str
    cases: list[Draft] = field(default_factory=list)


@dataclass(frozen=True)
class Derivation:
    """Both derivations of a dialect, and what it is, as data.

    `exact` and `fast` return bits by output name; None (exact) or a name missing (fast) is
    an answer that the dialect leaves open. `fast` gets one case too, so that arrays keep
    their shapes.
    """

    formula: str
    followed_by: str
    axes: Mapping[str, str]
    exact: Callable[[Mapping[str, Any], Named], Named | None]
    fast: Kernel


def document(
    name: str, operation: Operation, derivations: Mapping[str, Derivation], base: str,
    groups: Iterable[Drafts],
) -> dict[str, Any]:
    """A vector file whose every answer was derived twice; without kills and checksum."""
    op, written, flags, count, seen = operation.as_json(), [], [], 0, set()
    for group in groups:
        params = {key: _stored(value, operation.params[key]) for key, value in group.params.items()}
        shared = {k: vectors._parameter(v, operation.params[k]) for k, v in params.items()}
        cases = []
        for draft in group.cases:
            inputs = {k: vectors.encoded(v, operation.inputs[k]) for k, v in draft.inputs.items()}
            identity = vectors.case_id(op, params, inputs)
            if identity in seen:
                continue                        # the same question twice, by two searches
            seen.add(identity)
            case: dict[str, Any] = {"id": identity, "in": inputs, "flags": sorted(set(draft.flags))}
            if draft.status != "defined":
                case["status"] = draft.status
                if draft.reason:
                    case["reason"] = draft.reason
            else:
                answers = {
                    dialect: _derived_twice(name, dialect, derivation, shared, draft.inputs,
                                            operation.outputs)
                    for dialect, derivation in derivations.items()}
                if answers[base] is None:
                    raise Disagreement(f"{name}: {base} leaves {inputs} open")
                case["out"] = answers[base]
                differs = {d: a for d, a in answers.items() if a != answers[base]}
                if differs:
                    case["differs"] = differs
            cases.append(case)
            flags += case["flags"]
        if cases:
            written.append({"params": params, "comment": group.comment, "cases": cases})
            count += len(cases)
    return {
        "format": "refquant-vectors", "schemaVersion": SCHEMA_VERSION, "file": f"{name}.json",
        "corpusVersion": CORPUS_VERSION, "kind": "normative", "op": op, "encoding": _ENCODING,
        "dialects": {d: {"formula": v.formula, "followedBy": v.followed_by, "axes": dict(v.axes)}
                     for d, v in derivations.items()},
        "baseDialect": base, "notes": notes(flags, {}), "numberOfCases": count,
        "derivation": {"method": _METHOD, "crossCheck": _CHECK}, "groups": written,
    }  # fmt: skip


def sealed(draft: Mapping[str, Any], kills: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The document with what its flags find out, and its checksum."""
    done = {**draft, "notes": notes(draft["notes"], kills)}
    return {**done, "sha256": vectors.checksum(done)}


def as_json(done: Mapping[str, Any]) -> bytes:
    """The file: a line for each part of its head and for each case, so that changes can be read."""
    lines = ["{", *(f"{_compact(key)}:{_part(value)}," for key, value in done.items()
                    if key != "groups"), '"groups":[']
    for g, group in enumerate(done["groups"]):
        start = _compact({"params": group["params"], "comment": group["comment"]})[:-1]
        lines.append(f'{"," if g else ""}{start},"cases":[')
        last = len(group["cases"]) - 1
        lines += [_compact(c) + ("," if i < last else "]}") for i, c in enumerate(group["cases"])]
    return ("\n".join([*lines, "]}"]) + "\n").encode("ascii")


def _part(value: Any) -> str:
    """A record of records with a line for each, all else in a line."""
    if not isinstance(value, Mapping) or not all(isinstance(v, Mapping) for v in value.values()):
        return _compact(value)
    return "{" + ",".join(f"\n {_compact(k)}:{_compact(v)}" for k, v in value.items()) + "}"


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def as_tsv(done: Mapping[str, Any]) -> bytes:
    """The twin for readers without JSON: a line per case, tabs between hexadecimal fields.

    Arrays lose their shape (which the comment of the group's line states) and keep their
    digits. The columns are named in the last line that starts with a hash mark.
    """
    op = done["op"]
    params, inputs, outputs = ([key for key, _ in op[part]] for part in ("params", "in", "out"))
    others = [d for d in done["dialects"] if d != done["baseDialect"]]
    lines = [
        f"# {done['file'].removesuffix('.json')}: {op['name']}, corpus {done['corpusVersion']}",
        f"# answers of {done['baseDialect']}; then of the others where they differ, "
        "= the same, ? unspecified",
        "# an array of shape (2, 3) is 2x3:digits; an answer is ? if any will do, "
        "! if the input must be rejected",
        "#" + "\t".join(["id", *params, *inputs, *outputs, *(f"{d}.{o}" for d in others
                                                            for o in outputs), "flags"]),
    ]
    for group in done["groups"]:
        shared = [_flat(group["params"].get(key, "-")) for key in params]
        for case in group["cases"]:
            status = case.get("status", "defined")
            open_ = {"reject": "!", "unspecified": "?", "withdrawn": "?"}.get(status)
            own = [open_ or _flat(case["out"][o]) for o in outputs]
            rest = []
            for d in others:
                answer = case.get("differs", {}).get(d, "=")
                rest += [open_ or ("=" if answer == "=" else "?" if answer is None
                                   else _flat(answer[o])) for o in outputs]
            lines.append("\t".join([case["id"], *shared, *(_flat(case["in"][i]) for i in inputs),
                                    *own, *rest, ",".join(case["flags"])]))
    return ("\n".join(lines) + "\n").encode("ascii")


def _flat(value: Any) -> str:
    if isinstance(value, dict):
        return "x".join(map(str, value["shape"])) + ":" + value["hex"]
    return str(value)


def _stored(value: Any, dtype: str) -> Any:
    """A parameter as the file has it."""
    if isinstance(value, (str, int)):
        return value
    if dtype == "int":
        dtype = "int32"
    return vectors.encoded(np.asarray(value), dtype)


def _derived_twice(
    name: str, dialect: str, derivation: Derivation, params: Mapping[str, Any], inputs: Named,
    types: Mapping[str, str],
) -> dict[str, Any] | None:
    first = derivation.exact(params, inputs)
    if first is None:
        return None
    second = derivation.fast(params, inputs)
    one = {key: vectors.encoded(first[key], types[key]) for key in types}
    two = {key: vectors.encoded(second[key], types[key]) for key in types}
    if one != two:
        given = {key: np.asarray(value).tolist() for key, value in inputs.items()}
        raise Disagreement(f"{name}, {dialect}: exact {one}, NumPy {two} for {given}, {params}")
    return one
