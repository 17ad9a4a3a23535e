r"""Powers of two as levels: a multiplication becomes a shift.

.. math:: \hat x \in \{0, \pm 2^{E}, \pm 2^{E-1}, \dots\}
          \qquad\text{or sums of a few of them (APoT)}

The relative step is the same everywhere, so the levels crowd around zero, where
the weights are; and the largest gap is at the top, however many bits there are.
Which power is "nearest" has two readings:

==================  ==========================  =================================
fit                 goes up to 2^(k+1) at       relative error
==================  ==========================  =================================
``log_nearest``     sqrt(2) 2^k                 up to 41 %: rounds the logarithm
``linear_nearest``  3/2 2^k                     up to 33 %: the nearest value
==================  ==========================  =================================

`apot` fills the gap with sums of two or more powers.
"""

from dataclasses import dataclass

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import (
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_int,
    require_no_nan,
    require_positive,
)
from refquant.quantizers.codebook import Codebook, nearest

__all__ = ["PowerOfTwo", "apot", "apot_levels", "linear_nearest", "log_nearest"]


@dataclass(frozen=True, eq=False)
class PowerOfTwo:
    r"""Code q stands for ``sign(q) * largest * 2**(|q| - n)``, and 0 for zero.

    .. math:: \hat x = \mathrm{sign}(q)\, 2^{E - n + |q|}, \qquad
              |q| \le n = 2^{b-1} - 1

    Attributes
    ----------
    largest : ndarray of float, broadcastable to the data, powers of two
        The largest level, :math:`2^E`.
    bits : int
        b, with the sign: from 2 to 8.
    logarithmic : bool
        Round the logarithm; otherwise to the nearest value.

    Raises
    ------
    ValueError
        If `largest` is not a power of two, its smallest level is not a normal
        number, or `bits` is out of range.

    Notes
    -----
    A magnitude goes up to the next power at :math:`\sqrt 2` times a power, or above
    3/2 times it (a tie goes towards zero, so that negating the data negates the
    codes). Below the smallest level the same two rules decide about zero: the log
    reading has a power there that means zero, the linear one the value zero itself.

    References
    ----------
    Miyashita et al., 2016, arXiv:1603.01025, eq. (3). There ``max - 1`` is E and
    b counts magnitude bits; as printed its Clip gives 0 in the *log* domain,
    that is 1, for tiny values: read "the code of zero".

    Examples
    --------
    >>> q = PowerOfTwo(np.array(1.0), bits=3)
    >>> q.decode(np.arange(-3, 4))
    array([-1.  , -0.5 , -0.25,  0.  ,  0.25,  0.5 ,  1.  ])
    >>> q.encode(np.array([0.74, 0.76, -9.0, 0.1]))
    array([ 2,  3, -3,  0], dtype=int32)
    """

    largest: Array
    bits: int
    logarithmic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "largest", as_reals("largest", self.largest))
        require_positive("largest", self.largest)
        object.__setattr__(self, "bits", require_int("bits", self.bits, 2, 8))
        mantissa, _ = np.frexp(self.largest)
        if (mantissa != 0.5).any():
            bad = self.largest[mantissa != 0.5].flat[0]
            raise ValueError(f"`largest` must be a power of two; got {bad}")
        lowest = np.ldexp(self.largest, 1 - self._count)
        if (lowest < np.finfo(self.largest.dtype).smallest_normal).any():
            raise ValueError(
                f"`largest` must leave the smallest level a normal number; got {lowest.min()}"
            )

    def encode(self, x: Array) -> Codes:
        """Code of each element; magnitudes above the largest level saturate.

        Parameters
        ----------
        x : ndarray of float, any shape that `largest` broadcasts to

        Returns
        -------
        ndarray of int32, shape of `x`, from ``-n`` to n

        Notes
        -----
        `frexp` splits a float exactly; ``floor(log2(x))`` is wrong just below most
        powers of two.
        """
        x = as_reals("x", x)
        require_broadcastable("largest", self.largest, x.shape)
        require_no_nan("x", x)
        # |x| = f 2^e with 1/2 <= f < 1; sqrt(1/2) of float64 is above the true one by
        # less than any float64 or float32 could tell.
        fraction, exponent = np.frexp(np.abs(x))
        up = fraction >= np.float64(0.5) ** 0.5 if self.logarithmic else fraction > 0.75
        lowest = np.ldexp(self.largest, 1 - self._count)
        magnitude = exponent + up - np.frexp(lowest)[1] + 1
        if not self.logarithmic:                # halfway between zero and the lowest level
            magnitude = np.maximum(magnitude, np.abs(x) > lowest / 2)
        magnitude = np.where(np.isinf(x), self._count, np.where(x == 0, 0, magnitude))
        magnitude = np.clip(magnitude, 0, self._count)
        return np.where(x < 0, -magnitude, magnitude).astype(np.int32)

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, from ``-n`` to n

        Returns
        -------
        ndarray of float, dtype of `largest`, shape of `codes`
        """
        codes = require_codes("codes", codes, -self._count, self._count)
        require_broadcastable("largest", self.largest, codes.shape)
        # int32 first: codes without a sign would wrap around.
        shift = np.abs(codes.astype(np.int32)) - self._count
        return np.sign(codes).astype(self.largest.dtype) * np.ldexp(self.largest, shift)

    @property
    def code_bits(self) -> int:
        """The sign and the exponent."""
        return self.bits

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """An exponent of 8 bits for each largest level, whatever `float_bits` says."""
        return self.largest.size * 8

    @property
    def _count(self) -> int:
        """Positive levels."""
        return 2 ** (self.bits - 1) - 1


def log_nearest(bound: Array, *, bits: int) -> PowerOfTwo:
    r"""Power-of-two levels; the logarithm of a value is rounded.

    .. math:: q = \mathrm{clip}(\lfloor \log_2 |x| \rceil)
              \iff 2^k \text{ covers } [2^{k - 1/2},\, 2^{k + 1/2})

    Parameters
    ----------
    bound : ndarray of float, broadcastable to the data, >= 0
        The largest magnitude; the largest level is the power nearest to it.
    bits : int
        With the sign, from 2 to 8.

    Returns
    -------
    PowerOfTwo

    Raises
    ------
    ValueError
        If `bound` is negative or not finite, or `bits` is out of range.

    References
    ----------
    Miyashita et al., 2016, arXiv:1603.01025, section 3.2.

    Examples
    --------
    >>> q = log_nearest(np.array(1.0), bits=4)
    >>> q.decode(q.encode(np.array([0.36, 0.35])))
    array([0.5 , 0.25])
    """
    return PowerOfTwo(_power(bound, 0.5**0.5), bits, logarithmic=True)


def linear_nearest(bound: Array, *, bits: int) -> PowerOfTwo:
    r"""Power-of-two levels; a value takes the nearest of them.

    .. math:: 2^k \text{ covers } (\tfrac34 2^k,\, \tfrac32 2^k]

    Parameters
    ----------
    bound : ndarray of float, broadcastable to the data, >= 0
        The largest magnitude; the largest level is the power nearest to it.
    bits : int
        With the sign, from 2 to 8.

    Returns
    -------
    PowerOfTwo
        Its squared error is the least of all with these levels.

    Raises
    ------
    ValueError
        If `bound` is negative or not finite, or `bits` is out of range.

    References
    ----------
    Zhou et al., "Incremental Network Quantization", 2017, arXiv:1702.03044,
    eq. (4).

    Examples
    --------
    >>> q = linear_nearest(np.array(1.0), bits=4)
    >>> q.decode(q.encode(np.array([0.38, 0.375])))
    array([0.5 , 0.25])
    """
    return PowerOfTwo(_power(bound, 0.75), bits)


def apot_levels(bits: int) -> Array:
    r"""Additive powers of two between 0 and 1: sums of one choice from each set.

    With n = bits / 2 sets,

    .. math:: \gamma \sum_{i=0}^{n-1} p_i, \qquad
              p_i \in \{0,\; 2^{-i},\; 2^{-(i+n)},\; 2^{-(i+2n)}\}

    and gamma such that the largest is 1.

    Parameters
    ----------
    bits : int
        Of the magnitude: 1, 2, 3, 4, 5, 6 or 8.

    Returns
    -------
    ndarray of float64, shape (2**bits,), ascending from 0 to 1

    Raises
    ------
    ValueError
        If there are no levels for so many bits.

    Notes
    -----
    The formula has no odd widths. For 3 and 5 bits these are the sets of the
    authors' code, which keeps levels in the order of a Python set; sorted here.

    References
    ----------
    Li et al., "Additive Powers-of-Two Quantization", 2020, arXiv:1909.13144,
    eq. (6).

    Examples
    --------
    >>> apot_levels(2)
    array([0.  , 0.25, 0.5 , 1.  ])
    >>> (48 * apot_levels(4)).astype(int)
    array([ 0,  1,  2,  3,  4,  6,  8,  9, 12, 16, 18, 24, 32, 33, 36, 48])
    """
    require_int("bits", bits, 1, 8)
    if bits == 7:
        raise ValueError("`bits` must be 1 to 6 or 8: no sets are defined for 7; got 7")
    n = bits // 2
    exponents = {1: [[0]], 3: [[1, 2, 4], [3]], 5: [[1, 3, 6], [2, 4, 7], [5]]}.get(
        bits, [[i, i + n, i + 2 * n] for i in range(n)]
    )
    sums = np.zeros(1)
    for choices in exponents:
        powers = np.array([0.0, *(2.0**-e for e in choices)])
        sums = np.add.outer(sums, powers).ravel()   # of few powers: exact
    levels = np.unique(sums)
    return levels / levels[-1]


def apot(bound: Array, *, bits: int, signed: bool = True) -> Codebook:
    """Codebook of additive powers of two up to `bound`.

    Parameters
    ----------
    bound : ndarray of float, >= 0
        The largest level: a scalar, or of the rank of the data and broadcastable
        to it. A zero bound gets 1.
    bits : int
        Of a code. A sign takes one of them: 2 to 7, or 9, if `signed`; otherwise as
        in `apot_levels`.
    signed : bool
        Levels of both signs, ``2**bits - 1`` of them: zero is there once.

    Returns
    -------
    Codebook
        Levels in the dtype of `bound`, for weights if `signed`, for activations
        after ReLU otherwise.

    Raises
    ------
    ValueError
        If `bound` is negative or not finite, or there are no levels for `bits`.

    Notes
    -----
    The paper first divides weights by their standard deviation, and learns the
    bound from 3 (weights) or 6 (activations) on.

    References
    ----------
    Li et al., 2020, arXiv:1909.13144, eqs. (6) and (7).

    Examples
    --------
    >>> apot(np.array(4.0), bits=3).levels
    array([-4., -2., -1.,  0.,  1.,  2.,  4.])
    """
    bound = _bound(bound)
    levels = apot_levels(bits - signed)
    if signed:
        levels = np.concatenate([-levels[:0:-1], levels])
    bound = np.where(bound > 0, bound, np.ones_like(bound))
    return nearest((levels.reshape(-1, *(1,) * bound.ndim) * bound).astype(bound.dtype))


def _power(bound: Array, up_from: float) -> Array:
    """The power of two for each bound, a tie going up, as far as there are any; 1 for zero."""
    bound = _bound(bound)
    fraction, exponent = np.frexp(bound)
    exponent = np.minimum(exponent - (fraction < np.float64(up_from)),
                          np.finfo(bound.dtype).maxexp - 1)
    power = np.ldexp(np.ones_like(bound), exponent)
    return np.where(bound > 0, power, np.ones_like(power))


def _bound(bound: Array) -> Array:
    bound = as_reals("bound", bound)
    require_finite("bound", bound)
    if (bound < 0).any():
        raise ValueError(f"`bound` must not be negative; got {bound.min()}")
    return bound
