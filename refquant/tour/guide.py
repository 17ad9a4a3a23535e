"""Lead the tour: every row of every group, then the table, the report and the verdict."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from refquant.tour import (
    activations,
    born,
    calibration,
    companions,
    formats,
    frontier,
    granularity,
    integer,
    kernels,
    levels,
    mixed,
    nonste,
    outputs,
    practice,
    repair,
    rounding,
    search,
    synthesis,
    teaching,
    training,
    uniform,
)
from refquant.tour.report import write_report
from refquant.tour.subject import Claim, Row, RowFunction, Subject
from refquant.tour.table import print_table

__all__ = ["GROUPS", "Group", "measure", "take_tour"]


class Group(NamedTuple):
    """Rows that belong together, and what they share."""

    title: str
    intro: str
    rows: Sequence[RowFunction]


class Measured(NamedTuple):
    """A group whose rows were measured."""

    title: str
    intro: str
    rows: list[Row]


GROUPS = [
    Group("Rounding", "4-bit weights, one scale; only the rounding differs", rounding.ROWS),
    Group("Uniform levels", "the laws of theory; min-max bounds, one scale", uniform.ROWS),
    Group("Granularity", "4-bit weights; one scale per ...", granularity.ROWS),
    Group("Calibration", "4-bit weights, one scale; the rule for the range differs",
          calibration.ROWS),
    Group("Uneven levels", "by formula or density, per tensor; NF4 in blocks of 64", levels.ROWS),
    Group("Other formats", "levels of other shapes; scales in small blocks", formats.ROWS),
    Group("Activations", "weights per channel, and the inputs of layers", activations.ROWS),
    Group("Repair", "batch norms folded, 4-bit weights, one scale; no training", repair.ROWS),
    Group("Rounding for the output", "a plain network in 2 bits per channel, a character model in "
          "groups of 32", outputs.ROWS),
    Group("Training", "weights and activations in 2 bits, first and last layer in 8",
          training.ROWS),
    Group("Teaching", "2-bit weights on fixed grids, ends in float; trained by taps",
          teaching.ROWS),
    Group("Without straight-through", "what a step of training sees of 4-bit and binary weights",
          nonste.ROWS),
    Group("Born in few bits", "trained from the first step without floats behind the weights",
          born.ROWS),
    Group("Mixed precision", "ten layers share 4 bits a weight; clipped, one scale each",
          mixed.ROWS),
    Group("Searched widths", "a width for each weight, 3 bits on average, no training",
          search.ROWS),
    Group("Companions", "numbers left out, not trained again; the layer to blame; who pays",
          companions.ROWS),
    Group("Practice", "what report, quantize and workflow are made of; moved data; tasks compared",
          practice.ROWS),
    Group("In a loop, by input", "points drawn by a formula with a state of 8 bits; two widths of "
          "one network", frontier.ROWS),
    Group("No data", "a plain network in 2-bit weights and 4-bit activations, trained on 64 images",
          synthesis.ROWS),
    Group("Integers", "8 bits by the kernels of runtimes, and fast twins of slow definitions",
          integer.ROWS),
    Group("Kernels", "16 rows of activations by a layer of packed codes", kernels.ROWS),
]


def take_tour(*, quick: bool, output: Path) -> int:
    """Exit status: 0, or 1 if a claim does not hold."""
    measured, subject = measure(GROUPS, quick=quick)
    console = Console(width=None if sys.stdout.isatty() else _piped_width())
    reference = subject.accuracy()
    drawn = write_report(output, measured, subject, reference)      # first: stdout may be closed
    print_table(console, measured, reference)
    if not drawn:
        print(
            f'{output} has no plots: they need matplotlib; install it by: pip install -e ".[plot]"',
            file=sys.stderr,
        )
    claims = [claim for group in measured for row in group.rows for claim in row.claims]
    failed = [claim for claim in claims if not claim.holds]
    console.print(_verdict(claims, failed, output), markup=False, highlight=False, soft_wrap=True)
    return 1 if failed else 0


def measure(groups: Sequence[Group], *, quick: bool) -> tuple[list[Measured], Subject]:
    """Every row of every group, with progress on stderr: a bar, or lines when piped."""
    subject = Subject.make(quick=quick)
    total = sum(len(group.rows) for group in groups)
    measured = []
    if not sys.stderr.isatty():
        for group in groups:
            print(f"tour: {group.title}, {len(group.rows)} rows", file=sys.stderr, flush=True)
            rows = [row(subject) for row in group.rows]
            measured.append(Measured(group.title, group.intro, rows))
        return measured, subject
    columns = (TextColumn("{task.description:16}"), BarColumn(), MofNCompleteColumn(),
               TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        for group in groups:
            progress.update(task, description=group.title)
            rows = []
            for row in group.rows:
                rows.append(row(subject))
                progress.advance(task)
            measured.append(Measured(group.title, group.intro, rows))
    return measured, subject


def _verdict(claims: Sequence[Claim], failed: Sequence[Claim], output: Path) -> str:
    if not failed:
        return f"All {len(claims)} claims hold. Plots and claims: {output}"
    lines = [f"FAILED  {claim.sentence}" for claim in failed]
    return "\n".join([*lines, f"{len(failed)} of {len(claims)} claims do not hold. See {output}"])


def _piped_width() -> int:
    columns = os.environ.get("COLUMNS", "")
    return (int(columns) if columns.isdecimal() else 0) or 100
