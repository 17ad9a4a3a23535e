r"""Which layer is to blame: errors of a quantized network, layer by layer.

A network that has been quantized answers worse. Three ways to find out where it comes from:

======================  ===================================================================
look                    what it shows
======================  ===================================================================
`local_errors`          what each layer adds, given the inputs that it really gets: the
                        float layer and the quantized one read the same quantized values
`accumulated_errors`    how far each value is from that of the float network
`alone`, `all_but_one`  what the whole network loses with one layer quantized, or gains
                        with one layer left in float
======================  ===================================================================

The first takes two runs and names suspects; the last takes one run for each layer, and is
the proof. A rounding that is as good as it can be leaves an error uniform over one step, so

.. math:: \frac{\mathrm{RMSE}}{\text{scale}} = \frac{1}{\sqrt{12}} \approx 0.289 .

Much more than that says that the weights are rounded badly or values are clipped. It does *not*
say that the step is too long, for the step is its unit: read it beside the signal to noise.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.apply.simulate import static
from refquant.nn._nodes import function_of, readers
from refquant.nn.convolution import conv2d, depthwise_conv2d
from refquant.nn.network import Node, Tap, run
from refquant.nn.operations import linear
from refquant.quantizer import Quantizer

__all__ = [
    "Judge",
    "LayerError",
    "accumulated_errors",
    "all_but_one",
    "alone",
    "layers_of",
    "local_errors",
    "suspects",
    "without",
]

#: A quantizing tap -> how good the network is with it: higher is better.
Judge: TypeAlias = Callable[[Tap], float]


class LayerError(NamedTuple):
    """What a layer's output is off by: quantized minus float, means over examples.

    Attributes
    ----------
    name : str
        Of the value that is compared.
    elements : int
        Of one example.
    mean_error, stddev, max_abs_error, mean_squared_error : float
        Of the differences in one example, averaged over examples.
    scale : float
        Step of the value's quantizer, the mean over channels; NaN where it has none.
    sqnr : float
        Energy of the float value over that of the error, in decibels; NaN where either is.

    References
    ----------
    TensorFlow Lite, ``QuantizationDebugger``, default layer statistics.
    """

    name: str
    elements: int
    mean_error: float
    stddev: float
    max_abs_error: float
    mean_squared_error: float
    scale: float
    sqnr: float

    @property
    def rmse_per_scale(self) -> float:
        """Root of the mean squared error in steps; 0.289 where nothing but rounding happens."""
        return float(np.sqrt(self.mean_squared_error) / self.scale)


def local_errors(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    inputs: Mapping[str, Array],
    plan: Mapping[str, Quantizer],
) -> list[LayerError]:
    """What each layer adds to the error, the worst signal to noise first.

    Compared are the values that have a quantizer, and the outputs of the network. Between two
    of them the float network is run anew, from the quantized values.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Parameters and constants of the float network.
    inputs : mapping of str to ndarray
        Of some examples, along the first axis.
    plan : mapping of str to Quantizer
        Of weights and activations, by name.

    Returns
    -------
    list of LayerError

    Raises
    ------
    ValueError
        If the plan names nothing in the network.

    References
    ----------
    TensorFlow Lite, ``QuantizationDebugger``: float and quantized operator read the
    dequantized output of the operator before.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("y", linear, ("x", "w"))]
    >>> report = local_errors(net, {"w": np.array([[0.9]])}, {"x": np.array([[1.0], [2.0]])},
    ...                       {"w": symmetric(np.array(1.0), bits=2)})
    >>> report[0].name, round(report[0].mean_error, 3)
    ('y', 0.15)
    """
    quantized = _run(nodes, values, inputs, plan)
    compared = _compared(nodes, plan)
    known = {**inputs, **values} | {n: quantized[n] for n in (*inputs, *compared)}
    exact: dict[str, Array] = {}
    rest = dict(known)
    for node in nodes:
        value = node.op(*(rest[name] for name in node.inputs))[0]
        exact[node.name] = value
        rest.setdefault(node.name, value)
    return _rows(compared, quantized, exact, plan)


def accumulated_errors(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    inputs: Mapping[str, Array],
    plan: Mapping[str, Quantizer],
) -> list[LayerError]:
    """How far each value is from the float network's, the worst signal to noise first.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Parameters and constants of the float network.
    inputs : mapping of str to ndarray
        Of some examples, along the first axis.
    plan : mapping of str to Quantizer
        Of weights and activations, by name.

    Returns
    -------
    list of LayerError
        Of the values of `local_errors`.

    Raises
    ------
    ValueError
        If the plan names nothing in the network.

    References
    ----------
    TensorFlow Lite, ``QuantizationDebugger``, whole-model verify.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("h", linear, ("x", "w")), Node("y", linear, ("h", "w"))]
    >>> report = accumulated_errors(net, {"w": np.array([[0.9]])}, {"x": np.array([[1.0]])},
    ...                             {"w": symmetric(np.array(1.0), bits=2)})
    >>> [(row.name, round(row.mean_error, 3)) for row in report]
    [('y', 0.19)]
    """
    compared = _compared(nodes, plan)
    quantized = _run(nodes, values, inputs, plan)
    exact = run(nodes, {**inputs, **values}).values
    return _rows(compared, quantized, exact, plan)


def layers_of(nodes: Sequence[Node], plan: Mapping[str, Quantizer]) -> dict[str, list[str]]:
    """The names of a plan, layer by layer.

    Parameters
    ----------
    nodes : sequence of Node
    plan : mapping of str to Quantizer

    Returns
    -------
    dict of str to list of str
        Weight of each linear layer or convolution -> this weight and the next value behind
        the layer that has a quantizer, as far as they are planned, in the order of the run.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-G.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> q = symmetric(np.array(1.0), bits=2)
    >>> layers_of([Node("y", linear, ("x", "w"))], {"w": q, "y": q, "x": q})
    {'w': ['w', 'y']}
    """
    read, found = readers(nodes), dict[str, list[str]]()
    for node in nodes:
        if function_of(node.op) not in (linear, conv2d, depthwise_conv2d):
            continue
        names = [node.inputs[1]] if node.inputs[1] in plan else []
        behind = node
        while behind.name not in plan and len(read.get(behind.name, ())) == 1:
            behind = read[behind.name][0]
            if function_of(behind.op) in (linear, conv2d, depthwise_conv2d):
                break
        else:
            names += [behind.name] if behind.name in plan else []
        if names:
            found[node.inputs[1]] = names
    return found


def alone(
    plan: Mapping[str, Quantizer], layers: Mapping[str, Collection[str]], judge: Judge
) -> dict[str, float]:
    """How good the network is with one layer quantized, the worst first.

    Parameters
    ----------
    plan : mapping of str to Quantizer
    layers : mapping of str to collection of str
        What belongs to a layer, from `layers_of`.
    judge : callable, tap -> float
        For example the accuracy, or the signal to noise of the logits.

    Returns
    -------
    dict of str to float

    References
    ----------
    Wu et al., 2020, arXiv:2004.09602, section 5.2 (sensitivity analysis).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> q = symmetric(np.array(1.0), bits=2)
    >>> alone({"a": q, "b": q}, {"a": ["a"], "b": ["b"]},
    ...       lambda tap: float(-tap("a", np.array(0.6)) - tap("b", np.array(0.9))))
    {'a': -1.9, 'b': -1.6}
    """
    found = {layer: judge(static({n: plan[n] for n in names if n in plan}))
             for layer, names in layers.items()}
    return _sorted(found)


def all_but_one(
    plan: Mapping[str, Quantizer], layers: Mapping[str, Collection[str]], judge: Judge
) -> dict[str, float]:
    """How good the network is with one layer left in float, the one that helps most first.

    Parameters
    ----------
    plan : mapping of str to Quantizer
    layers : mapping of str to collection of str
        What belongs to a layer, from `layers_of`.
    judge : callable, tap -> float

    Returns
    -------
    dict of str to float

    References
    ----------
    TensorFlow Lite, "Inspecting Quantization Errors with Quantization Debugger", selective
    quantization.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> q = symmetric(np.array(1.0), bits=2)
    >>> all_but_one({"a": q, "b": q}, {"a": ["a"], "b": ["b"]},
    ...             lambda tap: float(-tap("a", np.array(0.6)) - tap("b", np.array(0.9))))
    {'a': -1.6, 'b': -1.9}
    """
    found = {layer: -judge(static(without(plan, layers, [layer]))) for layer in layers}
    return {layer: -score for layer, score in _sorted(found).items()}


def without(
    plan: Mapping[str, Quantizer],
    layers: Mapping[str, Collection[str]],
    exempt: Iterable[str],
) -> dict[str, Quantizer]:
    """The plan with some layers left in float.

    Parameters
    ----------
    plan : mapping of str to Quantizer
    layers : mapping of str to collection of str
        What belongs to a layer, from `layers_of`.
    exempt : iterable of str
        Layers that stay in float.

    Returns
    -------
    dict of str to Quantizer

    Raises
    ------
    ValueError
        If a layer is not known.

    References
    ----------
    TensorFlow Lite, ``QuantizationDebugOptions.denylisted_nodes``.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> q = symmetric(np.array(1.0), bits=2)
    >>> list(without({"a": q, "b": q}, {"a": ["a"], "b": ["b"]}, ["a"]))
    ['b']
    """
    gone = set[str]()
    for layer in exempt:
        if layer not in layers:
            raise ValueError(f"`exempt` must name layers; got {layer!r}")
        gone |= set(layers[layer])
    return {name: q for name, q in plan.items() if name not in gone}


def suspects(
    report: Iterable[LayerError],
    *,
    steps: float = 0.7,
    decibels: float = 15.0,
) -> list[str]:
    """Names whose error is more than rounding explains, or too large for the value.

    Parameters
    ----------
    report : iterable of LayerError
        Of `local_errors`.
    steps : float
        RMSE over scale above which a layer is suspect.
    decibels : float
        Signal to noise below which it is.

    Returns
    -------
    list of str
        In the order of the report.

    References
    ----------
    TensorFlow Lite, "Inspecting Quantization Errors with Quantization Debugger" (0.7).

    Examples
    --------
    >>> fine = LayerError("a", 1, 0.0, 0.3, 0.5, 0.09, 1.0, 40.0)
    >>> clipped = fine._replace(name="b", mean_squared_error=4.0)
    >>> suspects([fine, clipped, fine._replace(name="c", sqnr=3.0)])
    ['b', 'c']
    """
    return [row.name for row in report
            if row.rmse_per_scale > steps or not row.sqnr >= decibels]      # also for NaN


def _run(
    nodes: Sequence[Node], values: Mapping[str, Array], inputs: Mapping[str, Array],
    plan: Mapping[str, Quantizer],
) -> dict[str, Array]:
    return run(nodes, {**inputs, **values}, tap=static(plan)).values


def _compared(nodes: Sequence[Node], plan: Mapping[str, Quantizer]) -> list[str]:
    """Values that have a quantizer, and those that nobody reads."""
    read = readers(nodes)
    known = {*read, *(node.name for node in nodes)}
    if not any(name in known for name in plan):
        raise ValueError("`plan` must name values of the network; got none that it knows")
    return [n.name for n in nodes if n.name in plan or n.name not in read]


def _rows(
    names: Sequence[str], quantized: Mapping[str, Array], exact: Mapping[str, Array],
    plan: Mapping[str, Quantizer],
) -> list[LayerError]:
    rows = []
    for name in names:
        float_ = exact[name].astype(np.float64)
        d = (quantized[name] - float_).reshape(len(float_), -1)
        error, signal = np.square(d).sum(), np.square(float_).sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            decibels = 10 * np.log10(signal / error) if error else np.inf
        scale = getattr(plan.get(name), "scale", np.nan)
        rows.append(LayerError(
            name, d.shape[1], float(d.mean(1).mean()), float(d.std(1).mean()),
            float(np.abs(d).max(1).mean()), float(np.square(d).mean(1).mean()),
            float(np.mean(scale)), float(decibels)))
    return sorted(rows, key=lambda row: -np.inf if np.isnan(row.sqnr) else row.sqnr)


def _sorted(scores: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(scores.items(), key=lambda item: item[1]))
