"""The command ``refquant latency``: measure our kernels here, print and save the table."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE
from rich.progress import Progress
from rich.table import Table

from refquant.apply.costs import layer_shapes
from refquant.apply.latency import KERNELS, measure, measure_in_a_row
from refquant.interop._files import save_text
from refquant.mixed_precision.latency_table import LatencyTable, Shape, to_json
from refquant.nn.data import digits
from refquant.nn.models import trained_digits_cnn
from refquant.workflow._terminal import console_of

__all__ = ["latency", "parsed"]


def parsed(texts: Sequence[str]) -> dict[str, Shape]:
    """Shapes written as ``ROWSxINPUTSxOUTPUTS``, by that text."""
    found = {}
    for text in texts:
        match = re.fullmatch(r"(\d{1,7})x(\d{1,7})x(\d{1,7})", text)
        rows, inputs, outputs = map(int, match.groups()) if match else (0, 0, 0)
        if not rows * inputs * outputs:
            raise ValueError(f"`--shape` must be ROWSxINPUTSxOUTPUTS, as 1x4096x4096; got {text}")
        if max(rows * inputs, inputs * outputs, rows * outputs) > 2**28:
            raise ValueError(f"`--shape` must have matrices of at most 2**28 numbers; got {text}")
        found[text] = Shape(rows, inputs, outputs)
    return found


def latency(shapes: Sequence[str], *, seconds: float, output: Path | None) -> int:
    """Measure, print, save; exit status 0."""
    named = parsed(shapes)
    console = console_of(110)
    if not named:
        model = trained_digits_cnn()
        named = layer_shapes(model.nodes, {"x": digits().x_test[:1], **model.values})
    rng = np.random.default_rng(0)
    distinct = len(set(named.values()))
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("measuring", total=distinct * len(KERNELS))
        table = measure(named.values(), rng=rng, seconds=seconds,
                        progress=lambda shape, w, a: bar.advance(task))
    console.print(_printed(named, table))
    for w, a in ((32, 32), (8, 8)):
        one = [w] * len(named), [a] * len(named)
        total = table.total(named.values(), *one)
        whole = measure_in_a_row(list(named.values()), *one, rng=rng, seconds=seconds)
        console.print(f"W{w}A{a}: sum of the table {1e6 * total:.1f} us; "
                      f"one after the other {1e6 * whole:.1f} us")
    if output is not None:
        save_text(output, to_json(table))
        console.print(f"table of {table.machine} written to {output}")
    return 0


def _printed(named: Mapping[str, Shape], table: LatencyTable) -> Table:
    grid = Table(title="microseconds of one call, the least of many; dw: depthwise",
                 title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    grid.add_column("layer", no_wrap=True)
    grid.add_column("rows, in, out", justify="right", no_wrap=True)
    for w, a in KERNELS:
        grid.add_column(f"W{w}A{a}", justify="right", no_wrap=True)
    for name, shape in named.items():
        entries = [table.seconds.get((shape, w, a)) for w, a in KERNELS]
        sizes = f"{shape.rows}, {shape.inputs}, {shape.outputs}"
        grid.add_row(name.removesuffix(".weight"), sizes + (" dw" if shape.depthwise else ""),
                     *("n/a" if t is None else f"{1e6 * t:.4g}" for t in entries))
    return grid
