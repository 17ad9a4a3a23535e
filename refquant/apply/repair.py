"""Repair without training, on networks by name: equalize scales, correct biases.

All of it happens between folding (`refquant.apply.rewrite.fold_batch_norms`) and
quantization, in this order:

1. `norm_statistics`, before folding, for whoever has no data;
2. fold;
3. `equalize`: ranges of neighbouring layers, the function unchanged;
4. quantize the weights;
5. `correct_biases` with data, or `correct_biases_without_data` with the statistics;
   `correct_moments` if the spread of each channel is to be right as well as its mean.

`quantize_without_data` is the whole of it: data-free quantization.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_finite, require_int, require_number
from refquant.apply.rewrite import LAYERS, fold_batch_norms
from refquant.nn._nodes import function_of, readers
from refquant.nn.network import Node, Tap, run, untouched
from refquant.nn.normalization import batch_norm
from refquant.nn.operations import (
    add,
    average_pool,
    global_average_pool,
    max_pool,
    relu,
    relu6,
)
from refquant.ptq.bias_correction import analytic, clipped_normal, empirical
from refquant.ptq.cross_layer_equalization import equalize_pair
from refquant.quantizer import Fit, Quantizer, fake_quantize
from refquant.zero_shot.data_free import activation_range

__all__ = [
    "DataFree",
    "Equalized",
    "Gaussian",
    "correct_biases",
    "correct_biases_without_data",
    "correct_moments",
    "equalize",
    "norm_statistics",
    "quantize_without_data",
]

#: What a positive factor passes through, per channel.
_HOMOGENEOUS = (relu, max_pool, average_pool, global_average_pool)
#: A channel is stretched or shrunk by no more: what is left of one that died is noise.
MOST_GAIN = 4.0


class Gaussian(NamedTuple):
    """Mean and standard deviation of each channel of a value.

    Attributes
    ----------
    mean, deviation : ndarray of float, shape (channels,)

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2.
    """

    mean: Array
    deviation: Array


class Equalized(NamedTuple):
    """A network after equalization.

    Attributes
    ----------
    values : dict of str to ndarray
        The parameters; the nodes are the same.
    statistics : dict of str to Gaussian
        Those given, in the new scale.
    pairs : list of (str, str)
        Names of the weights that were equalized with each other.
    sweeps : int
        How many it took, or as many as were allowed.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.
    """

    values: dict[str, Array]
    statistics: dict[str, Gaussian]
    pairs: list[tuple[str, str]]
    sweeps: int


class DataFree(NamedTuple):
    """A network quantized without a single input.

    Attributes
    ----------
    nodes : list of Node
        Folded.
    values : dict of str to ndarray
        Weights as their codes have them, biases corrected.
    plan : dict of str to Quantizer
        For the outputs of the activations: a tap is ``static(plan)``.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, figure 4.
    """

    nodes: list[Node]
    values: dict[str, Array]
    plan: dict[str, Quantizer]


def norm_statistics(nodes: Sequence[Node], values: Mapping[str, Array]) -> dict[str, Gaussian]:
    r"""Mean beta and deviation :math:`|\gamma|` of what each batch norm returns.

    Parameters
    ----------
    nodes : sequence of Node
        Not folded yet.
    values : mapping of str to ndarray

    Returns
    -------
    dict of str to Gaussian
        By the name of the norm's value, which folding keeps.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2.1.

    Examples
    --------
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> len(norm_statistics(model.nodes, model.values))
    9
    """
    return {
        node.name: Gaussian(values[node.inputs[2]], np.abs(values[node.inputs[1]]))
        for node in nodes
        if function_of(node.op) is batch_norm
    }


def equalize(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    statistics: Mapping[str, Gaussian] | None = None,
    *,
    tolerance: float = 1e-3,
    most: int = 100,
) -> Equalized:
    """The network with the ranges of neighbouring layers equalized.

    Two layers are neighbours if everything from the one to the other has one reader and lets
    a positive factor through. Residual additions and ReLU6 end a chain.

    Parameters
    ----------
    nodes : sequence of Node
        Folded, every layer but the last of a chain with a bias.
    values : mapping of str to ndarray
    statistics : mapping of str to Gaussian, optional
        Of values before activations, from `norm_statistics`.
    tolerance : float
        Sweep until no logarithm of a scale exceeds it.
    most : int
        Sweeps, at most.

    Returns
    -------
    Equalized

    Raises
    ------
    ValueError
        If `tolerance` or `most` is negative, or a number is not finite.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.1.

    Examples
    --------
    >>> from refquant.nn.models import trained_digits_cnn
    >>> model = trained_digits_cnn()
    >>> net = fold_batch_norms(model.nodes, model.values)
    >>> equalize(net.nodes, net.values).pairs[:2]
    [('r1a.weight', 'r1b.weight'), ('dw1.weight', 'pw1.weight')]
    """
    require_int("most", most, 0)
    require_number("tolerance", tolerance)
    if not tolerance >= 0:                      # also for NaN, which would stop at once
        raise ValueError(f"`tolerance` must not be negative; got {tolerance}")
    work, known = dict(values), dict(statistics or {})
    pairs = _neighbours(nodes)
    sweeps, change = 0, np.inf
    while pairs and change > tolerance and sweeps < most:
        sweeps, change = sweeps + 1, 0.0
        for first, second in pairs:
            weight, bias = first.inputs[1:]
            pair = equalize_pair(work[weight], work[bias], work[second.inputs[1]])
            work |= {weight: pair.first, bias: pair.bias, second.inputs[1]: pair.second}
            if first.name in known:
                old = known[first.name]
                known[first.name] = Gaussian(old.mean / pair.scale, old.deviation / pair.scale)
            change = max(change, float(np.abs(np.log(pair.scale)).max()))
    return Equalized(work, known, [(a.inputs[1], b.inputs[1]) for a, b in pairs], sweeps)


def correct_biases(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    quantized: Mapping[str, Array],
    inputs: Mapping[str, Array],
    *,
    tap: Tap = untouched,
) -> dict[str, Array]:
    """Quantized parameters whose layers have the mean outputs of the float network.

    One run of each network: a tap compares every layer's output with the float one, takes the
    mean difference out of it and of the bias, and lets the rest of the run see the repair.

    Parameters
    ----------
    nodes : sequence of Node
        Folded; layers without a bias are left alone.
    values, quantized : mapping of str to ndarray
        Parameters of the float network, and the same with rounded weights.
    inputs : mapping of str to ndarray
        A few hundred images.
    tap : callable, (name, value) -> value
        Fake quantization of activations, if they are to be.

    Returns
    -------
    dict of str to ndarray
        `quantized` with other biases.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2 and appendix D.

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> net = [Node("y", linear, ("x", "y.weight", "y.bias"))]
    >>> float_net = {"y.weight": np.array([[0.8]]), "y.bias": np.zeros(1)}
    >>> rounded = {"y.weight": np.array([[1.0]]), "y.bias": np.zeros(1)}
    >>> correct_biases(net, float_net, rounded, {"x": np.array([[1.0], [4.0]])})["y.bias"]
    array([-0.5])
    """
    exact = run(nodes, {**inputs, **values}).values
    biases = {n.name: n.inputs[2] for n in nodes if function_of(n.op) in LAYERS and n.inputs[2:]}
    corrected = dict(quantized)

    def repair(name: str, value: Array) -> Array:
        if name in biases:
            old = corrected[biases[name]]
            corrected[biases[name]] = empirical(old, exact[name], value)
            value = value + (corrected[biases[name]] - old)
        return tap(name, value)

    run(nodes, {**inputs, **quantized}, tap=repair)
    return corrected


def correct_moments(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    quantized: Mapping[str, Array],
    inputs: Mapping[str, Array],
    *,
    tap: Tap = untouched,
) -> dict[str, Array]:
    r"""Quantized parameters whose layers have the mean and the spread of the float network.

    What measuring batch norms again does for a network that has them, for one in which they are
    folded: with the mean :math:`\mu` and deviation :math:`\sigma` of each channel of the float
    layer, and those of the quantized one,

    .. math:: y' = \frac{\sigma}{\sigma_q} (y_q - \mu_q) + \mu .

    The factor belongs to the scale of the channel's weights and the rest to the bias: no code
    changes, and nothing is added to a run. No label is needed.

    Parameters
    ----------
    nodes : sequence of Node
        Folded; layers without a bias are left alone.
    values, quantized : mapping of str to ndarray
        Parameters of the float network, and the same with rounded weights.
    inputs : mapping of str to ndarray
        A few hundred images.
    tap : callable, (name, value) -> value
        Fake quantization of activations, if they are to be.

    Returns
    -------
    dict of str to ndarray
        `quantized` with other biases, and rows of weights that are longer or shorter.

    Raises
    ------
    ValueError
        If an input is not finite.

    Notes
    -----
    Factors are kept in [1/4, 4].

    References
    ----------
    Sun et al., 2019, NeurIPS, "Hybrid 8-bit Floating Point", section 3.3 (batch norm
    re-tuning); Hubara et al., 2020, arXiv:2006.10518 (the same where norms are folded).

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> net = [Node("y", linear, ("x", "y.weight", "y.bias"))]
    >>> float_net = {"y.weight": np.array([[0.8]]), "y.bias": np.zeros(1)}
    >>> rounded = {"y.weight": np.array([[1.0]]), "y.bias": np.zeros(1)}
    >>> made = correct_moments(net, float_net, rounded, {"x": np.array([[1.0], [4.0]])})
    >>> made["y.weight"].round(6), abs(made["y.bias"].round(6))
    (array([[0.8]]), array([0.]))
    """
    for name, x in inputs.items():
        require_finite(name, x)
    exact = run(nodes, {**inputs, **values}).values
    layers = {n.name: n.inputs for n in nodes if function_of(n.op) in LAYERS and n.inputs[2:]}
    corrected = dict(quantized)

    def repair(name: str, value: Array) -> Array:
        if name in layers:
            _, weight, bias = layers[name]
            axes = tuple(range(value.ndim - 1))
            wanted, mean = exact[name].mean(axes), value.mean(axes)
            gain = moment_gain(exact[name].std(axes), value.std(axes))
            old = corrected[weight]
            corrected[weight] = old * gain.reshape(-1, *(1,) * (old.ndim - 1))
            corrected[bias] = (corrected[bias] - mean) * gain + wanted
            value = (value - mean) * gain + wanted
        return tap(name, value)

    run(nodes, {**inputs, **quantized}, tap=repair)
    return corrected


def moment_gain(wanted: Array, found: Array) -> Array:
    """Factor from one standard deviation to another, within bounds; 1 for what does not vary."""
    gain = wanted / np.where(found > 0, found, 1)
    return np.where((wanted > 0) & (found > 0), np.clip(gain, 1 / MOST_GAIN, MOST_GAIN),
                    1).astype(found.dtype)


def correct_biases_without_data(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    quantized: Mapping[str, Array],
    statistics: Mapping[str, Gaussian],
    *,
    inputs: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Quantized parameters whose biases make up for the expected shift of each layer.

    Parameters
    ----------
    nodes : sequence of Node
        Folded.
    values, quantized : mapping of str to ndarray
        Parameters of the float network, and the same with rounded weights.
    statistics : mapping of str to Gaussian
        Of values before activations, from `norm_statistics` or `Equalized`.
    inputs : mapping of str to ndarray of float, optional
        Channel means of the network's inputs, if known. Layers that read something of unknown
        mean are left alone.

    Returns
    -------
    dict of str to ndarray
        `quantized` with other biases.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, section 4.2.

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> net = [Node("h", relu, ("n",)), Node("y", linear, ("h", "y.weight", "y.bias"))]
    >>> exact = {"y.weight": np.array([[0.5]]), "y.bias": np.zeros(1)}
    >>> rounded = exact | {"y.weight": np.array([[1.0]])}
    >>> known = {"n": Gaussian(np.zeros(1), np.ones(1))}
    >>> correct_biases_without_data(net, exact, rounded, known)["y.bias"].round(4)
    array([-0.1995])
    """
    means = _expected_means(nodes, statistics, inputs or {})
    corrected = dict(quantized)
    for node in nodes:
        if function_of(node.op) in LAYERS and node.inputs[2:] and node.inputs[0] in means:
            weight, bias = node.inputs[1:]
            corrected[bias] = analytic(
                corrected[bias], values[weight], quantized[weight], means[node.inputs[0]]
            )
    return corrected


def quantize_without_data(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    fit: Fit,
    activation: Callable[[float, float], Quantizer],
    *,
    deviations: float = 6.0,
) -> DataFree:
    """The network quantized from its own statistics: fold, equalize, round, correct, range.

    Parameters
    ----------
    nodes : sequence of Node
        With batch norms, whose statistics are all that is known about the data.
    values : mapping of str to ndarray
    fit : callable, ndarray -> Quantizer
        Of a weight; per tensor, or equalization was for nothing.
    activation : callable, (low, high) -> Quantizer
        Of an activation, e.g. ``partial(asymmetric, bits=8)``.
    deviations : float
        Standard deviations above the mean that a range contains: 6 in the paper; 3 is better
        for 4 bits.

    Returns
    -------
    DataFree

    Raises
    ------
    ValueError
        If there is no batch norm, or `deviations` is not positive.

    References
    ----------
    Nagel et al., 2019, arXiv:1906.04721, figure 4 and section 5.

    Examples
    --------
    >>> from functools import partial
    >>> from refquant.calibration.minmax import absmax
    >>> from refquant.nn.models import trained_digits_cnn
    >>> from refquant.quantizers.uniform import asymmetric, symmetric
    >>> model = trained_digits_cnn()
    >>> made = quantize_without_data(model.nodes, model.values,
    ...     lambda w: symmetric(absmax(w), bits=8), partial(asymmetric, bits=8))
    >>> len(made.nodes), list(made.plan)[:3]
    (22, ['stem', 'r1a', 'dw1'])
    """
    statistics = norm_statistics(nodes, values)
    if not statistics:
        raise ValueError("`nodes` must hold batch norms, not folded yet; got none")
    folded = fold_batch_norms(nodes, values)
    even = equalize(folded.nodes, folded.values, statistics)
    weights = {node.inputs[1] for node in folded.nodes if function_of(node.op) in LAYERS}
    rounded = {
        name: fake_quantize(v, fit(v)) if name in weights else v for name, v in even.values.items()
    }
    corrected = correct_biases_without_data(folded.nodes, even.values, rounded, even.statistics)
    plan = {}
    for node in folded.nodes:
        if function_of(node.op) in (relu, relu6) and node.inputs[0] in even.statistics:
            high = 6.0 if function_of(node.op) is relu6 else np.inf
            before = even.statistics[node.inputs[0]]
            plan[node.name] = activation(
                *activation_range(*before, deviations=deviations, low=0.0, high=high)
            )
    return DataFree(folded.nodes, corrected, plan)


def _neighbours(nodes: Sequence[Node]) -> list[tuple[Node, Node]]:
    """Pairs of layers with nothing between them that minds a positive factor."""
    read = readers(nodes)
    found = []
    for node in nodes:
        after = read.get(node.name, [])
        while len(after) == 1 and function_of(after[0].op) in _HOMOGENEOUS:
            after = read.get(after[0].name, [])
        alone = len(node.inputs) == 3 and all(len(read[name]) == 1 for name in node.inputs[1:])
        if function_of(node.op) in LAYERS and alone and len(after) == 1:
            other = after[0]
            reads = function_of(other.op) in LAYERS and len(read[other.inputs[1]]) == 1
            if reads and other.inputs[0] not in other.inputs[1:]:
                found.append((node, other))
    return found


def _expected_means(
    nodes: Sequence[Node], statistics: Mapping[str, Gaussian], inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """Mean of every channel of every value that follows from what is known."""
    means = {**inputs, **{name: known.mean for name, known in statistics.items()}}
    for node in nodes:
        function, sources = function_of(node.op), node.inputs
        if node.name in means:
            continue
        if function in (relu, relu6) and sources[0] in statistics:
            high = np.inf if function is relu else 6.0
            means[node.name], _ = clipped_normal(*statistics[sources[0]], low=0.0, high=high)
        elif function is add and all(name in means for name in sources):
            means[node.name] = means[sources[0]] + means[sources[1]]
        elif function in (average_pool, global_average_pool) and sources[0] in means:
            means[node.name] = means[sources[0]]
    return means
