"""Optimizers as pure functions: parameters, gradients and state in, new ones out.

Everything is a dict of arrays by name. The learning rate may be a function of the
name, which is all that per-parameter rates need; schedules are functions of the
step. Names without a gradient stay as they are.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_int

__all__ = [
    "AdamState",
    "AdamStep",
    "Rate",
    "Schedule",
    "SgdState",
    "SgdStep",
    "adam",
    "adam_start",
    "constant",
    "cosine",
    "sgd",
    "sgd_start",
    "warm_up",
]

#: Learning rate: one number, or a function of the parameter's name.
Rate: TypeAlias = float | Callable[[str], float]

#: Learning rate of step 0, 1, 2, ...
Schedule: TypeAlias = Callable[[int], float]


class SgdState(NamedTuple):
    """What `sgd` remembers.

    Attributes
    ----------
    velocity : dict of str to ndarray
        Decaying sum of the gradients.

    References
    ----------
    Polyak, 1964, USSR Comput. Math. Math. Phys. 4(5) (heavy ball).
    """

    velocity: dict[str, Array]


class AdamState(NamedTuple):
    """What `adam` remembers.

    Attributes
    ----------
    steps : int
        Steps taken so far.
    first, second : dict of str to ndarray
        Decaying averages of the gradients and of their squares.

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1.
    """

    steps: int
    first: dict[str, Array]
    second: dict[str, Array]


class SgdStep(NamedTuple):
    """Parameters and state after one step of `sgd`.

    Attributes
    ----------
    parameters : dict of str to ndarray
        New arrays; those without a gradient are the old ones.
    state : SgdState
        For the next step.

    References
    ----------
    Polyak, 1964, USSR Comput. Math. Math. Phys. 4(5) (heavy ball).
    """

    parameters: dict[str, Array]
    state: SgdState


class AdamStep(NamedTuple):
    """Parameters and state after one step of `adam`.

    Attributes
    ----------
    parameters : dict of str to ndarray
        New arrays; those without a gradient are the old ones.
    state : AdamState
        For the next step.

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1.
    """

    parameters: dict[str, Array]
    state: AdamState


def sgd_start(parameters: Mapping[str, Array]) -> SgdState:
    """State before the first step: zero velocity.

    Parameters
    ----------
    parameters : mapping of str to ndarray

    Returns
    -------
    SgdState

    References
    ----------
    Polyak, 1964, USSR Comput. Math. Math. Phys. 4(5).

    Examples
    --------
    >>> sgd_start({"w": np.ones(2)}).velocity["w"]
    array([0., 0.])
    """
    return SgdState(_zeros(parameters))


def sgd(
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array],
    state: SgdState,
    *,
    rate: Rate,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> SgdStep:
    r"""Parameters after one step down a decaying sum of gradients.

    .. math:: v \leftarrow m v + (g + \lambda \theta), \qquad
              \theta \leftarrow \theta - \eta v

    Parameters
    ----------
    parameters, gradients : mapping of str to ndarray
        Gradients of other names are ignored.
    state : SgdState
    rate : float or callable, str -> float
        :math:`\eta`.
    momentum : float
        m; 0 is plain gradient descent.
    weight_decay : float
        :math:`\lambda`.

    Returns
    -------
    SgdStep

    References
    ----------
    Sutskever et al., 2013, ICML, eqs. (1) and (2), with the rate outside v (PyTorch).

    Examples
    --------
    >>> p = {"w": np.array([1.0])}
    >>> sgd(p, {"w": np.array([2.0])}, sgd_start(p), rate=0.1).parameters["w"]
    array([0.8])
    """
    new, velocity = dict(parameters), dict(state.velocity)
    for name, theta, g in _pairs(parameters, gradients):
        velocity[name] = momentum * velocity[name] + (g + weight_decay * theta)
        new[name] = theta - _rate(rate, name) * velocity[name]
    return SgdStep(new, SgdState(velocity))


def adam_start(parameters: Mapping[str, Array]) -> AdamState:
    """State before the first step: zero averages.

    Parameters
    ----------
    parameters : mapping of str to ndarray

    Returns
    -------
    AdamState

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1.

    Examples
    --------
    >>> adam_start({"w": np.ones(2)}).steps
    0
    """
    return AdamState(0, _zeros(parameters), _zeros(parameters))


def adam(
    parameters: Mapping[str, Array],
    gradients: Mapping[str, Array],
    state: AdamState,
    *,
    rate: Rate,
    decay: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    weight_decay: float = 0.0,
) -> AdamStep:
    r"""Parameters after one step of about `rate` in each coordinate.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \quad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \quad
              \theta \leftarrow \theta (1 - \eta\lambda)
                  - \eta\,\frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    The step hardly depends on the size of the gradient, so scaling the gradient
    of a parameter does nothing: give it a `rate` of its own.

    Parameters
    ----------
    parameters, gradients : mapping of str to ndarray
        Gradients of other names are ignored.
    state : AdamState
    rate : float or callable, str -> float
        :math:`\eta`.
    decay : tuple of float
        :math:`\beta_1, \beta_2`.
    epsilon : float
        Keeps a parameter that has seen no gradient where it is.
    weight_decay : float
        :math:`\lambda`, decoupled from the gradient.

    Returns
    -------
    AdamStep

    References
    ----------
    Kingma and Ba, 2015, arXiv:1412.6980, algorithm 1; Loshchilov and Hutter, 2019,
    arXiv:1711.05101, algorithm 2 (weight decay).

    Examples
    --------
    >>> p = {"w": np.array([1.0])}
    >>> adam(p, {"w": np.array([50.0])}, adam_start(p), rate=0.1).parameters["w"].round(6)
    array([0.9])
    """
    b1, b2 = decay
    t = state.steps + 1
    new, first, second = dict(parameters), dict(state.first), dict(state.second)
    for name, theta, g in _pairs(parameters, gradients):
        eta = _rate(rate, name)
        first[name] = b1 * first[name] + (1 - b1) * g
        second[name] = b2 * second[name] + (1 - b2) * (g * g)
        width = np.sqrt(second[name] / (1 - b2**t)) + epsilon
        new[name] = theta * (1 - eta * weight_decay) - (eta / (1 - b1**t)) * first[name] / width
    return AdamStep(new, AdamState(t, first, second))


def constant(rate: float) -> Schedule:
    """The same rate at every step.

    Parameters
    ----------
    rate : float

    Returns
    -------
    callable, int -> float

    References
    ----------
    Robbins and Monro, 1951, Ann. Math. Statist. 22(3), for why it should fall.

    Examples
    --------
    >>> constant(0.1)(1000)
    0.1
    """
    return lambda step: float(rate)


def cosine(rate: float, steps: int) -> Schedule:
    r"""Half a cosine from `rate` at step 0 down to 0 at step `steps`, then 0.

    .. math:: \eta_t = \tfrac12 \eta \left(1 + \cos \frac{\pi t}{T}\right)

    Parameters
    ----------
    rate : float
        :math:`\eta`.
    steps : int
        T, at least 1.

    Returns
    -------
    callable, int -> float
        A Python float: a NumPy scalar would turn float32 parameters into float64.

    References
    ----------
    Loshchilov and Hutter, 2017, arXiv:1608.03983, eq. (5), without restarts.

    Examples
    --------
    >>> schedule = cosine(0.2, 10)
    >>> schedule(0), round(schedule(5), 6), schedule(10)
    (0.2, 0.1, 0.0)
    """
    require_int("steps", steps, 1)
    return lambda step: 0.5 * float(rate) * (1 + math.cos(math.pi * min(step, steps) / steps))


def warm_up(schedule: Schedule, steps: int) -> Schedule:
    """`schedule`, its first `steps` rates scaled by 1/n, 2/n, ..., 1.

    Parameters
    ----------
    schedule : callable, int -> float
    steps : int
        n, at least 1.

    Returns
    -------
    callable, int -> float

    References
    ----------
    Goyal et al., 2017, arXiv:1706.02677, section 2.2.

    Examples
    --------
    >>> [warm_up(constant(1.0), 4)(t) for t in range(6)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    require_int("steps", steps, 1)
    return lambda step: schedule(step) * min((step + 1) / steps, 1.0)


def _rate(rate: Rate, name: str) -> float:
    """The rate of one parameter, as a Python float, whatever it was computed with."""
    return float(rate(name) if callable(rate) else rate)


def _zeros(parameters: Mapping[str, Array]) -> dict[str, Array]:
    """An array of zeros for each parameter."""
    return {name: np.zeros_like(theta) for name, theta in parameters.items()}


def _pairs(
    parameters: Mapping[str, Array], gradients: Mapping[str, Array]
) -> list[tuple[str, Array, Array]]:
    """Name, parameter and gradient, of those that have one."""
    pairs = []
    for name, theta in parameters.items():
        if name in gradients:
            g = gradients[name]
            if g.shape != theta.shape or g.dtype != theta.dtype:
                raise ValueError(
                    f"gradient of {name!r} must be {theta.dtype} of shape {theta.shape}; "
                    f"got {g.dtype} of shape {g.shape}"
                )
            pairs.append((name, theta, g))
    return pairs
