r"""Say what limits a layer, arithmetic or memory, and so whether fewer bits help it.

A machine does P operations a second and moves W bytes a second. A layer that does I
operations for each byte it moves cannot go faster than

.. math:: \min(P, W I),

two straight lines in a log-log plot: the roof. They meet at the ridge
:math:`I^* = P / W`. Left of it a layer waits for memory, and packing its weights
tighter moves it to the right; right of it only faster arithmetic helps, and there
narrow codes help only if the machine multiplies them faster.
"""

from typing import NamedTuple

from refquant._validate import require_number

__all__ = ["Machine", "attainable", "layer_time", "ridge"]


class Machine(NamedTuple):
    """The two numbers of a roofline, in one arithmetic.

    Attributes
    ----------
    peak : float
        Operations a second; a multiplication with its addition counts as two.
    bandwidth : float
        Bytes a second.

    References
    ----------
    Williams et al., 2009, doi:10.1145/1498765.1498785.
    """

    peak: float
    bandwidth: float


def ridge(machine: Machine) -> float:
    """Operations per byte from which on arithmetic is the limit.

    Parameters
    ----------
    machine : Machine

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If a number of the machine is not positive.

    References
    ----------
    Williams et al., 2009, doi:10.1145/1498765.1498785.

    Examples
    --------
    >>> ridge(Machine(peak=130e12, bandwidth=320e9))
    406.25
    """
    peak, bandwidth = _checked(machine)
    return peak / bandwidth


def attainable(intensity: float, machine: Machine) -> float:
    r"""Operations a second at most: :math:`\min(P, W I)`.

    Parameters
    ----------
    intensity : float
        Operations per byte moved, at least 0.
    machine : Machine

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `intensity` is negative, or a number of the machine not positive.

    References
    ----------
    Williams et al., 2009, doi:10.1145/1498765.1498785.

    Examples
    --------
    >>> attainable(2.0, Machine(peak=100.0, bandwidth=10.0))
    20.0
    """
    peak, bandwidth = _checked(machine)
    return min(peak, bandwidth * _at_least_zero("intensity", intensity))


def layer_time(macs: float, moved: float, machine: Machine) -> float:
    r"""Seconds at least: :math:`\max(2 m / P, \text{bytes} / W)`.

    Parameters
    ----------
    macs : float
        Multiplications with their additions.
    moved : float
        Bytes read and written, as of `cost_model.memory_traffic`.
    machine : Machine

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If `macs` or `moved` is negative, or a number of the machine not positive.

    References
    ----------
    Williams et al., 2009, doi:10.1145/1498765.1498785.

    Examples
    --------
    >>> layer_time(macs=50, moved=400, machine=Machine(peak=100.0, bandwidth=10.0))
    40.0
    """
    peak, bandwidth = _checked(machine)
    return max(2 * _at_least_zero("macs", macs) / peak, _at_least_zero("moved", moved) / bandwidth)


def _checked(machine: Machine) -> Machine:
    for name, value in machine._asdict().items():
        require_number(name, value)
        if not 0 < value < float("inf"):
            raise ValueError(f"`{name}` must be positive and finite; got {value}")
    return machine


def _at_least_zero(name: str, value: float) -> float:
    require_number(name, value)
    if not value >= 0:
        raise ValueError(f"`{name}` must be at least 0; got {value}")
    return float(value)
