"""What ``refquant workflow`` tells: on the terminal, as JSON, as a page."""

import html
import io
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refquant import __version__
from refquant.workflow._report import STYLE
from refquant.workflow.fairness import Subgroups
from refquant.workflow.judging import Drop
from refquant.workflow.ladder import Step
from refquant.workflow.onnx_ladder import Blame
from refquant.workflow.shift import Fall, Shift

__all__ = ["ACCURACY", "ANSWERS", "SAME", "GroupRow", "Moved", "Story", "data_of", "page_of",
           "rows_of", "tell"]

#: What is counted in answers, and hence shown in per cent.
ACCURACY, SAME = ANSWERS = ("accuracy", "same answer as float")
#: The last column is a number here.
RIGHT = "td:last-child,th:last-child{text-align:right}"
#: Rows of a table that are shown; all of them are in the JSON and on the page.
SHOWN = 8


class GroupRow(NamedTuple):
    """One subgroup before and after; flips only where an example has one answer."""

    name: str
    n: int
    before: float
    after: float
    drop: float
    low: float
    high: float
    flips: float | None = None


class Moved(NamedTuple):
    """Both models on other data, and what enters the layers there."""

    name: str
    n: int
    measure: str
    drop: Drop
    fall: Fall | None
    values: dict[str, Shift]


class Story(NamedTuple):
    """A run of the ladder; scores are shares, drops too, and `max_drop` is in points."""

    name: str
    measure: str
    why: str
    parts: dict[str, int]
    float_size: int
    max_drop: float
    baseline: float
    steps: Sequence[Step]
    reached: bool
    judged: Drop
    decibels: float
    blamed: Sequence[Blame]
    groups: Sequence[GroupRow]
    moved: Moved | None
    notes: Sequence[str]
    advice: Sequence[str]

    @property
    def best(self) -> Step:
        """The rung whose network is kept."""
        return self.steps[-1] if self.reached else max(self.steps, key=lambda s: s.score)

    @property
    def stopped(self) -> str:
        """Why it stopped."""
        near = f"within {self.max_drop:g} point{'s' if self.max_drop != 1 else ''} of float"
        if self.reached:
            return f"Stopped at {self.best.name}: {near}."
        return (f"No rung is {near}; the best is "
                f"{self.best.name}, {_points(self.best.drop)} points below.")


def rows_of(made: Subgroups) -> list[GroupRow]:
    """The groups that have examples, the largest drop first."""
    return [GroupRow(str(g.name), g.n, g.before, g.after, g.drop, *g.drop_interval, g.flips)
            for g in made.groups if g.n]


def tell(console: Console, story: Story) -> None:
    """Print it."""
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    say(f"{story.name}: judged by {story.measure}, {story.why}.")
    say("; ".join(f"{n} examples {what}" for what, n in story.parts.items())
        + "; no example in two of them.")
    for title, heads, rows in _tables(story):
        table = Table(title=title or None, title_justify="left", box=SIMPLE)
        for i, head in enumerate(heads):
            table.add_column(head, justify="right" if i else "left", no_wrap=True)
        for row in rows[:SHOWN] if title else rows:
            table.add_row(*map(Text, row))          # a name may have brackets
        console.print(table)
        if title and len(rows) > SHOWN:
            say(f"  and {len(rows) - SHOWN} more")
        if not title:
            for line in _verdict(story):
                say(line)
    for line in (*story.notes, *story.advice):
        say(line)


def data_of(story: Story) -> dict[str, Any]:
    """For JSON: figures as they are, None where there is no number."""
    best = story.best
    moved = story.moved
    made = {
        "model": story.name, "refquant": __version__, "judge": story.measure, "why": story.why,
        "examples": story.parts, "max_drop_points": story.max_drop,
        "float": {"score": story.baseline, "bytes": story.float_size},
        "rungs": [s._asdict() for s in story.steps], "reached": story.reached,
        "kept": best.name, "stopped": story.stopped,
        "judged": _drop(story.judged), "output_sqnr": story.decibels,
        "layers": [b._asdict() for b in story.blamed],
        "groups": [g._asdict() for g in story.groups],
        "shifted": None if moved is None else {
            "data": moved.name, "examples": moved.n, "judge": moved.measure,
            **_drop(moved.drop),
            "excess": None if moved.fall is None else moved.fall.excess,
            "excess_interval": None if moved.fall is None else [*moved.fall.interval],
            "values": {n: s._asdict() for n, s in moved.values.items()}},
        "notes": [*story.notes], "advice": [*story.advice]}
    return {key: _plain(value) for key, value in made.items()}


def page_of(story: Story) -> str:
    """One HTML file that asks for nothing from anywhere."""
    def paragraph(lines: Iterable[str]) -> str:
        return "".join(f"<p>{html.escape(line)}</p>\n" for line in lines)

    parts = "; ".join(f"{n} {what}" for what, n in story.parts.items())
    body = paragraph([f"Judged by {story.measure}, {story.why}.",
                      f"Examples: {parts}; none in two of them."])
    for title, heads, rows in _tables(story):
        top = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
        cells = "\n".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>"
                          for row in rows)
        body += (f"<h2>{html.escape(title or 'What was tried')}</h2>\n<div><table><thead><tr>{top}"
                 f"</tr></thead><tbody>\n{cells}\n</tbody></table></div>\n")
        if not title:
            body += paragraph(_verdict(story)) + _plot(story)
    body += "<h2>What else there is to say</h2>\n" + paragraph([*story.notes, *story.advice])
    name = html.escape(story.name)
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{name}</title><style>{STYLE}{RIGHT}</style></head><body>\n<h1>{name}</h1>\n"
            f"{body}</body></html>\n")


def _verdict(story: Story) -> list[str]:
    j = story.judged
    lines = [story.stopped, f"Examples that chose nothing: float {_share(story, j.before)}, "
             f"quantized {_share(story, j.after)}; drop {100 * j.drop:+.1f} points, in "
             f"[{100 * j.interval.low:+.1f}, {100 * j.interval.high:+.1f}] at 95 %."]
    if j.drop * 100 > story.max_drop and story.reached:
        lines.append(f"There it is more than {story.max_drop:g}: the examples that chose were "
                     "kinder, or too few.")
    if story.blamed:
        most = ", ".join(f"{b.layer.removesuffix('.weight')} ({b.gain:+.1f})"
                         for b in story.blamed[:3])
        lines.append(f"The output has {story.decibels:.1f} dB; most would be gained by float "
                     f"weights in {most}.")
    if story.groups and story.groups[0].drop > 0:
        g = story.groups[0]
        lines.append(f"Most lost: {g.name}, {_share(story, g.before)} to {_share(story, g.after)}, "
                     f"drop in [{100 * g.low:+.1f}, {100 * g.high:+.1f}].")
    if story.moved is not None:
        lines.append(_moved(story.moved))
    return lines


def _moved(m: Moved) -> str:
    text = (f"On {m.name} ({m.n} examples): {m.measure}, float "
            f"{_figure(m.measure, m.drop.before)}, quantized {_figure(m.measure, m.drop.after)}")
    if m.fall is not None:
        low, high = m.fall.interval
        text += (f"; quantization adds {100 * m.fall.excess:+.1f} points to the fall, in "
                 f"[{100 * low:+.1f}, {100 * high:+.1f}]")
    worst = next(iter(m.values.items()), None)
    if worst is not None:
        name, s = worst
        text += (f"; outside of its range most: {name}, {100 * s.clipped_before:.2f} % of the "
                 f"values before, {100 * s.clipped:.2f} % now")
    return text + "."


def _tables(story: Story) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, heads and rows; the first has no title."""
    rungs = [["float", "32", f"{story.float_size:,}", _share(story, story.baseline), "", ""]] + [
        [s.name, f"{s.bits:.2f}", f"{s.size:,}", _share(story, s.score), f"{100 * s.drop:+.1f}",
         f"{s.seconds:.1f}"] for s in story.steps]
    found = [("", ["rung", "bits a weight", "bytes", story.measure, "drop", "seconds"], rungs)]
    if story.blamed:
        found.append(("Each layer alone in float: what the output gains",
                      ["layer", "bits", "bytes", "gain, dB", story.measure],
                      [[b.layer, str(b.bits), f"{b.size:,}", f"{b.gain:+.2f}",
                        _share(story, b.score)] for b in story.blamed]))
    if story.groups:
        found.append(("Groups, the largest drop first",
                      ["group", "n", "float", "quantized", "drop", "95 %", "flips"],
                      [[g.name, str(g.n), _share(story, g.before), _share(story, g.after),
                        f"{100 * g.drop:+.1f}", f"{100 * g.low:+.1f} to {100 * g.high:+.1f}",
                        "n/a" if g.flips is None else f"{100 * g.flips:.1f} %"]
                       for g in story.groups]))
    if story.moved is not None:
        found.append((f"What enters the layers on {story.moved.name}",
                      ["value", "outside before", "outside now", "beyond", "distance"],
                      [[n, f"{100 * s.clipped_before:.2f} %", f"{100 * s.clipped:.2f} %",
                        f"{s.beyond:.2f}", f"{s.distance:.2f}"]
                       for n, s in story.moved.values.items()]))
    return found


def _points(drop: float) -> str:
    """Of a drop, with the digits that tell it from a target below one point."""
    points = 100 * drop
    return f"{points:.1f}" if points >= 1 else f"{points:.2g}"


def _share(story: Story, value: float) -> str:
    return _figure(story.measure, value)


def _figure(measure: str, value: float) -> str:
    return f"{100 * value:.1f}%" if measure in ANSWERS else f"{value:.4f}"


def _drop(drop: Drop) -> dict[str, Any]:
    return {"float": drop.before, "quantized": drop.after, "drop": drop.drop,
            "interval": [*drop.interval]}


def _plain(value: Any) -> Any:
    """What JSON has: no infinities, no NaN, no tuples."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value


def _plot(story: Story) -> str:
    """Score of each rung; a sentence if matplotlib is missing."""
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return "<p>There is no plot: matplotlib is not installed.</p>\n"
    with mpl.rc_context({"svg.hashsalt": "refquant", "font.size": 9}):
        figure = Figure(figsize=(8, 3), layout="constrained")
        axes = figure.subplots()
        axes.plot([100 * s.score for s in story.steps], "o-")
        axes.axhline(100 * story.baseline, color="C2", lw=1)
        axes.axhline(100 * story.baseline - story.max_drop, color="C1", lw=1)
        axes.set_xticks(range(len(story.steps)), [s.name[-30:] for s in story.steps],
                        rotation=30, ha="right")
        axes.set(ylabel=f"{story.measure}, points")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    return (f'<figure role="img" aria-label="Score of each rung; lines: float, and what is '
            f'good enough">{svg[svg.index("<svg"):]}</figure>\n')
