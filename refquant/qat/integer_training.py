r"""Train with integers: weights, activations, gradients and errors (WAGE).

Everything is a number of k bits within (-1, 1), an integer times :math:`\sigma(k) = 2^{1-k}`:

============  ======  ==========================================  =========================
what          bits    how                                         function
============  ======  ==========================================  =========================
Weight        2       rounded from where it is stored             `integer_weight`
Activation    8       divided by a power of two, rounded          `integer_activation`
Gradient      8       scaled to the step, rounded at random       `integer_update`
Error         8       divided by its own power of two, rounded    `integer_error`
============  ======  ==========================================  =========================

There is no batch norm, no momentum and no float weight. What survives of the float network is
the direction of things: each error and gradient is divided by its own size.
"""

import numpy as np

from refquant._types import Array, Rounding
from refquant._validate import as_reals, require_finite, require_int, require_positive
from refquant.qat._common import Pullback
from refquant.quantizers.fixed_point import FixedPoint
from refquant.rounding import half_even

__all__ = ["divisor", "initial_weight", "integer_activation", "integer_error", "integer_update",
           "integer_weight", "integers", "shift"]


def integers(bits: int) -> FixedPoint:
    r"""The format of all: whole numbers of k bits, in units that make them less than 1.

    .. math:: Q(x, k) = \sigma\,\mathrm{clip}\bigl(\lfloor x / \sigma \rceil,\;
                        -2^{k-1} + 1,\; 2^{k-1} - 1\bigr), \qquad \sigma = 2^{1-k}

    Parameters
    ----------
    bits : int
        k, from 2 to 25.

    Returns
    -------
    FixedPoint
        Symmetric: ``-1`` itself is left out.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eqs. (5) and (6).

    Examples
    --------
    >>> integers(2).decode(np.array([-1, 0, 1]))
    array([-0.5,  0. ,  0.5], dtype=float32)
    """
    bits = require_int("bits", bits, 2, 25)
    return FixedPoint(bits, bits - 1, narrow=True)


def shift(x: Array) -> Array:
    r"""The power of two nearest to each element, on the scale of powers.

    .. math:: \mathrm{Shift}(x) = 2^{\lfloor \log_2 x \rceil}

    Parameters
    ----------
    x : ndarray of float, > 0

    Returns
    -------
    ndarray, shape and dtype of `x`

    Raises
    ------
    ValueError
        If an element is not positive and finite.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (7).

    Examples
    --------
    >>> shift(np.array([0.7, 0.75, 3.0]))
    array([0.5, 1. , 4. ])
    """
    x = np.asarray(x)
    require_positive("x", x)
    return np.ldexp(np.ones_like(x), np.rint(np.log2(x)).astype(np.int32))


def initial_weight(
    shape: tuple[int, ...], *, rng: np.random.Generator, bits: int = 2, stored_bits: int = 8
) -> Array:
    r"""Weights before training: uniform, and wide enough that some are not zero.

    .. math:: W \sim U(-L, L), \qquad L = \max\bigl(\sqrt{6 / n_{in}},\ 1.5\,\sigma(k_W)\bigr)

    Parameters
    ----------
    shape : tuple of int
        ``(out, ..., in)``.
    rng : numpy.random.Generator
        One uniform draw per weight, in C order.
    bits : int
        k of the weights as they are used.
    stored_bits : int
        k of the weights as they are kept.

    Returns
    -------
    ndarray of float32
        On the grid of the stored bits.

    Raises
    ------
    ValueError
        If a width is out of range, or a filter has no weight.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (10).

    Examples
    --------
    >>> w = initial_weight((64, 100), rng=np.random.default_rng(0))
    >>> bool(np.abs(w).max() <= 0.75), integers(8).scale
    (True, 0.0078125)
    """
    fan_in = require_int("shape", int(np.prod(shape[1:])), 1)
    bound = max((6 / fan_in) ** 0.5, 1.5 * integers(bits).scale)
    store = integers(stored_bits)
    return store.decode(store.encode(rng.uniform(-bound, bound, shape)))


def divisor(fan_in: int, *, bits: int = 2) -> float:
    r"""What the outputs of a layer are divided by, since its weights began too large.

    .. math:: \alpha = \max\bigl(\mathrm{Shift}(L_{min} / L),\ 1\bigr), \qquad
              L_{min} = 1.5\,\sigma(k_W), \quad L = \sqrt{6 / n_{in}}

    Parameters
    ----------
    fan_in : int
        :math:`n_{in}`.
    bits : int
        :math:`k_W`.

    Returns
    -------
    float
        A power of two, so that the division is a shift.

    Raises
    ------
    ValueError
        If `fan_in` is below 1, or `bits` out of range.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (11).

    Examples
    --------
    >>> [divisor(n) for n in (9, 144, 288, 1024)]
    [1.0, 4.0, 4.0, 8.0]
    """
    fan_in = require_int("fan_in", fan_in, 1)
    ratio = 1.5 * integers(bits).scale / (6 / fan_in) ** 0.5
    return max(float(shift(np.asarray(ratio))), 1.0)


def integer_weight(weight: Array, *, bits: int = 2) -> tuple[Array, Pullback]:
    r"""The stored weight as the network uses it, :math:`Q(W, k_W)`; straight-through.

    Parameters
    ----------
    weight : ndarray of float
    bits : int

    Returns
    -------
    value : ndarray, shape and dtype of `weight`
    pullback : callable
        Gradient of `weight`, unchanged, also where it was clipped.

    Raises
    ------
    ValueError
        If `weight` has a NaN or `bits` is out of range.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (9).

    Examples
    --------
    >>> integer_weight(np.array([-0.9, -0.2, 0.3]))[0]
    array([-0.5,  0. ,  0.5])
    """
    return _rounded(as_reals("weight", weight), bits), lambda g: (g,)


def integer_activation(x: Array, *, alpha: float = 1.0, bits: int = 8) -> tuple[Array, Pullback]:
    r"""Activation of few bits, :math:`Q(a / \alpha, k_A)`.

    Parameters
    ----------
    x : ndarray of float
        a, what the layer computes.
    alpha : float
        The `divisor` of its layer.
    bits : int

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradient of `x`: over :math:`\alpha`, and 0 where a was clipped.

    Raises
    ------
    ValueError
        If `x` has a NaN or `bits` is out of range.

    Notes
    -----
    The authors' code divides the weight by :math:`\alpha` instead. On the way back the power
    of two does not matter: `integer_error` and `integer_update` divide it out again.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (12).

    Examples
    --------
    >>> y, pullback = integer_activation(np.array([-6.0, 0.4, 1.0]), alpha=4.0, bits=4)
    >>> y, pullback(np.ones(3))
    (array([-0.875,  0.125,  0.25 ]), (array([0.  , 0.25, 0.25]),))
    """
    x = as_reals("x", x)
    require_positive("alpha", np.asarray(alpha))
    over = x.dtype.type(1 / alpha)
    inside = np.abs(x * over) <= integers(bits).max_value
    return _rounded(x * over, bits), lambda g: (g * inside * over,)


def integer_error(x: Array, *, bits: int = 8) -> tuple[Array, Pullback]:
    r"""`x` as it is; the error that comes back is scaled and rounded.

    .. math:: e \leftarrow Q\bigl(e / \mathrm{Shift}(\max |e|),\ k_E\bigr)

    Its size is lost on purpose: of an error only the direction matters, and the largest
    element decides where the bits go.

    Parameters
    ----------
    x : ndarray of float
    bits : int

    Returns
    -------
    value : ndarray
        `x`.
    pullback : callable
        Error of `x`, an integer over :math:`2^{k_E - 1}`; all zeros stay zeros.

    Raises
    ------
    ValueError
        By the pullback, if the error is not finite.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (13).

    Examples
    --------
    >>> _, pullback = integer_error(np.zeros(3), bits=4)
    >>> pullback(np.array([1e-9, -0.6e-9, 1e-11]))[0] * 8
    array([ 7., -5.,  0.])
    """
    return as_reals("x", x), lambda g: (_rounded(_normalized("error", g), bits),)


def integer_update(
    weight: Array, gradient: Array, *, rate: float, rounding: Rounding = half_even, bits: int = 8
) -> Array:
    r"""The stored weight after a step of few integer units.

    .. math:: \Delta W = \sigma(k_G)\, \mathrm{round}\bigl(\eta\, g / \mathrm{Shift}(\max|g|)
              \bigr), \qquad W \leftarrow \mathrm{clip}(W - \Delta W,\ \pm(1 - \sigma(k_G)))

    Parameters
    ----------
    weight : ndarray of float
        On the grid of `bits`.
    gradient : ndarray of float, shape of `weight`
        All zeros leave the weight alone.
    rate : float
        :math:`\eta`, in units of :math:`\sigma(k_G)`: the largest element moves about so many.
    rounding : callable, ndarray -> ndarray
        ``partial(stochastic, rng=rng)`` of `refquant.rounding` as in the paper; with
        `half_even` all elements below half a unit are lost.
    bits : int
        :math:`k_G`.

    Returns
    -------
    ndarray, shape and dtype of `weight`
        On the grid.

    Raises
    ------
    ValueError
        If `gradient` is not finite, `rate` not positive or `bits` out of range.

    Notes
    -----
    The paper rounds the magnitude at random and restores the sign; rounding the signed number
    at random has the same distribution.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eqs. (14)-(16).

    Examples
    --------
    >>> w = integer_update(np.zeros(3), np.array([1e-6, -4e-6, 0.0]), rate=4.0)
    >>> w * 128
    array([-1.,  4.,  0.])
    """
    require_positive("rate", np.asarray(rate))
    store = integers(bits)
    units = rounding(rate * _normalized("gradient", gradient).astype(np.float64))
    return _rounded((weight - store.scale * units).astype(weight.dtype), bits)


def _normalized(name: str, g: Array) -> Array:
    """`g` over the power of two nearest to its largest magnitude."""
    require_finite(name, g)
    largest = np.max(np.abs(g), initial=0)
    return g / shift(largest) if largest > 0 else g


def _rounded(x: Array, bits: int) -> Array:
    number_format = integers(bits)
    return number_format.decode(number_format.encode(x)).astype(x.dtype)
