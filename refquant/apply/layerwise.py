r"""Layer by layer: a method that needs one weight and its inputs, on a whole network.

GPTQ and its relatives look at one layer at a time: its weight, and a statistic of what
enters it. A network is then a loop, of which there are two:

==============  ============================  ===============================
loop            the inputs of a layer         the layers
==============  ============================  ===============================
`sequential`    of the prefix, as replaced    one after the other
`parallel`      of the float network          at once, where joblib can
==============  ============================  ===============================

The first lets each layer repair what those before it have spoilt; the second does not need to
wait. The batches pass through the network once in either. *Where* layers run in parallel is
no argument: joblib asks the backend that the caller has chosen with
``joblib.parallel_config``, be it threads, processes or a dask cluster.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from refquant._types import Array
from refquant.apply._at_once import at_once
from refquant.apply.calibrate import Mergeable
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.convolution import conv2d, patches
from refquant.nn.network import Node, Tap, untouched
from refquant.nn.operations import linear

__all__ = ["Layerwise", "Method", "Progress", "Replaced", "parallel", "sequential", "silent"]


class Replaced(Protocol):
    """What a method returns: a record with a weight in it.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3: the quantized weight of a layer.
    """

    @property
    def weight(self) -> Array:
        """Shape and dtype of the weight that the method was given."""


_S = TypeVar("_S", bound=Mergeable)

#: Weight (out, in) and the statistic of its inputs -> record.
Method: TypeAlias = Callable[[Array, Any], Replaced]

#: Layers done, layers in all, name of the weight just done.
Progress: TypeAlias = Callable[[int, int, str], None]

_NO_BATCH = "`batches` must hold at least one batch; got none"


class Layerwise(NamedTuple):
    """A network after a method.

    Attributes
    ----------
    values : dict of str to ndarray
        All parameters, the named weights replaced.
    results : dict of str to record
        What the method returned for each weight: codes, quantizers and so on.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3.
    """

    values: dict[str, Array]
    results: dict[str, Any]


def silent(done: int, total: int, name: str) -> None:
    """Progress that nobody wants to hear of.

    Parameters
    ----------
    done, total : int
    name : str

    References
    ----------
    The function that does nothing.

    Examples
    --------
    >>> silent(1, 3, "fc1.weight")
    """


def sequential(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    of: Callable[[Array], _S],
    method: Method,
    *,
    names: Iterable[str],
    tap: Tap = untouched,
    progress: Progress = silent,
) -> Layerwise:
    """The network with weights replaced in the order of the run, each behind the last.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Parameters and constants.
    batches : iterable of mapping of str to ndarray
        Inputs of each run. The values of all of them that are still needed stay in memory.
    of : callable, ndarray (rows, in) -> statistic with ``merge``
        For example `SecondMoment.of`.
    method : callable, (weight, statistic) -> record with ``weight``
        Of a convolution it sees the weight as ``(out, height * width * in)``, and its
        inputs as `patches`.
    names : iterable of str
        Weights of linear layers and convolutions, e.g. ``weight_names(nodes)``.
    tap : callable, (name, value) -> value
        On inputs and on the values of nodes: quantizes activations on the way.
    progress : callable, (done, total, name)

    Returns
    -------
    Layerwise

    Raises
    ------
    ValueError
        If there is no batch, a name is no weight of a linear layer or convolution, or the method
        returns no weight of the same shape.

    Notes
    -----
    Layers that read the same value (query, key and value) see the same inputs, as in the
    authors' code: none of them is behind another.

    A weight that several layers share is fitted to the inputs of the last of them.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 4, "setup".

    Examples
    --------
    >>> import numpy as np
    >>> from functools import partial
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.calibration.second_moment import SecondMoment
    >>> from refquant.ptq.gptq import gptq
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("y", linear, ("x", "w"))]
    >>> x = np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> def three_bits(weight, inputs):
    ...     fit = lambda w: symmetric(absmax(w, axis=1), bits=3)
    ...     return gptq(weight, inputs.hessian, fit)
    >>> made = sequential(net, {"w": np.array([[1.2, 0.5]])}, [{"x": x}], SecondMoment.of,
    ...                   three_bits, names=["w"])
    >>> made.results["w"].codes
    array([[3, 1]], dtype=int32)
    """
    layers = _layers(nodes, values, names)
    new = dict(values)
    results: dict[str, Replaced] = {}
    statistics: dict[Hashable, _S] = {}

    def replace(node: Node, inputs: list[Array]) -> None:
        name = node.inputs[1]
        key = _key(node, new[name])
        if key not in statistics:
            statistics.clear()                  # one at a time: they can be large
            rows = (of(_rows(node, x, new[name])) for x in inputs)
            statistics[key] = reduce(lambda a, b: a.merge(b), rows)
        results[name] = _replace(method, new[name], statistics[key])
        new[name] = results[name].weight.reshape(new[name].shape)
        progress(len(results), len(layers), name)

    _walk(nodes, new, list(batches), tap, layers, replace)
    return Layerwise(new, results)


def parallel(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    of: Callable[[Array], _S],
    method: Method,
    *,
    names: Iterable[str],
    tap: Tap = untouched,
    progress: Progress = silent,
) -> Layerwise:
    """The network with weights replaced independently, each for the inputs it had.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Parameters and constants.
    batches : iterable of mapping of str to ndarray
        Inputs of each run; one at a time is in memory, and the statistics of all layers.
    of : callable, ndarray (rows, in) -> statistic with ``merge``
        For example `SecondMoment.of`.
    method : callable, (weight, statistic) -> record with ``weight``
        As in `sequential`. A backend with processes must be able to pickle it.
    names : iterable of str
        Weights of linear layers and convolutions, e.g. ``weight_names(nodes)``.
    tap : callable, (name, value) -> value
        On inputs and on the values of nodes.
    progress : callable, (done, total, name)
        Called in the order of the run, in the thread of the caller.

    Returns
    -------
    Layerwise

    Raises
    ------
    ValueError
        If there is no batch, a name is no weight of a linear layer or convolution, or the method
        returns no weight of the same shape.

    Notes
    -----
    A weight that several layers share is fitted to the inputs of the last of them.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, section 3.4: layer-wise optimization.

    Examples
    --------
    >>> import numpy as np
    >>> from joblib import parallel_config
    >>> from refquant.calibration.second_moment import SecondMoment
    >>> from refquant.ptq.hqq import hqq
    >>> net = [Node("h", linear, ("x", "a")), Node("y", linear, ("h", "b"))]
    >>> values = {"a": np.eye(2), "b": np.array([[0.0, 0.1], [0.5, 1.0]])}
    >>> with parallel_config("threading", n_jobs=2):
    ...     made = parallel(net, values, [{"x": np.eye(2)}], SecondMoment.of,
    ...                     lambda w, inputs: hqq(w, bits=4), names=["a", "b"])
    >>> made.results["b"].codes
    array([[ 0, 15],
           [ 0, 15]], dtype=int32)
    """
    layers = _layers(nodes, values, names)
    statistics: dict[Hashable, _S] = {}
    for batch in batches:
        here: dict[Hashable, _S] = {}

        def look(node: Node, inputs: list[Array], here: dict[Hashable, _S] = here) -> None:
            key = _key(node, values[node.inputs[1]])
            if key not in here:
                here[key] = of(_rows(node, inputs[0], values[node.inputs[1]]))

        _walk(nodes, values, [batch], tap, layers, look)
        statistics = {key: statistics[key].merge(new) if key in statistics else new
                      for key, new in here.items()}
    if layers and not statistics:
        raise ValueError(_NO_BATCH)
    weights = {node.inputs[1]: statistics[_key(node, values[node.inputs[1]])]
               for node in nodes if node.name in layers}
    calls = ((method, values[name], seen) for name, seen in weights.items())
    new = dict(values)
    results: dict[str, Replaced] = {}
    for name, result in zip(weights, at_once(_replace, calls), strict=True):
        results[name] = result
        new[name] = result.weight.reshape(new[name].shape)
        progress(len(results), len(layers), name)
    return Layerwise(new, results)


def _layers(
    nodes: Sequence[Node], values: Mapping[str, Array], names: Iterable[str]
) -> set[str]:
    """Names of the nodes whose weights are named."""
    found = {n.inputs[1]: n.name for n in nodes if function_of(n.op) in (linear, conv2d)}
    names = list(names)
    for name in names:
        if name not in found or name not in values:
            raise ValueError(f"`names` must hold weights of linear layers and convolutions; "
                             f"got {name!r}")
    return {found[name] for name in names}


def _walk(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batches: Sequence[Mapping[str, Array]],
    tap: Tap,
    layers: set[str],
    visit: Callable[[Node, list[Array]], None],
) -> None:
    """All batches through the network abreast, with a visit before each of the layers.

    Parameters are read when a node runs, so what a visit has replaced counts behind it.
    """
    if not batches:
        raise ValueError(_NO_BATCH)
    last = max((i for i, node in enumerate(nodes) if node.name in layers), default=-1)
    last_reader = {name: i for i, node in enumerate(nodes) for name in node.inputs}
    states = [{name: tap(name, x) for name, x in batch.items()} for batch in batches]
    for i, node in enumerate(nodes[: last + 1]):
        for name in node.inputs:
            if name not in states[0] and name not in values:
                raise ValueError(f"`nodes` must read known names; got {name!r} in {node.name!r}")
        if node.name in layers:
            visit(node, [state[node.inputs[0]] for state in states])
        for state in states:
            inputs = [state[n] if n in state else values[n] for n in node.inputs]
            state[node.name] = tap(node.name, node.op(*inputs)[0])
            for name in {*node.inputs, node.name} & state.keys():
                if last_reader.get(name, i) <= i:
                    del state[name]


def _key(node: Node, weight: Array) -> Hashable:
    """The same for layers that have the same rows."""
    kernel = weight.shape[1:-1]
    return node.inputs[0], kernel, *(sorted(settings_of(node.op).items()) if kernel else ())


def _rows(node: Node, x: Array, weight: Array) -> Array:
    """The inputs of a layer, one row for each time that the weight is applied."""
    if function_of(node.op) is conv2d:
        x = patches(x, weight.shape[1:3], **settings_of(node.op))
    return x.reshape(-1, x.shape[-1])


def _replace(method: Method, weight: Array, statistic: Mergeable) -> Replaced:
    rows = weight.reshape(len(weight), -1)
    made = method(rows, statistic)
    found = np.shape(getattr(made, "weight", 0))
    if found != rows.shape:
        raise ValueError(f"`method` must return a record with a weight of shape {rows.shape}; "
                         f"got {type(made).__name__} with {found}")
    return made
