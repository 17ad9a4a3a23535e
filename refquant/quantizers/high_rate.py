r"""High-rate theory: what quantizers can achieve, and what none can.

For b bits and a density of variance 1, all of them fall by a factor of 4 a bit:

=================  ========================================================
`panter_dite`      the best levels, when there are many (Lloyd-Max tends to it)
`bennett`          any levels, by how densely they lie
`entropy_coded`    equal steps and ideal entropy coding, b bits *on average*
`shannon_bound`    any code whatsoever, however long its blocks
=================  ========================================================

Equal steps with entropy coding lose a quarter of a bit to the last, for every
density; the best levels with codes of equal length lose more.
"""

from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.quantizers.lloyd_max import Density

__all__ = ["bennett", "entropy_coded", "panter_dite", "shannon_bound"]


def panter_dite(density: Density, bits: float) -> float:
    r"""Error of the best levels at high rate.

    .. math:: D = \frac{1}{12} \Big(\int p(x)^{1/3}\,dx\Big)^3\, 4^{-b}

    Parameters
    ----------
    density : Density
    bits : float
        log2 of the number of levels.

    Returns
    -------
    float
        As a fraction of the variance.

    References
    ----------
    Panter and Dite, 1951, doi:10.1109/JRPROC.1951.230419; Jayant and Noll, 1984,
    eq. (4.57).

    Examples
    --------
    >>> from refquant.quantizers.lloyd_max import gauss, laplace
    >>> round(panter_dite(gauss, 0), 6), round(panter_dite(laplace, 0), 6)
    (2.720699, 4.5)
    """
    return _integral(lambda x: density.pdf(x) ** (1 / 3)) ** 3 / 12 * 4.0**-bits


def bennett(density: Density, points: Callable[[Array], Array], k: int) -> float:
    r"""Error of levels that lie with a given density, at high rate.

    .. math:: D = \frac{1}{12 k^2} \int \frac{p(x)}{\lambda(x)^2}\,dx,
              \qquad \int \lambda = 1

    Parameters
    ----------
    density : Density
    points : callable, ndarray -> ndarray
        The lambda: which share of the levels lies at x, per unit. Positive where
        the density is; its integral should be 1.
    k : int
        Number of levels, at least 1.

    Returns
    -------
    float
        As a fraction of the variance; infinite if the levels thin out too fast.

    Raises
    ------
    ValueError
        If `k` is below 1.

    References
    ----------
    Bennett, "Spectra of quantized signals", 1948, Bell System Technical Journal
    27(3), eq. (2.5); Jayant and Noll, 1984, eq. (4.49).

    Examples
    --------
    >>> from refquant.quantizers.lloyd_max import gauss
    >>> wide = lambda x: np.exp(-(x**2) / 6) / np.sqrt(6 * np.pi)   # p to the 1/3
    >>> round(bennett(gauss, wide, 1), 6)
    2.720699
    """
    require_int("k", k, 1)
    return _integral(lambda x: density.pdf(x) / points(x) ** 2) / (12 * k**2)


def shannon_bound(density: Density, bits: float) -> float:
    r"""Error below which no code of `bits` bits a value can come (Shannon's lower bound).

    .. math:: D \ge \frac{2^{2h}}{2 \pi e}\, 4^{-R}

    with h the differential entropy. For the normal density it is :math:`4^{-R}`, and
    reached by long enough blocks.

    Parameters
    ----------
    density : Density
    bits : float
        R, the rate.

    Returns
    -------
    float
        As a fraction of the variance.

    References
    ----------
    Shannon, "Coding theorems for a discrete source with a fidelity criterion",
    1959; Cover and Thomas, 2006, theorem 10.3.2.

    Examples
    --------
    >>> from refquant.quantizers.lloyd_max import gauss, laplace
    >>> round(shannon_bound(gauss, 2), 6), round(shannon_bound(laplace, 0), 6)
    (0.0625, 0.865256)
    """
    return float(4.0 ** (density.entropy - bits) / (2 * np.pi * np.e))


def entropy_coded(density: Density, bits: float) -> float:
    r"""Error of equal steps with ideal entropy coding, at high rate.

    .. math:: D = \frac{2^{2h}}{12}\, 4^{-H}

    which is :math:`\pi e / 6` times the bound of Shannon: 1.53 dB, or 0.2546 bit.

    Parameters
    ----------
    density : Density
    bits : float
        H, the entropy of the codes.

    Returns
    -------
    float
        As a fraction of the variance.

    References
    ----------
    Gish and Pierce, "Asymptotically efficient quantizing", 1968,
    doi:10.1109/TIT.1968.1054193.

    Examples
    --------
    >>> from refquant.quantizers.lloyd_max import gauss, laplace
    >>> round(entropy_coded(gauss, 0), 6), round(entropy_coded(laplace, 0), 6)
    (1.423289, 1.231509)
    """
    return float(4.0 ** (density.entropy - bits) / 12)


def _integral(f: Callable[[Array], Array]) -> float:
    """Over the whole line, of an even function that is smooth but for a corner at 0."""
    edges = np.concatenate([np.linspace(0, 40, 161), np.linspace(41, 200, 160)])
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, np.newaxis] / 2
    x = edges[:-1, np.newaxis] + half * (1 + nodes)
    with np.errstate(all="ignore"):
        values = f(x)
    values = np.where(np.isnan(values), 0, values)          # 0 / 0, far out
    return float(2 * np.sum(half * weights * values))
