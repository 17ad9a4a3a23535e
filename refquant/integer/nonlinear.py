r"""I-BERT: GELU, softmax and layer norm of integers, by polynomials of second degree.

An integer q of scale S stands for S q. A polynomial in it needs integers alone once its
coefficients have been divided by S and rounded down, which is done before any data is seen:

.. math:: a (x + b)^2 + c = a S^2 \bigl( (q + \lfloor b / S \rfloor)^2
          + \lfloor c / (a S^2) \rfloor \bigr) .

==============  =======================================================================
function        what makes a parabola enough
==============  =======================================================================
erf             it is odd, and 1 from 1.769 on
GELU            :math:`x \cdot \frac12 (1 + \mathrm{erf}(x / \sqrt2))`
exp             :math:`x = p - z \ln 2` with p in (-ln 2, 0], and a shift by z bits
softmax         exponentials, a sum and one division
layer norm      sums, a division, and a square root by Newton's iteration
==============  =======================================================================

Where the released code computes differently from the paper, it has a function of its own.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import require_codes, require_int, require_positive

__all__ = [
    "Scaled",
    "i_erf",
    "i_exp",
    "i_exp_released",
    "i_gelu",
    "i_gelu_released",
    "i_layer_norm",
    "i_polynomial",
    "i_softmax",
    "i_sqrt",
]

_INT32 = (-(2**31), 2**31 - 1)
_ERF = (-0.2888, -1.769, 1.0)                       # eq. (7): a (x + b)**2 + c
_EXP = (0.3585, 1.353, 0.344)                       # eq. (13)
_EXP_RELEASED = (0.35815147, 0.96963238, 1.0)       # a x**2 + b x + c


class Scaled(NamedTuple):
    """Integers and what one of them is worth.

    Attributes
    ----------
    q : ndarray of int64
    scale : float or ndarray of float
        The real number ``scale * q``; may be negative.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, section 3.1.

    Examples
    --------
    >>> result = Scaled(np.array([2, -4]), 0.25)
    >>> result.q * result.scale
    array([ 0.5, -1. ])
    """

    q: Array
    scale: float | Array


def i_polynomial(q: npt.ArrayLike, scale: float, a: float, b: float, c: float) -> Scaled:
    r"""Integer form of :math:`a (x + b)^2 + c`.

    Parameters
    ----------
    q : ndarray of int
        In the range of int32.
    scale : float
        S > 0, the worth of one; large enough that ``c / (a scale**2)`` is an int32.
    a, b, c : float
        Coefficients; `a` is not 0.

    Returns
    -------
    Scaled
        Of scale ``a * scale**2``.

    Raises
    ------
    ValueError
        If `q` or a coefficient leaves the range of int32.
    TypeError
        If `q` is not of integers.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, algorithm 1.

    Examples
    --------
    >>> result = i_polynomial([-5, 5], 0.1, 2.0, 0.5, 1.0)      # 2 (x + 0.5)**2 + 1
    >>> result.q * result.scale
    array([0.98, 2.98])
    """
    q_b, q_c = _floored("scale", b / scale), _floored("scale", c / (a * scale**2))
    return Scaled((_int32("q", q) + q_b) ** 2 + q_c, a * scale**2)


def i_erf(q: npt.ArrayLike, scale: float) -> Scaled:
    r"""Error function: :math:`\mathrm{sgn}(x) \bigl(a (\min(|x|, -b) + b)^2 + 1\bigr)`.

    Parameters
    ----------
    q : ndarray of int
        In the range of int32.
    scale : float
        S, at least 0.00005.

    Returns
    -------
    Scaled
        Of negative scale.

    Raises
    ------
    ValueError
        If `q` is not an int32 or `scale` too small.
    TypeError
        If `q` is not of integers.

    Notes
    -----
    The paper clips \|q\| at ``-b / S``, which need not be an integer; this is the clip of the
    released code, at minus the rounded b.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, eqs. (6)-(7), algorithm 2.

    Examples
    --------
    >>> result = i_erf([20, -20], 0.05 / 2**0.5)                # erf(1 / sqrt(2)) is 0.6827
    >>> result.q, (result.q * result.scale).round(4)
    (array([-1810,  1810]), array([ 0.6534, -0.6534]))
    """
    require_positive("scale", np.asarray(scale))
    q = _int32("q", q)
    bound = -_floored("scale", _ERF[1] / scale)
    size, worth = i_polynomial(np.minimum(abs(q), bound), scale, *_ERF)
    return Scaled(np.sign(q) * size, worth)


def i_gelu(q: npt.ArrayLike, scale: float) -> Scaled:
    r"""GELU: :math:`x \cdot \tfrac12 (1 + \mathrm{erf}(x / \sqrt 2))`.

    Parameters
    ----------
    q : ndarray of int
        In the range of int32.
    scale : float
        S, at least 0.00005.

    Returns
    -------
    Scaled
        Of negative scale; within ``0.0182 + S + 0.15 * S**2 * |x|`` of GELU.

    Raises
    ------
    ValueError
        If `q` is not an int32 or `scale` too small.
    TypeError
        If `q` is not of integers.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, eq. (8), algorithm 2.

    Examples
    --------
    >>> result = i_gelu([20, -20, 60], 0.05)            # 0.8413, -0.1587, 2.9960
    >>> (result.q * result.scale).round(4)
    array([ 0.8269, -0.1735,  3.001 ])
    """
    erf, worth = i_erf(q, scale / math.sqrt(2))
    q_one = _floored("scale", 1 / float(worth))
    return Scaled(_int32("q", q) * (erf + q_one), scale * float(worth) / 2)


def i_gelu_released(q: npt.ArrayLike, scale: float) -> Scaled:
    r"""GELU with narrower integers: 14 bits of the error function are dropped.

    Parameters
    ----------
    q : ndarray of int
        In the range of int32.
    scale : float
        S, at least 0.00005.

    Returns
    -------
    Scaled
        Of negative scale. For large S nothing is left of the error function: it takes
        ``3.46 (1.4142 / scale)**2`` values, over ``2**14``.

    Raises
    ------
    ValueError
        If `q` is not an int32 or `scale` too small.
    TypeError
        If `q` is not of integers.

    References
    ----------
    Kim et al., 2021, the released code: ``IntGELU``.

    Examples
    --------
    >>> result = i_gelu_released([1000, -1000, 3000], 0.001)    # 0.8413, -0.1587, 2.9960
    >>> (result.q * result.scale).round(4)
    array([ 0.8375, -0.1644,  3.0023])
    """
    erf, worth = i_erf(q, scale / 1.4142)
    erf, wider = erf >> 14, float(worth) * 2**14
    q_one = _floored("scale", 1 / wider)
    return Scaled(_int32("q", q) * (erf + q_one), scale * wider / 2)


def i_exp(q: npt.ArrayLike, scale: float) -> Scaled:
    r"""Exponential of numbers that are not positive.

    .. math:: x = p - z \ln 2,\ p \in (-\ln 2, 0], \qquad
              e^x = 2^{-z} e^p \approx 2^{-z} \bigl(0.3585 (p + 1.353)^2 + 0.344\bigr)

    Parameters
    ----------
    q : ndarray of int
        Not positive, in the range of int32.
    scale : float
        S, from 0.00003 to ln 2.

    Returns
    -------
    Scaled
        Not negative; within 0.0022 of the exponential, and 1.5 times `scale` more.

    Raises
    ------
    ValueError
        If `q` or `scale` is out of range.
    TypeError
        If `q` is not of integers.

    Notes
    -----
    The paper's bound of 0.0019 is that of the coefficients in `i_exp_released`, of which
    these are rounded: 0.00213.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, eqs. (12)-(13), algorithm 3.

    Examples
    --------
    >>> result = i_exp([0, -10, -37], 0.05)             # 1, 0.6065, 0.1572
    >>> result.q, (result.q * result.scale).round(4)
    (array([1112,  672,  159]), array([0.9966, 0.6023, 0.1425]))
    """
    q = _not_positive(q)
    q_ln2 = _ln2_steps(math.log(2), scale)
    z = -q // q_ln2
    poly, worth = i_polynomial(q + z * q_ln2, scale, *_EXP)
    return Scaled(poly >> np.minimum(z, 63), worth)


def i_exp_released(q: npt.ArrayLike, scale: float) -> Scaled:
    r"""Exponential of numbers that are not positive, shifted left before it is shifted right.

    .. math:: \bigl\lfloor \bigl(q_p (q_p + \lfloor b / (a S) \rfloor)
              + \lfloor c / (a S^2) \rfloor\bigr) \, 2^{30 - z} \bigr\rfloor

    Nothing is lost to the shift until 30 halvings, where x is clipped.

    Parameters
    ----------
    q : ndarray of int
        Not positive, in the range of int32.
    scale : float
        S, from 0.00004 to 0.6931.

    Returns
    -------
    Scaled
        Not negative, and up to ``2**61``; within 0.0020 of the exponential, and 1.5
        times `scale` more.

    Raises
    ------
    ValueError
        If `q` or `scale` is out of range.
    TypeError
        If `q` is not of integers.

    References
    ----------
    Kim et al., 2021, the released code: ``IntSoftmax.int_exp``.

    Examples
    --------
    >>> result = i_exp_released([0, -10, -37], 0.05)    # 1, 0.6065, 0.1572
    >>> (result.q * result.scale).round(4)
    array([0.9992, 0.6053, 0.1592])
    """
    a, b, c = _EXP_RELEASED
    q_ln2 = _ln2_steps(0.6931, scale, math.ceil)
    q_b, q_c = _floored("scale", b / a / scale), _floored("scale", c / a / scale**2)
    q = np.maximum(_not_positive(q), -30 * q_ln2)
    z = -q // q_ln2
    q_p = q + z * q_ln2
    poly = q_p * (q_p + q_b) + q_c
    return Scaled(np.maximum(poly << (30 - z), 0), a * scale**2 / 2**30)


def i_softmax(
    q: npt.ArrayLike,
    scale: float,
    *,
    bits: int = 8,
    exp: Callable[[Array, float], Scaled] = i_exp_released,
) -> Scaled:
    """Softmax of the last axis: exponentials of 16 bits, their sum, and one reciprocal.

    Parameters
    ----------
    q : ndarray of int, shape (..., n)
        In the range of int32.
    scale : float
        S, within what `exp` allows.
    bits : int
        Of the result, from 1 to 16.
    exp : callable, (ndarray, float) -> Scaled
        `i_exp_released` or `i_exp`.

    Returns
    -------
    Scaled
        From 0 to ``2**bits - 1``, of scale ``2**-bits``, rounded down.

    Raises
    ------
    ValueError
        If `q`, `scale` or `bits` is out of range.
    TypeError
        If `q` is not of integers.

    Notes
    -----
    The released code learns the range of the exponentials while it trains. Their largest is
    known, exp(0), and stands for 32767 here.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, algorithm 3, and the released code: ``IntSoftmax``.

    Examples
    --------
    >>> i_softmax([1920, 640, -1280], 0.001).q          # exactly 194.1, 54.0, 7.9
    array([194,  53,   7])
    """
    require_int("bits", bits, 1, 16)
    q = _int32("q", q)
    below = np.maximum(q - q.max(axis=-1, keepdims=True), _INT32[0])
    terms = exp(below, scale).q
    largest = int(exp(np.zeros(1, np.int64), scale).q[0])
    surplus = max(largest.bit_length() - 31, 0)         # so that the product is an int64
    whole = largest >> surplus
    short = ((terms >> surplus) * 32767 + whole // 2) // whole
    reciprocal = 2**32 // short.sum(axis=-1, keepdims=True)
    return Scaled((short * reciprocal) >> (32 - bits), 2.0**-bits)


def i_sqrt(n: npt.ArrayLike) -> Array:
    r"""Whole part of the square root, by Newton's iteration from above.

    .. math:: x \leftarrow \lfloor (x + \lfloor n / x \rfloor) / 2 \rfloor
              \quad\text{from}\quad x = 2^{\lceil \mathrm{bits}(n) / 2 \rceil}

    until x does not fall: four steps for 32 bits, rarely five.

    Parameters
    ----------
    n : ndarray of int
        From 0 to ``2**62``.

    Returns
    -------
    ndarray of int64
        The largest x with ``x * x <= n``.

    Raises
    ------
    ValueError
        If `n` is out of range.
    TypeError
        If `n` is not of integers.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, algorithm 4.

    Examples
    --------
    >>> i_sqrt([1000, 99, 2**32 - 1, 0])
    array([   31,     9, 65535,     0])
    """
    whole = require_codes("n", n, 0, 2**62).astype(np.int64)
    square = np.maximum(whole, 1)
    bits, rest = np.zeros_like(square), square
    for half in (32, 16, 8, 4, 2, 1):                   # the position of the highest bit
        above = rest >> half > 0
        bits, rest = bits + half * above, np.where(above, rest >> half, rest)
    x = 1 << (bits + 2) // 2
    while True:
        smaller = (x + square // x) >> 1
        falls = smaller < x
        if not falls.any():
            return np.where(whole == 0, 0, x)
        x = np.where(falls, smaller, x)


def i_layer_norm(
    q: npt.ArrayLike,
    *,
    shift: int = 0,
    gamma: npt.ArrayLike | None = None,
    beta: npt.ArrayLike | None = None,
) -> Scaled:
    r"""Rows with mean 0 and variance 1, times gamma plus beta.

    With :math:`y = q - \lfloor\mathrm{mean}\rceil` and :math:`V = \sum y^2`, a row is

    .. math:: \bigl\lfloor y \lfloor 2^{31} / \lfloor\sqrt V\rfloor \rfloor / 2 \bigr\rfloor
              \quad\text{of scale}\quad \sqrt n \, 2^{-30} .

    V is not divided by n: the scale of the result makes up for it. The scale of q cancels.

    Parameters
    ----------
    q : ndarray of int, shape (..., n)
        In the range of int32.
    shift : int
        From 0 to 16: V is that of ``y >> shift``, so that it is below ``2**32``.
    gamma, beta : ndarray of float, shape (n,), or None
        Factors, none 0, and what is added; None: 1 and 0. They are known before, and so
        ``beta / gamma`` is an integer constant of the scale of the result.

    Returns
    -------
    Scaled
        Its scale has the shape of `gamma`.

    Raises
    ------
    ValueError
        If `q` is not of int32, a `gamma` is 0 or V is ``2**32`` or more.
    TypeError
        If `q` is not of integers.

    Notes
    -----
    A row of equal numbers, by whose deviation of 0 the released code divides, gives 0.

    References
    ----------
    Kim et al., 2021, arXiv:2101.01321, section 3.6, and the released code:
    ``IntLayerNorm``.

    Examples
    --------
    >>> result = i_layer_norm([12, -7, 30, 5])          # 0.1493, -1.2689, 1.4927, -0.3732
    >>> (result.q * result.scale).round(4)
    array([ 0.1538, -1.3077,  1.5385, -0.3846])
    """
    require_int("shift", shift, 0, 16)
    q = _int32("q", q)
    n = q.shape[-1]
    y = q - _rounded_quotient(q.sum(axis=-1, keepdims=True), n)
    # Of 33 bits at most; without a shift the square may need 66.
    energy = (np.clip(y >> shift, -(2**17), 2**17) ** 2).sum(axis=-1, keepdims=True)
    if energy.size and energy.max() >= 2**32:
        raise ValueError(f"`shift` must keep the sum of squares below 2**32; got {shift}")
    deviation = np.maximum(i_sqrt(energy) << shift, 1)
    y = (y * (2**31 // deviation)) >> 1
    scale = math.sqrt(n) / 2**30
    if gamma is None and beta is None:
        return Scaled(y, scale)
    factor = np.ones(n) if gamma is None else np.asarray(gamma, np.float64)
    if not factor.all():
        raise ValueError("`gamma` must not be 0: beta is divided by it")
    added = np.zeros(n) if beta is None else np.asarray(beta, np.float64)
    return Scaled(y + np.floor(added / factor / scale).astype(np.int64), scale * factor)


def _rounded_quotient(total: Array, n: int) -> Array:
    """Nearest integer, ties to even."""
    below, rest = total // n, total % n
    return below + ((2 * rest > n) | ((2 * rest == n) & (below % 2 == 1)))


def _floored(name: str, constant: float) -> int:
    """A constant of the integer program."""
    if not abs(constant) < 2**31:
        raise ValueError(f"`{name}` must give int32 constants; got {constant:.4g}")
    return math.floor(constant)


def _ln2_steps(ln2: float, scale: float, whole: Callable[[float], int] = math.floor) -> int:
    """Steps in ln 2."""
    require_positive("scale", np.asarray(scale))
    if scale > ln2:
        raise ValueError(f"`scale` must be at most {ln2:.4f}; got {scale}")
    return whole(ln2 / scale)


def _not_positive(q: npt.ArrayLike) -> Array:
    return require_codes("q", q, _INT32[0], 0).astype(np.int64)


def _int32(name: str, q: npt.ArrayLike) -> Array:
    return require_codes(name, q, *_INT32).astype(np.int64)
