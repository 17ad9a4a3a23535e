"""Rows on granularity: 4 bits, one scale for more and more of the weights."""

import math
from functools import partial

from refquant._types import Array
from refquant.calibration.minmax import absmax
from refquant.granularity import group
from refquant.metrics import predicted_mse, sqnr
from refquant.quantizer import fake_quantize
from refquant.quantizers.uniform import Uniform, symmetric
from refquant.tour.subject import Row, RowFunction, Subject, View, blocks, decibels, whole

__all__ = ["ROWS"]

BITS = 4


def per_tensor_row(subject: Subject) -> Row:
    """One scale for everything: one outlier sets the step of all."""
    return shared(subject, "per tensor", lambda x: x.reshape(1, -1))


def channel_group_row(subject: Subject) -> Row:
    """One scale for eight output channels: the survey's groupwise."""

    def eight(x: Array) -> Array:
        channels = math.gcd(len(x), 8)
        return group(whole(x), channels, axis=0).reshape(len(x) // channels, -1)

    return shared(subject, "groups of 8 channels", eight)


def per_channel_row(subject: Subject) -> Row:
    """One scale for each output channel."""
    row = shared(subject, "per channel", whole)
    return row.claim(*better(subject, row, lambda x: x.reshape(1, -1), "per tensor"))


def per_block_row(subject: Subject, *, size: int) -> Row:
    """One scale for `size` neighbours: outliers spoil only their own block."""
    row = shared(subject, f"blocks of {size}", partial(blocks, size=size))
    row = row.claim(f"costs {BITS} + 32/{size} bits", math.isclose(row.bits, BITS + 32 / size))
    return row.claim(*better(subject, row, whole, "per channel"))


def shared(subject: Subject, name: str, view: View) -> Row:
    """One scale for each row of the last axis of `view`."""
    row = subject.weights(name, fit, view=view)
    predicted = predicted_mse(fit(view(subject.gauss)).scale)
    return row.expect(decibels(1.0, predicted), "mean s²/12", tolerance=0.2)


def better(subject: Subject, row: Row, view: View, name: str) -> tuple[str, bool]:
    """The claim that a coarser `view` loses more on the layer with outliers."""
    seen = view(subject.layer)
    coarse = sqnr(seen, fake_quantize(seen, fit(seen)))
    told = f"{row.outliers:.1f} dB beat {coarse:.1f} {name}, with outliers"
    return told, row.outliers > coarse


def fit(x: Array) -> Uniform:
    """4 bits, the largest value of each row as its bound."""
    return symmetric(absmax(x, axis=-1), bits=BITS)


ROWS: list[RowFunction] = [
    per_tensor_row,
    channel_group_row,
    per_channel_row,
    partial(per_block_row, size=128),
    partial(per_block_row, size=32),
]
