"""Calibration of a network: run a few batches, remember what passed under each name.

A tap that records and returns the value unchanged sees every activation. What it
keeps is a statistic that merges (`refquant.calibration.statistics`), so that the
data of a batch can be forgotten; `collect` keeps the data itself, for the fits
that need all of it. Either way the result is a *plan*: a quantizer for each name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np

from refquant._types import Array
from refquant.nn.network import Node, run
from refquant.quantizer import Quantizer

__all__ = ["Mergeable", "collect", "observe", "plan"]


class Mergeable(Protocol):
    """A statistic of a batch that joins with that of another batch.

    References
    ----------
    Jacob et al., 2018, arXiv:1712.05877, section 3.1 (ranges gathered over batches).
    """

    def merge(self, other: Self, /) -> Self:
        """Statistic of the data of both."""


_S = TypeVar("_S", bound=Mergeable)
_T = TypeVar("_T")


def observe(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    of: Callable[[Array], _S],
    *,
    names: Iterable[str],
) -> dict[str, _S]:
    r"""Statistic of each named value over all batches, in one pass.

    .. math:: S = \mathrm{merge}(\ldots \mathrm{merge}(\mathrm{of}(b_1), \mathrm{of}(b_2)) \ldots)

    Parameters
    ----------
    nodes : sequence of Node
        The float network.
    values : mapping of str to ndarray
        Its parameters and constants.
    batches : iterable of mapping of str to ndarray
        Inputs of each run, e.g. ``{"x": images}``; 100 to 1000 images in practice.
    of : callable, ndarray -> statistic with ``merge``
        For example ``Range.of`` or ``partial(Histogram.of, bins=2048)``.
    names : iterable of str
        What to watch, e.g. ``input_names(nodes)``.

    Returns
    -------
    dict of str to statistic
        In the order of `names`.

    Raises
    ------
    ValueError
        If there is no batch, or a name never appears in a run.

    References
    ----------
    Gholami et al., 2021, arXiv:2103.13630, section III-D (static quantization);
    Jacob et al., 2018, arXiv:1712.05877, section 3.1.

    Examples
    --------
    >>> from refquant.calibration.statistics import Range
    >>> from refquant.nn.operations import relu
    >>> net = [Node("y", relu, ("x",))]
    >>> batches = [{"x": np.array([-1.0, 2.0])}, {"x": np.array([0.5, 3.0])}]
    >>> observe(net, {}, batches, Range.of, names=["y"])
    {'y': Range(low=array([0.]), high=array([3.]))}
    """
    seen: dict[str, _S] = {}

    def remember(name: str, value: Array) -> None:
        statistic = of(value)
        seen[name] = seen[name].merge(statistic) if name in seen else statistic

    wanted = _watch(nodes, values, batches, remember, names)
    return {name: seen[name] for name in wanted}


def collect(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    *,
    names: Iterable[str],
) -> dict[str, Array]:
    """The named values themselves, all batches joined along the first axis.

    Parameters
    ----------
    nodes : sequence of Node
        The float network.
    values : mapping of str to ndarray
        Its parameters and constants.
    batches : iterable of mapping of str to ndarray
        Inputs of each run.
    names : iterable of str
        What to keep.

    Returns
    -------
    dict of str to ndarray
        In the order of `names`.

    Raises
    ------
    ValueError
        If there is no batch, or a name never appears in a run.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 4: layer inputs as the data of a
    layer-wise method.

    Examples
    --------
    >>> from refquant.nn.operations import relu
    >>> net = [Node("y", relu, ("x",))]
    >>> collect(net, {}, [{"x": np.array([-1.0])}, {"x": np.array([3.0])}], names=["y"])
    {'y': array([0., 3.])}
    """
    kept: dict[str, list[Array]] = {}
    wanted = _watch(
        nodes, values, batches, lambda name, v: kept.setdefault(name, []).append(v.copy()), names
    )
    return {name: np.concatenate(kept[name]) for name in wanted}


def plan(
    observed: Mapping[str, _T], make: Callable[[_T], Quantizer], *, names: Iterable[str] = ()
) -> dict[str, Quantizer]:
    """A quantizer for each name: what to do, before anything is done.

    Plans are dicts: ``plan(a, four_bits) | plan(a, eight_bits, names=ends)`` keeps
    the ends of a network at eight bits.

    Parameters
    ----------
    observed : mapping of str to statistic or ndarray
        From `observe` or `collect`; the parameters themselves, for weights.
    make : callable, statistic or ndarray -> Quantizer
        A fit, e.g. ``lambda r: asymmetric(r.low, r.high, bits=8)``.
    names : iterable of str
        Which of them; all if none is given.

    Returns
    -------
    dict of str to Quantizer

    Raises
    ------
    ValueError
        If a name was not observed.

    References
    ----------
    Krishnamoorthi, 2018, arXiv:1806.08342, section 3.1.

    Examples
    --------
    >>> from refquant.quantizers.uniform import symmetric
    >>> made = plan({"w": np.array([-1.0, 0.5])}, lambda w: symmetric(np.abs(w).max(), bits=2))
    >>> made["w"].encode(np.array([-1.0, 0.5, 0.8]))
    array([-1,  0,  1], dtype=int32)
    """
    wanted = list(names) or list(observed)
    missing = [name for name in wanted if name not in observed]
    if missing:
        raise ValueError(f"`names` must have been observed; got {missing[0]!r}")
    return {name: make(observed[name]) for name in wanted}


def _watch(
    nodes: Sequence[Node],
    values: Mapping[str, Array],
    batches: Iterable[Mapping[str, Array]],
    see: Callable[[str, Array], None],
    names: Iterable[str],
) -> list[str]:
    """Run all batches; `see` is shown each value of interest. Returns the names."""
    wanted = list(dict.fromkeys(names))
    known = {*values, *(node.name for node in nodes)}
    runs = 0

    def tap(name: str, value: Array) -> Array:
        if name in wanted:
            see(name, value)
        return value

    for batch in batches:
        missing = [name for name in wanted if name not in known and name not in batch]
        if missing:
            raise ValueError(f"`names` must occur in the network; got {missing[0]!r}")
        run(nodes, {**batch, **values}, tap=tap)
        runs += 1
    if runs == 0:
        raise ValueError("`batches` must hold at least one batch; got none")
    return wanted
