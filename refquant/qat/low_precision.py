r"""Train in few bits: updates that are smaller than a step, gradients that are smaller than FP16.

Two ways to lose a small number, and what saves it:

====================  =====================================  ==============================
lost                  where                                  saved by
====================  =====================================  ==============================
an update             in the sum with a stored weight, if    rounding the sum at random:
                      it is below half a step                right on average
a gradient            in the cast to FP16, if it is below    scaling the loss, and with it
                      :math:`2^{-25}`                        every gradient, by a power of 2
====================  =====================================  ==============================

With random rounding the stored weight is a walk whose mean is the float sum, and whose variance
is known: see `predicted`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Axis, Codes, Rounding
from refquant._validate import as_reals, require_finite, require_int, require_positive
from refquant.qat._common import Pullback
from refquant.rounding import half_even

__all__ = ["Grid", "LossScaler", "Walk", "all_finite", "gradient_cast", "predicted",
           "scaled_loss", "stored_update", "unscaled"]


class Grid(Protocol):
    """Levels that can be reached by any rounding: `FixedPoint`, `Uniform`, `Minifloat`.

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3.

    Examples
    --------
    >>> from refquant.quantizers.fixed_point import FixedPoint
    >>> FixedPoint(8, 7).encode(np.array([0.3]), rounding=np.floor)
    array([38], dtype=int32)
    """

    def encode(self, x: Array, /, *, rounding: Rounding) -> Codes:
        """Code of each element."""

    def decode(self, codes: Array, /) -> Array:
        """Number of each code."""


class Walk(NamedTuple):
    """What random rounding makes of a sum, before it has been drawn.

    Attributes
    ----------
    mean : ndarray of float64
        Of the stored sum, less where it began: the float sum itself.
    variance : ndarray of float64

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3.
    """

    mean: Array
    variance: Array


def stored_update(
    weight: Array, update: Array, grid: Grid, *, rounding: Rounding = half_even
) -> Array:
    r"""The stored weight after an update: the sum, put back on the grid at once.

    There is no second copy of the weight in more bits. With step :math:`\delta`,

    .. math:: \text{nearest: } w' = w \text{ whenever } |\Delta| < \tfrac{\delta}{2}; \qquad
              \text{stochastic: } E[w'] = w + \Delta \text{ for any } \Delta .

    So nearest rounding stops for good where :math:`\eta |g| < \delta / 2`.

    Parameters
    ----------
    weight : ndarray of float
        On the grid.
    update : ndarray of float, broadcastable to `weight`
        :math:`\Delta = -\eta g`. The sum is taken in float64.
    grid : Grid
        Where weights are stored; it saturates at its ends.
    rounding : callable, ndarray -> ndarray
        ``partial(stochastic, rng=rng)`` of `refquant.rounding` for an unbiased sum.

    Returns
    -------
    ndarray, shape and dtype of `weight`
        On the grid.

    Raises
    ------
    ValueError
        If the sum has a NaN.

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3; Gholami et al., 2021, arXiv:2103.13630,
    section III-F (stochastic quantization).

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.quantizers.fixed_point import FixedPoint
    >>> from refquant.rounding import stochastic
    >>> w, grid = np.full(1000, 0.5), FixedPoint(8, 7)
    >>> float(stored_update(w, np.array(0.001), grid).mean())
    0.5
    >>> up = partial(stochastic, rng=np.random.default_rng(0))
    >>> round(float(stored_update(w, np.array(0.001), grid, rounding=up).mean()), 3)
    0.501
    """
    total = np.add(weight, update, dtype=np.float64)
    return grid.decode(grid.encode(total, rounding=rounding)).astype(weight.dtype)


def predicted(updates: Array, step: float, *, axis: Axis = 0) -> Walk:
    r"""Mean and variance of a stored sum of updates under stochastic rounding.

    A weight on the grid plus an update has the fraction :math:`f = \mathrm{frac}(\Delta /
    \delta)`, whatever the weight; so the roundings are independent, and

    .. math:: E\,[w_T] = w_0 + \sum_t \Delta_t, \qquad
              \mathrm{Var}\,[w_T] = \delta^2 \sum_t f_t (1 - f_t) .

    For equal updates far below a step the variance is :math:`T \delta |\Delta|`, and the sum
    stands out of its own noise as :math:`\sqrt{T |\Delta| / \delta}`: after about one step's
    worth of updates.

    Parameters
    ----------
    updates : ndarray of float
        :math:`\Delta_t`.
    step : float
        :math:`\delta` of an evenly spaced grid.
    axis : int or tuple of int, optional
        Of t.

    Returns
    -------
    Walk
        Exact as long as the walk meets no end of the grid. If the updates themselves depend on
        where the walk went, as in training, the difference of the stored and the float sum
        still has mean 0, and the variance is right on average over walks.

    Raises
    ------
    ValueError
        If `updates` is not finite, or `step` not positive.

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3, for one rounding; sums of martingale
    differences for the rest.

    Examples
    --------
    >>> walk = predicted(np.full(1000, 1 / 12800), 1 / 256)     # a fiftieth of a step
    >>> float(walk.mean), round(float(np.sqrt(walk.variance)), 4)
    (0.078125, 0.0173)
    """
    require_finite("updates", updates)
    require_positive("step", np.asarray(step))
    ratio = np.asarray(updates, np.float64) / step
    fraction = ratio - np.floor(ratio)
    return Walk(np.asarray(np.sum(updates, axis=axis, dtype=np.float64)),
                np.asarray(step**2 * np.sum(fraction * (1 - fraction), axis=axis)))


class LossScaler(NamedTuple):
    """How much the loss is multiplied by, and when that changes.

    As large as possible without overflow, found by trying: double after a long clean time, and
    halve, skipping the step, when a gradient came out infinite or not a number.

    Attributes
    ----------
    scale : float
        S, a power of two: then scaling and unscaling are exact.
    clean : int
        Steps since it last changed.
    interval : int
        Clean steps until it is doubled.

    References
    ----------
    Micikevicius et al., "Mixed Precision Training", 2018, arXiv:1710.03740, sections 3.2 and
    3.3; PyTorch, ``torch.amp.GradScaler`` (the defaults).

    Examples
    --------
    >>> LossScaler(1024.0, interval=1).after(True)
    LossScaler(scale=2048.0, clean=0, interval=1)
    >>> LossScaler(1024.0, clean=7).after(False)
    LossScaler(scale=512.0, clean=0, interval=2000)
    """

    scale: float = 2.0**16
    clean: int = 0
    interval: int = 2000

    def after(self, finite: bool) -> "LossScaler":
        """The scaler for the next step.

        Parameters
        ----------
        finite : bool
            Whether all gradients of this step were, so that it was taken.

        Returns
        -------
        LossScaler
        """
        require_int("interval", self.interval, 1)
        require_positive("scale", np.asarray(self.scale))
        if not finite:
            return self._replace(scale=self.scale / 2, clean=0)
        if self.clean + 1 < self.interval:
            return self._replace(clean=self.clean + 1)
        return self._replace(scale=self.scale * 2, clean=0)


def scaled_loss(loss: Array, scale: Array) -> tuple[Array, Pullback]:
    """The loss times the scale: the last operation of a network, so the first on the way back.

    Parameters
    ----------
    loss : ndarray of float, shape ()
    scale : ndarray of float, shape ()
        S; not trained.

    Returns
    -------
    value : ndarray, shape ()
    pullback : callable
        Gradients of `loss` and `scale`; that of the scale is 0.

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3.2.

    Examples
    --------
    >>> value, pullback = scaled_loss(np.array(0.5), np.array(1024.0))
    >>> value, pullback(np.array(1.0))
    (np.float64(512.0), (np.float64(1024.0), array(0.)))
    """
    return loss * scale, lambda g: (g * scale, np.zeros_like(scale))


def unscaled(gradients: Mapping[str, Array], scale: npt.ArrayLike) -> dict[str, Array]:
    """Gradients of the loss itself, before anything (clipping, momentum) looks at their size.

    Parameters
    ----------
    gradients : mapping of str to ndarray of float
        Of the scaled loss, in the precision of the optimizer.
    scale : float
        S; for a power of two the division is exact.

    Returns
    -------
    dict of str to ndarray
        Dtypes stay.

    Raises
    ------
    ValueError
        If `scale` is not positive and finite.

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3.2.

    Examples
    --------
    >>> unscaled({"w": np.array([1024.0])}, 2.0**10)
    {'w': array([1.])}
    """
    require_positive("scale", np.asarray(scale))
    return {name: g / g.dtype.type(scale) for name, g in gradients.items()}


def all_finite(gradients: Mapping[str, Array]) -> bool:
    """Whether no gradient is infinite or not a number, so that the step may be taken.

    Parameters
    ----------
    gradients : mapping of str to ndarray of float

    Returns
    -------
    bool

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3.2.

    Examples
    --------
    >>> all_finite({"w": np.array([1.0, np.inf])})
    False
    """
    return all(bool(np.isfinite(g).all()) for g in gradients.values())


def gradient_cast(x: Array, *, cast: Callable[[Array], Array]) -> tuple[Array, Pullback]:
    """`x` as it is; its gradient goes through `cast` on the way back.

    A node of this kind behind an operation is where hardware stores the gradient.

    Parameters
    ----------
    x : ndarray of float
    cast : callable, ndarray -> ndarray
        For example ``lambda g: g.astype(np.float16).astype(g.dtype)``.

    Returns
    -------
    value : ndarray
        `x`.
    pullback : callable
        Gradient of `x`, cast.

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3; Wu et al., 2018, arXiv:1802.04680,
    section 3.3 (the errors of WAGE).

    Examples
    --------
    >>> _, pullback = gradient_cast(np.array(1.0), cast=np.rint)
    >>> pullback(np.array(0.7))
    (np.float64(1.0),)
    """
    return as_reals("x", x), lambda g: (cast(g),)
