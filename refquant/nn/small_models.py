r"""Small trained networks for experiments, several of each, so that a figure has a spread.

===============  ==========================================================  ===========
network          layers                                                      parameters
===============  ==========================================================  ===========
``PLAIN``        3x3 to 16, 3x3 to 32 (stride 2), 3x3 to 32                  14,458
``SEPARABLE``    3x3 to 16, depthwise, 1x1 to 32, depthwise (stride 2),      3,418
                 1x1 to 48
``SEPARABLE6``   the same, with ReLU6 in place of ReLU                       3,418
===============  ==========================================================  ===========

Each convolution is followed by a batch norm and a rectifier; the mean of each
channel goes into a linear layer with ten outputs. A layer L has the names of
`refquant.nn.models`: ``L.weight``, ``L.gamma``, ``L.conv``, ``L.norm`` and L. They are
small enough that a careless quantizer ruins them, and so that rounding all of their
weights by a slow and careful method takes seconds.

The digits are split as for `refquant.nn.data.digits`, but 1,297 to 500: see `split`.
"""

from functools import partial
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.nn._weights import WEIGHTS, load_arrays
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.data import Split
from refquant.nn.models import Model
from refquant.nn.network import Node, Op
from refquant.nn.normalization import batch_norm, batch_norm_training
from refquant.nn.operations import global_average_pool, linear, relu, relu6

__all__ = [
    "PLAIN",
    "SEPARABLE",
    "SEPARABLE6",
    "Architecture",
    "Layer",
    "initial_values",
    "network",
    "split",
    "trained",
]

#: How many networks of each architecture ship, each from a seed of its own.
SEEDS = 5


class Layer(NamedTuple):
    """One convolution, its batch norm and its rectifier.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Of the weight: ``(out, height, width, in)``, ``(channels, height, width, 1)``
        if depthwise.
    convolution : callable
        `conv2d` or `depthwise_conv2d`, its stride and padding set.

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861, figure 3.
    """

    name: str
    shape: tuple[int, ...]
    convolution: Op


class Architecture(NamedTuple):
    """What a network is, before it has parameters.

    Attributes
    ----------
    name : str
        Of its weights in the shipped file.
    layers : tuple of Layer
    rectifier : callable
        `relu` or `relu6`.

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861, table 1 (separable convolutions).
    """

    name: str
    layers: tuple[Layer, ...]
    rectifier: Op


_SAME, _HALVE = partial(conv2d, padding=1), partial(conv2d, padding=1, stride=2)
_DEPTH = partial(depthwise_conv2d, padding=1)

#: Three plain convolutions.
PLAIN = Architecture("plain", (
    Layer("c1", (16, 3, 3, 1), _SAME),
    Layer("c2", (32, 3, 3, 16), _HALVE),
    Layer("c3", (32, 3, 3, 32), _SAME),
), relu)

#: Depthwise convolutions between 1x1 convolutions.
SEPARABLE = Architecture("separable", (
    Layer("c1", (16, 3, 3, 1), _SAME),
    Layer("d1", (16, 3, 3, 1), _DEPTH),
    Layer("p1", (32, 1, 1, 16), conv2d),
    Layer("d2", (32, 3, 3, 1), partial(_DEPTH, stride=2)),
    Layer("p2", (48, 1, 1, 32), conv2d),
), relu)

#: The same with the rectifier that stops at 6.
SEPARABLE6 = SEPARABLE._replace(name="separable6", rectifier=relu6)


def network(architecture: Architecture, *, training: bool = False) -> list[Node]:
    """The nodes of a network, from ``x`` to ``logits``.

    Parameters
    ----------
    architecture : Architecture
    training : bool
        Normalize by the batch's own statistics; otherwise by the running ones.

    Returns
    -------
    list of Node

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861, figure 3.

    Examples
    --------
    >>> [node.name for node in network(PLAIN)][-3:]
    ['c3', 'pool', 'logits']
    """
    nodes, source = [], "x"
    for layer in architecture.layers:
        name = layer.name
        nodes.append(Node(f"{name}.conv", layer.convolution, (source, f"{name}.weight")))
        inputs = (f"{name}.conv", f"{name}.gamma", f"{name}.beta")
        if training:
            nodes.append(Node(f"{name}.norm", batch_norm_training, inputs))
        else:
            statistics = (f"{name}.mean", f"{name}.variance")
            nodes.append(Node(f"{name}.norm", batch_norm, inputs + statistics))
        nodes.append(Node(name, architecture.rectifier, (f"{name}.norm",)))
        source = name
    return [
        *nodes,
        Node("pool", global_average_pool, (source,)),
        Node("logits", linear, ("pool", "fc.weight", "fc.bias")),
    ]


def initial_values(
    architecture: Architecture, *, rng: np.random.Generator,
    dtype: type[np.floating] = np.float32,
) -> Model:
    """A network before training: weights that keep the variance through a rectifier.

    Parameters
    ----------
    architecture : Architecture
    rng : numpy.random.Generator
        Standard normal draws, one per weight, layer after layer in C order.
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    Model
        Weights N(0, 2 / fan-in), gamma and variance 1, the rest 0.

    References
    ----------
    He et al., 2015, arXiv:1502.01852, eq. (10).

    Examples
    --------
    >>> model = initial_values(PLAIN, rng=np.random.default_rng(0))
    >>> sum(v.size for v in model.parameters.values())
    14458
    """
    parameters: dict[str, Array] = {}
    statistics: dict[str, Array] = {}
    shapes = {layer.name: layer.shape for layer in architecture.layers}
    for name, shape in {**shapes, "fc": (10, architecture.layers[-1].shape[0])}.items():
        weight = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        parameters[f"{name}.weight"] = weight.astype(dtype)
        if name == "fc":
            parameters["fc.bias"] = np.zeros(shape[0], dtype)
            continue
        for of, target, value in (("gamma", parameters, 1), ("beta", parameters, 0),
                                  ("mean", statistics, 0), ("variance", statistics, 1)):
            target[f"{name}.{of}"] = np.full(shape[0], value, dtype)
    return Model(network(architecture), parameters, statistics)


def split() -> Split:
    """The digits, 1,297 to train on and 500 to judge by, in one fixed random order.

    Returns
    -------
    Split
        Pixels in [0, 1], multiples of 1/16.

    References
    ----------
    Alpaydin and Kaynak, 1998, UCI "Optical Recognition of Handwritten Digits".

    Examples
    --------
    >>> len(split().x_train), len(split().x_test)
    (1297, 500)
    """
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = labels.astype(np.int64)
    # The legacy generator: its streams are promised never to change.
    train, test = np.split(np.random.RandomState(0).permutation(len(images)), [1297])
    return Split(images[train], labels[train], images[test], labels[test])


def trained(architecture: Architecture, *, seed: int = 0) -> Model:
    """A network that ships with the package, trained on the 1,297 digits of `split`.

    Parameters
    ----------
    architecture : Architecture
        `PLAIN`, `SEPARABLE` or `SEPARABLE6`.
    seed : int
        From 0 to 4: five networks that differ in their first weights and batches.

    Returns
    -------
    Model
        Arrays are read-only, float32.

    Raises
    ------
    FileNotFoundError
        If the file of weights is not there.
    ValueError
        If it is not the file that was shipped, or there is no such network.

    References
    ----------
    Howard et al., 2017, arXiv:1704.04861; `refquant.nn._train_small` is the script.

    Examples
    --------
    >>> trained(SEPARABLE, seed=3).parameters["p2.weight"].shape
    (48, 1, 1, 32)
    """
    require_int("seed", seed, 0, SEEDS - 1)
    empty = initial_values(architecture, rng=np.random.default_rng(0))
    arrays = load_arrays(WEIGHTS / "small_models.npz", script="refquant.nn._train_small")
    start = f"{architecture.name}.{seed}."
    if start + "fc.weight" not in arrays:
        raise ValueError(f"`architecture` must be one that ships; got {architecture.name}")
    return empty._replace(
        parameters={name: arrays[start + name] for name in empty.parameters},
        statistics={name: arrays[start + name] for name in empty.statistics},
    )
