"""Read off a network what its layers cost: weights, multiplications, activations, shapes."""

from collections.abc import Mapping, Sequence

from refquant._types import Array
from refquant.mixed_precision.cost_model import LayerCost
from refquant.mixed_precision.latency_table import Shape
from refquant.nn._nodes import function_of
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node, run
from refquant.nn.operations import linear

__all__ = ["layer_costs", "layer_shapes"]


def layer_costs(nodes: Sequence[Node], values: Mapping[str, Array]) -> list[LayerCost]:
    """Cost of each layer with a weight, in the order of the run.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Inputs and parameters; the network is run once, on inputs of leading axis n,
        and all counts are for one of the n.

    Returns
    -------
    list of LayerCost
        Named by their weights, as in `refquant.apply.simulate.weight_names`.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680, section 3.3.

    Examples
    --------
    >>> from refquant.nn.data import digits
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> costs = layer_costs(model.nodes, {"x": digits().x_test[:1], **model.values})
    >>> costs[0].name, costs[0].weights, costs[0].macs
    ('stem.weight', 144, 9216)
    """
    trace = run(nodes, values)
    found = []
    for node in _layers(nodes):
        x, weight, y = (trace.values[n] for n in (*node.inputs[:2], node.name))
        outputs = y.size // len(y)
        macs = outputs * (weight.size // len(weight))
        found.append(LayerCost(
            node.inputs[1], weight.size, macs, x.size // len(x), outputs, len(weight)))
    return found


def layer_shapes(nodes: Sequence[Node], values: Mapping[str, Array]) -> dict[str, Shape]:
    """Shape of each layer's product, as a kernel sees it, for all inputs together.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Inputs and parameters; the network is run once.

    Returns
    -------
    dict of str to Shape
        By the name of the weight; a convolution multiplies its patches.

    References
    ----------
    Chellapilla et al., 2006, "High performance convolutional neural networks for
    document processing", section 4 (a convolution as a product of matrices).

    Examples
    --------
    >>> from refquant.nn.data import digits
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> shapes = layer_shapes(model.nodes, {"x": digits().x_test[:1], **model.values})
    >>> shapes["r1a.weight"]
    Shape(rows=64, inputs=144, outputs=16, depthwise=False)
    """
    trace = run(nodes, values)
    found = {}
    for node in _layers(nodes):
        weight, y = trace.values[node.inputs[1]], trace.values[node.name]
        rows, inputs = y.size // y.shape[-1], weight.size // len(weight)
        found[node.inputs[1]] = Shape(
            rows, inputs, len(weight), function_of(node.op) is depthwise_conv2d)
    return found


def _layers(nodes: Sequence[Node]) -> list[Node]:
    return [n for n in nodes if function_of(n.op) in (conv2d, depthwise_conv2d, linear)]
