"""The tour as one HTML file: no request to anywhere, light and dark, the same bytes every time.

Times are left out: they are the one thing that changes from run to run, and stand in the table
on the terminal.
"""

import html
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refquant import __version__
from refquant.tour.figures import Drawing, draw
from refquant.tour.subject import Row, Subject
from refquant.tour.table import HEADINGS, cells

if TYPE_CHECKING:
    from refquant.tour.guide import Measured

__all__ = ["page", "write_report"]


def write_report(
    output: Path, measured: Sequence["Measured"], subject: Subject, reference: float
) -> bool:
    """Write the whole report or nothing; False if it has no plots, for want of matplotlib."""
    drawings = draw(subject)
    text = page(measured, drawings, reference, quick=subject.quick)
    handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(output)
    except BaseException:                   # Ctrl-C too: leave nothing half-written
        Path(name).unlink(missing_ok=True)
        raise
    return drawings is not None


def page(
    measured: Sequence["Measured"],
    drawings: Sequence[Drawing] | None,
    reference: float,
    *,
    quick: bool,
) -> str:
    """The report as text."""
    claims = [claim for group in measured for row in group.rows for claim in row.claims]
    failed = sum(not claim.holds for claim in claims)
    verdict = f"All {len(claims)} claims hold." if not failed else (
        f"{failed} of {len(claims)} claims do not hold."
    )
    state = "good" if not failed else "bad"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>refquant tour</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        "<h1>refquant tour</h1>\n"
        f"<p>Every concept of refquant {__version__}, measured on a trained network that reads "
        f"{reference:.2%} of held-out digits in float32, and on synthetic layers"
        f"{' (the quick tour: smaller layers, fewer digits)' if quick else ''}. "
        f'<strong class="{state}">{verdict}</strong></p>\n'
        f"{_figures(drawings)}{_table(measured)}{_claims(measured)}</body>\n</html>\n"
    )


def _figures(drawings: Sequence[Drawing] | None) -> str:
    if drawings is None:
        return (
            "<p>There are no plots: matplotlib was not installed. Install it by "
            "<code>pip install -e &quot;.[plot]&quot;</code> and take the tour again.</p>\n"
        )
    figures = "".join(
        f'<figure><div role="img" aria-label="{html.escape(drawing.alt)}">{drawing.svg}</div>'
        f"<figcaption>{html.escape(drawing.caption)}</figcaption></figure>\n"
        for drawing in drawings
    )
    return f'<section class="figures">\n{figures}</section>\n'


def _table(measured: Sequence["Measured"]) -> str:
    heads = "".join(
        f'<th scope="col"{_kind(i)}>{heading or ("concept" if i == 0 else "source")}</th>'
        for i, heading in enumerate(HEADINGS[:-1])
    )
    bodies = []
    for group in measured:
        rows = "".join(_row(row) for row in group.rows)
        bodies.append(
            f'<tbody>\n<tr><th scope="rowgroup" colspan="{len(HEADINGS) - 1}">'
            f"{html.escape(group.title)} <small>{html.escape(group.intro)}</small></th></tr>\n"
            f"{rows}</tbody>\n"
        )
    return (
        "<h2>The table</h2>\n"
        "<p>bits/w: bits per weight, all parameters counted. MSE and SQNR (dB): on a layer of "
        "unit Gauss weights; expected: the same by theory or publication. outliers: SQNR on a "
        "layer with outliers. digits: accuracy on held-out digits. Times are left out, so that "
        "this file is the same every time; the terminal shows them.</p>\n"
        f'<div class="wide"><table>\n<thead><tr>{heads}</tr></thead>\n{"".join(bodies)}'
        "</table></div>\n"
    )


def _row(row: Row) -> str:
    bad = not all(claim.holds for claim in row.claims)
    texts = [html.escape(text) for text in cells(row, timed=False)]
    name = f'<th scope="row">{"FAILED " if bad else ""}{texts[0]}</th>'
    rest = "".join(f"<td{_kind(i)}>{text}</td>" for i, text in enumerate(texts) if i)
    return f"<tr{' class=bad' if bad else ''}>{name}{rest}</tr>\n"


def _claims(measured: Sequence["Measured"]) -> str:
    items = "".join(
        f'<li class="{"good" if claim.holds else "bad"}">{"" if claim.holds else "FAILED "}'
        f"{html.escape(claim.sentence)}</li>\n"
        for group in measured
        for row in group.rows
        for claim in row.claims
    )
    return (
        "<h2>The claims</h2>\n<details open><summary>Each was checked by this run</summary>\n"
        f"<ul>\n{items}</ul></details>\n"
    )


def _kind(column: int) -> str:
    return "" if column in (0, 5) else ' class="n"'


STYLE = (
    ":root{color-scheme:light dark;--ink:#1d2329;--paper:#fff;--line:#0002;--good:#1a7f37;"
    "--bad:#c0350a}"
    "@media(prefers-color-scheme:dark){:root{--ink:#dfe4ea;--paper:#14181d;--line:#fff3;"
    "--good:#4ac26b;--bad:#ff8a5c}}"
    "body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);"
    "max-width:1080px;margin:2rem auto;padding:0 1rem}"
    "h1,h2{line-height:1.2}.good{color:var(--good)}.bad,.bad th{color:var(--bad)}"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));"
    "gap:1rem 2rem}"
    "figure{margin:0}figure svg{width:100%;height:auto;display:block}"
    "figcaption{font-size:.9em;opacity:.85}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9em}"
    "th,td{padding:.2em .7em;text-align:left;font-weight:normal;white-space:nowrap}"
    "thead th,th[scope=rowgroup]{font-weight:600}th[scope=rowgroup]{padding-top:1em}"
    "small{font-weight:normal;opacity:.75;margin-left:.6em}"
    "tbody tr+tr{border-top:1px solid var(--line)}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}"
    "li{font-size:.9em}li.good{color:inherit}"
)
