"""Rows on levels that are not evenly spaced, by formula and by density; Huffman codes."""

from functools import partial
from math import gcd

import numpy as np

from refquant._types import Array
from refquant.calibration.aciq import GAUSS
from refquant.calibration.density import expected_mse
from refquant.compression.huffman import entropy, huffman
from refquant.metrics import mse
from refquant.quantizer import fake_quantize
from refquant.quantizers.codebook import Codebook, nearest
from refquant.quantizers.companding import MU, companded
from refquant.quantizers.high_rate import bennett
from refquant.quantizers.lloyd_max import gauss, laplace, lloyd_max
from refquant.quantizers.normal_float import (
    NormalFloat,
    block_absmax,
    double_quantized,
    quantile,
    torchao_nf4,
)
from refquant.quantizers.power_of_two import PowerOfTwo, apot, linear_nearest, log_nearest
from refquant.tour.subject import Row, RowFunction, Subject, blocks, decibels

__all__ = ["ROWS"]

#: Mean squared error of NF4 on a million unit Gauss values in blocks of 64.
NF4_MSE = 0.008452


def power_row(subject: Subject) -> Row:
    """Powers of two: no multiplication, and gaps where they hurt."""

    def fit(x: Array) -> PowerOfTwo:
        return linear_nearest(_bound(x, 4.0), bits=4)

    row = subject.weights("powers of two, 4 bits", fit)
    q = fit(subject.gauss)
    row = row.expect(decibels(1.0, expected_mse(q.decode(np.arange(-7, 8)), GAUSS)),
                     "integral N(0,1)")
    rounded = log_nearest(_bound(subject.gauss, 4.0), bits=4)
    log = mse(subject.gauss, fake_quantize(subject.gauss, rounded))
    return row.claim("rounding the logarithm instead is no better", log >= row.mse)


def apot_row(subject: Subject) -> Row:
    """Sums of two powers of two."""
    row = subject.weights("APoT, 4 bits", lambda x: apot(_bound(x, 2.7), bits=4))
    levels = apot(np.array(2.7), bits=4).levels
    return row.expect(decibels(1.0, expected_mse(levels, GAUSS)), "integral N(0,1)")


def companded_row(subject: Subject) -> Row:
    """Equal steps behind the curve of telephony."""
    bound = 5.0
    row = subject.weights("mu-law, 8 bits", lambda x: companded(_bound(x, bound), bits=8))

    def points(x: Array) -> Array:                  # half the slope of the curve
        return MU / (1 + MU * np.abs(x) / bound) / np.log1p(MU) / (2 * bound)

    return row.expect(decibels(1.0, bennett(gauss, points, 256)), "Bennett")


def lloyd_max_row(subject: Subject) -> Row:
    """The best levels of the normal density, as they are."""
    best = lloyd_max(gauss, 16)

    def fit(x: Array) -> Codebook:
        return nearest((best.quantizer.levels * float(x.std())).astype(x.dtype))

    row = subject.weights("Lloyd-Max Gauss, 4 bits", fit)
    return row.expect(decibels(1.0, best.mse), "Newton")


def mismatch_row(subject: Subject) -> Row:
    """The best levels of another density: what a wrong assumption costs."""
    levels = lloyd_max(laplace, 16).quantizer.levels

    def fit(x: Array) -> Codebook:
        return nearest((levels * float(x.std())).astype(x.dtype))

    row = subject.weights("Lloyd-Max Laplace, 4 bits", fit)
    return row.expect(decibels(1.0, expected_mse(levels, GAUSS)), "integral N(0,1)")


def quantile_row(subject: Subject) -> Row:
    """Equally many values for each code: the most information, not the least error."""
    row = subject.weights("quantiles, 4 bits", partial(quantile, k=16))
    codes = quantile(subject.gauss, 16).encode(subject.gauss)
    return row.claim("its codes hold 4 bits of information",
                     entropy(np.bincount(codes.ravel())) > 3.9999)


def huffman_row(subject: Subject) -> Row:
    """Short words for frequent codes: the bits are counted in bytes."""
    best = lloyd_max(gauss, 16)
    row = subject.weights("Lloyd-Max, Huffman", lambda x: nearest(
        (best.quantizer.levels * float(x.std())).astype(x.dtype)))
    codes = best.quantizer.encode(subject.gauss)
    code = huffman(codes)
    stream = code.encode(codes)
    least, used = entropy(np.bincount(codes.ravel())), 8 * len(stream.data) / codes.size
    row = row._replace(bits=row.bits - best.quantizer.code_bits + used)
    row = row.claim("its length is within a bit of the entropy", least <= used < least + 1)
    return row.claim("its bytes decode", np.array_equal(code.decode(stream), codes.ravel()))


def nf4_row(subject: Subject, *, name: str, torchao: bool = False, double: bool = False) -> Row:
    """Quantiles of the normal density, scaled to the largest of a block."""

    def fit(x: Array) -> NormalFloat:
        q = block_absmax(x, codebook=torchao_nf4() if torchao else None)
        return double_quantized(q, group_size=gcd(256, q.scale.size)) if double else q

    row = subject.weights(name, fit, view=partial(blocks, size=64))
    return row.expect(decibels(1.0, NF4_MSE), "1 M samples")


def _bound(x: Array, deviations: float) -> Array:
    return np.asarray(deviations * float(x.std()), x.dtype)


ROWS: list[RowFunction] = [
    power_row,
    apot_row,
    companded_row,
    lloyd_max_row,
    mismatch_row,
    quantile_row,
    huffman_row,
    partial(nf4_row, name="NF4, bitsandbytes"),
    partial(nf4_row, name="NF4, torchao", torchao=True),
    partial(nf4_row, name="NF4, double quantized", double=True),
]
