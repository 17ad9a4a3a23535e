r"""Searches for bit-widths on a network: what they ask it, and the supernet that trains them all.

To the searches of `refquant.mixed_precision` a network is a function of a policy. Here that
function is made: every weight is quantized once with every width (`weight_versions`), and a
policy is judged by running the network with the versions it names (`judge`).

`supernet` is the other way, DNAS. Behind each weight stands a mixture of its versions, whose
shares are drawn by Gumbel-softmax from logits that are trained like any parameter:

.. code-block:: text

    L.weight --+
               +--> L.weight.mixed --> layer --> ... --> task --+
    L.shares --+                                               +--> loss
        ^---- L.logits, L.noise, temperature                   |
    L.shares of all layers --> cost ---------------------------+

Everything is a node, so `refquant.apply.train` trains it, resumes it and shows its progress;
`alternating` is an optimizer whose even steps move weights and whose odd steps move logits.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from refquant._types import Array, Codes
from refquant.apply.train import Batch, Optimizer
from refquant.mixed_precision.differentiable import Objective, expected_cost, mixture
from refquant.mixed_precision.environment import LayerShape
from refquant.mixed_precision.search import Evaluate
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.convolution import depthwise_conv2d
from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.models import Model
from refquant.nn.network import Node, Pullback, insert_after, run
from refquant.nn.operations import linear
from refquant.nn.optimizers import AdamState, adam, adam_start
from refquant.qat.relaxed import gumbel, gumbel_softmax
from refquant.quantizer import Quantizer, fake_quantize

__all__ = [
    "alternating",
    "judge",
    "layer_shapes",
    "negative_loss",
    "noisy",
    "supernet",
    "supernet_logits",
    "weight_costs",
    "weight_versions",
]


def weight_versions(
    parameters: Mapping[str, Array],
    names: Sequence[str],
    choices: Codes,
    fit: Callable[[Array, int], Quantizer],
) -> dict[str, list[Array]]:
    """Each named weight as its codes would give it back, for every width.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    names : sequence of str
    choices : ndarray of int32, shape (choices,)
    fit : callable, (weight, bits) -> Quantizer

    Returns
    -------
    dict of str to list of ndarray
        One array per choice, in the dtype of the weight.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section IV-B (mixed precision).

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> made = weight_versions({"w": np.array([0.2, 1.0])}, ["w"], np.array([2, 8]),
    ...                        lambda w, bits: symmetric(np.abs(w).max(), bits=bits))
    >>> [w.round(2).tolist() for w in made["w"]]
    [[0.0, 1.0], [0.2, 1.0]]
    """
    return {name: [fake_quantize(parameters[name], fit(parameters[name], int(bits)))
                   for bits in choices] for name in names}


def judge(
    model: Model,
    versions: Mapping[str, Sequence[Array]],
    choices: Codes,
    x: Array,
    score: Callable[[Array], float],
) -> Evaluate:
    """The reward of a policy: a score of the logits that its weights give.

    Parameters
    ----------
    model : Model
    versions : mapping of str to sequence of ndarray
        From `weight_versions`; a policy has a width for each name, in this order.
    choices : ndarray of int32, shape (choices,)
    x : ndarray of float, shape (n, height, width, channels)
        Inputs from the side of the training set: a search must not see the test.
    score : callable, ndarray of float, shape (n, classes) -> float
        Larger is better.

    Returns
    -------
    callable, ndarray of int32, shape (slots,) -> float

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.5.

    Examples
    --------
    >>> from refquant.nn.replicas import replica
    >>> from refquant.nn.data import digits
    >>> from refquant.quantizers.uniform import symmetric
    >>> model, data, widths = replica(0), digits(seed=0), np.array([2, 8])
    >>> made = weight_versions(model.parameters, ["fc.weight"], widths,
    ...                        lambda w, bits: symmetric(np.abs(w).max(), bits=bits))
    >>> reward = judge(model, made, widths, data.x_train[:256],
    ...                partial(negative_loss, labels=data.y_train[:256]))
    >>> reward(np.array([2])) < reward(np.array([8])) < 0
    True
    """

    def evaluate(bits: Codes) -> float:
        chosen = {name: kinds[int(np.searchsorted(choices, b))]
                  for (name, kinds), b in zip(versions.items(), bits, strict=True)}
        trace = run(model.nodes, {"x": x, **model.values, **chosen})
        return score(trace.values["logits"])

    return evaluate


def negative_loss(logits: Array, labels: Array) -> float:
    """Minus the mean negative log-likelihood, in nats: a score that never saturates.

    Parameters
    ----------
    logits : ndarray of float, shape (n, classes)
    labels : ndarray of int, shape (n,)

    Returns
    -------
    float

    References
    ----------
    Goodfellow, Bengio and Courville, 2016, "Deep Learning", section 6.2.2.3.

    Examples
    --------
    >>> round(negative_loss(np.zeros((1, 2)), np.array([0])), 4)
    -0.6931
    """
    return -float(softmax_cross_entropy(logits.astype(np.float64), labels)[0])


def weight_costs(parameters: Mapping[str, Array], names: Sequence[str], choices: Codes) -> Array:
    """Bits that the codes of each weight take, for every width.

    Parameters
    ----------
    parameters : mapping of str to ndarray
    names : sequence of str
    choices : ndarray of int32, shape (choices,)

    Returns
    -------
    ndarray of int64, shape (names, choices)

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 5 (model size).

    Examples
    --------
    >>> weight_costs({"w": np.zeros((10, 4))}, ["w"], np.array([2, 8]))
    array([[ 80, 320]])
    """
    sizes = [parameters[name].size for name in names]
    return np.outer(np.asarray(sizes, np.int64), np.asarray(choices, np.int64))


def layer_shapes(nodes: Sequence[Node], values: Mapping[str, Array]) -> list[LayerShape]:
    """What the state of HAQ tells of each layer, in the order of the run.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        One input, of any size, and the parameters: the network is run to see its shapes.

    Returns
    -------
    list of LayerShape

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.1.

    Examples
    --------
    >>> from refquant.nn.replicas import replica
    >>> model = replica(0)
    >>> layer_shapes(model.nodes, {"x": np.zeros((1, 8, 8, 1), np.float32), **model.values})[3]
    LayerShape(depthwise=True, inputs=16, outputs=16, stride=2, kernel=3, weights=144, pixels=64)
    """
    seen = run(nodes, values).values
    shapes = []
    for node in nodes:
        if len(node.inputs) < 2 or not node.inputs[1].endswith(".weight"):
            continue
        x, weight = seen[node.inputs[0]], seen[node.inputs[1]]
        full = function_of(node.op) is linear
        shapes.append(LayerShape(
            function_of(node.op) is depthwise_conv2d, x.shape[-1], len(weight),
            0 if full else int(settings_of(node.op).get("stride", 1)),
            1 if full else weight.shape[1], weight.size, int(np.prod(x.shape[1:-1]))))
    return shapes


def supernet(
    nodes: Sequence[Node],
    quantizers: Mapping[str, Sequence[Quantizer]],
    costs: Array,
    objective: Objective,
) -> list[Node]:
    """The network with a mixture behind each weight, and after it task loss, cost and loss.

    Parameters
    ----------
    nodes : sequence of Node
        In training form, from ``x`` to ``logits``.
    quantizers : mapping of str to sequence of Quantizer
        For each weight ``L.weight`` one per width. They are fixed: fit them to the weights that
        training starts from.
    costs : ndarray, shape (weights, choices)
    objective : callable, (loss, cost) -> (value, pullback)
        `cost_sum` or `cost_product`, their settings bound.

    Returns
    -------
    list of Node
        They read ``L.logits`` (see `supernet_logits`), and of the batch ``L.noise`` and
        ``temperature`` (see `noisy`).

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, sections 4 and 5.

    Examples
    --------
    >>> from refquant.mixed_precision.differentiable import cost_sum
    >>> from refquant.nn.models import digits_cnn
    >>> from refquant.quantizers.uniform import symmetric
    >>> q = [symmetric(np.array(1.0), bits=bits) for bits in (2, 8)]
    >>> net = supernet(digits_cnn(), {"fc.weight": q}, np.array([[2.0, 8.0]]),
    ...                partial(cost_sum, weight=0.1))
    >>> [node.name for node in net[-3:]]
    ['task', 'cost', 'loss']
    """
    made = list(nodes)
    shares = []
    for weight, kinds in quantizers.items():
        layer = weight.removesuffix(".weight")
        shares.append(f"{layer}.shares")
        rounds = [partial(_fake_quantize, quantizer=q) for q in kinds]
        made = insert_after(made, weight, Node(
            f"{weight}.mixed", partial(mixture, quantize=rounds), (weight, f"{layer}.shares")))
        made.insert(0, Node(f"{layer}.shares", _shares,
                            (f"{layer}.logits", f"{layer}.noise", "temperature")))
    return [
        *made,
        Node("task", softmax_cross_entropy, ("logits", "labels")),
        Node("cost", partial(expected_cost, costs=costs), tuple(shares)),
        Node("loss", objective, ("task", "cost")),
    ]


def supernet_logits(names: Sequence[str], choices: Codes) -> dict[str, Array]:
    """Logits before training: all widths equally likely.

    Parameters
    ----------
    names : sequence of str
        Of weights, ``L.weight``.
    choices : ndarray of int32, shape (choices,)

    Returns
    -------
    dict of str to ndarray of float32
        ``L.logits``, to be joined to the parameters.

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, section 4.

    Examples
    --------
    >>> supernet_logits(["fc.weight"], np.array([2, 8]))
    {'fc.logits': array([0., 0.], dtype=float32)}
    """
    return {name.removesuffix("weight") + "logits": np.zeros(len(choices), np.float32)
            for name in names}


def noisy(
    weights: Batch,
    logits: Batch,
    names: Sequence[str],
    choices: Codes,
    temperature: Callable[[int], float],
    *,
    rng: np.random.Generator,
) -> Batch:
    """Batches for `alternating`: of one half of the data, of the other, and noise for both.

    Parameters
    ----------
    weights, logits : callable, int -> mapping of str to ndarray
        Batches of even and of odd steps, each counted from 0.
    names : sequence of str
        Of the mixed weights.
    choices : ndarray of int32, shape (choices,)
    temperature : callable, int -> float
        Of the step, for example ``annealed(5.0, 0.1, steps)``.
    rng : numpy.random.Generator
        Four integers are drawn; they seed the noise of every step.

    Returns
    -------
    callable, int -> dict of str to ndarray

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, sections 4 and 6.

    Examples
    --------
    >>> halves = [lambda step, half=half: {"x": np.array([half, step])} for half in (0, 1)]
    >>> batch = noisy(*halves, ["fc.weight"], np.array([2, 8]), lambda step: 1.0,
    ...               rng=np.random.default_rng(0))
    >>> batch(5)["x"], batch(5)["fc.noise"].shape
    (array([1, 2]), (2,))
    """
    seed = [int(part) for part in rng.integers(0, 2**32, 4)]

    def batch(step: int) -> dict[str, Array]:
        inputs = dict((logits if step % 2 else weights)(step // 2))
        inputs["temperature"] = np.array(temperature(step), np.float32)
        noise = gumbel((len(names), len(choices)), rng=np.random.default_rng([*seed, step]))
        for name, row in zip(names, noise.astype(np.float32), strict=True):
            inputs[name.removesuffix("weight") + "noise"] = row
        return inputs

    return batch


def alternating(second: Callable[[str], bool], *, factor: float = 1.0) -> Optimizer:
    """Adam for two groups of parameters in turn, each with averages and a count of its own.

    Parameters
    ----------
    second : callable, str -> bool
        Whether a name belongs to the group of the odd steps.
    factor : float
        Of the learning rate of that group.

    Returns
    -------
    Optimizer
        For `refquant.apply.train.train`.

    References
    ----------
    Wu et al., 2018, arXiv:1812.00090, algorithm 1; Liu, Simonyan and Yang, 2019,
    arXiv:1806.09055, algorithm 1 (first order).

    Examples
    --------
    >>> both = {"w": np.zeros(1), "t": np.zeros(1)}
    >>> optimizer = alternating(lambda name: name == "t")
    >>> state = optimizer.start(both)
    >>> for _ in range(3):
    ...     both, state = optimizer.step(both, {n: np.ones(1) for n in both}, state, rate=0.5)
    >>> both["w"].round(3), both["t"].round(3)
    (array([-1.]), array([-0.5]))
    """

    def step(
        parameters: Mapping[str, Array], gradients: Mapping[str, Array], state: AdamState, *,
        rate: Callable[[str], float] | float,
    ) -> tuple[dict[str, Array], AdamState]:
        odd = state.steps % 2 == 1
        group = {name: g for name, g in gradients.items() if second(name) == odd}

        def of(name: str) -> float:
            return (rate(name) if callable(rate) else rate) * (factor if odd else 1.0)

        new, after = adam(parameters, group, state._replace(steps=state.steps // 2), rate=of)
        return new, after._replace(steps=state.steps + 1)

    return Optimizer(adam_start, step)


def _shares(logits: Array, noise: Array, temperature: Array) -> tuple[Array, Pullback]:
    """Shares of the widths; only the logits have a gradient."""
    shares, back = gumbel_softmax(logits, temperature, noise=noise)
    return shares, lambda g: (back(g)[0], None, None)


def _fake_quantize(w: Array, quantizer: Quantizer) -> Array:
    return fake_quantize(w, quantizer)
