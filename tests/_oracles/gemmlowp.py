"""gemmlowp's fixed-point functions on one Python integer at a time, written from its formulas.

Every sum is taken as the machine would: saturated where gemmlowp saturates, and otherwise
checked to be a word, so that no wrap goes unseen.
"""

from fractions import Fraction
from math import floor


def word(x: int, bits: int) -> int:
    assert -(1 << bits - 1) <= x < 1 << bits - 1, f"{x} wraps in {bits} bits"
    return x


def saturated(x: int, bits: int) -> int:
    return max(-(1 << bits - 1), min(x, (1 << bits - 1) - 1))


def high_mul(a: int, b: int, bits: int) -> int:
    """Twice the high half of the product; C's division truncates."""
    if a == b == -(1 << bits - 1):
        return (1 << bits - 1) - 1
    product = word(a, bits) * word(b, bits)
    nudged = product + ((1 << bits - 2) if product >= 0 else 1 - (1 << bits - 2))
    return word(abs(nudged) // (1 << bits - 1) * (1 if nudged >= 0 else -1), bits)


def divide_by_pot(x: int, exponent: int) -> int:
    """Nearest, ties away from zero."""
    size = floor(Fraction(abs(x), 1 << exponent) + Fraction(1, 2))
    return size if x >= 0 else -size


def shift_left(x: int, by: int, bits: int) -> int:
    threshold = (1 << bits - 1 - by) - 1
    if x > threshold:
        return (1 << bits - 1) - 1
    return -(1 << bits - 1) if x < -threshold else x << by


def half_sum(a: int, b: int) -> int:
    total = a + b
    nudged = total + (1 if total >= 0 else -1)
    return abs(nudged) // 2 * (1 if nudged >= 0 else -1)


def constant(raw: int, bits: int) -> int:
    return raw if bits == 32 else divide_by_pot(raw, 16)


def exp_quarter(a: int, bits: int) -> int:
    def mul(p: int, q: int) -> int:
        return high_mul(p, q, bits)

    x = word(a + (1 << bits - 4), bits)
    x2 = mul(x, x)
    x3 = mul(x2, x)
    x4 = mul(x2, x2)
    sixth = mul(word(divide_by_pot(x4, 2) + x3, bits), constant(715827883, bits))
    half = divide_by_pot(word(sixth + x2, bits), 1)
    e = constant(1895147668, bits)
    rise = mul(e, word(x + half, bits))
    return saturated(e + rise, bits) if bits == 16 else word(e + rise, bits)


def exp_negative(a: int, integer_bits: int, bits: int) -> int:
    if a == 0:
        return (1 << bits - 1) - 1
    fraction = bits - 1 - integer_bits
    if integer_bits > 5 and a < -(32 << fraction):
        return 0
    quarter = 1 << fraction - 2
    rest = a % quarter - quarter
    result = exp_quarter(shift_left(rest, integer_bits, bits), bits)
    quarters = (rest - a) // quarter
    for j, factor in enumerate(
        (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    ):
        if quarters >> j & 1 and integer_bits > j - 2:
            result = high_mul(result, constant(factor, bits), bits)
    return result


def newton(a: int, bits: int) -> int:
    half = half_sum(a, (1 << bits - 1) - 1)
    slope = high_mul(half, constant(-1010580540, bits), bits)
    x = word(constant(1515870810, bits) + slope, bits)
    for _ in range(3):
        short = word((1 << bits - 3) - high_mul(half, x, bits), bits)
        x = word(x + shift_left(high_mul(x, short, bits), 2, bits), bits)
    return x


def reciprocal(a: int, bits: int) -> int:
    return shift_left(newton(a, bits), 1, bits)


def ratio(a: int, bits: int) -> int:
    return shift_left(word(newton(a, bits) - (1 << bits - 3), bits), 2, bits)


def logistic(a: int, integer_bits: int, bits: int) -> int:
    if a == 0:
        return 1 << bits - 2
    upper = reciprocal(exp_negative(-abs(a), integer_bits, bits), bits)
    return upper if a > 0 else (1 << bits - 1) - 1 - upper


def tanh(a: int, integer_bits: int, bits: int) -> int:
    if a == 0:
        return 0
    size = ratio(exp_negative(-abs(a), integer_bits + 1, bits), bits)
    return size if a > 0 else -size
