"""``refquant oracle``: the commands.

Exit status: 0 no difference; 1 a difference that the baseline does not list, an entry of it
that is repaired, or nothing asked at all; 2 bad input, a missing library or a damaged file;
130 interrupted; 141 nobody reads the output any more.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["app"]

DIFFERENT, INTERRUPTED = 1, 130

app = typer.Typer(
    help="Hold a library against the golden vectors.",
    epilog="Exit status: 0 same, 1 different, 2 bad input, 130 interrupted. For a start: "
           "`refquant oracle list adapters`, `refquant oracle matrix`, `refquant oracle explain "
           "494a0745af`.",
    rich_markup_mode=None,
    no_args_is_help=True,
)

Impl = Annotated[str, typer.Option("--impl", help="An adapter (`list adapters`), or yours as "
                                   "module:name, see refquant.oracle.adapters.Adapter.")]
Dialect = Annotated[str, typer.Option("--dialect", help="Whose rules: `list dialects`.")]
Ops = Annotated[str, typer.Option("--ops", help="Operations or files, between commas: `list`.")]
Limit = Annotated[float, typer.Option("--timeout", help="Seconds for one group of cases.")]


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(
        metavar="[files|dialects|flags|tables|adapters]", help="What to list.")] = "files",
) -> int:
    """List what the other commands take by name."""
    from refquant.oracle import _listing

    if kind not in _listing.KINDS:
        raise _bad(f"`kind` must be one of {', '.join(_listing.KINDS)}; got {kind!r}")
    for line in _told(_listing.KINDS[kind]):
        print(line)
    return 0


@app.command()
def export(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="New, empty or an old export.")],
) -> int:
    """Copy the vectors to a folder: JSON, TSV, tables."""
    from refquant.oracle.generate import export as write

    if not directory:
        raise _bad("`DIR` must be a folder; got nothing")
    files = _told(lambda: write(Path(directory)))
    print(f"{len(files)} files in {directory}")
    return 0


@app.command()
def check(
    impl: Impl,
    dialect: Dialect,
    ops: Ops = "",
    baseline: Annotated[str, typer.Option(
        metavar="FILE", help="Known differences, JSON; or known, for those that ship.")] = "",
    sweep: Annotated[bool, typer.Option(help="Try every place in arrays, too.")] = True,
    timeout: Limit = 30.0,
) -> int:
    """Ask every question of a dialect, list the differences.

    Exit status 1 if a difference is not in the baseline, an entry of the baseline is repaired, or
    nothing was asked. A baseline is a JSON list of ids, or an object of ids and reasons.
    With ``--baseline known`` it is the list that ships for the adapter and dialect, with the reason
    of each entry: ``data/baselines``.
    """
    from refquant.oracle._baselines import shipped
    from refquant.oracle.conformance import check as examine
    from refquant.oracle.conformance import read_baseline

    known = _told(lambda: read_baseline(
        shipped(impl, dialect) if baseline == "known" else Path(baseline))
        ) if baseline else frozenset()
    report = _told(lambda: examine(impl, dialect, ops=_listed(ops), sweep=sweep, timeout=timeout,
                                   progress=_progress))
    new, repaired = report.new(known), report.repaired(known)
    for result in new:
        print(f"{result.outcome.value:9} {result.case.id} {result.case.file} "
              f"[{', '.join(result.case.flags)}] {_outcome(result, dialect)}")
    for identity in repaired:
        print(f"repaired  {identity}: remove it from the baseline")
    counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(report.counts().items()))
    listed = len(report.failures()) - len(new)
    counts += f"; {listed} of the baseline" if baseline else ""
    print(f"{report.impl} {report.version} under {dialect}: {counts}")
    if report.flags():
        print("flags: " + ", ".join(f"{f} {n}" for f, n in report.flags().most_common()))
    for reason, n in report.reasons().most_common():
        print(f"not asked: {n}, {reason}")
    nothing = set(report.counts()) <= {"unsupported"}
    if nothing:
        print("nothing was asked")
    return DIFFERENT if new or repaired or nothing else 0


@app.command()
def identify(
    impl: Impl, ops: Ops = "quantize_affine.float32.int8", timeout: Limit = 30.0
) -> int:
    """Name the dialect that an implementation speaks.

    With each dialect stand the flags of what is answered otherwise, the most frequent first. Exit
    status 1 if no dialect fits, or answers depend on the place.
    """
    from refquant.oracle.conformance import identify as nearest
    from refquant.oracle.conformance import placements

    verdicts = _told(lambda: nearest(impl, ops=_listed(ops), timeout=timeout))
    moved = _told(lambda: placements(impl, ops=_listed(ops), timeout=timeout))
    for verdict in verdicts:
        flags = f"  {', '.join(verdict.flags[:6])}" if verdict.flags else ""
        print(f"{verdict.dialect:18} {verdict.failed:5} of {verdict.asked} differ{flags}")
    best = verdicts[0]
    if moved:
        print(f"no dialect: {len(moved)} answers depend on the place, e.g. {moved[0]}")
    elif not best.asked:
        print("no dialect: nothing that was asked is supported")
    elif best.failed:
        print(f"no dialect fits; the nearest is {best.dialect}")
    else:
        print(f"{impl} speaks {' or '.join(v.dialect for v in verdicts if not v.failed)}")
    return DIFFERENT if moved or best.failed or not best.asked else 0


@app.command()
def matrix(
    impl: Annotated[str, typer.Option("--impl", help="Adapters, between commas; or all.")] = "all",
    format: Annotated[str, typer.Option("--format", help="md, json or html.")] = "md",
    dialect: Annotated[str, typer.Option(help="By default, of each its own.")] = "",
    ops: Ops = "",
    sweep: Annotated[bool, typer.Option(help="Try every place in arrays, too.")] = False,
    timeout: Limit = 30.0,
) -> int:
    """Set implementations side by side.

    Those whose library is not installed have a row that says so.
    """
    from refquant.oracle import conformance
    from refquant.oracle.adapters import ADAPTERS

    writers = {"md": conformance.as_markdown, "json": conformance.as_json,
               "html": conformance.as_html}
    if format not in writers:
        raise _bad(f"`--format` must be md, json or html; got {format}")
    impls = list(ADAPTERS) if impl == "all" else _listed(impl)
    if not impls:
        raise _bad("`--impl` must name an adapter; got nothing")
    reports = _told(lambda: conformance.matrix(
        impls, dialect=dialect or None, ops=_listed(ops), sweep=sweep, timeout=timeout,
        progress=_progress))
    print(writers[format](reports))
    return 0


@app.command()
def explain(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Of a case, or its beginning.")],
) -> int:
    """Show a case: the exact quotient, each dialect's steps."""
    from refquant.oracle.explain import explain as lines
    from refquant.oracle.explain import find

    print(_told(lambda: lines(find(identity))))
    return 0


@app.command()
def certify(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="One of `list tables`.")],
    impl: Impl,
    first: Annotated[str, typer.Option(help="Bits of the first input, hexadecimal.")] = "0",
    last: Annotated[str, typer.Option(help="Where to stop, excluded.")] = "100000000",
    step: Annotated[int, typer.Option(help="Every so many inputs only.")] = 1,
    timeout: Limit = 60.0,
) -> int:
    """Compare a cast with its table on all 2**32 inputs.

    An interrupted run says where to go on, and ends with status 130.
    """
    from refquant.oracle.certify import certify as prove

    try:
        start, stop = int(first, 16), int(last, 16)
    except ValueError:
        raise _bad(f"`--first` and `--last` must be hexadecimal; got {first} and {last}") from None

    def progress(at: int) -> None:
        _progress(f"{at:08x}  {(at - start) / (stop - start):.0%}")

    found = _told(lambda: prove(impl, table, first=start, last=stop, step=step, timeout=timeout,
                                progress=progress))
    for pattern, expected, got in found.examples:
        print(f"{pattern:08x}: expected {expected:02x}, got {got:02x}")
    whole = found.first == 0 and found.last == 2**32 and step == 1
    asked = len(range(found.first, found.last, step))
    print(f"{found.impl}, {found.table}: {found.mismatches} of {asked} inputs differ, "
          f"{found.nans} NaN not asked{'' if whole else '; not all 2**32, no certificate'}")
    if found.last < stop:
        print(f"stopped; go on with --first {found.last:x}")
        return INTERRUPTED
    return DIFFERENT if found.mismatches else 0


@app.command()
def challenge(
    seed: Annotated[int, typer.Option("--seed", help="Same seed, same questions.")],
    impl: Annotated[str, typer.Option("--impl", help="Ask it; else print the questions.")] = "",
    dialect: Dialect = "onnx",
    groups: Annotated[int, typer.Option(help="Of scale and zero point.")] = 8,
    timeout: Limit = 30.0,
) -> int:
    """Ask fresh questions, which no file holds.

    Without --impl they are printed as by gen, for a program of yours and `verify --seed N`.
    """
    from refquant.oracle.challenge import challenge as fresh
    from refquant.oracle.challenge import prompts
    from refquant.oracle.run import FAILURES, Outcome, run

    file = _told(lambda: fresh(seed, groups=groups))
    if dialect not in file.dialects:
        raise _bad(f"`dialect` must be one of {', '.join(file.dialects)}; got {dialect!r}")
    if not impl:
        print("\n".join(prompts(file)))
        return 0
    results = _told(lambda: list(run(impl, file, dialect, timeout=timeout)))
    failed = [r for r in results if r.outcome in FAILURES]
    for result in failed:
        print(f"{result.outcome.value:9} {result.case.id} {_outcome(result, dialect)}")
    skipped = [r for r in results if r.outcome is Outcome.UNSUPPORTED]
    asked = len(results) - len(skipped)
    print(f"{impl} under {dialect}: {len(failed)} of {asked} fresh cases differ")
    if skipped:
        print(f"not asked: {len(skipped)}, {skipped[0].detail}")
    return DIFFERENT if failed or not asked else 0


@app.command()
def gen(
    op: Annotated[str, typer.Argument(metavar="OP", help="A file or an operation: `list`.")],
) -> int:
    """Print the questions of a file, a line each.

    Tabs between the columns that the first line names; numbers as hexadecimal bits, whole numbers
    of parameters in decimal, arrays as 2x3:digits. Use: gen OP | ./mine | verify.
    """
    from refquant.oracle.challenge import prompts

    for line in prompts(_told(lambda: _file(op))):
        print(line)
    return 0


@app.command()
def verify(
    op: Annotated[str, typer.Argument(metavar="[OP]", help="As for gen; else the file of the id.")
                  ] = "",
    dialect: Annotated[str, typer.Option(help="By default the base dialect of the file.")] = "",
    seed: Annotated[int | None, typer.Option(help="Of a challenge.")] = None,
    groups: Annotated[int, typer.Option(help="As for challenge.")] = 8,
) -> int:
    """Judge answers from standard input, ``id digits`` each.

    Outputs in the order of the file, between blanks; `!` in place of digits for what must be
    rejected, `-` for what is not supported. Exit status 1 if an answer is wrong or missing.
    """
    from refquant.oracle.challenge import challenge as fresh
    from refquant.oracle.challenge import verified

    if seed is not None and op:
        raise _bad("`OP` must be left out of a challenge: it is made from the seed")
    lines = [line for line in _told(lambda: list(_stdin())) if line.strip() and line[0] != "#"]
    if not lines:
        raise _bad("standard input must hold answers; got none")
    file = _told(lambda: fresh(seed, groups=groups) if seed is not None
                 else _file(op) if op else _file_of(lines[0]))
    right = wrong = skipped = 0
    for line in _told(lambda: list(verified(lines, file, dialect or file.base_dialect))):
        right, wrong = right + (line.right is True), wrong + (line.right is False)
        skipped += line.right is None
        if line.right is False:
            print(f"{line.id}: {line.detail}")
    answered = {line.split()[0] for line in lines}
    silent = sum(case.id not in answered for case in file)
    print(f"{file.name} under {dialect or file.base_dialect}: {right} right, {wrong} wrong, "
          f"{skipped} not supported, {silent} of {len(file)} not answered")
    return DIFFERENT if wrong or silent or not right else 0


def _stdin() -> Iterator[str]:
    """Lines of standard input, none of them endless, none if it is closed."""
    longest = 2**20
    while sys.stdin and (line := sys.stdin.readline(longest)):
        if len(line) == longest:
            raise ValueError("standard input must hold a line for each answer; "
                             f"got one of {longest} characters or more")
        yield line.lstrip("\ufeff")             # some shells begin what they pipe with this mark


def _file_of(line: str) -> Any:
    """The vector file that holds the question of an answer."""
    from refquant.oracle.explain import find
    from refquant.oracle.vectors import load

    return load(find(line.split()[0]).file)


def _file(op: str) -> Any:
    """A vector file by its name, or the first of an operation."""
    from refquant.oracle.vectors import load, names

    every = names()
    if op in every:
        return load(op)
    preferred = [f"{op}.float32.int8", *every]
    found = next((n for n in preferred if n in every and op in (n.split(".")[0], load(n).op)), None)
    if found is None:
        known = sorted({name.split(".")[0] for name in every})
        raise ValueError(f"`OP` must be a vector file or one of {', '.join(known)}; got {op!r}")
    return load(found)


def _outcome(result: Any, dialect: str) -> str:
    from refquant.oracle._show import digits

    if result.detail:
        return str(result.detail)
    expected = result.case.answer(dialect) or {}

    def shown(answer: Any) -> str:
        return " ".join(f"{key}={digits(pattern)[:32]}" for key, pattern in (answer or {}).items())

    return f"expected {shown(expected)} got {shown(result.answer)}"


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _progress(text: str) -> None:
    """On a terminal alone, and on one line."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _told(work: Callable[[], Any]) -> Any:
    """Result of some work; what can be told in a line becomes bad input."""
    from refquant.oracle._worker import Broken, Crash, Timeout
    from refquant.oracle.adapters import Missing

    try:
        return work()
    except (ValueError, Missing, Broken, Crash, Timeout) as err:
        raise _bad(str(err)) from None
    except OSError as err:
        if isinstance(err, BrokenPipeError):
            raise
        raise _bad(f"files must be readable and writable; {err}") from None
    finally:
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)


def _bad(text: str) -> Exception:
    from refquant.cli import BadInput

    return BadInput(text)
