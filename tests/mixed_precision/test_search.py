"""Counting, remembering, resuming: what all searches share."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from refquant.mixed_precision.cross_entropy import cross_entropy
from refquant.mixed_precision.environment import LayerShape, layer_states, make_environment
from refquant.mixed_precision.joint import evolution
from refquant.mixed_precision.local_search import local_search, random_search
from refquant.mixed_precision.reinforcement import Ddpg, ddpg
from refquant.mixed_precision.search import Agent, search, silent

SIZES = np.array([9, 5, 2, 7])
WORTH = np.array([1.0, 8.0, 4.0, 2.0])
ENV = make_environment(range(2, 9), lambda bits: float(bits @ SIZES), slots=4, budget=110)
STATES = layer_states([LayerShape(False, 1, 4, 1, 3, int(n), 8) for n in SIZES])
AGENTS = {
    "random": random_search(ENV),
    "local": local_search(ENV),
    "cross-entropy": cross_entropy(ENV, population=10, elite=3),
    "ddpg": ddpg(ENV, STATES, Ddpg(hidden=8, warm_up=5, batch=8)),
    "evolution": evolution([(2, 3), (7, 7)], population=6, tournament=2),
}
EVALUATIONS = 40


def reward(bits):
    return -float(WORTH @ 4.0 ** -bits)


def seek(agent, evaluate=reward, **settings):
    settings = {"evaluations": EVALUATIONS, "rng": np.random.default_rng(3)} | settings
    return search(agent, evaluate, **settings)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a[:4], b[:4], strict=True)) and all(
        np.array_equal(a.memory[k], b.memory[k]) for k in a.memory | b.memory)


@pytest.mark.parametrize("name", AGENTS)
def test_the_generator_decides_the_search(name):
    assert equal(seek(AGENTS[name]), seek(AGENTS[name]))
    other = seek(AGENTS[name], rng=np.random.default_rng(4))
    assert not np.array_equal(other.policies, seek(AGENTS[name]).policies)


@pytest.mark.parametrize("generator", [np.random.PCG64, np.random.MT19937, np.random.Philox,
                                       np.random.SFC64])
@pytest.mark.parametrize("name", AGENTS)
def test_an_interrupted_search_ends_as_if_it_had_not_been(name, generator, tmp_path):
    """Stopped by an exception inside a judgement, five times."""
    whole = seek(AGENTS[name], rng=np.random.Generator(generator(3)))
    file = tmp_path / "state.npz"

    def stumble(bits):
        if np.random.default_rng(time.perf_counter_ns()).random() < 0.1:
            raise KeyboardInterrupt
        return reward(bits)

    for _ in range(5):
        rng = np.random.Generator(generator(3))
        try:
            seek(AGENTS[name], stumble, rng=rng, checkpoint=file, every=3)
        except KeyboardInterrupt:
            continue
    rng = np.random.Generator(generator(3))
    assert equal(seek(AGENTS[name], rng=rng, checkpoint=file), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["state.npz"]


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from refquant.mixed_precision.cross_entropy import cross_entropy
from refquant.mixed_precision.environment import make_environment
from refquant.mixed_precision.search import search

env = make_environment(range(2, 9), lambda b: float(b @ [9, 5, 2, 7]), slots=4, budget=110)

def slow(bits):
    time.sleep(0.02)
    return -float(np.array([1.0, 8.0, 4.0, 2.0]) @ 4.0 ** -bits)

search(cross_entropy(env, population=10, elite=3), slow, evaluations=40,
       rng=np.random.default_rng(3), checkpoint=Path(sys.argv[1]))
"""


def test_a_killed_search_ends_as_if_it_had_not_been(tmp_path):
    """SIGKILL, which nothing can catch, between the 1st and the 39th evaluation."""
    file = tmp_path / "state.npz"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(file)])
    try:
        while not file.exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.wait()
    assert process.returncode == -signal.SIGKILL
    with np.load(file) as state:
        done = len(state["rewards"])
    assert 1 <= done < EVALUATIONS
    asked = []
    resumed = seek(AGENTS["cross-entropy"], lambda b: asked.append(b) or reward(b),
                   checkpoint=file)
    assert equal(resumed, seek(AGENTS["cross-entropy"]))
    assert len(asked) <= EVALUATIONS - done


def test_a_finished_search_goes_on_to_more_evaluations(tmp_path):
    for name, agent in AGENTS.items():
        file = tmp_path / f"{name}.npz"
        seek(agent, evaluations=15, checkpoint=file)
        assert equal(seek(agent, checkpoint=file), seek(agent))


def test_a_search_cannot_go_back_to_fewer_evaluations(tmp_path):
    file = tmp_path / "state.npz"
    seek(AGENTS["random"], evaluations=15, checkpoint=file)
    with pytest.raises(ValueError, match="`evaluations` must be at least the 15"):
        seek(AGENTS["random"], evaluations=14, checkpoint=file)


def test_a_policy_is_judged_once_and_progress_hears_of_every_evaluation():
    judged, heard = [], []
    env = make_environment([2, 4], lambda bits: float(bits.sum()), slots=2, budget=8)
    found = search(random_search(env), lambda b: judged.append(tuple(b)) or float(b[0]),
                   evaluations=50, rng=np.random.default_rng(0),
                   progress=lambda *told: heard.append(told))
    assert len(judged) == len(set(judged)) == found.distinct == 4
    assert [told[:2] for told in heard] == [(i, 50) for i in range(1, 51)]
    assert [told[2] for told in heard] == found.best_so_far().tolist()
    assert found.reward == found.rewards.max() == 4
    assert found.policies.shape == (50, 2)
    assert np.array_equal(found.policy, found.policies[found.rewards.argmax()])
    assert silent(1, 2, 0.0) is None


def test_files_of_other_searches_are_refused(tmp_path):
    file = tmp_path / "state.npz"
    seek(AGENTS["local"], checkpoint=file)
    with pytest.raises(ValueError, match="`checkpoint` must be of 'random search"):
        seek(AGENTS["random"], checkpoint=file)
    tighter = make_environment(range(2, 9), ENV.cost, slots=4, budget=100)
    with pytest.raises(ValueError, match=r"cost 100'; .* is of 'local search: .* cost 110'"):
        seek(local_search(tighter), checkpoint=file)
    with pytest.raises(ValueError, match="`rng` must be the one"):
        seek(AGENTS["local"], checkpoint=file, rng=np.random.default_rng(4))
    for content in (b"", b"PK", file.read_bytes()[:-40]):
        broken = tmp_path / "broken.npz"
        broken.write_bytes(content)
        with pytest.raises(ValueError, match="`checkpoint` must be the state of a search"):
            seek(AGENTS["local"], checkpoint=broken)


def test_a_judgement_that_is_no_number_stops_the_search():
    with pytest.raises(ValueError, match=r"`evaluate` must give a number; got nan for \["):
        seek(AGENTS["random"], lambda bits: np.nan)
    with pytest.raises(ValueError, match="`evaluations` must be at least 1"):
        seek(AGENTS["random"], evaluations=0)


@pytest.mark.parametrize("name", AGENTS)
def test_agents_do_not_change_the_memory_they_are_given(name):
    agent, rng = AGENTS[name], np.random.default_rng(0)
    memory = agent.start(rng)
    for _ in range(12):
        before = {k: v.copy() for k, v in memory.items()}
        policy, asked = agent.ask(memory, rng)
        between = {k: v.copy() for k, v in asked.items()}
        told = agent.tell(asked, policy, reward(policy), rng)
        assert all(np.array_equal(before[k], memory[k], equal_nan=True) for k in before)
        assert all(np.array_equal(between[k], asked[k], equal_nan=True) for k in between)
        memory = told


def test_an_agent_is_told_the_reward_of_the_policy_it_asked_about():
    told = []

    def ask(memory, rng):
        return np.array([len(told), 3], np.int32), memory

    def tell(memory, policy, reward, rng):
        told.append((policy.tolist(), reward))
        return memory

    search(Agent("spy", lambda rng: {}, ask, tell), lambda bits: float(10 * bits[0]),
           evaluations=4, rng=np.random.default_rng(0))
    assert told == [([i, 3], 10.0 * i) for i in range(4)]


@pytest.mark.parametrize("name", AGENTS)
def test_what_is_judged_first_counts_is_never_undercut_and_does_not_reach_the_agent(name, tmp_path):
    first = [np.array(p, np.int32) for p in ((8, 8, 2, 2), (2, 2, 2, 2))]
    bare = seek(AGENTS[name], evaluations=EVALUATIONS - 2)
    found = seek(AGENTS[name], first=first)
    assert np.array_equal(found.policies[:2], first)
    assert np.array_equal(found.policies[2:], bare.policies)
    assert found.reward >= max(map(reward, first))
    assert len(found.rewards) == EVALUATIONS
    file = tmp_path / "state.npz"
    seek(AGENTS[name], first=first, evaluations=1, checkpoint=file)
    assert equal(seek(AGENTS[name], first=first, checkpoint=file), found)
