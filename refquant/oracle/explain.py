"""Explain: why the dialects answer one question differently, step by step.

For an affine quantization the exact quotient is a fraction; the float32 on the way to the
code are not. The page shows the fraction, the two neighbours it lies between and how far it
is from their middle, and what each dialect computes from it.
"""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np

from refquant.oracle._exact import F32, half_away
from refquant.oracle._show import answer_of, inputs_of, observed, shown
from refquant.oracle.vectors import Case, cases, load, values

__all__ = ["explain", "find", "steps"]

#: The smallest normal float32.
TINY = np.finfo(np.float32).tiny


def find(identity: str) -> Case:
    """Case of an id, or of the beginning of one.

    Parameters
    ----------
    identity : str
        At least four hexadecimal digits.

    Returns
    -------
    Case

    Raises
    ------
    ValueError
        If no case has it, or more than one question begins with it.

    References
    ----------
    SHA-256, FIPS 180-4: the ids are its first digits.

    Examples
    --------
    >>> case = cases("quantize_affine.float32.int8", flag="TieOddZp")[0]
    >>> find(case.id[:8]).id == case.id
    True
    """
    wanted = identity.lower()
    found = {c.id: c for c in cases() if c.id.startswith(wanted)} if len(wanted) >= 4 else {}
    if len(found) != 1:
        which = (f"begins {len(found)} ids, as {', '.join(list(found)[:4])}" if found
                 else "is that of no case" if len(wanted) >= 4 else "has fewer than four")
        raise ValueError(f"`id` must be that of one case, ten hexadecimal digits; "
                         f"{identity[:40]!r} {which}")
    return next(iter(found.values()))


def explain(case: Case) -> str:
    """Lines on a case: the question in bits and numbers, and each dialect's answer.

    Parameters
    ----------
    case : Case

    Returns
    -------
    str

    References
    ----------
    IEEE 754-2019, section 4.3.

    Examples
    --------
    >>> case = cases("quantize_affine.float32.int8", flag="TieOddZp")[0]
    >>> for line in explain(case).splitlines()[3:7]:
    ...     print(line)
    x = 3f000000 = 0.5
    exactly: x / s = 1/2 = 0.5
      between 0 and 1: a tie
      rounded, plus the zero point: 1
    """
    file = load(case.file)
    lines = [f"{case.id}  {case.op} in {case.file}",
             f"flags: {', '.join(case.flags)}"
             + (f" ({case.status})" if case.status != "defined" else ""),
             "parameters: " + ", ".join(f"{k} = {shown(v, file.params.get(k, 'text'))}"
                                        for k, v in case.params.items())]
    lines += [f"{name} = {given}" for name, given in inputs_of(case, file).items()]
    if _is_scalar_affine(case):
        lines += _exactly(case)
    if case.status == "reject":
        return "\n".join([*lines, f"must be rejected: {case.reason}"])
    for name in file.dialects:
        lines += ["", f"{name}: {file.dialects[name]['formula']}"]
        if _is_scalar_affine(case):
            lines += [f"  {step}" for step in steps(case, file.dialects[name]["axes"])]
        lines.append(f"  answer: {answer_of(case, file, name)}")
    for seen, who in observed().get(case.id, ()):
        same = next(c for c in seen if c.id == case.id)
        lines += ["", f"observed, {who}: {answer_of(same, seen, seen.base_dialect)}"]
    lines += ["", *(f"{flag}: {file.notes[flag]['description']}" for flag in case.flags)]
    return "\n".join(lines)


def steps(case: Case, axes: Mapping[str, str]) -> list[str]:
    """What a dialect computes on the way to a code, one line for each rounding.

    Parameters
    ----------
    case : Case
        Of ``quantize_affine``, one number.
    axes : mapping of str to str
        The dialect as data: ``scaling``, ``zero_point``, ``tie``, ``clamp``
        and ``subnormals``.

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        If the case is another operation, or an array.

    References
    ----------
    See `refquant.integer.dialects` for the formulas.

    Examples
    --------
    >>> file = load("quantize_affine.float32.int8")
    >>> case = cases("quantize_affine.float32.int8", flag="TieOddZp")[0]
    >>> for line in steps(case, file.dialects["torch.fbgemm"]["axes"]):
    ...     print(line)
    f32(1 / s) = 1.0
    x * f32(1 / s) + z = 1.5, rounded once
    ties to even: 2
    """
    if not _is_scalar_affine(case):
        raise ValueError(f"`case` must be a quantize_affine of one number; got {case.op}")
    with np.errstate(all="ignore"):
        if axes["clamp"] == "of the data":
            return _clipped_first(case, axes)
        return _steps(*_numbers(case), axes)


def _steps(x: Any, s: Any, z: int, axes: Mapping[str, str]) -> list[str]:
    scaling, tie = axes["scaling"], axes["tie"]
    lines = []
    reciprocal = np.float32(1) / s
    if axes["subnormals"] != "gradual":
        if s < TINY:
            return ["the scale is subnormal, and refused"]
        subnormal = [name for name, v in (("x", x), ("f32(1 / s)", reciprocal)) if abs(v) < TINY]
        lines += [f"{name} is subnormal or 0, and taken for 0" for name in subnormal]
        x, reciprocal = (v if abs(v) >= TINY else np.float32(0) for v in (x, reciprocal))
    if "recip" in scaling:
        lines.append(f"f32(1 / s) = {reciprocal!s}")
    if scaling == "exact":
        return [*lines, f"ties to {tie} of the exact quotient, then + {z}"]
    if scaling == "fma_recip_zp":
        fused = _fused(x, reciprocal, z)
        return [*lines, f"x * f32(1 / s) + z = {fused!s}, rounded once",
                f"ties to {tie}: {_rounded(fused, tie)}"]
    ratio = x * reciprocal if scaling == "mul_recip" else x / s
    name = "f32(x * f32(1 / s))" if scaling == "mul_recip" else "f32(x / s)"
    lines.append(f"{name} = {ratio!s}")
    if axes["zero_point"] == "before_round":
        total = ratio + np.float32(z)
        return [*lines, f"plus the zero point: f32({total!s})",
                f"ties to {tie}: {_rounded(total, tie)}"]
    whole = _rounded(ratio, tie)
    return [*lines, f"ties to {tie}: {whole}", f"plus the zero point {z}, then clipped"]


def _clipped_first(case: Case, axes: Mapping[str, str]) -> list[str]:
    """The data clipped to the ends of the grid, the codes counted from the lowest."""
    x, s, z = _numbers(case)
    low, high = case.params["qmin"], case.params["qmax"]
    inside = np.clip(x, s * np.float32(low - z), s * np.float32(high - z))
    ratio = inside / s
    total = ratio + np.float32(z - low)
    return [f"clipped to the values of {low} and {high}: {inside!s}", f"f32(. / s) = {ratio!s}",
            f"from the lowest code: f32({total!s})",
            f"ties to {axes['tie']}: {_rounded(total, axes['tie'])}",
            f"plus the lowest code {low}"]


def _fused(x: Any, reciprocal: Any, z: int) -> Any:
    """``x * reciprocal + z`` of float32, rounded once."""
    if not (np.isfinite(x) and np.isfinite(reciprocal)):
        return x * reciprocal + np.float32(z)
    total = F32.rounded(Fraction(float(x)) * Fraction(float(reciprocal)) + z)
    return np.float32(float(total or 0))


def _rounded(number: Any, tie: str) -> str:
    number = float(number)
    if not np.isfinite(number):
        return str(number)
    return str((half_away if tie == "away" else round)(Fraction(number)))


def _exactly(case: Case) -> list[str]:
    x, s, z = _numbers(case)
    if not (np.isfinite(x) and np.isfinite(s) and s > 0):
        return [f"x = {x!s}, s = {s!s}: there is no quotient"]
    quotient = Fraction(float(x)) / Fraction(float(s))
    below = quotient.__floor__()
    off = quotient - below - Fraction(1, 2)
    lines = [f"exactly: x / s = {_short(quotient)} = {float(quotient)!r}"]
    if quotient == below:
        lines.append("  a whole number")
    elif not off:
        lines.append(f"  between {below} and {below + 1}: a tie")
    else:
        side = "above" if off > 0 else "below"
        lines.append(f"  between {below} and {below + 1}: {float(abs(off)):.3g} {side} the middle")
    lines.append(f"  rounded, plus the zero point: {round(quotient) + z}")
    return lines


def _short(quotient: Fraction) -> str:
    """A fraction, its powers of two written as such where they are long."""
    n, d = quotient.numerator, quotient.denominator
    text = f"{n}/{d}" if d > 1 else str(n)
    if len(text) <= 60:
        return text

    def power(k: int) -> str:
        two = (k & -k).bit_length() - 1
        odd = k >> two
        return f"{odd} * 2**{two}" if two > 16 else str(k)

    return f"({power(n) if n >= 0 else '-' + power(-n)}) / ({power(d)})"


def _numbers(case: Case) -> tuple[Any, Any, int]:
    x = values(case.inputs["x"], "float32")[()]
    s = values(case.params["scale"], "float32")[()]
    return x, s, int(case.params["zero_point"])


def _is_scalar_affine(case: Case) -> bool:
    return (case.op == "quantize_affine" and not case.inputs["x"].ndim
            and case.inputs["x"].dtype == case.params["scale"].dtype == np.uint32
            and case.params.get("granularity", "per_tensor") == "per_tensor")
