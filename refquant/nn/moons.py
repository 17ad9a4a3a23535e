"""Two moons in the plane, and a small network for them: training that fits in a picture."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.nn.network import Node, Op
from refquant.nn.operations import linear, relu

__all__ = ["Moons", "initial_mlp", "mlp", "two_moons"]


class Moons(NamedTuple):
    """Points of the plane and which moon they belong to.

    Attributes
    ----------
    x : ndarray of float32, shape (n, 2)
    y : ndarray of int64, shape (n,)
        0 for the upper moon, 1 for the lower.

    References
    ----------
    Pedregosa et al., 2011, JMLR 12 (scikit-learn's ``make_moons``).
    """

    x: Array
    y: Array


def two_moons(n: int, *, rng: np.random.Generator, noise: float = 0.15) -> Moons:
    r"""Points on two half circles that reach into each other.

    .. math:: (\cos t, \sin t) \quad\text{and}\quad (1 - \cos t, \tfrac12 - \sin t),
              \qquad 0 \le t \le \pi

    Parameters
    ----------
    n : int
        Points in all; the moons take turns.
    rng : numpy.random.Generator
        n uniform draws for t, then one normal draw per coordinate.
    noise : float
        Standard deviation added to each coordinate.

    Returns
    -------
    Moons

    References
    ----------
    Pedregosa et al., 2011, JMLR 12 (scikit-learn's ``make_moons``, with random t).

    Examples
    --------
    >>> moons = two_moons(4, rng=np.random.default_rng(0), noise=0.0)
    >>> moons.y, float((moons.x[0] ** 2).sum().round(6))
    (array([0, 1, 0, 1]), 1.0)
    """
    t = rng.uniform(0, np.pi, require_int("n", n, 1))
    y = np.arange(n) % 2
    upper, lower = (np.cos(t), np.sin(t)), (1 - np.cos(t), 0.5 - np.sin(t))
    x = np.where(y == 0, upper, lower).T + noise * rng.standard_normal((n, 2))
    return Moons(x.astype(np.float32), y.astype(np.int64))


def mlp(*, activation: Op = relu) -> list[Node]:
    """A perceptron of three layers: ``fc1``, ``h1``, ``fc2``, ``h2``, ``logits``.

    Parameters
    ----------
    activation : callable, ndarray -> (value, pullback)
        Of both hidden layers: a staircase or a sign in place of the rectifier.

    Returns
    -------
    list of Node
        From ``x`` to ``logits``; reads ``fc1.weight``, ``fc1.bias`` and so on to ``fc3``.

    References
    ----------
    Rumelhart et al., 1986, Nature 323.

    Examples
    --------
    >>> [node.name for node in mlp()]
    ['fc1', 'h1', 'fc2', 'h2', 'logits']
    """
    return [
        Node("fc1", linear, ("x", "fc1.weight", "fc1.bias")),
        Node("h1", activation, ("fc1",)),
        Node("fc2", linear, ("h1", "fc2.weight", "fc2.bias")),
        Node("h2", activation, ("fc2",)),
        Node("logits", linear, ("h2", "fc3.weight", "fc3.bias")),
    ]


def initial_mlp(
    widths: tuple[int, int, int, int] = (2, 16, 16, 2), *, rng: np.random.Generator
) -> dict[str, Array]:
    """Parameters of `mlp` before training: weights that keep the variance through a rectifier.

    Parameters
    ----------
    widths : tuple of int
        Inputs, both hidden layers, classes.
    rng : numpy.random.Generator
        One normal draw per weight, layer by layer.

    Returns
    -------
    dict of str to ndarray of float32

    References
    ----------
    He et al., 2015, arXiv:1502.01852, eq. (10).

    Examples
    --------
    >>> {k: v.shape for k, v in initial_mlp(rng=np.random.default_rng(0)).items() if "1" in k}
    {'fc1.weight': (16, 2), 'fc1.bias': (16,)}
    """
    values = {}
    for i, (fan_in, out) in enumerate(pairwise(widths), 1):
        weight = rng.standard_normal((out, fan_in)) * (2 / fan_in) ** 0.5
        values[f"fc{i}.weight"] = weight.astype(np.float32)
        values[f"fc{i}.bias"] = np.zeros(out, np.float32)
    return values
