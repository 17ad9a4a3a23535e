"""Search by asking: a policy is proposed, judged, remembered, until the evaluations are spent.

Whatever their ideas, the searches that see a network only from outside have one form. An
*agent* keeps a memory (named arrays) and answers two calls::

    policy, memory = agent.ask(memory, rng)
    memory = agent.tell(memory, policy, reward, rng)

All the rest is the same for all of them, and is here: counting, remembering the best, not
judging a policy twice, progress, and a checkpoint, from which a killed search goes on as if
nothing had happened. That is possible because a memory is only arrays, and the state of the
generator is part of the record.
"""

import json
import math
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from refquant._types import Array, Codes
from refquant._validate import require_int, require_stored, short
from refquant._whole import whole

__all__ = ["Agent", "Evaluate", "Found", "Progress", "search", "silent"]

#: What an agent knows: arrays by name. Nothing else, so that it can be written to a file.
Memory: TypeAlias = dict[str, Array]

#: The reward of a policy: the larger the better.
Evaluate: TypeAlias = Callable[[Codes], float]

#: Evaluations done, evaluations in all, best reward so far.
Progress: TypeAlias = Callable[[int, int, float], None]


class Agent(NamedTuple):
    """A way to search.

    Attributes
    ----------
    name : str
        With the settings that matter: a checkpoint goes on only with an agent of its name.
    start : callable, Generator -> Memory
    ask : callable, (Memory, Generator) -> (policy, Memory)
        The policy satisfies the budget.
    tell : callable, (Memory, policy, reward, Generator) -> Memory
        Neither changes the memory it is given.

    References
    ----------
    Collette et al., 2010, "On object-oriented programming of optimizers" (ask and tell).
    """

    name: str
    start: Callable[[np.random.Generator], Memory]
    ask: Callable[[Memory, np.random.Generator], tuple[Codes, Memory]]
    tell: Callable[[Memory, Codes, float, np.random.Generator], Memory]


class Found(NamedTuple):
    """What a search found.

    Attributes
    ----------
    policy : ndarray of int32, shape (slots,)
        The first one with the best reward.
    reward : float
    policies : ndarray of int32, shape (evaluations, slots)
        All that were asked about.
    rewards : ndarray of float64, shape (evaluations,)
    distinct : int
        How many of them differ: only those were judged.
    memory : dict of str to ndarray
        Of the agent, at the end.

    References
    ----------
    Bergstra and Bengio, 2012, JMLR 13, section 1 (best of a sequence of trials).
    """

    policy: Codes
    reward: float
    policies: Codes
    rewards: Array
    distinct: int
    memory: Memory

    def best_so_far(self) -> Array:
        """Best reward after each evaluation, shape (evaluations,)."""
        return np.maximum.accumulate(self.rewards)


def silent(done: int, total: int, best: float) -> None:
    """Progress that nobody wants to hear of.

    Parameters
    ----------
    done, total : int
        Evaluations.
    best : float
        Best reward so far.

    References
    ----------
    None: it does nothing.

    Examples
    --------
    >>> silent(1, 300, -0.5)
    """


def search(
    agent: Agent,
    evaluate: Evaluate,
    *,
    evaluations: int,
    rng: np.random.Generator,
    first: Sequence[Codes] = (),
    checkpoint: Path | None = None,
    every: int = 1,
    progress: Progress = silent,
) -> Found:
    """The best policy that an agent finds within a number of evaluations.

    Parameters
    ----------
    agent : Agent
    evaluate : callable, ndarray of int32 -> float
        The same for the same policy. Called once per distinct policy, and again for those
        of a checkpoint only if they come up again.
    evaluations : int
        At least 1. A repeated policy counts as one.
    rng : numpy.random.Generator
        All chance of the search. Its state is what a checkpoint goes back to.
    first : sequence of ndarray of int32
        Policies judged before the agent is asked, such as equal bits for all: what is found
        is at least as good. They count as evaluations; the agent does not hear of them.
    checkpoint : Path, optional
        A file to write the state to, whole or not at all, and to go on from if it is there.
        The result is that of a search that was never interrupted.
    every : int
        Evaluations between two writings.
    progress : callable, (done, total, best) -> None
        Called after each evaluation.

    Returns
    -------
    Found

    Raises
    ------
    ValueError
        If a reward is NaN, or `checkpoint` is a file of another search, or of one that is beyond
        `evaluations` already.

    References
    ----------
    Bergstra and Bengio, 2012, JMLR 13: searches are compared at equal numbers of trials.

    Examples
    --------
    >>> guess = Agent("guess", lambda rng: {},
    ...               lambda memory, rng: (rng.integers(2, 9, 3), memory),
    ...               lambda memory, policy, reward, rng: memory)
    >>> target = np.array([2, 4, 8])
    >>> found = search(guess, lambda bits: -float(abs(bits - target).sum()), evaluations=500,
    ...                rng=np.random.default_rng(0))
    >>> found.policy, found.reward
    (array([2, 4, 8]), -0.0)
    """
    require_int("evaluations", evaluations, 1)
    require_int("every", every, 1)
    begun = json.dumps(rng.bit_generator.state, sort_keys=True, default=_plain)
    if checkpoint is not None and checkpoint.exists():
        memory, policies, rewards = _load(checkpoint, agent.name, begun, rng, evaluations)
    else:
        memory, policies, rewards = agent.start(rng), [], []
    known = {policy.tobytes(): reward for policy, reward in zip(policies, rewards, strict=True)}
    while len(rewards) < evaluations:
        given = len(rewards) < len(first)
        policy, memory = (first[len(rewards)], memory) if given else agent.ask(memory, rng)
        key = policy.tobytes()
        if key not in known:
            known[key] = float(evaluate(policy.copy()))
        reward = known[key]
        if math.isnan(reward):
            raise ValueError(f"`evaluate` must give a number; got {reward} for {policy.tolist()}")
        if not given:
            memory = agent.tell(memory, policy, reward, rng)
        policies.append(policy)
        rewards.append(reward)
        done = len(rewards)
        if checkpoint is not None and (done % every == 0 or done == evaluations):
            _save(checkpoint, agent.name, begun, rng, memory, policies, rewards)
        progress(done, evaluations, max(rewards))
    best = int(np.argmax(rewards))
    return Found(policies[best], rewards[best], np.array(policies), np.array(rewards),
                 len({policy.tobytes() for policy in policies}), memory)


def _save(
    path: Path, name: str, first: str, rng: np.random.Generator, memory: Memory,
    policies: list[Codes], rewards: list[float],
) -> None:
    """The state in a file, whole or not at all: a rename within one folder cannot stop halfway."""
    now = json.dumps(rng.bit_generator.state, sort_keys=True, default=_plain)
    arrays: dict[str, Any] = {f"memory.{key}": value for key, value in memory.items()}
    with whole(path) as file:
        np.savez(file, about=np.array([name, first, now]), policies=np.array(policies),
                 rewards=np.array(rewards), **arrays)


def _load(
    path: Path, name: str, first: str, rng: np.random.Generator, evaluations: int
) -> tuple[Memory, list[Codes], list[float]]:
    """The state of a file; `rng` goes where it was."""
    try:
        with zipfile.ZipFile(path) as archive:
            require_stored(archive, path.stat().st_size)
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = dict(file)
        its_name, its_first, now = arrays.pop("about").tolist()
        policies, rewards = list(arrays.pop("policies")), arrays.pop("rewards").tolist()
    except Exception as err:                    # zipfile, numpy: each has its own
        raise ValueError(f"`checkpoint` must be the state of a search; {path}: "
                         f"{short(err)}") from None
    if its_name != name:
        raise ValueError(f"`checkpoint` must be of {name!r}; {path} is of {its_name!r}")
    if its_first != first:
        raise ValueError(f"`rng` must be the one that the search of {path} began with")
    if len(rewards) > evaluations:              # where it was earlier is forgotten
        raise ValueError(f"`evaluations` must be at least the {len(rewards)} of {path}; "
                         f"got {evaluations}")
    try:
        rng.bit_generator.state = json.loads(now, object_hook=_arrays)
    except (ValueError, TypeError, KeyError, RecursionError) as err:
        raise ValueError(f"`checkpoint` must hold the state of a generator; {path}: "
                         f"{short(err)}") from None
    return {k.removeprefix("memory."): v for k, v in arrays.items()}, policies, rewards


def _plain(value: Any) -> dict[str, Any]:
    """An array of the state of a generator (Philox, SFC64, MT19937), as JSON can hold it."""
    return {"dtype": str(value.dtype), "values": value.tolist()}


def _arrays(pairs: dict[str, Any]) -> Any:
    if set(pairs) == {"dtype", "values"}:
        return np.array(pairs["values"], pairs["dtype"])
    return pairs
