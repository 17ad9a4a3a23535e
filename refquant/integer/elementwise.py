r"""Add, subtract, multiply and rescale codes, element by element, in integers.

Two tensors with different scales cannot simply be added: each is brought to a common
scale, finer by :math:`2^{20}` than twice the larger one, and the sum to that of the output:

.. math:: y = R_o\bigl(R_1(x_1 - z_1) \pm R_2(x_2 - z_2)\bigr) + z_y

with R a multiplication by a real number under some rule. XNNPACK instead adds products
with multipliers of 21 bits and shifts once (`add_shifted`), and rescales a single tensor
with 8 bits behind the point (`requantize_shifted`): coarser, and different by one often.

Limits of a fused activation are an argument; see `refquant.integer.layers.limits`.
"""

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes
from refquant.integer.layers import NONE, clamp, limits
from refquant.integer.requantize import Product, Rule, double_away, product_in_float64
from refquant.quantizers.uniform import Uniform

__all__ = [
    "add",
    "add_shifted",
    "leaky_relu",
    "leaky_relu_shifted",
    "multiply",
    "relu6_in_place",
    "requantize",
    "requantize_shifted",
    "subtract",
    "subtract_shifted",
]


def add(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    input_rule: Rule = double_away,
) -> Codes:
    r"""Codes of a sum.

    .. math:: t = 2 \max(s_1, s_2), \quad M_i = s_i / t, \quad M_o = t / (2^k s_y),
              \quad k = 20 \text{ (8 bits) or } 15 \text{ (16 bits)}

    Parameters
    ----------
    a, b : ndarray of int
        Broadcast against each other.
    a_quantizer, b_quantizer, y_quantizer : Uniform
        With one scale each.
    activation : tuple of float
        Real interval to which the operation clips.
    rule, input_rule : callable
        How the sum and how the terms are multiplied.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite, ``add.cc`` and ``reference_integer_ops::Add``.

    Examples
    --------
    >>> a, b, y = (Uniform(np.array(s, np.float32), np.array(z), -128, 127)
    ...            for s, z in ((0.5, -3), (0.25, 5), (0.6, 2)))
    >>> add(np.array([20]), np.array([-40]), a, b, y)           # exactly 2.4167
    array([2], dtype=int32)
    """
    return _sum(a, b, a_quantizer, b_quantizer, y_quantizer, activation, rule, input_rule, 1)


def subtract(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    input_rule: Rule = double_away,
) -> Codes:
    """Codes of a difference, as `add` with the second term negated.

    Parameters
    ----------
    a, b : ndarray of int
        Broadcast against each other.
    a_quantizer, b_quantizer, y_quantizer : Uniform
        With one scale each.
    activation : tuple of float
        Real interval to which the operation clips.
    rule, input_rule : callable
        How the difference and how the terms are multiplied.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite, ``sub.cc``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(0), -128, 127)
    >>> subtract(np.array([20]), np.array([-40]), q, q, q)
    array([60], dtype=int32)
    """
    return _sum(a, b, a_quantizer, b_quantizer, y_quantizer, activation, rule, input_rule, -1)


def multiply(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Codes:
    r"""Codes of a product, :math:`\mathrm{rule}((x_1 - z_1)(x_2 - z_2),\ s_1 s_2 / s_y) + z_y`.

    Parameters
    ----------
    a, b : ndarray of int
        Broadcast against each other.
    a_quantizer, b_quantizer, y_quantizer : Uniform
        With one scale each.
    activation : tuple of float
        Real interval to which the operation clips.
    rule, product : callable
        How the products are multiplied, and by what.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite, ``mul.cc`` and ``reference_integer_ops::Mul``.

    Examples
    --------
    >>> a, b, y = (Uniform(np.array(s, np.float32), np.array(z), -300, 300)
    ...            for s, z in ((0.5, -3), (0.25, 5), (0.6, 2)))
    >>> multiply(np.array([20]), np.array([-40]), a, b, y)      # -215.625, rounded twice
    array([-214], dtype=int32)
    """
    real = product(*(q.scale.item() for q in (a_quantizer, b_quantizer, y_quantizer)))
    sums = _steps("a", a, a_quantizer) * _steps("b", b, b_quantizer)
    return _finish(rule(sums, real), y_quantizer, activation)


def requantize(
    x: Array,
    x_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Codes:
    """Codes of the same values in another quantizer; with an activation, RELU and its kin.

    Parameters
    ----------
    x : ndarray of int
    x_quantizer, y_quantizer : Uniform
        With one scale each.
    activation : tuple of float
        Real interval to which the operation clips.
    rule, product : callable
        How the codes are multiplied, and by what: the scale of `x_quantizer`, 1 and the
        scale of `y_quantizer` are its arguments.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite, ``reference_ops::Requantize`` and ``ReluX``.

    Examples
    --------
    >>> x, y = (Uniform(np.array(s, np.float32), np.array(z), -128, 127)
    ...         for s, z in ((0.05, 2), (0.1, -7)))
    >>> requantize(np.array([3, 5, -1, -3]), x, y)
    array([-6, -5, -8, -9], dtype=int32)
    """
    real = product(x_quantizer.scale.item(), 1.0, y_quantizer.scale.item())
    return _finish(rule(_steps("x", x, x_quantizer), real), y_quantizer, activation)


def leaky_relu(
    x: Array,
    x_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    alpha: float,
    rule: Rule = double_away,
    product: Product = product_in_float64,
) -> Codes:
    """Codes of a leaky rectifier: one multiplier from zero up, another below.

    Parameters
    ----------
    x : ndarray of int
    x_quantizer, y_quantizer : Uniform
        With one scale each.
    alpha : float
        Slope below zero, not negative.
    rule, product : callable
        How the codes are multiplied, and by what: scale, slope and output scale are its arguments.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite, ``reference_ops::QuantizeLeakyRelu``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(0), -128, 127)
    >>> leaky_relu(np.array([10, -10]), q, q, alpha=0.25)
    array([10, -3], dtype=int32)
    """
    scales = x_quantizer.scale.item(), y_quantizer.scale.item()
    above, below = (product(scales[0], slope, scales[1]) for slope in (1.0, alpha))
    steps = _steps("x", x, x_quantizer)
    whole = rule(steps, np.where(steps >= 0, above, below))
    return _finish(whole, y_quantizer, NONE)


def relu6_in_place(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    r"""Codes clipped to those of 0 and 6, and not rescaled: TFLM's operator RELU6.

    .. math:: \mathrm{clip}(x,\ z_x,\ z_x + \lfloor 6 / s_x \rceil)

    Right only if input and output have the same scale and zero point.

    Parameters
    ----------
    x : ndarray of int
    x_quantizer, y_quantizer : Uniform
        With one scale each; the second only says which codes there are.

    Returns
    -------
    ndarray of int32

    References
    ----------
    TensorFlow Lite Micro, ``activations.cc``, ``Relu6Quantized``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(3), -128, 127)
    >>> relu6_in_place(np.array([-5, 10, 100]), q, q)
    array([ 3, 10, 15], dtype=int32)
    """
    low, high = limits((0.0, 6.0), x_quantizer)
    x = require_codes("x", x, x_quantizer.qmin, x_quantizer.qmax)
    return clamp(clamp(x, low, high), y_quantizer.qmin, y_quantizer.qmax)


def add_shifted(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
) -> Codes:
    r"""Codes of a sum as XNNPACK has them: two short multipliers, one shift, ties up.

    .. math:: r_i = s_i / s_y, \quad h = 20 - \lfloor \log_2 \max r \rfloor, \quad
              m_i = \lfloor 2^h r_i \rceil

    .. math:: y = \lfloor (m_1 (x_1 - z_1) + m_2 (x_2 - z_2)) / 2^h + \tfrac12 \rfloor + z_y

    Parameters
    ----------
    a, b : ndarray of int
        Broadcast against each other.
    a_quantizer, b_quantizer, y_quantizer : Uniform
        With one scale each.
    activation : tuple of float
        Real interval to which the operation clips.

    Returns
    -------
    ndarray of int32

    References
    ----------
    XNNPACK, ``xnn_init_qs8_add_minmax_scalar_params``.

    Examples
    --------
    >>> a, b, y = (Uniform(np.array(s, np.float32), np.array(z), -128, 127)
    ...            for s, z in ((0.5, -3), (0.25, 5), (0.6, 2)))
    >>> add_shifted(np.array([20]), np.array([-40]), a, b, y)
    array([2], dtype=int32)
    """
    return _shifted_sum(a, b, a_quantizer, b_quantizer, y_quantizer, activation, 1)


def subtract_shifted(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    *,
    activation: tuple[float, float] = NONE,
) -> Codes:
    """Codes of a difference as XNNPACK has them: `add_shifted` with a negative multiplier.

    Parameters
    ----------
    a, b : ndarray of int
        Broadcast against each other.
    a_quantizer, b_quantizer, y_quantizer : Uniform
        With one scale each.
    activation : tuple of float
        Real interval to which the operation clips.

    Returns
    -------
    ndarray of int32

    References
    ----------
    XNNPACK, ``xnn_init_qs8_add_minmax_scalar_params``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(0), -128, 127)
    >>> subtract_shifted(np.array([20]), np.array([-40]), q, q, q)
    array([60], dtype=int32)
    """
    return _shifted_sum(a, b, a_quantizer, b_quantizer, y_quantizer, activation, -1)


def requantize_shifted(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    r"""Codes in another quantizer as XNNPACK has them: 8 bits behind the point.

    .. math:: y = \lfloor (m (x - z_x) + 2^7) / 2^8 \rfloor + z_y,
              \qquad m = \lfloor 2^8 s_x / s_y \rceil

    Parameters
    ----------
    x : ndarray of int
    x_quantizer, y_quantizer : Uniform
        With one scale each.

    Returns
    -------
    ndarray of int32

    References
    ----------
    XNNPACK, ``xnn_init_qs8_cvt_scalar_params``.

    Examples
    --------
    >>> x, y = (Uniform(np.array(s, np.float32), np.array(z), -128, 127)
    ...         for s, z in ((0.05, 2), (0.1, -7)))
    >>> requantize_shifted(np.array([3, 5, -1, -3]), x, y)
    array([-6, -5, -8, -9], dtype=int32)
    """
    return leaky_relu_shifted(x, x_quantizer, y_quantizer, alpha=1.0)


def leaky_relu_shifted(
    x: Array, x_quantizer: Uniform, y_quantizer: Uniform, *, alpha: float
) -> Codes:
    """Codes of a leaky rectifier as XNNPACK has them: 8 bits behind the point.

    Parameters
    ----------
    x : ndarray of int
    x_quantizer, y_quantizer : Uniform
        With one scale each.
    alpha : float
        Slope below zero.

    Returns
    -------
    ndarray of int32

    References
    ----------
    XNNPACK, ``xnn_init_qs8_lrelu_scalar_params``.

    Examples
    --------
    >>> q = Uniform(np.array(0.5), np.array(0), -128, 127)
    >>> leaky_relu_shifted(np.array([10, -10]), q, q, alpha=0.25)
    array([10, -2], dtype=int32)
    """
    ratio = _float32(x_quantizer) / _float32(y_quantizer)
    above, below = (np.rint(np.float32(256) * r) for r in (ratio, ratio * np.float32(alpha)))
    steps = _steps("x", x, x_quantizer)
    whole = (steps * np.where(steps >= 0, above, below).astype(np.int64) + 128) >> 8
    return _finish(whole, y_quantizer, NONE)


def _sum(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    activation: tuple[float, float],
    rule: Rule,
    input_rule: Rule,
    sign: int,
) -> Codes:
    left = 20 if a_quantizer.qmax - a_quantizer.qmin < 256 else 15
    unit = np.float32(2) * max(_float32(a_quantizer), _float32(b_quantizer))
    terms = [
        input_rule(_steps(name, x, q) << left, float(_float32(q)) / float(unit))
        for name, x, q in (("a", a, a_quantizer), ("b", b, b_quantizer))
    ]
    real = float(unit) / float(np.float32(2**left) * _float32(y_quantizer))
    return _finish(rule(terms[0] + sign * terms[1], real), y_quantizer, activation)


def _shifted_sum(
    a: Array,
    b: Array,
    a_quantizer: Uniform,
    b_quantizer: Uniform,
    y_quantizer: Uniform,
    activation: tuple[float, float],
    sign: int,
) -> Codes:
    ratios = [_float32(q) / _float32(y_quantizer) for q in (a_quantizer, b_quantizer)]
    shift = 20 - int(np.frexp(max(ratios))[1] - 1)
    m = [int(np.rint(np.ldexp(np.float64(r), shift))) for r in ratios]
    total = m[0] * _steps("a", a, a_quantizer) + sign * m[1] * _steps("b", b, b_quantizer)
    return _finish((total + (1 << (shift - 1))) >> shift, y_quantizer, activation)


def _steps(name: str, codes: Array, quantizer: Uniform) -> Array:
    codes = require_codes(name, codes, quantizer.qmin, quantizer.qmax).astype(np.int64)
    return codes - int(quantizer.zero_point.item())


def _finish(whole: Array, output: Uniform, activation: tuple[float, float]) -> Codes:
    return clamp(whole + int(output.zero_point.item()), *limits(activation, output))


def _float32(quantizer: Uniform) -> np.float32:
    return np.float32(quantizer.scale.item())


