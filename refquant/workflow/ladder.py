"""The ladder: try what is cheap, judge it, and stop at the first rung that is good enough.

==============  ==========================================  =======================
rung            what it does                                what it needs
==============  ==========================================  =======================
nearest         one scale for a weight, its largest value   ranges of activations
per channel     a scale per channel, of least error         the same
repaired        and biases corrected                        some inputs
moments         and the spread of each channel              some inputs
GPTQ            roundings that repair each other            some inputs
mixed           a width for each layer, one bit more in     some inputs
                the mean
trained         straight through, scales fixed              inputs and labels
==============  ==========================================  =======================

Activations have 8 bits throughout. What is tried is judged on data of its own: whoever picks the
best of seven by the figure that is reported reports too much.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np

from refquant._types import Array
from refquant._validate import require_int, require_number
from refquant.apply import mixed
from refquant.apply.calibrate import observe
from refquant.apply.calibrate import plan as planned
from refquant.apply.layerwise import sequential
from refquant.apply.repair import correct_biases, correct_moments
from refquant.apply.simulate import input_names, static, weight_names
from refquant.apply.train import shuffled, start, train
from refquant.calibration.minmax import absmax
from refquant.calibration.mse import omse
from refquant.calibration.second_moment import SecondMoment
from refquant.calibration.statistics import Range
from refquant.granularity import all_but
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.nn._nodes import function_of
from refquant.nn.convolution import conv2d
from refquant.nn.models import with_loss
from refquant.nn.network import Node
from refquant.nn.operations import linear
from refquant.nn.optimizers import cosine
from refquant.ptq.gptq import Rounded, gptq
from refquant.quantizer import Quantizer, fake_quantize
from refquant.quantizers.uniform import Uniform, asymmetric, symmetric

__all__ = ["Candidate", "Climb", "Rung", "Step", "Tried", "climb", "rungs_for", "silent"]


class Tried(Protocol):
    """What a rung makes: a network, or a file of one.

    Attributes
    ----------
    bits : float
        Of the codes of a weight, in the mean.
    size : int
        Bytes.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, figure 3.6.
    """

    @property
    def bits(self) -> float:
        """Of the codes of a weight, in the mean."""

    @property
    def size(self) -> int:
        """Bytes."""


T = TypeVar("T", bound=Tried)


class Candidate(NamedTuple):
    """A quantized network.

    Attributes
    ----------
    nodes : sequence of Node
    values : dict of str to ndarray
        Weights as their codes stand for them.
    plan : dict of str to Quantizer
        Of activations, for `static`.
    bits : float
        Of the codes of a weight, in the mean.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III.
    """

    nodes: Sequence[Node]
    values: dict[str, Array]
    plan: dict[str, Quantizer]
    bits: float

    @property
    def size(self) -> int:
        """Bytes of the codes of the weights; their scales and the biases come on top."""
        count = sum(self.values[n].size for n in weight_names(self.nodes))
        return round(count * self.bits / 8)


#: Makes a network, when its turn comes.
Rung: TypeAlias = Callable[[], Candidate]


class Step(NamedTuple):
    """One rung that was tried.

    Attributes
    ----------
    name : str
    score : float
    drop : float
        Below the float network.
    bits : float
        Of the codes of a weight, in the mean.
    size : int
        Bytes.
    seconds : float
        What it took to make.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, figure 3.6 (the pipeline and its branches).
    """

    name: str
    score: float
    drop: float
    bits: float
    size: int
    seconds: float


class Climb(NamedTuple, Generic[T]):
    """What was tried, and what came of it.

    Attributes
    ----------
    steps : tuple of Step
        In the order in which they were tried.
    reached : bool
        Whether the last one is good enough.
    candidate : Tried
        The last one if it is good enough, else the one of the best score.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, figure 3.6.
    """

    steps: tuple[Step, ...]
    reached: bool
    candidate: T


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
    >>> silent(0, 6, "nearest")
    """


def climb(
    rungs: Mapping[str, Callable[[], T]],
    judge: Callable[[T], float],
    *,
    baseline: float,
    max_drop: float,
    progress: Callable[[int, int, str], None] = silent,
) -> Climb[T]:
    """Rungs one after the other, up to the first that is good enough.

    Parameters
    ----------
    rungs : mapping of str to callable
        Cheap ones first; none is made before its turn.
    judge : callable, Tried -> float
        On data of its own; higher is better.
    baseline : float
        Score of the float network.
    max_drop : float
        How far below it is good enough.
    progress : callable, (done, total, name)
        Called before each rung.

    Returns
    -------
    Climb

    Raises
    ------
    ValueError
        If there is no rung.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, figure 3.6.

    Examples
    --------
    >>> rungs = {name: lambda b=b: Candidate([], {}, {}, b) for name, b in (("a", 2), ("b", 4))}
    >>> made = climb(rungs, lambda c: c.bits / 8, baseline=0.6, max_drop=0.2)
    >>> [step.name for step in made.steps], made.reached
    (['a', 'b'], True)
    """
    require_number("max_drop", max_drop)
    if not rungs:
        raise ValueError("`rungs` must hold at least one rung; got none")
    steps: list[Step] = []
    best: T | None = None
    for name, rung in rungs.items():
        progress(len(steps), len(rungs), name)
        begun = perf_counter()
        made = rung()
        seconds, score = perf_counter() - begun, judge(made)
        if best is None or score > max(step.score for step in steps):
            best = made
        steps.append(Step(name, score, baseline - score, made.bits, made.size, seconds))
        if steps[-1].drop <= max_drop:
            return Climb(tuple(steps), True, made)
    assert best is not None
    return Climb(tuple(steps), False, best)


def rungs_for(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    inputs: Mapping[str, Array],
    *,
    bits: int,
    labels: Array | None = None,
    rng: np.random.Generator | None = None,
    steps: int = 150,
) -> dict[str, Rung]:
    """The rungs of the table, for a network.

    Parameters
    ----------
    nodes : sequence of Node
        Batch norms folded, up to ``logits``.
    values : mapping of str to ndarray
    inputs : mapping of str to ndarray
        Some hundred examples.
    bits : int, at least 2
        Of a weight.
    labels : ndarray of int, optional
        Of the examples; without them the last rung is missing.
    rng : numpy.random.Generator, optional
        Of the order in which examples are trained on; default seed 0.
    steps : int
        Of training.

    Returns
    -------
    dict of str to callable

    Raises
    ------
    ValueError
        If `bits` is below 2.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, section 3.7; Krishnamoorthi, 2018, arXiv:1806.08342,
    section 3; Hubara et al., 2020, arXiv:2006.10518; Frantar et al., 2023, arXiv:2210.17323;
    Yao et al., 2021, arXiv:2011.10680.

    Examples
    --------
    >>> net, x = [Node("logits", linear, ("x", "fc.weight"))], np.array([[0.5, 1.0]])
    >>> rungs = rungs_for(net, {"fc.weight": np.array([[1.0, 0.2]])}, {"x": x}, bits=2)
    >>> list(rungs)
    ['nearest', 'per channel', 'repaired', 'moments', 'GPTQ', 'mixed']
    >>> rungs["nearest"]().values["fc.weight"]
    array([[1., 0.]])
    """
    require_int("bits", bits, 2)
    names = weight_names(nodes)
    seen = observe(nodes, values, [inputs], Range.of, names=input_names(nodes))
    plan = planned(seen, _eight_bits)

    def made(new: Mapping[str, Array], mean: float = bits) -> Candidate:
        return Candidate(nodes, {**values, **new}, plan, mean)

    def corrected(candidate: Candidate) -> Candidate:
        fixed = correct_biases(nodes, values, candidate.values, inputs, tap=static(plan))
        return candidate._replace(values=fixed)

    def measured(candidate: Candidate) -> Candidate:
        fixed = correct_moments(nodes, values, candidate.values, inputs, tap=static(plan))
        return candidate._replace(values=fixed)

    def rounded(fit: Callable[[Array], Uniform]) -> dict[str, Array]:
        return {n: fake_quantize(values[n], fit(values[n])) for n in names}

    def by_gptq() -> Candidate:
        layers = [n.inputs[1] for n in nodes if function_of(n.op) in (linear, conv2d)]
        start_ = {**values, **rounded(partial(per_channel, bits=bits))}
        for name in layers:                     # these start from the float weight
            start_[name] = values[name]
        return measured(made(sequential(
            nodes, start_, [inputs], SecondMoment.of, partial(_repaired, bits=bits), names=layers,
            tap=static(plan)).values))

    def by_program() -> Candidate:
        widths = range(bits, max(bits + 2, 8) + 1)
        table = mixed.candidates(values, names, [partial(per_channel, bits=b) for b in widths])
        loss = mixed.divergences(nodes, {**values, **inputs}, names, table)
        cost = mixed.sizes(values, names, list(widths))
        total = int(cost[:, 0].sum()) // bits
        found = allocate(loss, [Budget("bits", cost, (bits + 1) * total)])
        spent = float(np.take_along_axis(cost, np.asarray(found.choice)[:, None], 1).sum())
        return measured(made(mixed.allocated({}, names, table, found.choice), spent / total))

    def by_training(labels: Array) -> Candidate:
        grids = {n: per_channel(values[n], bits=bits) for n in names}
        batch = shuffled({**inputs, "labels": labels}, min(64, len(labels)),
                         rng=rng or np.random.default_rng(0))
        state = train(with_loss(nodes), start(values, {}), batch, steps=steps,
                      rate=cosine(1e-3, steps), tap=static({**plan, **grids}))
        return made({n: fake_quantize(v, grids[n]) if n in grids else v
                     for n, v in state.parameters.items()})

    rungs: dict[str, Rung] = {
        "nearest": lambda: made(rounded(partial(per_tensor, bits=bits))),
        "per channel": lambda: made(rounded(partial(per_channel, bits=bits))),
        "repaired": lambda: corrected(made(rounded(partial(per_channel, bits=bits)))),
        "moments": lambda: measured(made(rounded(partial(per_channel, bits=bits)))),
        "GPTQ": by_gptq,
        "mixed": by_program,
    }
    return rungs if labels is None else rungs | {"trained": partial(by_training, labels)}


def per_tensor(weight: Array, *, bits: int) -> Uniform:
    """One scale, the largest weight."""
    return symmetric(absmax(weight), bits=bits)


def per_channel(weight: Array, *, bits: int) -> Uniform:
    """A scale for each output, of least squared error."""
    return omse(weight, partial(symmetric, bits=bits), axis=all_but(0, weight.ndim))


def _repaired(weight: Array, seen: SecondMoment, *, bits: int) -> Rounded:
    return gptq(weight, seen.hessian, partial(per_channel, bits=bits))


def _eight_bits(seen: Range) -> Uniform:
    """Zero is in the range, which padding and ReLU need."""
    return asymmetric(seen.low, seen.high, bits=8)
