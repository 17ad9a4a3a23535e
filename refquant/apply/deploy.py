r"""From training to deployment: no quantizer nodes, no norms, weights that are their codes.

A trained network still has float weights with quantizers behind them, and norms. What depends on
parameters alone can be computed once: quantized weights, folded weights and biases. A norm that is
left after a layer goes into its weight at last, and since

.. math:: \frac{\gamma}{\sigma}\, s\, q = \Bigl(\frac{|\gamma|}{\sigma}\, s\Bigr)
          (\mathrm{sign}(\gamma)\, q) ,

the codes survive if every output channel has a scale of its own.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply.learned import read_back
from refquant.apply.norms import evaluation
from refquant.apply.rewrite import LAYERS, fold_batch_norms
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.network import Node
from refquant.nn.normalization import batch_norm
from refquant.quantizers._scale import usable
from refquant.quantizers.uniform import Uniform

__all__ = ["Deployed", "deployed"]


class Deployed(NamedTuple):
    """What leaves the training machine.

    Attributes
    ----------
    nodes : list of Node
        Layers with biases, activations, additions, pools.
    values : dict of str to ndarray
        Weights that are levels of their quantizers, float biases.
    plan : dict of str to Uniform
        Of weights and of values: what `refquant.apply.simulate.static` and
        `refquant.apply.lower.lower` take.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, figure 1.1 (a).
    """

    nodes: list[Node]
    values: dict[str, Array]
    plan: dict[str, Uniform]


def deployed(
    nodes: Sequence[Node], values: Mapping[str, Array], *, output: str = "logits"
) -> Deployed:
    """The trained network without what only training needs.

    Parameters
    ----------
    nodes : sequence of Node
        With quantizers, in training or evaluation form.
    values : mapping of str to ndarray
        Trained parameters and running statistics.
    output : str

    Returns
    -------
    Deployed
        Run with the tap ``static(plan)`` it computes, to rounding, what the network of
        `refquant.apply.norms.evaluation` computes. A quantizer without a `Uniform`
        (`read_back`) stays as a node, if it is one of activations.

    Notes
    -----
    Where gamma is negative codes change their sign: on a lopsided range that can need the code
    ``2**(bits - 1)``, and the range is widened to hold it.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.2; Krishnamoorthi, 2018,
    arXiv:1806.08342, section 3.2.2.

    Examples
    --------
    >>> from refquant.apply.learned import insert, lsq_weight
    >>> from refquant.nn.operations import linear
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("logits", linear, ("x", "w"))]
    >>> w = np.array([[0.9, 0.4]])
    >>> new = insert(net, {"w": w}, {"w": symmetric(np.array(1.0), bits=2)}, lsq_weight)
    >>> done = deployed(new.nodes, new.parameters)
    >>> done.values, [node.inputs for node in done.nodes]
    ({'w': array([[1., 0.]])}, [('x', 'w')])
    """
    judged = evaluation(nodes, output=output)
    records = read_back(judged, values)
    known, kept = dict(values), list[Node]()
    renamed, plan = dict[str, str](), dict[str, Uniform]()
    for node in judged:
        node = node._replace(inputs=tuple(renamed.get(i, i) for i in node.inputs))
        source = node.inputs[0]
        quantizes = node.name == f"{source}.q"
        if all(name in known for name in node.inputs):
            name = source if quantizes else node.name       # a weight takes its levels
            known[name] = node.op(*(known[i] for i in node.inputs))[0]
            renamed[node.name] = name
        elif quantizes and source in records:
            renamed[node.name] = source
        else:
            kept.append(node)
            continue
        if quantizes and source in records:
            plan[source] = records[source]
    read = {name for node in kept for name in node.inputs}
    factors = _factors(kept, known)
    folded = fold_batch_norms(kept, {n: v for n, v in known.items() if n in read})
    for weight, factor in factors.items():
        if weight in plan and folded.values[weight] is not known[weight]:
            plan[weight] = _rescaled(plan[weight], factor, folded.values[weight])
    return Deployed(folded.nodes, folded.values, plan)


def _factors(nodes: Sequence[Node], values: Mapping[str, Array]) -> dict[str, Array]:
    """For each weight before a norm, what folding multiplies its channels by."""
    producers, found = {node.name: node for node in nodes}, {}
    for node in nodes:
        layer = producers.get(node.inputs[0])
        if function_of(node.op) is batch_norm and layer and function_of(layer.op) in LAYERS:
            gamma, variance = values[node.inputs[1]], values[node.inputs[4]]
            epsilon = settings_of(node.op).get("epsilon", 1e-5)
            found[layer.inputs[1]] = gamma / np.sqrt(variance + epsilon)
    return found


def _rescaled(quantizer: Uniform, factor: Array, weight: Array) -> Uniform:
    """The quantizer of a weight that was multiplied by `factor`, channel by channel."""
    wide = np.abs(factor).reshape(-1, *(1,) * (weight.ndim - 1))
    scale = usable(np.asarray(wide * quantizer.scale), weight.dtype)
    codes = np.rint(weight / scale)
    qmin, qmax = min(quantizer.qmin, int(codes.min())), max(quantizer.qmax, int(codes.max()))
    return Uniform(scale, np.zeros(scale.shape, np.int32), qmin, qmax)
