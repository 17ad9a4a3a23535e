"""Rewriting a network by name: other nodes and other parameters, the same function.

A rewrite takes nodes and values and returns nodes and values. It copies what it leaves alone
and refuses nothing: a pattern that does not fit stays as it is, so that rewriting twice is
rewriting once. Every value that survives keeps its name, and with it its meaning; a tap, a
plan or a tolerance written for the old network is right for the new one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from refquant._types import Array
from refquant.nn._nodes import function_of, readers, settings_of
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node
from refquant.nn.normalization import batch_norm
from refquant.nn.operations import linear
from refquant.ptq.batchnorm_folding import fold

__all__ = ["Rewritten", "fold_batch_norms"]

#: Operations with a weight whose first axis is the output channel.
LAYERS = (conv2d, depthwise_conv2d, linear)


class Rewritten(NamedTuple):
    """A network after a rewrite, ready for `refquant.nn.network.run`.

    Attributes
    ----------
    nodes : list of Node
    values : dict of str to ndarray
        Parameters and constants, those that no node reads any more left out.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, figure C.8 (the graph after folding).
    """

    nodes: list[Node]
    values: dict[str, Array]


def fold_batch_norms(nodes: Sequence[Node], values: Mapping[str, Array]) -> Rewritten:
    """The network without the batch norms that follow a layer.

    The layer takes the name of the norm, whose value it now computes, and reads a bias that
    is called after its weight: ``stem.weight`` gives ``stem.bias``. A norm stays where folding
    would change another value: if somebody else reads the layer's output, its weight or its
    bias, if the layer's weight is not among `values`, or if the norm uses the statistics of
    its batch (`batch_norm_training`).

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Parameters and running statistics.

    Returns
    -------
    Rewritten
        The same function, to rounding, under the same names but for the layers' own outputs.

    Raises
    ------
    ValueError
        If a norm's arrays do not fit its layer, or the name of the new bias is taken.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.2.

    Examples
    --------
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> folded = fold_batch_norms(model.nodes, model.values)
    >>> len(model.nodes), len(folded.nodes), folded.nodes[0].inputs
    (31, 22, ('x', 'stem.weight', 'stem.bias'))
    """
    read = readers(nodes)
    layers = {node.name: node for node in nodes}
    work = dict(values)
    out: list[Node] = []
    for node in nodes:
        layer = layers.get(node.inputs[0]) if function_of(node.op) is batch_norm else None
        if layer is None or not _alone(layer, node, read, values):
            out.append(node)
            continue
        weight, *bias = layer.inputs[1:]
        norm = [values[name] for name in node.inputs[1:]]
        old = values[bias[0]] if bias else None
        folded = fold(values[weight], old, *norm, **settings_of(node.op))
        named = bias[0] if bias else f"{weight.removesuffix('.weight')}.bias"
        if not bias and (named in work or named in layers):
            raise ValueError(f"`values` must leave the name of the new bias free; got {named!r}")
        work |= {weight: folded.weight, named: folded.bias}
        out.remove(layer)
        out.append(Node(node.name, layer.op, (layer.inputs[0], weight, named)))
    still = set(readers(out))
    unread = {name for name in read if name not in still}
    return Rewritten(out, {name: value for name, value in work.items() if name not in unread})


def _alone(
    layer: Node, norm: Node, read: Mapping[str, Sequence[Node]], values: Mapping[str, Array]
) -> bool:
    """Whether nobody but `norm` would notice that `layer` has become another."""
    given = [*layer.inputs[1:], *norm.inputs[1:]]
    return (
        function_of(layer.op) in LAYERS
        and all(name in values for name in given)
        and len(read[layer.name]) == 1
        and all(len(read[name]) == 1 for name in layer.inputs[1:])
    )
