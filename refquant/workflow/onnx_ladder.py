"""The ladder on an ONNX file of your own: each rung is a file, and the first good one is kept.

==============  ==============================================  ============================
rung            weights                                         what it needs
==============  ==============================================  ============================
nearest         one scale for a row or group, from its ends     ranges of activations
clip            the range of least squared error                the same
moments         and each channel's mean and spread restored     some inputs
GPTQ            roundings that repair each other, and moments   some inputs
SmoothQuant     the same, what enters is evened out before      products
AWQ             the same, weights that matter are evened out    products, and time
AdaRound        roundings learned from outputs, and moments     a small model
mixed           a width for each layer, or float, one bit more  a run for each layer
                in the mean
trained         straight through, towards the float output      a small model, all of
                                                                whose operators have a
                                                                way back
float inputs    the best so far, activations left in float      nothing
spare           and the worst layers left in float, one more    a run for each layer
                with each rung
==============  ==============================================  ============================

What enters a layer has 8 bits up to *trained*. Nothing needs a label: what is learned is learned
from the outputs of the float model.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_int
from refquant.apply.simulate import static
from refquant.apply.train import shuffled, start, train
from refquant.interop.onnx_float import FloatOnnx, require_onnx, run_values
from refquant.interop.onnx_import import import_onnx, shift_name
from refquant.interop.qdq import CodedWeight, weight_bytes, with_codes
from refquant.metrics import sqnr
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.nn.network import Node, Pullback, run
from refquant.nn.optimizers import cosine
from refquant.quantizers.uniform import Uniform
from refquant.workflow._onnx_moments import moments_of, repairs, with_shifts
from refquant.workflow.ladder import Climb, climb, silent
from refquant.workflow.quantize import (
    activation_plan,
    made_up_for,
    quantize_layers,
    scales_by_awq,
    scales_by_smoothquant,
)
from refquant.workflow.weights import Seen, by_adaround, by_gptq, clipped, nearest

__all__ = ["Blame", "File", "FileClimb", "FileRung", "Recipe", "blame", "climb_file",
           "output_of", "rungs_for_file", "sparing", "untrainable", "written"]

Batches: TypeAlias = Sequence[Mapping[str, Array]]
#: Bits of a weight that is left alone.
FLOAT = 32
#: Weights above which learned rounding takes too long to be tried unasked.
MOST_LEARNED = 300_000
#: Products of one example above which training takes too long.
MOST_PRODUCTS = 5_000_000
#: Steps of training, and examples of each.
STEPS, TRAINING_BATCH = 150, 64
#: Of a step of training, in units of a parameter.
RATE = 0.01
#: Name of the float output, beside the inputs.
TARGET = "refquant:target"
#: Where sparing layers ends: half precision would be as small.
MOST_SPARED = 16


class Recipe(NamedTuple):
    """What becomes of a float model.

    Attributes
    ----------
    weights : mapping of str to CodedWeight
        By name; what is not there stays float.
    activations : mapping of str to Uniform
        By the value that layers read.
    divide : mapping of str to ndarray
        By the value that layers read: what its channels are divided by.
    shift : mapping of str to ndarray
        By the name of the weight: what is added to the channels of the layer's output.

    References
    ----------
    onnxruntime, "Quantize ONNX models", QDQ.
    """

    weights: Mapping[str, CodedWeight]
    activations: Mapping[str, Uniform]
    divide: Mapping[str, Array]
    shift: Mapping[str, Array]


class File(NamedTuple):
    """A quantized model, as it would be on the disk.

    Attributes
    ----------
    recipe : Recipe
    content : bytes
    bits : float
        Of the codes of a weight, in the mean over all layers; 32 for a layer in float.

    References
    ----------
    ONNX specification, "Models".
    """

    recipe: Recipe
    content: bytes
    bits: float

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.content)


#: Makes a file, when its turn comes.
FileRung: TypeAlias = Callable[[], File]


class Blame(NamedTuple):
    """What leaving one layer in float would be good for.

    Attributes
    ----------
    layer : str
        Name of its weight.
    bits : int
    size : int
        Bytes of its weight now.
    gain : float
        Of the signal to noise of the output, in dB.
    score : float
        Of the judge.

    References
    ----------
    TensorFlow Lite, "Inspecting Quantization Errors with Quantization Debugger", selective
    quantization.
    """

    layer: str
    bits: int
    size: int
    gain: float
    score: float


class FileClimb(NamedTuple):
    """What was tried on a model, what came of it, and which layers are to blame.

    Attributes
    ----------
    climb : Climb
    blamed : list of Blame
        Of the best file before any layer was spared, the layer that helps most first.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, figure 3.6.
    """

    climb: Climb[File]
    blamed: list[Blame]


def rungs_for_file(
    model: FloatOnnx,
    seen: Mapping[str, Seen],
    batches: Batches,
    *,
    bits: int,
    output: str,
    rng: np.random.Generator,
    group_size: int | None = None,
) -> dict[str, FileRung]:
    """The rungs of the table up to *trained*, for a model.

    Parameters
    ----------
    model : FloatOnnx
        With at least one layer.
    seen : mapping of str to Seen
        Of the calibration data, from `refquant.workflow.quantize.observe`.
    batches : sequence of mapping of str to ndarray
        The calibration data.
    bits : int, from 2 to 8
        Of a weight.
    output : str
        Whose signal to noise says what a layer costs.
    rng : numpy.random.Generator
        Of learned rounding and of the order of examples in training.
    group_size : int, optional
        Inputs that share a scale; rows without it.

    Returns
    -------
    dict of str to callable

    Raises
    ------
    ValueError
        If `bits` is out of range, or the model has no layer.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, section 3.7; Frantar et al., 2023, arXiv:2210.17323;
    Lin et al., 2024, arXiv:2306.00978; Xiao et al., 2023, arXiv:2211.10438; Nagel et al., 2020,
    arXiv:2004.10568; Yao et al., 2021, arXiv:2011.10680; Bengio et al., 2013, arXiv:1308.3432.
    """
    require_int("bits", bits, 2, 8)
    layers = model.by_weight
    if not layers:
        raise ValueError("`model` must have a layer to quantize; got none")
    moments = cache(lambda: moments_of(model, batches))

    def recipe(
        method: Callable[..., CodedWeight], divide: Mapping[str, Array] | None = None,
        draws: np.random.Generator | None = None,
    ) -> Recipe:
        plan = activation_plan(model, seen, divide)
        made = quantize_layers(model, method, bits=dict.fromkeys(layers, bits), rng=draws,
                               group_size=group_size, seen=seen, divide=divide, activations=plan)
        return Recipe(made.weights, plan, divide or {}, {})

    def measured(made: Recipe) -> File:
        found = repairs(model, written(model, made).content,
                        {n: m for n, m in moments().items() if n in made.weights}, batches)
        stretched = {n: made.weights[n]._replace(scale=(
            made.weights[n].scale * found[n].gain[:, None]).astype(np.float32)) for n in found}
        shift = {n: repair.shift for n, repair in found.items()}
        return written(model, made._replace(weights={**made.weights, **stretched}, shift=shift))

    def by_training() -> File:
        net, plan = import_onnx(model), activation_plan(model, seen)
        rows = quantize_layers(model, clipped, bits=dict.fromkeys(layers, bits), group_size=None,
                               seen=seen).weights
        grids = {n: _grid(rows[n], net.values[n].ndim) for n in layers}
        # A step of Adam is as long as its rate: so many hundredths of what a number is like.
        size = {n: float(np.sqrt(np.square(net.values[n]).mean())) for n in layers} | {
            shift_name(n): float(moments()[n].deviation.mean()) for n in layers}
        data = {n: np.concatenate([b[n] for b in batches]) for n in batches[0]}
        data[TARGET] = output_of(model, None, batches, output)
        state = train([*net.nodes, Node("loss", _relative_error, (output, TARGET))],
                      start(net.values, {}),
                      shuffled(data, min(TRAINING_BATCH, _count(batches[0])), rng=rng),
                      steps=STEPS, rate=cosine(RATE, STEPS), tap=static({**plan, **grids}),
                      factors=lambda name: max(size[name], 1e-6))
        new = state.parameters
        codes = {n: grids[n].encode(new[n]).reshape(rows[n].codes.shape) for n in layers}
        return written(model, Recipe(
            {n: rows[n]._replace(codes=codes[n]) for n in layers}, plan, {},
            {n: new[shift_name(n)] for n in layers}))

    def by_program() -> File:
        plan = activation_plan(model, seen)
        coded = {b: quantize_layers(model, by_gptq, bits=dict.fromkeys(layers, b),
                                    group_size=group_size, seen=seen, activations=plan)
                 for b in sorted({bits, min(bits + 1, 8), max(bits, 4), 8})}
        widths, first = list(coded), coded[bits]
        exact = output_of(model, None, batches, output)
        loss = np.zeros((len(layers), len(widths) + 1))             # the last is float
        for row, name in zip(loss, layers, strict=True):
            alone = written(model, Recipe({name: first.weights[name]}, {}, {}, {}))
            got = output_of(model, alone.content, batches, output)
            noise = np.square(got - exact.astype(np.float64)).mean()
            own = np.array([_own_error(model, name, coded[b].weights[name]) if name not in seen
                            else coded[b].errors[name] for b in widths])
            # To first order the noise of the output grows as that of the layer's own output.
            row[:-1] = noise * own / own[0] if own[0] else 0
        sizes = np.array([x.matrix.size for x in layers.values()])
        cost = sizes[:, None] * [*widths, FLOAT]
        found = allocate(loss, [Budget("bits", cost, (bits + 1) * int(sizes.sum()))])
        chosen = {n: coded[widths[k]].weights[n]
                  for n, k in zip(layers, found.choice, strict=True) if k < len(widths)}
        return measured(Recipe(chosen, plan, {}, {}))

    best_range = cache(lambda: recipe(clipped))
    rungs: dict[str, FileRung] = {
        "nearest": lambda: written(model, recipe(nearest)),
        "clip": lambda: written(model, best_range()),
        "moments": lambda: measured(best_range()),
        "GPTQ": lambda: measured(recipe(by_gptq)),
    }
    total = sum(x.matrix.size for x in layers.values())
    if 2 * sum(x.matrix.size for x in layers.values() if x.op != "Conv") >= total:
        rungs["SmoothQuant"] = lambda: measured(
            recipe(by_gptq, scales_by_smoothquant(model, seen)))
        rungs["AWQ"] = lambda: measured(
            recipe(by_gptq, scales_by_awq(model, seen, bits=bits, group_size=group_size)))
    if total <= MOST_LEARNED:
        rungs["AdaRound"] = lambda: measured(recipe(by_adaround, draws=rng))
    rungs["mixed"] = by_program
    return rungs if untrainable(model, batches[0], output) else rungs | {"trained": by_training}


def untrainable(model: FloatOnnx, batch: Mapping[str, Array], output: str) -> str:
    """Why training is no rung for a model; nothing if it is one.

    Parameters
    ----------
    model : FloatOnnx
    batch : mapping of str to ndarray
        Inputs, on which the network that is to be trained must compute what the file does.
    output : str

    Returns
    -------
    str

    References
    ----------
    Bengio et al., 2013, arXiv:1308.3432, section 3.4 (the straight-through estimator).
    """
    if sum(x.matrix.size for x in model.by_weight.values()) > MOST_LEARNED:
        return "too many weights to train unasked"
    if not any(shape and shape[0] for _, shape in model.inputs.values()):
        batch = {name: array[:8] for name, array in batch.items()}
    try:
        net = import_onnx(model)
        values = run(net.nodes, {**batch, **net.values}).values
    except ValueError as err:
        return str(err).partition("; got ")[2] or str(err)
    made, exact = values[output], output_of(model, None, [batch], output)
    if made.shape != exact.shape or not np.allclose(
            made, exact, rtol=1e-3, atol=1e-3 * float(np.abs(exact).max(initial=0))):
        return "read as a network it computes something else"
    products = sum(values[node.name].size * model.by_weight[node.inputs[1]].matrix.shape[1]
                   for node in net.nodes if node.inputs[1:2] and node.inputs[1] in net.values)
    if products > MOST_PRODUCTS * _count(batch):
        return "too many products to train unasked"
    return ""


def climb_file(
    model: FloatOnnx,
    rungs: Mapping[str, FileRung],
    judge: Callable[[File], float],
    blamed_by: Callable[[File], list[Blame]],
    *,
    baseline: float,
    max_drop: float,
    progress: Callable[[int, int, str], None] = silent,
) -> FileClimb:
    """Rungs up to the first that is good enough; then layers spared, the worst first.

    Parameters
    ----------
    model : FloatOnnx
    rungs : mapping of str to callable
        From `rungs_for_file`.
    judge : callable, File -> float
        On data of its own; higher is better.
    blamed_by : callable, File -> list of Blame
        For example a partial `blame`.
    baseline, max_drop : float
        As of `refquant.workflow.ladder.climb`.
    progress : callable, (done, total, name)

    Returns
    -------
    FileClimb

    Raises
    ------
    ValueError
        If there is no rung.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, figure 3.6.
    """
    def go_on(made: Climb[File], more: Mapping[str, FileRung]) -> Climb[File]:
        if made.reached or not more:
            return made
        after = climb(more, judge, baseline=baseline, max_drop=max_drop, progress=progress)
        better = after.reached or max(s.score for s in after.steps) > max(
            s.score for s in made.steps)
        return Climb(made.steps + after.steps, after.reached,
                     after.candidate if better else made.candidate)

    made = climb(rungs, judge, baseline=baseline, max_drop=max_drop, progress=progress)
    best = made.candidate.recipe
    if best.activations:
        made = go_on(made, {"float inputs": lambda: written(
            model, best._replace(activations={}))})
    blamed = blamed_by(made.candidate)
    return FileClimb(go_on(made, sparing(model, made.candidate, [b.layer for b in blamed])), blamed)


def blame(
    model: FloatOnnx,
    file: File,
    batches: Batches,
    *,
    output: str,
    judge: Callable[[Array], float],
    progress: Callable[[int, int, str], None] = silent,
) -> list[Blame]:
    """What each layer would give back if it alone were left in float, the most first.

    What only this layer reads is not rounded then either.

    Parameters
    ----------
    model : FloatOnnx
    file : File
    batches : sequence of mapping of str to ndarray
    output : str
    judge : callable, ndarray -> float
        A score of the output for these batches.
    progress : callable, (done, total, name)

    Returns
    -------
    list of Blame

    References
    ----------
    TensorFlow Lite, "Inspecting Quantization Errors with Quantization Debugger", selective
    quantization; Wu et al., 2020, arXiv:2004.09602, section 5.2.
    """
    exact = output_of(model, None, batches, output)
    now = sqnr(exact, output_of(model, file.content, batches, output))
    found, coded = [], file.recipe.weights
    for done, (name, weight) in enumerate(coded.items()):
        progress(done, len(coded), name)
        made = output_of(model, written(model, file.recipe, [name]).content, batches, output)
        gain = sqnr(exact, made) - now if np.isfinite(now) else 0.0
        found.append(Blame(name, weight.bits, weight_bytes(weight), float(gain), judge(made)))
    return sorted(found, key=lambda b: (-b.gain, -b.score))


def sparing(model: FloatOnnx, file: File, order: Iterable[str]) -> dict[str, FileRung]:
    """Rungs that leave layers in float, one more with each, while half precision is larger.

    Parameters
    ----------
    model : FloatOnnx
    file : File
    order : iterable of str
        Weights, the worst first.

    Returns
    -------
    dict of str to callable

    References
    ----------
    TensorFlow Lite, ``QuantizationDebugOptions.denylisted_nodes``.
    """
    sizes = {n: x.matrix.size for n, x in model.by_weight.items()}
    spent, spared, rungs = file.bits * sum(sizes.values()), list[str](), dict[str, FileRung]()
    for name in order:
        spared.append(name)
        spent += sizes[name] * (FLOAT - file.recipe.weights[name].bits)
        if spent > MOST_SPARED * sum(sizes.values()):
            break
        rungs[f"spare {name}"] = partial(written, model, file.recipe, tuple(spared))
    return rungs


def written(model: FloatOnnx, recipe: Recipe, spared: Collection[str] = ()) -> File:
    """The file of a recipe.

    Parameters
    ----------
    model : FloatOnnx
        Is not changed.
    recipe : Recipe
    spared : collection of str
        Weights that stay float all the same; their layers keep a division of what they read
        if others need it, and read it unrounded if no other does.

    Returns
    -------
    File
        Its recipe lacks what was spared.

    Raises
    ------
    ValueError
        If a name is not known, or a record does not fit its layer.

    References
    ----------
    ONNX specification, QuantizeLinear and DequantizeLinear, opset 21.
    """
    weights = {n: c for n, c in recipe.weights.items() if n not in spared}
    read = {x.reads for x in model.layers if x.weight in weights}
    made = Recipe(weights, {v: q for v, q in recipe.activations.items() if v in read},
                  {v: s for v, s in recipe.divide.items() if v in read},
                  {n: s for n, s in recipe.shift.items() if n in weights})
    content = with_codes(made_up_for(model, made.divide, weights), weights, made.activations,
                         {v: 1 / s for v, s in made.divide.items()})
    if made.shift:
        content = with_shifts(model, content, made.shift)
    sizes = {n: x.matrix.size for n, x in model.by_weight.items()}
    spent = sum(size * (weights[n].bits if n in weights else FLOAT) for n, size in sizes.items())
    return File(made, content, spent / sum(sizes.values()))


def output_of(
    model: FloatOnnx, content: bytes | None, batches: Batches, output: str
) -> Array:
    """One output for all batches, joined along the leading axis.

    Parameters
    ----------
    model : FloatOnnx
    content : bytes or None
        A file made of the model; None for the model itself.
    batches : sequence of mapping of str to ndarray
    output : str

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If it does not run, or the output has no row for each example.

    References
    ----------
    onnxruntime, ``InferenceSession.run``.
    """
    if content is not None:
        model = model._replace(proto=require_onnx().ModelProto.FromString(content))
    found = []
    for batch, values in zip(batches, run_values(model, batches, [output]), strict=True):
        count, value = _count(batch), np.asarray(values[output])
        if not value.ndim or len(value) != count:
            raise ValueError(f"`{output}` must have a row for each example; got shape "
                             f"{value.shape} for {count}")
        found.append(value)
    return np.concatenate(found)


def _count(batch: Mapping[str, Array]) -> int:
    return len(next(iter(batch.values())))


def _relative_error(output: Array, target: Array) -> tuple[Array, Pullback]:
    """Power of the difference over that of the target."""
    power = max(float(np.square(target).sum()), 1e-30)
    off = output - target
    loss = np.asarray(np.square(off).sum() / power, output.dtype)
    return loss, lambda g: (off * (2 * g / power), None)


def _grid(coded: CodedWeight, rank: int) -> Uniform:
    """The grid of each row, for a weight with more axes."""
    shape = (-1, *(1,) * (rank - 1))
    most = 2 ** (coded.bits - 1) - 1 if coded.signed else 2**coded.bits - 1
    return Uniform(coded.scale.reshape(shape), coded.zero_point.reshape(shape),
                   -most if coded.signed else 0, most)


def _own_error(model: FloatOnnx, name: str, coded: CodedWeight) -> float:
    """Of the weight itself, where what enters the layer was not seen."""
    return float(np.square(model.by_weight[name].matrix - coded.decoded()).sum())
