r"""Know the best bound exactly: expected error of real levels under a density.

`aciq` estimates the error by a model. For a density with known tails the true
error of any set of levels :math:`y_i` is a finite sum over the cells between
their midpoints :math:`t_i`:

.. math:: D = \sum_i \int_{t_{i-1}}^{t_i} (x - y_i)^2 p(x)\,dx
            = \sum_i \left( M^{(2)}_i - 2 y_i M^{(1)}_i + y_i^2 M^{(0)}_i \right).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from refquant._types import Array
from refquant._validate import require_finite, require_nonempty
from refquant.calibration.aciq import Prior

__all__ = ["OptimalBound", "expected_mse", "optimal_bound"]


def expected_mse(levels: npt.ArrayLike, prior: Prior) -> float:
    """Mean squared error of nearest-level quantization, for a prior of scale 1.

    Parameters
    ----------
    levels : ndarray of float, shape (levels,)
        In any order, at least one; in units of the scale of the prior.
    prior : Prior
        `refquant.calibration.aciq.LAPLACE` or ``GAUSS``.

    Returns
    -------
    float
        In squared units of the scale; good to about 1e-15 times the variance.

    Raises
    ------
    ValueError
        If there is no level, or one is not finite.

    References
    ----------
    Max, 1960, "Quantizing for Minimum Distortion", IRE Transactions on
    Information Theory 6(1).

    Examples
    --------
    >>> from refquant.calibration.aciq import GAUSS
    >>> round(expected_mse([-(2 / np.pi) ** 0.5, (2 / np.pi) ** 0.5], GAUSS), 6)   # 1 - 2/pi
    0.36338
    """
    y = np.sort(np.asarray(levels, np.float64).reshape(-1))
    require_nonempty("levels", y)
    require_finite("levels", y)
    between = np.array([_beyond(t, prior) for t in (y[1:] + y[:-1]) / 2]).reshape(-1, 3)
    beyond = np.vstack([_beyond(-np.inf, prior), between, np.zeros(3)])
    mass, first, second = (beyond[:-1] - beyond[1:]).T
    return float(np.sum(second - 2 * y * first + y**2 * mass))


class OptimalBound(NamedTuple):
    """Best stretch of a set of levels.

    Attributes
    ----------
    bound : float
        Factor on the levels, in units of the scale of the prior.
    mse : float
        The error there, in squared units.

    References
    ----------
    Max, 1960, IRE Transactions on Information Theory 6(1), table II.

    Examples
    --------
    >>> OptimalBound(bound=1.4935, mse=0.118846).bound
    1.4935
    """

    bound: float
    mse: float


def optimal_bound(levels: npt.ArrayLike, prior: Prior) -> OptimalBound:
    r"""Bound that real levels should have under a prior of scale 1.

    .. math:: \alpha^* = \arg\min_\alpha D(\alpha\, y_1, \dots, \alpha\, y_n)

    Parameters
    ----------
    levels : ndarray of float, shape (levels,)
        The levels for a bound of 1: ``np.linspace(-1, 1, 16)`` if both ends are
        levels, ``np.arange(-7, 8) / 7`` for `symmetric`, ``np.arange(-8, 8) / 8``
        for `half_open`.
    prior : Prior
        `refquant.calibration.aciq.LAPLACE` or ``GAUSS``.

    Returns
    -------
    OptimalBound
        The bound is good to about 1e-7 (the minimum is flat), the error to 1e-14.

    Raises
    ------
    ValueError
        If there is no level, or one is not finite.

    References
    ----------
    Max, 1960, IRE Transactions on Information Theory 6(1), table II, for
    Gauss and ``np.linspace``, in steps rather than bounds.

    Examples
    --------
    >>> from refquant.calibration.aciq import GAUSS, unit_bound
    >>> best = optimal_bound(np.linspace(-1, 1, 4), GAUSS)
    >>> round(best.bound, 4), round(best.mse, 6), round(unit_bound(2, GAUSS), 4)
    (1.4935, 0.118846, 1.7106)
    """
    unit = np.asarray(levels, np.float64)
    # A coarse look first, because nothing promises a single minimum.
    coarse = np.geomspace(0.1, 50, 60)
    at = int(np.argmin([expected_mse(bound * unit, prior) for bound in coarse]))
    found = minimize_scalar(
        lambda bound: expected_mse(bound * unit, prior),
        bounds=(coarse[max(at - 1, 0)], coarse[min(at + 1, coarse.size - 1)]),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return OptimalBound(float(found.x), float(found.fun))


def _beyond(t: float, prior: Prior) -> Array:
    """Mass, first and second moment of the values above t, of either sign."""
    mass, first, second = prior.tail(min(abs(t), 1e3))  # all 0 in float64 from there
    if t >= 0:
        return np.array([mass, first, second])
    total, _, variance = (2 * moment for moment in prior.tail(0.0))
    return np.array([total - mass, first, variance - second])
