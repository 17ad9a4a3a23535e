"""What every estimator needs: which gradients pass, and the adjoint of broadcasting.

An *estimator* is ``f(x, *parameters) -> (value, pullback)``; its pullback returns one gradient
per array, of the shape and dtype of that array. A *mask* says where the gradient of a clipped
and rounded ratio ``v = x / s`` passes to `x`. Papers and code use four, which differ only at
the ends of the range:

==============  ==============================  ==========================================
mask            passes where                    used by
==============  ==============================  ==========================================
`open_range`    ``qmin < v < qmax``             LSQ (the paper)
`closed_range`  ``qmin <= v <= qmax``           most ports: what ``clamp`` differentiates to
`rounded`       ``qmin <= round(v) <= qmax``    TQT, FakeQuant kernels: half a step wider
`everywhere`    always                          DoReFa and LQ-Nets weights, HAWQ's code
==============  ==============================  ==========================================
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import as_reals, require_broadcastable, require_positive

__all__ = ["Mask", "Pullback", "as_parameter", "as_positive", "closed_range", "everywhere",
           "gradient_of", "in_steps", "open_range", "rounded", "sum_to_shape"]

#: (ratio, qmin, qmax) -> where the gradient passes, a bool array of the shape of the ratio.
Mask: TypeAlias = Callable[[Array, int | Array, int | Array], Array]

#: Gradient of the value -> one gradient per array argument.
Pullback: TypeAlias = Callable[[Array], tuple[Array, ...]]


def as_parameter(name: str, value: npt.ArrayLike, x: Array) -> Array:
    """`value` as an array of floats that broadcasts to `x`."""
    array = as_reals(name, value)
    require_broadcastable(name, array, x.shape)
    return array


def as_positive(name: str, value: npt.ArrayLike, x: Array) -> Array:
    """The same, every element finite and above zero: a step, or the end of a range."""
    array = as_parameter(name, value, x)
    require_positive(name, array)
    return array


def in_steps(x: Array, scale: Array) -> Array:
    """``x / scale``, finite where `x` is.

    So that it may be multiplied by a mask: for masks without a pattern a product is twenty
    times as fast as `numpy.where`, but infinity times False is NaN.
    """
    with np.errstate(over="ignore"):
        v = np.asarray(x / scale)
    largest = np.finfo(v.dtype).max
    return np.clip(v, -largest, largest, out=v)


def gradient_of(parameter: Array, g: Array) -> Array:
    """`g` summed to the shape of `parameter`, in its dtype."""
    return sum_to_shape(g, parameter.shape).astype(parameter.dtype, copy=False)


def sum_to_shape(g: Array, shape: tuple[int, ...]) -> Array:
    """Sum of `g` over the axes along which an array of `shape` was repeated to that of `g`.

    Undoes broadcasting: the adjoint of repeating a value is summing its copies. The dtype is
    that of `g`.

    Examples
    --------
    >>> sum_to_shape(np.ones((2, 3)), (3,)), sum_to_shape(np.ones((2, 3)), (2, 1))
    (array([2., 2., 2.]), array([[3.],
           [3.]]))
    """
    lead = g.ndim - len(shape)
    repeated = tuple(i for i, n in enumerate(shape, lead) if n == 1 and g.shape[i] != 1)
    axes = (*range(lead), *repeated)
    return np.asarray(g.sum(axis=axes, dtype=g.dtype)).reshape(shape) if axes else g


def open_range(v: Array, qmin: int | Array, qmax: int | Array) -> Array:
    """True strictly inside: an element exactly on a bound is clipped, and counts as such.

    Parameters
    ----------
    v : ndarray of float
        In steps.
    qmin, qmax : int or ndarray of int
        Of the codes, less the zero point.

    Returns
    -------
    ndarray of bool

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, eqs. (3) and (5).

    Examples
    --------
    >>> open_range(np.array([-1.4, -1.0, 0.0, 1.0]), -1, 1)
    array([False, False,  True, False])
    """
    return np.asarray((v > qmin) & (v < qmax))


def closed_range(v: Array, qmin: int | Array, qmax: int | Array) -> Array:
    """True inside and on the bounds, as the derivative of ``clamp`` in PyTorch.

    Parameters
    ----------
    v : ndarray of float
        In steps.
    qmin, qmax : int or ndarray of int
        Of the codes, less the zero point.

    Returns
    -------
    ndarray of bool

    References
    ----------
    Bhalgat et al., 2020, arXiv:2004.09576, and most public ports of LSQ.

    Examples
    --------
    >>> closed_range(np.array([-1.4, -1.0, 0.0, 1.0]), -1, 1)
    array([False,  True,  True,  True])
    """
    return np.asarray((v >= qmin) & (v <= qmax))


def rounded(v: Array, qmin: int | Array, qmax: int | Array) -> Array:
    """True where the code is in range before clipping: up to half a step beyond the bounds.

    Parameters
    ----------
    v : ndarray of float
        In steps.
    qmin, qmax : int or ndarray of int
        Of the codes, less the zero point.

    Returns
    -------
    ndarray of bool

    References
    ----------
    Jain et al., 2020, arXiv:1903.08066, eqs. (6) and (8); PyTorch's ``fake_quantize`` kernels.

    Examples
    --------
    >>> rounded(np.array([-1.6, -1.4, 0.0, 1.0]), -1, 1)
    array([False,  True,  True,  True])
    """
    return closed_range(np.rint(v), qmin, qmax)


def everywhere(v: Array, qmin: int | Array, qmax: int | Array) -> Array:
    """True for all: also what is clipped is moved.

    Parameters
    ----------
    v : ndarray of float
        In steps.
    qmin, qmax : int or ndarray of int
        Of the codes, less the zero point.

    Returns
    -------
    ndarray of bool

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eq. (5); Bengio et al., 2013, arXiv:1308.3432,
    section 3.4.

    Examples
    --------
    >>> everywhere(np.array([-9.0, 0.0]), -1, 1)
    array([ True,  True])
    """
    return np.ones(np.shape(v), bool)
