"""Simulated quantization: a float network whose named values pass through codes.

Every mode is a tap for `refquant.nn.network.run`, and a difference of one word:

=============  ==============================  ==================================
mode           tap                             the quantizer
=============  ==============================  ==================================
static         ``static(plan)``                fixed beforehand, one per name
dynamic        ``dynamic(fits)``               fitted to each value as it comes
weights only   ``static(weight_plan)``         fitted to the weights, once
=============  ==============================  ==================================

The backward pass does not see taps, so training with any of them is training
with the plain straight-through estimator.
"""

from collections.abc import Mapping, Sequence

from refquant._types import Array
from refquant.kernels import elementwise
from refquant.nn.network import Node, Tap
from refquant.quantizer import Fit, Quantizer, fake_quantize
from refquant.quantizers.uniform import Uniform

__all__ = ["chain", "dynamic", "ends", "input_names", "static", "weight_names", "with_quantized"]


def static(plan: Mapping[str, Quantizer]) -> Tap:
    """A tap that passes each planned value through its own quantizer.

    Parameters
    ----------
    plan : mapping of str to Quantizer
        Values of other names pass untouched.

    Returns
    -------
    callable, (name, value) -> value

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3; Gholami et al., 2021,
    arXiv:2103.13630, section III-D.

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import symmetric
    >>> tap = static({"w": symmetric(np.array(1.0), bits=2)})
    >>> tap("w", np.array([0.2, 0.9])), tap("b", np.array([0.2, 0.9]))
    (array([0., 1.]), array([0.2, 0.9]))
    """

    def tap(name: str, value: Array) -> Array:
        return _round_trip(value, plan[name]) if name in plan else value

    return tap


def dynamic(fits: Mapping[str, Fit]) -> Tap:
    """A tap that fits a quantizer to each value as it passes, and applies it.

    Parameters
    ----------
    fits : mapping of str to callable, ndarray -> Quantizer
        Per tensor or per token is a matter of the ``axis`` inside the fit.

    Returns
    -------
    callable, (name, value) -> value

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D (dynamic quantization).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import symmetric
    >>> tap = dynamic({"x": lambda x: symmetric(np.abs(x).max(), bits=2)})
    >>> tap("x", np.array([0.2, 0.9])), tap("x", np.array([0.2, 0.3]))
    (array([0. , 0.9]), array([0.3, 0.3]))
    """

    def tap(name: str, value: Array) -> Array:
        return _round_trip(value, fits[name](value)) if name in fits else value

    return tap


def chain(first: Tap, second: Tap) -> Tap:
    """One tap that applies two, one after the other.

    Parameters
    ----------
    first, second : callable, (name, value) -> value
        For example static weights and dynamic activations.

    Returns
    -------
    callable, (name, value) -> value

    References
    ----------
    Function composition; the pair is what PyTorch calls dynamic quantization.

    Examples
    --------
    >>> import numpy as np
    >>> chain(lambda name, v: v + 1, lambda name, v: 10 * v)("x", np.array([2.0]))
    array([30.])
    """

    def tap(name: str, value: Array) -> Array:
        return second(name, first(name, value))

    return tap


def with_quantized(
    values: Mapping[str, Array], plan: Mapping[str, Quantizer]
) -> dict[str, Array]:
    """The values, those with a plan replaced by what their codes stand for.

    Running with these is running with ``static(plan)``, and the weights are
    quantized once instead of at every run.

    Parameters
    ----------
    values : mapping of str to ndarray
        Parameters of a network.
    plan : mapping of str to Quantizer

    Returns
    -------
    dict of str to ndarray
        All names of `values`.

    Raises
    ------
    ValueError
        If the plan names something that is not there.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-B, eq. (3).

    Examples
    --------
    >>> import numpy as np
    >>> from refquant.quantizers.uniform import symmetric
    >>> with_quantized({"w": np.array([0.9])}, {"w": symmetric(np.array(1.0), bits=2)})
    {'w': array([1.])}
    """
    missing = [name for name in plan if name not in values]
    if missing:
        raise ValueError(f"`plan` must name given values; got {missing[0]!r}")
    return {**values, **{name: _round_trip(values[name], q) for name, q in plan.items()}}


def weight_names(nodes: Sequence[Node]) -> list[str]:
    """Names of the weights of all layers, in the order of the run.

    Parameters
    ----------
    nodes : sequence of Node
        A layer is a node whose second input is named ``....weight``.

    Returns
    -------
    list of str

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-A.

    Examples
    --------
    >>> from refquant.nn.models import digits_cnn
    >>> weight_names(digits_cnn())[:2]
    ['stem.weight', 'r1a.weight']
    """
    return list(dict.fromkeys(node.inputs[1] for node in _layers(nodes)))


def input_names(nodes: Sequence[Node]) -> list[str]:
    """Names of the values that enter the layers, each once, in the order of the run.

    A value that also feeds a shortcut is quantized for both readers, as it is on
    hardware that stores it once.

    Parameters
    ----------
    nodes : sequence of Node
        A layer is a node whose second input is named ``....weight``.

    Returns
    -------
    list of str

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-A.

    Examples
    --------
    >>> from refquant.nn.models import digits_cnn
    >>> input_names(digits_cnn())[:2]
    ['x', 'stem']
    """
    return list(dict.fromkeys(node.inputs[0] for node in _layers(nodes)))


def ends(names: Sequence[str]) -> list[str]:
    """The first and the last name: what low-bit networks keep at 8 bits.

    Parameters
    ----------
    names : sequence of str
        At least one.

    Returns
    -------
    list of str
        Two names, or one if there is only one.

    Raises
    ------
    ValueError
        If there is no name.

    References
    ----------
    Zhou et al., 2016, arXiv:1606.06160, section 2.7; Choi et al., 2018,
    arXiv:1805.06085, section 5.

    Examples
    --------
    >>> ends(["stem.weight", "r1a.weight", "fc.weight"])
    ['stem.weight', 'fc.weight']
    """
    if not names:
        raise ValueError("`names` must hold at least one name; got none")
    return list(dict.fromkeys([names[0], names[-1]]))


def _layers(nodes: Sequence[Node]) -> list[Node]:
    """Nodes that multiply by a weight."""
    return [n for n in nodes if len(n.inputs) > 1 and n.inputs[1].endswith(".weight")]


def _round_trip(value: Array, quantizer: Quantizer) -> Array:
    """What the codes of `value` stand for; by the fast twin where there is one."""
    if isinstance(quantizer, Uniform):
        return elementwise.fake_quantize(value, quantizer)
    return fake_quantize(value, quantizer)
