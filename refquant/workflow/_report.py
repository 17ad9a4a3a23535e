"""The command ``refquant report``: a table on the terminal, and HTML and JSON if asked for."""

import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from refquant import __version__
from refquant.interop._files import save_text
from refquant.workflow._jobs import threads
from refquant.workflow._terminal import console_of
from refquant.workflow.report import SCHEMES, TensorReport, examine_all, suggestion
from refquant.workflow.tensors import tensors_of

__all__ = ["report_file"]

SHOWN = ("int8 row", "int4 g32", "int4 row", "ternary")


def report_file(
    path: Path, *, sqnr: float, output: Path | None, as_json: bool, jobs: int = 1
) -> int:
    """Read tensor by tensor, examine, print, write; exit status 0."""
    console = console_of(140, stderr=as_json)
    stored = tensors_of(path)
    if not stored:
        raise ValueError(f"`FILE` must hold tensors; got none in {path.name}")
    with (Progress(console=console, disable=not console.is_terminal, transient=True) as bar,
          threads(jobs)):
        task = bar.add_task("examining", total=sum(math.prod(t.shape) for t in stored))
        found = examine_all(stored, progress=lambda done: bar.update(
            task, advance=math.prod(done.shape), description=done.name[-30:]))
    if output is not None:
        save_text(output, _page(path, found, sqnr))
    if as_json:
        print(json.dumps(_data(path, found, sqnr), indent=1))
    else:
        _print(console, found, sqnr)
    if output is not None:
        console.print(f"report written to {output}", soft_wrap=True, markup=False)
    return 0


def _looked_at(found: Sequence[TensorReport]) -> list[TensorReport]:
    return [r for r in found if not r.kept]


def _print(console: Console, found: Sequence[TensorReport], sqnr: float) -> None:
    grid = Table(title=f"SQNR in dB; suggested: the fewest bits with {sqnr:g} dB of the weights",
                 title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    grid.add_column("tensor", no_wrap=True, max_width=40)
    for title in ("shape", "peak", "outliers", "clip", *SHOWN):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("suggested", no_wrap=True)
    for r in _looked_at(found):
        shown = [f"{r.losses[s].sqnr:.1f}" if s in r.losses else "n/a" for s in SHOWN]
        grid.add_row(r.name[-40:], "x".join(map(str, r.shape)),
                     f"{r.largest / r.deviation:.1f}" if r.deviation else "n/a",
                     f"{100 * r.outliers:.3f} %", f"{r.clip:.2f}", *shown,
                     suggestion(r, sqnr=sqnr) or "float")
    console.print(grid)
    kept = [r for r in found if r.kept]
    if kept:
        console.print(f"{len(kept)} tensors not looked at: " + ", ".join(
            f"{r.name} ({r.kept})" for r in kept[:3]) + (", ..." if len(kept) > 3 else ""),
            soft_wrap=True, markup=False)
    count, size = _totals(found, sqnr)
    if count:
        console.print(f"{count:,} weights: {4 * count / 1e6:.2f} MB in float32, "
                      f"{size / 1e6:.2f} MB as suggested ({8 * size / count:.2f} bits a weight)",
                      soft_wrap=True)


def _totals(found: Sequence[TensorReport], sqnr: float) -> tuple[int, float]:
    """Weights that were looked at, and their bytes as suggested."""
    count, size = 0, 0.0
    for r in _looked_at(found):
        n = int(np.prod(r.shape))
        name = suggestion(r, sqnr=sqnr)
        count += n
        size += n * (r.losses[name].bits if name else 32) / 8
    return count, size


def _data(path: Path, found: Sequence[TensorReport], sqnr: float) -> dict[str, object]:
    count, size = _totals(found, sqnr)
    return {
        "file": path.name, "refquant": __version__, "sqnr": sqnr, "weights": count,
        "suggested_bytes": size,
        "tensors": [{
            "name": r.name, "shape": list(r.shape),
            **({"kept": r.kept} if r.kept else {
                "largest": r.largest, "deviation": r.deviation, "outliers": r.outliers,
                "clip": r.clip, "suggested": suggestion(r, sqnr=sqnr),
                "schemes": {s: {"bits": x.bits, "mse": x.mse,
                                "sqnr": None if np.isinf(x.sqnr) else x.sqnr}
                            for s, x in r.losses.items()}}),
        } for r in found]}


def _page(path: Path, found: Sequence[TensorReport], sqnr: float) -> str:
    """The report as one HTML file that asks for nothing from anywhere."""
    names = [s.name for s in SCHEMES]
    heads = "".join(f"<th>{html.escape(n)}</th>" for n in (
        "tensor", "shape", "peak", "outliers", "clip", *names, "suggested"))
    rows = []
    for r in _looked_at(found):
        best = suggestion(r, sqnr=sqnr)
        cells = [html.escape(r.name), "x".join(map(str, r.shape)),
                 f"{r.largest / r.deviation:.1f}" if r.deviation else "n/a",
                 f"{100 * r.outliers:.2g} %", f"{r.clip:.2f}"]
        cells += [(f"<b>{r.losses[s].sqnr:.1f}</b>" if s == best else f"{r.losses[s].sqnr:.1f}")
                  if s in r.losses else "" for s in names]
        rows.append("<tr>" + "".join(f"<td>{c}</td>" for c in [*cells, best or "float"]) + "</tr>")
    kept = "".join(f"<li>{html.escape(r.name)}: {html.escape(r.kept)}</li>"
                   for r in found if r.kept)
    count, size = _totals(found, sqnr)
    saved = (f"{count:,} weights, {4 * count / 1e6:.2f} MB in float32, {size / 1e6:.2f} MB as "
             "suggested." if count else "No matrix of floats was found.")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(path.name)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{html.escape(path.name)}</h1>\n<p>{saved} Suggested is what has the fewest bits and "
        f"an SQNR of {sqnr:g} dB; the figures are SQNR of the weights in dB. Peak: largest "
        "magnitude in deviations; outliers: share beyond six deviations; clip: best bound of "
        f"int4 over the largest.</p>\n{_plot(found)}<div><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>\n{chr(10).join(rows)}\n</tbody></table></div>\n"
        + (f"<h2>Not looked at</h2><ul>{kept}</ul>\n" if kept else "") + "</body></html>\n")


def _plot(found: Sequence[TensorReport]) -> str:
    """SQNR over bits, a dot for each tensor and scheme; a sentence if matplotlib is missing."""
    reports = _looked_at(found)
    if not reports:
        return ""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return "<p>There is no plot: matplotlib is not installed.</p>\n"
    with mpl.rc_context({"svg.hashsalt": "refquant", "font.size": 9}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots()
        for scheme in SCHEMES:
            points = [(r.losses[scheme.name].bits, r.losses[scheme.name].sqnr) for r in reports
                      if scheme.name in r.losses and np.isfinite(r.losses[scheme.name].sqnr)]
            if points:
                axes.plot(*np.transpose(points), "o", ms=4, alpha=0.6, label=scheme.name)
        axes.set(xlabel="bits a weight", ylabel="SQNR (dB)")
        axes.legend(ncols=3, fontsize=8)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return f'<figure role="img" aria-label="SQNR over bits">{svg[svg.index("<svg"):]}</figure>\n'


STYLE = (
    ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:1200px;"
    "margin:2rem auto;padding:0 1rem}figure{margin:0;background:#fff}svg{max-width:100%;"
    "height:auto}div{overflow-x:auto}table{border-collapse:collapse;font-size:.85em}"
    "td,th{padding:.2em .6em;text-align:right;white-space:nowrap}"
    "td:first-child,th:first-child,td:last-child,th:last-child{text-align:left}"
    "tr+tr{border-top:1px solid #8884}"
)
