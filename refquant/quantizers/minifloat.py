r"""Minifloat: a floating-point number cut down to 19, 16, 8, 6 or 4 bits.

A code is a bit pattern: sign, exponent field E, mantissa field m of M bits,

.. math:: x = (-1)^s\, 2^{E - bias} \left(1 + \frac{m}{2^M}\right), \qquad
          x = (-1)^s\, 2^{1 - bias}\, \frac{m}{2^M} \text{ if } E = 0.

Without the sign, the code is simply the number of the level counted from zero
upwards. So a format is nothing but the facts below, and one `encode` and one
`decode` serve them all.

============  ======  =====  ==========  ===============  ==================
format        s/E/M   bias   largest     smallest > 0     infinity, NaN
============  ======  =====  ==========  ===============  ==================
``FP16``      1/5/10  15     65504       2**-24           both
``BF16``      1/8/7   127    3.39e38     2**-133          both
``TF32``      1/8/10  127    3.40e38     2**-136          both
``E5M2``      1/5/2   15     57344       2**-16           both
``E4M3FN``    1/4/3   7      448         2**-9            NaN alone
``E5M2FNUZ``  1/5/2   16     57344       2**-17           NaN in place of -0
``E4M3FNUZ``  1/4/3   8      240         2**-10           NaN in place of -0
``E3M2``      1/3/2   3      28          2**-4            none
``E2M3``      1/2/3   1      7.5         2**-3            none
``E2M1``      1/2/1   1      6           2**-1            none
``E8M0``      0/8/0   127    2**127      2**-127, no 0    NaN alone
============  ======  =====  ==========  ===============  ==================
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from refquant._types import Array, Codes, Rounding
from refquant._validate import as_reals, require_codes, require_int, require_no_nan
from refquant.rounding import half_even

__all__ = [
    "BF16",
    "E2M1",
    "E2M3",
    "E3M2",
    "E4M3FN",
    "E4M3FNUZ",
    "E5M2",
    "E5M2FNUZ",
    "E8M0",
    "FORMATS",
    "FP16",
    "TF32",
    "Minifloat",
    "Overflow",
    "by_name",
    "ieee",
    "saturating",
]


@dataclass(frozen=True)
class Minifloat:
    """Every code of one floating-point format, and the number it stands for.

    Attributes
    ----------
    exponent_bits, mantissa_bits : int
        Widths of the two fields.
    bias : int
        What the exponent field exceeds the exponent by.
    largest : int
        Code of the largest finite number.
    infinity : int or None
        Code of plus infinity.
    nan : int or None
        Code of the NaN that `encode` writes; every other code above `largest`
        that is not `infinity` is a NaN too. In a format whose NaN is the code
        of -0 (the suffix UZ: unsigned zero) there is no -0.
    signed : bool
        Whether the leading bit is a sign.
    subnormals : bool
        Whether exponent field 0 holds zero and the evenly spaced numbers next
        to it; without them (E8M0) there is no zero.

    Raises
    ------
    ValueError
        If a code does not fit the fields, or a level does not fit float32.

    Notes
    -----
    `decode` returns float32, which holds all levels exactly. As a quantizer a
    minifloat has no parameters; `refquant.quantizers.block` adds scales.

    References
    ----------
    IEEE 754-2019, section 3.4; Micikevicius et al., "FP8 Formats for Deep
    Learning", 2022, arXiv:2209.05433, table 1; OCP Microscaling Formats (MX)
    Specification 1.0, 2023, section 5.3; Noune et al., "8-bit Numerical Formats
    for Deep Neural Networks", 2022, arXiv:2206.02915 (FNUZ).

    Examples
    --------
    >>> E2M1.encode(np.array([-0.2, 1.25, 100.0]))
    array([8, 2, 7], dtype=int32)
    >>> E2M1.decode(np.arange(8))
    array([0. , 0.5, 1. , 1.5, 2. , 3. , 4. , 6. ], dtype=float32)
    """

    exponent_bits: int
    mantissa_bits: int
    bias: int
    largest: int
    infinity: int | None = None
    nan: int | None = None
    signed: bool = True
    subnormals: bool = True

    def __post_init__(self) -> None:
        require_int("exponent_bits", self.exponent_bits, 1, 8)
        require_int("mantissa_bits", self.mantissa_bits, 0, 22)
        require_int("bias", self.bias, -126, 255)
        # Below the sign bit lie the magnitudes; the NaN alone may be the sign bit itself.
        magnitudes = 2 ** (self.exponent_bits + self.mantissa_bits)
        require_int("largest", self.largest, 1, magnitudes - 1)
        if self.infinity is not None:
            require_int("infinity", self.infinity, self.largest + 1, magnitudes - 1)
        if self.nan is not None:
            require_int("nan", self.nan, self.largest + 1, magnitudes - (not self.signed))
        top = (self.largest >> self.mantissa_bits) - self.bias
        bottom = self._lowest_exponent - self.mantissa_bits
        if top > 127 or bottom < -149:
            raise ValueError(
                f"`bias` must keep the levels in float32, 2**-149 to 2**128; "
                f"got levels from 2**{bottom} to 2**{top}"
            )

    @property
    def code_bits(self) -> int:
        """Bits of one code."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def max_value(self) -> float:
        """Largest finite number."""
        return float(self.decode(np.array(self.largest)))

    @property
    def sign_bit(self) -> int:
        """The bit that makes a code negative, 0 in an unsigned format."""
        return 2 ** (self.code_bits - 1) if self.signed else 0

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the parameters: none, the format is the quantizer.

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

    def levels(self) -> Array:
        """The number that each code stands for, in the order of the codes.

        Returns
        -------
        ndarray of float32, shape (2**code_bits,)
            With the infinities and NaN where the format has them.

        Examples
        --------
        >>> E4M3FN.levels()[[0x01, 0x38, 0x7E, 0x7F]]
        array([1.953125e-03, 1.000000e+00, 4.480000e+02,          nan], dtype=float32)
        """
        return self.decode(np.arange(2**self.code_bits))

    def decode(self, codes: Array) -> Array:
        """Number that each code stands for, exactly.

        Parameters
        ----------
        codes : ndarray of int, any shape
            Bit patterns, in ``[0, 2**code_bits - 1]``.

        Returns
        -------
        ndarray of float32, shape of `codes`
        """
        codes = require_codes("codes", codes, 0, 2**self.code_bits - 1).astype(np.int32)
        magnitude = codes & (self.sign_bit - 1)                 # & -1 keeps all bits
        fraction = magnitude & (2**self.mantissa_bits - 1)
        exponent = np.maximum((magnitude >> self.mantissa_bits) - self.bias, self._lowest_exponent)
        # The leading one is hidden, except that subnormals do not have it.
        hidden = 2**self.mantissa_bits * ((magnitude > fraction) | (not self.subnormals))
        with np.errstate(over="ignore"):                        # in codes that are not numbers
            x = np.ldexp((hidden + fraction).astype(np.float32), exponent - self.mantissa_bits)
        x = np.where(magnitude > self.largest, np.float32(np.nan), x)
        if self.infinity is not None:
            x = np.where(magnitude == self.infinity, np.float32(np.inf), x)
        x = np.where(codes & self.sign_bit, -x, x)
        if self.nan == self.sign_bit:
            x = np.where(codes == self.nan, np.float32(np.nan), x)
        return x

    def encode(
        self,
        x: Array,
        *,
        rounding: Rounding = half_even,
        overflow: "Overflow | None" = None,
        keep_nan: bool = False,
    ) -> Codes:
        r"""Code of each element, correctly rounded in one step.

        With :math:`e = \lfloor\log_2 |x|\rfloor`, not below that of the
        subnormals, the number of the level is

        .. math:: \mathrm{round}(|x|\, 2^{M-e}) + 2^M (e + bias - 1),

        where both factors are powers of two, so nothing but the rounding is
        inexact; a carry walks into the next binade by itself.

        Parameters
        ----------
        x : ndarray of float32 or float64, any shape
        rounding : callable, ndarray -> ndarray
            Any function of `refquant.rounding`; a tie of `half_even` goes to the
            even code.
        overflow : callable, Minifloat -> int
            `saturating` (the default) or `ieee`: what becomes of a number that
            rounds beyond `largest`, the infinities included.
        keep_nan : bool
            NaN becomes the NaN of the format, with its sign, instead of an error.

        Returns
        -------
        ndarray of int32, shape of `x`
            Bit patterns. -0 stays -0 where the format has one. In an unsigned
            format a negative number counts as out of range: it saturates to the
            code 0 or becomes the NaN of `ieee`.

        Raises
        ------
        ValueError
            If `x` has a NaN without `keep_nan`, or the format has no NaN, or
            `ieee` finds neither an infinity nor a NaN in the format.
        """
        x = as_reals("x", x)
        beyond = (overflow or saturating)(self)
        if not keep_nan:
            require_no_nan("x", x)
        elif self.nan is None:
            raise ValueError("`keep_nan` must be False: the format has no NaN")
        missing = np.isnan(x)
        real = np.where(missing, 0.0, x).astype(np.float64)             # float32 widens exactly
        codes = self._nearest_magnitude(real, rounding)
        codes = np.where(codes > self.largest, beyond, codes)
        if not self.signed:
            codes = np.where(real < 0, 0 if beyond == self.largest else beyond, codes)
        if self.nan is not None:
            codes = np.where(missing, self.nan, codes)
        no_minus = (codes == 0) & (self.nan == self.sign_bit)           # -0 would read as NaN
        return (codes | np.where(np.signbit(x) & ~no_minus, self.sign_bit, 0)).astype(np.int32)

    def _nearest_magnitude(self, real: Array, rounding: Rounding) -> Array:
        """Number of the level next to `|real|`, as if the format had no largest level."""
        magnitude = np.minimum(np.abs(real), np.finfo(np.float64).max)  # infinity has no exponent
        # The exponent comes from the bits (frexp), never from a rounded logarithm.
        exponent = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, -2000).astype(np.int64)
        exponent = np.maximum(exponent, self._lowest_exponent)
        steps = np.ldexp(magnitude, self.mantissa_bits - exponent)
        first = 2**self.mantissa_bits * (exponent + self.bias - 1)
        # Half-even must see the parity of the code. `first` is odd only if M = 0; then
        # 1 <= steps < 2 (or x is below the lowest level), and steps - 1 is exact.
        odd = first % 2
        rounded = rounding(np.copysign(np.maximum(steps - odd, 0), real))
        return np.abs(rounded).astype(np.int64) + odd + first

    @property
    def _lowest_exponent(self) -> int:
        return (1 if self.subnormals else 0) - self.bias


#: The code, without sign, of a number too large for a format.
Overflow: TypeAlias = Callable[[Minifloat], int]


def saturating(number_format: Minifloat) -> int:
    """Code of the largest finite number: overflow and infinity stop there.

    Parameters
    ----------
    number_format : Minifloat

    Returns
    -------
    int

    References
    ----------
    ONNX operator Cast, attribute ``saturate=1``; OCP 8-bit Floating Point
    Specification 1.0, 2023, section 5.2.

    Examples
    --------
    >>> E4M3FN.decode(E4M3FN.encode(np.array([465.0, np.inf]), overflow=saturating))
    array([448., 448.], dtype=float32)
    """
    return number_format.largest


def ieee(number_format: Minifloat) -> int:
    """Code of infinity, or of NaN in a format without infinity.

    Parameters
    ----------
    number_format : Minifloat

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the format has neither.

    References
    ----------
    IEEE 754-2019, section 7.4; ONNX operator Cast, attribute ``saturate=0``.

    Examples
    --------
    >>> E4M3FN.decode(E4M3FN.encode(np.array([464.0, 465.0]), overflow=ieee))
    array([448.,  nan], dtype=float32)
    """
    if number_format.infinity is not None:
        return number_format.infinity
    if number_format.nan is not None:
        return number_format.nan
    raise ValueError("`overflow` must be saturating: the format has neither infinity nor NaN")


#: IEEE half precision.
FP16 = Minifloat(5, 10, bias=15, largest=0x7BFF, infinity=0x7C00, nan=0x7E00)
#: The upper half of a float32: its range with 8 bits of precision.
BF16 = Minifloat(8, 7, bias=127, largest=0x7F7F, infinity=0x7F80, nan=0x7FC0)
#: What NVIDIA tensor cores keep of a float32, 19 bits.
TF32 = Minifloat(8, 10, bias=127, largest=0x3FBFF, infinity=0x3FC00, nan=0x3FE00)
#: FP8 for gradients: range first; a short FP16.
E5M2 = Minifloat(5, 2, bias=15, largest=0x7B, infinity=0x7C, nan=0x7E)
#: FP8 for weights and activations; finite (F) with one NaN (N).
E4M3FN = Minifloat(4, 3, bias=7, largest=0x7E, nan=0x7F)
#: E5M2 with an unsigned zero (UZ); AMD, Graphcore.
E5M2FNUZ = Minifloat(5, 2, bias=16, largest=0x7F, nan=0x80)
#: E4M3 with an unsigned zero (UZ); AMD, Graphcore.
E4M3FNUZ = Minifloat(4, 3, bias=8, largest=0x7F, nan=0x80)
#: FP6 with more range; element of MXFP6.
E3M2 = Minifloat(3, 2, bias=3, largest=0x1F)
#: FP6 with more precision; element of MXFP6.
E2M3 = Minifloat(2, 3, bias=1, largest=0x1F)
#: FP4; element of MXFP4 and NVFP4.
E2M1 = Minifloat(2, 1, bias=1, largest=0x7)
#: Powers of two; the scale of an MX block.
E8M0 = Minifloat(8, 0, bias=127, largest=0xFE, nan=0xFF, signed=False, subnormals=False)

#: All of them, by name.
FORMATS = MappingProxyType({
    "FP16": FP16, "BF16": BF16, "TF32": TF32,
    "E5M2": E5M2, "E4M3FN": E4M3FN, "E5M2FNUZ": E5M2FNUZ, "E4M3FNUZ": E4M3FNUZ,
    "E3M2": E3M2, "E2M3": E2M3, "E2M1": E2M1, "E8M0": E8M0,
})  # fmt: skip


def by_name(name: str) -> Minifloat:
    """Format of that name, for tools that read names from people.

    Parameters
    ----------
    name : str
        A key of `FORMATS`; lower case will do.

    Returns
    -------
    Minifloat

    Raises
    ------
    ValueError
        If there is no such format.
    TypeError
        If `name` is not a string.

    References
    ----------
    ONNX technical details, "Float stored in 8 bits" (the names).

    Examples
    --------
    >>> by_name("e4m3fn") is E4M3FN
    True
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a string; got {name!r}")
    try:
        return FORMATS[name.upper()]
    except KeyError:
        raise ValueError(f"`name` must be one of {', '.join(FORMATS)}; got {name!r}") from None
