r"""Count what a layer costs at given bit-widths: bytes, and operations on bits.

Both are sums over the layers, so a table of layer by choice is all that an allocation
needs (`cost_table`), and a budget is one linear constraint on it.

==================  ====================================================  =================
cost                of a layer with n weights and m multiplications       what it stands for
==================  ====================================================  =================
`model_size`        n b_w / 8, and the bits of its scales                 flash, download
`bit_operations`    m b_w b_a                                             multiplier area
`memory_traffic`    (n b_w + activations b_a) / 8                         time, if memory-bound
==================  ====================================================  =================

A multiplier of b_w by b_a bits is an array of b_w b_a adders: hence the product.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array
from refquant._validate import as_unmasked, require_int, require_nonempty, require_number

__all__ = ["LayerCost", "bit_operations", "cost_table", "memory_traffic", "model_size"]


class LayerCost(NamedTuple):
    """What a layer does for one input, before any bit-width is chosen.

    Attributes
    ----------
    name : str
    weights : int
        Numbers stored.
    macs : int
        Multiplications, each with an addition.
    inputs, outputs : int
        Activations read and written.
    channels : int
        Output channels, each of which may have a scale of its own.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680, section 3.3.
    """

    name: str
    weights: int
    macs: int
    inputs: int = 0
    outputs: int = 0
    channels: int = 1


def model_size(
    layers: Sequence[LayerCost], bits: npt.ArrayLike, *, scale_bits: int = 0
) -> float:
    r"""Bytes of the weights, each layer at its own bit-width.

    .. math:: \sum_i \frac{n_i b_i + c_i\,b_{scale}}{8}

    Parameters
    ----------
    layers : sequence of LayerCost
        :math:`n_i` weights and :math:`c_i` channels.
    bits : array_like of float, shape (layers,) or ()
        At least 0; not whole when a code packs more than one weight (1.6 for base 3).
    scale_bits : int
        Bits of the parameters of one channel, 32 for a float32 scale.

    Returns
    -------
    float
        Not rounded up to whole bytes.

    Raises
    ------
    ValueError
        If there is not one bit-width per layer, or one is negative.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680, eq. (8).

    Examples
    --------
    >>> layers = [LayerCost("a", 1000, 9000), LayerCost("b", 200, 200)]
    >>> model_size(layers, [4, 8])
    700.0
    """
    b = _bits("bits", bits, layers)
    extra = require_int("scale_bits", scale_bits, 0)
    channels = sum(layer.channels for layer in layers)
    return float(np.dot([layer.weights for layer in layers], b) + channels * extra) / 8


def bit_operations(
    layers: Sequence[LayerCost], weight_bits: npt.ArrayLike, activation_bits: npt.ArrayLike
) -> float:
    r"""Operations on bits for one input (BOPs).

    .. math:: \sum_i m_i\,b_{w,i}\,b_{a,i}

    Parameters
    ----------
    layers : sequence of LayerCost
    weight_bits, activation_bits : array_like of float, shape (layers,) or ()

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is not one bit-width per layer, or one is negative.

    Notes
    -----
    Some papers add the bits of the accumulator to each product; this one does not.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680, eq. (9); van Baalen et al., 2020,
    arXiv:2005.07093, appendix B.2 (why the product).

    Examples
    --------
    >>> bit_operations([LayerCost("a", 1000, 9000)], 4, 8)
    288000.0
    """
    w = _bits("weight_bits", weight_bits, layers)
    a = _bits("activation_bits", activation_bits, layers)
    return float(np.dot([layer.macs for layer in layers], w * a))


def memory_traffic(
    layers: Sequence[LayerCost], weight_bits: npt.ArrayLike, activation_bits: npt.ArrayLike,
    *, batch: int = 1,
) -> float:
    r"""Bytes that each layer must read and write, if nothing stays in a cache.

    .. math:: \sum_i \frac{n_i b_{w,i} + B\,(in_i + out_i)\,b_{a,i}}{8}

    Parameters
    ----------
    layers : sequence of LayerCost
    weight_bits, activation_bits : array_like of float, shape (layers,) or ()
    batch : int
        Inputs B for which the weights are read once.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is not one bit-width per layer, or one is negative.

    References
    ----------
    Williams et al., 2009, doi:10.1145/1498765.1498785 (operational intensity).

    Examples
    --------
    >>> memory_traffic([LayerCost("a", 1000, 9000, inputs=100, outputs=50)], 4, 8)
    650.0
    """
    w = _bits("weight_bits", weight_bits, layers)
    a = _bits("activation_bits", activation_bits, layers)
    moved = require_int("batch", batch, 1) * np.array([x.inputs + x.outputs for x in layers])
    return float(np.dot([layer.weights for layer in layers], w) + np.dot(moved, a)) / 8


def cost_table(
    cost: Callable[[Sequence[LayerCost], float], float],
    layers: Sequence[LayerCost], choices: Sequence[float],
) -> Array:
    """Cost of each layer at each choice: what `integer_program` and its kin take.

    Parameters
    ----------
    cost : callable, (layers, bits) -> float
        One that adds over layers, such as `model_size`; of two bit-widths bind or
        couple one: ``lambda layers, b: bit_operations(layers, b, b)``.
    layers : sequence of LayerCost
    choices : sequence of float
        Bit-widths.

    Returns
    -------
    ndarray of float64, shape (layers, choices)

    Raises
    ------
    ValueError
        If there is no layer or no choice.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.3 (a look-up table).

    Examples
    --------
    >>> layers = [LayerCost("a", 1000, 9000), LayerCost("b", 200, 200)]
    >>> cost_table(model_size, layers, [2, 4, 8])
    array([[ 250.,  500., 1000.],
           [  50.,  100.,  200.]])
    """
    require_nonempty("layers", np.empty(len(layers)))
    require_nonempty("choices", np.asarray(choices))
    return np.array([[cost([layer], b) for b in choices] for layer in layers])


def _bits(name: str, bits: npt.ArrayLike, layers: Sequence[LayerCost]) -> Array:
    """One bit-width for each layer, in float64."""
    array = as_unmasked(name, bits)
    if array.ndim == 0:
        require_number(name, array.item())
    elif array.dtype.kind not in "iuf":
        raise TypeError(f"`{name}` must be real numbers; got {array.dtype}")
    elif array.shape != (len(layers),):
        raise ValueError(f"`{name}` must have shape ({len(layers)},) or (); got {array.shape}")
    wide = np.broadcast_to(array, (len(layers),)).astype(np.float64)
    if not (np.isfinite(wide) & (wide >= 0)).all():
        bad = wide[~(np.isfinite(wide) & (wide >= 0))].flat[0]
        raise ValueError(f"`{name}` must be finite and at least 0; got {bad}")
    return wide
