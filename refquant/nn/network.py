"""A network is a list of named operations, and running it is one loop.

Everything has a name: inputs, parameters, and the value each node produces.
To quantize a network is to do something to named values, in one of two ways:

* a *tap* sees every value under its name and may replace it: calibration
  records, fake quantization substitutes, sensitivity analysis perturbs;
* *insertion* adds a node whose own parameters are trained: LSQ, PACT.

The backward pass does not see taps, so a quantizing tap is the straight-through
estimator. Rule: tap when you only run, insert when you train or lower.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refquant._types import Array

__all__ = ["Node", "Op", "Pullback", "Tap", "Trace", "backward", "insert_after", "run", "untouched"]

#: Gradient of the value -> one gradient per input; None for an input without one (labels).
Pullback: TypeAlias = Callable[[Array], tuple[Array | None, ...]]

#: Arrays -> the value, and how a gradient of it passes back to them.
Op: TypeAlias = Callable[..., tuple[Array, Pullback]]

#: A look at one named value: what it returns is what the network goes on with.
Tap: TypeAlias = Callable[[str, Array], Array]


class Node(NamedTuple):
    """One operation: the name of what it produces, the operation, the names it reads.

    Attributes
    ----------
    name : str
        Of the value produced; unlike every other name in the network.
    op : callable
        ``op(*arrays)`` returns ``(value, pullback)``; ``pullback(g)`` returns a
        tuple with one gradient per array. Settings go in with `functools.partial`.
    inputs : tuple of str
        Names of inputs, parameters or earlier nodes, in the order of `op`.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-G: fake quantization
    acts on the named weights and activations of such a graph.

    Examples
    --------
    >>> double = lambda x: (2 * x, lambda g: (2 * g,))
    >>> run([Node("y", double, ("x",))], {"x": np.array([1.5])}).values["y"]
    array([3.])
    """

    name: str
    op: Op
    inputs: tuple[str, ...]


class Trace(NamedTuple):
    """What a run leaves behind: every value by name, and the way back.

    Attributes
    ----------
    values : dict of str to ndarray
        Inputs, parameters and the values of all nodes, as the taps returned them.
    pullbacks : list of (Node, callable)
        In the order of the run.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.
    """

    values: dict[str, Array]
    pullbacks: list[tuple[Node, Pullback]]


def untouched(name: str, value: Array) -> Array:
    """The value itself: the tap that does nothing.

    Parameters
    ----------
    name : str
    value : ndarray

    Returns
    -------
    ndarray
        The very object passed in.

    References
    ----------
    The identity; compare Gholami et al., 2021, arXiv:2103.13630, eq. (2).

    Examples
    --------
    >>> untouched("x", np.array([1.0]))
    array([1.])
    """
    return value


def run(nodes: Iterable[Node], values: Mapping[str, Array], *, tap: Tap = untouched) -> Trace:
    """Every named value of the network, and how to go back through it.

    Parameters
    ----------
    nodes : iterable of Node
        In an order in which each node finds its inputs.
    values : mapping of str to ndarray
        Inputs and parameters. Names that no node reads are allowed.
    tap : callable, (name, value) -> value
        Called once on every input, parameter and node output, in this order.
        Must keep the shape. The backward pass does not see it.

    Returns
    -------
    Trace

    Raises
    ------
    ValueError
        If a node reads a name that does not exist yet, two values have the same
        name, or `tap` changes a shape.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3 (simulated quantization).

    Examples
    --------
    >>> from refquant.nn.operations import relu
    >>> net = [Node("h", relu, ("x",)), Node("y", relu, ("h",))]
    >>> trace = run(net, {"x": np.array([-1.0, 2.0])}, tap=lambda name, v: v + (name == "h"))
    >>> trace.values["y"]
    array([1., 3.])
    """
    seen: dict[str, Array] = {}
    for name, value in values.items():
        seen[name] = _tapped(tap, name, value)
    pullbacks: list[tuple[Node, Pullback]] = []
    for node in nodes:
        for name in node.inputs:
            if name not in seen:
                raise ValueError(f"`nodes` must read known names; got {name!r} in {node.name!r}")
        if node.name in seen:
            raise ValueError(f"`nodes` must produce each name once; got {node.name!r} again")
        value, pullback = node.op(*(seen[name] for name in node.inputs))
        seen[node.name] = _tapped(tap, node.name, value)
        pullbacks.append((node, pullback))
    return Trace(seen, pullbacks)


def backward(trace: Trace, gradients: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
    """Gradients of every named value, given those of some outputs.

    A value read twice collects the sum of both gradients. What nothing asked
    for depends on has no entry in the result.

    Parameters
    ----------
    trace : Trace
        Of `run`.
    gradients : mapping of str to array
        Usually ``{"loss": 1.0}``; shape of the named values. Several seeds are
        allowed, also in the middle of the network.

    Returns
    -------
    dict of str to ndarray
        Shape and dtype of the named values.

    Raises
    ------
    ValueError
        If a seed names no value, or a gradient has not the shape of its value,
        or a pullback returns the wrong number of gradients.

    References
    ----------
    Linnainmaa, 1976, BIT 16, pp. 146-160 (reverse accumulation); Bengio et al.,
    2013, arXiv:1308.3432, section 3.4 (why not seeing taps is the straight-through
    estimator).

    Examples
    --------
    >>> add = lambda a, b: (a + b, lambda g: (g, g))
    >>> trace = run([Node("y", add, ("x", "x"))], {"x": np.array(5.0)})
    >>> backward(trace, {"y": 1.0})["x"]
    array(2.)
    """
    found: dict[str, Array] = {}
    for name, seed in gradients.items():
        if name not in trace.values:
            raise ValueError(f"`gradients` must name values of the trace; got {name!r}")
        # A Python 1.0 must not turn a float32 backward pass into a float64 one.
        found[name] = np.asarray(seed, dtype=trace.values[name].dtype)
        _require_shape(name, found[name], trace.values[name])
    for node, pullback in reversed(trace.pullbacks):
        if node.name not in found:              # nothing downstream depends on it
            continue
        parts = pullback(found[node.name])
        if len(parts) != len(node.inputs):
            raise ValueError(
                f"`op` of {node.name!r} must return {len(node.inputs)} gradients; got {len(parts)}"
            )
        for name, g in zip(node.inputs, parts, strict=True):
            if g is None:
                continue
            _require_shape(name, g, trace.values[name])
            # Never in place: `add` hands the same array to both of its inputs.
            found[name] = np.asarray(found[name] + g) if name in found else g
    return found


def insert_after(nodes: Sequence[Node], name: str, node: Node) -> list[Node]:
    """A new network in which later readers of `name` read `node` instead.

    Parameters
    ----------
    nodes : sequence of Node
    name : str
        An input, a parameter or the output of a node.
    node : Node
        Placed right after `name` exists. It may read `name`, and should.

    Returns
    -------
    list of Node

    Raises
    ------
    ValueError
        If nothing produces or reads `name`, or the name of `node` is taken.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, section 2: a quantizer with a trained
    step in front of each weight and activation.

    Examples
    --------
    >>> from refquant.nn.operations import relu
    >>> net = [Node("h", relu, ("x",)), Node("y", relu, ("h",))]
    >>> [n.inputs for n in insert_after(net, "h", Node("h.q", relu, ("h",)))]
    [('x',), ('h',), ('h.q',)]
    """
    produced = [n.name for n in nodes]
    read = {i for n in nodes for i in n.inputs}
    if name not in produced and name not in read:
        raise ValueError(f"`name` must occur in the network; got {name!r}")
    if node.name in produced or node.name in read:
        raise ValueError(f"`node` must have a new name; got {node.name!r}")
    at = produced.index(name) + 1 if name in produced else 0
    later = [
        n._replace(inputs=tuple(node.name if i == name else i for i in n.inputs))
        for n in nodes[at:]
    ]
    return [*nodes[:at], node, *later]


def _tapped(tap: Tap, name: str, value: Array) -> Array:
    """What `tap` makes of `value`."""
    value = np.asarray(value)
    out = np.asarray(tap(name, value))
    if out.shape != value.shape:
        raise ValueError(f"`tap` must keep the shape {value.shape} of {name!r}; got {out.shape}")
    return out


def _require_shape(name: str, gradient: Any, value: Array) -> None:
    """Raise unless a gradient has the shape of its value."""
    if np.shape(gradient) != value.shape:
        raise ValueError(
            f"gradient of {name!r} must have shape {value.shape}; got {np.shape(gradient)}"
        )
