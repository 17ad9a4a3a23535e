r"""Four engines that run .tflite models: what each computes for each operator.

All of them claim the same integer arithmetic, and no two agree. An `Engine` is the
record of its choices, one function or pair of functions per operator, found by reading
and confirmed on the binary; beside its siblings it shows what differs:

==================  ================  ===============  ================  ==================
operator            ``TFLM``          ``LITERT_REF``   ``LITERT_X86``    ``XNNPACK``
==================  ================  ===============  ================  ==================
convolution         DA                DA               DU                F32
depthwise,          DA                DA               DU; last c % 8    F32
transposed                                             channels DA
fully connected     DA                F64              DU                F32
add                 DA                DA               S; tail of 16 DA  21 bits, one shift
                                                       their sum DA
subtract            DA                DA               DA                21 bits, one shift
multiply            DA                DA, float32 M    the same          F32
requantize          DA                DA               DU; last n % 16   8 bits, one shift
                                                       codes DA
mean over space     DA, M divided     the same         DU; last c % 16   float32, zero
                                                       channels DA       points and all
softmax             fixed point       fixed point      float table       float table
logistic, tanh      fixed point       float table      float table       float table,
                                                                         ties to even
==================  ================  ===============  ================  ==================

``LITERT_X86`` is LiteRT without its default delegate, on x86 with AVX or better;
``XNNPACK`` is LiteRT as it comes, which hands to XNNPACK what that library can do.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant.integer import elementwise, pooling
from refquant.integer.arithmetic import (
    quantize_multiplier,
    saturating_rounding_doubling_high_mul,
)
from refquant.integer.dialects import LITERT_OPTIMIZED, LITERT_REFERENCE
from refquant.integer.dialects import XNNPACK as XNNPACK_DIALECT
from refquant.integer.lstm import Lstm, LstmState, lstm_litert, lstm_tflm
from refquant.integer.requantize import (
    Product,
    Rule,
    double_away,
    double_up,
    in_float32,
    in_float64,
    lanes,
    product_in_float32,
    product_in_float64,
    ratio_in_float32,
    reduced_16x8,
    single_up,
)
from refquant.integer.sigmoids import (
    even_table_logistic,
    even_table_tanh,
    fixed_logistic_codes,
    fixed_tanh_codes,
    float_table_logistic,
    float_table_tanh,
    interpolated_logistic,
    interpolated_tanh,
    is_power_of_two,
    short_logistic,
    short_tanh,
)
from refquant.integer.softmax import fixed_softmax, float_table_softmax, table_softmax
from refquant.integer.svdf import Svdf, svdf
from refquant.quantizers.uniform import Uniform

__all__ = ["ENGINES", "LITERT_REF", "LITERT_X86", "TFLM", "XNNPACK", "Arithmetic", "Engine", "Sums"]


class Arithmetic(NamedTuple):
    """How a layer requantizes its sums.

    Attributes
    ----------
    rule : callable
        From sums and real multipliers to whole numbers.
    product : callable
        From three scales to the multiplier.

    References
    ----------
    See `refquant.integer.requantize`.

    Examples
    --------
    >>> TFLM.convolution.narrow.rule is double_away
    True
    """

    rule: Rule
    product: Product


class Sums(NamedTuple):
    """How layers that add up products requantize, by the width of what they add up.

    Attributes
    ----------
    narrow : Arithmetic
        Activations of 8 bits.
    short : Arithmetic or None
        Activations of 16 bits, sums and bias of 32. None where the engine refuses such a bias,
        or takes it for one of 64 bits and reads beyond its end.
    wide : Arithmetic
        Activations of 16 bits, sums and bias of 64.
    bare : Arithmetic
        Activations of 16 bits, no bias, and a file that does not say how wide it would be.

    References
    ----------
    TensorFlow Lite, "16-bit activations with 8-bit weights".

    Examples
    --------
    >>> TFLM.convolution.wide.rule is reduced_16x8
    True
    """

    narrow: Arithmetic
    short: Arithmetic | None
    wide: Arithmetic
    bare: Arithmetic


class Engine(NamedTuple):
    """What one runtime computes, operator by operator.

    Attributes
    ----------
    name : str
    convolution, depthwise, transposed, fully_connected : Sums
    transposed_apart : Sums
        Transposed convolutions with padding SAME and a kernel shorter than its stride.
    add, subtract, multiply : callable
        ``(a, b, a_quantizer, b_quantizer, y_quantizer, activation=...)`` to codes.
    requantize : callable
        ``(x, x_quantizer, y_quantizer)`` to codes.
    relu : callable
        The same with ``activation=...``: operators RELU and RELU_N1_TO_1.
    relu6 : callable
        ``(x, x_quantizer, y_quantizer)``: the operator RELU6.
    leaky_relu : callable
        ``(x, x_quantizer, y_quantizer, alpha=...)``.
    mean : callable
        ``(x, axis, x_quantizer, y_quantizer, keep=...)``; the result keeps the axes in any
        case, `keep` is whether the file asks for them.
    softmax : callable
        ``(x, x_quantizer, y_quantizer, beta=...)`` over the last axis.
    logistic, tanh : callable
        ``(x, x_quantizer, y_quantizer)``.
    lstm : callable
        ``(x, lstm, state)`` to hidden states and the next state.
    svdf : callable
        ``(x, svdf, state)`` to codes and the next state.
    quantize : callable
        ``(values, y_quantizer)`` to codes.
    dequantize : callable
        ``(codes, x_quantizer)`` to float32.

    References
    ----------
    TensorFlow Lite Micro, LiteRT and XNNPACK, as compared element by element.

    Examples
    --------
    >>> x, y = (Uniform(np.array(s, np.float32), np.array(z), -128, 127)
    ...         for s, z in ((0.05, 2), (0.07, -7)))
    >>> [int(engine.requantize(np.array([29]), x, y)[0]) for engine in ENGINES.values()]
    [12, 12, 12, 12]
    """

    name: str
    convolution: Sums
    depthwise: Sums
    transposed: Sums
    transposed_apart: Sums
    fully_connected: Sums
    add: Callable[..., Codes]
    subtract: Callable[..., Codes]
    multiply: Callable[..., Codes]
    requantize: Callable[..., Codes]
    relu: Callable[..., Codes]
    relu6: Callable[..., Codes]
    leaky_relu: Callable[..., Codes]
    mean: Callable[..., Codes]
    softmax: Callable[..., Codes]
    logistic: Callable[..., Codes]
    tanh: Callable[..., Codes]
    lstm: Callable[[Array, Lstm, LstmState], tuple[Codes, LstmState]]
    svdf: Callable[[Array, Svdf, Array], tuple[Codes, Codes]]
    quantize: Callable[[Array, Uniform], Codes]
    dequantize: Callable[[Array, Uniform], Array]


def _of_all_widths(narrow: Arithmetic) -> Sums:
    """The layer of most engines: 32-bit sums by DA, 64-bit sums by a 15-bit multiplier."""
    short = Arithmetic(double_away, product_in_float64)
    wide = Arithmetic(reduced_16x8, product_in_float64)
    return Sums(narrow, short, wide, wide)


def _by_width(eight: Callable[..., Codes], sixteen: Callable[..., Codes]) -> Callable[..., Codes]:
    """One function for codes of 8 bits and another for wider ones, by the output's quantizer."""

    def chosen(*arguments: Array | Uniform, **options: float) -> Codes:
        quantizers = [a for a in arguments if isinstance(a, Uniform)]
        wide = any(q.qmax - q.qmin > 255 for q in quantizers)
        return (sixteen if wide else eight)(*arguments, **options)

    return chosen


def _with(function: Callable[..., Codes], **choices: object) -> Callable[..., Codes]:
    def chosen(*arguments: Array | Uniform, **options: object) -> Codes:
        return function(*arguments, **choices, **options)

    return chosen


def _per_tensor_in_float32(
    x_scale: npt.ArrayLike, w_scale: npt.ArrayLike, y_scale: npt.ArrayLike
) -> Array:
    """A single weight scale is multiplied in float32, several in float64."""
    product = product_in_float32 if np.size(w_scale) == 1 else product_in_float64
    return product(x_scale, w_scale, y_scale)


def _double_down(sums: npt.ArrayLike, real: npt.ArrayLike) -> Array:
    """The high half of a 64-bit product, ties up; then a shift that drops bits."""
    mantissa, shift = quantize_multiplier(real)
    high = saturating_rounding_doubling_high_mul(
        np.asarray(sums, np.int64) << np.maximum(shift, 0), mantissa)
    return high >> np.maximum(-shift, 0)


_DA = Arithmetic(double_away, product_in_float64)
_DU = Arithmetic(double_up, product_in_float64)
_F32 = Arithmetic(in_float32, ratio_in_float32)
_F64 = Arithmetic(in_float64, product_in_float64)
_WIDE = Arithmetic(reduced_16x8, product_in_float64)
_BLOCKS_OF_8 = Arithmetic(lanes(double_up, double_away, width=8), product_in_float64)
_BLOCKS_OF_16 = lanes(double_up, double_away, width=16)
_SINGLE_OF_16 = lanes(single_up, double_away, width=16)
_DOWN_OF_8 = lanes(_double_down, double_away, width=8)


def _relu6(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    return elementwise.requantize(
        x, x_quantizer, y_quantizer, activation=(0.0, 6.0), product=ratio_in_float32)


def _softmax(eight: Callable[..., Codes], build: type) -> Callable[..., Codes]:
    """One softmax for codes of 8 bits; for wider ones tables, built in float64 by LiteRT alone."""

    def chosen(x: Array, x_quantizer: Uniform, y_quantizer: Uniform, *, beta: float) -> Codes:
        if x_quantizer.qmax <= 255:
            return eight(x, x_quantizer, y_quantizer, beta=beta)
        if build is np.float64:             # where scale and beta are multiplied in float32
            step = np.float32(beta) * np.float32(x_quantizer.scale.item())
            x_quantizer, beta = replace(x_quantizer, scale=np.array(step)), 1.0
        return table_softmax(x, x_quantizer, y_quantizer, beta=beta, dtype=build)

    return chosen


def _requantize_in_blocks(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """LiteRT's loop runs over all codes in their order, sixteen at a time."""
    flat = elementwise.requantize(x.ravel(), x_quantizer, y_quantizer, rule=_BLOCKS_OF_16)
    return flat.reshape(x.shape)


def _mean(
    x: Array, axis: tuple[int, ...], x_quantizer: Uniform, y_quantizer: Uniform, *, keep: bool
) -> Codes:
    return pooling.mean(x, axis, x_quantizer, y_quantizer)


def _mean_in_float32(
    x: Array, axis: tuple[int, ...], x_quantizer: Uniform, y_quantizer: Uniform, *, keep: bool
) -> Codes:
    return pooling.mean_in_float32(x, axis, x_quantizer, y_quantizer)


def _add_wide(a: Array, b: Array, *quantizers: Uniform, **options: Any) -> Codes:
    """LiteRT has a loop for 16-bit codes of two tensors alike; where one is spread, it has none."""
    if a.shape != b.shape:
        return elementwise.add(a, b, *quantizers, **options)
    return _add_in_rows(a, b, a.size, _SINGLE_OF_16, *quantizers, **options)


def _add_narrow(a: Array, b: Array, *quantizers: Uniform, **options: Any) -> Codes:
    """LiteRT's loops for 8-bit codes run along what the two shapes share at their end.

    If they share nothing there, a single code of one tensor meets a row of the other. That loop
    is of another make: it shifts the refined terms down. Both stand inside three more at most.
    """
    shape = np.broadcast_shapes(a.shape, b.shape)
    ones = [(1,) * (len(shape) - x.ndim) + x.shape for x in (a, b)]
    left = [(n, *sides) for n, *sides in zip(shape, *ones, strict=True)]

    def take(fits: Callable[[int, int], bool]) -> int:
        """Size of the innermost axes that fit, which are then done with."""
        size = 1
        while left and fits(*left[-1][1:]):
            size *= left.pop()[0]
        return size

    alike = take(lambda m, n: m == n)
    second = bool(left) and left[-1][2] == 1            # the one that is spread first
    spread = take(lambda m, n: (n if second else m) == 1)
    take(lambda m, n: m == n)
    take(lambda m, n: (m if second else n) == 1)
    take(lambda m, n: m == n)
    if left:                                            # more changes than loops
        return elementwise.add(a, b, *quantizers, **options)
    row, rule = (alike, _SINGLE_OF_16) if alike > 1 or spread == 1 else (spread, _DOWN_OF_8)
    return _add_in_rows(a, b, row, rule, *quantizers, **options)


def _add_in_rows(
    a: Array, b: Array, row: int, rule: Rule, *quantizers: Uniform, **options: Any
) -> Codes:
    """Sums whose terms are refined by a rule that knows places in a row."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    first, second = (np.broadcast_to(x, shape).reshape(-1, row) for x in (a, b))
    codes = elementwise.add(first, second, *quantizers, input_rule=rule, **options)
    return codes.reshape(shape)


def _requantize_shifted(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    """XNNPACK converts between scales, not between types: those are left to LiteRT."""
    same = x_quantizer.qmin == y_quantizer.qmin
    function = elementwise.requantize_shifted if same else _requantize_in_blocks
    return function(x, x_quantizer, y_quantizer)


def _mean_optimized(
    x: Array, axis: tuple[int, ...], x_quantizer: Uniform, y_quantizer: Uniform, *, keep: bool
) -> Codes:
    """Over height and width, kept as axes, LiteRT has a loop of its own."""
    if keep and x.ndim == 4 and set(axis) == {1, 2} and x_quantizer.qmax - x_quantizer.qmin == 255:
        return pooling.mean_over_space(x, x_quantizer, y_quantizer, rule=_BLOCKS_OF_16)
    return pooling.mean(x, axis, x_quantizer, y_quantizer)


def _short_logistic(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    short = is_power_of_two(x_quantizer.scale.item(), -12)
    return (short_logistic if short else interpolated_logistic)(x, x_quantizer, y_quantizer)


def _short_tanh(x: Array, x_quantizer: Uniform, y_quantizer: Uniform) -> Codes:
    short = any(is_power_of_two(x_quantizer.scale.item(), e) for e in (-12, -11))
    return (short_tanh if short else interpolated_tanh)(x, x_quantizer, y_quantizer)


def _dequantize(codes: Array, quantizer: Uniform) -> Array:
    """One rounding: the difference is exact, the product is not."""
    steps = np.asarray(codes, np.int64) - int(quantizer.zero_point.item())
    return (steps * float(np.float32(quantizer.scale.item()))).astype(np.float32)


def _dequantize_in_blocks(codes: Array, quantizer: Uniform) -> Array:
    """Eight codes at a time: two products and a sum, each rounded to float32; the rest as above."""
    values = _dequantize(codes, quantizer)
    scale = np.float32(quantizer.scale.item())
    bias = -np.float32(quantizer.zero_point.item()) * scale
    whole = values.size // 8 * 8
    flat = np.asarray(codes).ravel()[:whole].astype(np.float32)
    values.reshape(-1)[:whole] = bias + flat * scale
    return values


TFLM = Engine(
    name="TensorFlow Lite Micro, reference kernels",
    convolution=_of_all_widths(_DA),
    depthwise=Sums(_DA, None, _WIDE, _WIDE),
    transposed=Sums(_DA, None, _WIDE, _WIDE),
    transposed_apart=Sums(_DA, None, _WIDE, _WIDE),
    fully_connected=_of_all_widths(_DA),
    add=elementwise.add,
    subtract=elementwise.subtract,
    multiply=elementwise.multiply,
    requantize=elementwise.requantize,
    relu=elementwise.requantize,
    relu6=elementwise.relu6_in_place,
    leaky_relu=elementwise.leaky_relu,
    mean=_mean,
    softmax=_softmax(fixed_softmax, np.float32),
    logistic=_by_width(fixed_logistic_codes, interpolated_logistic),
    tanh=_by_width(fixed_tanh_codes, interpolated_tanh),
    lstm=lstm_tflm,
    svdf=partial(svdf, product=product_in_float64),
    quantize=LITERT_REFERENCE.encode,
    dequantize=_dequantize,
)

LITERT_REF = TFLM._replace(
    name="LiteRT, reference kernels",
    transposed=_of_all_widths(_DA),
    transposed_apart=_of_all_widths(_DA),
    fully_connected=Sums(_F64, _F64, _F64, _F64),
    multiply=_with(elementwise.multiply, product=ratio_in_float32),
    relu=_with(elementwise.requantize, product=ratio_in_float32),
    relu6=_relu6,
    leaky_relu=_with(elementwise.leaky_relu, product=ratio_in_float32),
    softmax=_softmax(fixed_softmax, np.float64),
    logistic=_by_width(float_table_logistic, interpolated_logistic),
    tanh=_by_width(float_table_tanh, interpolated_tanh),
    lstm=lstm_litert,
    svdf=svdf,
)

LITERT_X86 = LITERT_REF._replace(
    name="LiteRT, optimized kernels, x86 with AVX",
    convolution=Sums(_DU, _DU, _WIDE, _WIDE),
    depthwise=Sums(_BLOCKS_OF_8, None, _WIDE, _WIDE),
    transposed=Sums(_BLOCKS_OF_8, _BLOCKS_OF_8, _WIDE, _WIDE),
    transposed_apart=Sums(_BLOCKS_OF_8, _BLOCKS_OF_8, _WIDE, _WIDE),
    fully_connected=Sums(
        Arithmetic(double_up, _per_tensor_in_float32),
        Arithmetic(double_up, _per_tensor_in_float32), _F64,
        Arithmetic(double_up, _per_tensor_in_float32)),
    add=_by_width(_add_narrow, _add_wide),
    requantize=_by_width(_requantize_in_blocks, elementwise.requantize),
    mean=_mean_optimized,
    softmax=_softmax(float_table_softmax, np.float64),
    logistic=_by_width(float_table_logistic, _short_logistic),
    tanh=_by_width(float_table_tanh, _short_tanh),
    quantize=LITERT_OPTIMIZED.encode,
    dequantize=_dequantize_in_blocks,
)

XNNPACK = LITERT_X86._replace(
    name="LiteRT with XNNPACK, x86",
    convolution=LITERT_X86.convolution._replace(narrow=_F32),
    depthwise=LITERT_X86.depthwise._replace(narrow=_F32),
    transposed=LITERT_X86.transposed._replace(narrow=_F32),
    fully_connected=LITERT_X86.fully_connected._replace(narrow=_F32),
    add=_by_width(elementwise.add_shifted, LITERT_X86.add),
    subtract=_by_width(elementwise.subtract_shifted, LITERT_X86.subtract),
    multiply=_by_width(
        _with(elementwise.multiply, rule=in_float32, product=ratio_in_float32),
        LITERT_X86.multiply),
    requantize=_by_width(_requantize_shifted, LITERT_X86.requantize),
    leaky_relu=_by_width(elementwise.leaky_relu_shifted, LITERT_X86.leaky_relu),
    mean=_by_width(_mean_in_float32, LITERT_X86.mean),
    logistic=_by_width(even_table_logistic, LITERT_X86.logistic),
    tanh=_by_width(even_table_tanh, LITERT_X86.tanh),
    quantize=_by_width(XNNPACK_DIALECT.encode, LITERT_X86.quantize),
    dequantize=_dequantize,
)

#: By the names of the command line.
ENGINES = {"tflm": TFLM, "litert_ref": LITERT_REF, "litert_x86": LITERT_X86, "xnnpack": XNNPACK}
