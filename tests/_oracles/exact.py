"""Rounding and uniform quantization in fractions: nothing shared with the library."""

import math
from fractions import Fraction

HALF = Fraction(1, 2)


def half_even(x: Fraction) -> int:
    return round(x)                     # Python rounds ties of fractions to even


def half_up(x: Fraction) -> int:
    return math.floor(x + HALF)


def half_away(x: Fraction) -> int:
    return half_up(x) if x >= 0 else -half_up(-x)


def uniform_code(x: float, scale: float, zero_point: int, qmin: int, qmax: int) -> int:
    """Code of a finite or infinite `x`, the division not rounded."""
    if math.isinf(x):
        return qmax if x > 0 else qmin
    return min(max(half_even(Fraction(x) / Fraction(scale)) + zero_point, qmin), qmax)


def distance_to_tie(x: float, scale: float) -> Fraction:
    """How far ``x / scale`` is from the next tie, as a share of its size."""
    ratio = Fraction(x) / Fraction(scale)
    return abs(ratio - math.floor(ratio) - HALF) / max(abs(ratio), 1)
