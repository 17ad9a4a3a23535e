"""The command ``refquant quantize``: files in, a file out, and what it costs in between."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from refquant._types import Array
from refquant.interop._files import save_bytes
from refquant.interop.onnx_float import FloatOnnx, open_float, run_values
from refquant.interop.qdq import CodedWeight, weight_bytes
from refquant.mixed_precision.integer_program import Budget, allocate
from refquant.workflow._jobs import threads
from refquant.workflow._quantize_tensors import KINDS, quantize_tensors, write_layers
from refquant.workflow._terminal import console_of
from refquant.workflow.quantize import (
    Agreement,
    Quantized,
    activation_plan,
    batches_of,
    choose_bits,
    compare,
    group_length,
    observe,
    quantize_layers,
    scales_by_awq,
    scales_by_smoothquant,
)
from refquant.workflow.tensors import npz_member, npz_names, open_npz
from refquant.workflow.weights import Seen, by_adaround, by_gptq, clipped, nearest

__all__ = ["BATCH", "METHODS", "Settings", "batch_of", "chosen_layers", "quantize_file",
           "read_inputs"]

#: By the name on the command line; what they need besides a weight is data, if anything.
METHODS = ("nearest", "clip", "gptq", "adaround", "awq", "smoothquant", "hqq")
NEED_DATA = {"gptq", "adaround", "awq", "smoothquant"}
#: These put an operator in front of a layer.
MULTIPLY = {"awq", "smoothquant"}
#: Widths that have a size of their own in an ONNX file.
WIDTHS = (4, 8)
BATCH = 32


class Settings(NamedTuple):
    """What the command was asked for."""

    bits: int = 8
    method: str = "nearest"
    group: int | None = None
    activations: bool = False
    budget: float | None = None
    keep: tuple[str, ...] = ()
    seed: int = 0
    jobs: int = 1


def quantize_file(
    path: Path, output: Path, settings: Settings, calibration: Path | None = None
) -> int:
    """Open, calibrate, quantize, write, run, compare, print; exit status 0."""
    if path.suffix in KINDS:
        return _of_tensors(path, output, settings, calibration)
    to_tensors = output.suffix in KINDS
    if settings.method == "hqq":
        raise ValueError("`--method hqq` must have a file of tensors, .safetensors or .npz: its "
                         f"zero points are not whole; got {path.name}")
    if to_tensors and (settings.activations or settings.method in MULTIPLY):
        what = "--activations" if settings.activations else f"--method {settings.method}"
        raise ValueError(f"`{what}` must have an .onnx file as output: it adds operators; "
                         f"got {output.name}")
    console = console_of(110)
    model = open_float(path)
    inputs = None if calibration is None else read_inputs(calibration, model)
    if inputs is None and (settings.method in NEED_DATA or settings.activations
                           or settings.budget is not None):
        what = ("--activations" if settings.activations else "--budget"
                if settings.budget is not None else f"--method {settings.method}")
        raise ValueError(f"`{what}` must have data to learn from; got no `--calibration`")
    layers = chosen_layers(model, settings.keep)
    learn, judge = _halves(inputs, batch_of(model))
    with Progress(console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("calibrating", total=len(learn))
        rng = np.random.default_rng(settings.seed)
        seen = observe(model, learn, rng=rng,
                       progress=lambda done: bar.update(task, completed=done)) if learn else {}
        bar.update(task, description="rounding", total=len(layers), completed=0)
        with threads(settings.jobs):
            done = _quantized(model, layers, seen, settings, rng,
                              lambda name: bar.advance(task))
        bar.update(task, description="comparing", total=None)
        found = compare(model, done.content, judge) if judge else None
        if not judge:
            list(run_values(open_float(done.content), [], []))      # the runtime takes it
    if to_tensors:
        write_layers(output, model, done.weights)
    else:
        save_bytes(output, done.content)
    _print(console, model, done, path, output, settings)
    _print_agreement(console, found, learn is judge)
    return 0


def _of_tensors(path: Path, output: Path, settings: Settings, calibration: Path | None) -> int:
    """Weights that no graph comes with: nothing can be run, so nothing is learned."""
    if output.suffix not in KINDS:
        raise ValueError(f"`--output` must end in {' or '.join(KINDS)} for a file of tensors; "
                         f"got {output.name}")
    for option, given in (("--calibration", calibration is not None),
                          ("--activations", settings.activations),
                          ("--budget", settings.budget is not None)):
        if given:
            raise ValueError(f"`{option}` must have a model that runs, an .onnx file; "
                             f"got {path.name}")
    return quantize_tensors(path, output, bits=settings.bits, method=settings.method,
                            group=settings.group, keep=settings.keep, jobs=settings.jobs)


def read_inputs(
    path: Path, model: FloatOnnx, option: str = "--calibration"
) -> dict[str, Array]:
    """Arrays of a ``.npz`` for every input of the model, along one leading axis.

    Nothing is unpickled, and nothing is allocated before the size that a file declares has
    been compared with what it can hold.
    """
    with open_npz(path, option) as archive:
        arrays = {name: npz_member(archive, member)
                  for name, member in npz_names(archive).items() if name in model.inputs}
    missing = sorted(set(model.inputs) - set(arrays))
    if missing:
        raise ValueError(f"`{option}` must hold the inputs {', '.join(model.inputs)}; "
                         f"got no {missing[0]}")
    counts = set()
    for name, (dtype, shape) in model.inputs.items():
        array = arrays[name]
        if array.dtype.kind != dtype.kind:
            raise ValueError(f"`{name}` must be {dtype}; got {array.dtype}")
        if not shape:
            raise ValueError(f"`{name}` must have an axis of examples; the model takes one number")
        if array.ndim != len(shape) or any(
                n is not None and n != m for n, m in zip(shape[1:], array.shape[1:], strict=True)):
            raise ValueError(f"`{name}` must have shape {_shape(shape)}; got {array.shape}")
        arrays[name] = array.astype(dtype)
        if dtype.kind == "f" and np.isnan(arrays[name]).any():
            raise ValueError(f"`{option}` must hold numbers; got a NaN in {name}")
        counts.add(len(array))
    if len(counts) != 1 or not counts.pop():
        raise ValueError(f"`{option}` must hold as many examples of every input, at least one; "
                         "got different numbers or none")
    return {name: arrays[name] for name in model.inputs}


def _shape(shape: Sequence[int | None]) -> tuple[Any, ...]:
    return tuple("any" if n is None else n for n in shape)


def chosen_layers(model: FloatOnnx, keep: Sequence[str]) -> list[str]:
    """Names of weights to quantize: all but those kept, by weight or by node."""
    names = list(dict.fromkeys(x.weight for x in model.layers))
    if not names:
        why = next((f"{name}: {reason}" for name, reason in model.left.items()), "none")
        raise ValueError("`MODEL` must have a MatMul, Gemm or Conv with a constant weight; "
                         f"got {why}")
    of_node = {x.node: x.weight for x in model.layers}
    for name in keep:
        if name not in names and name not in of_node:
            raise ValueError(f"`--keep` must name a layer; got {name}")
    left = {of_node.get(name, name) for name in keep}
    return [n for n in names if n not in left]


def batch_of(model: FloatOnnx) -> int | None:
    """The number of examples that a model takes at once, if it takes no other."""
    return next((shape[0] for _, shape in model.inputs.values() if shape and shape[0]), None)


def _halves(
    inputs: Mapping[str, Array] | None, batch: int | None
) -> tuple[list[dict[str, Array]], ...]:
    """Examples to learn from and, if there are enough, others to judge by."""
    if inputs is None:
        return [], []
    n = len(next(iter(inputs.values())))
    if batch and n % batch:
        raise ValueError(f"`--calibration` must hold whole batches of {batch}, which is what the "
                         f"model takes; got {n} examples")
    size = batch or BATCH
    if n < max(8, 2 * (batch or 1)):
        all_of_them = batches_of(inputs, size)
        return all_of_them, all_of_them
    unit = batch or 1
    held = max(n // 4 // unit, 1) * unit
    return (batches_of({k: a[: n - held] for k, a in inputs.items()}, size),
            batches_of({k: a[n - held :] for k, a in inputs.items()}, size))


def _quantized(
    model: FloatOnnx, layers: Sequence[str], seen: Mapping[str, Seen], settings: Settings,
    rng: np.random.Generator, progress: Callable[[str], None],
) -> Quantized:
    """The model under the settings."""
    bits, group = dict.fromkeys(layers, settings.bits), settings.group
    methods: dict[str, Callable[..., CodedWeight]] = {
        "nearest": nearest, "clip": clipped, "gptq": by_gptq, "awq": nearest,
        "smoothquant": nearest, "adaround": by_adaround}
    method = methods[settings.method]
    divide: dict[str, Array] = {}
    if settings.method == "awq":
        divide = scales_by_awq(model, seen, bits=settings.bits, group_size=group)
    elif settings.method == "smoothquant":
        divide = scales_by_smoothquant(model, seen)
    if settings.budget is not None:
        bits = _allocated(model, layers, seen, settings)
    plan = activation_plan(model, seen, divide) if settings.activations else None
    if plan is not None:
        kept = {x.reads for x in model.layers if x.weight not in layers}
        plan = {name: q for name, q in plan.items() if name not in kept}
    return quantize_layers(model, method, bits=bits, group_size=group, seen=seen, divide=divide,
                           activations=plan, progress=progress,
                           rng=rng if method is by_adaround else None)


def _allocated(
    model: FloatOnnx, layers: Sequence[str], seen: Mapping[str, Seen], settings: Settings
) -> dict[str, int]:
    """4 or 8 bits for each layer, within a budget of megabytes of weights."""
    names, table, sizes = choose_bits(model, nearest, seen, choices=WIDTHS,
                                      group_size=settings.group)
    kept = [i for i, n in enumerate(names) if n in layers]
    if not kept:
        raise ValueError("`--budget` must have a layer to choose bits for; got none whose inputs "
                         "can be cut into rows")
    weights = model.by_weight

    def widest(name: str) -> int:
        matrix, size = weights[name].matrix, group_length(weights[name], settings.group)
        return weight_bytes(nearest(matrix, max(WIDTHS), size))

    assert settings.budget is not None
    unseen = set(layers) - {names[i] for i in kept}     # they have no errors to choose by
    spent = sum(map(widest, unseen))
    limit, least = round(settings.budget * 1e6), int(sizes[kept].min(1).sum()) + spent
    if limit < least:
        raise ValueError(f"`--budget` must be at least {least / 1e6:.6f} megabytes, the "
                         f"least that {min(WIDTHS)} bits allow; got {settings.budget:g}")
    budget = Budget("bytes", sizes[kept], limit - spent)
    found = allocate(table[kept], [budget])
    choice = {names[i]: WIDTHS[k] for i, k in zip(kept, found.choice, strict=True)}
    return dict.fromkeys(layers, max(WIDTHS)) | choice


def _print(
    console: Console, model: FloatOnnx, done: Quantized, path: Path, output: Path,
    settings: Settings,
) -> None:
    grid = Table(box=SIMPLE)
    for title in ("layer", "bits", "group", "kB", "output error"):
        grid.add_column(title, justify="left" if title == "layer" else "right", no_wrap=True)
    for name, coded in done.weights.items():
        error = done.errors[name]
        whole = done.groups[name] == coded.codes.shape[1]
        grid.add_row(name[-40:], str(coded.bits), "row" if whole else str(done.groups[name]),
                     f"{weight_bytes(coded) / 1e3:.1f}",
                     "n/a" if np.isnan(error) else f"{100 * error:.3g} %")
    console.print(grid)
    for name, why in model.left.items():
        console.print(f"left in float: {name}: {why}", soft_wrap=True, markup=False)
    for name in settings.keep:
        console.print(f"left in float: {name}: as asked", soft_wrap=True, markup=False)
    if settings.group is not None:
        rows = [n for n, size in done.groups.items() if size != settings.group]
        if rows:
            console.print(f"one scale a row in {len(rows)} layers: {settings.group} does not "
                          "divide them, or they are convolutions or products of 8-bit integers",
                          soft_wrap=True)
    before, after = path.stat().st_size, output.stat().st_size
    console.print(f"{before / 1e6:.2f} MB -> {after / 1e6:.2f} MB in {output}", soft_wrap=True,
                  markup=False)


def _print_agreement(
    console: Console, found: Sequence[Agreement] | None, on_the_same: bool
) -> None:
    if found is None:
        console.print("a runtime loads it; nothing was compared, since there is no `--calibration`")
        return
    where = "on the data it learned from" if on_the_same else "on data it did not learn from"
    for a in found:
        same = "" if np.isnan(a.same) else f", same answer {100 * a.same:.2f} %"
        console.print(f"{a.output} {where}: cosine {a.cosine:.5f}, SQNR {a.sqnr:.1f} dB, "
                      f"largest difference {a.largest:.3g}{same}", soft_wrap=True, markup=False)
