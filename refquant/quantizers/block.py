r"""Block formats: a few bits per element, and one scale that a block of elements shares.

.. math:: x_i \approx X \cdot p_i, \qquad i = 1 \dots k

with p in a short format and the scale X itself in 8 bits.

==============  =====  ======================  ======================  ===========
format          k      element                 scale                   bits
==============  =====  ======================  ======================  ===========
MXFP8           32     ``E4M3FN``, ``E5M2``    power of two, E8M0      8.25
MXFP6           32     ``E3M2``, ``E2M3``      power of two, E8M0      6.25
MXFP4           32     ``E2M1``                power of two, E8M0      4.25
MXINT8          32     ``MXINT8_ELEMENT``      power of two, E8M0      8.25
NVFP4           16     ``E2M1``                E4M3 x one float32      4.5
BFP (any m)     any    m-bit integer           power of two            m + 8/k
==============  =====  ======================  ======================  ===========

Blocks are made by `refquant.granularity.group`, which refuses a block size that
does not divide; scales then take the maximum over the last axis.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from refquant._types import Array, Axis, Codes, Rounding
from refquant._validate import (
    as_data,
    as_reals,
    require_broadcastable,
    require_codes,
    require_int,
    require_no_nan,
    require_number,
    require_positive,
)
from refquant.quantizers.fixed_point import FixedPoint
from refquant.quantizers.minifloat import E2M1, E4M3FN, E8M0, Minifloat
from refquant.rounding import half_even

__all__ = [
    "MXINT8_ELEMENT",
    "Block",
    "Element",
    "ScaleRule",
    "block_floating_point",
    "ceil_rule",
    "even_rule",
    "floor_rule",
    "mx",
    "nvfp4",
    "rceil_rule",
]

#: What a block may be made of: both know `max_value` and `mantissa_bits`.
Element: TypeAlias = Minifloat | FixedPoint

#: Exponent of the scale for the largest magnitude of each block, both int or float arrays.
ScaleRule: TypeAlias = Callable[[Array, Element], Array]

#: Element of MXINT8: q / 64, from -2 to 1.984375.
MXINT8_ELEMENT = FixedPoint(8, 6)


@dataclass(frozen=True, eq=False)
class Block:
    """Code c in block i stands for ``tensor_scale * scale[i] * element.decode(c)``.

    Attributes
    ----------
    scale : ndarray of float, broadcastable to the data, > 0
        Scale of each block.
    element : Minifloat or FixedPoint
    tensor_scale : float or None
        Second level, if there is one: a factor for all blocks.
    scale_bits : int
        What one block scale takes in storage.

    Raises
    ------
    ValueError
        If a scale is not positive and finite.
    TypeError
        If `scale` is not float, or `tensor_scale` not one number.

    References
    ----------
    OCP Microscaling Formats (MX) Specification 1.0, 2023, section 5; Rouhani et
    al., "Microscaling Data Formats for Deep Learning", 2023, arXiv:2310.10537.

    Examples
    --------
    >>> q = Block(np.array([[0.5], [4.0]]), E2M1)
    >>> q.decode(q.encode(np.array([[0.3, 9.0], [0.3, 9.0]])))
    array([[0.25, 3.  ],
           [0.  , 8.  ]])
    """

    scale: Array
    element: Element
    tensor_scale: float | None = None
    scale_bits: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_reals("scale", self.scale))
        require_positive("scale", self.scale)
        if self.tensor_scale is not None:
            require_number("tensor_scale", self.tensor_scale)
            require_positive("tensor_scale", np.asarray(self.tensor_scale))
        require_int("scale_bits", self.scale_bits, 1)

    @property
    def code_bits(self) -> int:
        """Bits of one code."""
        return self.element.code_bits

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the scales: `scale_bits` each, and a float if there is a second level.

        Parameters
        ----------
        float_bits : int
            Bits of the tensor scale.

        Returns
        -------
        int
        """
        return self.scale.size * self.scale_bits + float_bits * (self.tensor_scale is not None)

    def encode(self, x: Array, *, rounding: Rounding = half_even) -> Codes:
        """Code of each element: nearest by default, ties to the even code.

        Parameters
        ----------
        x : ndarray of float, any shape that `scale` broadcasts to
        rounding : callable, ndarray -> ndarray
            Any function of `refquant.rounding`.

        Returns
        -------
        ndarray of int32, shape of `x`
            Magnitudes beyond the largest saturate.
        """
        x = as_reals("x", x)
        require_broadcastable("scale", self.scale, x.shape)
        require_no_nan("x", x)
        # float64 holds the product of the two scales exactly, and the ratio of a float32
        # to it can come no nearer to a tie than a rounding of float64, unless it is one.
        with np.errstate(over="ignore", under="ignore"):
            return self.element.encode(x.astype(np.float64) / self._step(), rounding=rounding)

    def decode(self, codes: Array) -> Array:
        """Number of each code.

        Parameters
        ----------
        codes : ndarray of int, any shape that `scale` broadcasts to

        Returns
        -------
        ndarray of float, dtype of `scale`, shape of `codes`
        """
        codes = require_codes("codes", codes, -(2**31), 2**31 - 1)
        require_broadcastable("scale", self.scale, codes.shape)
        x = self.element.decode(codes).astype(np.float64) * self._step()
        with np.errstate(over="ignore"):
            return x.astype(self.scale.dtype)

    def _step(self) -> Array:
        step = self.scale.astype(np.float64)
        return step if self.tensor_scale is None else step * self.tensor_scale


def floor_rule(amax: Array, element: Element) -> Array:
    r"""Exponent :math:`\lfloor\log_2 A\rfloor - e_{max}`: OCP's rule, which may clip A.

    The binade of A becomes the highest binade of the element. If that is not
    full (E2M1 ends at 6, not at 8), up to a quarter of A is clipped.

    Parameters
    ----------
    amax : ndarray of float, > 0
        A, the largest magnitude of each block.
    element : Minifloat or FixedPoint

    Returns
    -------
    ndarray of int, shape of `amax`

    References
    ----------
    OCP Microscaling Formats (MX) Specification 1.0, 2023, section 6.3.

    Examples
    --------
    >>> floor_rule(np.array([1.0, 5.0, 7.0, 8.0]), E2M1)
    array([-2,  0,  0,  1], dtype=int32)
    """
    return _split(amax)[1] - _split(element.max_value)[1]


def ceil_rule(amax: Array, element: Element) -> Array:
    r"""Exponent :math:`\lceil\log_2 A\rceil - e_{max}`: never clips, may waste a binade.

    Parameters
    ----------
    amax : ndarray of float, > 0
        A, the largest magnitude of each block.
    element : Minifloat or FixedPoint

    Returns
    -------
    ndarray of int, shape of `amax`

    References
    ----------
    PyTorch torchao, ``ScaleCalculationMode.CEIL``.

    Examples
    --------
    >>> ceil_rule(np.array([1.0, 5.0, 7.0, 8.0]), E2M1)
    array([-2,  1,  1,  1], dtype=int32)
    """
    return floor_rule(amax, element) + (_split(amax)[0] > 1)


def rceil_rule(amax: Array, element: Element) -> Array:
    r"""Exponent :math:`\lceil\log_2 (A / p_{max})\rceil`: the smallest that does not clip.

    Parameters
    ----------
    amax : ndarray of float, > 0
        A, the largest magnitude of each block.
    element : Minifloat or FixedPoint

    Returns
    -------
    ndarray of int, shape of `amax`

    References
    ----------
    Mishra et al., "Recipes for Pre-training LLMs with MXFP8", 2025,
    arXiv:2506.08027, section 3 (round up); torchao, ``ScaleCalculationMode.RCEIL``.

    Examples
    --------
    >>> rceil_rule(np.array([1.0, 5.0, 7.0, 8.0]), E2M1)
    array([-2,  0,  1,  1], dtype=int32)
    """
    # Both are 2**exponent times a fraction in [1, 2): no division, nothing rounded.
    return floor_rule(amax, element) + (_split(amax)[0] > _split(element.max_value)[0])


def even_rule(amax: Array, element: Element) -> Array:
    r"""Exponent of A rounded to the mantissa of the element, minus :math:`e_{max}`.

    A just below a power of two would round up to it, and counts as it.

    Parameters
    ----------
    amax : ndarray of float, > 0
        A, the largest magnitude of each block.
    element : Minifloat or FixedPoint

    Returns
    -------
    ndarray of int, shape of `amax`

    References
    ----------
    PyTorch torchao, ``ScaleCalculationMode.EVEN``.

    Examples
    --------
    >>> even_rule(np.array([1.0, 5.0, 7.0, 8.0]), E2M1)
    array([-2,  0,  1,  1], dtype=int32)
    """
    # Half a unit below 2, the fraction rounds up to 2: exact, with M + 2 bits.
    carry = _split(amax)[0] >= 2 - 2.0 ** -(element.mantissa_bits + 1)
    return floor_rule(amax, element) + carry


def mx(
    x: Array, *, element: Element = E2M1, rule: ScaleRule = floor_rule, axis: Axis = -1
) -> Block:
    """Microscaling quantizer of `x`: a power of two per block.

    Parameters
    ----------
    x : ndarray of float, shape (..., groups, group)
        Finite, not empty; the standard takes blocks of 32.
    element : Minifloat or FixedPoint
        `E4M3FN`, `E5M2`, `E3M2`, `E2M3`, `E2M1` or `MXINT8_ELEMENT`.
    rule : callable, (amax, element) -> exponent
        `floor_rule`, `ceil_rule`, `rceil_rule` or `even_rule`.
    axis : int, tuple of int or None
        Axes of the elements of a block.

    Returns
    -------
    Block
        Scales from 2**-127 to 2**127, the range of E8M0. A block of zeros gets
        the lowest, whose byte is 0.

    Raises
    ------
    ValueError
        If `x` is empty or not finite: unlike the standard, which gives a block
        with a NaN a scale of NaN.

    Notes
    -----
    The exponent comes from the bits of the largest magnitude. A logarithm in
    float32 gives nextafter(8, 0) the exponent 3 instead of 2.

    References
    ----------
    OCP Microscaling Formats (MX) Specification 1.0, 2023, section 6.3; Rouhani
    et al., 2023, arXiv:2310.10537, algorithm 1.

    Examples
    --------
    >>> x = np.array([[0.3, -7.0], [0.1, 0.2]])
    >>> q = mx(x)
    >>> q.scale.ravel(), q.decode(q.encode(x))
    (array([1.     , 0.03125]), array([[ 0.5   , -6.    ],
           [ 0.09375,  0.1875 ]]))
    """
    amax = _block_maxima(x, axis)
    exponent = np.where(amax > 0, rule(np.where(amax > 0, amax, 1), element), -127)
    # Through the code that would be stored: E8M0 clips to -127..127.
    scale = E8M0.decode(np.clip(exponent, -127, 127).astype(np.int32) + 127)
    return Block(scale.astype(amax.dtype), element)


def block_floating_point(x: Array, *, bits: int = 8, axis: Axis = -1) -> Block:
    r"""Block floating point: integers of `bits` bits that share one exponent.

    .. math:: X = 2^{\lfloor\log_2 \max|x|\rfloor}, \qquad
              p = q / 2^{m-2}, \quad q \in [-2^{m-1}, 2^{m-1} - 1]

    Values just below a power of two are clipped by less than one step.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite, not empty.
    bits : int
        m, the sign included, from 3 to 24.
    axis : int, tuple of int or None
        Axes of the elements of a block.

    Returns
    -------
    Block
        MXINT8 if `bits` is 8.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `bits` out of range.

    References
    ----------
    Wilkinson, "Rounding Errors in Algebraic Processes", 1963, section 1.25;
    Drumond et al., "Training DNNs with Hybrid Block Floating Point", 2018,
    arXiv:1804.01526, section 3.

    Examples
    --------
    >>> q = block_floating_point(np.array([0.3, -1.0, 1.7]), bits=4)
    >>> q.encode(np.array([0.3, -1.0, 1.7]))
    array([ 1, -4,  7], dtype=int32)
    """
    require_int("bits", bits, 3, 24)
    return mx(x, element=FixedPoint(bits, bits - 2), axis=axis)


def nvfp4(x: Array, *, axis: Axis = -1) -> Block:
    r"""NVFP4 quantizer of `x`: E2M1 elements, E4M3 scales, one float32 for the tensor.

    .. math:: s_T = \frac{\max|x|}{6 \cdot 448}, \qquad
              s_B = \mathrm{E4M3}\!\left(\frac{\max_B|x|}{6\, s_T}\right), \qquad
              q = \mathrm{E2M1}\!\left(\frac{x}{s_B s_T}\right)

    Parameters
    ----------
    x : ndarray of float, shape (..., groups, group)
        Finite, not empty; the format takes blocks of 16.
    axis : int, tuple of int or None
        Axes of the elements of a block.

    Returns
    -------
    Block
        Where a scale rounds down (by 1/17 at most), the largest element may clip.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    Notes
    -----
    A block of zeros gets scale 1, and a block so small that its scale would
    round to zero the smallest scale there is, 2**-9.

    References
    ----------
    NVIDIA, "Pretraining Large Language Models with NVFP4", 2025,
    arXiv:2509.25149, appendix C.

    Examples
    --------
    >>> q = nvfp4(np.array([[0.5, 1.0], [-4.0, 0.1]], np.float32))
    >>> q.scale.ravel(), round(q.tensor_scale * 2688, 6)
    (array([112., 448.], dtype=float32), 4.0)
    """
    amax = _block_maxima(x, axis)
    with np.errstate(over="ignore"):                    # of float64 data: `Block` refuses infinity
        tensor_scale = np.float32(amax.max() / (E2M1.max_value * E4M3FN.max_value))
    if tensor_scale < np.finfo(np.float32).smallest_normal:
        tensor_scale = np.float32(1.0)
    wanted = amax.astype(np.float64) / (E2M1.max_value * np.float64(tensor_scale))
    codes = np.maximum(E4M3FN.encode(wanted), 1)
    scale = np.where(amax > 0, E4M3FN.decode(codes), np.float32(1.0))
    return Block(scale.astype(amax.dtype), E2M1, tensor_scale=float(tensor_scale))


def _block_maxima(x: Array, axis: Axis) -> Array:
    return np.max(np.abs(as_data("x", x, axis=axis)), axis=axis, keepdims=True)


def _split(x: Array | float) -> tuple[Array, Array]:
    """Fraction in [1, 2) and exponent of positive numbers, from their bits."""
    fraction, exponent = np.frexp(x)
    return 2 * fraction, exponent - 1
