r"""The cross-entropy method: sample many policies, look at the best, sample more like them.

Each slot has a distribution over the widths. Of every `population` policies the `elite` best
are counted, and the distribution moves towards their frequencies,

.. math:: p_{ik} \leftarrow (1 - \phi) \bigl(\alpha f_{ik} + (1 - \alpha) p_{ik}\bigr)
          + \phi / K

with the smoothing :math:`\alpha` and the floor :math:`\phi`, which keeps every width possible.
Slots are drawn independently, so it learns which width suits a slot and not which widths suit
each other; the elite has been cut down to the budget, so it learns that too.
"""

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_fraction, require_int
from refquant.mixed_precision.environment import Environment, within_budget
from refquant.mixed_precision.search import Agent, Memory

__all__ = ["cross_entropy", "towards_elite"]


def cross_entropy(
    environment: Environment,
    *,
    population: int = 30,
    elite: int = 6,
    smoothing: float = 0.7,
    floor: float = 0.05,
) -> Agent:
    """An agent that samples from a distribution it sharpens after each population.

    Parameters
    ----------
    environment : Environment
    population : int
        Policies between two changes of the distribution.
    elite : int
        How many of them it learns from, at most `population`.
    smoothing, floor : float
        As above, in (0, 1].

    Returns
    -------
    Agent
        Its memory has the ``probabilities``, shape (slots, choices).

    References
    ----------
    Rubinstein, 1999, Methodol. Comput. Appl. Probab. 1; de Boer et al., 2005, Ann. Oper. Res.
    134, sections 2 and 3.

    Examples
    --------
    >>> from refquant.mixed_precision.environment import make_environment
    >>> from refquant.mixed_precision.search import search
    >>> env = make_environment([2, 4, 8], lambda bits: float(bits.sum()), slots=3, budget=14)
    >>> search(cross_entropy(env), lambda bits: float(bits @ [1, 2, 9]), evaluations=90,
    ...        rng=np.random.default_rng(0)).policy
    array([2, 4, 8], dtype=int32)
    """
    require_int("population", population, 1)
    require_int("elite", elite, 1, population)
    require_fraction("smoothing", smoothing)
    require_fraction("floor", floor)
    choices, slots = environment.choices, environment.slots

    def start(rng: np.random.Generator) -> Memory:
        even = np.full((slots, len(choices)), 1 / len(choices))
        return {"probabilities": even, "policies": np.zeros((0, slots), np.int32),
                "rewards": np.zeros(0)}

    def ask(memory: Memory, rng: np.random.Generator) -> tuple[Codes, Memory]:
        # The first width whose cumulated probability exceeds a uniform draw.
        edges = memory["probabilities"].cumsum(1)[:, :-1]
        drawn = choices[(rng.random((slots, 1)) >= edges).sum(1)]
        return within_budget(drawn, environment), memory

    def tell(memory: Memory, policy: Codes, reward: float, rng: np.random.Generator) -> Memory:
        policies = np.vstack([memory["policies"], policy])
        rewards = np.append(memory["rewards"], reward)
        if len(rewards) < population:
            return {**memory, "policies": policies, "rewards": rewards}
        best = policies[np.argsort(-rewards, kind="stable")[:elite]]
        moved = towards_elite(
            memory["probabilities"], best, choices, smoothing=smoothing, floor=floor)
        return {"probabilities": moved, "policies": policies[:0], "rewards": rewards[:0]}

    name = f"cross-entropy {population} {elite} {smoothing} {floor}: {environment.words}"
    return Agent(name, start, ask, tell)


def towards_elite(
    probabilities: Array, elite: Codes, choices: Codes, *, smoothing: float, floor: float
) -> Array:
    """The distribution after one look at the elite.

    Parameters
    ----------
    probabilities : ndarray of float, shape (slots, choices)
    elite : ndarray of int32, shape (policies, slots)
    choices : ndarray of int32, shape (choices,)
    smoothing : float
        1 forgets the old distribution.
    floor : float
        Share that stays even.

    Returns
    -------
    ndarray of float, shape (slots, choices)
        Rows sum to 1; no element is below ``floor / choices``.

    References
    ----------
    de Boer et al., 2005, Ann. Oper. Res. 134, section 2 (the update, and its smoothing).

    Examples
    --------
    >>> towards_elite(np.array([[0.5, 0.5]]), np.array([[4], [4]]), np.array([2, 4]),
    ...               smoothing=0.5, floor=0.2)
    array([[0.3, 0.7]])
    """
    frequency = (elite[:, :, np.newaxis] == choices).mean(0)
    mixed = smoothing * frequency + (1 - smoothing) * probabilities
    return (1 - floor) * mixed + floor / len(choices)
