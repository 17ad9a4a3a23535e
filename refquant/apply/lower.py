r"""Lowering: a simulated network becomes a list of integer operations.

What a chip runs has no real numbers in it. A layer on codes is

.. math:: q_y = \mathrm{clip}\Bigl(z_y + \Bigl\lfloor M_c \Bigl(\sum_i w_{c,i}\,(x_i - z_x)
          + b_c \Bigr) \Bigr\rceil,\ l,\ h\Bigr), \qquad M_c = \frac{s_x s_{w,c}}{s_y},

with codes x and w of 8 bits, a sum and a bias of 32 bits in steps of :math:`s_x s_{w,c}`, and
:math:`\lfloor M \cdot \rceil` the *rule* of a runtime (`refquant.integer.requantize`). The
activation is the pair of limits l and h.

===================  ======================================================  ===========
node                 integer operation                                       multipliers
===================  ======================================================  ===========
layer (conv, ...)    products and a bias, then the rule                      per channel
``add``              two rescaled codes on a finer grid, then the rule       three
average pools        the sum of a window, then the rule                      one
``relu``, ``relu6``  the limits of the operation before, if it has no        (one)
                     other reader
flatten, max pool    the same function, on codes                             none
===================  ======================================================  ===========

Everything real is settled here, once; the operations hold integers alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import as_reals, require_codes, require_finite, require_int
from refquant.integer.arithmetic import QuantizedMultiplier, quantize_multiplier
from refquant.integer.convolution import (
    Window,
    convolution,
    depthwise_convolution,
    fully_connected,
)
from refquant.integer.layers import NONE, RELU, RELU6, Rescaled, limits
from refquant.integer.requantize import Rule, double_away, double_up, single_up
from refquant.nn._nodes import function_of, readers, settings_of
from refquant.nn.convolution import conv2d, depthwise_conv2d, patches
from refquant.nn.network import Node, Op, Tap, run, untouched
from refquant.nn.operations import (
    add,
    average_pool,
    flatten,
    global_average_pool,
    linear,
    max_pool,
    relu,
    relu6,
)
from refquant.quantizer import Quantizer
from refquant.quantizers.uniform import Uniform
from refquant.rounding import half_away

__all__ = [
    "INTEGER_RULES",
    "FineSums",
    "Operation",
    "Program",
    "as_deployed",
    "execute",
    "lower",
    "quantize_bias",
    "stored_names",
]

#: Rules that work on integers alone, given a multiplier of integers.
INTEGER_RULES: tuple[Rule, ...] = (double_away, double_up, single_up)

_LAYERS = (conv2d, depthwise_conv2d, linear)
_AVERAGES = (global_average_pool, average_pool)
_ACTIVATIONS = {relu: RELU, relu6: RELU6}
_SAME_CODES = (flatten, max_pool)           # increasing functions and moves: codes will do


class Operation(NamedTuple):
    """One integer operation: the name of what it produces, the operation, what it reads.

    Attributes
    ----------
    name : str
    op : callable
        Codes to codes: a `Rescaled`, or a function that only moves them.
    inputs : tuple of str

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, figure 1.1 (a).
    """

    name: str
    op: Callable[..., Codes]
    inputs: tuple[str, ...]


class Program(NamedTuple):
    """An integer-only network.

    Attributes
    ----------
    operations : list of Operation
        In order.
    quantizers : dict of str to Uniform
        What the codes of every value mean: to encode inputs, to read outputs.
    values : dict of str to ndarray of float64
        Weights and biases as the codes have them: parameters of the simulation.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.
    """

    operations: list[Operation]
    quantizers: dict[str, Uniform]
    values: dict[str, Array]


@dataclass(frozen=True, eq=False)
class FineSums:
    r"""Sums of two values whose codes have different scales.

    Both are shifted left and brought to the grid of twice the larger scale, where they can be
    added:

    .. math:: \Bigl\lfloor \frac{s_1}{t}\, 2^k (x_1 - z_1) \Bigr\rceil
              + \Bigl\lfloor \frac{s_2}{t}\, 2^k (x_2 - z_2) \Bigr\rceil,
              \qquad t = 2 \max(s_1, s_2)

    This is `refquant.integer.elementwise.add` with everything real computed beforehand.

    Attributes
    ----------
    zero_points : tuple of int
    multipliers : tuple of QuantizedMultiplier
        :math:`s_i / t`, each at most 1/2.
    rule : callable
        One of `INTEGER_RULES`: float32 has no room for 28 bits.
    left : int
        k: 20 for codes of 8 bits, 15 for 16.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, appendix A.2; TensorFlow Lite, ``add.cc``.

    Examples
    --------
    >>> half, quarter = quantize_multiplier(0.5), quantize_multiplier(0.25)
    >>> FineSums((-3, 5), (half, quarter), double_away, 20)(np.array([20]), np.array([-40]))
    array([262144])
    """

    zero_points: tuple[int, int]
    multipliers: tuple[QuantizedMultiplier, QuantizedMultiplier]
    rule: Rule
    left: int

    def __call__(self, x: Codes, other: Codes) -> Array:
        """Sums on the fine grid."""
        first, second = (
            self.rule((codes - np.int64(z)) << self.left, multiplier)
            for codes, z, multiplier in zip(
                (x, other), self.zero_points, self.multipliers, strict=True
            )
        )
        return first + second


def stored_names(nodes: Sequence[Node]) -> list[str]:
    """Values that integer inference keeps as codes of their own: those that a plan must cover.

    Not among them: what an activation swallows, and what has the codes of its input.

    Parameters
    ----------
    nodes : sequence of Node
        Without batch norms (`refquant.apply.rewrite.fold_batch_norms`).

    Returns
    -------
    list of str
        Inputs of the network first; parameters are not included.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3 (where fake quantization is placed).

    Examples
    --------
    >>> from refquant.nn.models import trained_digits_cnn
    >>> from refquant.apply.rewrite import fold_batch_norms
    >>> model = trained_digits_cnn()
    >>> names = stored_names(fold_batch_norms(model.nodes, model.values).nodes)
    >>> names[:5], names[-3:]
    (['x', 'stem', 'r1a', 'r1b.norm', 'r1b'], ['pw2', 'pool', 'logits'])
    """
    swallowed = {node.name for node in _fused(nodes).values()}
    produced = {node.name for node in nodes}
    given = [name for node in nodes for name in _data_inputs(node) if name not in produced]
    made = [
        node.name
        for node in nodes
        if node.name not in swallowed and function_of(node.op) not in _SAME_CODES
    ]
    return list(dict.fromkeys([*given, *made]))


def as_deployed(plan: Mapping[str, Quantizer]) -> dict[str, Uniform]:
    """The plan with every scale a float32, as files store it, but held as float64.

    A simulation with it computes in float64, where products of codes and scales are so exact
    that it can be compared with integers code by code.

    Parameters
    ----------
    plan : mapping of str to Uniform

    Returns
    -------
    dict of str to Uniform

    Raises
    ------
    TypeError
        If a quantizer is not uniform: nothing else multiplies as integers.

    References
    ----------
    TensorFlow Lite schema, ``QuantizationParameters``: ``scale:[float]``.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> made = as_deployed({"w": symmetric(np.array(1.0), bits=8)})
    >>> bool(made["w"].scale == np.float32(1 / 127)), made["w"].scale.dtype
    (True, dtype('float64'))
    """
    made = {}
    for name, q in plan.items():
        if not isinstance(q, Uniform):
            raise TypeError(f"`plan` must be uniform; got a {type(q).__name__} for {name!r}")
        scale = q.scale.astype(np.float32).astype(np.float64)
        made[name] = Uniform(scale, q.zero_point, q.qmin, q.qmax)
    return made


def quantize_bias(
    bias: Array, input_scale: npt.ArrayLike, weight_scale: npt.ArrayLike, *, bits: int = 32
) -> Array:
    r"""Bias in steps of the sum it is added to.

    .. math:: q_b = \lfloor b / (s_x s_w) \rceil, \qquad z_b = 0, \text{ ties away from zero}

    Parameters
    ----------
    bias : ndarray of float, shape (out,)
    input_scale : ndarray of float, shape ()
        s_x.
    weight_scale : ndarray of float, shape (out,) or ()
        s_w.
    bits : int
        Of the stored bias: 32, or 64 beside activations of 16 bits.

    Returns
    -------
    ndarray of int64, shape (out,)

    Raises
    ------
    ValueError
        If a bias does not fit: a row of weights near zero has a step too fine for its bias.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.4, eq. (11).

    Examples
    --------
    >>> quantize_bias(np.array([0.5, -0.3125]), 0.5, np.array([0.25, 0.25]))
    array([ 4, -3])
    """
    bias = as_reals("bias", bias)
    require_finite("bias", bias)
    require_int("bits", bits, 2, 64)
    step = np.asarray(input_scale, np.float64) * np.asarray(weight_scale, np.float64)
    steps = half_away(bias.astype(np.float64) / step)
    if (np.abs(steps) >= 2.0 ** (bits - 1)).any():
        worst = int(np.argmax(np.abs(steps)))
        raise ValueError(
            f"`bias` must fit {bits} bits in steps of the sum; got {bias[worst]} "
            f"in steps of {np.broadcast_to(step, bias.shape)[worst]:.3g}"
        )
    return steps.astype(np.int64)


def lower(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    plan: Mapping[str, Quantizer],
    example: Mapping[str, Array],
    *,
    rule: Rule = double_away,
) -> Program:
    """The integer program of a network and a plan.

    Parameters
    ----------
    nodes : sequence of Node
        Without batch norms. A ReLU that alone reads a layer or a sum becomes its limits.
    values : mapping of str to ndarray
        The float parameters.
    plan : mapping of str to Uniform
        For every weight, symmetric, per tensor or per output channel; and for every one of
        `stored_names`, per tensor.
    example : mapping of str to ndarray
        Inputs of one run: they tell how many pixels an average is over.
    rule : callable
        How sums are brought to the output. `INTEGER_RULES` get their multipliers as integers.
        Under any other rule additions use `double_away`, as LiteRT's reference kernels do.

    Returns
    -------
    Program
        Its simulation is ``run(nodes, inputs | program.values, tap=static(as_deployed(plan)))``.

    Raises
    ------
    ValueError
        If a plan is missing or does not suit integer arithmetic, a bias does not fit 32 bits,
        or a node has no integer form.
    TypeError
        If a quantizer is not uniform.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2; Gholami et al., 2021, arXiv:2103.13630,
    section IV-A (simulated and integer-only quantization).

    Examples
    --------
    >>> net = [Node("y", linear, ("x", "y.weight"))]
    >>> plan = {name: Uniform(np.array(0.5), np.array(0), -128, 127) for name in ("x", "y")}
    >>> plan["y.weight"] = Uniform(np.array(0.25), np.array(0), -127, 127)
    >>> weight = np.array([[1.0, -0.5]])
    >>> program = lower(net, {"y.weight": weight}, plan, {"x": np.zeros((1, 2))})
    >>> execute(program, {"x": np.array([[3, 4]])})["y"]        # (4 * 3 - 2 * 4) / 4
    array([[1]], dtype=int32)
    """
    fused = _fused(nodes)
    swallowed = {node.name for node in fused.values()}
    kept = _kept(nodes, as_deployed(plan))
    shapes = {name: np.shape(v) for name, v in run(nodes, {**example, **values}).values.items()}
    known = {name: np.asarray(v, np.float64) for name, v in values.items()}
    operations: list[Operation] = []
    for node in nodes:
        if node.name in swallowed:
            continue
        source = fused.get(node.name, node)             # what an activation is fused into
        function, inputs = function_of(source.op), _data_inputs(source)
        xs = [kept[name] for name in inputs]
        if function in _SAME_CODES:
            kept[node.name] = xs[0]
            operations.append(Operation(node.name, partial(_value_of, source.op), inputs))
            continue
        y = kept[node.name]
        if function in _LAYERS:
            op, stored = _layer(source, xs[0], y, kept, values, rule)
            known |= stored
        elif function is add:
            op = _addition(xs, y, rule if rule in INTEGER_RULES else double_away)
        elif function in _AVERAGES or function in _ACTIVATIONS:
            op = _average(source, xs[0], y, shapes, rule)
        else:
            told = getattr(function, "__name__", repr(function))
            raise ValueError(f"`nodes` must have an integer form; got {told} for {node.name!r}")
        op = replace(op, limits=limits(_ACTIVATIONS.get(function_of(node.op), NONE), y))
        operations.append(Operation(node.name, _without_floats(op), inputs))
    return Program(operations, kept, known)


def execute(
    program: Program, codes: Mapping[str, Codes], *, tap: Tap = untouched
) -> dict[str, Codes]:
    """Codes of every value of the program: one loop, as `refquant.nn.network.run`.

    Parameters
    ----------
    program : Program
    codes : mapping of str to ndarray of int
        Of the inputs: ``program.quantizers["x"].encode(x)``.
    tap : callable, (name, codes) -> codes
        Called on inputs and results, in order.

    Returns
    -------
    dict of str to ndarray of int32

    Raises
    ------
    ValueError
        If an input is missing, unknown or outside its range of codes, or a sum leaves int32.
    TypeError
        If an input is not of integers.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.

    Examples
    --------
    >>> grid = Uniform(np.array(0.5), np.array(-2), -128, 127)
    >>> program = lower([Node("y", relu, ("x",))], {}, {"x": grid, "y": grid}, {"x": np.zeros(2)})
    >>> execute(program, {"x": np.array([-5, 3])})["y"]
    array([-2,  3], dtype=int32)
    """
    seen: dict[str, Codes] = {}
    for name, value in codes.items():
        if name not in program.quantizers:
            raise ValueError(f"`codes` must name values of the program; got {name!r}")
        q = program.quantizers[name]
        seen[name] = tap(name, require_codes(name, value, q.qmin, q.qmax))
    for operation in program.operations:
        missing = [name for name in operation.inputs if name not in seen]
        if missing:
            raise ValueError(f"`codes` must have every input; got none for {missing[0]!r}")
        result = operation.op(*(seen[name] for name in operation.inputs))
        seen[operation.name] = tap(operation.name, result)
    return seen


def _fused(nodes: Sequence[Node]) -> dict[str, Node]:
    """Name of each activation that becomes limits, and the node whose limits they become."""
    producers, read = {node.name: node for node in nodes}, readers(nodes)
    found = {}
    for node in nodes:
        if function_of(node.op) in _ACTIVATIONS:
            before = producers.get(node.inputs[0])
            sums = before and function_of(before.op) in (*_LAYERS, add, *_AVERAGES)
            if before is not None and sums and len(read[before.name]) == 1:
                found[node.name] = before
    return found


def _data_inputs(node: Node) -> tuple[str, ...]:
    """The inputs of a node that are values, not parameters."""
    return node.inputs[:1] if function_of(node.op) in _LAYERS else node.inputs


def _kept(nodes: Sequence[Node], plan: Mapping[str, Uniform]) -> dict[str, Uniform]:
    """Quantizers of all values that are stored and of all weights, each fit for integers."""
    weights = [node.inputs[1] for node in nodes if function_of(node.op) in _LAYERS]
    kept = {}
    for name in [*stored_names(nodes), *weights]:
        if name not in plan:
            raise ValueError(f"`plan` must cover every stored value; got none for {name!r}")
        q = kept[name] = plan[name]
        if name in weights and q.zero_point.any():
            raise ValueError(f"`plan` must be symmetric for weights; got zero points for {name!r}")
        if name not in weights:
            if q.scale.size != 1:
                raise ValueError(
                    f"`plan` must have one scale for a value; got {q.scale.shape} for {name!r}"
                )
            # Whatever rank the value had that it was fitted to.
            kept[name] = Uniform(q.scale.reshape(()), q.zero_point.reshape(()), q.qmin, q.qmax)
    return kept


def _layer(
    node: Node,
    x: Uniform,
    y: Uniform,
    kept: Mapping[str, Uniform],
    values: Mapping[str, Array],
    rule: Rule,
) -> tuple[Rescaled, dict[str, Array]]:
    """A layer on codes, and its weight and bias as the codes have them."""
    name, *bias = node.inputs[1:]
    weight, w = values[name], kept[name]
    if w.scale.size != 1 and w.scale.shape != (len(weight), *(1,) * (weight.ndim - 1)):
        raise ValueError(
            f"`plan` must have one scale per output channel; got {w.scale.shape} for {name!r}"
        )
    codes = w.encode(np.asarray(weight, np.float64))
    stored = {name: w.decode(codes)}
    steps = None
    if bias:
        steps = quantize_bias(values[bias[0]], x.scale.item(), w.scale.ravel())
        stored[bias[0]] = steps * (x.scale.item() * w.scale.ravel())
    if function_of(node.op) is linear:
        return fully_connected(codes, steps, x, w, y, rule=rule), stored
    settings = settings_of(node.op)
    stride, padding = settings.get("stride", 1), settings.get("padding", 0)
    window = Window((stride, stride), padding=((padding, padding),) * 2)
    make = convolution if function_of(node.op) is conv2d else depthwise_convolution
    return make(codes, steps, x, w, y, window, rule=rule), stored


def _addition(xs: Sequence[Uniform], y: Uniform, rule: Rule) -> Rescaled:
    """The sum of two values on codes."""
    scales = [x.scale.item() for x in xs]
    twice = 2 * max(scales)
    first, second = (quantize_multiplier(scale / twice) for scale in scales)
    points = int(xs[0].zero_point.item()), int(xs[1].zero_point.item())
    left = 20 if xs[0].qmax - xs[0].qmin < 256 else 15
    real = np.asarray(twice / (2**left * y.scale.item()))
    return Rescaled(FineSums(points, (first, second), rule, left), real, rule, y, limits(NONE, y))


def _average(
    node: Node, x: Uniform, y: Uniform, shapes: Mapping[str, tuple[int, ...]], rule: Rule
) -> Rescaled:
    """Sums of windows, or the codes by themselves, whose mean has another scale."""
    function, zero = function_of(node.op), int(x.zero_point.item())
    window, count = _same, 1
    if function is global_average_pool:
        window, count = _all_pixels, int(np.prod(shapes[node.inputs[0]][1:3]))
    elif function is average_pool:
        size = settings_of(node.op)["size"]
        window = partial(_windows, size=size, stride=settings_of(node.op).get("stride") or size)
        count = size * size

    def accumulate(codes: Codes) -> Array:
        return window(codes - np.int64(zero))

    real = np.asarray(x.scale.item() / (count * y.scale.item()))
    return Rescaled(accumulate, real, rule, y, limits(NONE, y))


def _same(steps: Array) -> Array:
    return steps


def _all_pixels(steps: Array) -> Array:
    return steps.sum((1, 2))


def _windows(steps: Array, *, size: int, stride: int) -> Array:
    rows = patches(steps, (size, size), stride=stride)
    return rows.reshape(*rows.shape[:3], size * size, steps.shape[3]).sum(3)


def _value_of(op: Op, codes: Codes) -> Codes:
    """What a node computes, without the way back."""
    return op(codes)[0]


def _without_floats(op: Rescaled) -> Rescaled:
    """The operation on the definition in int64, its multiplier made of integers if it can be."""
    held = quantize_multiplier(op.multiplier) if op.rule in INTEGER_RULES else op.multiplier
    return replace(op, multiplier=held, fast=None)
