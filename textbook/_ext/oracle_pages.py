"""Pages of the book that the vector files write: one for each flag, one of all
dialects, and one of all disagreements.

`write` fills ``textbook/reference/vectors``; Sphinx reads it like any other folder. A page holds
nothing that is not in the files: what a flag means, the wrong implementations that its cases
find out, and one case for each of a few operations, with the answer of every dialect.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from disagreement_page import escaped
from disagreement_page import page as disagreements

from refquant.oracle._flags import FLAGS
from refquant.oracle._show import answer_of, inputs_of, observed, shown
from refquant.oracle.explain import steps
from refquant.oracle.vectors import DATA, Case, VectorFile, load, names, table_names

#: Operations that a page shows an example of.
EXAMPLES = 5
#: Files whose cases are the easiest to read, taken where others show no more.
PLAIN = ("quantize_affine.float32.int8", "dequantize_affine.int8.float32", "requantize.int32.int8",
         "fake_quantize.float32", "quantization_parameters.float32.int8")

BUGS = {
    "BASIC": "wiring",
    "ROUNDING": "rounding",
    "ORDER_OF_OPERATIONS": "order of operations",
    "PRECISION": "precision of a step on the way",
    "SATURATION": "saturation",
    "INT_CAST_OVERFLOW": "conversion to an integer before clipping",
    "SIGN": "sign",
    "FLUSH_TO_ZERO": "subnormal numbers taken for zero",
    "SPECIAL_VALUE": "special values",
    "LAYOUT": "layout of bytes",
    "PLACEMENT": "place in the array",
    "VALIDATION": "validation of arguments",
    "UNSPECIFIED": "left open",
}


INDEX = """\
(golden-vectors)=
# The golden vectors

{cases:,} questions in {files} files, each with the bits that every dialect must answer, and tables
that answer {tables} casts for all $2^{{32}}$ inputs. {{ref}}`ch-disagree` tells why there are
several right answers; these pages are made from the files when the book is built.

| operation | files | cases | dialects |
|---|--:|--:|---|
{rows}

To have them: `refquant oracle export DIR`. To see one: `refquant oracle explain ID`.

```{{toctree}}

flags
dialects
disagreements
```
"""

DIALECTS = """\
(dialects)=
# Dialects of the vectors

How each one computes, and who follows it. The same choices stand in every vector file as data,
under `axes`. `rne` rounds ties to even, `sat` clips to the code range, `f32` is one rounding to
float32.

"""

FLAG_LIST = """\
(flags)=
# Flags of the vectors

What can be special about a case. A flag stands on a case because it finds a kind of mistake; the
last column counts the wrong implementations, among those tried on every file, that give a wrong
answer to at least one case with the flag. {{ref}}`ch-disagree` says how to use them.

| flag | kind of mistake | cases | finds out |
|---|---|--:|--:|
{rows}

```{{toctree}}
:hidden:

{pages}
```
"""

MORE = """\
## More of them

The cases of one file that carry the flag, a test each, in a suite of your own:

```python
import refquant.testing as rqt

@rqt.vectors("{fullest}", flags=["{flag}"])
def test_mine(case): ...
```

::::{{dropdown}} Files, and how many of their cases carry it

| file | cases |
|---|--:|
{rows}
::::

All flags: {{ref}}`flags`.
"""

def write(folder: Path) -> None:
    """Bring a folder up to date; pages that did not change are not touched."""
    folder.mkdir(parents=True, exist_ok=True)
    made = pages()
    for name, text in made.items():
        path = folder / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
    for path in folder.glob("*.md"):
        if path.name not in made:
            path.unlink()


def pages() -> dict[str, str]:
    """File name to content."""
    files = [load(name) for name in names()]
    used = {flag: own for flag in FLAGS if (own := [f for f in files if flag in f.notes])}
    made = {"index.md": _index(files), "flags.md": _flags(used), "dialects.md": _dialects(files)}
    made |= {f"{slug(flag)}.md": _page(flag, where) for flag, where in used.items()}
    made["disagreements.md"] = disagreements(DATA / "disagreements.json")
    return made


def slug(flag: str) -> str:
    """TieOddZp -> flag-tie-odd-zp."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", flag.replace("NaN", "Nan"))
    return f"flag-{words.lower()}"


def _index(files: list[VectorFile]) -> str:
    operations: dict[str, list[VectorFile]] = {}
    for file in files:
        operations.setdefault(file.op, []).append(file)
    rows = []
    for op, own in operations.items():
        spoken = list(dict.fromkeys(name for file in own for name in file.dialects))
        rows.append(f"| `{op}` | {len(own)} | {sum(map(len, own)):,} | {', '.join(spoken)} |")
    return INDEX.format(cases=sum(map(len, files)), files=len(files), tables=len(table_names()),
                        rows="\n".join(rows))


def _dialects(files: list[VectorFile]) -> str:
    told: dict[str, dict[tuple[str, str], list[str]]] = {}
    for file in files:
        for name, dialect in file.dialects.items():
            ways = told.setdefault(name, {})
            ops = ways.setdefault((str(dialect["formula"]), str(dialect["followedBy"])), [])
            if f"`{file.op}`" not in ops:
                ops.append(f"`{file.op}`")
    lines = []
    for name, ways in told.items():
        lines += [f"## {name}", "", "| operation | computes | followed by |", "|---|---|---|"]
        lines += [f"| {', '.join(ops)} | {escaped(formula)} | {escaped(who)} |"
                  for (formula, who), ops in ways.items()]
        lines.append("")
    return DIALECTS + "\n".join(lines)


def _flags(used: dict[str, list[VectorFile]]) -> str:
    rows = []
    for flag, files in used.items():
        cases = sum(flag in case.flags for file in files for case in file)
        killed = {(_family(file), name) for file in files for name in file.notes[flag]["kills"]}
        rows.append(f"| [{flag}]({slug(flag)}.md): {escaped(FLAGS[flag][1])} | "
                    f"{BUGS[FLAGS[flag][0]]} | {cases:,} | {len(killed)} |")
    return FLAG_LIST.format(rows="\n".join(rows), pages="\n".join(map(slug, used)))


def _page(flag: str, files: list[VectorFile]) -> str:
    bug, description, links = FLAGS[flag]
    every = [(case, file) for file in files for case in file if flag in case.flags]
    lines = [f"({slug(flag)})=", f"# {flag}", "", escaped(description), "",
             f"Kind of mistake: **{BUGS[bug]}** (`{bug}`). {len(every):,} cases in "
             f"{len(files)} files of the corpus.", ""]
    if links:
        lines += ["Seen in the wild: " + ", ".join(
            f"[{_thread(link)}](https://github.com/{link})" for link in links) + ".", ""]
    for case, file in _examples(every):
        lines += _example(case, file)
    lines += [*_departures(flag, files), *_finds(flag, files)]
    fullest = max(files, key=lambda file: sum(
        flag in case.flags and case.status == "defined" for case in file))
    rows = [f"| `{file.name}` | {sum(flag in case.flags for case in file)} of {len(file)} |"
            for file in files]
    return "\n".join([*lines, MORE.format(fullest=fullest.name, flag=flag, rows="\n".join(rows))])


def _finds(flag: str, files: list[VectorFile]) -> Iterator[str]:
    """The wrong implementations that cases with the flag find out, by operation."""
    yield from ("## What it finds out", "")
    killed: dict[str, set[str]] = {}
    for file in files:
        killed.setdefault(_family(file), set()).update(file.notes[flag]["kills"])
    statuses = {case.status for file in files for case in file if flag in case.flags}
    if statuses == {"reject"}:
        yield from ("An implementation that answers at all: nothing but an error is right.", "")
    yield from ("Wrong implementations of the mutation gate that get at least one such case wrong:",
                "", "| operation | wrong implementations |", "|---|---|")
    alike: dict[str, list[str]] = {}
    for family, mutants in killed.items():
        if mutants:
            alike.setdefault(escaped("; ".join(sorted(mutants))), []).append(f"`{family}`")
    yield from (f"| {', '.join(families)} | {mutants} |" for mutants, families in alike.items())
    yield ""


def _departures(flag: str, files: list[VectorFile]) -> Iterator[str]:
    """How often each dialect departs from exact arithmetic on the cases of a flag."""
    asked, unlike = Counter[str](), Counter[str]()
    for file in files:
        for case in file if "exact" in file.dialects else ():       # layers have engines alone
            exact = case.answer("exact") if flag in case.flags else None
            for name in file.dialects if exact else ():
                answer = case.answer(name)
                asked[name] += answer is not None
                unlike[name] += answer is not None and any(
                    answer[key].tobytes() != exact[key].tobytes() for key in exact)
    if unlike.total():
        yield from ("## How the dialects answer", "",
                    "Of the cases that a dialect and exact arithmetic both decide:", "",
                    "| dialect | decided | unlike exact arithmetic |", "|---|--:|--:|")
        for name, count in asked.items():
            if name != "exact":
                yield f"| [{name}](dialects.md) | {count:,} | {unlike[name]:,} |"
        yield ""


def _example(case: Case, file: VectorFile) -> Iterator[str]:
    yield from (f"## `{case.id}`: {file.op}", "", f"In `{file.name}`.", "")
    rows = [f"| {name} | {escaped(shown(value, file.params.get(name, 'text')))} |"
            for name, value in case.params.items()]
    rows += [f"| **{name}** | {escaped(given)} |" for name, given in inputs_of(case, file).items()]
    yield from ("| asked | bits and number |", "|---|---|", *rows, "")
    if case.status == "reject":
        yield from (f"Must be rejected: {escaped(case.reason)}.", "")
    elif case.status == "unspecified":
        yield from ("No dialect gives it a code, so any answer will do.", "")
    else:
        yield from ("| dialect | answer | on the way |", "|---|---|---|")
        for name, dialect in file.dialects.items():
            answer = escaped(answer_of(case, file, name))
            answer = f"**{answer}**" if case.differs.get(name) else answer
            yield f"| {name} | {answer} | {escaped(_way(case, dialect))} |"
        yield ""
    for seen, who in observed().get(case.id, ()):
        same = next(c for c in seen if c.id == case.id)
        yield from (f"Observed in {who}: {escaped(answer_of(same, seen, seen.base_dialect))}.", "")
    yield from ("```console", f"$ refquant oracle explain {case.id}", "```", "")


def _way(case: Case, dialect: dict[str, object]) -> str:
    """The steps of a dialect where they can be told, else its formula."""
    try:
        return "; ".join(steps(case, dialect["axes"]))      # type: ignore[arg-type]
    except ValueError:
        return str(dialect["formula"])


def _examples(every: list[tuple[Case, VectorFile]]) -> list[tuple[Case, VectorFile]]:
    """The case of each operation that parts most dialects and carries fewest flags."""
    best: dict[str, tuple[tuple[int, ...], Case, VectorFile]] = {}
    for case, file in every:
        answers = {answer_of(case, file, name) for name, own in case.differs.items() if own}
        worth = (len(answers), file.name in PLAIN, case.status == "defined",
                 case.id in observed(), -len(case.flags),
                 -sum(pattern.size for pattern in case.inputs.values()))
        known = best.get(_family(file))
        if known is None or worth > known[0]:
            best[_family(file)] = (worth, case, file)
    # What parts dialects before what does not; a file that is easy to read before the others.
    ranked = sorted(best.values(), reverse=True,
                    key=lambda entry: (entry[0][0] > 0, entry[2].name == PLAIN[0], entry[0]))
    return [(case, file) for _, case, file in ranked[:EXAMPLES]]


def _family(file: VectorFile) -> str:
    """The operation; casts are told apart by where they lead."""
    return f"cast to {file.outputs['y']}" if file.op == "cast" else file.op


def _thread(link: str) -> str:
    """sonos/tract/pull/2850 -> sonos/tract#2850."""
    owner, project, _, thread = link.split("/")
    return f"{owner}/{project}#{thread}"
