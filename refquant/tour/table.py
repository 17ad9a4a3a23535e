"""The tour as a table on the terminal, 100 columns wide; narrower if it must."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from refquant.tour.subject import Row

if TYPE_CHECKING:
    from refquant.tour.guide import Measured

__all__ = ["HEADINGS", "cells", "print_table"]

HEADINGS = ("", "bits/w", "MSE", "SQNR", "expected", "", "outliers", "digits", "time")


def print_table(console: Console, measured: Sequence["Measured"], reference: float) -> None:
    """All rows under the headings of their groups, and what the columns mean."""
    table = Table(
        box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0, highlight=False
    )
    for i, heading in enumerate(HEADINGS):
        text = i in (0, 5)                  # on a narrow terminal these fold, figures stay whole
        table.add_column(
            heading, justify="left" if text else "right", no_wrap=not text, overflow="fold"
        )
    for group in measured:
        table.add_section()
        table.add_row(f"[bold]{group.title}[/bold]")
        for row in group.rows:
            good = all(claim.holds for claim in row.claims)
            name, *rest = cells(row)
            table.add_row(f"{' ' if good else '✗'}{name}", *rest, style=None if good else "red")
    console.print(table)
    console.print(
        "bits/w: bits per weight, all parameters counted. MSE, SQNR: on a layer of unit Gauss "
        "weights, in dB; expected: the same by theory or publication. outliers: SQNR on a layer "
        "with outliers. digits: accuracy of the shipped network on held-out digits; "
        f"{reference:.2%} in float32.",
        highlight=False,
    )


def cells(row: Row, *, timed: bool = True) -> list[str]:
    """The texts of one row; a dash where a column does not apply."""
    out = [
        row.name,
        _text(row.bits, ".3f"),
        _text(row.mse, ".4f" if row.mse >= 1e-3 else ".1e"),
        _text(row.sqnr, ".2f"),
        _text(row.expected, ".2f"),
        row.source,
        _text(row.outliers, ".2f"),
        _text(row.accuracy, ".1%"),
    ]
    return [*out, _time(row.seconds)] if timed else out


def _text(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "–"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.01 else f"{1000 * seconds:.1f} ms"
