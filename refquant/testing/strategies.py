"""Strategies: what Hypothesis should draw to find the last bit wrong.

``floats()`` almost never draws a tie of the grid under test, or a number beside one, where
alone the mistakes are. These strategies draw the grid first and the data around it.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from hypothesis import strategies as st

from refquant._types import Array
from refquant.oracle._affine import RANGES
from refquant.oracle._exact import F32
from refquant.testing.properties import Affine

__all__ = [
    "affine_inputs", "bit_patterns", "blocks", "boundaries", "near_ties", "packed_bytes",
    "scales", "tail_lengths", "zero_points",
]  # fmt: skip

TINY, INFINITY = 0x00800000, 0x7F800000

#: Patterns of float32 at the ends of what there is.
SPECIAL = [0, 0x80000000, 1, 0x80000001, TINY - 1, TINY, INFINITY - 1, INFINITY, 0xFF800000,
           0x4F000000, 0xCF000000, 0x4F32D05E, 0xCF32D05E, 0x3F000000, 0x3EFFFFFF, 0x3F000001]
NAN = [0x7FC00000, 0xFFC00000, 0x7F800001, 0xFFFFFFFF]


def scales(*, subnormal: bool = True) -> st.SearchStrategy[float]:
    """Positive float32: any, powers of two, near 1, and those whose reciprocal overflows.

    Parameters
    ----------
    subnormal : bool
        Draw subnormal numbers, too.

    Returns
    -------
    SearchStrategy of float

    References
    ----------
    IEEE 754-2019, section 3.4.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(scales(), lambda s: 0 < s < 2.0**-126) < 2.0**-126
    True
    """
    normal = st.integers(TINY, INFINITY - 1)
    common = st.integers(0x3A000000, 0x42000000)            # 2**-11 to 2**5
    powers = st.integers(-126, 127).map(lambda e: (e + 127) << 23)
    near_one = st.integers(0x3F7FFFF8, 0x3F800008)
    kinds = [common, common, normal, powers, near_one]
    if subnormal:
        kinds.append(st.integers(1, TINY - 1) | st.sampled_from([1, 0x00400000, 0x00400001]))
    return st.one_of(*kinds).map(lambda u: float(_float32(u)))


def zero_points(qmin: int, qmax: int) -> st.SearchStrategy[int]:
    """Codes, the ends and their neighbours often, odd ones as often as even.

    Parameters
    ----------
    qmin, qmax : int

    Returns
    -------
    SearchStrategy of int

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> from hypothesis import find
    >>> find(zero_points(-128, 127), lambda z: z == 127)
    127
    """
    ends = sorted({qmin, qmin + 1, qmax - 1, qmax, *({0, 1} & set(range(qmin, qmax + 1)))})
    return st.sampled_from(ends) | st.integers(qmin, qmax)


def near_ties(scale: float, zero_point: int, qmin: int, qmax: int, *, ulps: int = 2
              ) -> st.SearchStrategy[float]:
    """Float32 up to some units in the last place from a tie of the grid.

    Parameters
    ----------
    scale : float
        A float32.
    zero_point, qmin, qmax : int
    ulps : int

    Returns
    -------
    SearchStrategy of float
        The tie itself is computed exactly and rounded once.

    References
    ----------
    `refquant.oracle.challenge`: the dialects part within 1.5 units of a tie.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(near_ties(1.0, 0, -8, 7), lambda x: x == 2.5)
    2.5
    """
    s = Fraction(float(np.float32(scale)))

    def beside(drawn: tuple[int, int]) -> float:
        code, step = drawn
        tie = F32.bits(F32.rounded(s * (code - zero_point + Fraction(1, 2))))
        moved = tie + step if (tie & 0x7FFFFFFF) > ulps else tie
        return float(_float32(moved if moved & INFINITY != INFINITY else tie))

    return st.tuples(st.integers(qmin - 1, qmax), st.integers(-ulps, ulps)).map(beside)


def boundaries(dtype: str = "int8") -> st.SearchStrategy[float]:
    """Float32 at the ends of a code range, of int32 and of float32 itself.

    Parameters
    ----------
    dtype : str
        Type of the codes.

    Returns
    -------
    SearchStrategy of float

    References
    ----------
    IEEE 754-2019, section 3.4.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(boundaries("int8"), lambda x: x == 127.5)
    127.5
    """
    low, high = RANGES[dtype]
    ends = [end + step for end in (low, high) for step in (-1, -0.5, 0, 0.5, 1)]
    special = [float(_float32(u)) for u in SPECIAL]
    return st.sampled_from([*ends, *special])


def bit_patterns(*, nan: bool = True) -> st.SearchStrategy[Array]:
    """Float32 of any bits, special ones often, NaN with signs and payloads.

    Parameters
    ----------
    nan : bool
        Draw NaN, too.

    Returns
    -------
    SearchStrategy of float32

    References
    ----------
    IEEE 754-2019, section 6.2.

    Examples
    --------
    >>> from hypothesis import find
    >>> bool(np.isnan(find(bit_patterns(), np.isnan)))
    True
    """
    anything = st.integers(0, 2**32 - 1).filter(lambda u: u & 0x7FFFFFFF <= INFINITY)
    kinds = st.sampled_from(SPECIAL) | anything
    return (kinds | st.sampled_from(NAN) if nan else kinds).map(_float32)


def tail_lengths(width: int = 16) -> st.SearchStrategy[int]:
    """Lengths that leave every possible remainder behind whole vectors of a width.

    Parameters
    ----------
    width : int
        Lanes of the vector unit.

    Returns
    -------
    SearchStrategy of int
        From 1 to ``2 * width + 1``, odd ones first.

    References
    ----------
    onnxruntime, pull request 28606.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(tail_lengths(16), lambda n: n > 32)
    33
    """
    return st.integers(0, width).map(lambda k: 2 * k + 1) | st.integers(1, 2 * width + 1)


@st.composite
def affine_inputs(
    draw: st.DrawFn, dtypes: Sequence[str] = ("int8", "uint8"),
    lengths: st.SearchStrategy[int] | None = None, subnormal: bool = True, nan: bool = False,
) -> Affine:
    """Grid and data of an affine quantizer: ties, near ties, ends and oddities of that grid.

    Parameters
    ----------
    dtypes : sequence of str
        Types of the codes to choose from.
    lengths : SearchStrategy of int, optional
        By default `tail_lengths`.
    subnormal : bool
        Draw subnormal scales, too.
    nan : bool
        Draw NaN, too.

    Returns
    -------
    Affine

    References
    ----------
    See `near_ties`.

    Examples
    --------
    >>> from hypothesis import find
    >>> found = find(affine_inputs(["uint4"], lengths=st.just(1)), lambda p: True)
    >>> found.x.dtype, found.qmax
    (dtype('float32'), 15)
    """
    dtype = draw(st.sampled_from(list(dtypes)))
    qmin, qmax = RANGES[dtype]
    scale, zero_point = draw(scales(subnormal=subnormal)), draw(zero_points(qmin, qmax))
    element = st.one_of(near_ties(scale, zero_point, qmin, qmax),
                        near_ties(scale, zero_point, qmin, qmax), boundaries(dtype),
                        bit_patterns(nan=nan).map(float))
    size = draw(tail_lengths() if lengths is None else lengths)
    x = draw(st.lists(element, min_size=size, max_size=size))
    with np.errstate(over="ignore"):
        return Affine(np.array(x, np.float32), scale, zero_point, qmin, qmax)


@st.composite
def blocks(draw: st.DrawFn, size: int = 32) -> Array:
    """Blocks whose largest magnitude has a chosen mantissa: at and beside powers of two.

    Parameters
    ----------
    size : int
        Elements of a block.

    Returns
    -------
    ndarray of float32, shape (size,)

    References
    ----------
    OCP Microscaling Formats (MX) v1.0, section 6.3; higham/chop, pull request 5.

    Examples
    --------
    >>> from hypothesis import find
    >>> find(blocks(4), lambda b: bool(abs(b).max() > 1)).shape
    (4,)
    """
    exponent = draw(st.integers(-126, 126) | st.integers(-4, 4))
    # All ones first: the logarithm of such a number rounds up to the next whole one.
    mantissa = draw(st.integers(0x7FFFF0, 0x7FFFFF) | st.sampled_from([0, 1, 0x400000, 0x600000]))
    largest = _float32(((exponent + 127) << 23) | mantissa)
    quarters = draw(st.lists(st.integers(-8, 8), min_size=size, max_size=size))
    x = (np.array(quarters) / 8 * np.float64(largest)).astype(np.float32)
    x[draw(st.integers(0, size - 1))] = largest * draw(st.sampled_from([-1, 1]))
    return x


@st.composite
def packed_bytes(draw: st.DrawFn, bits: int = 4) -> tuple[Array, int]:
    """Packed codes whose last byte has dirty bits behind the last code, and their number.

    Parameters
    ----------
    bits : int
        Of a code; a divisor of 8.

    Returns
    -------
    tuple of ndarray of uint8 and int
        Decoding must not depend on the bits beyond.

    References
    ----------
    ONNX, type INT4: "padded with zero" when written, whatever when read.

    Examples
    --------
    >>> from hypothesis import find
    >>> packed, n = find(packed_bytes(4), lambda drawn: drawn[1] % 2 == 1)
    >>> packed.size == (n + 1) // 2
    True
    """
    per_byte = 8 // bits
    n = draw(tail_lengths(2 * per_byte))
    size = -(-n // per_byte)
    data = draw(st.lists(st.integers(0, 255), min_size=size, max_size=size))
    used = n % per_byte * bits
    if used:
        data[-1] |= draw(st.integers(1, 2 ** (8 - used) - 1)) << used
    return np.array(data, np.uint8), n


def _float32(pattern: int) -> Array:
    """The float32 of a bit pattern."""
    found: Array = np.array(pattern, np.uint32).view(np.float32)[()]
    return found
