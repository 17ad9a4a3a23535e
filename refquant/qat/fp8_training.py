r"""Train in FP8: two formats of eight bits, one scale per tensor, and short sums.

==========================  ==========  ===========================================
tensor                      format      because
==========================  ==========  ===========================================
weights, activations        E4M3        the more precise one; up to 448
gradients                   E5M2        the wider one; up to 57344
sums of products            wider       see `chunked_sum` for what happens otherwise
==========================  ==========  ===========================================

A tensor is moved into the range of its format by a power of two, which is exact, and cast.
Values are simulated: float32 numbers that the format has.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Rounding
from refquant._validate import as_reals, require_int
from refquant.kernels.float_tables import decode_bytes, encode_bytes
from refquant.qat._common import Pullback
from refquant.quantizers.minifloat import E4M3FN, E5M2, Minifloat
from refquant.rounding import half_even

__all__ = ["FP16_WIDE", "AmaxHistory", "cast", "chunked_sum", "fp8_forward", "fp8_gradient",
           "tensor_scale"]

#: The 16 bits of Wang et al. to add up in: 6 for the exponent, 9 for the mantissa.
FP16_WIDE = Minifloat(6, 9, bias=31, largest=0x7DFF, infinity=0x7E00, nan=0x7F00)


class AmaxHistory(NamedTuple):
    """Largest magnitudes of the last steps: the scale is known before the tensor is.

    The current magnitude needs a pass over the tensor before the cast. The largest of the last
    few costs nothing, and is wrong when the tensor grows: then it saturates.

    Attributes
    ----------
    amaxes : tuple of float
        The last ones, newest last.
    length : int
        How many are kept.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3; NVIDIA Transformer Engine,
    "Using FP8", recipe ``DelayedScaling``.

    Examples
    --------
    >>> history = AmaxHistory((), length=2)
    >>> for amax in (3.0, 1.0, 2.0):
    ...     history = history.after(amax)
    >>> history.amaxes, history.largest
    ((1.0, 2.0), 2.0)
    """

    amaxes: tuple[float, ...] = ()
    length: int = 16

    def after(self, amax: float) -> "AmaxHistory":
        """The history with one more step.

        Parameters
        ----------
        amax : float

        Returns
        -------
        AmaxHistory
        """
        require_int("length", self.length, 1)
        return self._replace(amaxes=(*self.amaxes, float(amax))[-self.length :])

    @property
    def largest(self) -> float:
        """Largest magnitude remembered; 0 at the start."""
        return max(self.amaxes, default=0.0)


def tensor_scale(amax: float, number_format: Minifloat, *, margin: int = 0) -> float:
    r"""The power of two that brings a tensor next below the end of a format.

    .. math:: S = 2^{\lfloor \log_2 (x_{max} / \mathrm{amax}) \rfloor - m}

    Parameters
    ----------
    amax : float, >= 0
        Largest magnitude; 0 gets scale 1, like an infinity or NaN.
    number_format : Minifloat
    margin : int
        m, in binades, for tensors that may grow.

    Returns
    -------
    float
        To multiply the tensor with before the cast.

    Notes
    -----
    Transformer Engine takes the quotient itself. A float is as precise in one binade as in the
    next, so the quotient gains nothing but up to one binade of range at the small end, and its
    own roundings are added to that of the cast; a power of two adds none.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3.

    Examples
    --------
    >>> tensor_scale(3.0, E4M3FN), tensor_scale(3.0, E4M3FN, margin=1)
    (128.0, 64.0)
    """
    if not 0 < amax < np.inf:
        return 1.0
    # floor(log2) from the bits: a quotient rounded up to a power of two would be one too high.
    mantissa, exponent = np.frexp(number_format.max_value)
    own, own_exponent = np.frexp(amax)
    power = int(exponent) - int(own_exponent) - (1 if own > mantissa else 0) - margin
    return float(np.ldexp(1.0, min(max(power, -120), 120)))         # within float32


def cast(
    x: Array, number_format: Minifloat, *, scale: float = 1.0, rounding: Rounding = half_even
) -> Array:
    r"""Each element as the format holds it after scaling; too large ones saturate.

    .. math:: \hat x = \mathrm{format}(S x) / S

    Parameters
    ----------
    x : ndarray of float
    number_format : Minifloat
    scale : float
        S.
    rounding : callable, ndarray -> ndarray
        Stochastic for the sums of an optimizer.

    Returns
    -------
    ndarray, shape and dtype of `x`
        NaN and infinities stay, so that whoever looks for them finds them.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3; OCP 8-bit Floating Point
    Specification 1.0, 2023, section 5.2 (saturation).

    Examples
    --------
    >>> cast(np.array([0.3, 500.0, 1e-4]), E4M3FN)
    array([3.125e-01, 4.480e+02, 0.000e+00])
    >>> float(cast(np.array(1e-4), E4M3FN, scale=2.0**10).round(6))
    9.9e-05
    """
    scaled = np.asarray(x * x.dtype.type(scale))
    finite = np.isfinite(scaled)
    inside = np.where(finite, scaled, scaled.dtype.type(0))
    if rounding is half_even and number_format.code_bits <= 8 and inside.dtype == np.float32:
        values = decode_bytes(encode_bytes(inside, number_format), number_format)
    else:
        values = number_format.decode(number_format.encode(inside, rounding=rounding))
    return np.where(finite, values.astype(x.dtype) / x.dtype.type(scale), x)


def fp8_forward(
    x: Array, *, number_format: Minifloat = E4M3FN, scale: float | None = None
) -> tuple[Array, Pullback]:
    """A weight or an activation as FP8 holds it; the gradient passes.

    Parameters
    ----------
    x : ndarray of float
    number_format : Minifloat
    scale : float, optional
        By default the `tensor_scale` of `x` itself; that of an `AmaxHistory` is the other way.

    Returns
    -------
    value : ndarray, shape and dtype of `x`
    pullback : callable
        Gradient of `x`, unchanged: the cast is straight-through.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3.

    Examples
    --------
    >>> fp8_forward(np.array([1.0, 1.06, -0.3]))[0]
    array([ 1.    ,  1.    , -0.3125])
    """
    return _rescaled(as_reals("x", x), number_format, scale), lambda g: (g,)


def fp8_gradient(
    x: Array, *, number_format: Minifloat = E5M2, scale: float | None = None
) -> tuple[Array, Pullback]:
    """`x` as it is; its gradient as FP8 holds it.

    Behind a layer, this is the gradient that both products of the way back read.

    Parameters
    ----------
    x : ndarray of float
    number_format : Minifloat
    scale : float, optional
        By default the `tensor_scale` of the gradient itself.

    Returns
    -------
    value : ndarray
        `x`.
    pullback : callable
        Gradient of `x`, cast.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3.

    Examples
    --------
    >>> _, pullback = fp8_gradient(np.zeros(3))
    >>> pullback(np.array([1e-7, 1.1e-7, 5e-12]))[0]
    array([1.04308128e-07, 1.04308128e-07, 4.54747351e-12])
    """
    return as_reals("x", x), lambda g: (_rescaled(g, number_format, scale),)


def chunked_sum(
    x: Array, *, cast: Callable[[Array], Array], chunk: int | None = None
) -> Array:
    r"""Sum over the last axis by an adder that holds few bits: in order, or chunk by chunk.

    A sum of N positive terms outgrows its own terms: once it is :math:`2^{t+1}` times a term,
    with t bits of mantissa, the term is half a step of the sum and is lost. In chunks of
    length C no sum is ever more than C, or N / C, of its terms:

    .. math:: \text{error} = O(N 2^{-t}) \;\rightarrow\;
              O\bigl((C + N / C)\, 2^{-t}\bigr), \quad \text{least at } C = \sqrt N .

    Parameters
    ----------
    x : ndarray of float, shape (..., n)
    cast : callable, ndarray -> ndarray
        What the adder keeps of each sum, for example ``partial(cast, number_format=FP16_WIDE)``.
    chunk : int, optional
        C; one chunk, the plain sum, by default.

    Returns
    -------
    ndarray, shape (...)

    Raises
    ------
    ValueError
        If `chunk` is below 1.

    References
    ----------
    Wang et al., "Training Deep Neural Networks with 8-bit Floating Point Numbers", 2018,
    arXiv:1812.08011, section 2.2 and figure 3.

    Examples
    --------
    >>> half = lambda x: x.astype(np.float16).astype(np.float64)
    >>> ones = np.full(4096, 1.0)
    >>> float(chunked_sum(ones, cast=half)), float(chunked_sum(ones, cast=half, chunk=64))
    (2048.0, 4096.0)
    """
    n = x.shape[-1]
    chunk = require_int("chunk", max(n, 1) if chunk is None else chunk, 1)
    pieces = -(-n // chunk)
    filled = np.zeros((*x.shape[:-1], pieces * chunk), x.dtype)
    filled[..., :n] = x
    filled = filled.reshape(*x.shape[:-1], pieces, chunk)
    # All chunks advance together: adding zero, which fills the last one, changes nothing.
    return _in_order(_in_order(filled, cast), cast)


def _in_order(x: Array, cast: Callable[[Array], Array]) -> Array:
    total = np.zeros(x.shape[:-1], x.dtype)
    for i in range(x.shape[-1]):
        total = cast(total + x[..., i])
    return total


def _rescaled(x: Array, number_format: Minifloat, scale: float | None) -> Array:
    if scale is None:
        scale = tensor_scale(float(np.max(np.abs(x), initial=0)), number_format)
    return cast(x, number_format, scale=scale)
