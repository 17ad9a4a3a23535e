r"""Networks that train in few bits: what changes is the nodes and the optimizer, not the loop.

======================  =========================================  =============================
what is short           nodes                                      optimizer of `train`
======================  =========================================  =============================
gradients: FP16         `cast_gradients`, `scaled`                 `loss_scaled`
products: FP8           `fp8`                                      any
stored weights          as they are                                `stored_sgd`
everything (WAGE)       `integer_network`                          `integer_sgd`
======================  =========================================  =============================

What an optimizer remembers is a number of steps, from which each draws its own random
numbers; so a run that is resumed ends in the same bits.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refquant._types import Array, Rounding
from refquant.apply.train import Optimizer
from refquant.nn.convolution import conv2d
from refquant.nn.network import Node, Op, Pullback, insert_after
from refquant.nn.operations import flatten, linear, relu
from refquant.qat.fp8_training import fp8_forward, fp8_gradient
from refquant.qat.integer_training import (
    divisor,
    initial_weight,
    integer_activation,
    integer_error,
    integer_update,
    integer_weight,
)
from refquant.qat.low_precision import (
    Grid,
    LossScaler,
    all_finite,
    gradient_cast,
    scaled_loss,
    stored_update,
    unscaled,
)
from refquant.rounding import stochastic

__all__ = ["Steps", "cast_gradients", "drawn", "fp8", "initial_integers", "integer_network",
           "integer_sgd", "loss_scaled", "scaled", "stored_sgd"]

#: Layer of `integer_network`, shape of its weight, stride.
_LAYERS = (("c1", (16, 3, 3, 1), 1), ("c2", (32, 3, 3, 16), 2), ("c3", (64, 3, 3, 32), 2))
_CLASSIFIER = (10, 2 * 2 * 64)


class Steps(NamedTuple):
    """What an optimizer without momentum remembers.

    Attributes
    ----------
    steps : int
        Taken so far.

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3.
    """

    steps: int = 0


def drawn(rng: np.random.Generator) -> Rounding:
    """Stochastic rounding that draws from a generator.

    Parameters
    ----------
    rng : numpy.random.Generator

    Returns
    -------
    callable, ndarray -> ndarray

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3.

    Examples
    --------
    >>> drawn(np.random.default_rng(0))(np.full(4, 0.5))
    array([0., 1., 1., 1.])
    """
    return partial(stochastic, rng=rng)


def stored_sgd(
    grid: Grid,
    *,
    seed: int,
    rounding: Callable[[np.random.Generator], Rounding] = drawn,
    stored: str = ".weight",
) -> Optimizer:
    """Gradient descent on weights that exist in few bits only.

    Parameters
    ----------
    grid : Grid
        Where the weights live, before the first step too.
    seed : int
        Of the draws, with the number of the step.
    rounding : callable, Generator -> rounding
        ``lambda rng: half_even`` for nearest.
    stored : str
        End of the names that live on the grid; the others are plain floats.

    Returns
    -------
    Optimizer

    References
    ----------
    Gupta et al., 2015, arXiv:1502.02551, section 3; `refquant.qat.low_precision.stored_update`.

    Examples
    --------
    >>> from refquant.quantizers.fixed_point import FixedPoint
    >>> optimizer = stored_sgd(FixedPoint(8, 7), seed=0)
    >>> p, g = {"a.weight": np.full(3, 0.5)}, {"a.weight": np.full(3, 0.3)}
    >>> new, state = optimizer.step(p, g, optimizer.start(p), rate=0.01)
    >>> (new["a.weight"] - 0.5) * 128, state
    (array([-1.,  0.,  0.]), Steps(steps=1))
    """
    def step(parameters: Mapping[str, Array], gradients: Mapping[str, Array], state: Steps, *,
             rate: Any) -> tuple[dict[str, Array], Steps]:
        up = rounding(np.random.default_rng([seed, state.steps]))
        new = dict(parameters)
        for name, update in _updates(parameters, gradients, rate):
            new[name] = (stored_update(new[name], update, grid, rounding=up)
                         if name.endswith(stored) else new[name] + update)
        return new, Steps(state.steps + 1)

    return Optimizer(lambda parameters: Steps(), step)


def cast_gradients(
    nodes: Sequence[Node], cast: Callable[[Array], Array], *, keep: Collection[str] = ("loss",)
) -> list[Node]:
    """The network in which the gradient of each value is cast before it goes on backward.

    Parameters
    ----------
    nodes : sequence of Node
    cast : callable, ndarray -> ndarray
    keep : collection of str
        Values whose gradients stay as they are.

    Returns
    -------
    list of Node
        With a node ``v.cast`` after each value v.

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3.

    Examples
    --------
    >>> nodes = cast_gradients([Node("y", relu, ("x",)), Node("loss", relu, ("y",))], np.rint)
    >>> [(n.name, n.inputs) for n in nodes]
    [('y', ('x',)), ('y.cast', ('y',)), ('loss', ('y.cast',))]
    """
    op = partial(gradient_cast, cast=cast)
    return _behind(nodes, [n.name for n in nodes if n.name not in keep], ".cast", op)


def scaled(nodes: Sequence[Node]) -> list[Node]:
    """The network whose ``loss`` is the old one, now ``nll``, times a ``loss.scale``.

    Parameters
    ----------
    nodes : sequence of Node
        One of them ``loss``.

    Returns
    -------
    list of Node
        They read one more parameter: put ``{"loss.scale": 2.0**16, "loss.clean": 0}``, as
        arrays of float32, beside the others, and train with `loss_scaled`.

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3.2.

    Examples
    --------
    >>> [(n.name, n.inputs) for n in scaled([Node("loss", relu, ("x",))])]
    [('nll', ('x',)), ('loss', ('nll', 'loss.scale'))]
    """
    renamed = [n._replace(name="nll") if n.name == "loss" else n for n in nodes]
    return [*renamed, Node("loss", scaled_loss, ("nll", "loss.scale"))]


def loss_scaled(optimizer: Optimizer, *, interval: int = 2000) -> Optimizer:
    """The optimizer, fed with unscaled gradients, and not fed when one is not finite.

    Parameters
    ----------
    optimizer : Optimizer
    interval : int
        Clean steps until the scale is doubled.

    Returns
    -------
    Optimizer
        It moves ``loss.scale`` and ``loss.clean`` as a `LossScaler` says.

    References
    ----------
    Micikevicius et al., 2018, arXiv:1710.03740, section 3.2; PyTorch, ``torch.amp.GradScaler``.

    Examples
    --------
    >>> from refquant.apply.train import SGD
    >>> optimizer, one = loss_scaled(SGD), np.ones(1)
    >>> p = {"w": one, "loss.scale": 8 * one[0], "loss.clean": 0 * one[0]}
    >>> new, _ = optimizer.step(p, {"w": np.inf * one}, optimizer.start(p), rate=0.1)
    >>> float(new["loss.scale"]), new["w"]
    (4.0, array([1.]))
    """
    own = ("loss.scale", "loss.clean")

    def step(parameters: Mapping[str, Array], gradients: Mapping[str, Array], state: Any, *,
             rate: Any) -> tuple[dict[str, Array], Any]:
        scale, clean = (np.asarray(parameters[name]) for name in own)
        found = {k: g for k, g in gradients.items() if k not in own}
        finite = all_finite(found)
        new = dict(parameters)
        if finite:
            new, state = optimizer.step(parameters, unscaled(found, scale), state, rate=rate)
            new = dict(new)
        after = LossScaler(float(scale), int(clean), interval).after(finite)
        new |= {own[0]: np.asarray(after.scale, scale.dtype),
                own[1]: np.asarray(after.clean, clean.dtype)}
        return new, state

    return Optimizer(optimizer.start, step)


def fp8(nodes: Sequence[Node], *, keep: Collection[str] = ()) -> list[Node]:
    """The network whose layers multiply in FP8: E4M3 forward, E5M2 on the way back.

    Parameters
    ----------
    nodes : sequence of Node
        A layer is a node whose second input ends in ``.weight``.
    keep : collection of str
        Names of layers that stay as they are: the first and the last, as a rule.

    Returns
    -------
    list of Node
        Each layer reads ``L.x8`` and ``L.w8``; ``L.g8`` behind it casts its gradient.

    Raises
    ------
    ValueError
        If a name in `keep` is no layer.

    References
    ----------
    Micikevicius et al., 2022, arXiv:2209.05433, section 3.

    Examples
    --------
    >>> nodes = [Node("y", linear, ("x", "fc.weight")), Node("loss", relu, ("y",))]
    >>> [n.name for n in fp8(nodes)]
    ['y.x8', 'y.w8', 'y', 'y.g8', 'loss']
    """
    layers = [n.name for n in nodes if len(n.inputs) > 1 and n.inputs[1].endswith(".weight")]
    for name in keep:
        if name not in layers:
            raise ValueError(f"`keep` must name layers, {', '.join(layers)}; got {name!r}")
    out: list[Node] = []
    for node in nodes:
        if node.name in layers and node.name not in keep:
            for of, name in zip(("x8", "w8"), node.inputs[:2], strict=True):
                out.append(Node(f"{node.name}.{of}", fp8_forward, (name,)))
            node = node._replace(
                inputs=(f"{node.name}.x8", f"{node.name}.w8", *node.inputs[2:]))
        out.append(node)
    return _behind(out, [n for n in layers if n not in keep], ".g8", fp8_gradient)


def integer_network(*, bits: int = 8) -> list[Node]:
    """A network for the digits in which every number is an integer of few bits.

    ======  ============================  ============
    layer   operation                     output
    ======  ============================  ============
    c1      3x3 convolution, ReLU         8 x 8 x 16
    c2, c3  the same, stride 2            2 x 2 x 64
    fc      linear                        10
    ======  ============================  ============

    Parameters
    ----------
    bits : int
        Of activations and errors; weights have two, and three levels.

    Returns
    -------
    list of Node
        From ``x``, whose pixels are multiples of 1/16, to ``logits``. No batch norm: divisions
        are by powers of two.

    Notes
    -----
    The logits keep the bits of their sum. Clipped to 8 like the rest, the logit of a class can
    saturate on all images; its error is then masked, and the class is lost for good, as
    happened in three of ten runs.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, figure 1 and section 3.

    Examples
    --------
    >>> [n.name for n in integer_network()[:5]]
    ['c1.integers', 'c1.conv', 'c1.relu', 'c1.short', 'c1']
    """
    nodes: list[Node] = []
    source = "x"
    for name, shape, stride in _LAYERS:
        alpha = divisor(int(np.prod(shape[1:])))
        nodes += [
            Node(f"{name}.integers", integer_weight, (f"{name}.weight",)),
            Node(f"{name}.conv", partial(conv2d, stride=stride, padding=1),
                 (source, f"{name}.integers")),
            Node(f"{name}.relu", relu, (f"{name}.conv",)),
            Node(f"{name}.short", partial(integer_activation, alpha=alpha, bits=bits),
                 (f"{name}.relu",)),
            Node(name, partial(integer_error, bits=bits), (f"{name}.short",)),
        ]
        source = name
    return [
        *nodes,
        Node("flat", flatten, (source,)),
        Node("fc.integers", integer_weight, ("fc.weight",)),
        Node("fc", linear, ("flat", "fc.integers")),
        Node("fc.shift", partial(_shifted, alpha=divisor(_CLASSIFIER[1])), ("fc",)),
        Node("logits", partial(integer_error, bits=bits), ("fc.shift",)),
    ]


def initial_integers(*, rng: np.random.Generator) -> dict[str, Array]:
    """Weights of `integer_network` before training, stored in 8 bits.

    Parameters
    ----------
    rng : numpy.random.Generator
        One uniform draw per weight, layer after layer.

    Returns
    -------
    dict of str to ndarray
        25,744 weights and nothing else.

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, eq. (10).

    Examples
    --------
    >>> p = initial_integers(rng=np.random.default_rng(0))
    >>> sum(w.size for w in p.values())
    25744
    """
    shapes = {name: shape for name, shape, _ in _LAYERS} | {"fc": _CLASSIFIER}
    return {f"{name}.weight": initial_weight(shape, rng=rng) for name, shape in shapes.items()}


def integer_sgd(
    *,
    seed: int,
    rounding: Callable[[np.random.Generator], Rounding] = drawn,
    bits: int = 8,
) -> Optimizer:
    """Gradient descent of WAGE: the rate is a number of integer units.

    Parameters
    ----------
    seed : int
        Of the draws, with the number of the step.
    rounding : callable, Generator -> rounding
    bits : int
        Of the stored weights.

    Returns
    -------
    Optimizer

    References
    ----------
    Wu et al., 2018, arXiv:1802.04680, section 3.3.4.

    Examples
    --------
    >>> optimizer = integer_sgd(seed=0)
    >>> p = {"w": np.zeros(2)}
    >>> new, _ = optimizer.step(p, {"w": np.array([1e-9, 0.0])}, Steps(), rate=2.0)
    >>> new["w"] * 128
    array([-2.,  0.])
    """
    def step(parameters: Mapping[str, Array], gradients: Mapping[str, Array], state: Steps, *,
             rate: Any) -> tuple[dict[str, Array], Steps]:
        up = rounding(np.random.default_rng([seed, state.steps]))
        new = dict(parameters)
        for name, w in parameters.items():
            eta = rate(name) if callable(rate) else rate
            if name in gradients and eta > 0:
                new[name] = integer_update(w, gradients[name], rate=eta, rounding=up, bits=bits)
        return new, Steps(state.steps + 1)

    return Optimizer(lambda parameters: Steps(), step)


def _shifted(x: Array, *, alpha: float) -> tuple[Array, Pullback]:
    """`x` over a power of two: a shift."""
    over = x.dtype.type(1 / alpha)
    return x * over, lambda g: (g * over,)


def _updates(
    parameters: Mapping[str, Array], gradients: Mapping[str, Array], rate: Any
) -> list[tuple[str, Array]]:
    """Minus the rate times the gradient, in the dtype of the parameter."""
    return [(name, -w.dtype.type(rate(name) if callable(rate) else rate) * gradients[name])
            for name, w in parameters.items() if name in gradients]


def _behind(nodes: Sequence[Node], names: Collection[str], ending: str, op: Op) -> list[Node]:
    """The network with a node behind each of these values."""
    out = list(nodes)
    for name in names:
        out = insert_after(out, name, Node(name + ending, op, (name,)))
    return out
