r"""No data at all, on networks by name: synthesis from what a network remembers, then its use.

==========================  ====================================================================
what                        how
==========================  ====================================================================
images from statistics      ``distill(statistics_loss(nodes, values), start(noise))``
images from a generator     `train_generator`, then `drawn`
level 1, no training        the images in the place of real ones: in `calibrate.observe`, or in
                            `reconstruct.reconstruct` for learned rounding
level 2, training           `fine_tune`, with the float network as the teacher
==========================  ====================================================================

Synthesis needs the network *before* folding: the running statistics are the memory.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.apply.distill import TEACHER
from refquant.apply.train import ADAM, Batch, State, start, train
from refquant.nn._nodes import function_of
from refquant.nn.losses import softmax_cross_entropy
from refquant.nn.network import Node, Tap, backward, run
from refquant.nn.normalization import Running, batch_norm
from refquant.nn.optimizers import adam, constant, cosine
from refquant.qat.distillation import soft_cross_entropy
from refquant.zero_shot.batchnorm_statistics import Distance, LossAndGradient, batch_distance
from refquant.zero_shot.generator import generate, generator_loss, moment_distance

__all__ = ["GENERATOR", "drawn", "fine_tune", "generator_nodes", "remembered",
           "statistics_gaps", "statistics_loss", "train_generator"]

#: Adam as GANs use it.
GENERATOR = ADAM._replace(step=partial(adam, decay=(0.5, 0.999)))

_GENERATE = ("embedding", "hidden.weight", "hidden.bias", "out.weight", "out.bias")


def remembered(nodes: Sequence[Node], values: Mapping[str, Array]) -> dict[str, Running]:
    """What the batch norms of a network remember of the values that enter them.

    Parameters
    ----------
    nodes : sequence of Node
        In evaluation form, not folded.
    values : mapping of str to ndarray
        Parameters and running statistics.

    Returns
    -------
    dict of str to Running
        Mean and variance of each channel, by the name of the value: a layer's output.

    Raises
    ------
    ValueError
        If there is no batch norm to ask.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, section 3.1.

    Examples
    --------
    >>> from refquant.nn.small_models import PLAIN, trained
    >>> model = trained(PLAIN)
    >>> [(name, known.mean.shape) for name, known in remembered(model.nodes, model.values).items()]
    [('c1.conv', (16,)), ('c2.conv', (32,)), ('c3.conv', (32,))]
    """
    found = {
        node.inputs[0]: Running(values[node.inputs[3]], values[node.inputs[4]])
        for node in nodes
        if function_of(node.op) is batch_norm
    }
    if not found:
        raise ValueError("`nodes` must hold a `batch_norm`, whose running mean and variance say "
                         "what the data was like; got none: take the network before folding")
    return found


def statistics_gaps(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    images: Array,
    *,
    distance: Distance = batch_distance,
    source: str = "x",
) -> dict[str, float]:
    """How far what a network sees of some images is from what it remembers, norm by norm.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
    images : ndarray of float, shape (n, ...)
    distance : callable, (value, mean, variance) -> (distance, pullback)
        `batch_distance`, `sample_distance`, `gaussian_divergence` or `moment_distance`.
    source : str
        Name of the input that the images are.

    Returns
    -------
    dict of str to float
        By the name of the value that enters a norm.

    Raises
    ------
    ValueError
        If the network has no batch norm.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, eq. (3), one term of the sum for each layer.

    Examples
    --------
    >>> from refquant.nn.small_models import PLAIN, split, trained
    >>> model = trained(PLAIN)
    >>> real = statistics_gaps(model.nodes, model.values, split().x_train)
    >>> black = statistics_gaps(model.nodes, model.values, 0 * split().x_train)
    >>> [real[name] < black[name] / 20 for name in real]
    [True, True, True]
    """
    known = remembered(nodes, values)
    seen = run(nodes, {source: images, **values}).values
    return {name: float(distance(seen[name], *moments)[0]) for name, moments in known.items()}


def statistics_loss(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    *,
    known: Mapping[str, Running] | None = None,
    distance: Distance = batch_distance,
    source: str = "x",
) -> LossAndGradient:
    r"""Loss of images by what the network sees of them, with its gradient: what ZeroQ descends.

    .. math:: L(x) = \sum_l D\bigl(h_l(x);\, \mu_l, v_l\bigr)

    over the values that enter batch norms, and over those of `known`.

    Parameters
    ----------
    nodes : sequence of Node
        In evaluation form, not folded.
    values : mapping of str to ndarray
        Parameters and running statistics.
    known : mapping of str to Running, optional
        Moments of further values. Those of the input are the constants that the images of the
        training set were normalized with: ``{"x": Running(mean, variance)}``.
    distance : callable, (value, mean, variance) -> (distance, pullback)
    source : str
        Name of the input that the images are.

    Returns
    -------
    callable, ndarray -> (float, ndarray)
        For `refquant.zero_shot.batchnorm_statistics.distill`.

    Raises
    ------
    ValueError
        If there is no batch norm, or `known` names no value of the network.

    References
    ----------
    Cai et al., 2020, arXiv:2001.00281, eq. (3).

    Examples
    --------
    >>> from refquant.nn.small_models import PLAIN, trained
    >>> from refquant.zero_shot.batchnorm_statistics import distill, start as begin
    >>> model, rng = trained(PLAIN), np.random.default_rng(0)
    >>> noise = rng.standard_normal((16, 8, 8, 1)).astype(np.float32)
    >>> made = distill(statistics_loss(model.nodes, model.values), begin(noise), steps=20)
    >>> bool(made.losses[-1] < made.losses[0] / 5)
    True
    """
    wanted = remembered(nodes, values) | dict(known or {})
    for name in wanted:
        if name != source and name not in {node.name for node in nodes}:
            raise ValueError(f"`known` must name the input or a node; got {name!r}")

    def loss_and_gradient(images: Array) -> tuple[float, Array]:
        trace = run(nodes, {source: images, **values})
        total, gradients = 0.0, dict[str, Array]()
        for name, (mean, variance) in wanted.items():
            value, pullback = distance(trace.values[name], mean, variance)
            total += float(value)
            gradients[name] = np.asarray(pullback(np.ones((), images.dtype))[0])
        return total, backward(trace, gradients)[source]

    return loss_and_gradient


def generator_nodes(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    *,
    shape: tuple[int, ...],
    weight: float = 0.1,
    source: str = "x",
    output: str = "logits",
) -> list[Node]:
    """A generator in front of a network, and its loss behind it.

    Parameters
    ----------
    nodes : sequence of Node
        In evaluation form, not folded.
    values : mapping of str to ndarray
        Parameters and running statistics.
    shape : tuple of int
        Of an image.
    weight : float
        Of the statistics; 0 leaves the network's verdict alone.
    source, output : str
        Names of the network's input and of its logits.

    Returns
    -------
    list of Node
        From ``noise`` and ``labels`` to ``loss``.

    Raises
    ------
    ValueError
        If the network has no batch norm.

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, figure 2.

    Examples
    --------
    >>> from refquant.nn.small_models import PLAIN, trained
    >>> model = trained(PLAIN)
    >>> made = generator_nodes(model.nodes, model.values, shape=(8, 8, 1))
    >>> [node.name for node in made][:2], made[-1].inputs[:2]
    (['x', 'c1.conv'], ('cross_entropy', 'c1.conv.gap'))
    """
    inputs = ("noise", "labels", *(f"generator.{name}" for name in _GENERATE))
    statistics = {node.inputs[0]: node.inputs[3:5] for node in nodes
                  if node.inputs[0] in remembered(nodes, values)
                  and function_of(node.op) is batch_norm}
    gaps = [Node(f"{name}.gap", moment_distance, (name, *names))
            for name, names in statistics.items()]
    return [
        Node(source, partial(generate, shape=shape), inputs),
        *nodes,
        *gaps,
        Node("cross_entropy", softmax_cross_entropy, (output, "labels")),
        Node("loss", partial(generator_loss, weight=weight),
             ("cross_entropy", *(gap.name for gap in gaps))),
    ]


def train_generator(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    state: State,
    *,
    steps: int,
    rng: np.random.Generator,
    size: int = 64,
    rate: float = 1e-3,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> State:
    """The generator after some steps; the network in front of which it stands is not touched.

    Parameters
    ----------
    nodes : sequence of Node
        Of `generator_nodes`.
    values : mapping of str to ndarray
        Of the network.
    state : State
        ``start(initial_generator(...), {}, GENERATOR)``, or resumed.
    steps : int
        Number of the last step.
    rng : numpy.random.Generator
        Four integers are drawn; they seed the noise and the labels of all steps.
    size : int
        Images per step.
    rate : float
    checkpoint : Path, optional
        As in `refquant.apply.train.train`.
    progress : callable, (step, loss) -> None, optional

    Returns
    -------
    State

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, algorithm 1; rates of section 4.1.

    Examples
    --------
    >>> from refquant.nn.small_models import PLAIN, trained
    >>> from refquant.zero_shot.generator import initial_generator
    >>> model, rng = trained(PLAIN), np.random.default_rng(0)
    >>> net = generator_nodes(model.nodes, model.values, shape=(8, 8, 1))
    >>> losses = []
    >>> state = start(initial_generator(10, 64, rng=rng), {}, GENERATOR)
    >>> state = train_generator(net, model.values, state, steps=20, rng=rng,
    ...                         progress=lambda step, loss: losses.append(loss))
    >>> losses[-1] < losses[0]
    True
    """
    classes, width = state.parameters["generator.embedding"].shape
    dtype = state.parameters["generator.embedding"].dtype
    draw = _draws(classes, width, size, rng, dtype)
    return train(nodes, state, lambda step: {**draw(step), **values}, steps=steps,
                 rate=constant(rate), optimizer=GENERATOR, checkpoint=checkpoint,
                 progress=progress)


def drawn(
    parameters: Mapping[str, Array],
    *,
    shape: tuple[int, ...],
    size: int,
    rng: np.random.Generator,
    source: str = "x",
) -> Batch:
    """New images from a generator for each step, any of which can be had by its number.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Of the generator.
    shape : tuple of int
        Of an image.
    size : int
        Images per step.
    rng : numpy.random.Generator
        Four integers are drawn, once; they seed all steps.
    source : str
        Name that the images get.

    Returns
    -------
    callable, int -> dict of str to ndarray
        Images, and the ``labels`` that they were drawn for.

    References
    ----------
    Xu et al., 2020, arXiv:2003.03603, algorithm 1.

    Examples
    --------
    >>> from refquant.zero_shot.generator import initial_generator
    >>> rng = np.random.default_rng(0)
    >>> batch = drawn(initial_generator(10, 64, rng=rng), shape=(8, 8, 1), size=3, rng=rng)
    >>> batch(0)["x"].shape, bool((batch(5)["x"] == batch(5)["x"]).all())
    ((3, 8, 8, 1), True)
    """
    arrays = [parameters[f"generator.{name}"] for name in _GENERATE]
    classes, width = arrays[0].shape
    draw = _draws(classes, width, size, rng, arrays[0].dtype)

    def batch(step: int) -> dict[str, Array]:
        inputs = draw(step)
        images = generate(inputs["noise"], inputs["labels"], *arrays, shape=shape)[0]
        return {source: images, "labels": inputs["labels"]}

    return batch


def fine_tune(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batch: Batch,
    tap: Tap,
    *,
    steps: int = 300,
    rate: float = 1e-3,
    teacher: Sequence[Node] | None = None,
    after: Callable[[dict[str, Array], int], Mapping[str, Array]] | None = None,
    output: str = "logits",
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> dict[str, Array]:
    r"""Parameters trained to say, quantized, what the float network says of the same images.

    .. math:: L = -\frac1n \sum_i \sum_k p_{ik} \log \hat p_{ik}

    with p the probabilities of the float network and the gradient straight through the tap. No
    label is used, so the images may be synthetic: quantization-aware training without data.

    Parameters
    ----------
    nodes : sequence of Node
        Folded, up to the logits.
    values : mapping of str to ndarray
        Parameters: the teacher, and where the student starts.
    batch : callable, int -> mapping of str to ndarray
        Inputs of each step: `shuffled` images, or `drawn` ones.
    tap : callable, (name, value) -> value
        Quantizes weights and activations, e.g. ``static(plan)``; `untouched` if `nodes` do.
    steps : int
    rate : float
        Of Adam, falling to 0 on a cosine.
    teacher : sequence of Node, optional
        The float network, if `nodes` hold quantizers of their own
        (`refquant.apply.learned.insert`) and so are not. It reads `values` too.
    after : callable, (parameters, step) -> parameters, optional
        As in `refquant.apply.train.train`: `refquant.apply.learned.keep_valid` for such nodes.
    output : str
        Name of the logits.
    checkpoint : Path, optional
        As in `refquant.apply.train.train`.
    progress : callable, (step, loss) -> None, optional

    Returns
    -------
    dict of str to ndarray
        In float, to be run with the same tap.

    Raises
    ------
    ValueError
        If a loss is not finite.

    References
    ----------
    Hinton et al., 2015, arXiv:1503.02531, section 2, at temperature 1; Xu et al., 2020,
    arXiv:2003.03603, section 3.3.

    Examples
    --------
    >>> from refquant.apply.train import shuffled
    >>> from refquant.apply.simulate import static
    >>> from refquant.nn.operations import linear
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("logits", linear, ("x", "w"))]
    >>> rng = np.random.default_rng(0)
    >>> x = np.tile(rng.standard_normal((64, 1)), 2)    # two inputs that are always equal
    >>> images = shuffled({"x": x}, 64, rng=rng)
    >>> tap = static({"w": symmetric(np.array(1.0), bits=2)})
    >>> w = np.array([[0.45, 0.3], [0.0, 0.0]])         # all are rounded to 0 ...
    >>> losses = []
    >>> made = fine_tune(net, {"w": w}, images, tap, rate=0.01,
    ...                  progress=lambda step, loss: losses.append(loss))
    >>> min(losses) < losses[0]                         # ... and one of them should not
    True
    """
    require_int("steps", steps, 0)
    source = nodes if teacher is None else teacher
    answer = f"{TEACHER}{output}"

    def taught(step: int) -> dict[str, Array]:
        inputs = dict(batch(step))
        return {**inputs, answer: run(source, {**inputs, **values}).values[output]}

    loss = partial(soft_cross_entropy, temperature=1.0)
    learner = [*nodes, Node("loss", loss, (output, answer))]
    return train(learner, start(values, {}), taught, steps=steps, rate=cosine(rate, max(steps, 1)),
                 tap=tap, after=after, checkpoint=checkpoint, progress=progress).parameters


def _draws(
    classes: int, width: int, size: int, rng: np.random.Generator, dtype: np.dtype
) -> Batch:
    """Noise and labels of each step, from a generator of the step's own."""
    require_int("size", size, 1)
    seed = [int(part) for part in rng.integers(0, 2**32, 4)]

    def draw(step: int) -> dict[str, Array]:
        own = np.random.default_rng([*seed, step])
        noise = own.standard_normal((size, width)).astype(dtype)
        return {"noise": noise, "labels": own.integers(0, classes, size)}

    return draw
