"""Quantize a float ONNX model: calibrate, choose codes, write QDQ, run it, compare.

Everything is a function of a model that is open and of arrays; the command
``refquant quantize`` (`refquant.workflow._quantize`) reads the files and prints.

Layers need nothing of each other, so they are handed to joblib: they run one after the other,
or on the threads, processes or dask cluster that the caller names with
``joblib.parallel_config``. No backend changes a code if BLAS has as many threads there as
here: the last bits of its sums depend on them.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.apply._at_once import at_once
from refquant.calibration.second_moment import output_error
from refquant.interop.onnx_float import (
    FloatOnnx,
    OnnxLayer,
    input_rows,
    open_float,
    require_onnx,
    run_values,
)
from refquant.interop.qdq import CodedWeight, weight_bytes, with_codes
from refquant.ptq.awq import search_scale
from refquant.ptq.smoothquant import smoothing_scale
from refquant.quantizers.uniform import Uniform, asymmetric
from refquant.workflow.weights import Method, Seen, nearest

__all__ = ["Agreement", "Quantized", "compare", "observe", "quantize_layers", "scales_by_awq",
           "scales_by_smoothquant"]

#: Rows of each value that are kept for methods that learn from examples.
SAMPLE = 512
#: Bits of codes that onnxruntime multiplies with an integer in groups of their own scale.
WIDEST_IN_GROUPS = 4


class Quantized(NamedTuple):
    """A model with codes.

    Attributes
    ----------
    content : bytes
        The file.
    weights : dict of str to CodedWeight
    groups : dict of str to int
        Length of the groups of each; the whole row where the wanted length does not divide it.
    errors : dict of str to float
        Mean squared error of the outputs of each layer on what calibration saw, relative
        to their power; NaN without data.

    References
    ----------
    onnxruntime, "Quantize ONNX models", QDQ.
    """

    content: bytes
    weights: dict[str, CodedWeight]
    groups: dict[str, int]
    errors: dict[str, float]


class Agreement(NamedTuple):
    """One output of two models, over all inputs.

    Attributes
    ----------
    output : str
    cosine : float
        Mean over inputs.
    largest : float
        Largest absolute difference.
    sqnr : float
        In dB; infinite for equal outputs.
    same : float
        Share of inputs whose largest element is at the same place; NaN for outputs of
        other ranks than 2, or of one element each.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, section 3.
    """

    output: str
    cosine: float
    largest: float
    sqnr: float
    same: float


def observe(
    model: FloatOnnx, batches: Sequence[Mapping[str, Array]], *, rng: np.random.Generator,
    progress: Callable[[int], None] = lambda batch: None,
) -> dict[str, Seen]:
    """What enters each layer, over all batches; memory for one batch at a time.

    Parameters
    ----------
    model : FloatOnnx
    batches : sequence of mapping of str to ndarray
    rng : numpy.random.Generator
        One choice of rows for each batch and value.
    progress : callable, int -> None
        Hears of each batch that is done.

    Returns
    -------
    dict of str to Seen
        By the name of the weight; what enters its first reader. Convolutions whose inputs
        cannot be cut into rows are not there.

    Raises
    ------
    ValueError
        If a value is not finite.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3.1.
    """
    layers = [x for x in model.by_weight.values() if x.op != "Conv" or x.window is not None]
    share = -(-SAMPLE // max(len(batches), 1))
    found: dict[tuple[object, ...], Seen] = {}
    key = {x.weight: (x.reads, x.window if x.op == "Conv" else None) for x in layers}
    for i, values in enumerate(run_values(model, batches, [x.reads for x in layers])):
        now: dict[tuple[object, ...], Seen] = {}
        for layer in layers:
            if key[layer.weight] not in now:
                rows = input_rows(layer, values[layer.reads])
                if not np.isfinite(rows).all():
                    raise ValueError(f"`{layer.reads}` must be finite; got a NaN or an infinity")
                chosen = np.sort(rng.permutation(len(rows))[:share])
                now[key[layer.weight]] = Seen.of(rows, rows[chosen])
        found = {k: found[k].merge(seen) if k in found else seen for k, seen in now.items()}
        progress(i + 1)
    return {name: found[k] for name, k in key.items()} if found else {}


def quantize_layers(
    model: FloatOnnx, method: Callable[..., CodedWeight], *, bits: Mapping[str, int],
    group_size: int | None, seen: Mapping[str, Seen],
    divide: Mapping[str, Array] | None = None,
    activations: Mapping[str, Uniform] | None = None,
    rng: np.random.Generator | None = None,
    progress: Callable[[str], None] = lambda name: None,
) -> Quantized:
    """Codes for every layer that has bits, and the file; layers at once where joblib can.

    Parameters
    ----------
    model : FloatOnnx
    method : Method
        One of `refquant.workflow.weights`. A backend with processes must be able to pickle it.
    bits : mapping of str to int
        By the name of the weight; what is not named stays float.
    group_size : int or None
        Inputs that share a scale; None for whole rows. Convolutions have whole rows, and so have
        products of `activations` with weights of more than 4 bits: those are multiplied as
        integers of 8, for which onnxruntime has no groups.
    seen : mapping of str to Seen
    divide : mapping of str to ndarray, optional
        By the name of the value that layers read: what its channels are divided by; the
        columns of these layers' weights are multiplied by it.
    activations : mapping of str to Uniform, optional
        By the name of the value.
    rng : numpy.random.Generator, optional
        For a method that draws, as `by_adaround`: the method is called with a keyword ``rng``,
        a generator that is spawned for its layer. What a layer draws does not depend on which
        others are quantized, on their order or on where they run.
    progress : callable, str -> None
        Hears of each layer that is done, in the order of the model, in the caller's thread.

    Returns
    -------
    Quantized

    Raises
    ------
    ValueError
        If a method needs data that are not there.

    References
    ----------
    onnxruntime, "Quantize ONNX models", QDQ.
    """
    divide = divide or {}
    layers = model.by_weight
    ways = dict.fromkeys(layers, method) if rng is None else {
        name: partial(method, rng=own)
        for name, own in zip(layers, rng.spawn(len(layers)), strict=True)}
    chosen = [layer for name, layer in layers.items() if name in bits]
    groups = {x.weight: group_length(x, group_size) for x in chosen}
    groups |= {x.weight: x.matrix.shape[1] for x in chosen if x.op == "MatMul"
               and bits[x.weight] > WIDEST_IN_GROUPS and x.reads in (activations or {})}
    calls = ((x, ways[x.weight], bits[x.weight], groups[x.weight], seen.get(x.weight),
              divide.get(x.reads)) for x in chosen)
    weights: dict[str, CodedWeight] = {}
    errors: dict[str, float] = {}
    for layer, done in zip(chosen, at_once(_layer, calls), strict=True):
        weights[layer.weight], errors[layer.weight] = done
        progress(layer.weight)
    multiplied = {name: 1 / scale for name, scale in divide.items()}
    exact = made_up_for(model, divide, weights)
    return Quantized(with_codes(exact, weights, activations, multiplied), weights, groups, errors)


def made_up_for(
    model: FloatOnnx, divide: Mapping[str, Array], coded: Collection[str]
) -> FloatOnnx:
    """The model with float weights that make up for a division of what their layers read."""
    scales = {x.weight: divide[x.reads] for x in model.layers
              if x.weight not in coded and x.reads in divide}
    if not scales:
        return model
    onnx, layers = require_onnx(), model.by_weight
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor in proto.graph.initializer:
        if tensor.name in scales:
            matrix = (layers[tensor.name].matrix * scales[tensor.name]).astype(np.float32)
            straight = matrix.T if layers[tensor.name].transposed else matrix
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.ascontiguousarray(straight), tensor.name))
    return model._replace(proto=proto)


def activation_plan(model: FloatOnnx, seen: Mapping[str, Seen],
                    divide: Mapping[str, Array] | None = None) -> dict[str, Uniform]:
    """An 8-bit range for each value that layers read: the ends that calibration saw.

    A convolution with a stride sees a part of what it reads; another reader may see the rest.
    """
    ends: dict[str, tuple[Array, Array]] = {}
    for layer in model.by_weight.values():      # what other readers read was not seen
        if layer.weight in seen:
            data = seen[layer.weight]
            scale = (divide or {}).get(layer.reads)
            if scale is not None:
                data = data.divided(scale)
            low, high = np.float32(data.low.min()), np.float32(data.high.max())
            known = ends.get(layer.reads, (low, high))
            ends[layer.reads] = np.minimum(low, known[0]), np.maximum(high, known[1])
    return {name: asymmetric(low, high, bits=8) for name, (low, high) in ends.items()}


def scales_by_awq(
    model: FloatOnnx, seen: Mapping[str, Seen], *, bits: int, group_size: int | None
) -> dict[str, Array]:
    """What each value is divided by so that rounding the weights behind it costs least.

    Parameters
    ----------
    model : FloatOnnx
    seen : mapping of str to Seen
    bits : int
    group_size : int or None

    Returns
    -------
    dict of str to ndarray, shape (in,)
        By the name of the value; only products, no convolutions. Values are searched at once
        where joblib can.

    References
    ----------
    Lin et al., 2024, arXiv:2306.00978, eqs. (4) and (5).
    """
    readers = dict(_readers(model, seen))
    calls = (([x.matrix for x in layers], seen[layers[0].weight], bits,
              group_length(layers[0], group_size)) for layers in readers.values())
    return dict(zip(readers, at_once(_awq_scale, calls), strict=True))


def scales_by_smoothquant(
    model: FloatOnnx, seen: Mapping[str, Seen], *, alpha: float = 0.5
) -> dict[str, Array]:
    """What each value is divided by so that it and the weights behind it share the difficulty.

    Parameters
    ----------
    model : FloatOnnx
    seen : mapping of str to Seen
    alpha : float
        As of `refquant.ptq.smoothquant.smoothing_scale`.

    Returns
    -------
    dict of str to ndarray, shape (in,)

    References
    ----------
    Xiao et al., 2023, arXiv:2211.10438, eq. (4).
    """
    return {name: smoothing_scale(
        np.maximum(-seen[layers[0].weight].low, seen[layers[0].weight].high).clip(0),
        np.max([np.abs(x.matrix).max(0) for x in layers], axis=0), alpha=alpha)
        for name, layers in _readers(model, seen)}


def compare(
    model: FloatOnnx, content: bytes, batches: Sequence[Mapping[str, Array]]
) -> list[Agreement]:
    """Agreement of a quantized file with the float model, output by output.

    Parameters
    ----------
    model : FloatOnnx
    content : bytes
        The quantized file.
    batches : sequence of mapping of str to ndarray

    Returns
    -------
    list of Agreement

    Raises
    ------
    ValueError
        If the file does not run.

    References
    ----------
    Nagel et al., 2021, arXiv:2106.08295, section 3.
    """
    other = open_float(content)
    tallies = {name: _Tally() for name in model.outputs}
    pairs = zip(run_values(model, batches, model.outputs),
                run_values(other, batches, model.outputs), strict=True)
    for wanted, got in pairs:
        for name, tally in tallies.items():
            tally.add(np.asarray(wanted[name]), np.asarray(got[name]))
    return [tally.result(name) for name, tally in tallies.items()]


class _Tally:
    """Running sums of one output."""

    def __init__(self) -> None:
        self.cosines, self.same, self.count, self.rank = 0.0, 0, 0, 0
        self.power = self.noise = self.largest = 0.0

    def add(self, wanted: Array, got: Array) -> None:
        if wanted.dtype.kind != "f":
            wanted, got = wanted.astype(np.float64), got.astype(np.float64)
        a, b = (np.asarray(v, np.float64).reshape(len(v) if v.ndim else 1, -1)
                for v in (wanted, got))
        norms = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
        self.cosines += float(np.where(norms > 0, (a * b).sum(1) / np.where(norms > 0, norms, 1),
                                       (a == b).all(1)).sum())
        self.same += int((a.argmax(1) == b.argmax(1)).sum())
        self.count, self.rank = self.count + len(a), wanted.ndim if a.shape[1] > 1 else 0
        self.power += float(np.square(a).sum())
        self.noise += float(np.square(a - b).sum())
        self.largest = max(self.largest, float(np.abs(a - b).max(initial=0)))

    def result(self, name: str) -> Agreement:
        ratio = self.power / self.noise if self.noise else np.inf
        return Agreement(
            name, self.cosines / self.count, self.largest,
            float(10 * np.log10(ratio)) if ratio > 0 else -np.inf,
            self.same / self.count if self.rank == 2 else float("nan"))


def choose_bits(
    model: FloatOnnx, method: Method, seen: Mapping[str, Seen], *, choices: Collection[int],
    group_size: int | None,
) -> tuple[list[str], Array, Array]:
    """Error and bytes of each layer at each width, for an allocation: names, and two tables."""
    layers = [x for x in model.by_weight.values() if x.weight in seen]
    calls = ((x, method, b, group_length(x, group_size), seen[x.weight])
             for x in layers for b in choices)
    shape = len(layers), len(choices)
    found = list(at_once(_loss_and_bytes, calls))
    errors, sizes = zip(*found, strict=True) if found else ((), ())
    return ([x.weight for x in layers], np.reshape(errors, shape),
            np.reshape(np.array(sizes, np.int64), shape))


def batches_of(
    arrays: Mapping[str, Array], size: int
) -> list[dict[str, Array]]:
    """Inputs cut along their leading axis."""
    n = len(next(iter(arrays.values())))
    return [{k: a[i : i + size] for k, a in arrays.items()} for i in range(0, n, size)]


def _readers(
    model: FloatOnnx, seen: Mapping[str, Seen]
) -> Iterator[tuple[str, list[OnnxLayer]]]:
    """Values whose readers are products, with them.

    A weight that is multiplied with several values, or read by anything else, can make up for
    no division of one.
    """
    by_value: dict[str, list[OnnxLayer]] = {}
    ways: dict[str, set[tuple[str, bool]]] = {}
    for layer in model.layers:
        by_value.setdefault(layer.reads, []).append(layer)
        ways.setdefault(layer.weight, set()).add((layer.reads, layer.transposed))
    read = Counter(i for node in model.proto.graph.node for i in node.input)
    read.update(o.name for o in model.proto.graph.output)
    read.subtract(layer.weight for layer in model.layers)
    for name, layers in by_value.items():
        if all(x.op != "Conv" and x.weight in seen and len(ways[x.weight]) == 1
               and not read[x.weight] for x in layers):
            yield name, layers


def group_length(layer: OnnxLayer, wanted: int | None) -> int:
    """The wanted length if it divides the row, else the row."""
    n = layer.matrix.shape[1]
    return n if wanted is None or layer.op == "Conv" or n % wanted else wanted


def _layer(
    layer: OnnxLayer, method: Callable[..., CodedWeight], bits: int, group_size: int,
    seen: Seen | None, scale: Array | None = None,
) -> tuple[CodedWeight, float]:
    """Codes of one layer whose input is divided by a scale, and what they cost its output."""
    matrix = layer.matrix
    if scale is not None:
        matrix = (matrix * scale).astype(np.float32)
        seen = None if seen is None else seen.divided(scale)
    one = method if seen is not None or layer.op != "Conv" else nearest
    coded = one(np.ascontiguousarray(matrix), bits, group_size, seen)
    return coded, float("nan") if seen is None else _relative(matrix, coded, seen)


def _loss_and_bytes(
    layer: OnnxLayer, method: Method, bits: int, group_size: int, seen: Seen
) -> tuple[float, int]:
    coded, error = _layer(layer, method, bits, group_size, seen)    # codes stay where they are
    return error, weight_bytes(coded)


def _awq_scale(matrices: Sequence[Array], seen: Seen, bits: int, group_size: int) -> Array:
    def round_trip(w: Array) -> Array:
        return nearest(w, bits, group_size).decoded()

    return search_scale(matrices, seen.moment.hessian, seen.absolute / seen.moment.size,
                        round_trip).scale


def _relative(matrix: Array, coded: CodedWeight, data: Seen) -> float:
    power = output_error(matrix, data.moment.hessian)
    return output_error(matrix - coded.decoded(), data.moment.hessian) / power if power else 0.0


