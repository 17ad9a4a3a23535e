"""What every quantizer can do: encode values to codes, decode codes to values.

A quantizer is a frozen record of its parameters. Whatever turns data into one
is a *fit*; whatever decides which code a value takes is a *method*; both are
plain functions.
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeAlias

from refquant._types import Array, Codes
from refquant._validate import require_int

__all__ = ["Fit", "Quantizer", "bits_per_element", "fake_quantize"]


class Quantizer(Protocol):
    """The levels and their places.

    Laws, tested for every quantizer: ``encode`` keeps the shape and returns
    int32 codes; ``encode(decode(c))`` is c; ``encode`` picks a nearest level and
    is monotone; no argument is changed; NaN raises `ValueError`, infinities
    saturate, an empty array stays empty.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eqs. (2), (3) and (5).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import symmetric
    >>> q = symmetric(np.array(1.0), bits=3)
    >>> q.encode(np.array([-1.0, 0.1, 9.0]))
    array([-3,  0,  3], dtype=int32)
    """

    def encode(self, x: Array, /) -> Codes:
        """Code of each element of `x`; values out of range saturate."""

    def decode(self, codes: Array, /) -> Array:
        """Real value that each code stands for."""

    @property
    def code_bits(self) -> float:
        """Bits that one code takes, e.g. 4, or 1.6 for five trits in a byte."""

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of all parameters together, reals stored in `float_bits` bits each."""


#: How a quantizer is chosen from data.
Fit: TypeAlias = Callable[[Array], Quantizer]


def fake_quantize(x: Array, quantizer: Quantizer) -> Array:
    r"""The value that each element has after a round trip through its code.

    .. math:: \hat x = \mathrm{decode}(\mathrm{encode}(x))

    This is the papers' :math:`Q(r)`, "simulated quantization".
    `refquant.kernels.elementwise` has a fast twin for `Uniform`.

    Parameters
    ----------
    x : ndarray of float
    quantizer : Quantizer

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3; Gholami et al., 2021,
    arXiv:2103.13630, eqs. (2) and (3).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import symmetric
    >>> fake_quantize(np.array([-1.0, 0.1, 9.0]), symmetric(np.array(1.5), bits=3))
    array([-1. ,  0. ,  1.5])
    """
    return quantizer.decode(quantizer.encode(x)).astype(x.dtype, copy=False)


def bits_per_element(
    quantizer: Quantizer, shape: tuple[int, ...], *, float_bits: int = 32
) -> float:
    """Storage that one element costs, the parameters included.

    .. math:: b + (b_S + b_Z) / g

    for b-bit codes in groups of g that share a scale of :math:`b_S` bits and a
    zero point of :math:`b_Z` bits.

    Parameters
    ----------
    quantizer : Quantizer
    shape : tuple of int
        Shape of the data, at least one element.
    float_bits : int
        Bits that one real parameter takes in storage: 32, 16 or 8 in practice.

    Returns
    -------
    float
        In bits.

    Raises
    ------
    ValueError
        If `shape` holds no element.

    References
    ----------
    Dettmers and Zettlemoyer, 2023, arXiv:2212.09720, section 2 (bits of blocks).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import asymmetric
    >>> low, high = -np.ones((8, 1, 1)), np.ones((8, 1, 1))
    >>> bits_per_element(asymmetric(low, high, bits=4), (8, 1, 128), float_bits=16)
    4.15625
    """
    require_int("float_bits", float_bits, 1)
    size = math.prod(shape)
    if size == 0:
        raise ValueError(f"`shape` must hold at least one element; got {shape}")
    return quantizer.code_bits + quantizer.parameter_bits(float_bits=float_bits) / size
