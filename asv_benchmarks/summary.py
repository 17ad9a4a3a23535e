"""Static summary of stored asv results: ``python summary.py results -o summary``.

Writes index.html (tables and sparklines, complete in itself, works from a file), summary.md and
badge.svg. Reads ``results/benchmarks.json`` and ``results/<machine>/<commit>-<env>.json``.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Run(NamedTuple):
    machine: str
    date: int
    commit: str
    table: dict[tuple[str, tuple[str, ...]], float]     # (benchmark, parameters) -> value


class Line(NamedTuple):
    """What became of one benchmark at one combination of parameters."""

    name: str
    parameters: str
    unit: str
    values: list[float]
    worse: bool
    jump: str       # the commit of the largest step up, if that step is too large

    @property
    def ratio(self) -> float:
        best, last = min(self.values), self.values[-1]
        return last / best if best > 0 else 1.0 if last == best else math.inf


def load(results: Path) -> tuple[dict, list[Run]]:
    """Units, and the runs of the machine that ran last, in the order of history."""
    meta = json.loads((results / "benchmarks.json").read_text())
    runs = []
    for file in sorted(results.glob("*/*.json")):
        if file.name == "machine.json":
            continue
        stored = json.loads(file.read_text())
        table = {}
        for name, row in stored["results"].items():
            record = dict(zip(stored["result_columns"], row, strict=False))
            combos = itertools.product(*(record.get("params") or []))
            for combo, value in zip(combos, record.get("result") or [], strict=False):
                if value is not None and math.isfinite(value):
                    table[name, tuple(word.strip("'") for word in combo)] = value
        runs.append(Run(file.parent.name, stored["date"], stored["commit_hash"], table))
    # By history, not by date: dates tie and go backwards.
    command = ["git", "-C", str(results), "rev-list", "--topo-order", "--reverse", "HEAD"]
    history = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    order = {name: i for i, name in enumerate(history)}
    runs.sort(key=lambda run: (order.get(run.commit, -1), run.date))
    return meta, [run for run in runs if run.machine == runs[-1].machine]


def lines_of(meta: dict, runs: list[Run], time_factor: float, quality_factor: float) -> list[Line]:
    series: dict[tuple[str, tuple[str, ...]], list[tuple[str, float]]] = {}
    for run in runs:
        for key, value in run.table.items():
            series.setdefault(key, []).append((run.commit[:8], value))
    lines = []
    for (name, combo), points in sorted(series.items()):
        limit = quality_factor if ".track_" in name else time_factor
        jumps = [(b / a, commit) for (_, a), (commit, b) in itertools.pairwise(points) if a > 0]
        factor, commit = max(jumps, default=(1.0, ""))
        unit = meta.get(name, {}).get("unit", "")
        jump = f"{commit} ×{factor:.3g}" if factor > limit else ""
        line = Line(name, ", ".join(combo), unit, [v for _, v in points], False, jump)
        lines.append(line._replace(worse=line.ratio > limit))
    return lines


def human(value: float, unit: str) -> str:
    """A number as a reader wants it: decibels and accuracy beside what asv can compare."""
    if unit == "seconds":
        for scale, name in ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")):
            if value >= scale:
                return f"{value / scale:.3g} {name}"
    if unit == "bytes":
        return f"{value / 2**20:.1f} MiB"
    if unit == "error rate":
        return f"{value:.4g} ({1 - value:.1%} right)"
    if "noise" in unit and "signal" in unit and value > 0:
        return f"{value:.4g} ({-10 * math.log10(value):.2f} dB)"
    return f"{value:.4g} {unit}".strip()


def sparkline(values: list[float], width: int = 120, height: int = 24) -> str:
    low, high = min(values), max(values)
    step = width / max(len(values) - 1, 1)
    rise = (height - 6) / ((high - low) or 1)
    points = [f"{i * step:.1f},{height - 3 - (v - low) * rise:.1f}" for i, v in enumerate(values)]
    if len(points) == 1:
        points.append(f"{width},{height - 3}")
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="from {low:.4g} to {high:.4g} in {len(values)} commits">'
        f'<polyline points="{" ".join(points)}" fill="none" stroke="#2f81c7" stroke-width="1.5"/>'
        "</svg>"
    )


def badge(label: str, text: str, *, good: bool) -> str:
    a, b = 7 * len(label) + 12, 7 * len(text) + 12
    colour = "#2ea44f" if good else "#d1490c"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{a + b}" height="20" role="img" '
        f'aria-label="{label}: {text}"><rect width="{a}" height="20" fill="#555"/>'
        f'<rect x="{a}" width="{b}" height="20" fill="{colour}"/>'
        '<g fill="#fff" font-family="DejaVu Sans,Verdana,sans-serif" font-size="11">'
        f'<text x="6" y="14">{label}</text><text x="{a + 6}" y="14">{text}</text></g></svg>\n'
    )


STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:14px/1.4 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.25em .7em;text-align:left}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}tr+tr{border-top:1px solid #8884}"
    ".worse td{color:#d1490c}"
)


def page(title: str, intro: str, lines: list[Line]) -> str:
    rows = [
        f"<tr{' class=worse' if x.worse else ''}><td><code>{html.escape(x.name)}</code>"
        f"<td>{html.escape(x.parameters)}<td class=n>{human(x.values[-1], x.unit)}"
        f"<td class=n>{human(min(x.values), x.unit)}<td class=n>×{x.ratio:.3g}"
        f"<td>{sparkline(x.values)}<td>{x.jump}</tr>"
        for x in lines
    ]
    head = "".join(
        f"<th scope=col{' class=n' if name in ('latest', 'best', 'change') else ''}>{name}"
        for name in ("benchmark", "parameters", "latest", "best", "change", "history", "worst jump")
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1><p>{html.escape(intro)}</p>"
        f"<table><thead><tr>{head}</thead><tbody>{''.join(rows)}</tbody></table></html>\n"
    )


def markdown(intro: str, lines: list[Line]) -> str:
    rows = [
        "| benchmark | parameters | latest | best | change | worst jump |",
        "|---|---|---:|---:|---:|---|",
    ]
    for x in lines:
        ratio = f"**×{x.ratio:.3g}**" if x.worse else f"×{x.ratio:.3g}"
        last, best = human(x.values[-1], x.unit), human(min(x.values), x.unit)
        rows.append(f"| `{x.name}` | {x.parameters} | {last} | {best} | {ratio} | {x.jump} |")
    return f"{intro}\n\n" + "\n".join(rows) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("summary"))
    parser.add_argument("--time-factor", type=float, default=1.3)
    parser.add_argument("--quality-factor", type=float, default=1.001)
    asked = parser.parse_args()
    try:
        meta, runs = load(asked.results)
    except (OSError, IndexError):
        print(f"`results` must hold results of asv; got {asked.results}", file=sys.stderr)
        return 3
    lines = lines_of(meta, runs, asked.time_factor, asked.quality_factor)
    worse = sum(line.worse for line in lines)
    intro = (
        f"Machine {runs[-1].machine}, {len(runs)} commits from {runs[0].commit[:8]} to "
        f"{runs[-1].commit[:8]}, {len(lines)} series, {worse} worse than their best. "
        "Lower is better everywhere."
    )
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "summary.md").write_text(markdown(intro, lines))
    text = f"{len(lines)} series, {worse} worse"
    (asked.out / "badge.svg").write_text(badge("benchmarks", text, good=worse == 0))
    (asked.out / "index.html").write_text(page("refquant benchmarks", intro, lines))
    print(f"{text} -> {asked.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
