r"""Uniform quantization: evenly spaced levels, the integer formats.

A uniform quantizer lays a ruler over the real line: `scale` is the distance
between two marks, `zero_point` the number printed on the mark at zero.

================  =======================  ==============  ======================
constructor       scale                    codes, 8 bits   met in
================  =======================  ==============  ======================
``symmetric``     A / 127                  -127 .. 127     TensorRT, TFLite weights
``half_open``     A / 128                  -128 .. 127     ggml Q4_0
``full_range``    2 A / 255                -128 .. 127     PyTorch qint8; survey
``asymmetric``    (high - low) / 255       0 .. 255        activations everywhere
================  =======================  ==============  ======================

with A the bound on the absolute value.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes, Rounding
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_int,
    require_no_nan,
    require_positive,
)
from refquant.quantizers._scale import usable
from refquant.rounding import half_even

__all__ = [
    "Uniform",
    "asymmetric",
    "code_range",
    "full_range",
    "half_open",
    "opposite_zero_point",
    "symmetric",
]


@dataclass(frozen=True, eq=False)
class Uniform:
    r"""Code ``q`` in ``[qmin, qmax]`` stands for ``scale * (q - zero_point)``.

    .. math:: q = \mathrm{clip}(\lfloor x / s \rceil + z,\; q_{min}, q_{max}),
              \qquad \hat x = s\,(q - z)

    Attributes
    ----------
    scale : ndarray of float, broadcastable to the data, > 0
        Distance s between neighbouring levels, in the units of the data.
    zero_point : ndarray of int, shape of `scale`
        The code z of real zero, which is therefore represented exactly.
    qmin, qmax : int
        Smallest and largest code.

    Raises
    ------
    ValueError
        If a scale is not positive and finite, a level overflows the dtype of
        `scale`, a zero point is outside ``[qmin, qmax]`` or the shapes of the
        two differ.
    TypeError
        If `scale` is not float or `zero_point` not integer.

    Notes
    -----
    The arithmetic is that of the data: ``x / scale`` is rounded to the dtype of
    the two before it is rounded to a whole number. Beyond 22 bits, where that
    would lose codes in float32, it is float64; so ``encode(decode(c))`` is c up
    to 23 bits of float32 scales (24 if signed), and always in float64.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1): ``r = S (q - Z)``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(2), qmin=0, qmax=7)
    >>> q.encode(np.array([-2.0, 0.0, 0.2, 9.0]))
    array([0, 2, 2, 7], dtype=int32)
    >>> q.decode(np.array([0, 2, 7]))
    array([-1. ,  0. ,  2.5])
    """

    scale: Array
    zero_point: Array
    qmin: int
    qmax: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_reals("scale", self.scale))
        require_int("qmin", self.qmin, -(2**31), 2**31 - 1)
        require_int("qmax", self.qmax, self.qmin + 1, 2**31 - 1)
        zero_point = require_codes("zero_point", self.zero_point, self.qmin, self.qmax)
        object.__setattr__(self, "zero_point", zero_point.astype(np.int32))
        require_positive("scale", self.scale)
        if zero_point.shape != self.scale.shape:
            raise ValueError(
                f"`zero_point` must have the shape of `scale`, {self.scale.shape}; "
                f"got {zero_point.shape}"
            )
        below_zero = self.zero_point.astype(np.int64) - self.qmin
        reach = np.maximum(below_zero, self.qmax - self.qmin - below_zero)
        with np.errstate(over="ignore"):
            ends = (self.scale * reach.astype(self.work_dtype)).astype(self.scale.dtype)
        if not np.isfinite(ends).all():
            largest = np.finfo(self.scale.dtype).max
            raise ValueError(
                f"`scale` must keep every level within {largest:.4g}; got {self.scale.max():.4g}"
            )

    def encode(self, x: Array, *, rounding: Rounding = half_even) -> Codes:
        """Code of each element, nearest by default; out-of-range values saturate.

        Parameters
        ----------
        x : ndarray of float, any shape that `scale` broadcasts to
        rounding : callable, ndarray -> ndarray
            Any function of `refquant.rounding`.

        Returns
        -------
        ndarray of int32, shape of `x`
            In ``[qmin, qmax]``.
        """
        x = as_reals("x", x)
        require_broadcastable("scale", self.scale, x.shape)
        require_no_nan("x", x)
        with np.errstate(over="ignore"):        # an overflowing ratio is infinite, and saturates
            codes = rounding(np.divide(x, self.scale, dtype=np.result_type(x, self.work_dtype)))
        codes = np.asarray(codes + self.zero_point.astype(codes.dtype))
        # Clip as float: the cast of a float outside int32 is undefined.
        return np.clip(codes, self.qmin, self.qmax, out=codes).astype(np.int32)

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, any shape that `scale` broadcasts to

        Returns
        -------
        ndarray of float, dtype of `scale`, shape of `codes`
        """
        codes = require_codes("codes", codes, self.qmin, self.qmax)
        require_broadcastable("scale", self.scale, codes.shape)
        values = codes.astype(self.work_dtype)
        values -= self.zero_point.astype(self.work_dtype)
        values *= self.scale
        return values.astype(self.scale.dtype, copy=False)

    @property
    def code_bits(self) -> int:
        """Bits that one code takes: enough for ``qmax - qmin + 1`` codes."""
        return (int(self.qmax) - int(self.qmin)).bit_length()

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of scales and zero points; zero points that are all 0 are not stored."""
        zero_point_bits = self.code_bits if self.zero_point.any() else 0
        return self.scale.size * (float_bits + zero_point_bits)

    @property
    def work_dtype(self) -> np.dtype[Any]:
        """Where the arithmetic is done: in float64 if the codes are too wide for float32."""
        # Two roundings, of the level and of the ratio, cost k codes k * 2**-23 < 1/2.
        wide = max(-self.qmin, self.qmax, self.qmax - self.qmin) >= 2**22
        return np.dtype(np.float64) if wide else self.scale.dtype


def symmetric(bound: npt.ArrayLike, *, bits: int, narrow: bool = True) -> Uniform:
    r"""Signed levels around an exact zero: `bound` gets the largest code.

    .. math:: s = \frac{A}{2^{b-1} - 1}, \qquad z = 0

    Parameters
    ----------
    bound : ndarray of float, broadcastable to the data, >= 0
        A, the largest absolute value to represent. A zero bound gets scale 1.
    bits : int
        b, from 2 to 32.
    narrow : bool
        Leave the code ``-2**(bits-1)`` unused, so that the levels are symmetric
        and negating the data negates the codes.

    Returns
    -------
    Uniform
        ``decode(qmax)`` is `bound`, to rounding.

    Raises
    ------
    ValueError
        If `bound` is negative or not finite, or `bits` is out of range.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-C (restricted range).

    Examples
    --------
    >>> q = symmetric(np.array(1.27), bits=8)
    >>> float(q.scale), q.qmin, q.qmax
    (0.01, -127, 127)
    """
    qmin, qmax = code_range(bits, signed=True, narrow=narrow)
    return _zero_centred(bound, qmax, qmin, qmax)


def half_open(bound: npt.ArrayLike, *, bits: int) -> Uniform:
    r"""Signed levels ``-A, ..., A - s``: minus `bound` gets the smallest code.

    .. math:: s = \frac{A}{2^{b-1}}, \qquad z = 0

    Every code is used and one end is exact; the other end saturates a step early.

    Parameters
    ----------
    bound : ndarray of float, broadcastable to the data, >= 0
        A. A zero bound gets scale 1.
    bits : int
        b, from 2 to 32.

    Returns
    -------
    Uniform
        ``decode(qmin)`` is ``-bound`` exactly: the scale is A times a power of two.

    Raises
    ------
    ValueError
        If `bound` is negative or not finite, or `bits` is out of range.

    References
    ----------
    ggml's Q4_0 block format uses this grid with A the signed extreme.

    Examples
    --------
    >>> q = half_open(np.array(1.0), bits=3)
    >>> q.decode(q.encode(np.array([-1.0, 1.0])))
    array([-1.  ,  0.75])
    """
    qmin, qmax = code_range(bits, signed=True)
    return _zero_centred(bound, -qmin, qmin, qmax)


def full_range(bound: npt.ArrayLike, *, bits: int) -> Uniform:
    r"""Signed levels whose steps cover ``[-A, A]`` exactly, with neither end a level.

    .. math:: s = \frac{2A}{2^b - 1}, \qquad z = 0

    Both ends lie half a step off the grid: A becomes ``A - s/2`` and ``-A``
    becomes ``-A - s/2`` (half-even, clipped), so decoding is not symmetric. That
    is exact arithmetic: a rounded `s` may push either end off its tie.

    Parameters
    ----------
    bound : ndarray of float, broadcastable to the data, >= 0
        A. A zero bound gets scale 1.
    bits : int
        b, from 2 to 32.

    Returns
    -------
    Uniform

    Raises
    ------
    ValueError
        If `bound` is negative or not finite, or `bits` is out of range.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-C (full range); PyTorch's
    symmetric qint8 observers.

    Examples
    --------
    >>> q = full_range(np.array(1.0), bits=8)
    >>> q.decode(q.encode(np.array([-1.0, 1.0]))).round(6)
    array([-1.003922,  0.996078])
    """
    qmin, qmax = code_range(bits, signed=True)
    return _zero_centred(bound, (qmax - qmin) / 2, qmin, qmax)


def asymmetric(
    low: npt.ArrayLike, high: npt.ArrayLike, *, bits: int, signed: bool = False
) -> Uniform:
    r"""Levels covering ``[low, high]``, widened to contain zero, which is exact.

    .. math:: s = \frac{\beta - \alpha}{q_{max} - q_{min}}, \qquad
              z = \mathrm{clip}(\lfloor q_{min} - \alpha / s \rceil, q_{min}, q_{max})

    Rounding the zero point shifts the grid by up to half a step, so the ends of
    the range are met to within half a step; and so is everything between them.

    Parameters
    ----------
    low, high : ndarray of float, broadcastable to the data
        The range, ``low <= high``; alpha = min(low, 0), beta = max(high, 0).
        An empty range [0, 0] gets scale 1.
    bits : int
        From 1 to 31; to 32 if `signed`.
    signed : bool
        Codes from ``-2**(bits-1)`` instead of from 0. The same levels.

    Returns
    -------
    Uniform

    Raises
    ------
    ValueError
        If the range is not finite, ``low > high``, or `bits` is out of range.

    Notes
    -----
    The bound :math:`|\hat x - x| \le s/2` on the range holds although the zero
    point is rounded: its rounding moves a code by at most 1/2, so
    :math:`x/s + z` lies in :math:`[q_{min} - \tfrac12, q_{max} + \tfrac12]`, and
    clipping to the codes moves it by no more than rounding may. What is added by
    floating point: `s` is a rounded number, which shifts the far end by up to
    ``width * eps / 2``. The zero point is found in float64 from the rounded `s`.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3, eq. (13); Gholami et al.,
    2021, arXiv:2103.13630, eq. (2), with the opposite sign of z.

    Examples
    --------
    >>> q = asymmetric(np.array(-1.0), np.array(2.0), bits=8)
    >>> round(float(q.scale), 6), int(q.zero_point)
    (0.011765, 85)
    """
    qmin, qmax = code_range(bits, signed=signed)
    low, high = as_reals("low", low), as_reals("high", high)
    require_finite("low", low)
    require_finite("high", high)
    dtype = np.result_type(low, high)
    try:
        low, high = np.broadcast_arrays(low.astype(np.float64), high.astype(np.float64))
    except ValueError:
        raise ValueError(
            f"`low` and `high` must broadcast; got shapes {low.shape} and {high.shape}"
        ) from None
    crossed = low > high
    if crossed.any():
        bad = low[crossed][0], high[crossed][0]
        raise ValueError(f"`low` must not exceed `high`; got {bad[0]} and {bad[1]}")
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    with np.errstate(over="ignore"):            # Uniform refuses an infinite scale
        # Halves, because the width of the largest range would overflow.
        scale = usable((high / 2 - low / 2) / ((qmax - qmin) / 2), dtype)
    zero_point = np.clip(half_even(qmin - low / scale), qmin, qmax)
    return Uniform(scale, zero_point.astype(np.int64), qmin, qmax)


def code_range(bits: int, *, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Smallest and largest code of `bits`-bit integers.

    Parameters
    ----------
    bits : int
        From 1 to 31, or from 2 to 32 if `signed`: codes are held as int32.
    signed : bool
        Two's complement instead of from zero.
    narrow : bool
        Drop the code ``-2**(bits-1)``; only for signed codes.

    Returns
    -------
    tuple of int
        ``(qmin, qmax)``.

    Raises
    ------
    ValueError
        If `bits` is out of range, or `narrow` is asked for without a sign.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-C.

    Examples
    --------
    >>> code_range(8, signed=True), code_range(8, signed=True, narrow=True)
    ((-128, 127), (-127, 127))
    >>> code_range(4, signed=False)
    (0, 15)
    """
    require_int("bits", bits, 1 + signed, 31 + signed)
    if narrow and not signed:
        raise ValueError("`narrow` must be False for unsigned codes; got True")
    top = 2 ** (bits - signed) - 1
    return (-top - (not narrow) if signed else 0), top


def opposite_zero_point(zero_point: npt.ArrayLike) -> Array:
    r"""The zero point in the other sign convention: minus the one given.

    Two conventions are in use, for the same levels:

    * :math:`q = \lfloor x/s \rceil + z,\ \hat x = s(q - z)`: this library,
      gemmlowp, ONNX, TFLite, PyTorch;
    * :math:`q = \lfloor x/s \rceil - z,\ \hat x = s(q + z)`: the survey of
      Gholami et al., Distiller.

    Parameters
    ----------
    zero_point : ndarray of int

    Returns
    -------
    ndarray of int64

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eqs. (2) and (3).

    Examples
    --------
    >>> opposite_zero_point(np.array([85, -43]))
    array([-85,  43])
    """
    return -require_codes("zero_point", zero_point, -(2**31), 2**32).astype(np.int64)


def _zero_centred(bound: npt.ArrayLike, steps: float, qmin: int, qmax: int) -> Uniform:
    """Zero point 0 and a scale that puts `steps` steps into `bound`."""
    bound = as_reals("bound", bound)
    require_finite("bound", bound)
    if (bound < 0).any():
        raise ValueError(f"`bound` must not be negative; got {bound.min()}")
    scale = usable(bound.astype(np.float64) / steps, bound.dtype)
    return Uniform(scale, np.zeros(scale.shape, np.int32), qmin, qmax)
