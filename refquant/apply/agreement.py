r"""Simulated against integer-only: how many codes differ, and that the rule says which.

The simulation rounds the real number :math:`v = M \cdot \mathrm{sum}` once, to the nearest
whole number. An integer rule rounds a number that is near v. If it errs by at most e before
its last rounding, the two can differ only where v lies within e of a tie, and then by one:

.. math:: \Bigl|v - \bigl(k + \tfrac12\bigr)\Bigr| \le e \quad\text{for some whole } k .

===========================  ======================================================
rule                         e, for a right shift of R bits
===========================  ======================================================
`double_away`, `double_up`   :math:`2^{-(R+1)}` (none if R = 0) and :math:`2^{-31} |v|`
`single_up`                  :math:`2^{-31} |v|`: the multiplier has 31 bits
`in_float32`                 three roundings to float32, :math:`3 \cdot 2^{-24} |v|`
`in_float64`                 two to float64, :math:`2^{-52} |v|`
===========================  ======================================================

With two roundings the first leaves v on a grid of :math:`2^{-R}`, where it hits a tie with
probability :math:`2^{-R}`; half of these were not on that side: the law :math:`2^{-(R+1)}`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array, Codes
from refquant.apply.lower import FineSums, Program
from refquant.integer.arithmetic import QuantizedMultiplier, quantize_multiplier
from refquant.integer.layers import Rescaled
from refquant.integer.requantize import double_away, double_up, in_float32, in_float64, single_up
from refquant.nn.network import Node, run

__all__ = ["Agreement", "agreement", "predicted_rate", "stated_error"]

#: What a simulation in float64 may err by, in steps of the output: thousands of terms of 2**-53.
SIMULATION_ERROR = 2.0**-28

#: Relative error of a rule before its last rounding.
_RELATIVE = {
    double_away: 2.0**-31,
    double_up: 2.0**-31,
    single_up: 2.0**-31,
    in_float32: 3.001 * 2.0**-24,
    in_float64: 2.0**-52,
}


class Agreement(NamedTuple):
    """How far one operation agrees with its simulation on the same inputs.

    Attributes
    ----------
    name : str
    elements : int
    differing : int
        Codes that are not the same.
    largest : int
        Largest difference of two codes.
    near_ties : int
        Elements that the stated error of the rule allows to differ.
    unexplained : int
        Differing elements that it does not: 0, or something is wrong.
    predicted : float
        How many should differ by the law :math:`2^{-(R+1)}`: for sums without structure.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3: simulation is to match inference.
    """

    name: str
    elements: int
    differing: int
    largest: int
    near_ties: int
    unexplained: int
    predicted: float


def stated_error(op: Rescaled, steps: Array) -> Array:
    """Bound on the distance of an operation from the real result, before its last rounding.

    Parameters
    ----------
    op : Rescaled
        Under one of the five rules of `refquant.integer.requantize.RULES`.
    steps : ndarray of float64
        The real results v, in steps of the output, without its zero point.

    Returns
    -------
    ndarray of float64, shape of `steps`

    Raises
    ------
    ValueError
        If the rule states no error.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 2.2 (the error of the multiplier).

    Examples
    --------
    >>> from refquant.integer.arithmetic import quantize_multiplier
    >>> from refquant.quantizers.uniform import Uniform
    >>> y = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> quarter = Rescaled(lambda x: x, quantize_multiplier(0.25), double_away, y, (-128, 127))
    >>> stated_error(quarter, np.array([0.0])).round(6)           # R = 1
    array([0.25])
    """
    if op.rule not in _RELATIVE:
        told = getattr(op.rule, "__name__", repr(op.rule))
        raise ValueError(f"`op` must round by one of the five rules; got {told}")
    error = _RELATIVE[op.rule] * np.abs(steps) + SIMULATION_ERROR
    if isinstance(op.accumulate, FineSums):
        # Each term: one rounding or two, and a multiplier of 31 bits on less than 2**29.
        error = error + 2 * (1 + 2.0**-2) * _real(op.multiplier)
    if op.rule in (double_away, double_up):
        right = _right(op)
        error = error + np.where(right > 0, 2.0 ** -(right + 1), 0.0)
    return np.asarray(error)


def predicted_rate(op: Rescaled) -> Array:
    r"""Share of codes that the first of two roundings moves across a tie.

    .. math:: 2^{-(R+1)} \text{ for a right shift of } R \ge 1, \text{ else } 0

    Parameters
    ----------
    op : Rescaled

    Returns
    -------
    ndarray of float64, shape of the multiplier
        0 for rules that round once.

    References
    ----------
    TensorFlow issue 25087 (a case of it); the rate is that of a uniformly distributed rest.

    Examples
    --------
    >>> from refquant.integer.arithmetic import quantize_multiplier
    >>> from refquant.quantizers.uniform import Uniform
    >>> y = Uniform(np.array(1.0), np.array(0), -128, 127)
    >>> op = Rescaled(lambda x: x, quantize_multiplier([0.3, 0.7]), double_away, y, (-128, 127))
    >>> predicted_rate(op)
    array([0.25, 0.  ])
    """
    if op.rule not in (double_away, double_up):
        return np.zeros(())
    right = _right(op)
    return np.where(right > 0, 2.0 ** -(right + 1), 0.0)


def agreement(
    program: Program, nodes: Sequence[Node], inputs: Mapping[str, Array]
) -> list[Agreement]:
    """Each operation of the program against the simulation, both fed with the same codes.

    So no difference is inherited: each row is about one rounding. Run
    `refquant.apply.lower.execute` to see how differences grow from layer to layer.

    Parameters
    ----------
    program : Program
        From `refquant.apply.lower.lower`, under one of the five rules.
    nodes : sequence of Node
        What was lowered.
    inputs : mapping of str to ndarray of float
        Real inputs of the network.

    Returns
    -------
    list of Agreement
        One for each operation that requantizes, in order.

    Raises
    ------
    ValueError
        If the rule of the program states no error.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section IV-A; Jacob et al., 2018,
    arXiv:1712.05877, section 3.

    Examples
    --------
    >>> from refquant.apply.lower import lower
    >>> from refquant.nn.operations import linear
    >>> from refquant.quantizers.uniform import Uniform
    >>> net = [Node("y", linear, ("x", "y.weight"))]
    >>> plan = {name: Uniform(np.array(s), np.array(0), -128, 127)
    ...         for name, s in [("x", 1.0), ("y", 4.0), ("y.weight", 1.0)]}
    >>> weight = {"y.weight": np.array([[1.0]])}
    >>> program = lower(net, weight, plan, {"x": np.zeros((1, 1))})
    >>> row = agreement(program, net, {"x": np.array([[5.0], [7.0], [8.0]])})[0]
    >>> row.differing, row.near_ties, row.unexplained         # 5 / 4 becomes 2
    (1, 2, 0)
    """
    reals: dict[str, Array] = {}
    simulated: dict[str, Codes] = {}

    def tap(name: str, value: Array) -> Array:
        if name in program.values or name not in program.quantizers:
            return value
        quantizer = program.quantizers[name]
        reals[name], simulated[name] = value, quantizer.encode(value)
        return quantizer.decode(simulated[name])

    wide = {name: np.asarray(value, np.float64) for name, value in inputs.items()}
    run(nodes, {**wide, **program.values}, tap=tap)
    rows = []
    for name, op, sources in program.operations:
        if not isinstance(op, Rescaled):
            continue
        wanted, steps = simulated[name], reals[name] / op.output.scale.item()
        off = np.abs(op(*(simulated[source] for source in sources)) - wanted)
        near = np.abs(steps - np.floor(steps) - 0.5) <= stated_error(op, steps)
        free = (wanted > op.limits.low) & (wanted < op.limits.high)
        rate = np.broadcast_to(predicted_rate(op), wanted.shape)
        rows.append(
            Agreement(
                name,
                elements=wanted.size,
                differing=int((off > 0).sum()),
                largest=int(off.max(initial=0)),
                near_ties=int(near.sum()),
                unexplained=int(((off > 0) & ~near).sum()),
                predicted=float(rate[free].sum()),
            )
        )
    return rows


def _right(op: Rescaled) -> Array:
    """The right shift R of each multiplier."""
    return np.maximum(-quantize_multiplier(op.multiplier).shift.astype(np.float64), 0.0)


def _real(multiplier: QuantizedMultiplier | Array) -> Array:
    if isinstance(multiplier, QuantizedMultiplier):
        return np.ldexp(multiplier.mantissa.astype(np.float64), multiplier.shift - 31)
    return multiplier
