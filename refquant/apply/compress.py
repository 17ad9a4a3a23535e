"""Smaller networks by name: pruned, narrowed, factored, with shared weights.

======================  ==============================================================
companion               on a network
======================  ==============================================================
`pruned`, `hold`        zeros where a mask says so; and while training goes on
`gradually`             a sparsity that grows with the steps of training
`narrowed`              whole channels gone, from every layer that has them
`factored`              a layer in two thinner ones
`with_codebooks`        weights looked up in a codebook, which is trained in their place
======================  ==============================================================

Training is `refquant.apply.train.train`: what must stay true of the parameters is its ``after``.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_same_shape
from refquant.apply.rewrite import Rewritten
from refquant.compression.deep_compression import Shared
from refquant.compression.low_rank import Factors
from refquant.compression.pruning import keep_largest
from refquant.nn._nodes import function_of, readers
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node, Pullback, insert_after
from refquant.nn.operations import global_average_pool, linear, relu, relu6
from refquant.quantizers.kmeans import centroid_gradients

__all__ = [
    "After",
    "factored",
    "gradually",
    "hold",
    "narrowed",
    "pruned",
    "shared_again",
    "with_codebooks",
]

#: Parameters and number of a step -> parameters to go on with.
After: TypeAlias = Callable[[dict[str, Array], int], dict[str, Array]]

#: Between layers, these leave a channel in its place and make zero of zero.
_THROUGH = (relu, relu6, global_average_pool)


def pruned(values: Mapping[str, Array], masks: Mapping[str, Array]) -> dict[str, Array]:
    """Parameters with zeros wherever a mask says so.

    Parameters
    ----------
    values : mapping of str to ndarray
    masks : mapping of str to ndarray of bool
        True where a weight stays; names without a mask are left alone.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If a mask names no value, or has another shape.

    References
    ----------
    Han et al., 2015, arXiv:1506.02626, section 3.

    Examples
    --------
    >>> pruned({"w": np.array([1.0, 2.0])}, {"w": np.array([False, True])})
    {'w': array([0., 2.])}
    """
    new = dict(values)
    for name, mask in masks.items():
        if name not in values:
            raise ValueError(f"`masks` must name values; got {name!r}")
        require_same_shape(f"masks[{name!r}]", mask, values[name].shape)
        new[name] = np.where(mask, values[name], np.zeros_like(values[name]))
    return new


def hold(masks: Mapping[str, Array]) -> After:
    """What keeps pruned weights at zero while the others are trained.

    An optimizer with momentum moves a weight whose gradient is zero; so the masks act on
    what comes out of the step.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool

    Returns
    -------
    callable, (parameters, step) -> parameters
        The ``after`` of `refquant.apply.train.train`.

    References
    ----------
    Han et al., 2015, arXiv:1506.02626, section 3.2.

    Examples
    --------
    >>> hold({"w": np.array([False, True])})({"w": np.array([0.1, 2.0])}, 0)
    {'w': array([0., 2.])}
    """
    return lambda parameters, step: pruned(parameters, masks)


def gradually(names: Collection[str], sparsity: Callable[[int], float]) -> After:
    """Pruning by magnitude that goes on while the network is trained.

    Each weight is judged anew at every step: one that has grown back takes the place of
    another.

    Parameters
    ----------
    names : collection of str
        Each of them is pruned by itself.
    sparsity : callable, step -> float
        For example ``partial(gradual, 0.0, 0.9, 400)``.

    Returns
    -------
    callable, (parameters, step) -> parameters
        The ``after`` of `refquant.apply.train.train`.

    References
    ----------
    Zhu and Gupta, 2017, arXiv:1710.01878, section 3.

    Examples
    --------
    >>> after = gradually(["w"], lambda step: 0.5 * step)
    >>> [after({"w": np.array([1.0, 2.0])}, step)["w"].tolist() for step in (0, 1, 2)]
    [[1.0, 2.0], [0.0, 2.0], [0.0, 0.0]]
    """
    def after(parameters: dict[str, Array], step: int) -> dict[str, Array]:
        share = sparsity(step)
        return pruned(parameters, {n: keep_largest(np.abs(parameters[n]), share) for n in names})

    return after


def narrowed(
    nodes: Sequence[Node], values: Mapping[str, Array], keep: Mapping[str, Array]
) -> dict[str, Array]:
    """Parameters of the same network with fewer channels between its layers.

    A channel goes from the weight and bias that make it, from depthwise layers that it passes,
    and from the weights that read it.

    Parameters
    ----------
    nodes : sequence of Node
        Without batch norms: `fold_batch_norms` first.
    values : mapping of str to ndarray
    keep : mapping of str to ndarray of bool, shape (channels,)
        Which outputs of a layer stay, by the name of its weight.

    Returns
    -------
    dict of str to ndarray
        For the same nodes: channels are counted by the arrays alone.

    Raises
    ------
    ValueError
        If a name is no weight of a linear layer or convolution, a mask does not fit or keeps
        nothing, or the output goes where channels cannot be taken away: into a sum, or out of
        the network.

    References
    ----------
    Li et al., 2017, arXiv:1608.08710, section 3.1 and figure 1.

    Examples
    --------
    >>> net = [Node("h", linear, ("x", "a", "c")), Node("r", relu, ("h",)),
    ...        Node("y", linear, ("r", "b"))]
    >>> values = {"a": np.array([[1.0], [4.0]]), "c": np.zeros(2), "b": np.array([[2.0, 0.5]])}
    >>> narrowed(net, values, {"a": np.array([False, True])})
    {'a': array([[4.]]), 'c': array([0.]), 'b': array([[0.5]])}
    """
    read, new = readers(nodes), dict(values)
    makers = {n.inputs[1]: n for n in nodes if function_of(n.op) in (linear, conv2d)}
    for name, mask in keep.items():
        if name not in makers or name not in values:
            raise ValueError(f"`keep` must name weights of linear layers and convolutions; "
                             f"got {name!r}")
        mask = np.asarray(mask, bool)
        require_same_shape(f"keep[{name!r}]", mask, (len(values[name]),))
        if not mask.any():
            raise ValueError(f"`keep` must leave a channel of {name!r}; got none")
        for parameter in makers[name].inputs[1:]:
            new[parameter] = new[parameter][mask]
        after = list(read.get(makers[name].name, ()))
        if not after:
            raise ValueError(f"`keep` must name inner layers; got {name!r}, an output")
        while after:
            node = after.pop()
            if function_of(node.op) in (linear, conv2d):
                new[node.inputs[1]] = new[node.inputs[1]][..., mask]
                continue
            if function_of(node.op) is depthwise_conv2d:
                for parameter in node.inputs[1:]:
                    new[parameter] = new[parameter][mask]
            elif function_of(node.op) not in _THROUGH:
                raise ValueError(f"`keep` must name layers whose channels only layers read; "
                                 f"{name!r} goes into {node.name!r}")
            after += read.get(node.name, ())
    return new


def factored(
    nodes: Sequence[Node], values: Mapping[str, Array], factors: Mapping[str, Factors]
) -> Rewritten:
    """The network with some layers in two: the right factor, then the left one.

    Of a convolution the right factor is one with fewer outputs, the left one a 1x1
    convolution. ``fc1.weight`` becomes ``fc1.right`` and ``fc1.left``, read by ``fc1.inner``
    and by the layer as it was called.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
    factors : mapping of str to Factors
        By the name of the weight; of a convolution, of it as ``(out, height * width * in)``.

    Returns
    -------
    Rewritten

    Raises
    ------
    ValueError
        If a name is no weight of a linear layer or convolution, the factors do not fit, or
        their rank is zero.

    References
    ----------
    Denton et al., 2014, arXiv:1404.0736; Zhang et al., 2016, arXiv:1505.06798, section 3.

    Examples
    --------
    >>> from refquant.compression.low_rank import factorize
    >>> net, w = [Node("y", linear, ("x", "y.weight"))], np.array([[3.0, 0.0], [0.0, 0.5]])
    >>> made = factored(net, {"y.weight": w}, {"y.weight": factorize(w, 1)})
    >>> [node.inputs for node in made.nodes]
    [('x', 'y.right'), ('y.inner', 'y.left')]
    """
    new, out = dict(values), list[Node]()
    rest = dict(factors)
    for node in nodes:
        name = node.inputs[1] if function_of(node.op) in (linear, conv2d) else ""
        if name not in rest:
            out.append(node)
            continue
        pair, shape = rest.pop(name), values[name].shape
        left, right = pair.left, pair.right
        require_same_shape(f"factors[{name!r}]", pair.weight, (shape[0], int(np.prod(shape[1:]))))
        if not len(right):
            raise ValueError(f"`factors` must have a rank of at least 1; got 0 for {name!r}")
        stem = name.removesuffix(".weight")
        if len(shape) == 4:
            right, left = right.reshape(-1, *shape[1:]), left[:, None, None, :]
        del new[name]
        new |= {f"{stem}.right": right, f"{stem}.left": left}
        second = conv2d if len(shape) == 4 else linear
        out += [Node(f"{stem}.inner", node.op, (node.inputs[0], f"{stem}.right")),
                Node(node.name, second, (f"{stem}.inner", f"{stem}.left"))]
        if node.inputs[2:]:
            out[-1] = _with_bias(out[-1], node.inputs[2])
    if rest:
        raise ValueError(f"`factors` must name weights of linear layers and convolutions; "
                         f"got {next(iter(rest))!r}")
    return Rewritten(out, new)


def with_codebooks(
    nodes: Sequence[Node], values: Mapping[str, Array], shares: Mapping[str, Shared]
) -> Rewritten:
    """The network that looks its weights up; ``fc1.codebook`` takes the place of ``fc1.weight``.

    Which weights belong together stays; the gradient of a value is the sum over its members.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
    shares : mapping of str to Shared
        By the name of the weight.

    Returns
    -------
    Rewritten
        Codebooks in the dtype of the weights.

    Raises
    ------
    ValueError
        If a share names no weight, or has another shape.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, section 3.3 and eq. (3).

    Examples
    --------
    >>> from refquant.compression.deep_compression import share
    >>> net, w = [Node("y", linear, ("x", "y.weight"))], np.array([[3.5, 0.0], [2.5, 0.5]])
    >>> made = with_codebooks(net, {"y.weight": w}, {"y.weight": share(w, 2)})
    >>> made.values["y.codebook"], made.nodes[1].inputs
    (array([0.5, 3. ]), ('x', 'y.weight.shared'))
    """
    new, out = dict(values), list(nodes)
    for name, shared in shares.items():
        if name not in values:
            raise ValueError(f"`shares` must name weights; got {name!r}")
        require_same_shape(f"shares[{name!r}]", shared.codes, values[name].shape)
        book = _codebook(name)
        out = insert_after(
            out, name, Node(f"{name}.shared", partial(_look_up, codes=shared.codes), (book,)))
        new[book] = shared.codebook.astype(values[name].dtype)
        del new[name]
    return Rewritten(out, new)


def shared_again(
    shares: Mapping[str, Shared], parameters: Mapping[str, Array]
) -> dict[str, Shared]:
    """The shares with the codebooks that training has made of theirs.

    Parameters
    ----------
    shares : mapping of str to Shared
        What `with_codebooks` was given.
    parameters : mapping of str to ndarray
        After training.

    Returns
    -------
    dict of str to Shared
        Values in the order of training, which need not ascend any more.

    References
    ----------
    Han et al., 2016, arXiv:1510.00149, figure 3.

    Examples
    --------
    >>> shares = {"y.weight": Shared(np.array([1.0], np.float32), np.array([[0, 1]]))}
    >>> shared_again(shares, {"y.codebook": np.array([1.5])})["y.weight"].weight
    array([[0. , 1.5]], dtype=float32)
    """
    return {name: shared._replace(codebook=parameters[_codebook(name)].astype(np.float32))
            for name, shared in shares.items()}


def _codebook(name: str) -> str:
    return f"{name.removesuffix('.weight')}.codebook"


def _look_up(codebook: Array, *, codes: Array) -> tuple[Array, Pullback]:
    """Weights by their codes; 0 stands for zero, which is no value and is not trained."""
    weight = np.concatenate([np.zeros(1, codebook.dtype), codebook])[codes]

    def pullback(g: Array) -> tuple[Array]:
        return (centroid_gradients(g, codes, len(codebook) + 1)[1:],)

    return weight, pullback


def _with_bias(node: Node, bias: str) -> Node:
    return node._replace(inputs=(*node.inputs, bias))
