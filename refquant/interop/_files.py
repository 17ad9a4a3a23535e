"""Files on the command line: a model, arrays that become its inputs run by run, and its outputs."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from refquant._npy import read_header
from refquant._types import Array
from refquant._whole import whole
from refquant.integer.engines import ENGINES
from refquant.interop.onnx import OnnxModel, fuse_qdq, read_onnx, run_onnx
from refquant.interop.tflite import Model, read_tflite
from refquant.interop.tflite_program import prepare, run

__all__ = [
    "ONNX_ENGINES", "Loaded", "Runs", "See", "load_array", "load_model", "load_tflite",
    "permissions", "runs_of", "save", "save_bytes",
    "save_text",
]

#: How an ONNX model is read: as it is written, or with its QDQ groups fused.
ONNX_ENGINES: Mapping[str, Callable[[OnnxModel], OnnxModel]] = {
    "onnxruntime": fuse_qdq, "onnx": lambda model: model}

#: Type and shape of an input; None where any size will do.
Slot = tuple["np.dtype[np.generic]", tuple[int | None, ...]]
#: Gets every value of a run, under the name of its file.
See = Callable[[str, Array], object]


class Loaded(NamedTuple):
    """A model that can be run: its inputs, how many outputs, and the function of one run."""

    engine: str
    inputs: list[Slot]
    outputs: int
    run: Callable[[list[Array], See | None], list[Array]]


class Runs(NamedTuple):
    """Inputs run by run; `joined`: many because the axis of the batch, which was 1, is longer."""

    many: bool
    joined: bool
    size: int
    inputs: Iterator[list[Array]]

    def together(self, outputs: list[Array]) -> Array:
        """The outputs of all runs, put together as the inputs were."""
        if not self.many:
            return outputs[0]
        if self.joined and outputs[0].ndim and outputs[0].shape[0] == 1:
            return np.concatenate(outputs)
        return np.stack(outputs)


def load_model(path: Path, engine: str | None) -> Loaded:
    """A model of either kind on an engine; None: the first that can run it."""
    content = _content(path)
    tflite = content[4:8] == b"TFL3" or path.suffix != ".onnx"
    names = list(ENGINES if tflite else ONNX_ENGINES)
    engine = names[0] if engine is None else engine
    if engine not in names:
        raise ValueError(f"`--engine` must be one of {', '.join(names)} for {path}; got {engine}")
    try:
        return (_tflite(read_tflite(content), engine) if tflite
                else _onnx(ONNX_ENGINES[engine](read_onnx(path)), engine))
    except ValueError as err:
        raise ValueError(f"{path}: {err}") from None


def load_tflite(path: Path) -> Model:
    """The .tflite model in a file; ValueError names the file and what is wrong with it."""
    try:
        return read_tflite(_content(path))
    except ValueError as err:
        raise ValueError(f"{path}: {err}".replace(f"{path}: {path}", str(path))) from None


def load_array(path: Path) -> Array:
    """The array of a .npy file, mapped into memory, so that a lying header takes none."""
    try:
        with path.open("rb") as file:
            header = read_header(path.name, file, path.stat().st_size)
            start = file.tell()
        order: Literal["F", "C"] = "F" if header.fortran else "C"
        if not header.nbytes:                   # what is empty cannot be mapped
            return np.empty(header.shape, header.dtype, order)
        if start + header.nbytes > path.stat().st_size:
            raise ValueError("it is cut short")
        return np.memmap(path, header.dtype, "r", start, header.shape, order)
    except OSError as err:
        raise ValueError(f"{path} must be a file that can be read; got {err.strerror}") from None
    except ValueError as err:
        raise ValueError(f"{path} must be a whole .npy file of numbers; got {err}") from None


def runs_of(slots: Sequence[Slot], arrays: Sequence[Array]) -> Runs:
    """The inputs of each run; an array per input of the model, alone or stacked."""
    if len(arrays) != len(slots):
        raise ValueError(f"`--input` must be given {len(slots)} times, once for each input of the "
                         f"model; got {len(arrays)}")
    labels = ["the input"] if len(slots) == 1 else [f"input {k}" for k in range(len(slots))]
    pairs = [_stack(label, *slot, x) for label, slot, x in zip(labels, slots, arrays, strict=True)]
    counts = {len(stack) for _, stack in pairs}
    if len(counts) > 1:
        raise ValueError(f"the inputs must hold equally many runs; got {sorted(counts)}")
    count = counts.pop() if counts else 1
    if not count:
        raise ValueError("`--input` must hold at least one run; got none")
    ways = {way for way, _ in pairs}
    inputs = ([np.array(stack[k]) for _, stack in pairs] for k in range(count))
    return Runs(ways != {"one"} and bool(ways), ways == {"joined"}, count, inputs)


def permissions(most: int) -> int:
    """Those of a file or folder that is simply made; temporary ones are the owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    return most & ~mask


def save(path: Path, array: Array) -> None:
    """A .npy file, whole or not at all."""
    _save(path, lambda file: np.save(file, array))


def save_text(path: Path, text: str) -> None:
    """A file of text, whole or not at all."""
    save_bytes(path, text.encode("utf-8"))


def save_bytes(path: Path, content: bytes) -> None:
    """A file of bytes, whole or not at all."""
    _save(path, lambda file: file.write(content))


def _save(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    with whole(path) as file:
        write(file)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ValueError(f"{path} must be a file that can be read; got {err.strerror}") from None


def _tflite(model: Model, engine: str) -> Loaded:
    program = prepare(model, ENGINES[engine])
    slots: list[Slot] = [(np.dtype(model.tensors[i].dtype), model.tensors[i].shape)
                         for i in model.inputs]

    def once(inputs: list[Array], see: See | None = None) -> list[Array]:
        def tap(index: int, value: Array) -> None:
            if see is not None:
                see(f"{index:04}_{_label(model.tensors[index].name)}", value)

        return list(run(program, inputs, tap=tap if see else None).outputs)

    return Loaded(ENGINES[engine].name, slots, len(model.outputs), once)


def _onnx(model: OnnxModel, engine: str) -> Loaded:
    def once(inputs: list[Array], see: See | None = None) -> list[Array]:
        places: dict[str, int] = {}

        def tap(name: str, value: Array) -> Array:
            if see is not None:
                see(f"{places.setdefault(name, len(places)):04}_{_label(name)}", value)
            return value

        values = run_onnx(model, dict(zip(model.inputs, inputs, strict=True)), tap=tap)
        return [values[name] for name in model.outputs]

    return Loaded(f"ONNX, {engine}", list(model.inputs.values()), len(model.outputs), once)


def _label(name: str) -> str:
    """A name as part of the name of a file."""
    return re.sub(r"[^\w.-]+", "_", name)[-60:]


def _stack(
    label: str, dtype: "np.dtype[np.generic]", shape: tuple[int | None, ...], x: Array
) -> tuple[str, Array]:
    """How an array is one input or many, and it as runs along its first axis."""
    if x.dtype != dtype:
        raise ValueError(f"{label} must be {dtype}; got {x.dtype}")
    if _fits(x.shape, shape):
        return "one", x[None]
    if _fits(x.shape[1:], shape):
        return "stacked", x
    if shape and shape[0] in (1, None) and _fits(x.shape[1:], shape[1:]):
        return "joined", x[:, None]
    shown = tuple("any" if n is None else n for n in shape)
    raise ValueError(f"{label} must have the shape {shown}, or many of it along a leading axis; "
                     f"got {x.shape}")


def _fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(got) == len(wanted) and all(
        w is None or w == g for g, w in zip(got, wanted, strict=True))
