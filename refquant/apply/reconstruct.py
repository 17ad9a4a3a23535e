r"""Layer by layer with a target: each layer learns to say what the float network says there.

A method such as AdaRound sees one layer: its weight, the inputs that the *already replaced*
layers make, and what the *float* network has after the activation function that follows.

.. math:: \hat W_l = \arg\min_{W} \; \mathbb{E}\,
          \lVert a(\hat x_l W^{\mathsf T} + b) - a(x_l W_l^{\mathsf T} + b) \rVert^2

So each layer also repairs what the ones before it broke. Labels are not needed, and the images
may come from anywhere: that is where synthetic data goes in.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from refquant._types import Array
from refquant.apply.layerwise import Progress, silent
from refquant.nn._nodes import function_of, readers, settings_of
from refquant.nn.convolution import conv2d, depthwise_conv2d, patches
from refquant.nn.network import Node, Tap, run, untouched
from refquant.nn.operations import linear, relu, relu6
from refquant.ptq.adaround import Activation, identity

__all__ = ["Layer", "Method", "reconstruct"]


class Layer(NamedTuple):
    """What a method sees of one layer.

    Attributes
    ----------
    weight : ndarray of float, shape (out, in)
        Of a convolution, one row per output channel. Of a depthwise convolution too, with the
        channels it does not read as zeros: ``(channels, height * width * channels)``.
    x : ndarray of float, shape (n, positions, in)
        Its inputs behind the replaced layers.
    target : ndarray of float, shape (n, positions, out)
        Of the float network, after the activation function.
    bias : ndarray of float, shape (out,), or None
    activation : callable, ndarray -> (value, pullback)
        What follows the layer: a rectifier, or the identity.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, eq. (25).
    """

    weight: Array
    x: Array
    target: Array
    bias: Array | None
    activation: Activation


#: A layer -> its new weight, shape (out, in).
Method: TypeAlias = Callable[[Layer], Array]


def reconstruct(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    inputs: Mapping[str, Array],
    method: Method,
    *,
    names: Iterable[str],
    tap: Tap = untouched,
    progress: Progress = silent,
) -> dict[str, Array]:
    """The network with weights replaced in the order of the run, each behind the last.

    Parameters
    ----------
    nodes : sequence of Node
        Folded: a batch norm between a layer and its activation hides the activation.
    values : mapping of str to ndarray
        Parameters and constants.
    inputs : mapping of str to ndarray
        Of one run, e.g. ``{"x": images}``: real, or synthetic.
    method : callable, Layer -> ndarray
        For example a function that calls `refquant.ptq.adaround.adaround`.
    names : iterable of str
        Weights of linear layers and convolutions, e.g. ``weight_names(nodes)``.
    tap : callable, (name, value) -> value
        On the run of the replaced layers: quantizes activations on the way.
    progress : callable, (done, total, name)

    Returns
    -------
    dict of str to ndarray
        All parameters, the named weights replaced.

    Raises
    ------
    ValueError
        If a name is no weight of a linear layer or convolution, or the method returns another
        shape.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 3.4.

    Examples
    --------
    >>> net = [Node("y", linear, ("x", "w"))]
    >>> values, x = {"w": np.array([[0.4, 0.4]])}, np.ones((3, 2))
    >>> def to_the_mean(layer):                     # least squares of one free number per row
    ...     return np.tile(layer.target.mean((0, 1))[:, None] / 2, 2)
    >>> reconstruct(net, values, {"x": x}, to_the_mean, names=["w"])["w"]
    array([[0.4, 0.4]])
    """
    layers = _layers(nodes, values, names)
    follower = readers(nodes)
    exact = run(nodes, {**inputs, **values}).values
    new = dict(values)
    for done, node in enumerate(layers, start=1):
        name, *bias = node.inputs[1:]
        after = follower.get(node.name, [])
        activation: Activation = identity
        goal = node.name
        if len(after) == 1 and function_of(after[0].op) in (relu, relu6):
            activation, goal = cast(Activation, after[0].op), after[0].name
        now = run(nodes[: list(nodes).index(node)], {**inputs, **new}, tap=tap).values
        weight, x = _as_rows(node, new[name], now[node.inputs[0]])
        made = method(Layer(weight, x, exact[goal].reshape(*x.shape[:2], len(weight)),
                            new[bias[0]] if bias else None, activation))
        if np.shape(made) != weight.shape:
            raise ValueError(f"`method` must keep the shape {weight.shape} of {name!r}; "
                             f"got {np.shape(made)}")
        new[name] = _as_kernel(node, np.asarray(made), new[name])
        progress(done, len(layers), name)
    return new


def _layers(
    nodes: Sequence[Node], values: Mapping[str, Array], names: Iterable[str]
) -> list[Node]:
    """The nodes whose weights are named, in the order of the run."""
    found = {node.inputs[1]: node for node in nodes
             if function_of(node.op) in (linear, conv2d, depthwise_conv2d)}
    wanted = list(names)
    for name in wanted:
        if name not in found or name not in values:
            raise ValueError(f"`names` must hold weights of linear layers and convolutions; "
                             f"got {name!r}")
    return [node for name, node in found.items() if name in wanted]


def _as_rows(node: Node, weight: Array, x: Array) -> tuple[Array, Array]:
    """Weight (out, in) and inputs (n, positions, in) whose product the layer is."""
    if function_of(node.op) is linear:
        return weight, x.reshape(len(x), -1, x.shape[-1])
    rows = patches(x, weight.shape[1:3], **settings_of(node.op))
    if function_of(node.op) is depthwise_conv2d:
        # A channel reads itself alone: a dense weight with zeros everywhere else.
        weight = weight * np.eye(len(weight), dtype=weight.dtype)[:, None, None]
    return weight.reshape(len(weight), -1), rows.reshape(len(x), -1, rows.shape[-1])


def _as_kernel(node: Node, made: Array, like: Array) -> Array:
    """The weight in the shape that the layer has it in."""
    if function_of(node.op) is depthwise_conv2d:
        channels = np.arange(len(like))
        made = made.reshape(*like.shape[:3], len(like))[channels, :, :, channels]
    return made.reshape(like.shape).astype(like.dtype)
