r"""Explain a difference: which layers of a .tflite model two engines compute differently, and why.

Every layer is computed twice on the *same* inputs, those of the first engine, so that a
difference stays where it is made; beside it stands what is left of it when each engine goes
its own way. For a layer that adds up products the cause is a rule of requantization, whose
chance to part is known beforehand, :math:`2^{-(R+1)}` for a right shift of R
(`refquant.integer.difference`), and one sum is worked out in whole numbers by both rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant.integer.arithmetic import QuantizedMultiplier
from refquant.integer.difference import expected_rate, rule_name, work_out
from refquant.integer.engines import ENGINES, Engine
from refquant.integer.layers import Rescaled
from refquant.integer.requantize import Lanes, Rule
from refquant.interop._tflite_operators import LAYERS, Node
from refquant.interop.tflite import Model, Tensor
from refquant.interop.tflite_program import Program, prepare, run

__all__ = ["LayerDifference", "difference_report", "explain_difference"]


class LayerDifference(NamedTuple):
    """What two engines make of one operator.

    Attributes
    ----------
    number : int
        Of the operator.
    operator : str
    elements : int
        Of all its outputs, over all inputs.
    apart : int
        Elements that differ when both engines get the first one's inputs.
    largest : int
        Largest distance of two of those codes.
    apart_in_all : int
        Elements that differ when each engine runs the model by itself.
    rules : tuple of str
        What each engine computes; the same twice if they do not differ in that.
    expected : float or None
        Elements expected to differ, for sums without structure; None where no law is known.
    worked : tuple of str
        The first element that differs, step by step; empty if none does.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2.

    Examples
    --------
    >>> LayerDifference(0, "RESHAPE", 8, 0, 0, 3, ("moves data",) * 2, 0.0, ()).apart
    0
    """

    number: int
    operator: str
    elements: int
    apart: int
    largest: int
    apart_in_all: int
    rules: tuple[str, str]
    expected: float | None
    worked: tuple[str, ...]


def explain_difference(
    model: Model, inputs: Iterable[Sequence[Array]], first: Engine, second: Engine
) -> list[LayerDifference]:
    """Every layer of a model on two engines.

    Parameters
    ----------
    model : Model
    inputs : iterable of sequence of ndarray
        One sequence per run: an array per input of the model. States start anew in each run.
    first, second : Engine
        The first one's values feed the layers of both.

    Returns
    -------
    list of LayerDifference
        One per operator, in their order.

    Raises
    ------
    ValueError
        If the model or an input cannot be run; the message names the operator.
    TypeError
        If an input has another type.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2.

    Examples
    --------
    >>> from refquant.integer.engines import TFLM, XNNPACK
    >>> from refquant.interop.tflite import Operator
    >>> x, y = (Tensor("", (256,), "int8", None, np.float32([s]), np.array([z]), 0, False)
    ...         for s, z in ((0.05, 2), (0.06, -7)))
    >>> model = Model((x, y), (Operator("QUANTIZE", 1, (0,), (1,), (), {}),), (0,), (1,))
    >>> codes = np.arange(-128, 128).astype(np.int8)
    >>> (found,) = explain_difference(model, [[codes]], TFLM, XNNPACK)
    >>> found.apart > 0, found.largest
    (True, 1)
    """
    programs = prepare(model, first), prepare(model, second)
    tallies = [_Tally(programs, k) for k in range(len(model.operators))]
    for given in inputs:
        one, two = _values(programs[0], given), _values(programs[1], given)
        for tally in tallies:
            tally.add(one, two)
    return [tally.result() for tally in tallies]


def difference_report(
    differences: Sequence[LayerDifference], first: str, second: str
) -> str:
    """Table of the layers, then one worked element for each that differs.

    Parameters
    ----------
    differences : sequence of LayerDifference
    first, second : str
        Names of the engines.

    Returns
    -------
    str
        Lines of text.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2.

    Examples
    --------
    >>> row = LayerDifference(0, "CONV_2D", 800, 99, 1, 99, ("DA", "DU"), 100.0, ("acc = 9",))
    >>> print(difference_report([row], "tflm", "litert_x86"))
    each layer fed with the values of tflm, then end to end
     no  operator  elements  apart  measured  expected  end to end  tflm  litert_x86
      0  CONV_2D        800     99  12.375 %  12.500 %          99  DA    DU
    <BLANKLINE>
    operator 0 (CONV_2D), the first element that differs:
      acc = 9
    """
    head = ("no", "operator", "elements", "apart", "measured", "expected", "end to end",
            first, second)
    rows = [head, *(_row(d) for d in differences)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(head))]
    left = {1, 7, 8}
    lines = [f"each layer fed with the values of {first}, then end to end"]
    for row in rows:
        cells = [c.ljust(w) if k in left else c.rjust(w)
                 for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append((" " + "  ".join(cells)).rstrip())
    for d in differences:
        if d.worked:
            lines += ["", f"operator {d.number} ({d.operator}), the first element that differs:",
                      *("  " + step for step in d.worked)]
    return "\n".join(lines)


def _row(d: LayerDifference) -> tuple[str, ...]:
    elements = max(d.elements, 1)
    expected = "-" if d.expected is None else f"{100 * d.expected / elements:.3f} %"
    return (str(d.number), d.operator, str(d.elements), str(d.apart),
            f"{100 * d.apart / elements:.3f} %", expected, str(d.apart_in_all), *d.rules)


def _values(program: Program, inputs: Sequence[Array]) -> dict[int, Array]:
    """All tensors of a run, as the layers see them."""
    seen: dict[int, Array] = dict(program.constants)

    def tap(index: int, value: Array) -> None:
        seen[index] = value.astype(np.int32) if value.dtype.kind in "iu" else value

    run(program, inputs, tap=tap)
    return seen


class _Tally:
    """Counts of one operator over all runs."""

    def __init__(self, programs: tuple[Program, Program], index: int) -> None:
        model = programs[0].model
        self.model, self.index, self.operator = model, index, model.operators[index]
        self.steps = tuple(p.steps[index] for p in programs)
        self.engines = tuple(p.engine for p in programs)
        make = LAYERS.get(self.operator.name)
        self.layers = None if make is None else tuple(
            make(Node(model, self.operator, e)) for e in self.engines)
        self.elements = self.apart = self.largest = self.apart_in_all = 0
        self.expected = 0.0
        self.worked: tuple[str, ...] = ()

    def add(self, one: Mapping[int, Array], two: Mapping[int, Array]) -> None:
        """Count one run, of which these are the values on either engine."""
        read = [None if i < 0 else one[i] for i in self.operator.inputs]
        outputs = []
        for step in self.steps:
            written = step(*read)
            outputs.append(written if isinstance(written, tuple) else (written,))
        for k, i in enumerate(self.operator.outputs):
            a, b = outputs[0][k], outputs[1][k]
            apart = a != b
            self.elements += a.size
            self.apart += int(apart.sum())
            self.apart_in_all += int((one[i] != two[i]).sum())
            if a.dtype.kind in "iu":
                self.largest = max(self.largest, int(np.abs(a - b).max(initial=0)))
            if k == 0 and self.layers is not None:
                self._add_expected(a, read)
            if apart.any() and not self.worked:
                place = tuple(int(n) for n in np.argwhere(apart)[0])
                self.worked = self._work_out(place, read, a[place], b[place], self.model.tensors[i])

    def _add_expected(self, codes: Array, read: list[Array | None]) -> None:
        """What the limits cut off on both sides cannot part."""
        assert self.layers is not None
        one, two = self.layers
        inside = ((codes > one.limits.low) & (codes < one.limits.high)).reshape(-1, codes.shape[-1])
        sums, n = _sums(self.operator.name, one, read).reshape(inside.shape), codes.shape[-1]
        for c in range(n):
            rules = _rule_at(one.rule, c, n), _rule_at(two.rule, c, n)
            rates = expected_rate(_at(one.multiplier, c), *rules, sums=sums[:, c])
            self.expected += float(rates[inside[:, c]].sum())

    def _work_out(self, place: tuple[int, ...], read: list[Array | None], a: int, b: int,
                  output: Tensor) -> tuple[str, ...]:
        names = [_short(e) for e in self.engines]
        where = f"element {place}: {a} on {names[0]}, {b} on {names[1]}"
        if self.layers is None:
            return (where, *self._reals(place, read, output))
        layer, c, n = self.layers[0], place[-1], output.shape[-1]
        sums = _sums(self.operator.name, layer, read).reshape(output.shape)
        acc, real = int(sums[place]), _at(layer.multiplier, c)
        exact = float(Fraction(acc) * Fraction(real))
        lines = [where, f"acc = {acc}, M = {real!r}, acc M = {exact!r}"]
        for one, name in zip(self.layers, names, strict=True):
            rule = _rule_at(one.rule, c, n)
            steps = "; ".join(work_out(acc, _at(one.multiplier, c), rule).steps)
            lines.append(f"{rule_name(rule)} on {name}: {steps}")
        zero = int(layer.output.zero_point.item())
        lines.append(f"then {zero:+} and clamped to {tuple(layer.limits)}")
        return tuple(lines)

    def _reals(self, place: tuple[int, ...], read: list[Array | None], output: Tensor
               ) -> list[str]:
        """Inputs of an operator without sums of products, as codes and in real numbers."""
        lines = []
        for i, x in zip(self.operator.inputs, read, strict=True):
            tensor = self.model.tensors[i] if i >= 0 else None
            if x is None or tensor is None or tensor.scale.size != 1:
                continue
            if x.shape != output.shape:
                lines.append(f"an input of shape {x.shape}")
                continue
            code, s, z = int(x[place]), float(tensor.scale[0]), int(tensor.zero_point[0])
            lines.append(f"input code {code}: {s!r} * ({code} - {z}) = {s * (code - z)!r}")
        if output.scale.size == 1:
            lines.append(f"output: scale {float(output.scale[0])!r}, zero point "
                         f"{int(output.zero_point[0])}")
        return lines

    def result(self) -> LayerDifference:
        """The counts."""
        if self.layers is not None:
            rules = rule_name(self.layers[0].rule), rule_name(self.layers[1].rule)
            expected: float | None = self.expected
        else:
            first, second = self.engines
            rules = _how(self.operator.name, first), _how(self.operator.name, second)
            field = _OTHERS.get(self.operator.name, ("", {}))[0]
            same = not field or getattr(first, field) is getattr(second, field)
            expected = 0.0 if same else None
        return LayerDifference(
            self.index, self.operator.name, self.elements, self.apart, self.largest,
            self.apart_in_all, rules, expected, self.worked)


#: Other operators: the field of an engine that computes them, and how engines do it, the first
#: of them unless named.
_OTHERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "ADD": ("add", {"": "DA of inputs and sum", "xnnpack": "21 bits, one shift"}),
    "SUB": ("subtract", {"": "DA of inputs and sum", "xnnpack": "21 bits, one shift"}),
    "MUL": ("multiply", {"": "DA, M in float32", "tflm": "DA", "xnnpack": "F32"}),
    "QUANTIZE": ("requantize", {"": "DA", "litert_x86": "DU, last n % 16 DA",
                                "xnnpack": "8 bits, one shift"}),
    "DEQUANTIZE": ("dequantize", {"": "one product", "litert_x86": "product and bias"}),
    "RELU": ("relu", {"": "DA, M in float32", "tflm": "DA"}),
    "RELU6": ("relu6", {"": "DA, M in float32", "tflm": "a clamp alone"}),
    "LEAKY_RELU": ("leaky_relu", {"": "DA, M in float32", "tflm": "DA",
                                  "xnnpack": "8 bits, one shift"}),
    "MEAN": ("mean", {"": "DA, count in M", "litert_x86": "DU, last n % 16 DA",
                      "xnnpack": "float32"}),
    "SOFTMAX": ("softmax", {"": "float table", "tflm": "fixed point",
                            "litert_ref": "fixed point"}),
    "LOGISTIC": ("logistic", {"": "float table", "tflm": "fixed point",
                              "xnnpack": "float table, ties to even"}),
    "TANH": ("tanh", {"": "float table", "tflm": "fixed point",
                      "xnnpack": "float table, ties to even"}),
}


def _how(operator: str, engine: Engine) -> str:
    ways = _OTHERS.get(operator, ("", {"": "the same in all"}))[1]
    return ways.get(_short(engine), ways[""])


def _short(engine: Engine) -> str:
    """Name on the command line, of the engines that have one."""
    return next((name for name, known in ENGINES.items() if known is engine), engine.name)


def _sums(name: str, layer: Rescaled, read: list[Array | None]) -> Array:
    x = read[2 if name == "TRANSPOSE_CONV" else 0]
    assert x is not None
    if name == "FULLY_CONNECTED":
        size = read[1].shape[1] if read[1] is not None else x.shape[-1]
        x = x.reshape(-1, size)
    return layer.accumulate(x)


def _at(multiplier: Array | QuantizedMultiplier, channel: int) -> float:
    if isinstance(multiplier, QuantizedMultiplier):
        multiplier = np.ldexp(multiplier.mantissa.astype(np.float64), multiplier.shift - 31)
    m = np.asarray(multiplier).ravel()
    return float(m[channel] if m.size > 1 else m[0])


def _rule_at(rule: Rule, channel: int, channels: int) -> Rule:
    """The rule of one channel of a layer whose loop takes several at once."""
    return rule.at(channel, channels) if isinstance(rule, Lanes) else rule
