r"""Trained quantizers in a network: a plan goes in, and comes back better.

Quantization-aware training starts where calibration ends: with a *plan*, a `Uniform` for each name.
A *maker* turns such a record into an estimator and its first parameters, `insert` puts it into the
network behind the name, and `read_back` gives the records that training has arrived at.

====================  =================================  ============================
maker                 trained                            estimator
====================  =================================  ============================
`fixed_grid`          nothing                            straight through
`moving_grid`         nothing: the range follows         straight through
`lsq_weight`          step                               LSQ
`lsq_activation`      step, weighed by sample            LSQ
`lsq_offset`          step and offset                    LSQ+
`pact_ceiling`        highest level                      PACT
`tqt_threshold`       log2 of the bound                  TQT
`min_max_ends`        both ends, full chain              learned min and max
`clipped_ends`        both ends, clipped elements only   the same, as TensorFlow does
`dorefa_weights`      nothing                            DoReFa
`dorefa_activations`  nothing                            DoReFa
====================  =================================  ============================

Any other function `Uniform -> Learned` is a maker too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant.calibration.minmax import absmax
from refquant.nn._nodes import function_of, settings_of
from refquant.nn.network import Node, Op, Pullback, insert_after
from refquant.qat.dorefa import dorefa_activation, dorefa_weight
from refquant.qat.learned_range import containing_zero, min_max, min_max_clip_only, tqt
from refquant.qat.lsq import gradient_factor, lsq, lsq_plus
from refquant.qat.pact import pact
from refquant.qat.straight_through import fake_quantize, refit
from refquant.quantizers._scale import usable
from refquant.quantizers.uniform import Uniform

__all__ = [
    "Learned",
    "Make",
    "Prepared",
    "clipped_ends",
    "dorefa_activations",
    "dorefa_weights",
    "fixed_grid",
    "insert",
    "keep_valid",
    "lsq_activation",
    "lsq_offset",
    "lsq_weight",
    "min_max_ends",
    "moving_grid",
    "pact_ceiling",
    "read_back",
    "tqt_threshold",
]


class Learned(NamedTuple):
    """An estimator and what it trains.

    Attributes
    ----------
    op : callable
        ``op(x, *parameters)`` returns ``(value, pullback)``.
    parameters : dict of str to ndarray
        Their suffixes and first values, in the order that `op` takes them.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, section 2.
    """

    op: Op
    parameters: dict[str, Array]


#: The record that calibration found -> the estimator that starts there.
Make: TypeAlias = Callable[[Uniform], Learned]


class Prepared(NamedTuple):
    """A network with quantizers in it.

    Attributes
    ----------
    nodes : list of Node
    parameters : dict of str to ndarray
        The old ones, and those of the quantizers: ``stem.weight.scale``.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.
    """

    nodes: list[Node]
    parameters: dict[str, Array]


def insert(
    nodes: Sequence[Node],
    parameters: Mapping[str, Array],
    plan: Mapping[str, Uniform],
    make: Make,
) -> Prepared:
    """The network with a quantizer behind each name of the plan.

    A name N gets the node ``N.q``, which reads N and the new parameters ``N.suffix``; whatever
    read N now reads ``N.q``. Call it again with another plan and maker for other names.

    Parameters
    ----------
    nodes : sequence of Node
        In training form.
    parameters : mapping of str to ndarray
    plan : mapping of str to Uniform
        From `refquant.apply.calibrate.plan`: weights, inputs, values of nodes.
    make : callable, Uniform -> Learned

    Returns
    -------
    Prepared

    Raises
    ------
    ValueError
        If a name is not in the network, has a quantizer already, or a name of a new
        parameter is taken.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, figure 1.

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("y", linear, ("x", "w"))]
    >>> new = insert(net, {"w": np.eye(2)}, {"w": symmetric(np.array(1.0), bits=2)}, lsq_weight)
    >>> [node.inputs for node in new.nodes], sorted(new.parameters)
    ([('w', 'w.scale'), ('x', 'w.q')], ['w', 'w.scale'])
    """
    out, known = list(nodes), dict(parameters)
    for name, quantizer in plan.items():
        made = make(quantizer)
        own = {f"{name}.{suffix}": np.asarray(v) for suffix, v in made.parameters.items()}
        taken = sorted(own.keys() & (known.keys() | {n.name for n in out}))
        if taken:
            raise ValueError(f"`parameters` must leave the new names free; got {taken[0]!r}")
        out = insert_after(out, name, Node(f"{name}.q", made.op, (name, *own)))
        known |= own
    return Prepared(out, known)


def read_back(nodes: Sequence[Node], values: Mapping[str, Array]) -> dict[str, Uniform]:
    """The records of the quantizers in a network: a plan again.

    Parameters
    ----------
    nodes : sequence of Node
    values : mapping of str to ndarray
        Trained parameters.

    Returns
    -------
    dict of str to Uniform
        By the name that is quantized. Left out is what no `Uniform` of the value itself says:
        LSQ+, whose offset is a real number, DoReFa's weights, which are squashed first, and
        ranges that follow activations.

    Raises
    ------
    ValueError
        If a parameter is missing, or training has left it where it means nothing.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3: what is trained is what is deployed.

    Examples
    --------
    >>> from refquant.nn.operations import linear
    >>> from refquant.quantizers.uniform import symmetric
    >>> net = [Node("y", linear, ("x", "w"))]
    >>> new = insert(net, {"w": np.eye(2)}, {"w": symmetric(np.array(1.0), bits=2)}, lsq_weight)
    >>> read_back(new.nodes, new.parameters | {"w.scale": np.array(0.3)})["w"].scale
    array(0.3)
    """
    found: dict[str, Uniform] = {}
    for node in nodes:
        function = function_of(node.op)
        if function is refit and node.inputs[0] in values:
            found[node.inputs[0]] = settings_of(node.op)["fit"](values[node.inputs[0]])
        elif function in _READERS:
            name, *own = node.inputs
            missing = [p for p in own if p not in values]
            if missing:
                raise ValueError(f"`values` must hold trained parameters; got no {missing[0]!r}")
            found[name] = _READERS[function](settings_of(node.op), *(values[p] for p in own))
    return found


def keep_valid(parameters: Mapping[str, Array], step: int = 0) -> dict[str, Array]:
    """Parameters of quantizers where they mean something, whatever a step did to them.

    Give it to `refquant.apply.train.train` as ``after``: steps and ceilings stay at least
    1e-6, and ends of ranges on their side of zero.

    Parameters
    ----------
    parameters : mapping of str to ndarray
        Told by their ends: ``.scale``, ``.alpha``, ``.low`` and ``.high``; all others stay.
    step : int
        Not used.

    Returns
    -------
    dict of str to ndarray

    References
    ----------
    Jain et al., 2020, arXiv:1903.08066, section 3.2, for what goes wrong without.

    Examples
    --------
    >>> keep_valid({"w.scale": np.array(-0.5), "x.low": np.array(0.1), "b": np.array(-1.0)})
    {'w.scale': array(1.e-06), 'x.low': array(0.), 'b': array(-1.)}
    """
    new = dict(parameters)
    for name, p in parameters.items():
        if name.endswith((".scale", ".alpha")):
            new[name] = np.asarray(np.maximum(p, p.dtype.type(1e-6)))
        elif name.endswith((".low", ".high")):
            low, high = containing_zero(p, p)
            new[name] = low if name.endswith(".low") else high
    return new


def fixed_grid(quantizer: Uniform) -> Learned:
    """The grid as calibration found it; weights move, it does not.

    Parameters
    ----------
    quantizer : Uniform

    Returns
    -------
    Learned
        No parameters. The gradient passes where the code is in range.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.
    """
    return Learned(partial(fake_quantize, quantizer=quantizer), {})


def moving_grid(quantizer: Uniform) -> Learned:
    """The same codes, their range set by the largest value of each step.

    Parameters
    ----------
    quantizer : Uniform
        Tells the codes and the granularity; its scale is not used.

    Returns
    -------
    Learned
        No parameters.

    Notes
    -----
    At 2 bits this collapses: with the largest weight at the end of three levels nearly all
    others round to zero, and the largest moves with every step.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.2.
    """
    q = _about_zero(quantizer)
    axes = _reduced(q.scale)

    def fit(x: Array) -> Uniform:
        scale = usable(absmax(x, axis=axes) / q.qmax, x.dtype).reshape(q.scale.shape)
        return Uniform(scale, np.zeros(scale.shape, np.int32), q.qmin, q.qmax)

    return Learned(partial(refit, fit=fit), {})


def lsq_weight(quantizer: Uniform) -> Learned:
    """A trained step; its gradient is damped by the number of weights that share it.

    Parameters
    ----------
    quantizer : Uniform
        With zero point 0.

    Returns
    -------
    Learned
        ``scale``.

    Raises
    ------
    ValueError
        If a zero point is not 0.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, sections 2.1 and 2.2.
    """
    q = _about_zero(quantizer)
    return Learned(partial(_lsq_of_weights, qmin=q.qmin, qmax=q.qmax), {"scale": q.scale})


def lsq_activation(quantizer: Uniform) -> Learned:
    """A trained step; its gradient is damped by the number of values of one sample.

    Parameters
    ----------
    quantizer : Uniform
        With zero point 0.

    Returns
    -------
    Learned
        ``scale``.

    Raises
    ------
    ValueError
        If a zero point is not 0.

    References
    ----------
    Esser et al., 2020, arXiv:1902.08153, section 2.2.
    """
    q = _about_zero(quantizer)
    return Learned(partial(_lsq_of_samples, qmin=q.qmin, qmax=q.qmax), {"scale": q.scale})


def lsq_offset(quantizer: Uniform) -> Learned:
    """A trained step and a trained offset for activations.

    Parameters
    ----------
    quantizer : Uniform
        The offset starts at ``-scale * zero_point``: the value of code 0.

    Returns
    -------
    Learned
        ``scale`` and ``offset``.

    References
    ----------
    Bhalgat et al., 2020, arXiv:2004.09576, section 3.
    """
    q = quantizer
    offset = (-q.scale * q.zero_point).astype(q.scale.dtype)
    return Learned(partial(_lsq_plus_of_samples, qmin=q.qmin, qmax=q.qmax),
                   {"scale": q.scale, "offset": offset})


def pact_ceiling(quantizer: Uniform) -> Learned:
    """A trained highest level for values that are not negative.

    Parameters
    ----------
    quantizer : Uniform
        With codes 0 to ``2**bits - 1``; the ceiling starts at the highest level.

    Returns
    -------
    Learned
        ``alpha``.

    Raises
    ------
    ValueError
        If the codes do not start at 0 or a zero point is not 0.

    References
    ----------
    Choi et al., 2018, arXiv:1805.06085, section 3.
    """
    q = _from_zero(quantizer)
    return Learned(partial(pact, bits=q.code_bits), {"alpha": q.scale * q.scale.dtype.type(q.qmax)})


def tqt_threshold(quantizer: Uniform) -> Learned:
    """A trained bound whose step is a power of two: rescaling is a shift.

    Parameters
    ----------
    quantizer : Uniform
        With zero point 0 and all codes of its bits; its step is rounded up to a power of two.

    Returns
    -------
    Learned
        ``log2_threshold``.

    Raises
    ------
    ValueError
        If a zero point is not 0, or the codes are not all of a number of bits.

    References
    ----------
    Jain et al., 2020, arXiv:1903.08066, section 3.
    """
    q = _about_zero(quantizer)
    signed = q.qmin < 0
    if q.qmin != (-q.qmax - 1 if signed else 0):
        raise ValueError(f"`quantizer` must have all codes of its bits; got {q.qmin} to {q.qmax}")
    start = np.log2(q.scale) + q.scale.dtype.type(q.code_bits - signed)
    return Learned(partial(tqt, bits=q.code_bits, signed=signed),
                   {"log2_threshold": np.asarray(start)})


def min_max_ends(quantizer: Uniform) -> Learned:
    """Trained ends of the range; the gradient goes through the step and the zero point.

    Parameters
    ----------
    quantizer : Uniform
        With as many codes as bits give; the ends start at its lowest and highest level.

    Returns
    -------
    Learned
        ``low`` and ``high``.

    References
    ----------
    Uhlich et al., 2020, arXiv:1905.11452, section 2.
    """
    return Learned(partial(min_max, bits=quantizer.code_bits), _ends(quantizer))


def clipped_ends(quantizer: Uniform) -> Learned:
    """Trained ends of the range; only clipped elements move them.

    Parameters
    ----------
    quantizer : Uniform
        With as many codes as bits give; the ends start at its lowest and highest level.

    Returns
    -------
    Learned
        ``low`` and ``high``.

    References
    ----------
    TensorFlow's ``FakeQuantWithMinMaxVars``.
    """
    return Learned(partial(min_max_clip_only, bits=quantizer.code_bits), _ends(quantizer))


def dorefa_weights(quantizer: Uniform) -> Learned:
    """Weights squashed into [-1, 1] and rounded there: no level at zero, nothing to start from.

    Parameters
    ----------
    quantizer : Uniform
        Only its bits are used.

    Returns
    -------
    Learned
        No parameters.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eq. (9).
    """
    return Learned(partial(dorefa_weight, bits=quantizer.code_bits), {})


def dorefa_activations(quantizer: Uniform) -> Learned:
    """Activations clipped to [0, 1] and rounded.

    Parameters
    ----------
    quantizer : Uniform
        Only its bits are used.

    Returns
    -------
    Learned
        No parameters.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, eq. (11).
    """
    return Learned(partial(dorefa_activation, bits=quantizer.code_bits), {})


def _lsq_of_weights(w: Array, scale: Array, *, qmin: int, qmax: int) -> tuple[Array, Pullback]:
    """LSQ whose N is the number of weights of a scale."""
    factor = gradient_factor(max(w.size // scale.size, 1), qmax)
    return lsq(w, scale, qmin=qmin, qmax=qmax, factor=factor)


def _lsq_of_samples(x: Array, scale: Array, *, qmin: int, qmax: int) -> tuple[Array, Pullback]:
    """LSQ whose N is the number of values of a scale in one sample."""
    factor = gradient_factor(max(x.size // (len(x) * scale.size), 1), qmax)
    return lsq(x, scale, qmin=qmin, qmax=qmax, factor=factor)


def _lsq_plus_of_samples(
    x: Array, scale: Array, offset: Array, *, qmin: int, qmax: int
) -> tuple[Array, Pullback]:
    """LSQ+ whose N is the number of values of a scale in one sample."""
    factor = gradient_factor(max(x.size // (len(x) * scale.size), 1), qmax)
    return lsq_plus(x, scale, offset, qmin=qmin, qmax=qmax, factor=factor)


def _about_zero(quantizer: Uniform) -> Uniform:
    """The quantizer, if its zero points are 0."""
    if quantizer.zero_point.any():
        raise ValueError(f"`quantizer` must have zero point 0; got {quantizer.zero_point.ravel()}")
    return quantizer


def _from_zero(quantizer: Uniform) -> Uniform:
    """The quantizer, if its codes are those of values that are not negative."""
    if quantizer.qmin != 0:
        raise ValueError(f"`quantizer` must have codes from 0; got {quantizer.qmin}")
    return _about_zero(quantizer)


def _reduced(scale: Array) -> tuple[int, ...] | None:
    """The axes that share a scale of this shape; all of them where it has one element."""
    return None if scale.size == 1 else tuple(i for i, n in enumerate(scale.shape) if n == 1)


def _ends(quantizer: Uniform) -> dict[str, Array]:
    """Lowest and highest level."""
    q = quantizer
    below, above = q.qmin - q.zero_point, q.qmax - q.zero_point
    return {"low": (q.scale * below).astype(q.scale.dtype),
            "high": (q.scale * above).astype(q.scale.dtype)}


def _step_record(settings: Mapping[str, Any], scale: Array) -> Uniform:
    return Uniform(scale, np.zeros(scale.shape, np.int32), settings["qmin"], settings["qmax"])


def _ceiling_record(settings: Mapping[str, Any], alpha: Array) -> Uniform:
    top = 2 ** settings["bits"] - 1
    return Uniform(np.asarray(alpha / top), np.zeros(alpha.shape, np.int32), 0, top)


def _threshold_record(settings: Mapping[str, Any], log2_threshold: Array) -> Uniform:
    bits, signed = settings["bits"], settings.get("signed", True)
    scale = np.exp2(np.ceil(log2_threshold) - (bits - signed)).astype(log2_threshold.dtype)
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return Uniform(scale, np.zeros(scale.shape, np.int32), qmin, qmax)


def _ends_record(settings: Mapping[str, Any], low: Array, high: Array) -> Uniform:
    if not ((low <= 0) & (high >= 0) & (high > low)).all():
        raise ValueError(
            f"`low` and `high` must hold 0 between them; got {np.ravel(low)} and {np.ravel(high)}")
    top = 2 ** settings["bits"] - 1
    scale = np.asarray((high - low) / top)
    zero = np.clip(np.rint(-low / scale), 0, top)
    return Uniform(scale, np.asarray(zero, np.int32), 0, top)


def _unit_record(settings: Mapping[str, Any]) -> Uniform:
    top = 2 ** settings["bits"] - 1
    return Uniform(np.array(1 / top, np.float32), np.array(0, np.int32), 0, top)


_READERS: dict[Callable[..., Any], Callable[..., Uniform]] = {
    fake_quantize: lambda settings: settings["quantizer"],
    lsq: _step_record,
    _lsq_of_weights: _step_record,
    _lsq_of_samples: _step_record,
    pact: _ceiling_record,
    tqt: _threshold_record,
    min_max: _ends_record,
    min_max_clip_only: _ends_record,
    dorefa_activation: _unit_record,
}
