r"""Difference: where two rules of requantization part, how often they should, and why.

Two engines add up the same products of codes and get the same sums. Only then do they round,
and by different rules. A rule that rounds twice (DA, DU of `refquant.integer.requantize`) has
after its first rounding a number on a grid of :math:`2^{-R}`, for a multiplier with a right
shift of R. With probability :math:`2^{-R}` it hits a midpoint there, and half of those are
decided otherwise than by any other rule:

.. math:: P(\text{the rules part}) = 2^{-(R+1)} \quad (R \ge 1), \qquad 0 \quad (R = 0) .

Rules that round once (S, F32, F64) part from each other at exact ties alone, or where float32
cannot hold the product. So layers whose multiplier is *near one* are the dangerous ones.
"""

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes, require_int
from refquant.integer.arithmetic import quantize_multiplier
from refquant.integer.requantize import (
    RULES,
    Lanes,
    Rule,
    double_away,
    double_up,
    in_float32,
    in_float64,
    reduced_16x8,
    single_up,
)

__all__ = ["Parting", "Worked", "compare_rules", "expected_rate", "rule_name", "work_out"]

_TWICE = (double_away, double_up)
_Step: TypeAlias = Callable[[int, int, int], tuple[int, list[str]]]


class Parting(NamedTuple):
    """Two rules on the same sums.

    Attributes
    ----------
    apart : ndarray of bool, shape of the sums
        Where the whole numbers differ.
    expected : ndarray of float64, shape of the sums
        Probability of that, for sums without other structure than their sign: `expected_rate`.
    largest : int
        Largest distance of two results; 1 if they part at all.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2, for the rule that rounds twice.

    Examples
    --------
    >>> parting = compare_rules([9, 10, 11], 0.25, double_away, single_up)
    >>> parting.apart, float(parting.expected[0])
    (array([ True, False, False]), 0.25)
    """

    apart: Array
    expected: Array
    largest: int


class Worked(NamedTuple):
    """One sum, multiplied and rounded by one rule, on paper.

    Attributes
    ----------
    result : int
        What the rule gives.
    steps : tuple of str
        Each a line of arithmetic in whole numbers; of floats for rules that use them.

    References
    ----------
    gemmlowp, ``SaturatingRoundingDoublingHighMul``, ``RoundingDivideByPOT``.

    Examples
    --------
    >>> work_out(39, 1 / 6, single_up).steps[-1]
    '(39 * 1431655765 + 2**32) >> 33 = 6'
    """

    result: int
    steps: tuple[str, ...]


def expected_rate(
    real: npt.ArrayLike, first: Rule, second: Rule, *, sums: npt.ArrayLike | None = None
) -> Array:
    r"""Probability that two rules part on a sum without structure.

    .. math:: 2^{-(R+1)}, \qquad R = \max(-n, 0)

    if one of the rules rounds twice and R is not 0; else 0. DA and DU decide midpoints above
    zero alike and those below it never: twice the rate for a negative sum, none for the others.

    Parameters
    ----------
    real : ndarray of float64, >= 0
        Multipliers M.
    first, second : callable
        Rules that round at whole numbers: `double_away`, `double_up`, `single_up`,
        `in_float32`, `in_float64`.
    sums : ndarray of int or None
        Broadcast against `real`; None: as likely below zero as above it.

    Returns
    -------
    ndarray of float64, shape of `real` or of both

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2.

    Examples
    --------
    >>> expected_rate([0.6, 0.3, 0.15], double_away, single_up)
    array([0.   , 0.25 , 0.125])
    """
    right = np.maximum(-quantize_multiplier(real).shift, 0)
    part = first is not second and (first in _TWICE or second in _TWICE)
    rate = np.where((right > 0) & part, 2.0 ** -(right + 1.0), 0.0)
    if sums is None:
        return rate
    below = np.asarray(sums) < 0
    return rate * np.where(below, 2, 0) if {first, second} == set(_TWICE) else rate + 0 * below


def compare_rules(
    sums: npt.ArrayLike, real: npt.ArrayLike, first: Rule, second: Rule
) -> Parting:
    """Where two rules part on sums, and how often they should.

    Parameters
    ----------
    sums : ndarray of int, in the range of int32
    real : ndarray of float64, broadcastable to `sums`
        Multipliers.
    first, second : callable
        Two rules of `refquant.integer.requantize`.

    Returns
    -------
    Parting

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2.

    Examples
    --------
    >>> x = np.arange(-1000, 1000)
    >>> parting = compare_rules(x, 0.3, double_away, double_up)
    >>> float(parting.apart.mean()), float(parting.expected.mean())
    (0.25, 0.25)
    >>> float(parting.apart[x >= 0].mean()), float(parting.expected[x >= 0].mean())
    (0.0, 0.0)
    """
    sums = require_codes("sums", sums, -(2**31), 2**31 - 1)
    one, two = first(sums, real), second(sums, real)
    expected = expected_rate(real, first, second, sums=sums)
    return Parting(one != two, expected, int(np.abs(one - two).max(initial=0)))


def rule_name(rule: Rule) -> str:
    """Name of a rule: the short one where it has one.

    Parameters
    ----------
    rule : callable

    Returns
    -------
    str

    References
    ----------
    See the table of `refquant.integer.requantize`.

    Examples
    --------
    >>> from refquant.integer.requantize import lanes
    >>> rule_name(double_up), rule_name(lanes(double_up, double_away, width=8))
    ('DU', 'DU, last n % 8 DA')
    """
    if isinstance(rule, Lanes):
        return f"{rule_name(rule.vector)}, last n % {rule.width} {rule_name(rule.scalar)}"
    short = {known: name for name, known in RULES.items()}
    return short.get(rule, getattr(rule, "__name__", repr(rule)))


def work_out(x: int, real: float, rule: Rule) -> Worked:
    """One sum multiplied and rounded by a rule, every step written down.

    Parameters
    ----------
    x : int
        The sum, in the range of int32 (48 bits for `reduced_16x8`).
    real : float
        Its multiplier M.
    rule : callable
        One of the rules with a name in `refquant.integer.requantize`: `double_away`,
        `double_up`, `single_up`, `in_float32`, `in_float64`, `reduced_16x8`.

    Returns
    -------
    Worked
        The first step is the multiplier, the last one the result.

    Raises
    ------
    ValueError
        If the rule has no steps here.

    References
    ----------
    TensorFlow Lite, ``MultiplyByQuantizedMultiplier``.

    Examples
    --------
    >>> print(*work_out(-3, 0.25, double_away).steps, sep="; ")
    M = 1073741824 * 2**(-1 - 31); (-3 * 1073741824 + 2**30) >> 31 = -1; -1 / 2**1 = -0.5 -> -1
    """
    require_int("x", x, -(2**47), 2**47 - 1)
    if rule in _FLOATS:
        return _in_floats(x, real, rule)
    if rule not in _STEPS:
        names = ", ".join(r.__name__ for r in (*_STEPS, *_FLOATS))
        raise ValueError(f"`rule` must be one of {names}; got {rule}")
    mantissa, shift = (int(v) for v in quantize_multiplier(real))
    result, steps = _STEPS[rule](x, mantissa, shift)
    return Worked(result, (f"M = {mantissa} * 2**({shift} - 31)", *steps))


def _twice(x: int, mantissa: int, shift: int, *, away: bool) -> tuple[int, list[str]]:
    left, right = max(shift, 0), max(-shift, 0)
    shifted = x << left
    high = (shifted * mantissa + 2**30) >> 31
    shown = f"({x} << {left})" if left else str(x)
    steps = [f"({shown} * {mantissa} + 2**30) >> 31 = {high}"]
    half = 2**right // 2
    result = (high + half - (away and high < 0 and right > 0)) >> right
    if right:
        steps.append(f"{high} / 2**{right} = {_decimal(Fraction(high, 2**right))} -> {result}")
    return result, steps


def _once(x: int, mantissa: int, shift: int) -> tuple[int, list[str]]:
    down = 31 - shift
    result = (x * mantissa + 2**down // 2) >> down
    return result, [f"({x} * {mantissa} + 2**{down - 1}) >> {down} = {result}"]


def _reduced(x: int, mantissa: int, shift: int) -> tuple[int, list[str]]:
    short = (mantissa + 2**15) >> 16 if mantissa < 0x7FFF0000 else 0x7FFF
    down = 15 - shift
    result = (x * short + 2**down // 2) >> down
    return result, [f"({mantissa} + 2**15) >> 16 = {short}",
                    f"({x} * {short} + 2**{down - 1}) >> {down} = {result}"]


def _in_floats(x: int, real: float, rule: Rule) -> Worked:
    kind = np.float32 if rule is in_float32 else np.float64
    m, result = kind(real), int(rule(np.array(x), np.array(real)))
    product, name = kind(x) * m, kind.__name__
    how = "ties to even" if rule is in_float32 else "ties away from zero"
    return Worked(result, (f"M = {m!s} as {name}",
                           f"{name}({x}) * {name}(M) = {product!s}", f"{how}: {result}"))


def _decimal(value: Fraction) -> str:
    return str(float(value)).removesuffix(".0")


_FLOATS: tuple[Rule, ...] = (in_float32, in_float64)
_STEPS: Mapping[Rule, _Step] = {
    double_away: lambda x, m, n: _twice(x, m, n, away=True),
    double_up: lambda x, m, n: _twice(x, m, n, away=False),
    single_up: _once, reduced_16x8: _reduced,
}
