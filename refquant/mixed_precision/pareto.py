r"""Every allocation worth having: the Pareto frontier of loss and cost, exactly.

An allocation is *dominated* if another costs no more and loses less. What is left is a staircase,
from the cheapest allocation to the best. Losses add over layers and so do costs, so the staircase
of i layers comes from that of i - 1:

===================  =============================================  ===================
function             what it keeps                                  answers
===================  =============================================  ===================
`frontier`           the staircase itself, merged and pruned        every limit
`dynamic_program`    the least loss for each whole cost             one limit
`lower_hull`         the corners that some price of a bit reaches   limits at a corner
===================  =============================================  ===================
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refquant._types import Array, Codes
from refquant._validate import require_same_shape
from refquant.mixed_precision._tables import (
    as_cost,
    as_loss,
    groups,
    largest_within,
    merged,
    require_limit,
    spread,
    total,
)

__all__ = ["Frontier", "dynamic_program", "frontier", "lower_hull"]

#: Cells of the table of `dynamic_program`; each takes one byte, and eight while it is the last row.
_MOST_CELLS = 2**28


class Frontier(NamedTuple):
    """The allocations that no other beats, from the cheapest to the best.

    Attributes
    ----------
    cost : ndarray, shape (points,)
        Strictly rising.
    loss : ndarray of float64, shape (points,)
        Strictly falling.
    choice : ndarray of int32, shape (points, layers)

    References
    ----------
    Dong et al., 2020, arXiv:1911.03852 (HAWQ-V2), "Pareto frontier".
    """

    cost: Array
    loss: Array
    choice: Codes

    def at(self, limit: float) -> Codes:
        """Choice of least loss whose cost meets a limit.

        Parameters
        ----------
        limit : float

        Returns
        -------
        ndarray of int32, shape (layers,)

        Raises
        ------
        ValueError
            If not even the cheapest does.
        """
        require_limit("limit", limit)
        fits = int(np.searchsorted(self.cost, largest_within(limit, self.cost), side="right"))
        if not fits:
            raise _out_of_reach(limit, self.cost[0])
        return self.choice[fits - 1]


def frontier(
    loss: npt.ArrayLike, cost: npt.ArrayLike, *, ties: Sequence[Sequence[int]] = ()
) -> Frontier:
    """All Pareto-optimal allocations, by merging layer after layer and dropping what is dominated.

    Parameters
    ----------
    loss : ndarray, shape (layers, choices)
    cost : ndarray, shape (layers, choices)
        At least 0; whole or real.
    ties : sequence of sequences of int
        Layers that must take the same choice.

    Returns
    -------
    Frontier
        Of allocations with equal cost and loss, one.

    Notes
    -----
    Exact: a partial allocation that is dominated stays so whatever is added. The number of points
    is at most that of different costs; with costs that have no common measure it can grow as
    choices to the power of layers.

    References
    ----------
    Nemhauser and Ullmann, 1969, Management Science 15, pp. 494-505.

    Examples
    --------
    >>> found = frontier([[9.0, 1.0], [2.0, 1.5]], [[2, 4], [20, 40]])
    >>> found.cost, found.loss
    (array([22, 24, 44]), array([11. ,  3. ,  2.5]))
    >>> found.at(30)
    array([1, 0], dtype=int32)
    """
    loss, cost, group_list = _tables(loss, cost, ties)
    costs, losses = np.zeros(1, cost.dtype), np.zeros(1)
    choice = np.zeros((1, 0), np.int32)
    choices = loss.shape[1]
    for row_loss, row_cost in zip(merged(loss, group_list), merged(cost, group_list), strict=True):
        all_costs = (costs[:, None] + row_cost).ravel()
        all_losses = (losses[:, None] + row_loss).ravel()
        order = np.lexsort((all_losses, all_costs))
        best_before = np.minimum.accumulate(np.r_[np.inf, all_losses[order][:-1]])
        kept = order[all_losses[order] < best_before]
        costs, losses = all_costs[kept], all_losses[kept]
        choice = np.c_[choice[kept // choices], kept % choices].astype(np.int32)
    each = np.stack([spread(row, group_list, len(loss)) for row in choice])
    return Frontier(costs, losses, each)


def dynamic_program(
    loss: npt.ArrayLike, cost: npt.ArrayLike, limit: float, *, ties: Sequence[Sequence[int]] = ()
) -> Codes:
    r"""The choices of least total loss within one budget, exactly.

    .. math:: best_i(w) = \min_k \; best_{i-1}(w - c_{ik}) + \Omega_{ik}

    Parameters
    ----------
    loss : ndarray, shape (layers, choices)
    cost : ndarray of int, shape (layers, choices)
        At least 0. Divided by their greatest common divisor, so count in large units.
    limit : float
    ties : sequence of sequences of int
        Layers that must take the same choice.

    Returns
    -------
    ndarray of int32, shape (layers,)

    Raises
    ------
    TypeError
        If the costs are not whole.
    ValueError
        If no allocation meets the limit (the message says what the least is), or the table would
        not fit in memory.

    References
    ----------
    Kellerer, Pferschy and Pisinger, 2004, "Knapsack Problems", chapter 11 (multiple choice).

    Examples
    --------
    >>> dynamic_program([[9.0, 1.0], [2.0, 1.5]], [[2, 4], [20, 40]], 30)
    array([1, 0], dtype=int32)
    """
    loss, cost, group_list = _tables(loss, cost, ties)
    if cost.dtype.kind != "i":
        raise TypeError(f"`cost` must be whole numbers; got {cost.dtype}: use `frontier`")
    require_limit("limit", limit)
    losses, costs = merged(loss, group_list), merged(cost, group_list)
    least = total(costs, costs.argmin(1))
    if least > limit:
        raise _out_of_reach(limit, least)
    unit = max(math.gcd(*(int(c) for c in costs.ravel())), 1)
    costs //= unit
    width = math.floor(min(limit / unit, int(costs.max(1).sum()))) + 1
    if width * len(costs) > _MOST_CELLS:
        raise ValueError(f"`cost` must be counted in units of at most {_MOST_CELLS} cells in all; "
                         f"got {len(costs)} layers by {width} units: use `frontier`")
    best, taken = np.zeros(width), np.empty((len(costs), width), np.int32)
    for i, (row_loss, row_cost) in enumerate(zip(losses, costs, strict=True)):
        options = np.full((len(row_loss), width), np.inf)
        for option, extra, step in zip(options, row_loss, row_cost, strict=True):
            if step < width:
                option[step:] = best[: width - step] + extra
        taken[i] = options.argmin(0)
        best = options.min(0)
    at, choice = width - 1, np.empty(len(costs), np.int32)
    for i in reversed(range(len(costs))):
        choice[i] = taken[i, at]
        at -= int(costs[i, choice[i]])
    return spread(choice, group_list, len(loss))


def lower_hull(cost: Array, loss: Array) -> Array:
    """The corners of a staircase that lie on its convex hull: those some price makes optimal.

    Parameters
    ----------
    cost : ndarray, shape (points,)
        Strictly rising, as in `Frontier`.
    loss : ndarray of float, shape (points,)
        Strictly falling.

    Returns
    -------
    ndarray of int64
        Which points, in order. The first and the last are always there.

    Raises
    ------
    ValueError
        If the shapes differ.

    References
    ----------
    Shoham and Gersho, 1988, IEEE Transactions on Acoustics, Speech and Signal Processing 36,
    pp. 1445-1453, section III: what Lagrangian allocation can reach.

    Examples
    --------
    >>> lower_hull(np.array([0, 1, 2, 3]), np.array([9.0, 8.0, 3.0, 2.0]))
    array([0, 2, 3])
    """
    require_same_shape("loss", loss, np.shape(cost))
    hull: list[int] = []
    for i in range(len(cost)):
        while len(hull) > 1 and _above(cost, loss, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return np.array(hull, np.int64)


def _above(cost: Array, loss: Array, a: int, b: int, c: int) -> bool:
    """Whether point b lies on or above the line from a to c."""
    run, rise = float(cost[c] - cost[a]), float(loss[c] - loss[a])
    return float(loss[b] - loss[a]) * run >= rise * float(cost[b] - cost[a])


def _tables(
    loss: npt.ArrayLike, cost: npt.ArrayLike, ties: Sequence[Sequence[int]]
) -> tuple[Array, Array, list[list[int]]]:
    checked = as_loss("loss", loss)
    return checked, as_cost("cost", cost, checked.shape), groups(len(checked), ties)


def _out_of_reach(limit: float, least: float) -> ValueError:
    return ValueError(
        f"`limit` must be within reach; got {limit}, but the least possible is {least}")
