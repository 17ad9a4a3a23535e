r"""LSTM of codes: gates of 16 bits, a cell of 16 bits, a hidden state of 8.

.. math::

    f, i, o &= \sigma(W x + U h + b), \qquad g = \tanh(W_g x + U_g h + b_g) \\
    c &\leftarrow f c + i g, \qquad h \leftarrow o \tanh c

Before its nonlinearity a gate has scale 2**-12, behind it 2**-15; the scale of the cell is
a power of two, so that all products inside are rounded by shifts. Two arithmetics are
deployed, up to 16 codes apart on the same model:

================================  =============================  ========================
step                              `lstm_tflm`                    `lstm_litert`
================================  =============================  ========================
multipliers of W x and U h        in float64                     in float32
W x and U h to scale 2**-12       each saturated, then added     U h added to saturated W x
logistic, tanh                    interpolated tables            16-bit fixed point
hidden state                      scale of the output            scale of its own
================================  =============================  ========================

States are arguments and results: nothing is remembered here.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_codes, require_same_shape
from refquant.integer.arithmetic import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from refquant.integer.fixed_point import fixed_logistic, fixed_tanh
from refquant.integer.requantize import Product, product_in_float64, ratio_in_float32
from refquant.integer.sigmoids import interpolated_logistic, interpolated_tanh, is_power_of_two
from refquant.quantizers.uniform import Uniform

__all__ = ["Lstm", "LstmGate", "LstmState", "lstm_litert", "lstm_tflm"]


class LstmGate(NamedTuple):
    """Weights of one gate; codes of 8 bits without zero point.

    Attributes
    ----------
    input_weight : ndarray of int, shape (cells, in)
        W.
    input_scale : float
        Of `input_weight`, used as float32.
    recurrent_weight : ndarray of int, shape (cells, cells)
        U.
    recurrent_scale : float
        Of `recurrent_weight`, used as float32.
    bias : ndarray of int, shape (cells,)
        b, int32, in units of the scale of x times `input_scale`.

    References
    ----------
    TensorFlow Lite 8-bit quantization specification, LSTM.

    Examples
    --------
    >>> LstmGate(np.ones((1, 2), int), 0.1, np.zeros((1, 1), int), 0.1, np.zeros(1, int)).bias
    array([0])
    """

    input_weight: Array
    input_scale: float
    recurrent_weight: Array
    recurrent_scale: float
    bias: Array


class Lstm(NamedTuple):
    """All that stays the same from step to step.

    Attributes
    ----------
    input, forget, cell, output : LstmGate
        Of i, f, g and o.
    x_quantizer : Uniform
        Of the input, 8 bits.
    hidden_quantizer : Uniform
        Of the hidden state and of the output, 8 bits.
    cell_quantizer : Uniform
        Of the cell: 16 bits, a power of two, zero point 0.
    cell_clip : float
        Bound on the absolute value of a cell; 0 for none.
    product_quantizer : Uniform or None
        The scale and zero point to which `lstm_litert` brings o tanh c, which may differ
        from `hidden_quantizer`, as which it goes on; None: no difference.

    References
    ----------
    TensorFlow Lite 8-bit quantization specification, LSTM.

    Examples
    --------
    >>> Lstm._fields[:4]
    ('input', 'forget', 'cell', 'output')
    """

    input: LstmGate
    forget: LstmGate
    cell: LstmGate
    output: LstmGate
    x_quantizer: Uniform
    hidden_quantizer: Uniform
    cell_quantizer: Uniform
    cell_clip: float = 0.0
    product_quantizer: Uniform | None = None


class LstmState(NamedTuple):
    """What an LSTM hands on to its next step.

    Attributes
    ----------
    hidden : ndarray of int32, shape (batch, cells)
        h, codes of `Lstm.hidden_quantizer`; at the start its zero point.
    cell : ndarray of int32, shape (batch, cells)
        c, codes of `Lstm.cell_quantizer`; at the start 0.

    References
    ----------
    Hochreiter and Schmidhuber, 1997, section 4.

    Examples
    --------
    >>> LstmState(np.full((1, 2), -128, np.int32), np.zeros((1, 2), np.int32)).cell
    array([[0, 0]], dtype=int32)
    """

    hidden: Codes
    cell: Codes


def lstm_tflm(x: Array, lstm: Lstm, state: LstmState) -> tuple[Codes, LstmState]:
    """Hidden states of a sequence, in the arithmetic of TFLite Micro.

    Parameters
    ----------
    x : ndarray of int, shape (time, batch, in)
        Codes of ``lstm.x_quantizer``.
    lstm : Lstm
    state : LstmState

    Returns
    -------
    hidden : ndarray of int32, shape (time, batch, cells)
        Codes of ``lstm.hidden_quantizer``, after each step.
    state : LstmState
        After the last.

    Raises
    ------
    ValueError
        If codes or shapes do not fit, the scale of the cell is no power of two, or a sum is
        not an int32.
    TypeError
        If codes are not integers.

    Notes
    -----
    Multipliers are products in float64, as in the wheel of October 2026; its source of two
    months before has them in float32. One code in three million differs.

    References
    ----------
    TensorFlow Lite Micro, ``unidirectional_sequence_lstm``: ``EvalLstm``.

    Examples
    --------
    >>> from refquant.quantizers.uniform import half_open, symmetric
    >>> one, none = np.full((1, 1), 100), np.zeros((1, 1), int)
    >>> gate = LstmGate(one, 0.02, none, 0.02, np.zeros(1, int))
    >>> eight, sixteen = half_open(np.array(1.0), bits=8), half_open(np.array(16.0), bits=16)
    >>> lstm = Lstm(gate, gate, gate, gate, eight, eight, sixteen)
    >>> start = LstmState(none, none)
    >>> hidden, state = lstm_tflm(np.array([[[64]], [[64]]]), lstm, start)
    >>> hidden.ravel()                  # of inputs 0.5, gates of 1: 0.369 and 0.546 of 1
    array([47, 70], dtype=int32)
    """
    unit = Uniform(np.array(2.0**-15), np.array(0), -(2**15), 2**15 - 1)
    gate_quantizer = Uniform(np.array(2.0**-12), np.array(0), -(2**15), 2**15 - 1)
    power = _power(lstm)
    hidden_scale = float(_scale(lstm.hidden_quantizer))

    def squash(gate: LstmGate, function: Callable[..., Codes], x: Array, h: Array) -> Array:
        products = _gate_products(lstm, gate, x, h, product_in_float64)
        total = _int16(_int16(products[0]) + _int16(products[1]))
        return function(total, gate_quantizer, unit).astype(np.int64)

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f = squash(lstm.forget, interpolated_logistic, x, h)
        i = squash(lstm.input, interpolated_logistic, x, h)
        g = squash(lstm.cell, interpolated_tanh, x, h)
        o = squash(lstm.output, interpolated_logistic, x, h)
        kept, new = _int16(_times(f * c, 2.0**-15)), _int16(_times(i * g, 2.0 ** (-30 - power)))
        c = _clipped(_int16(kept + new), lstm)
        squashed = interpolated_tanh(c, lstm.cell_quantizer, unit).astype(np.int64)
        return _times(o * squashed, 2.0**-30 / hidden_scale) + zero_point, c

    zero_point = int(lstm.hidden_quantizer.zero_point.item())
    return _run(x, lstm, state, step)


def lstm_litert(x: Array, lstm: Lstm, state: LstmState) -> tuple[Codes, LstmState]:
    """Hidden states of a sequence, in the arithmetic of LiteRT.

    Parameters
    ----------
    x : ndarray of int, shape (time, batch, in)
        Codes of ``lstm.x_quantizer``.
    lstm : Lstm
    state : LstmState

    Returns
    -------
    hidden : ndarray of int32, shape (time, batch, cells)
        Codes of ``lstm.hidden_quantizer``, after each step.
    state : LstmState
        After the last.

    Raises
    ------
    ValueError
        If codes or shapes do not fit, the scale of the cell is no power of two, or a sum is
        not an int32.
    TypeError
        If codes are not integers.

    Notes
    -----
    LiteRT has tanh for cells of scale 2**-15 to 2**-9 only. For others it computes none, and
    multiplies o by what is left in the buffer, which is i: measured, and so it is here.

    References
    ----------
    TensorFlow Lite, ``lstm_eval.cc``: ``LstmStepInteger8x8_16``.

    Examples
    --------
    >>> from refquant.quantizers.uniform import half_open
    >>> one, none = np.full((1, 1), 100), np.zeros((1, 1), int)
    >>> gate = LstmGate(one, 0.02, none, 0.02, np.zeros(1, int))
    >>> eight, sixteen = half_open(np.array(1.0), bits=8), half_open(np.array(16.0), bits=16)
    >>> lstm = Lstm(gate, gate, gate, gate, eight, eight, sixteen)
    >>> start = LstmState(none, none)
    >>> lstm_litert(np.array([[[64]], [[64]]]), lstm, start)[0].ravel()
    array([47, 70], dtype=int32)
    """
    power = _power(lstm)
    product = lstm.product_quantizer or lstm.hidden_quantizer
    hidden_scale = float(np.float32(2.0**-15 / float(_scale(product)) * 2.0**-15))
    zero_point = int(product.zero_point.item())

    def squash(gate: LstmGate, function: Callable[..., Array], x: Array, h: Array) -> Array:
        products = _gate_products(lstm, gate, x, h, ratio_in_float32)
        total = _int16(_int16(products[0]) + products[1])
        return function(total, integer_bits=3, bits=16)

    def step(x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        f = squash(lstm.forget, fixed_logistic, x, h)
        g = squash(lstm.cell, fixed_tanh, x, h)
        i = squash(lstm.input, fixed_logistic, x, h)
        o = squash(lstm.output, fixed_logistic, x, h)
        kept = rounding_divide_by_pot(f * c, 15)
        new = rounding_divide_by_pot(i * g, 30 + power).astype(np.int16)
        c = _clipped(_int16(kept + new), lstm)
        known = -15 <= power <= -9              # otherwise no tanh: see the notes
        squashed = fixed_tanh(c, integer_bits=15 + power, bits=16) if known else i
        return _times(o * squashed, hidden_scale) + zero_point, c

    return _run(x, lstm, state, step)


def _run(
    x: Array,
    lstm: Lstm,
    state: LstmState,
    step: Callable[[Array, Array, Array], tuple[Array, Array]],
) -> tuple[Codes, LstmState]:
    """Every step in turn."""
    quantizers = lstm.x_quantizer, lstm.hidden_quantizer, lstm.cell_quantizer
    names = ("x", "hidden", "cell")
    x, h, c = (
        require_codes(name, codes, q.qmin, q.qmax).astype(np.int64)
        for name, codes, q in zip(names, (x, *state), quantizers, strict=True)
    )
    if x.ndim != 3:
        raise ValueError(f"`x` must have shape (time, batch, in); got {x.shape}")
    cells = len(lstm.input.bias)
    for gate in lstm[:4]:
        require_same_shape("input_weight", gate.input_weight, (cells, x.shape[2]))
        require_same_shape("recurrent_weight", gate.recurrent_weight, (cells, cells))
        require_same_shape("bias", gate.bias, (cells,))
    require_same_shape("hidden", h, (x.shape[1], cells))
    require_same_shape("cell", c, (x.shape[1], cells))
    hidden = np.empty((*x.shape[:2], cells), np.int32)
    low, high = lstm.hidden_quantizer.qmin, lstm.hidden_quantizer.qmax
    for t, now in enumerate(x):
        h, c = step(now, h, c)
        h = np.clip(h, low, high)
        hidden[t] = h
    return hidden, LstmState(h.astype(np.int32), c.astype(np.int32))


def _gate_products(
    lstm: Lstm, gate: LstmGate, x: Array, h: Array, product: Product
) -> tuple[Array, Array]:
    """W x + b and U h, each rounded to scale 2**-12."""
    products = []
    for codes, quantizer, weight, scale, bias in (
        (x, lstm.x_quantizer, gate.input_weight, gate.input_scale, gate.bias),
        (h, lstm.hidden_quantizer, gate.recurrent_weight, gate.recurrent_scale, 0),
    ):
        steps = codes - int(quantizer.zero_point.item())
        sums = steps @ np.asarray(weight, np.int64).T + bias
        real = product(quantizer.scale.item(), scale, 2.0**-12)
        products.append(_times(sums, float(real)))
    return products[0], products[1]


def _times(x: Array, real: float) -> Array:
    return multiply_by_quantized_multiplier(x, quantize_multiplier(real))


def _clipped(c: Array, lstm: Lstm) -> Array:
    if lstm.cell_clip <= 0:
        return c
    bound = min(int(np.float32(lstm.cell_clip) / _scale(lstm.cell_quantizer)), 2**15 - 1)
    return np.clip(c, -bound, bound)


def _power(lstm: Lstm) -> int:
    """Of two, the scale of the cell."""
    scale = float(_scale(lstm.cell_quantizer))
    power = round(float(np.log2(scale)))
    if not is_power_of_two(scale, power):
        raise ValueError(f"`cell_quantizer` must have a power of two as scale; got {scale:g}")
    return power


def _scale(quantizer: Uniform) -> np.float32:
    return np.float32(quantizer.scale.item())


def _int16(x: Array) -> Array:
    return np.clip(x, -(2**15), 2**15 - 1)
