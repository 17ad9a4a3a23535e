r"""Dialects: the quantize kernels of real runtimes, whose last bits differ.

All of them compute :math:`\lfloor x / s \rceil + z`, clipped. They divide or
multiply by a rounded reciprocal, add the zero point before or after rounding,
break ties to even or away from zero, and convert to integer before or after
clipping. On most values nobody notices; on a tie, a NaN or an infinity the
codes differ, and a test that compares two runtimes code by code fails.

=====================  =======================================  ===========  =============
dialect                code, before clipping                    NaN becomes  1e10 becomes
=====================  =======================================  ===========  =============
``ONNXRUNTIME``        ``rint(x / s) + z``                      qmin         qmax
``ONNX_REFERENCE``     ``int32(rint(x / s)) + z``               wraps        wraps
``TORCH_QUANTIZE``     ``rint(fma(x, 1 / s, z))``               qmax         qmax
``TORCH_PER_CHANNEL``  ``rint(x * (1 / s) + z)``                0            qmax
``TORCH_FAKE``         ``rint(x * (1 / s)) + z``                qmin         qmax
``TORCH_DECOMPOSED``   ``rint(x * (1 / s)) + z``                0            qmax
``LITERT_REFERENCE``   ``int32(half_away(x / s)) + z``          wraps        wraps
``LITERT_OPTIMIZED``   lanes of 8, and a remainder, which       wraps        wraps
                       round differently: by position
``XNNPACK``            ``rint(x * (1 / s)) + z``                qmax         qmax
``BREVITAS``           ``rint(clip(x / s + z))``                0            qmax
``AIMET``              ``half_away(clip(x) / s - (qmin - z))``  qmin         qmax
``EXACT``              ``rint(x / s) + z``, nothing rounded     qmin         qmax
                       on the way
=====================  =======================================  ===========  =============

"Wraps": what does not fit an int32 becomes -2**31 on x86, to which z is added
modulo 2**32. That is qmin for z >= 0, and qmax for z < 0.

The operations are float32, as in the kernels, but for `EXACT`, which is no runtime but
the definition. NaN stays NaN in Brevitas, whose codes are floats; here it is 0.
Each function is written out
longhand next to its siblings, since the differences are the whole content.
`Uniform.encode` is none of these: it is the mathematical definition, and on
float64 copies of float32 data it is exact.

Measured on x86-64: onnxruntime 1.31.1 and 1.32.0, onnx 1.23.2, torch 2.13.0 (CPU), LiteRT
2.3.0, Brevitas 0.13.4, and the compiled quantizer of AIMET as aimet-onnx 2.42.0 has it; that of
aimet-torch 2.42.0 computes as ``ONNXRUNTIME``. The source of a kernel is not evidence: the
published source of ``quantize_per_tensor`` adds the zero point after rounding. Nor is one machine:
``TORCH_PER_CHANNEL`` was measured without AVX-512, and a build that fuses its
multiplication and addition is ``TORCH_QUANTIZE``.
"""

from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, Protocol

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_nonempty,
)
from refquant.quantizers.uniform import Uniform, code_range
from refquant.rounding import half_away

__all__ = [
    "AIMET",
    "BREVITAS",
    "DIALECTS",
    "EXACT",
    "LITERT_OPTIMIZED",
    "LITERT_REFERENCE",
    "ONNXRUNTIME",
    "ONNX_REFERENCE",
    "TORCH_DECOMPOSED",
    "TORCH_FAKE",
    "TORCH_PER_CHANNEL",
    "TORCH_QUANTIZE",
    "XNNPACK",
    "Dialect",
    "DynamicallyQuantized",
    "dynamic_quantize",
    "onnxruntime_tool_parameters",
]


class Parameters(Protocol):
    """How a runtime turns a range into scale and zero point."""

    def __call__(self, low: Array, high: Array, *, bits: int, signed: bool) -> Uniform:
        """Quantizer of the range."""


class Dialect(NamedTuple):
    """Functions of one runtime, named after its kernel.

    Attributes
    ----------
    name : str
        Runtime and kernel.
    encode : callable, (ndarray of float32, Uniform) -> ndarray of int32
        Codes as the kernel returns them, NaN and infinities included. The
        parameters are cast to float32; values must be float32 (`TypeError`).
    decode : callable, (ndarray of int, Uniform) -> ndarray of float32
        Values of codes.
    parameters : callable, (low, high, bits, signed) -> Uniform
        Scale and zero point that the runtime's tools choose for a range, after
        widening it to contain zero.

    References
    ----------
    ONNX operator QuantizeLinear; Jacob et al., 2018, arXiv:1712.05877, eq. (1).

    Examples
    --------
    >>> x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    >>> odd = Uniform(np.array(1.0), np.array(1), -128, 127)
    >>> ONNXRUNTIME.encode(x, odd), TORCH_QUANTIZE.encode(x, odd)
    (array([ 1,  3,  3,  1, -1], dtype=int32), array([2, 2, 4, 0, 0], dtype=int32))
    """

    name: str
    encode: Callable[[Array, Uniform], Codes]
    decode: Callable[[Array, Uniform], Array]
    parameters: Parameters


class DynamicallyQuantized(NamedTuple):
    """Codes of a tensor, and the quantizer that was chosen from it.

    Attributes
    ----------
    codes : ndarray of int32
        From 0 to 255, shape of the data.
    quantizer : Uniform
        With a float32 scale of shape ().

    References
    ----------
    ONNX operator DynamicQuantizeLinear, opset 11.

    Examples
    --------
    >>> x = np.array([0, 2], np.float32)
    >>> dynamic_quantize(x, ONNXRUNTIME).codes
    array([  0, 255], dtype=int32)
    """

    codes: Codes
    quantizer: Uniform


def dynamic_quantize(x: Array, dialect: Dialect) -> DynamicallyQuantized:
    r"""Codes of 8 bits without sign, the range taken from the tensor itself.

    .. math:: s = \frac{\max(x, 0) - \min(x, 0)}{255}, \qquad
              z = \lfloor \mathrm{clip}(-\min(x, 0) / s, 0, 255) \rceil

    The operator DynamicQuantizeLinear for the dialects of ONNX. For zeros alone
    its text leaves the scale open: `ONNXRUNTIME` takes 1, `ONNX_REFERENCE` 1/255.

    Parameters
    ----------
    x : ndarray of float32, any shape
    dialect : Dialect
        Whose `parameters` and `encode` are used.

    Returns
    -------
    DynamicallyQuantized
        Codes and quantizer.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.
    TypeError
        If `x` is not float32.

    References
    ----------
    ONNX operator DynamicQuantizeLinear, opset 11.

    Examples
    --------
    >>> x = np.array([0, 2, -3, -2.5, 1.34, 0.5], np.float32)
    >>> codes, quantizer = dynamic_quantize(x, ONNXRUNTIME)
    >>> codes, int(quantizer.zero_point)
    (array([153, 255,   0,  26, 221, 179], dtype=int32), 153)
    """
    x = _float32("x", x)
    require_nonempty("x", x)
    require_finite("x", x)
    quantizer = dialect.parameters(x.min(), x.max(), bits=8, signed=False)
    return DynamicallyQuantized(dialect.encode(x, quantizer), quantizer)


def onnxruntime_tool_parameters(
    low: Array, high: Array, *, bits: int, signed: bool
) -> Uniform:
    """Quantizer of a range as chosen by onnxruntime's *offline* quantization tool.

    It works in float64 and casts the scale at the end, so its scale is often one
    unit in the last place from that of the kernel, ``ONNXRUNTIME.parameters``.

    Parameters
    ----------
    low, high : ndarray of float32
        The range, ``low <= high``.
    bits : int
        From 1 to 31; to 32 if `signed`.
    signed : bool
        Codes from ``-2**(bits-1)``.

    Returns
    -------
    Uniform
        Scale 1 and zero point 0 for a range narrower than any normal scale.

    Raises
    ------
    ValueError
        If the range is not finite or ``low > high``.

    References
    ----------
    onnxruntime 1.31.1, ``quantization/quant_utils.py``, ``compute_scale_zp``.

    Examples
    --------
    >>> low, high = np.array([-0.5], np.float32), np.array([254.5], np.float32)
    >>> onnxruntime_tool_parameters(low, high, bits=8, signed=False).zero_point
    array([0], dtype=int32)
    """
    low, high = _widened(low, high)
    qmin, qmax = code_range(bits, signed=signed)
    scale = (high.astype(np.float64) - low) / (qmax - qmin)
    usable = scale >= np.finfo(np.float32).tiny
    scale = np.where(usable, scale, 1.0)
    zero_point = np.where(usable, np.rint(qmin - low / scale), 0)
    return _uniform(scale, zero_point, qmin, qmax)


def _dynamic_parameters(
    low: Array, high: Array, *, bits: int, signed: bool, width_of_zero: float
) -> Uniform:
    """DynamicQuantizeLinear's rule: float32 throughout, clipped before it is rounded."""
    low, high = _widened(low, high)
    qmin, qmax = code_range(bits, signed=signed)
    width = np.where(high == low, np.float32(width_of_zero), high - low)
    scale = width / np.float32(qmax - qmin)
    zero_point = np.rint(np.clip(np.float32(qmin) - low / scale, qmin, qmax))
    return _uniform(scale, zero_point, qmin, qmax)


def _onnxruntime_parameters(low: Array, high: Array, *, bits: int, signed: bool) -> Uniform:
    qmin, qmax = code_range(bits, signed=signed)
    return _dynamic_parameters(low, high, bits=bits, signed=signed, width_of_zero=qmax - qmin)


def _onnx_reference_parameters(low: Array, high: Array, *, bits: int, signed: bool) -> Uniform:
    return _dynamic_parameters(low, high, bits=bits, signed=signed, width_of_zero=1)


def _torch_parameters(low: Array, high: Array, *, bits: int, signed: bool) -> Uniform:
    """As ``MinMaxObserver``: no scale below 2**-23, the rounded ratio subtracted."""
    low, high = _widened(low, high)
    qmin, qmax = code_range(bits, signed=signed)
    scale = np.maximum((high - low) / np.float32(qmax - qmin), np.finfo(np.float32).eps)
    zero_point = np.clip(qmin - np.rint(low / scale), qmin, qmax)
    return _uniform(scale, zero_point, qmin, qmax)


def _tflite_parameters(low: Array, high: Array, *, bits: int, signed: bool) -> Uniform:
    """Float64; the zero point is derived from the end of the range that loses less."""
    low, high = (end.astype(np.float64) for end in _widened(low, high))
    if (low == high).any():
        raise ValueError("`high` must exceed `low`: TFLite would choose the scale 0; got [0, 0]")
    qmin, qmax = code_range(bits, signed=signed)
    scale = (high - low) / (qmax - qmin)
    from_low, from_high = qmin - low / scale, qmax - high / scale
    low_is_better = abs(qmin) + np.abs(low / scale) < abs(qmax) + np.abs(high / scale)
    nudged = half_away(np.where(low_is_better, from_low, from_high))
    return _uniform(scale, np.clip(nudged, qmin, qmax), qmin, qmax)


def _kernel(encode: Callable[..., Array]) -> Callable[[Array, Uniform], Codes]:
    """Checks and casts in one place, so that each kernel below is its formula."""

    @wraps(encode)
    def checked(x: Array, quantizer: Uniform) -> Codes:
        x = _float32("x", x)
        require_broadcastable("scale", quantizer.scale, x.shape)
        scale = quantizer.scale.astype(np.float32)
        with np.errstate(all="ignore"):     # the odd cases are what is being described
            codes = encode(x, scale, quantizer.zero_point, quantizer.qmin, quantizer.qmax)
        return codes.astype(np.int32)

    return checked


@_kernel
def _onnxruntime(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return _saturate(np.rint(x / s) + _f32(z), qmin, qmax, nan=qmin)


@_kernel
def _onnx_reference(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return np.clip(_add_int32(_x86_int32(np.rint(x / s)), z), qmin, qmax)


@_kernel
def _torch_quantize(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return _saturate(np.rint(_fma(x, 1 / s, _f32(z))), qmin, qmax, nan=qmax)


@_kernel
def _torch_per_channel(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    # Product and sum are rounded separately here. A NaN survives the clamp, and the
    # low byte of the int32 that x86 makes of it, -2**31, is 0.
    return _saturate(np.rint(x * (1 / s) + _f32(z)), qmin, qmax, nan=0)


@_kernel
def _torch_fake(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return _saturate(np.rint(x * (1 / s)) + _f32(z), qmin, qmax, nan=qmin)


@_kernel
def _torch_decomposed(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return _saturate(np.rint(x * (1 / s)) + _f32(z), qmin, qmax, nan=0)


@_kernel
def _litert_reference(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return np.clip(_add_int32(_x86_int32(half_away(x / s)), z), qmin, qmax)


@_kernel
def _litert_optimized(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    in_lanes = np.arange(x.size).reshape(x.shape) < x.size // 8 * 8
    lanes = _x86_int32(np.rint(x * (1 / s)))
    remainder = _x86_int32(half_away(x.astype(np.float64) / s))     # not float32: measured
    return np.clip(_add_int32(np.where(in_lanes, lanes, remainder), z), qmin, qmax)


@_kernel
def _xnnpack(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    if (s < np.finfo(np.float32).tiny).any():
        raise ValueError(f"`scale` must be a normal float32: XNNPACK refuses others; got {s.min()}")
    return _saturate(np.rint(x * (1 / s)) + _f32(z), qmin, qmax, nan=qmax)


@_kernel
def _brevitas(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    return _saturate(np.rint(x / s + _f32(z)), qmin, qmax, nan=0)


@_kernel
def _aimet(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    # The data are clipped to the ends of the grid, not the codes to their range, and the
    # offset is that of the lowest code: adding it may carry a near tie onto a tie.
    offset = _f32(qmin - z)
    inside = np.clip(x, s * offset, s * _f32(qmax - z))
    return _saturate(half_away(inside / s - offset) + np.float32(qmin), qmin, qmax, nan=qmin)


@_kernel
def _exact(x: Array, s: Array, z: Codes, qmin: int, qmax: int) -> Array:
    # A quotient of float32 is no nearer to a half than 2**-41, relatively, unless it is one:
    # the rounding of float64 cannot carry it there.
    return _saturate(np.rint(x.astype(np.float64) / s) + z, qmin, qmax, nan=qmin)


def _decode(codes: Array, quantizer: Uniform) -> Array:
    """``(q - z) * s``, rounded once; all kernels agree."""
    codes = require_codes("codes", codes, quantizer.qmin, quantizer.qmax)
    require_broadcastable("scale", quantizer.scale, codes.shape)
    steps = codes.astype(np.int64) - quantizer.zero_point
    return steps.astype(np.float32) * quantizer.scale.astype(np.float32)


def _saturate(whole: Array, qmin: int, qmax: int, *, nan: int) -> Array:
    """Clipped while still float, where nothing overflows."""
    return np.where(np.isnan(whole), nan, np.clip(whole, qmin, qmax))


def _x86_int32(whole: Array) -> Codes:
    """The int32 that x86 makes of whole numbers: -2**31 for all that does not fit, and NaN."""
    # cvttss2si is defined for any input; the cast in C, and so in NumPy, is not.
    fits = (whole >= -(2.0**31)) & (whole < 2.0**31)
    return np.where(fits, whole, -(2.0**31)).astype(np.int32)


def _add_int32(a: Codes, b: Codes) -> Codes:
    """Sum modulo 2**32, as the machine adds."""
    return ((a.astype(np.int64) + b + 2**31) % 2**32 - 2**31).astype(np.int32)


def _fma(a: Array, b: Array, c: Array) -> Array:
    """``a * b + c`` of float32, rounded once, as a fused multiply-add computes it."""
    # The product is exact in float64 and the sum is not: rounding it to float32 as
    # well could round twice. Knuth's two-sum gives the part lost; forcing the last
    # bit of the sum to 1 where something was lost ("round to odd") keeps the sum on
    # its side of every float32 midpoint.
    product, c = a.astype(np.float64) * b, c.astype(np.float64)
    total = product + c
    added = total - product
    lost = (product - (total - added)) + (c - added)
    even = np.asarray(total).view(np.int64) % 2 == 0
    odd = np.nextafter(total, np.copysign(np.inf, lost))
    nudge = np.isfinite(lost) & (lost != 0) & even
    return np.where(nudge, odd, total).astype(np.float32)


def _float32(name: str, x: Array) -> Array:
    x = np.asarray(x)
    if x.dtype != np.float32:
        raise TypeError(f"`{name}` must be float32, as in the kernels; got {x.dtype}")
    return x


def _f32(z: Codes) -> Array:
    return z.astype(np.float32)


def _widened(low: Array, high: Array) -> tuple[Array, Array]:
    """The range with zero in it, in float32."""
    low, high = as_reals("low", low), as_reals("high", high)
    require_finite("low", low)
    require_finite("high", high)
    if (low > high).any():
        raise ValueError(f"`low` must not exceed `high`; got {low.max()} and {high.min()}")
    return np.minimum(low, 0).astype(np.float32), np.maximum(high, 0).astype(np.float32)


def _uniform(scale: Array, zero_point: Array, qmin: int, qmax: int) -> Uniform:
    return Uniform(
        np.asarray(scale, np.float32), np.asarray(zero_point).astype(np.int64), qmin, qmax
    )


ONNXRUNTIME = Dialect(
    "onnxruntime QuantizeLinear, CPU", _onnxruntime, _decode, _onnxruntime_parameters
)
ONNX_REFERENCE = Dialect(
    "onnx ReferenceEvaluator, x86", _onnx_reference, _decode, _onnx_reference_parameters
)
TORCH_QUANTIZE = Dialect(
    "torch.quantize_per_tensor, x86", _torch_quantize, _decode, _torch_parameters
)
TORCH_PER_CHANNEL = Dialect(
    "torch.quantize_per_channel, x86", _torch_per_channel, _decode, _torch_parameters
)
TORCH_FAKE = Dialect(
    "torch.fake_quantize_per_tensor_affine", _torch_fake, _decode, _torch_parameters
)
TORCH_DECOMPOSED = Dialect(
    "torch quantized_decomposed, torchao", _torch_decomposed, _decode, _torch_parameters
)
LITERT_REFERENCE = Dialect(
    "LiteRT reference kernels, x86", _litert_reference, _decode, _tflite_parameters
)
LITERT_OPTIMIZED = Dialect(
    "LiteRT optimized kernels, x86", _litert_optimized, _decode, _tflite_parameters
)
XNNPACK = Dialect("LiteRT with XNNPACK", _xnnpack, _decode, _tflite_parameters)
BREVITAS = Dialect("Brevitas IntQuant, QONNX Quant", _brevitas, _decode, _torch_parameters)
AIMET = Dialect("AIMET quantizer, nearest, CPU", _aimet, _decode, _onnxruntime_parameters)
EXACT = Dialect("exact quotient, ties to even", _exact, _decode, _onnxruntime_parameters)

#: All of them, in the order of the table above.
DIALECTS = (
    ONNXRUNTIME,
    ONNX_REFERENCE,
    TORCH_QUANTIZE,
    TORCH_PER_CHANNEL,
    TORCH_FAKE,
    TORCH_DECOMPOSED,
    LITERT_REFERENCE,
    LITERT_OPTIMIZED,
    XNNPACK,
    BREVITAS,
    AIMET,
    EXACT,
)
