r"""Forecast: what a Taylor series says that new weights do to the loss.

.. math:: L(w + d) - L(w) \approx g^{\mathsf T} d + \tfrac12\, d^{\mathsf T} H d

Every second-order method of quantization (OBQ, GPTQ, AdaRound, HAWQ) stands on the second term,
and most drop the first. Here both are computed for the change that rounding really makes, in all
weights at once, so that they can be held against what the loss really does.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from refquant._types import Array
from refquant._validate import require_finite, require_positive, require_same_shape
from refquant.apply.mixed import smooth_at
from refquant.nn.network import Node, backward, run

__all__ = ["Forecast", "added", "forecast"]


class Forecast(NamedTuple):
    """The two terms.

    Attributes
    ----------
    first : float
        Slope times change, :math:`g^T d`: zero at a minimum, of either sign elsewhere.
    second : float
        Half of :math:`d^T H d`.

    References
    ----------
    LeCun et al., 1990, Optimal Brain Damage, eq. (1).

    Examples
    --------
    >>> Forecast(-0.5, 2.0).total
    1.5
    """

    first: float
    second: float

    @property
    def total(self) -> float:
        """Loss that is forecast to be added."""
        return self.first + self.second


def forecast(
    nodes: Sequence[Node], values: Mapping[str, Array], changed: Mapping[str, Array],
    *, step: float = 1e-4,
) -> Forecast:
    r"""First and second term of the loss that a change of named values adds.

    Two gradients, a little before and a little behind along the change d:

    .. math:: g^{\mathsf T} d \approx \frac{g(w + hd) + g(w - hd)}{2}^{\mathsf T} d, \qquad
              d^{\mathsf T} H d \approx \frac{g(w + hd) - g(w - hd)}{2h}^{\mathsf T} d

    H is that of *all* the named values together: how layers act on each other is in it.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``.
    values : mapping of str to ndarray
        Everything the network reads. Taken to float64.
    changed : mapping of str to ndarray
        New values of some parameters.
    step : float
        The h of the equation, a share of the change.

    Returns
    -------
    Forecast

    Raises
    ------
    ValueError
        If nothing is changed, a name is unknown, a shape differs, or a value is not finite.

    Notes
    -----
    ReLUs hold the pattern that they have before the change (`smooth_at`): a kink has no second
    derivative, and no series sees it.

    References
    ----------
    LeCun et al., 1990, Optimal Brain Damage, eq. (1); Pearlmutter, 1994, Neural Computation 6,
    pp. 147-160, section 1 (a product with H from two gradients).

    Examples
    --------
    >>> bowl = lambda w: (np.asarray((w**2).sum()), lambda g: (2 * g * w,))
    >>> net = [Node("loss", bowl, ("w",))]
    >>> made = forecast(net, {"w": np.array([3.0])}, {"w": np.array([4.0])})
    >>> round(made.first, 6), round(made.second, 6)     # 6 d + d^2
    (6.0, 1.0)
    """
    require_positive("step", np.asarray(step))
    values = {name: _wide(value) for name, value in values.items()}
    change = {name: _change(name, values, new) for name, new in changed.items()}
    if not change:
        raise ValueError("`changed` must name at least one value; got none")
    smooth = smooth_at(nodes, values)

    def slope(along: float) -> float:
        moved = {name: values[name] + along * d for name, d in change.items()}
        gradients = backward(run(smooth, {**values, **moved}), {"loss": 1.0})
        return sum(float(np.vdot(gradients[name], d)) for name, d in change.items())

    behind, before = slope(step), slope(-step)
    return Forecast((behind + before) / 2, (behind - before) / (4 * step))


def added(
    nodes: Sequence[Node], values: Mapping[str, Array], changed: Mapping[str, Array]
) -> float:
    """Loss that the change really adds.

    Parameters
    ----------
    nodes : sequence of Node
        Up to ``loss``. Of ``smooth_at(nodes, values)`` it is the loss without kinks: what that
        differs by from the forecast is the rest of the series, and what the truth differs by
        from that is the kinks.
    values : mapping of str to ndarray
        Everything the network reads. Taken to float64.
    changed : mapping of str to ndarray
        New values of some parameters.

    Returns
    -------
    float
        Below 0 if the loss falls.

    Raises
    ------
    ValueError
        If a name is unknown, a shape differs, or a new value is not finite.

    References
    ----------
    LeCun et al., 1990, Optimal Brain Damage, section 2.

    Examples
    --------
    >>> bowl = lambda w: (np.asarray((w**2).sum()), lambda g: (2 * g * w,))
    >>> added([Node("loss", bowl, ("w",))], {"w": np.array([3.0])}, {"w": np.array([4.0])})
    7.0
    """
    values = {name: _wide(value) for name, value in values.items()}
    new = {name: values[name] + _change(name, values, value) for name, value in changed.items()}
    after, base = (run(nodes, at).values["loss"] for at in ({**values, **new}, values))
    return float(after) - float(base)


def _wide(value: Array) -> Array:
    return value.astype(np.float64) if value.dtype == np.float32 else value


def _change(name: str, values: Mapping[str, Array], new: Array) -> Array:
    """How far a value moves, in float64."""
    if name not in values:
        raise ValueError(f"`changed` must name known values; got {name!r}")
    require_same_shape(f"changed[{name!r}]", new, values[name].shape)
    require_finite(f"changed[{name!r}]", new)
    return new.astype(np.float64) - values[name]
