r"""What enters a layer: divide, repeat or rotate it, and change the weight to match.

Three repairs put something in front of a layer that its weight undoes:

===============  ==========================  ==============================================
rewrite          in front of the layer       serves
===============  ==========================  ==============================================
`divide`         x / s                       SmoothQuant, AWQ; where nothing can be folded
`repeat`         x[..., source]              outlier channel splitting
`rotate`         x q                         Hadamard rotations, online
===============  ==========================  ==============================================

In float the network computes what it did. What has changed is the value that meets the codes,
under the name ``fc1.input`` if the weight is ``fc1.weight`` (``fc1.input2`` if that is taken);
layers that read the same value through the same change share one. In a transformer that
normalizes *after* each sum this node is the only way: what leaves the layer norm is also the
shortcut, which must not be scaled.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, count
from typing import TypeVar

import numpy as np

from refquant._types import Array
from refquant._validate import (
    as_reals,
    require_codes,
    require_kind,
    require_positive,
    require_same_shape,
)
from refquant.apply.rewrite import Rewritten
from refquant.nn._nodes import function_of, readers
from refquant.nn.convolution import conv2d
from refquant.nn.network import Node, Op, Pullback
from refquant.nn.operations import linear
from refquant.ptq.outlier_channel_splitting import Split
from refquant.ptq.smoothquant import smooth

__all__ = ["divide", "repeat", "rotate"]

_T = TypeVar("_T")


def divide(
    nodes: Sequence[Node], values: Mapping[str, Array], scales: Mapping[str, Array]
) -> Rewritten:
    r"""Inputs of layers divided channel by channel, and the columns of their weights multiplied.

    .. math:: x W^T = (x / s) (W s)^T

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
    scales : mapping of str to ndarray, shape (in,)
        By the name of the weight; positive. From `smoothing_scale` or AWQ's `search_scale`.

    Returns
    -------
    Rewritten

    Raises
    ------
    ValueError
        If a name is no weight of a linear layer or convolution, or a scale does not fit.

    References
    ----------
    Xiao et al., 2023, arXiv:2211.10438, eq. (3); Lin et al., 2024, arXiv:2306.00978, eq. (2).

    Examples
    --------
    >>> net = [Node("y", linear, ("x", "y.weight"))]
    >>> made = divide(net, {"y.weight": np.array([[1.0, 2.0]])}, {"y.weight": np.array([4.0, 1])})
    >>> made.values["y.weight"], made.nodes[0].inputs
    (array([[4., 2.]]), ('x', 'y.input.scale'))
    """
    def change(weight: Array, scale: Array) -> tuple[Array, Array]:
        scale = as_reals("scales", scale)
        require_positive("scales", scale)
        return smooth(weight, scale), scale.astype(weight.dtype)

    return _in_front(nodes, values, scales, change, _divided, "scale")


def repeat(
    nodes: Sequence[Node], values: Mapping[str, Array], splits: Mapping[str, Split]
) -> Rewritten:
    r"""Inputs of layers with some channels repeated, and weights with these columns split.

    .. math:: x W^T = x_{\text{source}} \, W_{\text{split}}^T

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
    splits : mapping of str to Split
        By the name of the weight, of this weight. From `split_channels` or `split_for`.

    Returns
    -------
    Rewritten

    Raises
    ------
    ValueError
        If a name is no weight of a linear layer or convolution, or a split is not of its shape.

    References
    ----------
    Zhao et al., 2019, arXiv:1901.09504, section 3.

    Examples
    --------
    >>> from refquant.ptq.outlier_channel_splitting import split_channels
    >>> net, weight = [Node("y", linear, ("x", "y.weight"))], np.array([[1.0, 8.0]])
    >>> made = repeat(net, {"y.weight": weight}, {"y.weight": split_channels(weight, 1)})
    >>> made.values["y.weight"], made.values["y.input.source"]
    (array([[1., 4., 4.]]), array([0, 1, 1]))
    """
    def change(weight: Array, split: Split) -> tuple[Array, Array]:
        channels = weight.shape[-1]
        require_kind("splits", split, Split)
        require_codes("splits", split.source, 0, channels - 1)
        require_same_shape("splits", split.weight, (*weight.shape[:-1], len(split.source)))
        if not np.array_equal(split.source[:channels], np.arange(channels)):
            raise ValueError(f"`splits` must keep all {channels} channels; got {split.source}")
        return split.weight, split.source

    return _in_front(nodes, values, splits, change, _repeated, "source")


def rotate(
    nodes: Sequence[Node], values: Mapping[str, Array], rotations: Mapping[str, Array]
) -> Rewritten:
    r"""Inputs of layers rotated, and the rows of their weights with them.

    .. math:: x W^T = (x Q) (W Q)^T, \qquad Q Q^T = I

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
    rotations : mapping of str to ndarray, shape (in, in)
        By the name of the weight; orthogonal. For example `hadamard` with `random_signs`.

    Returns
    -------
    Rewritten

    Raises
    ------
    ValueError
        If a name is no weight of a linear layer or convolution, or a matrix does not fit or is
        not orthogonal to 0.0001.

    References
    ----------
    Ashkboos et al., 2024, arXiv:2404.00456, section 4 (online rotations).

    Examples
    --------
    >>> from refquant.ptq.rotation import hadamard
    >>> net = [Node("y", linear, ("x", "y.weight"))]
    >>> made = rotate(net, {"y.weight": np.array([[1.0, 1.0]])}, {"y.weight": hadamard(2)})
    >>> made.values["y.weight"].round(4)
    array([[1.4142, 0.    ]])
    """
    def change(weight: Array, q: Array) -> tuple[Array, Array]:
        q = as_reals("rotations", q)
        require_same_shape("rotations", q, (weight.shape[-1],) * 2)
        off = np.abs(q @ q.T - np.eye(len(q))).max()
        if not off <= 1e-4:
            raise ValueError(f"`rotations` must be orthogonal; got rows that are off by {off:.2g}")
        return (weight @ q).astype(weight.dtype), q.astype(weight.dtype)

    return _in_front(nodes, values, rotations, change, _rotated, "rotation")


def _divided(x: Array, scale: Array) -> tuple[Array, Pullback]:
    """The quotient; the scale is a constant."""
    return x / scale, lambda g: (g / scale, None)


def _repeated(x: Array, source: Array) -> tuple[Array, Pullback]:
    """The channels of `source`; gradients of copies add up."""
    def pullback(g: Array) -> tuple[Array | None, ...]:
        sums = np.zeros_like(x)
        np.add.at(np.moveaxis(sums, -1, 0), source, np.moveaxis(g, -1, 0))
        return sums, None

    return x[..., source], pullback


def _rotated(x: Array, q: Array) -> tuple[Array, Pullback]:
    """The product, row by row; the rotation is a constant."""
    def turned(rows: Array, by: Array) -> Array:
        # Two-dimensional on purpose: a product with a 3-D operand leaves BLAS.
        return (rows.reshape(-1, rows.shape[-1]) @ by).reshape(rows.shape)

    return turned(x, q), lambda g: (turned(g, q.T), None)


def _in_front(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    wanted: Mapping[str, _T],
    change: Callable[[Array, _T], tuple[Array, Array]],
    op: Op,
    kind: str,
) -> Rewritten:
    """The network with `op` in front of layers; `change` gives the new weight and its constant."""
    read, work = readers(nodes), dict(values)
    for name in wanted:
        layers = read.get(name, [])
        if not layers or name not in values or not all(_reads(layer, name) for layer in layers):
            raise ValueError(
                f"names must be those of weights of linear layers or convolutions; got {name!r}")
    out: list[Node] = []
    made: dict[tuple[str, bytes], str] = {}
    known = {*values, *(node.name for node in nodes)}
    for node in nodes:
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        if weight in wanted:
            work[weight], constant = change(values[weight], wanted[weight])
            key = node.inputs[0], constant.tobytes()
            if key not in made:
                made[key] = _free(f"{weight.removesuffix('.weight')}.input", known)
                known.add(made[key])
                out.append(Node(made[key], op, (node.inputs[0], f"{made[key]}.{kind}")))
                work[f"{made[key]}.{kind}"] = constant
            node = node._replace(inputs=(made[key], *node.inputs[1:]))
        out.append(node)
    return Rewritten(out, work)


def _free(name: str, known: Collection[str]) -> str:
    """The name, or the first of its numbered forms that nobody has."""
    numbered = (f"{name}{n}" for n in count(2))
    return next(one for one in chain([name], numbered) if one not in known)


def _reads(node: Node, weight: str) -> bool:
    """Whether the node is a layer, and the name is that of its weight and of nothing else."""
    return (function_of(node.op) in (linear, conv2d) and node.inputs[1] == weight
            and node.inputs.count(weight) == 1)
