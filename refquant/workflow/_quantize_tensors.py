"""``refquant quantize`` on files of tensors: codes in, codes out, one tensor at a time."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from refquant._types import Array
from refquant.apply._at_once import at_once
from refquant.interop import safetensors
from refquant.interop.onnx_float import FloatOnnx
from refquant.interop.qdq import CodedWeight
from refquant.interop.safetensors import Bits
from refquant.workflow._jobs import threads
from refquant.workflow._terminal import console_of
from refquant.workflow.coded import CodedTensor, coded_bytes, is_coded, write_coded
from refquant.workflow.tensors import Stored, tensors_of
from refquant.workflow.weights import Method, by_hqq, clipped, nearest

__all__ = ["DATA_FREE", "KINDS", "quantize_tensors", "write_layers"]

#: Files of tensors.
KINDS = (".safetensors", ".npz")
#: What needs a weight and nothing else.
DATA_FREE: Mapping[str, Method] = {"nearest": nearest, "clip": clipped, "hqq": by_hqq}
#: Numbers of a tensor quantized at a time; each part of HQQ stops by itself.
PART = 2**20


class _Row(NamedTuple):
    """A line of the table."""

    name: str
    bits: int
    group: int
    columns: int
    size: int
    mse: float
    sqnr: float


def quantize_tensors(
    path: Path, output: Path, *, bits: int, method: str, group: int | None, keep: tuple[str, ...],
    jobs: int,
) -> int:
    """Codes for every matrix of floats, the rest as it is; print, and exit status 0."""
    if method not in DATA_FREE:
        raise ValueError(f"`--method` must be one of {', '.join(DATA_FREE)} for a file of tensors; "
                         f"got {method}, which needs a model that runs")
    stored = tensors_of(path)
    names = {t.name for t in stored}
    for name in keep:
        if name not in names:
            raise ValueError(f"`--keep` must name a tensor; got {name}")
    if is_coded(path):
        raise ValueError(f"`MODEL` must hold floats; got the codes of {path.name}")
    console = console_of(110)
    rows: list[_Row] = []
    left: dict[str, str] = dict.fromkeys(keep, "as asked")

    with (Progress(console=console, disable=not console.is_terminal, transient=True) as bar,
          threads(jobs)):
        task = bar.add_task("rounding", total=len(stored))

        def pairs() -> Iterator[tuple[str, CodedTensor | Array | Bits]]:
            made = at_once(_made, ((one, left.get(one.name), DATA_FREE[method], bits, group)
                                   for one in stored))
            for one, found in zip(stored, made, strict=True):
                if isinstance(found, str):
                    if found != "no matrix":
                        left[one.name] = found
                    yield one.name, one.read() if one.as_is is None else one.as_is()
                else:
                    rows.append(found[1])
                    yield one.name, found[0]
                bar.advance(task)
            if not rows:
                raise ValueError("`MODEL` must hold a matrix of floats; got "
                                 + next((f"{n}: {w}" for n, w in left.items()), "none"))
            bar.update(task, description="reading back", total=None)

        kept = safetensors.read_metadata(path) if path.suffix == ".safetensors" else {}
        write_coded(output, pairs(), kept)
    _print(console, rows, left, len(stored), path, output, group)
    return 0


def write_layers(output: Path, model: FloatOnnx, weights: Mapping[str, CodedWeight]) -> None:
    """The constants of an ONNX model, those with codes as codes, in a file of tensors."""
    layers = model.by_weight

    def pairs() -> Iterator[tuple[str, CodedTensor | Array | Bits]]:
        for tensor in model.proto.graph.initializer:
            if tensor.name in weights:
                layer, shape = layers[tensor.name], tuple(tensor.dims)
                order = ((0, 2, 3, 1) if layer.op == "Conv" else
                         (1, 0) if layer.transposed else (0, 1))
                yield tensor.name, CodedTensor(weights[tensor.name], shape, order)
            else:
                yield tensor.name, _numbers(tensor)

    write_coded(output, pairs())


def _numbers(tensor: Any) -> Array | Bits:
    from onnx.numpy_helper import to_array

    array = np.asarray(to_array(tensor))
    if array.dtype.name == "bfloat16":
        return Bits("BF16", array.view(np.uint16))
    if array.dtype.kind not in "biufc":
        raise ValueError(f"`{tensor.name}` must hold numbers to go into a file of tensors; "
                         f"got {array.dtype}")
    return array


def _why_not(one: Stored) -> str:
    """Why a tensor stays as it is, as far as its shape says; empty if it says nothing."""
    count = int(np.prod(one.shape, dtype=object)) if one.shape else 0
    return "no matrix" if len(one.shape) < 2 or count <= one.shape[0] else ""


def _made(
    one: Stored, why: str | None, method: Method, bits: int, group: int | None
) -> tuple[CodedTensor, _Row] | str:
    """The codes of a tensor, or why it stays as it is."""
    return why or _why_not(one) or _coded(one, method, bits, group)


def _coded(
    one: Stored, method: Method, bits: int, group: int | None
) -> tuple[CodedTensor, _Row] | str:
    """The codes of a tensor, or why it stays as it is."""
    tensor = one.read()
    if tensor.dtype.kind != "f":
        return "no matrix"
    matrix = tensor.reshape(len(tensor), -1)
    out, n = matrix.shape
    size = n if group is None or n % group else group
    parts: list[CodedWeight] = []
    power = noise = 0.0
    step = max(PART // n, 1)
    for i in range(0, out, step):
        part = matrix[i : i + step]
        if part.dtype != np.float64:
            part = part.astype(np.float32)
        if not np.isfinite(part).all():
            return "it is not finite"
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                coded = method(part, bits, size, None)
                decoded = coded.decoded()
            except ValueError:                  # a range that is wider than its type
                return "its range is too wide for float32"
        if not np.isfinite(decoded).all():
            return "its range is too wide for float32"
        parts.append(coded._replace(codes=_narrow(coded)))
        with np.errstate(over="ignore"):
            power += float(np.square(part, dtype=np.float64).sum())
            noise += float(np.square(np.subtract(part, decoded, dtype=np.float64)).sum())
    codes, scale, zero = (np.concatenate(p) for p in zip(*(p[:3] for p in parts), strict=True))
    whole = CodedWeight(codes, scale, zero, bits, parts[0].signed)
    ratio = power / noise if noise else np.inf
    made = CodedTensor(whole, tensor.shape, tuple(range(tensor.ndim)))
    return made, _Row(one.name, bits, size, n, coded_bytes(made), noise / matrix.size,
                      float(10 * np.log10(ratio)) if ratio else -np.inf)


def _narrow(coded: CodedWeight) -> Array:
    """Codes of at most 8 bits, a byte each while the rest of the tensor waits."""
    return coded.codes.astype(np.int8 if coded.signed else np.uint8)


def _print(
    console: Console, rows: list[_Row], left: Mapping[str, str], count: int, path: Path,
    output: Path, group: int | None,
) -> None:
    grid = Table(box=SIMPLE)
    for title in ("tensor", "bits", "group", "kB", "MSE", "SQNR dB"):
        grid.add_column(title, justify="left" if title == "tensor" else "right", no_wrap=True)
    for row in rows:
        grid.add_row(row.name[-40:], str(row.bits),
                     "row" if row.group == row.columns else str(row.group),
                     f"{row.size / 1e3:.1f}", f"{row.mse:.3g}", f"{row.sqnr:.1f}")
    console.print(grid)
    for name, why in left.items():
        console.print(f"left as it is: {name}: {why}", soft_wrap=True, markup=False)
    other = count - len(rows) - len(left)
    if other:
        console.print(f"left as they are, since they are no matrices of floats: {other}")
    odd = [r for r in rows if group is not None and r.group != group]
    if odd:
        console.print(f"one scale a row in {len(odd)} tensors: {group} does not divide them",
                      soft_wrap=True)
    console.print(f"{path.stat().st_size / 1e6:.2f} MB -> {output.stat().st_size / 1e6:.2f} MB in "
                  f"{output}; it was read back and holds these numbers", soft_wrap=True,
                  markup=False)
