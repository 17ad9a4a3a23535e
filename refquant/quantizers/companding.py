r"""Companding: bend the values, quantize them evenly, bend them back.

.. math:: \hat x = F^{-1}\big(Q(F(x))\big)

An even grid behind a curve is an uneven grid, fine where the curve is steep. The
two curves of telephony are steep at zero and logarithmic beyond: the *relative*
error is then nearly the same for loud and for soft, and a codebook is not needed.

The curves are formulas: NaN stays NaN, and outside of [-1, 1] they go on. The
codebook refuses NaN and saturates.
"""

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_int, require_number, require_positive
from refquant.quantizers.codebook import Codebook

__all__ = ["a_law", "a_law_inverse", "companded", "mu_law", "mu_law_inverse"]

MU = 255.0
A = 87.6


def mu_law(x: Array, *, mu: float = MU) -> Array:
    r"""Compressed values on [-1, 1], North America and Japan.

    .. math:: F(x) = \mathrm{sign}(x)\,\frac{\ln(1 + \mu |x|)}{\ln(1 + \mu)}

    Parameters
    ----------
    x : ndarray of float
        On [-1, 1], which it maps to itself.
    mu : float
        Above 0; 0 would be no compression.

    Returns
    -------
    ndarray of float, shape and dtype of `x`

    Raises
    ------
    ValueError
        If `mu` is not positive.

    Notes
    -----
    ITU-T G.711 is a piecewise linear approximation, equal to neither formula here.

    References
    ----------
    Smith, "Instantaneous companding of quantized signals", 1957; Jayant and Noll,
    1984, eq. (5.19).

    Examples
    --------
    >>> mu_law(np.array([0.01, 0.5, 1.0])).round(6)
    array([0.228477, 0.875703, 1.      ])
    """
    x = as_reals("x", x)
    _require_above("mu", mu, 0)
    with np.errstate(over="ignore"):
        return np.copysign(np.log1p(mu * np.abs(x)) / np.log1p(mu), x).astype(x.dtype)


def mu_law_inverse(y: Array, *, mu: float = MU) -> Array:
    r"""Expanded values, the inverse of `mu_law`.

    .. math:: F^{-1}(y) = \mathrm{sign}(y)\,\frac{(1 + \mu)^{|y|} - 1}{\mu}

    Parameters
    ----------
    y : ndarray of float
    mu : float
        Above 0.

    Returns
    -------
    ndarray of float, shape and dtype of `y`

    Raises
    ------
    ValueError
        If `mu` is not positive.

    References
    ----------
    Jayant and Noll, 1984, section 5.3.

    Examples
    --------
    >>> mu_law_inverse(np.array([0.5, -1.0])).round(6)
    array([ 0.058824, -1.      ])
    """
    y = as_reals("y", y)
    _require_above("mu", mu, 0)
    with np.errstate(over="ignore"):
        return np.copysign(np.expm1(np.abs(y) * np.log1p(mu)) / mu, y).astype(y.dtype)


def a_law(x: Array, *, a: float = A) -> Array:
    r"""Compressed values on [-1, 1], the rest of the world: linear up to 1/A.

    .. math:: F(x) = \mathrm{sign}(x) \begin{cases}
              A|x| / (1 + \ln A) & |x| < 1/A \\
              (1 + \ln A|x|) / (1 + \ln A) & \text{else} \end{cases}

    Parameters
    ----------
    x : ndarray of float
        On [-1, 1], which it maps to itself.
    a : float
        Above 1.

    Returns
    -------
    ndarray of float, shape and dtype of `x`

    Raises
    ------
    ValueError
        If `a` is not above 1.

    References
    ----------
    Cattermole, "Principles of Pulse Code Modulation", 1969; Jayant and Noll, 1984,
    eq. (5.22).

    Examples
    --------
    >>> a_law(np.array([0.01, 0.5, 1.0])).round(6)
    array([0.160065, 0.873346, 1.      ])
    """
    x = as_reals("x", x)
    _require_above("a", a, 1)
    with np.errstate(over="ignore"):
        scaled = a * np.abs(x)
    bent = np.where(scaled < 1, scaled, 1 + np.log(np.maximum(scaled, 1)))
    return np.copysign(bent / (1 + np.log(a)), x).astype(x.dtype)


def a_law_inverse(y: Array, *, a: float = A) -> Array:
    r"""Expanded values, the inverse of `a_law`.

    Parameters
    ----------
    y : ndarray of float
    a : float
        Above 1.

    Returns
    -------
    ndarray of float, shape and dtype of `y`

    Raises
    ------
    ValueError
        If `a` is not above 1.

    References
    ----------
    Jayant and Noll, 1984, section 5.3.

    Examples
    --------
    >>> a_law_inverse(a_law(np.array([0.001, -0.3]))).round(9)
    array([ 0.001, -0.3  ])
    """
    y = as_reals("y", y)
    _require_above("a", a, 1)
    with np.errstate(over="ignore"):
        bent = np.abs(y) * (1 + np.log(a))
        return np.copysign(np.where(bent < 1, bent, np.exp(bent - 1)) / a, y).astype(y.dtype)


def companded(bound: Array, *, bits: int, mu: float = MU) -> Codebook:
    r"""Codebook of equal steps behind the mu-law, on ``[-bound, bound]``.

    .. math:: X_i = A F^{-1}\!\Big(\frac{2i + 1}{2^b} - 1\Big), \qquad
              \Delta_i = A F^{-1}\!\Big(\frac{2i + 2}{2^b} - 1\Big)

    Parameters
    ----------
    bound : ndarray of float, > 0
        A: a scalar, or of the rank of the data and broadcastable to it.
    bits : int
        b, from 1 to 12.
    mu : float
        Above 0.

    Returns
    -------
    Codebook
        Its thresholds are not midpoints: a value goes to the level that is nearest
        *on the bent scale*.

    Raises
    ------
    ValueError
        If `bound` is not positive, or `bits` or `mu` is out of range.

    References
    ----------
    Bennett, "Spectra of quantized signals", 1948, Bell System Technical Journal
    27(3), section 2.

    Examples
    --------
    >>> companded(np.array(1.0), bits=2).levels.round(4)
    array([-0.2471, -0.0118,  0.0118,  0.2471])
    """
    bound = as_reals("bound", bound)
    require_positive("bound", bound)
    require_int("bits", bits, 1, 12)
    grid = np.arange(1, 2 ** (bits + 1)) / 2**bits - 1      # level, threshold, level, ...
    values = mu_law_inverse(grid, mu=mu).reshape(-1, *(1,) * bound.ndim) * bound
    return Codebook(values[::2].astype(bound.dtype), values[1::2])


def _require_above(name: str, value: float, low: float) -> None:
    require_number(name, value)
    if not low < value < np.inf:
        raise ValueError(f"`{name}` must be above {low} and finite; got {value}")
