r"""Static or dynamic: fix the range beforehand, or take it from the data at hand.

===========  ==========================  =====================================
ranges       known                       price
===========  ==========================  =====================================
static       before the network runs     wrong when the data change
per tensor   at each call                a pass over the data before encoding;
                                         one sample depends on its batch mates
per token    at each call, for each row  a scale for every row
===========  ==========================  =====================================

Static ranges are learned from all calibration batches together and then never
change; dynamic ones clip nothing and follow every drift. Weights do not
change, so for them the question does not arise.
"""

from collections.abc import Iterable
from functools import reduce
from typing import NamedTuple

from refquant._types import Array, Codes
from refquant.calibration.minmax import Range, minmax
from refquant.quantizer import Fit, Quantizer
from refquant.quantizers.uniform import Uniform, asymmetric

__all__ = ["Dynamic", "per_tensor", "per_token", "quantize_dynamic", "static"]


def static(batches: Iterable[Array], *, bits: int) -> Uniform:
    """Quantizer fitted once, on the range of all calibration batches together.

    Parameters
    ----------
    batches : iterable of ndarray of float
        All of the same rank, finite, at least one.
    bits : int
        Bits of a code.

    Returns
    -------
    Uniform
        One scale and zero point; later data outside the range saturate.

    Raises
    ------
    ValueError
        If there is no batch, or one is empty or not finite.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3; Gholami et al., 2021,
    arXiv:2103.13630, section III-D.

    Examples
    --------
    >>> import numpy as np
    >>> q = static([np.array([-1.0, 0.5]), np.array([1.0, 2.0])], bits=8)
    >>> q.encode(np.array([-1.0, 0.0, 2.0, 9.0]))
    array([  0,  85, 255, 255], dtype=int32)
    """
    ranges = [minmax(batch) for batch in batches]
    if not ranges:
        raise ValueError("`batches` must hold at least one batch; got none")
    return asymmetric(*reduce(Range.merge, ranges), bits=bits)


def per_tensor(x: Array, *, bits: int) -> Uniform:
    """Quantizer with one range for all of `x`.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    bits : int
        Bits of a code.

    Returns
    -------
    Uniform
        Of the range of `x`, widened to contain zero.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D (dynamic).

    Examples
    --------
    >>> import numpy as np
    >>> per_tensor(np.array([[0.0, 1.0], [0.0, 3.0]]), bits=2).scale
    array([[1.]])
    """
    return asymmetric(*minmax(x), bits=bits)


def per_token(x: Array, *, bits: int) -> Uniform:
    """Quantizer with a range for every row of the last axis.

    Parameters
    ----------
    x : ndarray of float, shape (..., features)
        Finite values, at least one feature. A row of zeros gets scale 1.
    bits : int
        Bits of a code.

    Returns
    -------
    Uniform
        With scales of shape (..., 1); the codes of a row do not depend on any
        other row.

    Raises
    ------
    ValueError
        If `x` is empty or not finite.

    References
    ----------
    Yao et al., "ZeroQuant", 2022, arXiv:2206.01861 (token-wise).

    Examples
    --------
    >>> import numpy as np
    >>> per_token(np.array([[0.0, 1.5], [0.0, 3.0]]), bits=2).scale
    array([[0.5],
           [1. ]])
    """
    return asymmetric(*minmax(x, axis=-1), bits=bits)


class Dynamic(NamedTuple):
    """Codes together with the quantizer made for them.

    Attributes
    ----------
    codes : ndarray of int32
        In the shape of the data.
    quantizer : Quantizer
        Without it the codes mean nothing: it changes at every call.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D.

    Examples
    --------
    >>> import numpy as np
    >>> from functools import partial
    >>> quantize_dynamic(np.array([0.0, 3.0]), partial(per_tensor, bits=2)).codes
    array([0, 3], dtype=int32)
    """

    codes: Codes
    quantizer: Quantizer


def quantize_dynamic(x: Array, fit: Fit) -> Dynamic:
    """Data as codes of a quantizer fitted to them on the spot, at run time.

    Parameters
    ----------
    x : ndarray of float, any shape
        Finite values, at least one.
    fit : callable, ndarray -> Quantizer
        How the range is found, e.g. ``partial(per_token, bits=8)``; at run time
        hardly anything but min-max is cheap enough.

    Returns
    -------
    Dynamic
        Codes that do not change if `x` is multiplied by a power of two.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D.

    Examples
    --------
    >>> import numpy as np
    >>> from functools import partial
    >>> x = np.array([[0.0, 1.5], [0.0, 3.0]])
    >>> quantize_dynamic(x, partial(per_token, bits=2)).codes
    array([[0, 3],
           [0, 3]], dtype=int32)
    """
    quantizer = fit(x)
    return Dynamic(quantizer.encode(x), quantizer)
