r"""The running example: a residual network with depthwise blocks that reads digits.

=========  ==========================================  ============  =============
layer      operation (each: batch norm, then ReLU)      output        weights
=========  ==========================================  ============  =============
stem       3x3 convolution                             8 x 8 x 16    (16, 3, 3, 1)
r1a, r1b   two 3x3 convolutions, plus a shortcut       8 x 8 x 16    (16, 3, 3, 16)
dw1        3x3 depthwise, stride 2                     4 x 4 x 16    (16, 3, 3, 1)
pw1        1x1 convolution                             4 x 4 x 32    (32, 1, 1, 16)
r2a, r2b   two 3x3 convolutions, plus a shortcut       4 x 4 x 32    (32, 3, 3, 32)
dw2        3x3 depthwise, stride 2                     2 x 2 x 32    (32, 3, 3, 1)
pw2        1x1 convolution                             2 x 2 x 64    (64, 1, 1, 32)
fc         linear, on the mean of each channel         10            (10, 64)
=========  ==========================================  ============  =============

27,338 parameters. A layer L has the values ``L.conv`` (products), ``L.norm``
(normalized) and ``L`` (after the ReLU); the parameters ``L.weight``, ``L.gamma``,
``L.beta``; the statistics ``L.mean``, ``L.variance``. The input of every layer is
a named value and is never negative.
"""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.nn._weights import WEIGHTS as FOLDER
from refquant.nn._weights import load_arrays
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.network import Node, Op, Tap, run, untouched
from refquant.nn.normalization import batch_norm, batch_norm_training
from refquant.nn.operations import add, global_average_pool, linear, relu

__all__ = [
    "Model",
    "accuracy",
    "digits_cnn",
    "initial_parameters",
    "initial_statistics",
    "predict",
    "trained_digits_cnn",
    "with_loss",
]

WEIGHTS = FOLDER / "digits_cnn.npz"
WEIGHTS_SHA256 = "9b3f6844affd92786ffcfe6522730dab510fe3d2e0fc44a21a279e3ce391f6b4"

#: Layer and shape of its weight, in the order of the run.
_SHAPES = {
    "stem": (16, 3, 3, 1),
    "r1a": (16, 3, 3, 16),
    "r1b": (16, 3, 3, 16),
    "dw1": (16, 3, 3, 1),
    "pw1": (32, 1, 1, 16),
    "r2a": (32, 3, 3, 32),
    "r2b": (32, 3, 3, 32),
    "dw2": (32, 3, 3, 1),
    "pw2": (64, 1, 1, 32),
    "fc": (10, 64),
}


class Model(NamedTuple):
    """A trained network, ready to run.

    Attributes
    ----------
    nodes : list of Node
        In evaluation form, from ``x`` to ``logits``.
    parameters : dict of str to ndarray
        What was trained.
    statistics : dict of str to ndarray
        Running means and variances of the batch norms.

    References
    ----------
    He et al., 2016, arXiv:1512.03385; Howard et al., 2017, arXiv:1704.04861.
    """

    nodes: list[Node]
    parameters: dict[str, Array]
    statistics: dict[str, Array]

    @property
    def values(self) -> dict[str, Array]:
        """Parameters and statistics together: what `run` needs besides ``x``."""
        return self.parameters | self.statistics


def digits_cnn(*, training: bool = False) -> list[Node]:
    """The nodes of the network, from ``x`` to ``logits``.

    Parameters
    ----------
    training : bool
        Normalize by the batch's own statistics; otherwise by the running ones.

    Returns
    -------
    list of Node

    References
    ----------
    He et al., 2016, arXiv:1512.03385, figure 2 (residual block); Howard et al.,
    2017, arXiv:1704.04861, figure 3 (depthwise block).

    Examples
    --------
    >>> [node.name for node in digits_cnn()[:3]]
    ['stem.conv', 'stem.norm', 'stem']
    """
    same = partial(conv2d, padding=1)
    halve = partial(depthwise_conv2d, stride=2, padding=1)

    def normalized(layer: str) -> Node:
        inputs = (f"{layer}.conv", f"{layer}.gamma", f"{layer}.beta")
        if training:
            return Node(f"{layer}.norm", batch_norm_training, inputs)
        return Node(f"{layer}.norm", batch_norm, (*inputs, f"{layer}.mean", f"{layer}.variance"))

    def block(layer: str, source: str, convolution: Op, shortcut: str = "") -> list[Node]:
        nodes = [
            Node(f"{layer}.conv", convolution, (source, f"{layer}.weight")),
            normalized(layer),
        ]
        if shortcut:
            nodes.append(Node(f"{layer}.sum", add, (f"{layer}.norm", shortcut)))
        return [*nodes, Node(layer, relu, (nodes[-1].name,))]

    return [
        *block("stem", "x", same),
        *block("r1a", "stem", same),
        *block("r1b", "r1a", same, shortcut="stem"),
        *block("dw1", "r1b", halve),
        *block("pw1", "dw1", conv2d),
        *block("r2a", "pw1", same),
        *block("r2b", "r2a", same, shortcut="pw1"),
        *block("dw2", "r2b", halve),
        *block("pw2", "dw2", conv2d),
        Node("pool", global_average_pool, ("pw2",)),
        Node("logits", linear, ("pool", "fc.weight", "fc.bias")),
    ]


def with_loss(nodes: Iterable[Node]) -> list[Node]:
    """The nodes, and after them the ``loss`` of ``logits`` against ``labels``.

    Parameters
    ----------
    nodes : iterable of Node

    Returns
    -------
    list of Node

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, eq. (1): the empirical risk.

    Examples
    --------
    >>> with_loss(digits_cnn())[-1].inputs
    ('logits', 'labels')
    """
    return [*nodes, Node("loss", softmax_cross_entropy, ("logits", "labels"))]


def initial_parameters(
    *, rng: np.random.Generator, width: int = 16, dtype: type[np.floating] = np.float32
) -> dict[str, Array]:
    """Parameters before training: weights that keep the variance through a ReLU.

    Parameters
    ----------
    rng : numpy.random.Generator
        Standard normal draws, one per weight, layer after layer in C order.
    width : int
        Channels of the stem, at least 1; those of the layers behind it go with it. Nodes do not
        depend on it.
    dtype : numpy.float32 or numpy.float64
        The same draws in either.

    Returns
    -------
    dict of str to ndarray
        Weights N(0, 2 / fan-in), gamma 1, beta and bias 0.

    References
    ----------
    He et al., 2015, arXiv:1502.01852, eq. (10).

    Examples
    --------
    >>> p = initial_parameters(rng=np.random.default_rng(0))
    >>> sum(v.size for v in p.values())
    27338
    """
    parameters: dict[str, Array] = {}
    for layer, shape in _shapes(width).items():
        fan_in = int(np.prod(shape[1:]))
        weight = rng.standard_normal(shape) * (2 / fan_in) ** 0.5
        parameters[f"{layer}.weight"] = weight.astype(dtype)
        if layer == "fc":
            parameters["fc.bias"] = np.zeros(shape[0], dtype)
        else:
            parameters[f"{layer}.gamma"] = np.ones(shape[0], dtype)
            parameters[f"{layer}.beta"] = np.zeros(shape[0], dtype)
    return parameters


def initial_statistics(
    *, width: int = 16, dtype: type[np.floating] = np.float32
) -> dict[str, Array]:
    """Running statistics before training: mean 0 and variance 1.

    Parameters
    ----------
    width : int
        As in `initial_parameters`.
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    dict of str to ndarray

    References
    ----------
    Ioffe and Szegedy, 2015, arXiv:1502.03167, algorithm 2.

    Examples
    --------
    >>> initial_statistics()["stem.mean"].shape
    (16,)
    """
    statistics: dict[str, Array] = {}
    for layer, shape in _shapes(width).items():
        if layer != "fc":
            statistics[f"{layer}.mean"] = np.zeros(shape[0], dtype)
            statistics[f"{layer}.variance"] = np.ones(shape[0], dtype)
    return statistics


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the weights when the stem has `width` channels; image and classes stay."""
    require_int("width", width, 1)
    ends = {1, 3, 10}                   # grey, kernel side, classes
    return {layer: tuple(n if n in ends else n * width // 16 for n in shape)
            for layer, shape in _SHAPES.items()}


def trained_digits_cnn() -> Model:
    """The network that ships with the package, trained on one half of the digits.

    Its accuracy on the other half, ``digits(seed=0).x_test``, stands in
    ``weights/digits_cnn.json``; `refquant.nn._train_digits` is the script.

    Returns
    -------
    Model
        Arrays are read-only, float32.

    Raises
    ------
    FileNotFoundError
        If the file of weights is not there.
    ValueError
        If it is not the file that was shipped.

    References
    ----------
    He et al., 2016, arXiv:1512.03385; Howard et al., 2017, arXiv:1704.04861.

    Examples
    --------
    >>> model = trained_digits_cnn()
    >>> model.parameters["fc.weight"].shape
    (10, 64)
    """
    return _load(WEIGHTS, WEIGHTS_SHA256)


def predict(model: Model, x: Array, *, tap: Tap = untouched) -> Array:
    """Logits of each image.

    Parameters
    ----------
    model : Model
    x : ndarray of float, shape (n, height, width, channels)
    tap : callable, (name, value) -> value
        As in `refquant.nn.network.run`.

    Returns
    -------
    ndarray, shape (n, classes)

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3 (simulated inference by taps).

    Examples
    --------
    >>> from refquant.nn.data import digits
    >>> predict(trained_digits_cnn(), digits().x_test[:2]).shape
    (2, 10)
    """
    return run(model.nodes, {"x": x, **model.values}, tap=tap).values["logits"]


def accuracy(model: Model, x: Array, labels: Array, *, tap: Tap = untouched) -> float:
    """Share of images whose largest logit is the label, in [0, 1].

    Parameters
    ----------
    model : Model
    x : ndarray of float, shape (n, height, width, channels)
    labels : ndarray of int, shape (n,)
    tap : callable, (name, value) -> value
        As in `refquant.nn.network.run`.

    Returns
    -------
    float

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-A.

    Examples
    --------
    >>> from refquant.nn.data import digits
    >>> accuracy(trained_digits_cnn(), digits().x_test, digits().y_test) >= 0.98
    True
    """
    return float((predict(model, x, tap=tap).argmax(1) == labels).mean())


def _load(path: Path, sha256: str) -> Model:
    """The model of a file."""
    arrays = load_arrays(path, script="refquant.nn._train_digits", sha256=sha256)
    statistics = initial_statistics()
    return Model(
        digits_cnn(),
        {name: array for name, array in arrays.items() if name not in statistics},
        {name: arrays[name] for name in statistics},
    )
