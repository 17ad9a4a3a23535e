r"""NormalFloat: levels at quantiles of the normal density, scaled to the largest of a block.

.. math:: x \approx a\, X_q, \qquad a = \max_{\text{block}} |x|

Weights are nearly normal; so levels at equally many values each waste no code. NF4
is the table that QLoRA made of this idea: 16 levels between -1 and 1, with -1, 0
and 1 among them, one `a` for 64 weights. There are two tables under this name:

=====================  ====================================================
`bitsandbytes_nf4`     float32 constants, and float32 thresholds of their own
`torchao_nf4`          the same with four decimals
=====================  ====================================================

and `normal_float_levels` says where they come from.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from refquant._types import Array, Axis, Codes
from refquant._validate import (
    as_data,
    as_reals,
    require_broadcastable,
    require_int,
    require_no_nan,
    require_positive,
)
from refquant.granularity import as_rows
from refquant.quantizer import Quantizer
from refquant.quantizers._points import to_unit
from refquant.quantizers._scale import usable
from refquant.quantizers.codebook import Codebook, nearest
from refquant.quantizers.uniform import asymmetric
from refquant.rounding import ceil

__all__ = [
    "NormalFloat",
    "bitsandbytes_nf4",
    "block_absmax",
    "double_quantized",
    "normal_float_levels",
    "quantile",
    "torchao_nf4",
]


@dataclass(frozen=True, eq=False)
class NormalFloat:
    """Code q of a block stands for ``scale * levels[q]``.

    Attributes
    ----------
    scale : ndarray of float, broadcastable to the data, > 0
        The largest magnitude of each block.
    codebook : Codebook
        One for all blocks; with levels on [-1, 1].
    scale_quantizer : Quantizer, optional
        In whose codes the scales are stored; full reals without.

    Raises
    ------
    ValueError
        If a scale is not positive and finite, or the codebook has further axes.
    TypeError
        If `scale` is not float.

    References
    ----------
    Dettmers et al., "QLoRA", 2023, arXiv:2305.14314, section 3.

    Examples
    --------
    >>> q = NormalFloat(np.array(2.0), torchao_nf4())
    >>> q.encode(np.array([-9.0, 0.0, 0.3, 2.0]))
    array([ 0,  7,  9, 15], dtype=int32)
    >>> q.decode(np.array([0, 7, 9, 15])).round(4)
    array([-2.    ,  0.    ,  0.3218,  2.    ])
    """

    scale: Array
    codebook: Codebook
    scale_quantizer: Quantizer | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_reals("scale", self.scale))
        require_positive("scale", self.scale)
        if self.codebook.levels.ndim != 1:
            shape = self.codebook.levels.shape
            raise ValueError(f"`codebook` must be one for all data; got levels of shape {shape}")

    def encode(self, x: Array) -> Codes:
        """Code of each element, in the codebook, after division by its scale.

        Parameters
        ----------
        x : ndarray of float, any shape that `scale` broadcasts to

        Returns
        -------
        ndarray of int32, shape of `x`
        """
        x = as_reals("x", x)
        require_broadcastable("scale", self.scale, x.shape)
        require_no_nan("x", x)
        with np.errstate(over="ignore"):        # an infinite ratio takes an end level
            return self.codebook.encode(x / self.scale)

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, any shape that `scale` broadcasts to

        Returns
        -------
        ndarray of float, dtype of `scale`, shape of `codes`
        """
        levels = self.codebook.decode(codes)
        require_broadcastable("scale", self.scale, levels.shape)
        with np.errstate(over="ignore"):        # levels beyond 1 may leave the dtype
            return (self.scale * levels).astype(self.scale.dtype, copy=False)

    @property
    def code_bits(self) -> int:
        """Bits of a code of the codebook."""
        return self.codebook.code_bits

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the scales, as they are stored; the table is part of the format."""
        stored = self.scale_quantizer
        if stored is None:
            return self.scale.size * float_bits
        bits = self.scale.size * stored.code_bits + stored.parameter_bits(float_bits=float_bits)
        return int(bits)


def block_absmax(x: Array, *, axis: Axis = -1, codebook: Codebook | None = None) -> NormalFloat:
    """Quantizer whose blocks are scaled to their largest magnitude.

    Parameters
    ----------
    x : ndarray of float, not empty, finite
        Grouped before, e.g. ``group(weight, 64)``.
    axis : int or tuple of int, optional
        Axes of a block (reduced over, kept as size 1).
    codebook : Codebook, optional
        `bitsandbytes_nf4` by default.

    Returns
    -------
    NormalFloat
        A block of zeros, or subnormal numbers, gets scale 1.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Dettmers et al., 2023, arXiv:2305.14314, eqs. (1) and (2).

    Examples
    --------
    >>> q = block_absmax(np.array([[0.5, -2.0], [0.0, 0.0]]))
    >>> q.scale
    array([[2.],
           [1.]])
    """
    x = as_data("x", x, axis=axis)
    scale = np.max(np.abs(x), axis=axis, keepdims=True)
    return NormalFloat(usable(scale, x.dtype),
                       bitsandbytes_nf4() if codebook is None else codebook)


def double_quantized(quantizer: NormalFloat, *, group_size: int = 256) -> NormalFloat:
    r"""The same quantizer with its scales stored in 8 bits.

    .. math:: 4 + \frac{8}{64} + \frac{32}{64 \cdot 256} = 4.127 \text{ bits a weight,
              instead of } 4 + \frac{32}{64} = 4.5

    Parameters
    ----------
    quantizer : NormalFloat
    group_size : int
        Scales, in C order, that share a real number; must divide their number.

    Returns
    -------
    NormalFloat
        With scales at least as large as before (but for a rounding error), so that
        no extreme is cut, and larger by at most 1/255 of the largest of their group.

    Raises
    ------
    ValueError
        If `group_size` does not divide the number of scales.

    Notes
    -----
    The paper subtracts the mean of the scales and stores 8-bit floats. Here they are
    8-bit integers from 0, rounded up: a scale is never 0 then.

    References
    ----------
    Dettmers et al., 2023, arXiv:2305.14314, section 3 (double quantization).

    Examples
    --------
    >>> from refquant.quantizer import bits_per_element
    >>> x = np.random.default_rng(0).normal(size=(256, 64))
    >>> q = block_absmax(x)
    >>> bits_per_element(q, x.shape), bits_per_element(double_quantized(q), x.shape)
    (4.5, 4.126953125)
    """
    require_int("group_size", group_size, 1)
    if quantizer.scale.size % group_size:
        raise ValueError(
            f"`group_size` must divide {quantizer.scale.size} scales; got {group_size}"
        )
    groups = quantizer.scale.reshape(-1, group_size)
    largest = groups.max(axis=1, keepdims=True)
    stored = asymmetric(np.zeros_like(largest), largest, bits=8)
    scale = stored.decode(stored.encode(groups, rounding=ceil))
    return NormalFloat(scale.reshape(quantizer.scale.shape), quantizer.codebook, stored)


def normal_float_levels(bits: int = 4) -> Array:
    r"""Levels of NormalFloat, from quantiles of the normal density.

    With :math:`n = 2^b` and :math:`\delta = 1 - \frac12 \big( \frac{1}{2n} +
    \frac{1}{2(n - 1)} \big)`: n/2 positive levels at

    .. math:: \Phi^{-1}(u), \qquad u = \delta, \dots, \tfrac12
              \text{ in } n / 2 \text{ steps, without the last,}

    n/2 - 1 negative ones in the same way, zero, and all divided by the largest.

    Parameters
    ----------
    bits : int
        b, from 2 to 8.

    Returns
    -------
    ndarray of float64, shape (2**bits,), ascending
        With -1, 0 and 1 among them.

    Raises
    ------
    ValueError
        If `bits` is out of range.

    Notes
    -----
    This is what the shipped table was computed by, in float32. Equation (4) of the
    paper is another rule, with an infinite first level; and the cells do not have
    equal mass, but 0.89 to 1.14 sixteenths.

    References
    ----------
    Dettmers et al., 2023, arXiv:2305.14314, appendix E; bitsandbytes,
    ``create_normal_map``.

    Examples
    --------
    >>> normal_float_levels().round(4)[[0, 1, 7, 8, 15]]
    array([-1.    , -0.6962,  0.    ,  0.0796,  1.    ])
    """
    require_int("bits", bits, 2, 8)
    n = 2**bits
    end = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2
    positive = ndtri(np.linspace(end, 0.5, n // 2 + 1)[:-1])
    negative = -ndtri(np.linspace(end, 0.5, n // 2)[:-1])
    return np.concatenate([negative, [0.0], positive[::-1]]) / ndtri(end)


def bitsandbytes_nf4() -> Codebook:
    """NF4 as bitsandbytes ships it: levels and thresholds in float32.

    Returns
    -------
    Codebook
        Its thresholds are constants too, within a rounding error of the midpoints
        of the levels, and a value equal to one goes down.

    References
    ----------
    bitsandbytes, ``csrc/kernels.cu``: ``dDequantizeNF4``, ``dQuantizeNF4``.

    Examples
    --------
    >>> bitsandbytes_nf4().levels[:3]
    array([-1.        , -0.6961928 , -0.52507305], dtype=float32)
    """
    levels = [
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
        -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
        0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
        0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ]
    thresholds = [
        -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544,
        -0.23460740596055984, -0.13791173323988914, -0.045525018125772476, 0.03979014977812767,
        0.1202552504837513, 0.2035212516784668, 0.2920137718319893, 0.3893125355243683,
        0.5016634166240692, 0.6427869200706482, 0.8614784181118011,
    ]
    return Codebook(np.array(levels, np.float32), np.array(thresholds, np.float32))


def torchao_nf4() -> Codebook:
    """NF4 as torchao ships it: levels of four decimals.

    Returns
    -------
    Codebook
        With the nearest level for each value.

    References
    ----------
    torchao 0.18, ``torchao/dtypes/nf4tensor.py``: the table of NF4.

    Examples
    --------
    >>> np.abs(torchao_nf4().levels - bitsandbytes_nf4().levels).max() < 5.1e-5
    np.True_
    """
    levels = [
        -1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0,
        0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0,
    ]
    return nearest(np.array(levels, np.float32))


def quantile(x: Array, k: int, *, axis: Axis = None) -> Codebook:
    r"""Codebook whose codes are equally frequent on the data.

    .. math:: \Delta_i = F^{-1}\!\Big(\frac{i + 1}{k}\Big), \qquad
              X_i = F^{-1}\!\Big(\frac{i + 1/2}{k}\Big)

    Each code carries log2 k bits of information, the most it can; the squared error
    is not the least, since rare large values share few levels.

    Parameters
    ----------
    x : ndarray of float, not empty, finite
    k : int
        Number of levels, at least 1.
    axis : int or tuple of int, optional
        Axes that share a codebook (reduced over, kept as size 1); all by default,
        which gives levels of shape ``(k,)``.

    Returns
    -------
    Codebook
        Thresholds at quantiles, levels at the medians of the cells, in the dtype
        of `x`.

    Raises
    ------
    ValueError
        If `x` is empty or not finite, or `k` is below 1.

    References
    ----------
    Dettmers et al., "8-bit Optimizers via Block-wise Quantization", 2021,
    arXiv:2110.02861, section 2.1 (quantile quantization).

    Examples
    --------
    >>> q = quantile(np.arange(8.0), 4)
    >>> q.levels, np.bincount(q.encode(np.arange(8.0)))
    (array([0.875, 2.625, 4.375, 6.125]), array([2, 2, 2, 2]))
    """
    require_int("k", k, 1)
    x = as_data("x", x)
    rows, shape = as_rows(x, axis=axis)
    at = np.arange(1, 2 * k) / (2 * k)          # level, threshold, level, ...
    unit, exponent = to_unit(rows.astype(np.float64))       # whose differences do not overflow
    values = np.ldexp(np.quantile(unit, at, axis=1), exponent)
    values = values.reshape(-1) if axis is None else values.reshape(2 * k - 1, *shape)
    return Codebook(values[::2].astype(x.dtype), values[1::2])
