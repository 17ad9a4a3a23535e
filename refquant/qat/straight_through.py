r"""Straight-through estimators: round on the way forward, pretend on the way back.

The derivative of a staircase is zero almost everywhere, so nothing before it would learn. A
straight-through estimator (STE) replaces that derivative by the one of a smoother function, the
*surrogate*. The estimators of a sign (levels -1, 1) and of a step (levels 0, 1) differ in it:

===================  =====================================  ==================================
estimator            slope that stands in for the jump      of the surrogate
===================  =====================================  ==================================
`sign_identity`      1                                      x
`sign_hardtanh`      1 on [-1, 1]                           clip(x, -1, 1)
`sign_clipped`       1 on [-t, t]                           clip(x, -t, t)
`sign_tanh`          :math:`k (1 - \tanh^2 kx)`             tanh(kx)
`sign_bireal`        2 - 2|x| on (-1, 1)                    two pieces of a parabola
`sign_swish`         a hump with negative shoulders         :math:`2\sigma(1+\beta x(1-\sigma))-1`
`step_sigmoid`       :math:`\sigma(x)(1-\sigma(x))`         the logistic function
`step_relu`          1 where x > 0                          max(x, 0)
`step_clipped_relu`  1 on (0, 1)                            clip(x, 0, 1)
===================  =====================================  ==================================

None of them takes NaN, which no level stands for. Quantizers of more levels have the same three
sentences: `fake_quantize` for a uniform grid that stays as it is, `refit` for one fitted anew at
each call, `pass_through` for any levels at all.
"""

from collections.abc import Callable

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_no_nan,
    require_positive,
)
from refquant.kernels import elementwise
from refquant.qat._common import (
    Mask,
    Pullback,
    closed_range,
    everywhere,
    in_steps,
    open_range,
    rounded,
)
from refquant.quantizer import Quantizer
from refquant.quantizer import fake_quantize as round_trip
from refquant.quantizers.uniform import Uniform

__all__ = [
    "closed_range",
    "everywhere",
    "fake_quantize",
    "open_range",
    "pass_through",
    "refit",
    "rounded",
    "sign_bireal",
    "sign_clipped",
    "sign_hardtanh",
    "sign_identity",
    "sign_swish",
    "sign_tanh",
    "step_clipped_relu",
    "step_relu",
    "step_sigmoid",
]


def sign_identity(x: Array) -> tuple[Array, Pullback]:
    r"""Signs, and the gradient as if nothing had happened.

    .. math:: y = \mathrm{sign}(x), \quad \mathrm{sign}(0) = 1; \qquad g_x = g

    Parameters
    ----------
    x : ndarray of float

    Returns
    -------
    value : ndarray
        -1 and 1; both zeros give 1.
    pullback : callable
        Gradient of `x`.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432, section 3.4.

    Examples
    --------
    >>> y, pullback = sign_identity(np.array([-2.0, 0.0, 0.5]))
    >>> y, pullback(np.array([1.0, 2.0, 3.0]))
    (array([-1.,  1.,  1.]), (array([1., 2., 3.]),))
    """
    x = _numbers(x)
    return _sign(x), lambda g: (g,)


def sign_hardtanh(x: Array) -> tuple[Array, Pullback]:
    r"""Signs; the gradient passes where the input is not beyond the level it goes to.

    .. math:: g_x = g\,[|x| \le 1]

    Parameters
    ----------
    x : ndarray of float

    Returns
    -------
    value : ndarray
        -1 and 1.
    pullback : callable
        Gradient of `x`.

    References
    ----------
    Courbariaux et al., 2016, arXiv:1602.02830, eq. (4).

    Examples
    --------
    >>> sign_hardtanh(np.array([-2.0, -1.0, 0.5]))[1](np.ones(3))
    (array([0., 1., 1.]),)
    """
    return sign_clipped(x, limit=1.0)


def sign_clipped(x: Array, *, limit: float) -> tuple[Array, Pullback]:
    r"""Signs; the gradient passes where :math:`|x| \le t`.

    Parameters
    ----------
    x : ndarray of float
    limit : float
        t > 0: a wide window moves more elements, with a worse excuse.

    Returns
    -------
    value : ndarray
        -1 and 1.
    pullback : callable
        Gradient of `x`.

    Raises
    ------
    ValueError
        If `limit` is not positive.

    References
    ----------
    Courbariaux et al., 2016, arXiv:1602.02830, eq. (4), with t = 1.

    Examples
    --------
    >>> sign_clipped(np.array([-2.0, -1.0, 0.5]), limit=0.7)[1](np.ones(3))
    (array([0., 0., 1.]),)
    """
    x = _numbers(x)
    require_positive("limit", np.asarray(limit))
    return _with_slope(_sign(x), (np.abs(x) <= limit).astype(x.dtype))


def sign_tanh(x: Array, *, sharpness: float = 1.0) -> tuple[Array, Pullback]:
    r"""Signs; the slope of a soft sign, which `sharpness` brings nearer to the hard one.

    .. math:: g_x = g\,k\,(1 - \tanh^2(k x))

    Parameters
    ----------
    x : ndarray of float
    sharpness : float
        k > 0. The area under the slope is 2 whatever k is: that of the jump.

    Returns
    -------
    value : ndarray
        -1 and 1.
    pullback : callable
        Gradient of `x`.

    Raises
    ------
    ValueError
        If `sharpness` is not positive.

    References
    ----------
    Gong et al., 2019, arXiv:1908.05033 (a soft tanh that is sharpened in training).

    Examples
    --------
    >>> sign_tanh(np.array([0.0, 0.5]), sharpness=2.0)[1](np.ones(2))[0].round(3)
    array([2.  , 0.84])
    """
    x = _numbers(x)
    require_positive("sharpness", np.asarray(sharpness))
    soft = np.tanh(float(sharpness) * x)
    return _with_slope(_sign(x), float(sharpness) * (1 - soft * soft))


def sign_bireal(x: Array) -> tuple[Array, Pullback]:
    r"""Signs; a triangle for a slope, from two pieces of a parabola.

    .. math:: g_x = g\,\max(0, 2 - 2|x|)

    Parameters
    ----------
    x : ndarray of float

    Returns
    -------
    value : ndarray
        -1 and 1.
    pullback : callable
        Gradient of `x`.

    References
    ----------
    Liu et al., 2018, arXiv:1808.00278, eqs. (7) and (8).

    Examples
    --------
    >>> sign_bireal(np.array([-1.0, -0.5, 0.0, 0.75]))[1](np.ones(4))
    (array([0. , 1. , 2. , 0.5]),)
    """
    x = _numbers(x)
    return _with_slope(_sign(x), np.maximum(2 - 2 * np.abs(x), 0))


def sign_swish(x: Array, *, sharpness: float = 5.0) -> tuple[Array, Pullback]:
    r"""Signs; a slope that is negative beyond the hump and dies out.

    .. math:: g_x = g\,\frac{\beta\,(2 - \beta x \tanh(\beta x / 2))}{1 + \cosh \beta x}

    Parameters
    ----------
    x : ndarray of float
    sharpness : float
        :math:`\beta` > 0.

    Returns
    -------
    value : ndarray
        -1 and 1.
    pullback : callable
        Gradient of `x`.

    Raises
    ------
    ValueError
        If `sharpness` is not positive.

    References
    ----------
    Darabi et al., 2018, arXiv:1812.11800, eqs. (2) and (3) (SignSwish).

    Examples
    --------
    >>> sign_swish(np.array([0.0, 0.5, 9.0]))[1](np.ones(3))[0].round(3)
    array([ 5.   , -0.085, -0.   ])
    """
    x = _numbers(x)
    require_positive("sharpness", np.asarray(sharpness))
    # cosh overflows where the slope is 0 long since, in float32 at 89.
    u = np.clip(float(sharpness) * x, -80, 80)
    slope = float(sharpness) * (2 - u * np.tanh(u / 2)) / (1 + np.cosh(u))
    return _with_slope(_sign(x), slope)


def step_sigmoid(x: Array) -> tuple[Array, Pullback]:
    r"""Zeros and ones; the slope of the logistic function.

    .. math:: y = [x > 0], \qquad g_x = g\,\sigma(x)(1 - \sigma(x))

    Parameters
    ----------
    x : ndarray of float

    Returns
    -------
    value : ndarray
        1 where `x` is above 0.
    pullback : callable
        Gradient of `x`.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432, section 3.4 (multiplying by the derivative
    of the sigmoid).

    Examples
    --------
    >>> y, pullback = step_sigmoid(np.array([0.0, 2.0]))
    >>> y, pullback(np.ones(2))[0].round(3)
    (array([0., 1.]), array([0.25 , 0.105]))
    """
    x = _numbers(x)
    half = np.tanh(x / 2)                       # 2 sigma - 1, without an exp that overflows
    return _with_slope((x > 0).astype(x.dtype), (1 - half * half) / 4)


def step_relu(x: Array) -> tuple[Array, Pullback]:
    """Zeros and ones; the slope of a ReLU.

    Parameters
    ----------
    x : ndarray of float

    Returns
    -------
    value : ndarray
        1 where `x` is above 0.
    pullback : callable
        Gradient of `x`: that of the value where `x` is above 0.

    Notes
    -----
    For two layers, Gaussian inputs and this estimator the expected coarse gradient points
    downhill; with the identity it may not, near a good minimum.

    References
    ----------
    Yin et al., 2019, arXiv:1903.05662, section 2 and lemma 5.

    Examples
    --------
    >>> step_relu(np.array([-1.0, 0.0, 2.0]))[1](np.ones(3))
    (array([0., 0., 1.]),)
    """
    x = _numbers(x)
    above = (x > 0).astype(x.dtype)
    return _with_slope(above, above)


def step_clipped_relu(x: Array) -> tuple[Array, Pullback]:
    """Zeros and ones; the slope of a ReLU that is clipped at 1.

    Parameters
    ----------
    x : ndarray of float

    Returns
    -------
    value : ndarray
        1 where `x` is above 0.
    pullback : callable
        Gradient of `x`: that of the value where `x` lies in (0, 1).

    References
    ----------
    Yin et al., 2019, arXiv:1903.05662, section 2; Cai et al., 2017, arXiv:1702.00953.

    Examples
    --------
    >>> step_clipped_relu(np.array([0.0, 0.5, 1.0]))[1](np.ones(3))
    (array([0., 1., 0.]),)
    """
    x = _numbers(x)
    return _with_slope((x > 0).astype(x.dtype), ((x > 0) & (x < 1)).astype(x.dtype))


def fake_quantize(
    x: Array, *, quantizer: Uniform, mask: Mask = rounded
) -> tuple[Array, Pullback]:
    r"""The levels of a fixed uniform quantizer; the gradient passes inside its range.

    .. math:: \hat x = s\,(\mathrm{clip}(\lfloor x/s \rceil + z,\, q_{min}, q_{max}) - z),
              \qquad g_x = g\,[q_{min} \le \lfloor x/s \rceil + z \le q_{max}]

    Parameters
    ----------
    x : ndarray of float
    quantizer : Uniform
        Not trained; what `refquant.calibration` finds.
    mask : callable, (ratio, qmin, qmax) -> ndarray of bool
        `rounded` (the formula above), `closed_range`, `open_range` or `everywhere`.

    Returns
    -------
    value : ndarray
        ``quantizer.decode(quantizer.encode(x))``.
    pullback : callable
        Gradient of `x`.

    Raises
    ------
    ValueError
        If `x` has a NaN or the quantizer does not broadcast to it.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3; PyTorch's
    ``fake_quantize_per_tensor_affine``, for the mask.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(1), 0, 3)
    >>> y, pullback = fake_quantize(np.array([-9.0, 0.3, 1.2, 1.3]), quantizer=q)
    >>> y, pullback(np.ones(4))
    (array([-0.5,  0.5,  1. ,  1. ]), (array([0., 1., 1., 0.]),))
    """
    x = as_reals("x", x)
    require_broadcastable("scale", quantizer.scale, x.shape)
    y = elementwise.fake_quantize(x, quantizer).astype(x.dtype, copy=False)

    def pullback(g: Array) -> tuple[Array, ...]:
        zero = quantizer.zero_point
        v = in_steps(x, quantizer.scale)
        return (g * mask(v, quantizer.qmin - zero, quantizer.qmax - zero),)

    return y, pullback


def refit(
    x: Array, *, fit: Callable[[Array], Uniform], mask: Mask = everywhere
) -> tuple[Array, Pullback]:
    """The levels of a quantizer fitted to `x` itself, which moves along as `x` is trained.

    The parameters that `fit` finds count as constants in the pullback.

    Parameters
    ----------
    x : ndarray of float
    fit : callable, ndarray -> Uniform
        For example ``lambda w: symmetric(np.abs(w).max(), bits=4)``.
    mask : callable, (ratio, qmin, qmax) -> ndarray of bool
        As for `fake_quantize`; a range that covers the data clips nothing.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradient of `x`.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2: weight ranges from the weights of
    each step.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> fit = lambda w: symmetric(np.abs(w).max(), bits=2)
    >>> refit(np.array([0.4, -2.0]), fit=fit)[0], refit(np.array([0.4, -0.5]), fit=fit)[0]
    (array([ 0., -2.]), array([ 0.5, -0.5]))
    """
    x = as_reals("x", x)
    return fake_quantize(x, quantizer=fit(x), mask=mask)


def pass_through(x: Array, *, quantizer: Quantizer) -> tuple[Array, Pullback]:
    """The levels of any quantizer, and the gradient as it comes.

    Parameters
    ----------
    x : ndarray of float
    quantizer : Quantizer
        A codebook, a minifloat, powers of two, ...: anything that encodes and decodes.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradient of `x`: that of the value.

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432, section 3.4.

    Examples
    --------
    >>> from refquant.quantizers.codebook import nearest
    >>> y, pullback = pass_through(np.array([0.2, 5.0]), quantizer=nearest(np.array([0.0, 1.0])))
    >>> y, pullback(np.ones(2))
    (array([0., 1.]), (array([1., 1.]),))
    """
    x = as_reals("x", x)
    return round_trip(x, quantizer).astype(x.dtype, copy=False), lambda g: (g,)


def _numbers(x: Array) -> Array:
    """`x`, if it is reals without NaN: a comparison would make a level of it in silence."""
    x = as_reals("x", x)
    require_no_nan("x", x)
    return x


def _sign(x: Array) -> Array:
    """-1 and 1, and 1 for both zeros: a binary weight must be one of the two."""
    one = x.dtype.type(1)
    return np.where(x >= 0, one, -one)


def _with_slope(y: Array, slope: Array) -> tuple[Array, Pullback]:
    """A value whose pullback multiplies by `slope`."""
    return y, lambda g: (g * slope,)
