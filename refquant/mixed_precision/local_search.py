"""Guess, or improve the last guess: the two searches that any other has to beat.

Random search draws every width anew. Local search keeps the best policy and redraws a few of
its slots, on average two; what is not worse replaces it. Both cost nothing besides the
evaluations, and both are harder to beat than the literature on learned agents suggests.
"""

import numpy as np

from refquant._types import Codes
from refquant.mixed_precision.environment import Environment, within_budget
from refquant.mixed_precision.search import Agent, Memory

__all__ = ["local_search", "random_search"]


def random_search(environment: Environment) -> Agent:
    """Independent policies, every width equally likely, cut down to the budget.

    Parameters
    ----------
    environment : Environment

    Returns
    -------
    Agent
        Without memory.

    References
    ----------
    Bergstra and Bengio, 2012, JMLR 13.

    Examples
    --------
    >>> from refquant.mixed_precision.environment import make_environment
    >>> env = make_environment([2, 4, 8], lambda bits: float(bits.sum()), slots=3, budget=12)
    >>> random_search(env).ask({}, np.random.default_rng(0))[0]
    array([8, 2, 2], dtype=int32)
    """

    def ask(memory: Memory, rng: np.random.Generator) -> tuple[Codes, Memory]:
        bits = environment.choices[rng.integers(len(environment.choices), size=environment.slots)]
        return within_budget(bits, environment), memory

    return Agent(f"random search: {environment.words}", lambda rng: {}, ask,
                 lambda memory, policy, reward, rng: memory)


def local_search(environment: Environment) -> Agent:
    """The best policy so far, with one slot redrawn, and one more for every coin that shows heads.

    The first policy is the largest common width that fits. What is redrawn is cut down to the
    budget, and kept if its reward is not lower. Since any slots may change together, no local
    optimum holds it for ever.

    Parameters
    ----------
    environment : Environment

    Returns
    -------
    Agent

    References
    ----------
    Droste, Jansen and Wegener, 2002, Theor. Comput. Sci. 276 (the (1+1) evolutionary
    algorithm; there each slot changes independently).

    Examples
    --------
    >>> from refquant.mixed_precision.environment import make_environment
    >>> from refquant.mixed_precision.search import search
    >>> env = make_environment([2, 4, 8], lambda bits: float(bits.sum()), slots=3, budget=14)
    >>> search(local_search(env), lambda bits: float(bits @ [1, 2, 9]), evaluations=60,
    ...        rng=np.random.default_rng(0)).policy
    array([2, 4, 8], dtype=int32)
    """
    choices, slots = environment.choices, environment.slots

    def start(rng: np.random.Generator) -> Memory:
        return {"reward": np.array(np.nan), "policy": _largest_common(environment)}

    def ask(memory: Memory, rng: np.random.Generator) -> tuple[Codes, Memory]:
        if np.isnan(memory["reward"]):                   # nothing judged yet
            return memory["policy"], memory
        changes = min(int(rng.geometric(0.5)), slots)
        redrawn = rng.permutation(slots) < changes
        fresh = choices[rng.integers(len(choices), size=slots)]
        return within_budget(np.where(redrawn, fresh, memory["policy"]), environment), memory

    def tell(memory: Memory, policy: Codes, reward: float, rng: np.random.Generator) -> Memory:
        if reward < memory["reward"]:
            return memory
        return {"reward": np.array(reward), "policy": policy}

    return Agent(f"local search: {environment.words}", start, ask, tell)


def _largest_common(environment: Environment) -> Codes:
    """The policy of one width for all free slots, the largest that the budget allows."""
    for width in environment.choices[::-1]:
        bits = np.where(environment.free, width, environment.choices[-1]).astype(np.int32)
        if environment.cost(bits) <= environment.budget:
            break
    return within_budget(bits, environment)
