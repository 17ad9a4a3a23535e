"""Round real values to whole numbers: the only lossy step of a quantizer inside its range.

Every function maps a float array to whole numbers of the same shape and dtype
and, `stochastic_sign` apart, leaves whole numbers alone, passes NaN and the
infinities through and fits any ``rounding`` argument in the library. A value in
(-1, 0) may become -0.0.

==================  =========================  ===================================
function            -2.5, 0.5, 1.5 become      met in
==================  =========================  ===================================
half_even           -2, 0, 2                   IEEE 754, ONNX, PyTorch
half_away           -3, 1, 2                   TFLite reference kernels, C ``round``
half_up             -2, 1, 2                   ``(x + half) >> shift`` hardware
floor               -3, 0, 1                   arithmetic shift right
ceil                -2, 1, 2                   sizes, never codes
toward_zero         -2, 0, 1                   C casts
stochastic          either neighbour, fairly   low-precision training
==================  =========================  ===================================
"""

from collections.abc import Callable

import numpy as np

from refquant._types import Array, Rounding
from refquant._validate import require_int, require_no_nan

__all__ = [
    "ceil",
    "floor",
    "half_away",
    "half_even",
    "half_up",
    "stochastic",
    "stochastic_few_bits",
    "stochastic_sign",
    "toward_zero",
]


def half_even(x: Array) -> Array:
    """Nearest whole number; a tie goes to the even neighbour.

    Ties in either direction are equally frequent, so long sums do not drift.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    References
    ----------
    IEEE 754-2019, section 4.3.1, roundTiesToEven.

    Examples
    --------
    >>> half_even(np.array([-2.5, 0.5, 1.5]))
    array([-2.,  0.,  2.])
    """
    return np.rint(x)


def half_away(x: Array) -> Array:
    """Nearest whole number; a tie goes away from zero.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    References
    ----------
    IEEE 754-2019, section 4.3.1, roundTiesToAway; C11, 7.12.9.6 ``round``.

    Examples
    --------
    >>> half_away(np.array([-2.5, 0.5, 1.5]))
    array([-3.,  1.,  2.])
    """
    # trunc(x + 1/2) would be shorter and wrong: 0.49999999999999994 + 0.5 == 1.0.
    # The fraction x - trunc(x) is exact in floating point, so test that instead.
    whole = np.trunc(x)
    whole += np.copysign(_fraction(x, whole) >= 0.5, x).astype(whole.dtype, copy=False)
    return whole


def half_up(x: Array) -> Array:
    """Nearest whole number; a tie goes towards plus infinity.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    References
    ----------
    IEEE Std 1800-2017 and fixed-point hardware: ``(x + half) >> shift``.

    Examples
    --------
    >>> half_up(np.array([-2.5, 0.5, 1.5]))
    array([-2.,  1.,  2.])
    """
    # floor(x + 1/2) is wrong for 0.49999999999999994 and, in float32, for odd x above 2**23.
    # The fraction x - floor(x) is exact except for -1/2 < x < 0, where x + 1 is rounded;
    # but there it exceeds 1/2, a float, and rounding, being monotone, keeps it at or above.
    below = np.floor(x)
    below += _fraction(x, below) >= 0.5
    return below


def floor(x: Array) -> Array:
    """Next whole number below: what an arithmetic right shift computes.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`; too low by 1/2 on average.

    References
    ----------
    IEEE 754-2019, section 4.3.2, roundTowardNegative.

    Examples
    --------
    >>> floor(np.array([-2.5, 0.5, 1.5]))
    array([-3.,  0.,  1.])
    """
    return np.floor(x)


def ceil(x: Array) -> Array:
    """Next whole number above.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    References
    ----------
    IEEE 754-2019, section 4.3.2, roundTowardPositive.

    Examples
    --------
    >>> ceil(np.array([-2.5, 0.5, 1.5]))
    array([-2.,  1.,  2.])
    """
    return np.ceil(x)


def toward_zero(x: Array) -> Array:
    """Drop the fraction: what a C cast from float to int computes.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    References
    ----------
    IEEE 754-2019, section 4.3.2, roundTowardZero.

    Examples
    --------
    >>> toward_zero(np.array([-2.5, 0.5, 1.5]))
    array([-2.,  0.,  1.])
    """
    return np.trunc(x)


def stochastic(x: Array, *, rng: np.random.Generator) -> Array:
    r"""Round up with probability equal to the fraction, so the mean is exact.

    .. math:: P(\lfloor x \rfloor + 1) = x - \lfloor x \rfloor
              \quad\Rightarrow\quad E[\mathrm{round}(x)] = x,\quad
              \mathrm{Var} = f (1 - f) \le \tfrac14

    with the fraction :math:`f = x - \lfloor x \rfloor`. A whole number stays
    itself with probability one (the survey of Gholami et al. gives both of its
    neighbours probability zero). The draws are multiples of :math:`2^{-53}`, so P
    is f rounded up to such a multiple; for -1/2 < x < 0 the fraction x + 1 is
    first rounded to the dtype of `x`.

    Parameters
    ----------
    x : ndarray of float, any shape
    rng : numpy.random.Generator
        One uniform draw of 53 bits per element, in C order.

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    References
    ----------
    Gupta et al., "Deep Learning with Limited Numerical Precision", 2015,
    arXiv:1502.02551, section 3.

    Examples
    --------
    >>> y = stochastic(np.full(10_000, 0.3), rng=np.random.default_rng(0))
    >>> np.unique(y), round(y.mean(), 2)
    (array([0., 1.]), np.float64(0.3))
    """
    below = np.floor(x)
    below += _drawn_below(_fraction(x, below), rng.random)
    return below


def stochastic_few_bits(
    x: Array, *, random_bits: int, rng: np.random.Generator, pre_round: Rounding = half_even
) -> Array:
    r"""Stochastic rounding as hardware does it, with `r` random bits an element.

    The fraction f is first put on the grid of the random bits; it rounds up if
    it exceeds a uniform draw s from that grid:

    .. math:: P(\lfloor x \rfloor + 1) = 2^{-r}\, \mathrm{round}(2^r f),
              \qquad s \in \{0, \dots, 2^r - 1\}.

    With `pre_round` half-even the bias averages to zero on every finer grid.
    ``floor`` is the cheap hardware form: it never rounds up a fraction below
    :math:`2^{-r}` and is too low by :math:`2^{-(r+1)}` on average. ``half_up``
    is unbiased for continuous data, yet too high on dyadic grids.

    Parameters
    ----------
    x : ndarray of float, any shape
    random_bits : int
        r, from 1 to 24.
    rng : numpy.random.Generator
        One integer draw per element, in C order.
    pre_round : callable, ndarray -> ndarray
        How the fraction reaches the grid of the random bits; as a rule that does not
        change when an even number is added, since it is applied to :math:`2^r x`.

    Returns
    -------
    ndarray
        Whole numbers in the shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `random_bits` is not in 1..24.

    References
    ----------
    Fitzgibbon and Felix, "On Stochastic Rounding with Few Random Bits", 2025,
    arXiv:2504.20634.

    Examples
    --------
    >>> y = stochastic_few_bits(np.full(4096, 0.3), random_bits=2, rng=np.random.default_rng(0))
    >>> round(y.mean(), 1)      # 0.3 is put on the grid 0, 1/4, 1/2, 3/4 first
    np.float64(0.2)
    """
    require_int("random_bits", random_bits, 1, 24)
    below = np.floor(x)
    steps = 2**random_bits
    # Scaling by a power of two is exact, so are the difference and the comparison of whole
    # numbers. The fraction itself is not: x - floor(x) is rounded where x is small and negative.
    with np.errstate(over="ignore", invalid="ignore"):      # what overflows moves not
        wanted = np.asarray(pre_round(np.asarray(x * steps)) - below * steps)
    below += _drawn_below(wanted, lambda n: rng.integers(0, steps, size=n))
    return below


def stochastic_sign(x: Array, *, rng: np.random.Generator, hard: bool = False) -> Array:
    r"""Plus or minus one, plus with a probability that grows with `x`.

    .. math:: P(+1) = \frac{1}{1 + e^{-x}} \Rightarrow E = \tanh(x / 2)
              \qquad\text{or}\qquad
              P(+1) = \mathrm{clip}\!\left(\frac{x + 1}{2}, 0, 1\right)
              \Rightarrow E = \mathrm{clip}(x, -1, 1)

    The first is the survey's form; the second (`hard`) is BinaryConnect's, and
    unbiased on [-1, 1].

    Parameters
    ----------
    x : ndarray of float, any shape
    rng : numpy.random.Generator
        One uniform draw per element, in C order.
    hard : bool
        Hard sigmoid instead of the logistic function.

    Returns
    -------
    ndarray
        -1 and +1 in the shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `x` has a NaN.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section IV-B; Courbariaux et al.,
    "BinaryConnect", 2015, arXiv:1511.00363, eqs. (2) and (3).

    Examples
    --------
    >>> y = stochastic_sign(np.full(10_000, 0.5), rng=np.random.default_rng(0), hard=True)
    >>> round(y.mean(), 1)
    np.float64(0.5)
    """
    x = np.asarray(x)
    require_no_nan("x", x)
    # The logistic function through tanh: exp would overflow for large negative x.
    plus = np.clip((x + 1) / 2, 0, 1) if hard else (1 + np.tanh(x / 2)) / 2
    one = x.dtype.type(1)
    return np.where(_drawn_below(np.asarray(plus), rng.random), one, -one)


def _fraction(x: Array, whole: Array) -> Array:
    """``|x - whole|``; NaN for an infinity, which no comparison counts as a reason to move."""
    with np.errstate(invalid="ignore"):
        fraction = np.asarray(x - whole)
    return np.abs(fraction, out=fraction)


def _drawn_below(bound: Array, draw: Callable[[int], Array]) -> Array:
    """Whether the draw of each element is below its bound; few draws are held at a time."""
    flat, piece = bound.reshape(-1), 2**16
    below = np.empty(flat.shape, bool)
    for start in range(0, flat.size, piece):
        bounds = flat[start : start + piece]
        np.less(draw(bounds.size), bounds, out=below[start : start + piece])
    return below.reshape(bound.shape)
