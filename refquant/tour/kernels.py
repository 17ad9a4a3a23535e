"""Rows on products of packed codes: what is stored, how long it takes, and that it is exact."""

import time
from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant.calibration.minmax import absmax
from refquant.granularity import group, ungroup
from refquant.kernels import (
    binary,
    bit_serial,
    float_fields,
    int8_gemm,
    lookup,
    low_bit,
    mixed_gemm,
    ternary,
)
from refquant.kernels.packing import pack_trits
from refquant.quantizers.binary import xnor
from refquant.quantizers.ternary import optimal
from refquant.quantizers.uniform import symmetric
from refquant.tour.subject import Row, RowFunction, Subject

__all__ = ["ROWS"]

#: Rows of activations.
BATCH = 16


def int8_row(subject: Subject) -> Row:
    """8-bit codes by 8-bit codes, through float32 in chunks that are exact."""
    x, weight = _codes(subject.layer[:BATCH], bits=8), _codes(subject.gauss, bits=8)
    row = _timed("int8 x int8, exact", 8.0, lambda: int8_gemm.gemm(x, weight), x, weight)
    worst = np.full((2, 3000), -128, np.int8)
    exact = int8_gemm.gemm(worst, worst) == int8_gemm.gemm_definition(worst, worst)
    return row.claim("3000 products of the largest codes too", exact.all())


def fields_row(subject: Subject) -> Row:
    """Ternary codes, three rows of the weight in one float."""
    x, weight = _trits(subject.layer[:BATCH]), _trits(subject.gauss)
    packed = float_fields.pack(weight, low=-1, high=1, x_max=1)
    bits = 8 * packed.words.nbytes / weight.size
    row = _timed("trits x trits, in fields", bits, lambda: float_fields.product(x, packed),
                 x, weight)
    return row.claim("three products are one multiplication", packed.layout.fields == 3)


def lookup_row(subject: Subject) -> Row:
    """Ternary codes by 8-bit codes, looked up in tables."""
    x, weight = _codes(subject.layer[:BATCH], bits=8), _trits(subject.gauss)
    packed = lookup.pack_ternary(weight)
    bits = 8 * packed.places.nbytes / weight.size
    return _timed("trits x int8, looked up", bits, lambda: lookup.product(x, packed), x, weight)


def int4_row(subject: Subject) -> Row:
    """4-bit codes with a scale for each group of 128, by 8-bit codes and by floats."""
    grouped = group(subject.gauss, 128)
    q = symmetric(absmax(grouped, axis=-1), bits=4)
    codes, scale = q.encode(grouped), q.scale[..., 0]
    packed = mixed_gemm.pack(ungroup(codes) + 8, scale)
    x = subject.layer[:BATCH]
    start = time.perf_counter()
    y = mixed_gemm.product(x, packed)
    seconds = time.perf_counter() - start
    bits = 8 * sum(part.nbytes for part in packed[:3]) / subject.gauss.size
    row = Row("int4 x float, groups of 128", bits=bits, seconds=seconds)
    terms = ungroup((codes + 8.0 + 8.0) * scale[..., np.newaxis])       # digits and zero points
    bound = (128 + scale.shape[1] + 4) * 2.0**-24 * (np.abs(x) @ terms.T)
    exact = x.astype(np.float64) @ mixed_gemm.dequantize(packed).T
    row = row.claim("within the bound of its roundings", (np.abs(y - exact) <= bound).all())
    x8 = _codes(x, bits=8)
    sums = np.einsum("mgk,ogk->mog", group(x8, 128).astype(np.int64), codes.astype(np.int64))
    by_hand = np.zeros(y.shape, np.float32)
    for g in range(scale.shape[1]):
        by_hand += sums[..., g].astype(np.float32) * scale[:, g]
    same = np.array_equal(mixed_gemm.integer_product(x8, packed), by_hand)
    return row.claim("by int8 codes: the sums of groups are exact integers", same)


def xnor_row(subject: Subject) -> Row:
    """One exclusive or and one popcount for 64 products of signs."""
    codes = [xnor(data, axis=1).encode(data) for data in (subject.layer[:BATCH], subject.gauss)]
    x, weight = (binary.pack(c) for c in codes)
    bits = 8 * weight.words.nbytes / subject.gauss.size
    row = _timed("signs x signs, by popcount", bits, lambda: binary.product(x, weight),
                 *(2 * c - 1 for c in codes))
    short = [planes._replace(length=weight.length - 1) for planes in (x, weight)]
    less = binary.product(*short) == binary.product_by_unpacking(*short)
    return row.claim("bits beyond a shorter row count for nothing", less.all())


def planes_row(subject: Subject) -> Row:
    """Integers of four bits, one pair of bit planes at a time."""
    codes = [_codes(data, bits=4) for data in (subject.layer[:BATCH], subject.gauss)]
    x, weight = (bit_serial.pack(c, bits=4, signed=True) for c in codes)
    bits = 8 * weight.words.nbytes / subject.gauss.size
    return _timed("int4 x int4, bit planes", bits, lambda: bit_serial.product(x, weight), *codes)


def ternary_row(subject: Subject) -> Row:
    """Bytes by trits: one popcount for each plane of the bytes."""
    codes, trits = _codes(subject.layer[:BATCH], bits=8), _trits(subject.gauss)
    x, weight = bit_serial.pack(codes, bits=8, signed=True), ternary.pack(trits)
    bits = 8 * weight.words.nbytes / trits.size
    row = _timed("trits x int8, by popcount", bits, lambda: ternary.product(x, weight),
                 codes, trits)
    file = pack_trits(trits)
    again = ternary.pack_from_trits(file, trits.shape[1])
    told = f"from base-3 bytes, {8 * file.size / trits.size:.2f} bits each, the same planes"
    return row.claim(told, np.array_equal(again.words, weight.words))


def door_row(subject: Subject) -> Row:
    """Planes for a row of x, fields of floats for many."""
    x, trits = _codes(subject.layer[:BATCH], bits=4), _trits(subject.gauss)
    few, many = (
        low_bit.prepare(trits, low_bit.TRITS, x=low_bit.integers(4), rows=rows)
        for rows in (1, BATCH)
    )
    row = _timed("trits x int4, as is faster", np.nan, lambda: low_bit.product(x, many), x, trits)
    same = np.array_equal(low_bit.product(x, few), low_bit.product(x, many))
    other = type(few.weight) is not type(many.weight)
    return row.claim("one row and many: other kernels, the same sums", same and other)


def _timed(
    name: str, bits: float, call: Callable[[], Array], x: Array, weight: Array
) -> Row:
    """A row whose product must equal that in int64."""
    start = time.perf_counter()
    y = call()
    row = Row(name, bits=bits, seconds=time.perf_counter() - start)
    same = np.array_equal(y, x.astype(np.int64) @ weight.astype(np.int64).T)
    return row.claim(f"{y.size} sums equal those in int64", same)


def _codes(x: Array, *, bits: int) -> Array:
    return symmetric(absmax(x), bits=bits).encode(x).astype(np.int8)


def _trits(x: Array) -> Array:
    return optimal(x).encode(x).astype(np.int8)


ROWS: list[RowFunction] = [
    int8_row,
    xnor_row,
    planes_row,
    ternary_row,
    fields_row,
    lookup_row,
    door_row,
    int4_row,
]
