"""Random and local search: within the budget, and at the optimum of small problems."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_precision._problems import best_by_enumeration, problem

from refquant.mixed_precision.environment import make_environment
from refquant.mixed_precision.local_search import local_search, random_search
from refquant.mixed_precision.search import search


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_every_policy_satisfies_the_budget(seed):
    env, reward = problem(seed)
    for make in (random_search, local_search):
        found = search(make(env), reward, evaluations=60, rng=np.random.default_rng(seed))
        assert all(env.cost(bits) <= env.budget for bits in found.policies)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_local_search_reaches_the_best_of_small_separable_problems(seed):
    env, reward = problem(seed)
    found = search(local_search(env), reward, evaluations=1000, rng=np.random.default_rng(seed))
    assert found.reward == best_by_enumeration(env, reward)


def test_local_search_never_keeps_a_worse_policy_and_begins_with_the_largest_common_width():
    env, reward = problem(0)
    agent, rng = local_search(env), np.random.default_rng(0)
    memory, kept = agent.start(rng), []
    for i in range(50):
        policy, memory = agent.ask(memory, rng)
        if i == 0:
            first = policy
        memory = agent.tell(memory, policy, reward(policy), rng)
        kept.append(float(memory["reward"]))
    assert (np.diff(kept) >= 0).all()
    assert len(set(first.tolist())) == 1
    wider = [c for c in env.choices if c > first[0]]
    assert all(env.cost(np.full(4, c)) > env.budget for c in wider)


def test_fixed_slots_keep_the_largest_width():
    env = make_environment([2, 4, 8], lambda b: float(b.sum()), slots=4, budget=24, fixed=[0, 3])
    for make in (random_search, local_search):
        found = search(make(env), lambda b: float(b[1]), evaluations=30,
                       rng=np.random.default_rng(0))
        assert (found.policies[:, [0, 3]] == 8).all()


def test_a_first_policy_without_any_worth_is_left():
    env = make_environment([2, 4, 8], lambda b: float(b.sum()), slots=4, budget=24)
    found = search(local_search(env), lambda b: -np.inf, evaluations=30,
                   rng=np.random.default_rng(0))
    assert found.distinct > 10


def test_random_search_draws_every_width_equally_often():
    env = make_environment([2, 4, 8], lambda b: 0.0, slots=2, budget=1)
    found = search(random_search(env), lambda b: 0.0, evaluations=3000,
                   rng=np.random.default_rng(0))
    counts = [(found.policies == width).sum() for width in (2, 4, 8)]
    assert max(counts) - min(counts) < 4 * (6000 * 2 / 9) ** 0.5 * 2**0.5    # four errors
