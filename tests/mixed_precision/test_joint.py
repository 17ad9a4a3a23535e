"""Evolution of architecture and bits together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_precision._problems import CHOICES, best_by_enumeration, problem

from refquant.mixed_precision.joint import evolution, mutated, size_fitness
from refquant.mixed_precision.search import search

PARTS = [(3, 2), (4, 4, 4)]


@given(st.integers(0, 2**32 - 1))
def test_a_mutation_changes_one_gene_to_another_of_its_values(seed):
    rng = np.random.default_rng(seed)
    counts = np.concatenate(PARTS)
    parent = rng.integers(counts)
    child = mutated(parent, PARTS, rng=rng)
    assert (child != parent).sum() == 1
    assert ((child >= 0) & (child < counts)).all()


def test_both_parts_mutate_equally_often_and_all_values_occur():
    rng = np.random.default_rng(0)
    parts = [(2,), (7,) * 10]
    children = np.array([mutated(np.zeros(11, int), parts, rng=rng) for _ in range(2000)])
    assert abs((children[:, 0] > 0).mean() - 0.5) < 4 * 0.5 / 2000**0.5
    assert set(children[:, 1:].ravel()) == set(range(7))


def test_the_fittest_is_never_lost():
    rng = np.random.default_rng(0)
    agent = evolution(PARTS, population=6, tournament=2)
    memory, best, known = agent.start(rng), -np.inf, {}
    for _ in range(200):
        genome, memory = agent.ask(memory, rng)
        fitness = known.setdefault(genome.tobytes(), float(rng.standard_normal()))
        best = max(best, fitness)
        memory = agent.tell(memory, genome, fitness, rng)
        assert memory["fitness"].max() == best
        assert len(memory["fitness"]) <= 6


@settings(max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_with_the_architecture_frozen_it_finds_the_best_bits(seed):
    """A wall instead of a price: what is over budget is worth less than anything else."""
    env, reward = problem(seed)

    def fitness(genome):
        bits = np.array(CHOICES)[genome[1:]]
        over = env.cost(bits) - env.budget
        return reward(bits) if over <= 0 else -float(over)

    agent = evolution([(1,), (3,) * 4], population=16, tournament=3)
    found = search(agent, fitness, evaluations=1500, rng=np.random.default_rng(seed))
    assert found.reward == best_by_enumeration(env, reward)


def test_parents_win_tournaments():
    """With a tournament of all, every parent is the fittest."""
    rng = np.random.default_rng(0)
    agent = evolution([(9,) * 6], population=5, tournament=5)
    memory = agent.start(rng)
    for i in range(5):
        genome, memory = agent.ask(memory, rng)
        memory = agent.tell(memory, genome, float(i == 3), rng)
    fittest = memory["genomes"][3]
    for _ in range(30):
        child, _ = agent.ask(memory, rng)
        assert (child != fittest).sum() == 1


@given(st.floats(0, 1), st.floats(0.01, 100))
def test_fitness_bends_at_the_target(quality, size):
    hard = size_fitness(quality, size, target=1.0)
    assert hard == (quality if size <= 1 else pytest.approx(quality / size))
    soft = size_fitness(quality, size, target=1.0, below=-0.07, above=-0.07)
    assert soft == pytest.approx(quality * size**-0.07)


def test_a_factor_of_two_in_size_is_worth_five_percent():
    halved = size_fitness(1.0, 0.5, target=1.0, below=-0.07, above=-0.07)
    assert halved == pytest.approx(1.05, abs=0.001)


def test_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="`tournament` must be at most 4"):
        evolution(PARTS, population=4, tournament=5)
    with pytest.raises(ValueError, match="`parts` must be positive"):
        evolution([(3, 0)])
    with pytest.raises(ValueError, match="`parts` must have a gene of two values"):
        mutated(np.zeros(2, int), [(1, 1)], rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="`size` must be positive"):
        size_fitness(1.0, 0.0, target=1.0)
