r"""Batch norms of a network that is trained: another form for each time of its life.

=================  =====================================================================
form               what a norm is
=================  =====================================================================
training           a node that normalizes by the batch (`batch_norm_training`)
`fold_norms`       its factor, from running averages, in the weight; corrected to the batch
`freeze_norms`     the same weight with the bias of the running averages: what is deployed
`evaluation`       an affine map of the running averages; nothing that only training needs
=================  =====================================================================

Folded, the weight that a quantizer should see has the name ``L.weight.folded``.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from refquant._types import Array
from refquant.apply.rewrite import LAYERS
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.network import Node, Op, run
from refquant.nn.normalization import batch_norm, batch_norm_training, updated_statistics
from refquant.qat.batchnorm import (
    batch_mean,
    batch_variance,
    corrected,
    folded_bias,
    folded_weight,
)

__all__ = ["evaluation", "fold_norms", "freeze_norms", "measured_again"]


def evaluation(nodes: Sequence[Node], *, output: str = "logits") -> list[Node]:
    """The nodes that `output` depends on, every norm by its running averages.

    Parameters
    ----------
    nodes : sequence of Node
        In training form, folded or not, with or without quantizers and loss.
    output : str

    Returns
    -------
    list of Node
        A norm ``L.norm`` reads ``L.mean`` and ``L.variance``.

    Raises
    ------
    ValueError
        If there is no node of that name.

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2.

    Examples
    --------
    >>> from refquant.nn.models import digits_cnn, with_loss
    >>> nodes = evaluation(with_loss(digits_cnn(training=True)))
    >>> nodes[1].inputs == digits_cnn()[1].inputs, nodes[-1].name
    (True, 'logits')
    """
    if output not in {node.name for node in nodes}:
        raise ValueError(f"`output` must be the name of a node; got {output!r}")
    out = []
    for node in freeze_norms(nodes):
        if function_of(node.op) is batch_norm_training:
            layer = node.name.rpartition(".")[0]
            inputs = (*node.inputs, f"{layer}.mean", f"{layer}.variance")
            node = Node(node.name, _with_settings(batch_norm, node), inputs)
        out.append(node)
    return _needed(out, output)


def fold_norms(nodes: Sequence[Node]) -> list[Node]:
    """The network with corrected folded norms in place of those by batch.

    The layer ``L.conv`` stays, for the statistics of the batch; a second one, with the folded
    weight, makes the value. Both share the input, and one weight. Without a quantizer the
    value and all gradients are what they were. A norm that does not follow a layer stays.

    Parameters
    ----------
    nodes : sequence of Node
        In training form, before quantizers are put in.

    Returns
    -------
    list of Node
        They read ``L.variance``, the running average, as well.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.2.

    Examples
    --------
    >>> from refquant.nn.models import digits_cnn
    >>> [node.name for node in fold_norms(digits_cnn(training=True))[:7]]
    ['stem.conv', 'stem.batch', 'stem.batch_mean', 'stem.batch_variance', 'stem.weight.folded',
     'stem.product', 'stem.norm']
    """
    layers = {node.name: node for node in nodes}
    out = []
    for node in nodes:
        layer = layers.get(node.inputs[0])
        follows = layer is not None and function_of(layer.op) in LAYERS and len(layer.inputs) == 2
        if function_of(node.op) is not batch_norm_training or layer is None or not follows:
            out.append(node)
            continue
        of, gamma, beta = node.name.rpartition(".")[0], *node.inputs[1:]
        source, weight = layer.inputs
        mean, variance, folded = f"{of}.batch_mean", f"{of}.batch_variance", f"{weight}.folded"
        out += [
            Node(f"{of}.batch", node.op, node.inputs),      # unread: keeps the running averages
            Node(mean, batch_mean, (layer.name,)),
            Node(variance, batch_variance, (layer.name,)),
            Node(folded, _with_settings(folded_weight, node), (weight, gamma, f"{of}.variance")),
            Node(f"{of}.product", layer.op, (source, folded)),
            Node(node.name, _with_settings(corrected, node),
                 (f"{of}.product", gamma, beta, mean, variance, f"{of}.variance")),
        ]
    return out


def freeze_norms(nodes: Sequence[Node]) -> list[Node]:
    """The network whose folded norms use running averages alone: the one that is deployed.

    Parameters
    ----------
    nodes : sequence of Node
        Of `fold_norms`, with or without quantizers. Others come back as they are.

    Returns
    -------
    list of Node
        The same names for what stays, so the same parameters go on being trained.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.2 (freezing after some steps).

    Examples
    --------
    >>> from refquant.nn.models import digits_cnn
    >>> frozen = freeze_norms(fold_norms(digits_cnn(training=True)))
    >>> [node.name for node in frozen[:4]]
    ['stem.weight.folded', 'stem.bias.folded', 'stem.norm', 'stem']
    """
    producers = {node.name: node for node in nodes}
    folded = [node for node in nodes if function_of(node.op) is corrected]
    products = {node.inputs[0] for node in folded}
    batches = {name for node in folded for name in node.inputs[3:5]}
    plain = {producers[name].inputs[0] for name in batches}
    out = []
    for node in nodes:
        if node.name in products | batches | plain or (
            function_of(node.op) is batch_norm_training and node.inputs[0] in plain
        ):
            continue
        if function_of(node.op) is corrected:
            of = node.name.rpartition(".")[0]
            product, gamma, beta, variance = (node.inputs[i] for i in (0, 1, 2, 5))
            bias = Node(f"{of}.bias.folded", _with_settings(folded_bias, node),
                        (gamma, beta, f"{of}.mean", variance))
            layer = producers[product]
            out.append(bias)
            node = Node(node.name, layer.op, (*layer.inputs, bias.name))
        out.append(node)
    return out


def measured_again(
    nodes: Sequence[Node],
    parameters: Mapping[str, Array],
    statistics: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
) -> dict[str, Array]:
    r"""Running statistics of the network as it is now, from a few batches.

    Whatever changes weights, a quantizer not least, changes what the norms see; the averages
    are those of another network until they are measured again. Batch i has the momentum

    .. math:: m_i = 1 / i ,

    which makes the plain mean of all batches.

    Parameters
    ----------
    nodes : sequence of Node
        In training form, with quantizers; not frozen.
    parameters, statistics : mapping of str to ndarray
    batches : iterable of mapping of str to ndarray
        Inputs of each run, labels too if the nodes read them; no label is used.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If there is no batch.

    References
    ----------
    Sun et al., 2019, NeurIPS, "Hybrid 8-bit Floating Point", section 3.3 (batch norm
    re-tuning); Nagel et al., 2022, arXiv:2203.11086, section 3 (re-estimation after training).

    Examples
    --------
    >>> import numpy as np
    >>> nodes = [Node("a.norm", batch_norm_training, ("x", "g", "b"))]
    >>> one = np.ones(1)
    >>> old = {"a.mean": 9 * one, "a.variance": 9 * one}
    >>> batches = [{"x": np.array([[1.0], [3.0]])}, {"x": np.array([[3.0], [5.0]])}]
    >>> measured_again(nodes, {"g": one, "b": one}, old, batches)
    {'a.mean': array([3.]), 'a.variance': array([2.])}
    """
    new = dict(statistics)
    count = 0
    for count, batch in enumerate(batches, 1):
        trace = run(nodes, {**batch, **parameters, **new})
        new = updated_statistics(trace, new, momentum=1 / count)
    if not count:
        raise ValueError("`batches` must hold at least one batch; got none")
    return new


def _with_settings(op: Op, node: Node) -> Op:
    """`op` with the settings of the norm: its epsilon."""
    settings = settings_of(node.op)
    return partial(op, **settings) if settings else op


def _needed(nodes: Sequence[Node], output: str) -> list[Node]:
    """The nodes that a value depends on, in their order."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if node.name in wanted:
            kept.append(node)
            wanted |= {*node.inputs}
    return kept[::-1]
