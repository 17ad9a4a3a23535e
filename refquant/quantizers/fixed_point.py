r"""Fixed point: whole numbers with an imaginary binary point, Qm.n.

The code is an ordinary integer, the scale a power of two that nobody stores:

.. math:: x = q \cdot 2^{-n}

so adding is integer addition, multiplying is integer multiplication and a
shift. Two notations are met for the same 16 bits with 15 behind the point:

=========  ==================  ======================  =====================
notation   m counts            16 bits, n = 15         constructor
=========  ==================  ======================  =====================
TI         not the sign        Q0.15 (Q15 for short)   ``q_ti(0, 15)``
ARM        the sign too        Q1.15                   ``q_arm(1, 15)``
=========  ==================  ======================  =====================
"""

import math
from dataclasses import dataclass

import numpy as np

from refquant._types import Array, Codes, Rounding
from refquant._validate import (
    as_reals,
    require_codes,
    require_int,
    require_no_nan,
    require_number,
)
from refquant.rounding import half_even

__all__ = ["FixedPoint", "covering", "multiply", "q_arm", "q_ti", "rescale"]


@dataclass(frozen=True)
class FixedPoint:
    r"""Integers of `total_bits` bits, `frac_bits` of them behind the binary point.

    .. math:: q = \mathrm{clip}(\lfloor 2^n x \rceil,\; q_{min}, q_{max}),
              \qquad \hat x = 2^{-n} q

    Attributes
    ----------
    total_bits : int
        From 2 to 32, the sign included.
    frac_bits : int
        n; negative if the step is above 1, larger than `total_bits` for small ranges.
    signed : bool
        Two's complement, or no sign at all.
    narrow : bool
        Leave the most negative code unused, so that the codes are symmetric.

    Raises
    ------
    ValueError
        If `total_bits` or `frac_bits` is out of range, or `narrow` meets an
        unsigned format.

    Notes
    -----
    Codes of up to 25 bits, or 24 without a sign, are float32 numbers exactly; longer
    ones are decoded to float64. Codes are int32, so an unsigned format has at most 31 bits.

    References
    ----------
    Yates, "Fixed-Point Arithmetic: An Introduction", 2020, section 3; Lai et
    al., "CMSIS-NN", 2018, arXiv:1801.06601, section 2.2.

    Examples
    --------
    >>> q7 = FixedPoint(8, 7)
    >>> q7.encode(np.array([-1.0, 0.3, 1.0]))
    array([-128,   38,  127], dtype=int32)
    >>> q7.decode(np.array([127]))
    array([0.9921875], dtype=float32)
    """

    total_bits: int
    frac_bits: int
    signed: bool = True
    narrow: bool = False

    def __post_init__(self) -> None:
        total = require_int("total_bits", self.total_bits, 2, 32 if self.signed else 31)
        object.__setattr__(self, "total_bits", total)
        object.__setattr__(self, "frac_bits", require_int("frac_bits", self.frac_bits, -96, 126))
        if self.narrow and not self.signed:
            raise ValueError("`narrow` must be False: an unsigned format has no negative code")

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return (-(2 ** (self.total_bits - 1)) + self.narrow) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Largest code."""
        return 2 ** (self.total_bits - self.signed) - 1

    @property
    def code_bits(self) -> int:
        """Bits of one code."""
        return self.total_bits

    @property
    def scale(self) -> float:
        """The step, an exact power of two."""
        return 2.0**-self.frac_bits

    @property
    def max_value(self) -> float:
        """Largest number."""
        return self.qmax * self.scale

    @property
    def mantissa_bits(self) -> int:
        """Bits behind the leading one of the largest number."""
        return self.qmax.bit_length() - 1

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the parameters: none, the place of the point is part of the format.

        Parameters
        ----------
        float_bits : int
            Not used.

        Returns
        -------
        int
            Zero.
        """
        return 0

    def encode(self, x: Array, *, rounding: Rounding = half_even) -> Codes:
        """Code of each element, nearest by default; out-of-range values saturate.

        Parameters
        ----------
        x : ndarray of float32 or float64, any shape
        rounding : callable, ndarray -> ndarray
            Any function of `refquant.rounding`.

        Returns
        -------
        ndarray of int32, shape of `x`
            In ``[qmin, qmax]``.
        """
        x = as_reals("x", x)
        require_no_nan("x", x)
        with np.errstate(over="ignore"):                # what overflows here saturates anyway
            steps = np.ldexp(x.astype(np.float64), self.frac_bits)
        return np.clip(rounding(steps), self.qmin, self.qmax).astype(np.int32)

    def decode(self, codes: Array) -> Array:
        """Number of each code, exactly.

        Parameters
        ----------
        codes : ndarray of int, any shape
            In ``[qmin, qmax]``.

        Returns
        -------
        ndarray, shape of `codes`
            As float32 if that holds all codes, up to 25 bits with the sign; else float64.
        """
        codes = require_codes("codes", codes, self.qmin, self.qmax)
        wide = np.float32 if self.qmax <= 2**24 else np.float64
        return np.ldexp(codes.astype(wide), np.int32(-self.frac_bits))


def q_ti(whole_bits: int, frac_bits: int) -> FixedPoint:
    r"""Qm.n as Texas Instruments writes it: m whole bits besides the sign.

    The range is :math:`[-2^m, 2^m - 2^{-n}]`, the width 1 + m + n bits.

    Parameters
    ----------
    whole_bits, frac_bits : int
        m and n.

    Returns
    -------
    FixedPoint

    Raises
    ------
    ValueError
        If 1 + m + n is not in 2..32.

    References
    ----------
    Texas Instruments, TMS320C64x DSP Library, SPRU565, appendix A.

    Examples
    --------
    >>> q_ti(0, 7).max_value, q_ti(7, 8).max_value
    (0.9921875, 127.99609375)
    """
    return FixedPoint(1 + whole_bits + frac_bits, frac_bits)


def q_arm(whole_bits: int, frac_bits: int) -> FixedPoint:
    r"""Qm.n as ARM writes it: the sign is one of the m whole bits.

    The range is :math:`[-2^{m-1}, 2^{m-1} - 2^{-n}]`, the width m + n bits.

    Parameters
    ----------
    whole_bits, frac_bits : int
        m and n.

    Returns
    -------
    FixedPoint

    Raises
    ------
    ValueError
        If m + n is not in 2..32.

    References
    ----------
    ARM Developer Suite AXD and armsd Debuggers Guide, 2001, section 4.7.9.

    Examples
    --------
    >>> q_arm(1, 7) == q_ti(0, 7)
    True
    """
    return FixedPoint(whole_bits + frac_bits, frac_bits)


def covering(bound: float, *, total_bits: int = 8, tight: bool = False) -> FixedPoint:
    r"""The format with the smallest step that holds values up to `bound`.

    .. math:: n = b - 1 - (\lfloor \log_2 A \rfloor + 1)

    so that the top is a power of two above A, at most 2 A away.

    Parameters
    ----------
    bound : float
        A, the largest absolute value, finite; 0 counts as 1.
    total_bits : int
        b.
    tight : bool
        Use :math:`\lceil\log_2 A\rceil` as CMSIS-NN's converter does. It differs
        only where A is a power of two: the step is half as wide, and A itself
        saturates one step below.

    Returns
    -------
    FixedPoint

    Raises
    ------
    ValueError
        If `bound` is negative or not finite.

    References
    ----------
    Lai et al., 2018, arXiv:1801.06601, section 2.2 (``ceil``).

    Examples
    --------
    >>> covering(1.0), covering(1.0, tight=True).frac_bits, covering(0.3).frac_bits
    (FixedPoint(total_bits=8, frac_bits=6, signed=True, narrow=False), 7, 8)
    """
    require_number("bound", bound)
    total_bits = require_int("total_bits", total_bits, 2, 32)
    if not (math.isfinite(bound) and bound >= 0):
        raise ValueError(f"`bound` must be finite and not negative; got {bound}")
    # bound = f * 2**e with 1/2 <= f < 1: the logarithm by exponent bits, exactly.
    f, e = math.frexp(bound or 1.0)
    whole_bits = e - 1 if tight and f == 0.5 else e
    return FixedPoint(total_bits, total_bits - 1 - whole_bits)


def multiply(a: Array, b: Array, number_format: FixedPoint) -> Codes:
    r"""Codes of the products of two arrays of codes of the same format.

    .. math:: \mathrm{clip}\big((a b + 2^{n-1}) \gg n\big)

    Parameters
    ----------
    a, b : ndarray of int, broadcastable to each other
    number_format : FixedPoint
        Of at least 0 bits behind the point.

    Returns
    -------
    ndarray of int32
        The products rounded half up, saturated: -1 times -1 just fails to be 1.

    Raises
    ------
    ValueError
        If a code is not of the format.

    References
    ----------
    Yates, "Fixed-Point Arithmetic: An Introduction", 2020, section 4.4;
    CMSIS-DSP ``arm_mult_q7``.

    Examples
    --------
    >>> multiply(np.array([64, -128]), np.array([64, -128]), FixedPoint(8, 7))
    array([ 32, 127], dtype=int32)
    """
    a = require_codes("a", a, number_format.qmin, number_format.qmax).astype(np.int64)
    b = require_codes("b", b, number_format.qmin, number_format.qmax).astype(np.int64)
    return rescale(a * b, number_format.frac_bits, number_format)


def rescale(codes: Array, shift: int, number_format: FixedPoint) -> Codes:
    r"""Codes with `shift` fewer bits behind the point, rounded half up and saturated.

    The last step of every CMSIS-NN layer, from the accumulator to the output:
    :math:`\mathrm{clip}((q + 2^{s-1}) \gg s)`.

    Parameters
    ----------
    codes : ndarray of int, any shape
        Accumulators, up to 63 bits.
    shift : int
        s, from 0 to 62.
    number_format : FixedPoint
        What the result must fit.

    Returns
    -------
    ndarray of int32, shape of `codes`

    Raises
    ------
    ValueError
        If `shift` is out of range.

    References
    ----------
    CMSIS-NN ``arm_convolve_HWC_q7_basic``: ``__SSAT((sum + NN_ROUND(s)) >> s, 8)``.

    Examples
    --------
    >>> rescale(np.array([5, 6, -6, 100_000]), 2, FixedPoint(8, 7))
    array([  1,   2,  -1, 127], dtype=int32)
    """
    require_int("shift", shift, 0, 62)
    codes = require_codes("codes", codes, -(2**62), 2**62).astype(np.int64)
    # Adding half first could overflow; the bit below the cut says the same.
    half_up = (codes >> shift) + ((codes >> max(shift - 1, 0)) & (shift > 0))
    return np.clip(half_up, number_format.qmin, number_format.qmax).astype(np.int32)
