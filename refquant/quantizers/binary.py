r"""Binary quantization: one bit a weight, the sign, times a scale.

XNOR-Net keeps the least-squares scale :math:`\alpha = \overline{|w|}`;
BinaryConnect is the same record with scale 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from refquant._types import Array, Axis, Codes
from refquant._validate import (
    as_data,
    as_reals,
    require_broadcastable,
    require_codes,
    require_finite,
    require_no_nan,
)
from refquant.quantizers._scale import mean_of

__all__ = ["Binary", "sign", "xnor"]


def sign(x: Array) -> Array:
    """Plus or minus one; zero, of either sign, counts as plus, and NaN as minus.

    Parameters
    ----------
    x : ndarray of float, any shape

    Returns
    -------
    ndarray
        -1 and +1 in the shape and dtype of `x`.

    References
    ----------
    Courbariaux et al., "BinaryConnect", 2015, arXiv:1511.00363, eq. (1).

    Examples
    --------
    >>> sign(np.array([-2.0, -0.0, 0.0, 3.0]))
    array([-1.,  1.,  1.,  1.])
    """
    ones = np.ones_like(x)
    return np.where(x >= 0, ones, -ones)


@dataclass(frozen=True, eq=False)
class Binary:
    r"""Code 1 stands for ``+scale``, code 0 for ``-scale``.

    Attributes
    ----------
    scale : ndarray of float, broadcastable to the data, >= 0
        The factor alpha, in units of the data; 0 only for data that are all zero.

    Raises
    ------
    ValueError
        If a scale is negative or not finite.

    References
    ----------
    Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, eq. (1).

    Examples
    --------
    >>> q = Binary(np.array(0.5))
    >>> q.encode(np.array([-3.0, 0.0, 0.1]))
    array([0, 1, 1], dtype=int32)
    >>> q.decode(np.array([0, 1]))
    array([-0.5,  0.5])
    """

    scale: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", as_reals("scale", self.scale))
        require_finite("scale", self.scale)
        if (self.scale < 0).any():
            raise ValueError(f"`scale` must not be negative; got {self.scale.min()}")

    def encode(self, x: Array, *, sign: Callable[[Array], Array] = sign) -> Codes:
        """Code of each element: 1 where its sign is plus.

        Parameters
        ----------
        x : ndarray of float, any shape that `scale` broadcasts to
        sign : callable, ndarray -> ndarray of -1 and +1
            Deterministic by default; ``partial(stochastic_sign, rng=rng)`` of
            `refquant.rounding` draws it.

        Returns
        -------
        ndarray of int32, shape of `x`
        """
        x = as_reals("x", x)
        require_broadcastable("scale", self.scale, x.shape)
        require_no_nan("x", x)
        return (sign(x) > 0).astype(np.int32)

    def decode(self, codes: Array) -> Array:
        """Real value of each code.

        Parameters
        ----------
        codes : ndarray of int, 0 or 1

        Returns
        -------
        ndarray of float, dtype of `scale`, shape of `codes`
        """
        codes = require_codes("codes", codes, 0, 1)
        require_broadcastable("scale", self.scale, codes.shape)
        return np.where(codes == 1, self.scale, -self.scale)

    @property
    def code_bits(self) -> int:
        """One bit."""
        return 1

    def parameter_bits(self, *, float_bits: int = 32) -> int:
        """Bits of the scales."""
        return self.scale.size * float_bits


def xnor(x: Array, *, axis: Axis = None) -> Binary:
    r"""Signs and the one scale that fits them best.

    .. math:: \min_{\alpha, b \in \{\pm1\}^n} \|w - \alpha b\|^2
              \quad\Rightarrow\quad b = \mathrm{sign}(w),\;
              \alpha = \overline{|w|},\; \mathrm{SSE} = \|w\|^2 - n \alpha^2

    Parameters
    ----------
    x : ndarray of float, not empty
        The weights w.
    axis : int or tuple of int, optional
        Axes that share a scale (reduced over, kept as size 1); all by default.

    Returns
    -------
    Binary
        Scale 0 for data that are all zero.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Rastegari et al., "XNOR-Net", 2016, arXiv:1603.05279, eqs. (2)-(6).

    Examples
    --------
    >>> w = np.array([[1.0, -3.0], [0.5, 0.5]])
    >>> xnor(w, axis=1).scale
    array([[2. ],
           [0.5]])
    """
    x = as_data("x", x, axis=axis)
    return Binary(mean_of(np.abs(x), axis=axis).astype(x.dtype))
