r"""HAWQ-V3: the allocation of least loss under several budgets at once, by integer programming.

One variable for each layer and choice, 1 if the layer takes it:

.. math:: \min_x \sum_{ik} \Omega_{ik} x_{ik}, \qquad \sum_k x_{ik} = 1, \qquad
          \sum_{ik} C^{(b)}_{ik} x_{ik} \le B^{(b)} \text{ for each budget } b,
          \qquad x_{ik} \in \{0, 1\}.

What a budget counts (bits, milliseconds, bit operations) is of no concern to the program. Layers
that must share a choice, such as the branches of a residual sum, are tied by
:math:`x_{ik} = x_{jk}`.
"""

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp

from refquant._types import Array, Codes
from refquant.mixed_precision._tables import (
    as_cost,
    as_loss,
    groups,
    merged,
    require_limit,
    total,
    within,
)

__all__ = ["Allocation", "Budget", "allocate"]


class Budget(NamedTuple):
    """What may be spent of one thing.

    Attributes
    ----------
    name : str
        Of the thing, for messages: ``size``.
    cost : ndarray, shape (layers, choices)
        What each choice costs, at least 0. Whole numbers are added exactly.
    limit : float
        The most that may be spent in all.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680 (HAWQ-V3), "mixed precision and integer linear programming".
    """

    name: str
    cost: npt.ArrayLike
    limit: float


class Allocation(NamedTuple):
    """A choice for each layer, and what comes of it.

    Attributes
    ----------
    choice : ndarray of int32, shape (layers,)
        Columns of the tables.
    loss : float
        The sum of the chosen sensitivities.
    costs : dict of str to float
        What is spent of each budget, by its name.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680 (HAWQ-V3).
    """

    choice: Codes
    loss: float
    costs: dict[str, float]


def allocate(
    loss: npt.ArrayLike, budgets: Sequence[Budget], *, ties: Sequence[Sequence[int]] = ()
) -> Allocation:
    """The choices of least total loss that meet every budget.

    Parameters
    ----------
    loss : ndarray, shape (layers, choices)
        Sensitivity of each layer in each choice.
    budgets : sequence of Budget
        With different names.
    ties : sequence of sequences of int
        Layers that must take the same choice.

    Returns
    -------
    Allocation
        Of least loss, to within a millionth (the solver's tolerance) of what it loses over the best
        choice of each layer. The budgets are met exactly: an answer that passes one by the solver's
        tolerance is ruled out.

    Raises
    ------
    ValueError
        If the tables do not fit each other, or no allocation meets the budgets: the message names
        the one that cannot be met, and the least that is possible.

    Notes
    -----
    The objective is divided by its largest entry: sensitivities of 1e-9 would drown in the
    solver's tolerances. What the solver prints on its own account is thrown away, and with it
    whatever other threads write to standard output meanwhile.

    References
    ----------
    Yao et al., 2021, arXiv:2011.10680 (HAWQ-V3), "mixed precision and integer linear
    programming".

    Examples
    --------
    >>> loss = np.array([[9.0, 1.0, 0.0], [2.0, 1.5, 0.0]])       # in 2, 4 and 8 bits
    >>> size = np.array([[20, 40, 80], [200, 400, 800]])
    >>> allocate(loss, [Budget("size", size, 300)])
    Allocation(choice=array([2, 0], dtype=int32), loss=2.0, costs={'size': 280})
    >>> allocate(loss, [Budget("size", size, 200)])
    Traceback (most recent call last):
    ValueError: `budgets` must be within reach; got size 200, but the least possible is 220
    """
    loss = as_loss("loss", loss)
    names = [name for name, _, _ in budgets]
    if len(set(names)) < len(names):
        raise ValueError(f"`budgets` must have different names; got {names}")
    checked = []
    for name, cost, limit in budgets:
        require_limit(f"limit of {name}", limit)
        checked.append(Budget(name, as_cost(name, cost, loss.shape), limit))
    group_list = groups(len(loss), ties)
    choice = _solve(loss, checked, group_list)
    if choice is None:
        raise ValueError(_out_of_reach(checked, group_list))
    return Allocation(choice, total(loss, choice), _spent(checked, choice))


def _solve(
    loss: Array, budgets: Sequence[Budget], group_list: Sequence[Sequence[int]]
) -> Codes | None:
    """The best choice, or None if the budgets cannot be met.

    Solved twice: the solver stops within a millionth of its unit. The first answer tells what
    there is to lose at most; in that unit, and without what loses more, the second is exact.
    """
    more = loss - loss.min(1, keepdims=True)
    first = _solve_in_units(more, float(more.max()), budgets, group_list)
    if first is None or total(more, first) == 0:
        return first
    second = _solve_in_units(more, total(more, first), budgets, group_list)
    return first if second is None or total(more, first) <= total(more, second) else second


def _solve_in_units(
    loss: Array, unit: float, budgets: Sequence[Budget], group_list: Sequence[Sequence[int]]
) -> Codes | None:
    """The best choice of which no part loses more than a unit, or None."""
    layers, choices = loss.shape
    one_each = np.kron(np.eye(layers), np.ones(choices))
    constraints = [LinearConstraint(one_each, 1, 1)]
    for _, cost, limit in budgets:
        scale = max(float(np.max(cost)), 1e-300)
        constraints.append(LinearConstraint(np.ravel(cost)[None] / scale, -np.inf, limit / scale))
    tied = [(group[0], other) for group in group_list for other in group[1:]]
    if tied:
        rows = np.zeros((len(tied), layers))
        for row, (i, j) in zip(rows, tied, strict=True):
            row[i], row[j] = 1, -1
        constraints.append(LinearConstraint(np.kron(rows, np.eye(choices)), 0, 0))
    objective = np.minimum(loss.ravel() / max(unit, 1e-300), 1)
    allowed = Bounds(0, (loss.ravel() <= unit * (1 + 1e-9)).astype(np.float64))
    while True:
        with _hushed():
            found = milp(objective, constraints=constraints, bounds=allowed,
                         integrality=np.ones(objective.size, int), options={"mip_rel_gap": 0})
        if found.x is None:
            return None
        choice = found.x.reshape(loss.shape).argmax(1).astype(np.int32)
        spent = _spent(budgets, choice)
        if all(within(spent[budget.name], budget.limit) for budget in budgets):
            return choice
        # Within the solver's tolerance and yet too dear: anything but this one.
        this = np.zeros(loss.shape)
        this[np.arange(layers), choice] = 1
        constraints.append(LinearConstraint(this.ravel()[None], -np.inf, layers - 1))


@contextmanager
def _hushed() -> Iterator[None]:
    """Standard output of C into nothing: in one solve of a hundred HiGHS leaves a line there."""
    try:
        kept = os.dup(1)
    except OSError:                             # closed: nothing to be heard
        yield
        return
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        if os.name == "posix":                  # what C still holds back must go the same way
            ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def _spent(budgets: Sequence[Budget], choice: Codes) -> dict[str, float]:
    return {budget.name: total(np.asarray(budget.cost), choice) for budget in budgets}


def _out_of_reach(budgets: Sequence[Budget], group_list: Sequence[Sequence[int]]) -> str:
    """Which budget cannot be met, and what the least is: alone, or once those before it are met."""
    alone = [(b, total(least, least.argmin(1)))
             for b in budgets for least in [merged(np.asarray(b.cost), group_list)]]
    missed = [f"{b.name} {b.limit}, but the least possible is {least}"
              for b, least in alone if not within(least, b.limit)]
    if missed:
        return f"`budgets` must be within reach; got {'; and '.join(missed)}"
    for n, b in enumerate(budgets):
        cost = np.asarray(b.cost)
        choice = _solve(cost.astype(np.float64), budgets[:n], group_list)
        if choice is not None and not within(total(cost, choice), b.limit):
            met = " and ".join(f"{a.name} {a.limit}" for a in budgets[:n])
            return (f"`budgets` must be within reach together; got {b.name} {b.limit}, but with "
                    f"{met} the least possible is {total(cost, choice)}")
    raise AssertionError("each budget can be met, and so can all of them")
