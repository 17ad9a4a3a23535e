"""Rows on repair without training: the network folded, its weights in 4 bits, one scale each."""

from collections.abc import Mapping
from functools import lru_cache, partial

import numpy as np

from refquant._types import Array
from refquant.apply.repair import (
    correct_biases,
    correct_biases_without_data,
    equalize,
    norm_statistics,
)
from refquant.apply.rewrite import fold_batch_norms
from refquant.apply.simulate import weight_names
from refquant.calibration.minmax import absmax
from refquant.metrics import sqnr
from refquant.nn.network import run
from refquant.quantizer import bits_per_element, fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

BITS = 4


def repair_row(
    subject: Subject, *, name: str, equalized: bool, data: bool | None, gain: float
) -> Row:
    """One repair; `data` tells whether biases are corrected with data, without, or not at all."""
    model, images = subject.model, subject.data.x_test
    nodes, values = fold_batch_norms(model.nodes, model.values)
    exact = run(nodes, {"x": images, **values}).values["logits"]
    statistics, layers = norm_statistics(model.nodes, model.values), weight_names(nodes)
    if equalized:
        values, statistics = equalize(nodes, values, statistics)[:2]
    made = _rounded(values, layers)
    if data is True:
        made = correct_biases(nodes, values, made, {"x": subject.data.x_train[:256]})
    if data is False:
        made = correct_biases_without_data(nodes, values, made, statistics)
    logits = run(nodes, {"x": images, **made}).values["logits"]
    sizes = np.array([values[layer].size for layer in layers])
    bits = [bits_per_element(_fit(values[layer]), values[layer].shape) for layer in layers]
    row = Row(
        name,
        bits=float(np.average(bits, weights=sizes)),
        sqnr=sqnr(exact, logits),
        source="(of the logits)",
        accuracy=float((logits.argmax(1) == subject.data.y_test).mean()),
    )
    if equalized:
        kept = run(nodes, {"x": images, **values}).values["logits"]
        off = float(np.abs(kept - exact).max() / np.abs(exact).max())
        row = row.claim(f"in float the logits move by {off:.0e}, at most 1e-5", off <= 1e-5)
    if gain:
        more = row.sqnr - _unrepaired(subject)
        row = row.claim(f"gains {more:.1f} dB, at least {gain:g}", more >= gain)
    return row


@lru_cache(maxsize=1)
def _unrepaired(subject: Subject) -> float:
    """SQNR of the logits with rounded weights and nothing else."""
    return repair_row(subject, name="", equalized=False, data=None, gain=0).sqnr


def _fit(weight: Array) -> Uniform:
    return symmetric(absmax(weight), bits=BITS)


def _rounded(values: Mapping[str, Array], layers: list[str]) -> dict[str, Array]:
    return {
        name: fake_quantize(v, _fit(v)) if name in layers else v for name, v in values.items()
    }


ROWS: list[RowFunction] = [
    partial(repair_row, name="not repaired", equalized=False, data=None, gain=0),
    partial(repair_row, name="equalized", equalized=True, data=None, gain=0),
    partial(repair_row, name="biases, by statistics", equalized=False, data=False, gain=0),
    partial(repair_row, name="biases, by data", equalized=False, data=True, gain=2),
    partial(repair_row, name="DFQ: both, no data", equalized=True, data=False, gain=1),
    partial(repair_row, name="both, with data", equalized=True, data=True, gain=3),
]
