r"""Search clipping ranges fast: answer from bins what the data would answer.

Two thousand candidate ranges on ten million values are 2e10 roundings. One
pass suffices instead: keep for each of 65536 bins how many values it holds and
what they sum to. A cell of a uniform quantizer is an interval between two
midpoints, so the error of a candidate is a sum over its few levels y

.. math:: \sum x^2 - 2 \sum_y y\, S_y + \sum_y y^2 C_y

with the count C and the sum S of the cell from cumulated bins, interpolated in
the two bins that its midpoints cut.
"""

from typing import NamedTuple, Self

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_int, require_nonempty
from refquant.quantizers.uniform import Uniform

__all__ = ["ValueHistogram", "kl_divergences", "uniform_errors"]


class ValueHistogram(NamedTuple):
    counts: Array
    sums: Array
    low: float
    width: float
    square_sum: float

    @classmethod
    def of(cls, x: Array, *, bins: int = 2**16) -> Self:
        raise NotImplementedError


def uniform_errors(histogram: ValueHistogram, quantizer: Uniform, *, p: float = 2.0) -> Array:
    raise NotImplementedError


def kl_divergences(counts: Array, *, levels: int = 128) -> Array:
    """Divergence of every cut of a histogram, in closed form."""
    from refquant.calibration.entropy import candidate_divergences
    return candidate_divergences(counts, levels=levels)
