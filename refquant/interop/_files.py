"""Files on the command line: a model, arrays that become its inputs run by run, and its outputs."""

import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.integer.engines import ENGINES
from refquant.interop.onnx import OnnxModel, fuse_qdq, read_onnx, run_onnx
from refquant.interop.tflite import Model, read_tflite
from refquant.interop.tflite_program import prepare, run

__all__ = ["ONNX_ENGINES", "Loaded", "load_array", "load_model", "load_tflite", "runs_of", "save"]

#: How an ONNX model is read: as it is written, or with its QDQ groups fused.
ONNX_ENGINES: Mapping[str, Callable[[OnnxModel], OnnxModel]] = {
    "onnxruntime": fuse_qdq, "onnx": lambda model: model}

#: Type and shape of an input; None where any size will do.
Slot = tuple["np.dtype[np.generic]", tuple[int | None, ...]]
#: Named values in the order of their computation, and the outputs.
Values = tuple[dict[str, Array], list[Array]]


class Loaded(NamedTuple):
    """A model that can be run: its inputs, and the function of one run."""

    inputs: list[Slot]
    run: Callable[[list[Array]], Values]


def load_model(path: Path, engine: str | None) -> Loaded:
    """A model of either kind on an engine; None: the first that can run it."""
    content = _content(path)
    tflite = content[4:8] == b"TFL3" or path.suffix != ".onnx"
    names = list(ENGINES if tflite else ONNX_ENGINES)
    engine = engine or names[0]
    if engine not in names:
        raise ValueError(f"`--engine` must be one of {', '.join(names)} for {path}; got {engine}")
    try:
        return (_tflite(read_tflite(content), engine) if tflite
                else _onnx(ONNX_ENGINES[engine](read_onnx(content))))
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
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as err:
        raise ValueError(f"{path} must be a file that can be read; got {err.strerror}") from None
    except Exception as err:                # NumPy has many: of syntax, of Unicode, of its own
        raise ValueError(f"{path} must be a whole .npy file of numbers") from err
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{path} must be a .npy file; got one of several arrays")
    return found


def runs_of(slots: Sequence[Slot], arrays: Sequence[Array]) -> tuple[bool, Iterator[list[Array]]]:
    """Whether there are many runs, and the inputs of each; an array per input, alone or stacked."""
    if len(arrays) != len(slots):
        raise ValueError(f"`--input` must be given {len(slots)} times, once for each input of the "
                         f"model; got {len(arrays)}")
    pairs = [_stack(dtype, shape, x) for (dtype, shape), x in zip(slots, arrays, strict=True)]
    counts = {len(stack) for _, stack in pairs}
    if len(counts) > 1:
        raise ValueError(f"the inputs must hold equally many runs; got {sorted(counts)}")
    many, count = any(many for many, _ in pairs), counts.pop() if counts else 1
    return many, ([np.array(stack[k]) for _, stack in pairs] for k in range(count))


def save(path: Path, array: Array) -> None:
    """A .npy file, whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}.",
                                     delete=False) as file:
        try:
            np.save(file, array)
        except BaseException:
            os.unlink(file.name)
            raise
    os.replace(file.name, path)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ValueError(f"{path} must be a file that can be read; got {err.strerror}") from None


def _tflite(model: Model, engine: str) -> Loaded:
    program = prepare(model, ENGINES[engine])
    slots: list[Slot] = [(np.dtype(model.tensors[i].dtype), model.tensors[i].shape)
                         for i in model.inputs]

    def once(inputs: list[Array]) -> Values:
        seen: dict[str, Array] = {}

        def tap(index: int, value: Array) -> None:
            label = re.sub(r"[^\w.-]+", "_", model.tensors[index].name)[-60:]
            seen[f"{index:04}_{label}"] = value

        return seen, list(run(program, inputs, tap=tap).outputs)

    return Loaded(slots, once)


def _onnx(model: OnnxModel) -> Loaded:
    def once(inputs: list[Array]) -> Values:
        seen: dict[str, Array] = {}

        def tap(name: str, value: Array) -> Array:
            seen[f"{len(seen):04}_" + re.sub(r"[^\w.-]+", "_", name)[-60:]] = value
            return value

        values = run_onnx(model, dict(zip(model.inputs, inputs, strict=True)), tap=tap)
        return seen, [values[name] for name in model.outputs]

    return Loaded(list(model.inputs.values()), once)


def _stack(
    dtype: "np.dtype[np.generic]", shape: tuple[int | None, ...], x: Array
) -> tuple[bool, Array]:
    """Whether an array is many inputs, and it as runs along its first axis."""
    if x.dtype != dtype:
        raise ValueError(f"the input must be {dtype}; got {x.dtype}")
    if _fits(x.shape, shape):
        return False, x[None]
    if _fits(x.shape[1:], shape):
        return True, x
    if shape and shape[0] in (1, None) and _fits(x.shape[1:], shape[1:]):
        return True, x[:, None]
    shown = tuple("any" if n is None else n for n in shape)
    raise ValueError(f"the input must have the shape {shown}, or many of it along a leading axis; "
                     f"got {x.shape}")


def _fits(got: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(got) == len(wanted) and all(
        w is None or w == g for g, w in zip(got, wanted, strict=True))
