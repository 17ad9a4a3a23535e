"""First derivation: exact rationals, each operation of a kernel rounded once and by hand.

Nothing here uses NumPy or the floating point of the machine. A number is a Fraction, an
infinity is a float, and a NaN is None.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import inf, isinf
from typing import Any, TypeAlias

#: Fraction, infinity as a float, or None. Any, since no checker follows what can meet what.
Number: TypeAlias = Any
Round: TypeAlias = Callable[[Fraction], int]


@dataclass(frozen=True)
class Binary:
    """An IEEE format: width of the fields."""

    exponent_bits: int
    mantissa_bits: int

    @property
    def bias(self) -> int:
        """Also the largest exponent."""
        return 2 ** (self.exponent_bits - 1) - 1

    def number(self, bits: int) -> Number:
        """What a bit pattern stands for; the sign of zero is lost."""
        m = self.mantissa_bits
        sign = -1 if bits >> (self.exponent_bits + m) else 1
        field, fraction = bits >> m & 2**self.exponent_bits - 1, bits & 2**m - 1
        if field == 2**self.exponent_bits - 1:
            return None if fraction else sign * inf
        hidden = 2**m if field else 0
        return sign * (hidden + fraction) * Fraction(2) ** (max(field, 1) - self.bias - m)

    def rounded(self, x: Number) -> Number:
        """Nearest number of the format, ties to even, as IEEE 754 says."""
        if x is None or not isinstance(x, Fraction) or not x:
            return x
        unit = Fraction(2) ** (max(exponent(x), 1 - self.bias) - self.mantissa_bits)
        nearest = round(x / unit) * unit                # round(Fraction) takes ties to even
        too_large = Fraction(2) ** (self.bias + 1)
        return nearest if abs(nearest) < too_large else (inf if x > 0 else -inf)

    def bits(self, x: Number, *, negative_zero: bool = False, nan: int = 0) -> int:
        """Pattern of a number of the format."""
        top = self.exponent_bits + self.mantissa_bits
        if x is None:
            return nan
        sign = 1 << top if x < 0 or (x == 0 and negative_zero) else 0
        if not isinstance(x, Fraction) and isinf(x):
            return sign | (2**self.exponent_bits - 1) << self.mantissa_bits
        if x == 0:
            return sign
        e = max(exponent(Fraction(x)), 1 - self.bias)
        whole = abs(Fraction(x)) / Fraction(2) ** (e - self.mantissa_bits)
        if whole.denominator != 1:
            raise ValueError(f"`x` must be a number of the format; got {x}")
        # The hidden one carries into the field: e + bias - 1 plus one, or 0 if subnormal.
        return sign | (((e + self.bias - 1) << self.mantissa_bits) + int(whole))


F32, F16, BF16, F64 = Binary(8, 23), Binary(5, 10), Binary(8, 7), Binary(11, 52)


def exponent(x: Fraction) -> int:
    """Floor of the base-2 logarithm of ``|x| > 0``, from the integers it is made of."""
    n, d = abs(x.numerator), x.denominator
    e = n.bit_length() - d.bit_length()
    return e if n >= d * Fraction(2) ** e else e - 1


def product(a: Number, b: Number) -> Number:
    """Exact product; NaN of zero and infinity."""
    if a is None or b is None:
        return None
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a * b
    return None if a == 0 or b == 0 else (inf if (a > 0) == (b > 0) else -inf)


def quotient(a: Number, b: Number) -> Number:
    """Exact quotient; b must not be zero."""
    if a is None or b is None:
        return None
    if isinstance(b, Fraction):
        return product(a, 1 / b)
    return None if not isinstance(a, Fraction) else Fraction(0)


def total(a: Number, b: Number) -> Number:
    """Exact sum; NaN of opposite infinities."""
    if a is None or b is None:
        return None
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a + b
    if isinstance(a, Fraction):
        return b
    return a if isinstance(b, Fraction) or a == b else None


def half_away(x: Fraction) -> int:
    """Nearest integer, ties away from zero."""
    whole = int(abs(x) + Fraction(1, 2))
    return whole if x >= 0 else -whole


def half_up(x: Fraction) -> int:
    """Nearest integer, ties to plus infinity."""
    return (x + Fraction(1, 2)).__floor__()


def integer(x: Number, rule: Round, low: int, high: int) -> int | None:
    """`x` rounded by a rule, then clipped to whole ends; infinities clip."""
    if x is None:
        return None
    if not isinstance(x, Fraction):
        return high if x > 0 else low
    return min(max(rule(x), low), high)
