"""Properties: what holds for every input, whatever the dialect, or under a named one.

Each takes a function ``quantize(x, scale, zero_point, qmin, qmax) -> codes`` (`x` a float32
array, the rest numbers) and raises AssertionError with the inputs concerned.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.oracle.adapters import Refquant
from refquant.oracle.run import WIDTH
from refquant.oracle.vectors import bits

__all__ = [
    "Affine", "Quantize", "assert_dialect", "idempotent", "monotone", "placement_invariant",
    "saturates", "sign_symmetric",
]  # fmt: skip

#: Function under test.
Quantize: TypeAlias = Callable[[Array, float, int, int, int], Array]


class Affine(NamedTuple):
    """Inputs of an affine quantizer.

    Attributes
    ----------
    x : ndarray of float32
    scale : float
        A float32 as float.
    zero_point, qmin, qmax : int

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> Affine(np.zeros(1, np.float32), 1.0, 0, -128, 127).qmax
    127
    """

    x: Array
    scale: float
    zero_point: int
    qmin: int
    qmax: int


def assert_dialect(quantize: Quantize, given: Affine, *, dialect: str) -> None:
    """Nothing, or an AssertionError at the first input on which a dialect gives another code.

    Parameters
    ----------
    quantize : callable
    given : Affine
        NaN in it are not compared.
    dialect : str
        One that ``quantize_affine`` covers.

    Raises
    ------
    AssertionError
        If a code differs.

    References
    ----------
    See `refquant.integer.dialects`.

    Examples
    --------
    >>> ours = Refquant("onnx")
    >>> def rounds_away(x, scale, zero_point, qmin, qmax):
    ...     return np.clip(np.trunc(x / scale + np.copysign(0.5, x)) + zero_point, qmin, qmax)
    >>> given = Affine(np.array([0.25, 0.5], np.float32), 1.0, 0, -128, 127)
    >>> try:
    ...     assert_dialect(rounds_away, given, dialect="onnx")
    ... except AssertionError as err:
    ...     print(err)
    x = 0.5 (3f000000), scale = 1.0, zero_point = 0: onnx gives 0, got 1
    """
    params = {"scale": bits(np.array(given.scale, np.float32)), "zero_point": given.zero_point,
              "qmin": given.qmin, "qmax": given.qmax, "granularity": "per_tensor"}
    types = {"x": "float32", "q": "int32"}
    right = Refquant(dialect).run("quantize_affine", types, params, {"x": bits(given.x)})["q"]
    found = _codes(quantize, given)
    wrong = np.flatnonzero((right.view(np.int32) != found) & ~np.isnan(given.x))
    if wrong.size:
        i = int(wrong[0])
        raise AssertionError(
            f"{_shown(given, i)}: {dialect} gives {right.view(np.int32)[i]}, got {found[i]}")


def monotone(quantize: Quantize, given: Affine) -> None:
    """Nothing, or an AssertionError where a larger input gets a smaller code.

    Parameters
    ----------
    quantize : callable
    given : Affine

    Raises
    ------
    AssertionError
        If the codes of the sorted inputs fall.

    References
    ----------
    IEEE 754-2019, section 4.3: rounding is monotone, and so is a quotient.

    Examples
    --------
    >>> given = Affine(np.array([1, 2], np.float32), 1.0, 0, -128, 127)
    >>> monotone(lambda x, *grid: np.rint(x), given)
    """
    ordered = given._replace(x=np.sort(given.x[~np.isnan(given.x)]))
    found = _codes(quantize, ordered)
    falls = np.flatnonzero(np.diff(found) < 0)
    if falls.size:
        raise AssertionError(f"codes fall after {_shown(ordered, int(falls[0]))}")


def idempotent(quantize: Quantize, given: Affine) -> None:
    """Nothing, or an AssertionError where the value of a code has another code.

    Parameters
    ----------
    quantize : callable
    given : Affine
        Its scale must be a normal number, whose multiples do not overflow.

    Raises
    ------
    AssertionError
        If encoding what the codes stand for changes a code.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> given = Affine(np.array([1, 2], np.float32), 1.0, 0, -128, 127)
    >>> idempotent(lambda x, *grid: np.rint(x), given)
    """
    known = given._replace(x=given.x[~np.isnan(given.x)])
    once = _codes(quantize, known)
    again = ((once - given.zero_point).astype(np.float32) * np.float32(given.scale))
    moved = np.flatnonzero(_codes(quantize, given._replace(x=again)) != once)
    if moved.size:
        raise AssertionError(f"the value of the code of {_shown(known, int(moved[0]))} has another")


def placement_invariant(quantize: Quantize, given: Affine) -> None:
    """Nothing, or an AssertionError where the code depends on the place in the array.

    Parameters
    ----------
    quantize : callable
    given : Affine

    Raises
    ------
    AssertionError
        If an element of a shorter array, or of one that starts later, gets another code.

    References
    ----------
    onnxruntime, pull request 28606: a body that rounds unlike its tail.

    Examples
    --------
    >>> given = Affine(np.array([1, 2], np.float32), 1.0, 0, -128, 127)
    >>> placement_invariant(lambda x, *grid: np.rint(x), given)
    """
    whole = _codes(quantize, given)
    for cut in range(1, min(given.x.size, 2 * WIDTH + 1)):
        for part in (slice(None, cut), slice(cut, None)):
            found = _codes(quantize, given._replace(x=given.x[part].copy()))
            moved = np.flatnonzero(found != whole[part])
            if moved.size:
                at = int(moved[0]) + (part.start or 0)
                raise AssertionError(
                    f"{_shown(given, at)}: {whole[at]} in an array of {given.x.size}, "
                    f"{found[moved[0]]} in one of {found.size}")


def saturates(quantize: Quantize, given: Affine) -> None:
    """Nothing, or an AssertionError where infinities and huge numbers miss the ends.

    Parameters
    ----------
    quantize : callable
    given : Affine
        Its data are replaced.

    Raises
    ------
    AssertionError
        If one of them does not become the end on its side.

    References
    ----------
    ONNX operator QuantizeLinear: "saturates".

    Examples
    --------
    >>> given = Affine(np.zeros(1, np.float32), 1.0, 0, -128, 127)
    >>> saturates(lambda x, s, z, low, high: np.clip(np.rint(x / s) + z, low, high), given)
    """
    far = np.array([np.inf, 3e38, -3e38, -np.inf], np.float32)
    extreme = given._replace(x=far)
    found = _codes(quantize, extreme)
    ends = [given.qmax, given.qmax, given.qmin, given.qmin]
    # 3e38 is not beyond the range of every scale: it is asked only where it is.
    beyond = np.abs(far) / np.float64(given.scale) > 2.0 * (given.qmax - given.qmin)
    missed = np.flatnonzero((found != ends) & beyond)
    if missed.size:
        i = int(missed[0])
        raise AssertionError(f"{_shown(extreme, i)} must become {ends[i]}, got {found[i]}")


def sign_symmetric(quantize: Quantize, given: Affine) -> None:
    """Nothing, or an AssertionError where the code of -x is not minus that of x.

    Holds for a zero point of 0, where neither of the two codes is clipped.

    Parameters
    ----------
    quantize : callable
    given : Affine
        Its zero point is replaced by 0.

    Raises
    ------
    AssertionError
        If a pair is not symmetric.

    References
    ----------
    IEEE 754-2019, section 4.3: ties to even and away from zero ignore the sign.

    Examples
    --------
    >>> given = Affine(np.array([0.5, 2], np.float32), 1.0, 0, -128, 127)
    >>> sign_symmetric(lambda x, *grid: np.rint(x), given)
    """
    x = given.x[~np.isnan(given.x)]
    centred = given._replace(x=x, zero_point=0)
    plus, minus = _codes(quantize, centred), _codes(quantize, centred._replace(x=-x))
    least, most = np.minimum(plus, minus), np.maximum(plus, minus)
    inside = (least > given.qmin) & (most < given.qmax)
    odd = np.flatnonzero((plus != -minus) & inside)
    if odd.size:
        i = int(odd[0])
        raise AssertionError(f"{_shown(centred, i)}: {plus[i]}, and {minus[i]} with the other sign")


def _codes(quantize: Quantize, given: Affine) -> Array:
    with np.errstate(all="ignore"):
        found = np.asarray(quantize(*given))
        if found.shape != given.x.shape:
            raise AssertionError(f"codes must have the shape {given.x.shape}; got {found.shape}")
        return found.astype(np.int64)


def _shown(given: Affine, i: int) -> str:
    x = given.x[i]
    return (f"x = {x!s} ({int(x.view(np.uint32)):08x}), scale = {given.scale!s}, "
            f"zero_point = {given.zero_point}")
