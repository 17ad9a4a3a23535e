r"""Mixed precision on a network: fill the tables layer by layer, then give each layer its choice.

=====================  ===============================================================
function               what comes out
=====================  ===============================================================
`candidates`           each weight in each choice (such as a number of bits)
`sizes`                bits that each would take
`divergences`          how the predictions change with one layer in one choice
`losses`               the loss with one layer in one choice
`traces`               the trace of each layer's Hessian, with its standard error
`eigenvalues`          the top eigenvalue of each
`fisher`               the diagonal of each layer's Fisher information
`allocated`            the network with a choice for each layer
=====================  ===============================================================

A layer changes only what comes after it, so each measurement runs the network from there on.
Measurements need nothing of each other: joblib runs them one by one, or on the backend that the
caller has chosen with ``joblib.parallel_config``. Threads share the network; processes and a
cluster get a copy of it, and the same numbers but for the last bits of sums.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from refquant._types import Array
from refquant.apply._at_once import at_once
from refquant.mixed_precision._progress import silent
from refquant.mixed_precision.hessian import (
    Eigenpair,
    TraceSamples,
    hessian_product,
    hutchinson,
    top_eigenvalue,
)
from refquant.mixed_precision.sensitivity import (
    Progress,
    fisher_diagonal,
    one_at_a_time,
    prediction_divergence,
)
from refquant.nn._nodes import function_of
from refquant.nn.network import Node, Op, Pullback, backward, run
from refquant.nn.operations import relu, relu6
from refquant.quantizer import Fit, fake_quantize

__all__ = ["allocated", "candidates", "divergences", "eigenvalues", "fisher", "gradient_of",
           "losses", "sizes", "smooth_at", "traces"]


def candidates(
    values: Mapping[str, Array], names: Iterable[str], fits: Sequence[Fit]
) -> list[list[Array]]:
    """Each named weight as each of the fits would leave it.

    Parameters
    ----------
    values : mapping of str to ndarray
    names : iterable of str
        Weights, usually ``weight_names(nodes)``.
    fits : sequence of callable, ndarray -> Quantizer
        One for each choice.

    Returns
    -------
    list of list of ndarray
        ``result[i][k]`` is the weight of the i-th name in choice k.

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2).

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.quantizers.uniform import symmetric
    >>> fits = [partial(symmetric, np.array(1.0), bits=bits) for bits in (2, 3)]
    >>> candidates({"w": np.array([0.3, 1.0])}, ["w"], [lambda w, f=f: f() for f in fits])
    [[array([0., 1.]), array([0.33333333, 1.        ])]]
    """
    return [[fake_quantize(values[name], fit(values[name])) for fit in fits] for name in names]


def sizes(values: Mapping[str, Array], names: Iterable[str], bits: Sequence[int]) -> Array:
    """Bits that the codes of each weight take in each width; scales not counted.

    Parameters
    ----------
    values : mapping of str to ndarray
    names : iterable of str
    bits : sequence of int

    Returns
    -------
    ndarray of int64, shape (layers, choices)

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680 (HAWQ-V3).

    Examples
    --------
    >>> sizes({"w": np.zeros((2, 3))}, ["w"], [4, 8])
    array([[24, 48]])
    """
    counts = np.array([values[name].size for name in names], np.int64)
    return np.multiply.outer(counts, np.array(bits, np.int64))


def allocated(
    values: Mapping[str, Array],
    names: Sequence[str],
    weights: Sequence[Sequence[Array]],
    choice: Sequence[int] | Array,
) -> dict[str, Array]:
    """The values of the network with each named weight in its choice.

    Parameters
    ----------
    values : mapping of str to ndarray
    names : sequence of str
    weights : sequence of sequences of ndarray
        Of `candidates`.
    choice : sequence of int
        One for each name.

    Returns
    -------
    dict of str to ndarray

    Raises
    ------
    ValueError
        If there is not one choice for each name.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680 (HAWQ-V3).

    Examples
    --------
    >>> allocated({"w": np.array([0.7])}, ["w"], [[np.array([0.5]), np.array([1.0])]], [1])
    {'w': array([1.])}
    """
    chosen = {name: row[int(k)] for name, row, k in zip(names, weights, choice, strict=True)}
    return {**values, **chosen}


def divergences(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    names: Sequence[str],
    weights: Sequence[Sequence[Array]],
    *,
    known: Array | None = None,
    progress: Progress = silent,
) -> Array:
    """Change of the predictions with one layer in one choice, all others in float.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``logits``.
    values : mapping of str to ndarray
        Parameters, statistics, and the inputs: real images, or distilled ones.
    names : sequence of str
    weights : sequence of sequences of ndarray
        Of `candidates`.
    known : ndarray of float, shape (layers, choices), optional
        Entries measured before, as in `refquant.mixed_precision.sensitivity.one_at_a_time`.
    progress : callable, (done, total, table)

    Returns
    -------
    ndarray of float64, shape (layers, choices)
        `prediction_divergence` from the float network.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281 (ZeroQ), the sensitivity of a layer.

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> net = [Node("logits", linear, ("x", "w"))]
    >>> values = {"x": np.array([[1.0]]), "w": np.array([[0.0], [0.2]])}
    >>> divergences(net, values, ["w"], [[np.zeros((2, 1)), values["w"]]]).round(3)
    array([[0.005, 0.   ]])
    """
    logits = run(nodes, values).values["logits"]
    again = [_from(nodes, values, name, "logits") for name in names]
    return one_at_a_time(
        lambda i, k: prediction_divergence(logits, again[i](weights[i][k])),
        (len(names), len(weights[0])), known=known, each=at_once, progress=progress)


def losses(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    names: Sequence[str],
    weights: Sequence[Sequence[Array]],
    *,
    known: Array | None = None,
    progress: Progress = silent,
) -> Array:
    """Loss with one layer in one choice, all others in float.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``.
    values : mapping of str to ndarray
        Parameters, statistics, inputs and labels.
    names : sequence of str
    weights : sequence of sequences of ndarray
        Of `candidates`.
    known : ndarray of float, shape (layers, choices), optional
        Entries measured before, as in `refquant.mixed_precision.sensitivity.one_at_a_time`.
    progress : callable, (done, total, table)

    Returns
    -------
    ndarray of float64, shape (layers, choices)

    References
    ----------
    Hubara et al., 2020, arXiv:2006.10518 (integer programming).

    Examples
    --------
    >>> double = lambda x, w: (np.asarray((x * w).sum()), lambda g: (g * w, g * x))
    >>> net = [Node("loss", double, ("x", "w"))]
    >>> values = {"x": np.array([3.0]), "w": np.array([0.9])}
    >>> losses(net, values, ["w"], [[np.array([0.0]), np.array([1.0])]])
    array([[0., 3.]])
    """
    again = [_from(nodes, values, name, "loss") for name in names]
    return one_at_a_time(lambda i, k: float(again[i](weights[i][k])),
                         (len(names), len(weights[0])), known=known, each=at_once,
                         progress=progress)


def smooth_at(nodes: Sequence[Node], values: Mapping[str, Array]) -> list[Node]:
    """The network without kinks: each ReLU holds the pattern of zeros it has here.

    It is the same function in a neighbourhood of `values`, with the same gradient and Hessian, and
    it stays smooth outside. So a finite difference of any step sees the curvature between the
    kinks alone.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Everything the network reads, inputs too.

    Returns
    -------
    list of Node

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2): its products differentiate twice,
    and the second time a ReLU is a fixed mask.

    Examples
    --------
    >>> net = smooth_at([Node("y", relu, ("x",))], {"x": np.array([-1.0, 2.0])})
    >>> run(net, {"x": np.array([7.0, -7.0])}).values["y"]          # 0 x and 1 x
    array([ 0., -7.])
    """
    seen = run(nodes, values)
    made = []
    for node, pullback in seen.pullbacks:
        if function_of(node.op) in (relu, relu6):
            x, y = seen.values[node.inputs[0]], seen.values[node.name]
            slope = np.asarray(pullback(np.ones_like(y))[0])
            made.append(node._replace(op=_line(slope, y - slope * x)))
        else:
            made.append(node)
    return made


def gradient_of(
    nodes: Sequence[Node], values: Mapping[str, Array], name: str
) -> Callable[[Array], Array]:
    """Gradient of the loss with respect to one named value, as a function of that value.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``.
    values : mapping of str to ndarray
        Everything else the network reads; in float64, if the gradients are to be.
    name : str
        A weight, an input, or the value of a node: an activation.

    Returns
    -------
    callable, ndarray -> ndarray
        Each call runs what depends on the value, forward and back.

    Raises
    ------
    ValueError
        If the loss does not depend on `name`.

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), and its part on
    activations.

    Examples
    --------
    >>> square = lambda x: (np.asarray((x**2).sum()), lambda g: (2 * g * x,))
    >>> gradient_of([Node("loss", square, ("x",))], {"x": np.zeros(2)}, "x")(np.array([1.0, 3.0]))
    array([2., 6.])
    """
    later, fixed = _after(nodes, values, name)
    if not later or later[-1].name != "loss":
        raise ValueError(f"`name` must be something that the loss depends on; got {name!r}")
    return lambda value: backward(run(later, {**fixed, name: value}), {"loss": 1.0})[name]


def traces(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    names: Sequence[str],
    *,
    rng: np.random.Generator,
    samples: int = 50,
    progress: Callable[[int, int, str], None] = silent,
) -> list[TraceSamples]:
    """Trace of the Hessian of the loss in each named value, by Hutchinson's estimate.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``, in evaluation form.
    values : mapping of str to ndarray
        Everything the network reads. Taken to float64.
    names : sequence of str
        Weights, or activations: there the loss is a mean over inputs that do not mix, and so the
        trace is the mean of theirs.
    rng : numpy.random.Generator
        `samples` draws of `rademacher` for each name, in turn.
    samples : int
    progress : callable, (done, total, name)

    Returns
    -------
    list of TraceSamples

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), algorithm 1.

    Examples
    --------
    >>> square = lambda x: (np.asarray((x**2).sum()), lambda g: (2 * g * x,))
    >>> net, rng = [Node("loss", square, ("x",))], np.random.default_rng(0)
    >>> round(traces(net, {"x": np.ones(3)}, ["x"], rng=rng)[0].trace, 6)
    6.0
    """
    found = []
    for product, at, name in _products(nodes, values, names):
        found.append(hutchinson(product, at.shape, rng=rng, samples=samples))
        progress(len(found), len(names), name)
    return found


def eigenvalues(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    names: Sequence[str],
    *,
    rng: np.random.Generator,
    tolerance: float = 1e-3,
    progress: Callable[[int, int, str], None] = silent,
) -> list[Eigenpair]:
    """Top eigenvalue of the Hessian of the loss in each named value, by power iteration.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``, in evaluation form.
    values : mapping of str to ndarray
        Everything the network reads. Taken to float64.
    names : sequence of str
        Weights or activations.
    rng : numpy.random.Generator
        One draw of `gaussian` for each name, in turn.
    tolerance : float
        As in `top_eigenvalue`.
    progress : callable, (done, total, name)

    Returns
    -------
    list of Eigenpair

    References
    ----------
    Dong et al., 2019, arXiv:1905.03696 (HAWQ), algorithm 1.

    Examples
    --------
    >>> bowl = lambda x: (np.asarray((x**2 * [1, 4]).sum()), lambda g: (g * 2 * x * [1, 4],))
    >>> rng = np.random.default_rng(0)
    >>> found = eigenvalues([Node("loss", bowl, ("x",))], {"x": np.ones(2)}, ["x"], rng=rng)
    >>> round(found[0].value, 2)
    8.0
    """
    found = []
    for product, at, name in _products(nodes, values, names):
        found.append(top_eigenvalue(product, at.shape, rng=rng, tolerance=tolerance))
        progress(len(found), len(names), name)
    return found


def fisher(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    inputs: Mapping[str, Array],
    names: Sequence[str],
) -> list[Array]:
    """Diagonal of the Fisher information of each named weight.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``, in evaluation form.
    values : mapping of str to ndarray
        Parameters and statistics.
    inputs : mapping of str to ndarray
        Images and labels, first axis (n,). They run one by one: a batch gives only the sum of
        its gradients. All gradients of all inputs are in memory together.
    names : sequence of str

    Returns
    -------
    list of ndarray of float64, each of the shape of its weight

    References
    ----------
    Kunstner et al., 2019, arXiv:1905.12558.

    Examples
    --------
    >>> product = lambda x, w: (np.asarray((x * w).sum()), lambda g: (g * w, g * x))
    >>> net = [Node("loss", product, ("x", "w"))]
    >>> fisher(net, {"w": np.array([1.0])}, {"x": np.array([1.0, -3.0])}, ["w"])
    [array([5.])]
    """
    each = []
    for i in range(len(next(iter(inputs.values())))):
        one = {name: array[i : i + 1] for name, array in inputs.items()}
        found = backward(run(nodes, {**one, **values}), {"loss": 1.0})
        each.append([found[name] for name in names])
    return [fisher_diagonal(of_layer) for of_layer in zip(*each, strict=True)]


def _products(
    nodes: Sequence[Node], values: Mapping[str, Array], names: Iterable[str]
) -> Iterable[tuple[Callable[[Array], Array], Array, str]]:
    """For each name: products with the Hessian, where they are taken, and the name."""
    values = {name: _wide(value) for name, value in values.items()}
    smooth = smooth_at(nodes, values)
    here = run(smooth, values).values
    for name in names:
        gradient = gradient_of(smooth, values, name)
        # Without kinks a larger step is the better one: less rounding, and no jump to fear.
        yield hessian_product(gradient, here[name], step=1e-5), here[name], name


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _line(slope: Array, offset: Array) -> Op:
    def op(x: Array) -> tuple[Array, Pullback]:
        return slope * x + offset, lambda g: (slope * g,)

    return op


def _after(
    nodes: Sequence[Node], values: Mapping[str, Array], name: str
) -> tuple[list[Node], dict[str, Array]]:
    """The nodes that depend on a value, and all values that do not."""
    reached, later = {name}, []
    for node in nodes:
        if node.name != name and reached.intersection(node.inputs):
            reached.add(node.name)
            later.append(node)
    seen = run(nodes, values).values
    return later, {other: value for other, value in seen.items() if other not in reached}


def _from(
    nodes: Sequence[Node], values: Mapping[str, Array], name: str, output: str
) -> Callable[[Array], Array]:
    """One value of the network as a function of another."""
    later, fixed = _after(nodes, values, name)
    return lambda value: run(later, {**fixed, name: value}).values[output]
