"""The page of all disagreements: each by the ids of the cases that show it, and who says what.

The questions and what the dialects answer come from the vector files, what libraries answered
from ``disagreements.json``, which was observed on one machine and says which.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refquant.oracle._show import digits, inputs_of, number, shown
from refquant.oracle.vectors import DTYPES, Case, VectorFile, load

#: Cases of a row that are shown, and digits of a long answer.
CASES, LONG = 3, 32

PARTS = {
    "Q": "Affine quantization", "D": "Parameters from a range", "R": "Sums back to codes",
    "C": "Casts to a few bits", "M": "MX blocks", "G": "ggml blocks", "N": "NF4", "P": "Packing",
    "T": "Ternary codes", "S": "Random words",
}  # fmt: skip

HEAD = """\
(disagreements)=
# Disagreements, by id

Where installed libraries part, on questions of the {{ref}}`golden vectors <golden-vectors>`. Each
table groups the answers to one case: who gives it by rule ({{ref}}`dialects <dialects>`), and who
gave it when asked. The libraries were asked on {platform}, {cpu}; your machine may differ, and
`refquant oracle matrix` asks it. An operation on single elements was asked nine times in one array,
since kernels of eight lanes may answer otherwise in the ninth place: `00; last 01` says so.

"""


def page(path: Path) -> str:
    """Markdown of the whole page."""
    document = json.loads(path.read_text("utf-8"))
    lines, part = [HEAD.format(**document["observation"])], ""
    for row in document["rows"]:
        if PARTS[row["id"][0]] != part:
            part = PARTS[row["id"][0]]
            lines += [f"## {part}", ""]
        lines += [f"(disagreement-{row['id'].lower()})=",
                  f"### {row['id']}: {escaped(row['title'])}", ""]
        if row.get("note"):
            lines += [f"{escaped(_sentence(row['note']))}.", ""]
        for i, listed in enumerate(row["cases"][:CASES]):
            lines += _case(row, i, listed)
        more = [f"`{listed['id']}`" for listed in row["cases"][CASES:]]
        if more:
            lines += [f"And {', '.join(more)}.", ""]
        if not row["cases"]:
            lines += ["*No case of the corpus shows it.*", ""]
    return "\n".join([*lines, "What can be special about a case: {ref}`flags`.", ""])


def _sentence(note: str) -> str:
    """With a capital, unless a name comes first."""
    named = re.match(r"(torch|onnx|gguf|ggml|gfloat|micro|bits|u?int\d|[a-z]+/)", note)
    return note if named else note[0].upper() + note[1:]


def _case(row: Mapping[str, Any], i: int, listed: Mapping[str, str]) -> Iterator[str]:
    """Question, then a line for each answer."""
    file = load(listed["file"])
    case = next(case for case in file if case.id == listed["id"])
    asked = [f"{name} = {shown(value, file.params.get(name, 'text'))}"
             for name, value in case.params.items()
             if name not in ("granularity", "qmin", "qmax")]
    asked += [f"{name} = {given}" for name, given in inputs_of(case, file).items()]
    yield from (f"`refquant oracle explain {case.id}`: {escaped('; '.join(asked))}", "")
    ruled: dict[str, list[str]] = {}
    for dialect in file.dialects:
        answer = case.answer(dialect) if case.status == "defined" else None
        ruled.setdefault(_said(answer, file) if answer else "any", []).append(dialect)
    seen: dict[str, list[str]] = {}
    for one in row["answers"]:
        if not one["answers"][i].startswith("unsupported"):
            seen.setdefault(one["answers"][i], []).append(f"{one['impl']} {one['version']}")
    answers = [a for a in dict.fromkeys([*ruled, *seen]) if a != "any"]
    cut = _window(answers)
    yield from ("| answer | by rule | when asked |", "|---|---|---|")
    told: dict[str, str] = {}
    for answer in answers:
        text = _with_number(answer, case, file) if len(answer) <= LONG else _cut(answer, cut)
        if text in told:                        # they part outside the digits that are shown
            text += f" but {_cut(answer, _window([answer, told[text]]))}"
        told[text] = answer
        yield (f"| {escaped(text)} | {', '.join(ruled.get(answer, []))} | "
               f"{', '.join(seen.get(answer, []))} |")
    if "any" in ruled:
        yield f"| *any* | {', '.join(ruled['any'])} | |"
    yield ""


def _said(answer: Mapping[str, Any], file: VectorFile) -> str:
    """Digits of each output, by name if there are several: the form of the observations."""
    found = {key: digits(answer[key]) for key in file.outputs}
    return " ".join(f"{key}={text}" if len(found) > 1 else text for key, text in found.items())


def _with_number(answer: str, case: Case, file: VectorFile) -> str:
    """``7e`` -> ``7e = 448``, where the answer is digits of single numbers."""
    shape = next((a[key].shape for a in (case.base, *case.differs.values()) if a for key in a), ())

    def told(found: re.Match[str]) -> str:
        key = found[1] or next(iter(file.outputs))
        dtype, text = file.outputs[key], found[2]
        width = DTYPES[dtype]
        if shape or len(text) != 2 * width:
            return found[0]
        return f"{found[0]} = {number(np.array(int(text, 16), f'u{width}'), dtype)}"

    return re.sub(r"(?<![\w.])(?:(\w+)=)?((?:[0-9a-f]{2})+)(?![\w.])", told, answer)


def _window(answers: list[str]) -> int:
    """Where the digits of long answers first differ."""
    long = [answer for answer in answers if len(answer) > LONG]
    return next((at for at, chars in enumerate(zip(*long, strict=False)) if len(set(chars)) > 1), 0)


def _cut(answer: str, at: int) -> str:
    first = max(at - LONG // 4, 0) & ~1
    last = first + LONG
    return ("..." * (first > 0)) + answer[first:last] + ("..." * (last < len(answer)))


def escaped(text: str) -> str:
    r"""Text for a cell of a table: no mark of Markdown in it means anything."""
    return re.sub(r"([\\|*_<>$`\[\]])", r"\\\1", text)
