r"""See training as search: every weight is a choice, and the best choices can be found or bounded.

With few weights all combinations can be tried. Beyond that: change one weight at a time while it
helps (*coordinate descent*), or also accept what hurts, ever less often (*annealing*).

Rounding one layer is the textbook case. Rounding :math:`w_i` up (:math:`r_i = 1`) or down leaves
an error :math:`\Delta = s(r - f)`, with f the fractions of w / s, and the output error

.. math:: \Delta^T H \Delta = r^T Q r + c^T r + \text{const}, \qquad
          Q = s^2 H, \quad c = -2 s^2 H f, \qquad H = E[x x^T],

is a quadratic function of bits: a QUBO, what quantum annealers are built for. GPTQ and AdaRound
are heuristics for the same problem.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array
from refquant._validate import require_int, require_positive, require_same_shape

__all__ = ["Found", "Objective", "Qubo", "anneal", "descend", "exhaustive", "one_by_one",
           "rounding_qubo"]

#: A vector of choices -> what it costs.
Objective: TypeAlias = Callable[[Array], float]

#: The most combinations that `exhaustive` will try.
MOST = 2**20


class Found(NamedTuple):
    """The outcome of a search.

    Attributes
    ----------
    choice : ndarray of float, shape (n,)
        One level per variable.
    cost : float
        Of that choice.
    calls : int
        How often the objective was asked.

    References
    ----------
    Friesen and Domingos, 2018, arXiv:1710.11573 (training as combinatorial optimization).
    """

    choice: Array
    cost: float
    calls: int


@dataclass(frozen=True, eq=False)
class Qubo:
    r"""A quadratic function of bits, :math:`r^T Q r + c^T r + \text{const}`; call it to evaluate.

    Attributes
    ----------
    matrix : ndarray of float64, shape (n, n)
        Q, symmetric.
    linear : ndarray of float64, shape (n,)
        c.
    constant : float

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 3 (rounding as a QUBO).

    Examples
    --------
    >>> Qubo(np.eye(2), np.array([-1.0, 0.5]), 2.0)(np.array([1, 0]))
    2.0
    """

    matrix: Array
    linear: Array
    constant: float

    def __call__(self, bits: Array) -> float:
        """Cost of these bits."""
        return float(bits @ self.matrix @ bits + self.linear @ bits + self.constant)


def rounding_qubo(weight: Array, step: Array, hessian: Array) -> Qubo:
    r"""The output error of one neuron as a function of which weights are rounded up.

    Parameters
    ----------
    weight : ndarray of float, shape (n,)
    step : ndarray of float, shape () or (n,), > 0
        Distance of the levels at each weight.
    hessian : ndarray of float, shape (n, n)
        :math:`E[x x^T]` of the inputs, symmetric.

    Returns
    -------
    Qubo
        Of r: the rounded weight is ``step * (floor(weight / step) + r)``.

    Raises
    ------
    ValueError
        If the shapes do not fit, `step` is not positive or `hessian` is not symmetric.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 3.

    Examples
    --------
    >>> q = rounding_qubo(np.array([0.4, 0.4]), np.array(1.0), np.ones((2, 2)))
    >>> [round(q(np.array(r)), 2) for r in ([0, 0], [1, 0], [1, 1])]    # nearest is not best
    [0.64, 0.04, 1.44]
    """
    require_same_shape("hessian", hessian, (weight.size, weight.size))
    require_positive("step", step)
    if not np.allclose(hessian, hessian.T):
        raise ValueError("`hessian` must be symmetric")
    steps = np.broadcast_to(np.asarray(step, np.float64), weight.shape)
    fraction = weight / steps - np.floor(weight / steps)
    matrix = np.outer(steps, steps) * hessian
    return Qubo(matrix, -2 * matrix @ fraction, float(fraction @ matrix @ fraction))


def exhaustive(cost: Objective, n: int, *, levels: Array) -> Found:
    """The best of all choices, by trying every one.

    Parameters
    ----------
    cost : callable, ndarray of shape (n,) -> float
    n : int
        Number of variables.
    levels : ndarray of float, shape (m,)
        What a variable may be.

    Returns
    -------
    Found
        The first of equals, in lexicographic order of `levels`.

    Raises
    ------
    ValueError
        If there are more than 2**20 choices.

    References
    ----------
    Nagel et al., 2020, arXiv:2004.10568, section 3 (why this ends at small n).

    Examples
    --------
    >>> exhaustive(lambda r: abs(r.sum() - 1), 3, levels=np.array([-1.0, 1.0]))
    Found(choice=array([-1.,  1.,  1.]), cost=0.0, calls=8)
    """
    if len(levels) ** require_int("n", n, 1) > MOST:
        raise ValueError(f"`n` must leave at most 2**20 choices; got {len(levels)}**{n}")
    best = min(map(np.array, itertools.product(levels, repeat=n)), key=cost)
    return Found(best, float(cost(best)), len(levels) ** n)


def descend(cost: Objective, start: Array, *, levels: Array) -> Found:
    """A choice that no change of a single variable improves, reached from `start`.

    Visits the variables in turn and gives each its best level, the others held, until a whole
    round changes nothing. Never worse than the start; often not the best of all.

    Parameters
    ----------
    cost : callable, ndarray of shape (n,) -> float
    start : ndarray of float, shape (n,)
    levels : ndarray of float, shape (m,)

    Returns
    -------
    Found

    References
    ----------
    Besag, 1986, J. R. Statist. Soc. B 48 (iterated conditional modes).

    Examples
    --------
    >>> q = rounding_qubo(np.array([0.4, 0.4]), np.array(1.0), np.ones((2, 2)))
    >>> descend(q, np.zeros(2), levels=np.array([0.0, 1.0])).choice
    array([1., 0.])
    """
    work, best, calls, quiet = start.astype(np.float64), cost(start), 1, 0
    for i in itertools.cycle(range(len(work))):
        held = work[i]
        for level in levels[levels != held]:
            trial = work.copy()
            trial[i] = level
            price, calls = cost(trial), calls + 1
            if price < best:                    # strictly, or equal choices would go round
                best, work = price, trial
        quiet = quiet + 1 if work[i] == held else 1
        if quiet >= len(work):
            return Found(work, best, calls)
    return Found(work, best, calls)             # no variables


def anneal(
    cost: Objective, start: Array, *, levels: Array, steps: int, hot: float, cold: float,
    rng: np.random.Generator,
) -> Found:
    r"""The best choice seen on a random walk that cools down, then improved by `descend`.

    A step changes one variable; a change that costs :math:`\delta` more is accepted with
    probability :math:`e^{-\delta / T}`, and T falls geometrically from `hot` to `cold`.

    Parameters
    ----------
    cost : callable, ndarray of shape (n,) -> float
    start : ndarray of float, shape (n,)
    levels : ndarray of float, shape (m,)
    steps : int
    hot, cold : float
        First and last temperature, in units of the cost.
    rng : numpy.random.Generator
        Three draws per step: variable, level, acceptance.

    Returns
    -------
    Found
        Never worse than `start`.

    References
    ----------
    Kirkpatrick, Gelatt and Vecchi, 1983, Science 220.

    Examples
    --------
    >>> q = rounding_qubo(np.array([0.4, 0.4]), np.array(1.0), np.ones((2, 2)))
    >>> rng, bits = np.random.default_rng(0), np.array([0.0, 1.0])
    >>> round(anneal(q, np.ones(2), levels=bits, steps=20, hot=1., cold=.1, rng=rng).cost, 2)
    0.04
    """
    require_positive("hot", np.array(hot))
    require_positive("cold", np.array(cold))
    work, now = start.astype(np.float64), cost(start)
    best, lowest = work, now
    for step in range(require_int("steps", steps, 1)):
        temperature = hot * (cold / hot) ** (step / max(steps - 1, 1))
        trial = work.copy()
        trial[rng.integers(len(work))] = levels[rng.integers(len(levels))]
        price = cost(trial)
        if rng.random() < np.exp(min(0.0, (now - price) / temperature)):
            work, now = trial, price
        if now < lowest:
            best, lowest = work, now
    found = descend(cost, best, levels=levels)
    return found._replace(calls=found.calls + steps + 1)


def one_by_one(qubo: Qubo) -> Found:
    """Round the variables in order, each to the bit nearest to the best real number for it.

    "Best" supposes that the later variables may still be any real numbers and will repair what
    they can: a Schur complement, which is a row of a Cholesky factor. This is GPTQ without its
    grid. Usually better than nearest rounding, and not always.

    Parameters
    ----------
    qubo : Qubo
        With a positive definite matrix.

    Returns
    -------
    Found

    Raises
    ------
    LinAlgError
        If the matrix is not positive definite.

    References
    ----------
    Frantar et al., 2023, arXiv:2210.17323, section 3.3; Babai, 1986, Combinatorica 6 (the
    nearest-plane algorithm, which it is).

    Examples
    --------
    >>> q = rounding_qubo(np.array([0.45, 0.4]), np.array(1.0), np.ones((2, 2)) + np.eye(2) / 9)
    >>> one_by_one(q).choice                                    # 0.45 down; 0.4 then goes up
    array([0., 1.])
    """
    wanted = np.linalg.solve(qubo.matrix, -qubo.linear / 2)     # the fractions
    # Q = U U^T, U upper: the error is a sum of squares, entry i of which sees only j <= i.
    upper = np.linalg.cholesky(qubo.matrix[::-1, ::-1])[::-1, ::-1]
    bits = np.zeros(len(wanted))
    for i in range(len(bits)):
        pushed = upper[:i, i] @ (bits[:i] - wanted[:i]) / upper[i, i]
        bits[i] = wanted[i] - pushed >= 0.5
    return Found(bits, qubo(bits), 1)
