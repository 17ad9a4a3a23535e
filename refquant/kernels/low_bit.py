"""Low-bit products through one door: bit planes for few rows, fields of floats for many.

Two kernels compute the same sums. Bit planes read a weight once for each row and each
plane of x, at the speed of logic; fields of floats decode it once and leave the rest to
BLAS. Which is faster depends on how many such passes there are, and on nothing else:

====================  ==================  =============================================
weight                passes              kernel
====================  ==================  =============================================
signs                 up to 32            `binary`, or `bit_serial` if x is of more bits
trits                 up to 14            `ternary`
integers              up to 28            `bit_serial`
any                   more                `float_fields`
====================  ==================  =============================================

A pass is one row and one plane of x, for integer weights by one plane of these. The
layouts differ, so the choice is made when the weight is packed.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.kernels import binary, bit_serial, float_fields, ternary
from refquant.kernels.bit_serial import Planes

__all__ = ["SIGNS", "TRITS", "Levels", "Prepared", "integers", "prepare", "product"]


class Levels(NamedTuple):
    """The codes there are: ``low, low + step, ..., high``.

    Attributes
    ----------
    low, high, step : int

    References
    ----------
    See `prepare`.
    """

    low: int
    high: int
    step: int = 1

    @property
    def planes(self) -> int:
        """Bit planes of such codes."""
        return ((self.high - self.low) // self.step).bit_length()


#: Plus and minus one.
SIGNS = Levels(-1, 1, 2)
#: -1, 0 and 1.
TRITS = Levels(-1, 1)

#: Passes up to which bit planes are the faster kernel, by weight: measured at 4096 x 4096
#: by `kernels.low_bit.LowBit`. One logical operation to a popcount, or two; planes of both.
MOST_PASSES = {SIGNS: 32, TRITS: 14}
MOST_PASSES_OF_INTEGERS = 28


class Prepared(NamedTuple):
    """A weight in the layout of the kernel that will multiply it.

    Attributes
    ----------
    weight : Planes or float_fields.Packed
    of, x : Levels
        The codes of the weight, and of what it will be multiplied with.

    References
    ----------
    See `prepare`.
    """

    weight: Planes | float_fields.Packed
    of: Levels
    x: Levels


def integers(bits: int, *, signed: bool = True) -> Levels:
    """Levels of integers: two's complement, or from 0.

    Parameters
    ----------
    bits : int
        From 2 to 8.
    signed : bool

    Returns
    -------
    Levels

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    See `prepare`.

    Examples
    --------
    >>> integers(4)
    Levels(low=-8, high=7, step=1)
    """
    require_int("bits", bits, 2, 8)
    return Levels(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else Levels(0, 2**bits - 1)


def prepare(codes: Array, of: Levels, *, x: Levels, rows: int) -> Prepared:
    """The weight in the layout that multiplies fastest with so many rows of such codes.

    Parameters
    ----------
    codes : ndarray of int, shape (out, in)
    of : Levels
        `SIGNS`, `TRITS`, or what `integers` returns.
    x : Levels
        Of the activations, likewise one of these.
    rows : int
        How many rows `product` will mostly see; any number is right.

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError
        If a code is not of the levels `of`, or there are no kernels for such levels.

    References
    ----------
    The border is measured; see the table of this module.

    Examples
    --------
    >>> codes = np.array([[1, -1, 1], [0, 1, 1]])
    >>> type(prepare(codes, TRITS, x=integers(8), rows=1).weight).__name__
    'Trits'
    >>> type(prepare(codes, TRITS, x=integers(8), rows=64).weight).__name__
    'Packed'
    """
    require_int("rows", rows, 0)
    _require_known("of", of)
    _require_known("x", x)
    passes = rows * x.planes * (1 if of in MOST_PASSES else of.planes)
    if passes <= MOST_PASSES.get(of, MOST_PASSES_OF_INTEGERS):
        return Prepared(_planes("codes", codes, of), of, x)
    most = max(-x.low, x.high)
    low, high, step = of
    packed = float_fields.pack(codes, low=low, high=high, step=step, x_max=most)
    return Prepared(packed, of, x)


def product(x: Array, prepared: Prepared) -> Array:
    """``x @ weight.T`` of the codes, exactly.

    Parameters
    ----------
    x : ndarray of int, shape (n, in)
        Codes of the levels ``prepared.x``.
    prepared : Prepared

    Returns
    -------
    ndarray of int32, shape (n, out)
        Beside it, what the kernel needs: a packed copy of `x` and 2.4 MB for planes; for
        fields three copies of up to 256 rows of `x` as floats, and at most 8 MB.

    Raises
    ------
    ValueError
        If a code is not of these levels, if the rows differ in length, or if the
        sums could leave int32.

    References
    ----------
    See `refquant.kernels.bit_serial` and `refquant.kernels.float_fields`.

    Examples
    --------
    >>> weight = prepare(np.array([[1, -1, 1], [0, 1, 1]]), TRITS, x=integers(8), rows=1)
    >>> product(np.array([[100, 20, 3]]), weight)
    array([[83, 23]], dtype=int32)
    """
    weight = prepared.weight
    if isinstance(weight, float_fields.Packed):
        return float_fields.product(_require_levels("x", x, prepared.x), weight)
    planes = _planes("x", x, prepared.x)
    if isinstance(weight, ternary.Trits):
        return ternary.product(planes, weight)
    signs = prepared.of == prepared.x == SIGNS
    return binary.product(planes, weight) if signs else bit_serial.product(planes, weight)


def _require_known(name: str, levels: Levels) -> None:
    known = [SIGNS, TRITS, *(integers(b, signed=s) for b in range(2, 9) for s in (True, False))]
    if levels not in known:
        raise ValueError(f"`{name}` must be SIGNS, TRITS or what `integers` returns; got {levels}")


def _planes(name: str, codes: Array, levels: Levels) -> Planes:
    codes = _require_levels(name, codes, levels)
    if levels == SIGNS:
        return binary.pack((codes > 0).astype(np.uint8))
    if levels == TRITS:
        return ternary.pack(codes)
    return bit_serial.pack(codes, bits=levels.planes, signed=levels.low < 0)


def _require_levels(name: str, codes: Array, levels: Levels) -> Array:
    return require_codes(name, codes, levels.low, levels.high, step=levels.step)
