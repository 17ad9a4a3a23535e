"""Rounding to short floating-point formats in whole numbers of any length.

Formats are spelled out a second time here, from the bit patterns of the
standards, and rounding is a bisection among exact midpoints: no logarithm, no
floating-point operation, nothing shared with the library.
"""

import math
from bisect import bisect_left
from fractions import Fraction
from functools import cache
from itertools import pairwise

# name: sign bits, exponent bits, fraction bits, bias, what the highest codes are
FACTS = {
    "FP16": (1, 5, 10, 15, "ieee"),
    "BF16": (1, 8, 7, 127, "ieee"),
    "TF32": (1, 8, 10, 127, "ieee"),
    "E5M2": (1, 5, 2, 15, "ieee"),
    "E4M3FN": (1, 4, 3, 7, "fn"),
    "E5M2FNUZ": (1, 5, 2, 16, "fnuz"),
    "E4M3FNUZ": (1, 4, 3, 8, "fnuz"),
    "E3M2": (1, 3, 2, 3, "finite"),
    "E2M3": (1, 2, 3, 1, "finite"),
    "E2M1": (1, 2, 1, 1, "finite"),
    "E8M0": (0, 8, 0, 127, "fn"),
}
UNIT = 1140         # whole numbers count 2**-1140: every float64 and every midpoint is one


def number(name: str, code: int) -> Fraction | float:
    """What a code stands for: an exact fraction, an infinity, a NaN or -0.0."""
    signs, exponent_bits, fraction_bits, bias, kind = FACTS[name]
    text = format(code, f"0{signs + exponent_bits + fraction_bits}b")
    sign = -1 if signs and text[0] == "1" else 1
    exponent = text[signs : signs + exponent_bits]
    fraction = text[signs + exponent_bits :]
    if kind == "ieee" and "0" not in exponent:
        return sign * math.inf if "1" not in fraction else math.nan
    if kind == "fn" and "0" not in exponent + fraction:
        return math.nan
    if kind == "fnuz" and text == "1" + "0" * (len(text) - 1):
        return math.nan
    tail = Fraction(int(fraction or "0", 2), 2**fraction_bits)
    if signs and "1" not in exponent:
        value = tail * Fraction(2) ** (1 - bias)
    else:
        value = (1 + tail) * Fraction(2) ** (int(exponent, 2) - bias)
    return -0.0 if sign < 0 and value == 0 else sign * value


@cache
def _ladder(name: str) -> tuple[list[int], int]:
    """Midpoints above each magnitude, the last one towards the level that is missing."""
    signs, exponent_bits, fraction_bits, bias, kind = FACTS[name]
    count = {"ieee": 2**exponent_bits - 1}.get(kind, 2**exponent_bits) << fraction_bits
    largest = count - 2 if kind == "fn" else count - 1
    levels = []                                     # one more than the format has
    for code in range(largest + 2):
        exponent, fraction = divmod(code, 2**fraction_bits)
        if signs and exponent == 0:
            exponent, leading = 1, 0
        else:
            leading = 2**fraction_bits
        levels.append((leading + fraction) << (UNIT + exponent - bias - fraction_bits))
    return [(a + b) // 2 for a, b in pairwise(levels)], largest


def whole(x: float) -> int:
    """`|x|` in units of 2**-1140."""
    mantissa, exponent = math.frexp(abs(x))
    return int(mantissa * 2**53) << (UNIT - 53 + exponent)


def encode(name: str, values: list[float], *, saturate: bool) -> list[int | None]:
    """Code of each value, ties to the even code; None for a NaN."""
    signs, exponent_bits, fraction_bits, _, kind = FACTS[name]
    middles, largest = _ladder(name)
    sign_bit = signs << (exponent_bits + fraction_bits)
    beyond = largest if saturate else {"ieee": largest + 1, "fnuz": sign_bit}.get(kind, largest + 1)
    codes: list[int | None] = []
    for x in values:
        if math.isnan(x):
            codes.append(None)
            continue
        if math.isinf(x):
            code = largest + 1
        else:
            n = whole(x)
            code = bisect_left(middles, n)
            if code <= largest and middles[code] == n:
                code += code % 2
        code = beyond if code > largest else code
        if math.copysign(1.0, x) < 0:
            if signs:
                code = 0 if kind == "fnuz" and code == 0 else code | sign_bit
            elif x < 0:
                code = 0 if saturate else beyond
        codes.append(code)
    return codes
