r"""Run a .tflite model in integers, as one of the engines would, and look at every tensor.

`prepare` turns a model into a `Program`: one function per operator, with constants,
multipliers and tables folded in. `run` is then a loop over them. A `tap` sees the value
of every tensor as it is written, in the words of `refquant.nn.network`.

Codes are int32 inside; inputs, outputs and what the tap sees have the type of the file.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.integer.engines import Engine
from refquant.interop._tflite_operators import (
    BUILDERS,
    MOST_PRODUCTS,
    RANGES,
    Node,
    Step,
    products,
)
from refquant.interop.tflite import Model, Tensor

__all__ = ["Program", "Result", "Tap", "prepare", "run"]

#: ``(index of a tensor, its value)``; what it returns is ignored.
Tap = Callable[[int, Array], object]

#: Elements of all tensors together, of four bytes each.
MOST_IN_ALL = 2**26

#: A file may hold scales whose ratio no float has, or claim more tensors than there is room.
_FAILURES = (ValueError, TypeError, FloatingPointError, OverflowError, MemoryError)


class Program(NamedTuple):
    """A model made ready to run.

    Attributes
    ----------
    model : Model
    engine : Engine
    steps : tuple of callable
        One per operator.
    constants : mapping of int to ndarray
        Tensors that stand in the file, codes as int32.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.

    Examples
    --------
    >>> from refquant.integer.engines import TFLM
    >>> prepare(Model((), (), (), ()), TFLM).steps
    ()
    """

    model: Model
    engine: Engine
    steps: tuple[Step, ...]
    constants: Mapping[int, Array]


class Result(NamedTuple):
    """What one run gives.

    Attributes
    ----------
    outputs : tuple of ndarray
        In the types of the file.
    state : mapping of int to ndarray
        Variable tensors after the run, for the next.

    References
    ----------
    See `run`.

    Examples
    --------
    >>> Result((), {}).outputs
    ()
    """

    outputs: tuple[Array, ...]
    state: Mapping[int, Array]


def prepare(model: Model, engine: Engine) -> Program:
    """Program of a model on an engine: everything checked and folded that can be.

    Parameters
    ----------
    model : Model
        As `refquant.interop.tflite.read_tflite` gives it.
    engine : Engine
        One of `refquant.integer.engines`.

    Returns
    -------
    Program

    Raises
    ------
    ValueError
        If an operator is not supported, or does not fit its tensors; the message names it.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.

    Examples
    --------
    >>> from refquant.integer.engines import TFLM
    >>> from refquant.interop.tflite import Operator
    >>> prepare(Model((), (Operator("EXP", 1, (), (), (), {}),), (), ()), TFLM)
    Traceback (most recent call last):
    ValueError: operator 0 (EXP) must be one of the supported ones, such as CONV_2D
    """
    elements = sum(int(np.prod(t.shape, dtype=np.int64)) for t in model.tensors)
    if elements > MOST_IN_ALL:
        raise ValueError(
            f"the tensors must have at most {MOST_IN_ALL} elements in all; got {elements}")
    constants = {k: _inner(t.data) for k, t in enumerate(model.tensors) if t.data is not None}
    steps: list[Step] = []
    work = 0
    for k, operator in enumerate(model.operators):
        label = f"operator {k} ({operator.name})"
        if operator.name not in BUILDERS:
            raise ValueError(f"{label} must be one of the supported ones, such as CONV_2D")
        node = Node(model, operator, engine)
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise"):
                steps.append(BUILDERS[operator.name](node))
            work += products(node)
            if work > MOST_PRODUCTS:
                raise ValueError(
                    f"up to here the model must take at most 2**35 products; got {work}")
        except _FAILURES as err:
            raise ValueError(f"{label}: {err}") from None
    return Program(model, engine, tuple(steps), constants)


def run(
    program: Program,
    inputs: Sequence[Array],
    *,
    state: Mapping[int, Array] | None = None,
    tap: Tap | None = None,
) -> Result:
    """Outputs of a program, and its variable tensors for the next run.

    Parameters
    ----------
    program : Program
    inputs : sequence of ndarray
        One per input of the model, of its type and shape.
    state : mapping of int to ndarray, optional
        From the run before. Without it variable tensors start at their zero point
        (8 bits) or at 0.
    tap : callable, optional
        Sees inputs, variable tensors and what each operator writes.

    Returns
    -------
    Result

    Raises
    ------
    ValueError
        If there are too few inputs or too many, one has another shape, or an operator
        cannot go on; the message names it.
    TypeError
        If an input has another type.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.

    Examples
    --------
    >>> from refquant.integer.engines import TFLM
    >>> from refquant.interop.tflite import Operator
    >>> x, y = (Tensor("", (2,), "int8", None, np.float32([s]), np.array([z]), 0, False)
    ...         for s, z in ((0.05, 2), (0.1, -7)))
    >>> model = Model((x, y), (Operator("QUANTIZE", 1, (0,), (1,), (), {}),), (0,), (1,))
    >>> run(prepare(model, TFLM), [np.array([3, -1], np.int8)]).outputs
    (array([-6, -8], dtype=int8),)
    """
    model = program.model
    values: list[Array | None] = [program.constants.get(k) for k in range(len(model.tensors))]
    if len(inputs) != len(model.inputs):
        raise ValueError(f"`inputs` must be {len(model.inputs)}; got {len(inputs)}")
    started = dict(zip(model.inputs, inputs, strict=True))
    for k, x in started.items():
        _require_like(k, model.tensors[k], x)
        values[k] = _inner(x)
    variables = [k for k, t in enumerate(model.tensors) if t.variable]
    for k in variables:
        values[k] = _inner(state[k]) if state is not None else _reset(model.tensors[k])
    if tap is not None:
        for k in (*model.inputs, *variables):
            tap(k, _outer(model.tensors[k], values[k]))
    for k, (operator, step) in enumerate(zip(model.operators, program.steps, strict=True)):
        try:
            with np.errstate(over="raise", divide="raise", invalid="raise"):
                written = step(*(None if i < 0 else values[i] for i in operator.inputs))
            outputs = written if isinstance(written, tuple) else (written,)
            for i, value in zip(operator.outputs, outputs, strict=False):
                if value.shape != model.tensors[i].shape:
                    raise ValueError(
                        f"output {i} must have shape {model.tensors[i].shape}; got {value.shape}")
                values[i] = value
        except _FAILURES as err:
            raise ValueError(f"operator {k} ({operator.name}): {err}") from None
        # An operator with states writes them behind its outputs.
        states = [i for i in operator.inputs if i >= 0 and model.tensors[i].variable]
        for i, value in zip(states, outputs[len(operator.outputs) :], strict=False):
            values[i] = value
        if tap is not None:
            for i in operator.outputs:
                tap(i, _outer(model.tensors[i], values[i]))
    results = tuple(_outer(model.tensors[k], values[k]) for k in model.outputs)
    return Result(results, {k: _outer(model.tensors[k], values[k]) for k in variables})


def _inner(x: Array) -> Array:
    """Codes as int32; anything else as it is."""
    x = np.asarray(x)
    return x.astype(np.int32) if x.dtype in (np.int8, np.int16, np.uint8) else x


def _outer(tensor: Tensor, value: Array | None) -> Array:
    if value is None:
        raise ValueError("every tensor must be written before it is read")
    return value.astype(np.int8 if tensor.dtype in ("int4", "int2") else tensor.dtype, copy=False)


def _reset(tensor: Tensor) -> Array:
    """States of 8 bits start at the code of zero, others at 0."""
    fill = int(tensor.zero_point[0]) if tensor.dtype == "int8" and tensor.scale.size else 0
    dtype = np.int32 if tensor.dtype in RANGES else tensor.dtype
    return np.full(tensor.shape, fill, dtype)


def _require_like(index: int, tensor: Tensor, x: Array) -> None:
    x = np.asarray(x)
    if x.dtype != tensor.dtype:
        raise TypeError(f"input {index} must be {tensor.dtype}; got {x.dtype}")
    if x.shape != tensor.shape:
        raise ValueError(f"input {index} must have shape {tensor.shape}; got {x.shape}")
