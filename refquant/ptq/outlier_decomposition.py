r"""LLM.int8(): the few input channels that hold outliers in float, all others in int8.

.. math:: x W^T \approx x_O W_O^T
          + s_x s_w^T \odot \bigl(\hat x_{\bar O}\, \hat w_{\bar O}^T\bigr), \qquad
          O = \{\, j : \max_t |x_{tj}| \ge 6 \,\}

In large transformers the outliers sit in the same few channels for all tokens, so that less
than one column in a hundred is multiplied in float. The codes of the rest have one scale per
token and one per output, which can both be taken out of the integer product.
"""

from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import as_reals, require_finite, require_int, require_number
from refquant.calibration.minmax import absmax
from refquant.kernels.int8_gemm import gemm
from refquant.quantizers.uniform import symmetric

__all__ = ["Decomposed", "decomposed_product", "outlier_columns"]


class Decomposed(NamedTuple):
    """A product in two parts.

    Attributes
    ----------
    value : ndarray of float, shape (tokens, out)
    outliers : ndarray of bool, shape (in,)
        Input channels that were multiplied in float.

    References
    ----------
    Dettmers et al., 2022, arXiv:2208.07339, section 3.2.
    """

    value: Array
    outliers: Array


def outlier_columns(x: Array, *, threshold: float = 6.0) -> Array:
    """Input channels in which some value reaches the threshold.

    Parameters
    ----------
    x : ndarray of float, shape (tokens, in)
    threshold : float
        In the units of x, not in standard deviations. 0: all; infinity: none.

    Returns
    -------
    ndarray of bool, shape (in,)

    Raises
    ------
    ValueError
        If a value is not finite, or `threshold` is negative.

    References
    ----------
    Dettmers et al., 2022, arXiv:2208.07339, section 3.2.

    Examples
    --------
    >>> outlier_columns(np.array([[1.0, -7.0], [2.0, 0.0]]))
    array([False,  True])
    """
    x = as_reals("x", x)
    require_finite("x", x)
    require_number("threshold", threshold)
    if not threshold >= 0:                      # also for NaN
        raise ValueError(f"`threshold` must not be negative; got {threshold}")
    return np.abs(x).max(0, initial=0) >= threshold


def decomposed_product(
    x: Array, weight: Array, *, threshold: float = 6.0, bits: int = 8
) -> Decomposed:
    r"""The product of activations and weight, outlier channels in float.

    Parameters
    ----------
    x : ndarray of float, shape (tokens, in)
    weight : ndarray of float, shape (out, in)
    threshold : float
        Of `outlier_columns`.
    bits : int
        Of the codes, symmetric, 2 to 8.

    Returns
    -------
    Decomposed
        The value in the dtype of `x`. Exact to rounding if every channel is an outlier.

    Raises
    ------
    ValueError
        If the shapes do not fit, a number is not finite, or `bits` is out of range.

    Notes
    -----
    The scale of an output is taken over the columns that are left. The authors' library
    takes it over all of them, so that the weight can be quantized beforehand.

    References
    ----------
    Dettmers et al., 2022, arXiv:2208.07339, eqs. (5) and (8).

    Examples
    --------
    >>> x, w = np.array([[100.0, 0.5, 0.25]]), np.array([[1.0, 1.0, -1.0]])
    >>> decomposed_product(x, w).value.round(3), decomposed_product(x, w).outliers
    (array([[100.248]]), array([ True, False, False]))
    """
    x, weight = as_reals("x", x), as_reals("weight", weight)
    require_int("bits", bits, 2, 8)
    if x.ndim != 2:
        raise ValueError(f"`x` must have shape (tokens, in); got {x.shape}")
    if weight.ndim != 2 or x.shape[1] != weight.shape[1]:
        raise ValueError(f"`weight` must have shape (out, {x.shape[-1]}); got {weight.shape}")
    require_finite("weight", weight)
    outliers = outlier_columns(x, threshold=threshold)
    whole = x[:, outliers] @ weight[:, outliers].T
    rest_x, rest_w = x[:, ~outliers], weight[:, ~outliers]
    if not rest_x.size or not rest_w.size:
        return Decomposed(whole.astype(x.dtype, copy=False), outliers)
    rows, columns = (symmetric(absmax(part, axis=1), bits=bits) for part in (rest_x, rest_w))
    sums = gemm(rows.encode(rest_x), columns.encode(rest_w))
    value = whole + sums * rows.scale * columns.scale.T
    return Decomposed(value.astype(x.dtype, copy=False), outliers)
