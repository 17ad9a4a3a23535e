"""Rows on formats whose levels are not evenly spaced, or that scale small blocks."""

from functools import partial

import numpy as np

from refquant._types import Array
from refquant.calibration.aciq import GAUSS
from refquant.calibration.density import expected_mse
from refquant.kernels.histogram_kmeans import histogram_kmeans
from refquant.metrics import mse, sqnr
from refquant.quantizers.binary import xnor
from refquant.quantizers.binary_code import BinaryCode, alternating
from refquant.quantizers.block import MXINT8_ELEMENT, Element, mx, nvfp4
from refquant.quantizers.fixed_point import covering
from refquant.quantizers.ggml import Q4_0, Q8_0, TQ1_0, TQ2_0, Layout
from refquant.quantizers.minifloat import E2M3, E4M3FN, E5M2, Minifloat
from refquant.quantizers.ternary import absmean, optimal, twn
from refquant.quantizers.vector import Vector, kmeans
from refquant.tour.subject import Row, RowFunction, Subject, blocks, decibels, whole

__all__ = ["ROWS"]

#: Least noise that so many levels can leave of unit Gauss data (Lloyd 1982, Max 1960).
LLOYD_MAX = {1: 0.3633802276, 2: 0.1174818478, 3: 0.03454776079, 4: 0.009501008008}
#: Of three levels: the least, and under the rule of thumb for the threshold.
TERNARY, TERNARY_BY_RULE = 0.1901740392, 0.1916247736
#: SQNR of unit Gauss data as measured with ggml's and OCP's own code, in dB.
MEASURED = {"Q8_0": 45.42, "Q4_0": 21.32, "MXFP4": 18.79}


def binary_row(subject: Subject) -> Row:
    """Signs, and the mean magnitude of each channel."""
    row = subject.weights("binary, XNOR", lambda x: xnor(x, axis=-1), view=whole)
    return row.expect(decibels(1.0, LLOYD_MAX[1]), "Lloyd-Max")


def two_planes_row(subject: Subject) -> Row:
    """Two planes of signs: as good as the best four levels."""

    def fit(x: Array) -> BinaryCode:
        return alternating(x, planes=2, axis=-1, max_sweeps=20).quantizer

    row = subject.weights("binary code, 2 planes", fit, view=whole)
    return row.expect(decibels(1.0, LLOYD_MAX[2]), "Lloyd-Max")


def ternary_row(subject: Subject) -> Row:
    """Three levels, the best threshold."""
    row = subject.weights("ternary, optimal", optimal)
    return row.expect(decibels(1.0, TERNARY), "exact optimum")


def ternary_by_rule_row(subject: Subject) -> Row:
    """Three levels, 0.7 of the mean magnitude as the threshold."""
    row = subject.weights("ternary, TWN", twn)
    return row.expect(decibels(1.0, TERNARY_BY_RULE), "1605.04711")


def absmean_row(subject: Subject) -> Row:
    """Three levels a mean magnitude apart: for training, not for rounding."""
    step = (2 / np.pi) ** 0.5                       # E|x| of N(0,1)
    expected = expected_mse([-step, 0.0, step], GAUSS)
    row = subject.weights("ternary, BitNet absmean", absmean)
    return row.expect(decibels(1.0, expected), "integral N(0,1)")


def kmeans_row(subject: Subject, *, bits: int) -> Row:
    """Levels where the weights are."""
    fit = partial(histogram_kmeans, k=2**bits)
    row = subject.weights(f"k-means, {bits} bits", fit)
    return row.expect(decibels(1.0, LLOYD_MAX[bits]), "Lloyd-Max")


def vector_row(subject: Subject) -> Row:
    """Sixteen pairs instead of four numbers, for the same two bits."""

    def fit(x: Array) -> Vector:
        rng = np.random.default_rng(0)
        sample = rng.permutation(x.reshape(-1, 2))[: 2**11]
        return kmeans(sample, 16, sub_vector=2, rng=rng)

    row = subject.weights("vectors of 2, 2 bits", fit, view=pairs)
    scalar = decibels(1.0, LLOYD_MAX[2])
    return row.claim(f"{row.sqnr:.2f} dB beat {scalar:.2f} of single numbers", row.sqnr > scalar)


def pairs(x: Array) -> Array:
    """The weights as pairs of neighbours, across channels where a row is odd."""
    return whole(x) if whole(x).shape[1] % 2 == 0 else x.reshape(-1, 2)


def fixed_point_row(subject: Subject) -> Row:
    """Eight bits with an imaginary point: the scale is a power of two that nobody stores."""
    row = subject.weights("fixed point, 8 bits", lambda x: covering(float(np.abs(x).max())))
    chosen = covering(float(np.abs(subject.gauss).max()))
    levels = chosen.decode(np.arange(chosen.qmin, chosen.qmax + 1))
    return row.expect(decibels(1.0, expected_mse(levels, GAUSS)), "integral N(0,1)")


def float8_row(subject: Subject, *, name: str, number_format: Minifloat) -> Row:
    """Eight bits of floating point, with no scale at all."""
    finite = number_format.levels()
    finite = np.unique(finite[np.isfinite(finite)])
    row = subject.weights(name, lambda x: number_format)
    return row.expect(decibels(1.0, expected_mse(finite, GAUSS)), "integral N(0,1)")


def mx_row(subject: Subject, *, name: str, element: Element) -> Row:
    """Six or eight bits, and a power of two for 32 of them."""
    fit = partial(mx, element=element)
    row = subject.weights(f"{name}, blocks of 32", fit, view=partial(blocks, size=32))
    wanted = element.code_bits + 8 / 32
    row = row.claim(f"costs {wanted} bits", row.bits == wanted)
    told = f"{row.sqnr:.2f} dB beat {MEASURED['MXFP4']} of MXFP4"
    return row.claim(told, row.sqnr > MEASURED["MXFP4"])


def mxfp4_row(subject: Subject) -> Row:
    """Four bits of floating point, a power of two for 32 of them."""
    row = subject.weights("MXFP4, blocks of 32", mx, view=partial(blocks, size=32))
    return row.expect(MEASURED["MXFP4"], "as measured")


def nvfp4_row(subject: Subject) -> Row:
    """Four bits of floating point, eight more for 16 of them."""
    row = subject.weights("NVFP4, blocks of 16", nvfp4, view=partial(blocks, size=16))
    told = f"{row.sqnr:.2f} dB beat {MEASURED['MXFP4']} of MXFP4, for {row.bits:.3f} bits"
    return row.claim(told, row.sqnr > MEASURED["MXFP4"])


def ggml_row(subject: Subject, *, name: str, block_format: Layout) -> Row:
    """The bytes of a model file: blocks of 32 with a half-precision scale."""
    return file_row(subject, name, block_format).expect(MEASURED[name], "as measured")


def ternary_file_row(subject: Subject) -> Row:
    """Five trits in a byte; the scale is the largest weight, fit for ternary networks alone."""
    row, simple = file_row(subject, "TQ1_0", TQ1_0), file_row(subject, "TQ2_0", TQ2_0)
    trits = np.sign(subject.gauss) * (np.abs(subject.gauss) > 0.5)
    row = row.claim("keeps three levels without loss", (stored(trits, TQ1_0) == trits).all())
    same = np.array_equal(stored(subject.gauss, TQ1_0), stored(subject.gauss, TQ2_0))
    told = f"the values of TQ2_0, and {row.bits:.4f} bits for its {simple.bits:.4f}"
    return row.claim(told, same and row.bits == 1.6875 and simple.bits == 2.0625)


def file_row(subject: Subject, name: str, block_format: Layout) -> Row:
    """What a block format keeps of both layers, and its bytes."""
    x_hat = stored(subject.gauss, block_format)
    return Row(
        f"ggml {name}",
        bits=8 * block_format.pack(subject.gauss).size / subject.gauss.size,
        mse=mse(subject.gauss, x_hat),
        sqnr=sqnr(subject.gauss, x_hat),
        outliers=sqnr(subject.layer, stored(subject.layer, block_format)),
    )


def stored(x: Array, block_format: Layout) -> Array:
    """The values after a round trip through bytes."""
    return block_format.unpack(block_format.pack(x))


ROWS: list[RowFunction] = [
    binary_row,
    two_planes_row,
    ternary_row,
    ternary_by_rule_row,
    absmean_row,
    partial(kmeans_row, bits=2),
    partial(kmeans_row, bits=4),
    vector_row,
    partial(float8_row, name="FP8 E4M3", number_format=E4M3FN),
    partial(float8_row, name="FP8 E5M2", number_format=E5M2),
    fixed_point_row,
    partial(mx_row, name="MXINT8", element=MXINT8_ELEMENT),
    partial(mx_row, name="MXFP8", element=E4M3FN),
    partial(mx_row, name="MXFP6", element=E2M3),
    mxfp4_row,
    nvfp4_row,
    partial(ggml_row, name="Q8_0", block_format=Q8_0),
    partial(ggml_row, name="Q4_0", block_format=Q4_0),
    ternary_file_row,
]
