"""Conformance: how a library fares under a dialect, which dialect it speaks, who differs where.

`check` holds one implementation against one dialect; `identify` against all of them, and
names the nearest; `matrix` sets several side by side. A `baseline` lists the differences
that are known, by the id of the case: a new difference fails, and so does an entry that
has been repaired, since a list nobody shortens hides the next mistake.
"""

import html
import json
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from refquant.oracle._show import digits
from refquant.oracle._worker import Broken, Crash, Timeout, Worker
from refquant.oracle.adapters import Adapter, Missing
from refquant.oracle.run import FAILURES, Outcome, Result, placed, run
from refquant.oracle.vectors import Case, VectorFile, load, names, require_complete

__all__ = [
    "HOME_DIALECT", "Report", "Verdict", "as_html", "as_json", "as_markdown", "check", "identify",
    "matrix", "read_baseline",
]  # fmt: skip

_HEADINGS = ("implementation", "dialect", "asked", "match", "failures", "flags of the failures",
             "not asked")

#: The dialect that each adapter that ships is expected to speak.
HOME_DIALECT: Mapping[str, str] = {
    "refquant": "exact", "onnx.reference": "onnx", "onnxruntime": "onnx",
    "onnxruntime.tool": "onnxruntime.tool", "torch.fbgemm": "torch.fbgemm",
    "torch.fake_quantize": "torch.decomposed", "torch.decomposed": "torch.decomposed",
    "torch.cast": "exact", "torchao": "torch.decomposed", "torchao.formats": "torchao",
    "torchao.floor": "ocp-mx", "torchao.rceil": "nv-rceil", "torchao.ceil": "torchao.ceil",
    "torchao.even": "torchao.even", "litert.reference": "tflite.reference",
    "litert.builtin": "tflite.reference", "litert.xnnpack": "xnnpack", "ml_dtypes": "exact",
    "gfloat": "exact", "gfloat.mx": "ocp-mx", "gguf": "ggml", "brevitas": "brevitas",
    "aimet.torch": "onnx", "aimet.onnx": "aimet",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Report:
    """What became of every question to one implementation, under one dialect.

    Attributes
    ----------
    impl, version : str
    dialect : str
    results : tuple of Result

    References
    ----------
    NIST ACVP, validation of an algorithm.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> report = check(Refquant("tflite.reference"), "onnx", ops=["quantize_affine.float32.int2"])
    >>> report.counts()["mismatch"] > 5, "Tie" in report.flags()
    (True, True)
    """

    impl: str
    version: str
    dialect: str
    results: tuple[Result, ...]

    def counts(self) -> Counter[str]:
        """How many cases had each outcome.

        Returns
        -------
        Counter

        Examples
        --------
        >>> Report("mine", "1", "onnx", ()).counts()
        Counter()
        """
        return Counter(result.outcome.value for result in self.results)

    def failures(self) -> list[Result]:
        """Results that are no match, in order.

        Returns
        -------
        list of Result

        Examples
        --------
        >>> Report("mine", "1", "onnx", ()).failures()
        []
        """
        return [result for result in self.results if result.outcome in FAILURES]

    def flags(self) -> Counter[str]:
        """How many failures carry each flag.

        Returns
        -------
        Counter

        Examples
        --------
        >>> Report("mine", "1", "onnx", ()).flags()
        Counter()
        """
        return Counter(flag for result in self.failures() for flag in result.case.flags)

    def reasons(self) -> Counter[str]:
        """How many cases were not asked for each reason.

        Returns
        -------
        Counter

        Examples
        --------
        >>> Report("mine", "1", "onnx", ()).reasons()
        Counter()
        """
        return Counter(r.detail for r in self.results if r.outcome is Outcome.UNSUPPORTED)

    def new(self, known: Iterable[str]) -> list[Result]:
        """Failures that a baseline does not list.

        Parameters
        ----------
        known : iterable of str
            Ids of cases.

        Returns
        -------
        list of Result

        Examples
        --------
        >>> Report("mine", "1", "onnx", ()).new(["adfb2c2ad2"])
        []
        """
        listed = set(known)
        return [result for result in self.failures() if result.case.id not in listed]

    def repaired(self, known: Iterable[str]) -> list[str]:
        """Ids of a baseline that match by now.

        Parameters
        ----------
        known : iterable of str
            Ids of cases. Those that were not asked do not count.

        Returns
        -------
        list of str

        Examples
        --------
        >>> Report("mine", "1", "onnx", ()).repaired(["adfb2c2ad2"])
        []
        """
        matched = {r.case.id for r in self.results if r.outcome is Outcome.MATCH}
        return sorted(set(known) & matched)


@dataclass(frozen=True)
class Verdict:
    """How far an implementation is from one dialect.

    Attributes
    ----------
    dialect : str
    asked : int
        Cases that the dialect decides, and that were asked.
    failed : int
    flags : tuple of str
        Of the failures, the most frequent first.

    References
    ----------
    See `identify`.

    Examples
    --------
    >>> Verdict("onnx", 57, 0, ()).failed
    0
    """

    dialect: str
    asked: int
    failed: int
    flags: tuple[str, ...]


def check(
    adapter: Adapter | str, dialect: str, *, ops: Sequence[str] = (), sweep: bool = False,
    timeout: float = 30.0, progress: Callable[[str], None] | None = None,
) -> Report:
    """Report on an implementation under one dialect.

    Parameters
    ----------
    adapter : Adapter or str
        An object is asked in this process, a name in another: see `refquant.oracle.run.run`.
    dialect : str
    ops : sequence of str
        Operations or files; empty for all that cover the dialect.
    sweep : bool
        Try every place in arrays of all short lengths, too.
    timeout : float
        Seconds for one group of cases.
    progress : callable, optional
        Called with the name of each file.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        If no file has the operation or covers the dialect.
    refquant.oracle.adapters.Missing
        If the library behind the adapter is not installed.

    References
    ----------
    NIST ACVP; C2SP Wycheproof.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> report = check(Refquant("onnx"), "onnx", ops=["quantize_affine.float32.int8"])
    >>> report.failures(), set(report.counts())
    ([], {'match'})
    """
    files = _files(ops, dialect)
    with _Session(adapter, timeout) as asked:
        results: list[Result] = []
        for file in files:
            if progress:
                progress(file.name)
            results += run(asked, file, dialect, sweep=sweep, timeout=timeout)
        return Report(asked.name, asked.version, dialect, tuple(results))


def identify(
    adapter: Adapter | str, *, ops: Sequence[str] = ("quantize_affine.float32.int8",),
    timeout: float = 30.0,
) -> list[Verdict]:
    """Verdict for each dialect, the nearest first.

    The questions are asked once; each answer is compared with all dialects.

    Parameters
    ----------
    adapter : Adapter or str
    ops : sequence of str
        Operations or files.
    timeout : float
        Seconds for one group of cases.

    Returns
    -------
    list of Verdict

    Raises
    ------
    ValueError
        If no file has the operation.

    References
    ----------
    C2SP Wycheproof, flags.

    Examples
    --------
    >>> from refquant.oracle.adapters import Refquant
    >>> best, second, *_ = identify(Refquant("brevitas"))
    >>> best.dialect, best.failed, second.failed > 0
    ('brevitas', 0, True)
    """
    verdicts: dict[str, list[Any]] = {}
    with _Session(adapter, timeout) as asked:
        for file in _files(ops, None):
            base = list(run(asked, file, file.base_dialect, timeout=timeout))
            for dialect in file.dialects:
                judged = [r for r in base if r.outcome is not Outcome.UNSUPPORTED
                          and _is_specified(r.case, dialect)]
                bad = [r.case for r in judged if _differs(r, dialect)]
                entry = verdicts.setdefault(dialect, [0, 0, Counter()])
                entry[0] += len(judged)
                entry[1] += len(bad)
                entry[2].update(flag for case in bad for flag in case.flags)
    found = [Verdict(dialect, asked_, failed, tuple(f for f, _ in flags.most_common()))
             for dialect, (asked_, failed, flags) in verdicts.items()]
    # Of dialects that fit alike, the one that leaves less open says more.
    return sorted(found, key=lambda v: (v.failed, -v.asked))


def placements(
    adapter: Adapter | str, *, ops: Sequence[str] = ("quantize_affine.float32.int8",),
    timeout: float = 30.0,
) -> list[str]:
    """A line for each case whose answer depends on its place."""
    with _Session(adapter, timeout) as asked:
        return [f"{case.id} {where}" for file in _files(ops, None)
                for case, where in placed(asked, file, timeout=timeout)]


def matrix(
    impls: Sequence[str], *, dialect: str | None = None, ops: Sequence[str] = (),
    sweep: bool = False, timeout: float = 30.0,
    progress: Callable[[str], None] | None = None,
) -> list[Report | str]:
    """Reports side by side, in the order asked; a str says why one is missing.

    Parameters
    ----------
    impls : sequence of str
        Names of adapters.
    dialect : str, optional
        By default, of each its own: see `HOME_DIALECT`.
    ops : sequence of str
        Operations or files.
    sweep : bool
        Look for answers that depend on the place.
    timeout : float
        Seconds for one group of cases.
    progress : callable, optional
        Called with the name of each implementation.

    Returns
    -------
    list of Report or str

    References
    ----------
    See `check`.

    Examples
    --------
    >>> [report] = matrix(["refquant.onnx"], ops=["quantize_affine.float32.int2"])
    >>> report.dialect, report.failures()
    ('onnx', [])
    """
    found: list[Report | str] = []
    chosen = _files(ops, None)
    for impl in impls:
        if progress:
            progress(impl)
        try:
            home = dialect or _home_dialect(impl, timeout)
            if not dialect and impl in HOME_DIALECT and not any(
                    home in file.dialects for file in chosen):
                found.append(f"{impl}: {home} says nothing of {', '.join(ops)}")
                continue
            found.append(check(impl, home, ops=ops, sweep=sweep, timeout=timeout))
        except (Missing, Broken, Crash, Timeout) as err:    # the others have their rows
            found.append(f"{impl}: {err}")
    return found


def _home_dialect(impl: str, timeout: float) -> str:
    home = HOME_DIALECT.get(impl)
    if home is None and impl.startswith("refquant."):
        return impl.removeprefix("refquant.")
    if home is None:
        Worker(impl, timeout=timeout).close()       # says so if there is no such adapter
        raise ValueError(f"`dialect` must be given: {impl} is none of the adapters that ship")
    return home


def read_baseline(path: Path) -> frozenset[str]:
    """Ids of the differences that a file lists as known.

    Parameters
    ----------
    path : pathlib.Path
        A JSON list of ids, or an object whose keys are ids and whose values say why.

    Returns
    -------
    frozenset of str

    Raises
    ------
    ValueError
        If the file is missing or nothing of the kind.

    References
    ----------
    array-api-tests, its files of expected failures.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "known.json"
    >>> _ = path.write_text('{"adfb2c2ad2": "rounds away"}')
    >>> sorted(read_baseline(path))
    ['adfb2c2ad2']
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError(f"`baseline` must be a file; got {path}")
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as err:
        raise ValueError(f"`baseline` must be a JSON file of ids; {path}: {err}") from None
    if not isinstance(found, (list, dict)) or not all(isinstance(key, str) for key in found):
        raise ValueError(f"`baseline` must be a list or an object of ids; got {path}")
    return frozenset(found)


def as_markdown(reports: Sequence[Report | str]) -> str:
    """The matrix as a table in Markdown, and the machine it was made on.

    Parameters
    ----------
    reports : sequence of Report or str

    Returns
    -------
    str

    References
    ----------
    GitHub Flavored Markdown, tables.

    Examples
    --------
    >>> print(as_markdown([Report("mine", "1.0", "onnx", ())]).splitlines()[2])
    | mine 1.0 | onnx | 0 | 0 | 0 | | |
    """
    lines = ["| " + " | ".join(_HEADINGS) + " |", "|---|---|--:|--:|--:|---|---|"]
    for report in reports:
        cells = [cell.replace("|", "\\|") for cell in _cells(report)]
        lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in cells) + "|")
    return "\n".join([*lines, "", _machine()])


def as_html(reports: Sequence[Report | str]) -> str:
    """The matrix as a page.

    Parameters
    ----------
    reports : sequence of Report or str

    Returns
    -------
    str

    References
    ----------
    HTML Living Standard, tables.

    Examples
    --------
    >>> "<td>mine 1.0</td>" in as_html([Report("mine", "1.0", "onnx", ())])
    True
    """
    rows = ["".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(r)) for r in reports]
    body = "".join(f"<tr>{row}</tr>\n" for row in rows)
    titles = "".join(f"<th>{title}</th>" for title in _HEADINGS)
    return ('<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Conformance</title>\n'
            "<style>body{font:15px sans-serif;margin:2em}td,th{padding:.3em .8em;text-align:left;"
            "border-bottom:1px solid #ccc}table{border-collapse:collapse}</style>\n"
            f"<table><tr>{titles}</tr>\n{body}</table>\n<p>{html.escape(_machine())}</p></html>\n")


def as_json(reports: Sequence[Report | str]) -> str:
    """The matrix as JSON, every failure by its id.

    Parameters
    ----------
    reports : sequence of Report or str

    Returns
    -------
    str

    References
    ----------
    RFC 8259.

    Examples
    --------
    >>> json.loads(as_json([Report("mine", "1.0", "onnx", ())]))["reports"][0]["impl"]
    'mine'
    """
    rows: list[dict[str, Any]] = []
    for report in reports:
        if isinstance(report, str):
            rows.append({"missing": report})
            continue
        rows.append({
            "impl": report.impl, "version": report.version, "dialect": report.dialect,
            "counts": dict(sorted(report.counts().items())), "flags": dict(report.flags()),
            "failures": [{
                "id": r.case.id, "file": r.case.file, "flags": list(r.case.flags),
                "outcome": r.outcome.value, "detail": r.detail,
                "answer": {k: digits(v) for k, v in r.answer.items()} if r.answer else None,
            } for r in report.failures()]})
    return json.dumps({"machine": _machine(), "reports": rows}, indent=1)


def _cells(report: Report | str) -> list[str]:
    if isinstance(report, str):
        name, _, why = report.partition(": ")
        return [name, "", "", "", "", "", why]
    counts, failures = report.counts(), report.failures()
    asked = sum(counts.values()) - counts["unsupported"]
    kinds = Counter(r.outcome.value for r in failures if r.outcome is not Outcome.MISMATCH)
    flags = ", ".join(f"{flag} {n}" for flag, n in report.flags().most_common(4))
    shown = str(len(failures)) + (
        f" ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common())})" if kinds else "")
    why = str(counts["unsupported"] or "")
    return [f"{report.impl} {report.version}", report.dialect, str(asked), str(counts["match"]),
            shown, flags, why]


def _machine() -> str:
    """System, processor and its vector units."""
    extensions = ""
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
        model = next((line.partition(":")[2].strip() for line in text.splitlines()
                      if line.startswith("model name")), "")
        flags = next((set(line.partition(":")[2].split()) for line in text.splitlines()
                      if line.startswith("flags")), set())
        wide = sorted(flags & {"avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni"})
        extensions = f", {model} ({' '.join(wide)})"
    except OSError:
        pass
    return f"{platform.system()} {platform.machine()}{extensions}, NumPy {np.__version__}"


def _differs(result: Result, dialect: str) -> bool:
    """Whether an answer, or what came in its place, is wrong under a dialect."""
    case = result.case
    if result.outcome in (Outcome.CRASH, Outcome.TIMEOUT, Outcome.ERROR):
        return True
    if case.status == "reject":
        return result.outcome is Outcome.MISMATCH
    answer, expected = result.answer, case.answer(dialect)
    return expected is None or answer is None or any(
        not np.array_equal(answer[k], expected[k]) for k in expected)


def _is_specified(case: Case, dialect: str) -> bool:
    return case.status == "reject" or (
        case.status == "defined" and case.answer(dialect) is not None)


def _files(ops: Sequence[str], dialect: str | None) -> list[VectorFile]:
    require_complete()
    every = [load(name) for name in names()]
    unknown = [op for op in ops if not any(op in (file.op, file.name) for file in every)]
    if unknown:
        known = sorted({file.op for file in every})
        raise ValueError(f"`ops` must be operations ({', '.join(known)}) or files; "
                         f"got {unknown[0]!r}")
    chosen = [file for file in every if not ops or {file.op, file.name} & set(ops)]
    if dialect is None:
        return chosen
    covering = [file for file in chosen if dialect in file.dialects]
    if not covering:
        known = sorted({d for file in chosen for d in file.dialects})
        raise ValueError(f"`dialect` must be one of {', '.join(known)}; got {dialect!r}")
    return covering


class _Session:
    """An adapter for several files: a worker that is started once, or the object itself."""

    def __init__(self, adapter: Adapter | str, timeout: float) -> None:
        self._adapter, self._timeout = adapter, timeout

    def __enter__(self) -> Any:
        if isinstance(self._adapter, str):
            self._opened: Any = Worker(self._adapter, timeout=self._timeout)
        else:
            self._opened = self._adapter
        return self._opened

    def __exit__(self, *error: object) -> None:
        if isinstance(self._opened, Worker):
            self._opened.close()


