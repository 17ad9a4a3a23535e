"""Search over choices: against trying everything, and the QUBO against the error it stands for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.qat.combinatorial import (
    Found,
    Qubo,
    anneal,
    descend,
    exhaustive,
    one_by_one,
    rounding_qubo,
)

SEEDS = st.integers(0, 2**32 - 1)
BITS = np.array([0.0, 1.0])
SIGNS = np.array([-1.0, 1.0])


def layer(seed, n=8):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(40, n)) @ (rng.normal(size=(n, n)) / 2 + np.eye(n))
    w, step = rng.normal(size=n), rng.uniform(0.3, 0.6, n)
    return x, w, step, rounding_qubo(w, step, x.T @ x / len(x))


@given(SEEDS)
@settings(max_examples=20)
def test_the_qubo_is_the_output_error_of_the_rounded_weight(seed):
    x, w, step, qubo = layer(seed)
    for bits in np.random.default_rng(seed).integers(0, 2, (10, 8)):
        rounded = step * (np.floor(w / step) + bits)
        assert np.isclose(qubo(bits), np.mean((x @ (rounded - w)) ** 2))


@given(SEEDS)
@settings(max_examples=10)
def test_exhaustive_search_is_below_every_other(seed):
    _, w, step, qubo = layer(seed, n=6)
    best = exhaustive(qubo, 6, levels=BITS)
    costs = [qubo(np.array(b)) for b in itertools.product([0, 1], repeat=6)]
    assert best.calls == len(costs) == 64
    assert best.cost == min(costs) == qubo(best.choice)
    nearest = (w / step % 1 >= 0.5).astype(float)
    rng = np.random.default_rng(seed)
    others = [descend(qubo, nearest, levels=BITS), one_by_one(qubo),
              anneal(qubo, nearest, levels=BITS, steps=50, hot=1.0, cold=0.01, rng=rng)]
    for found in others:
        assert isinstance(found, Found)
        assert np.isclose(found.cost, qubo(found.choice))
        assert found.cost >= best.cost - 1e-12
    for found in (others[0], others[2]):        # these start at nearest rounding
        assert found.cost <= qubo(nearest)


@given(SEEDS, st.sampled_from([BITS, SIGNS, np.array([-1.0, 0.0, 1.0])]))
@settings(max_examples=20)
def test_no_single_change_improves_what_descent_returns(seed, levels):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(5, 5)), rng.normal(size=5)

    def cost(v):
        return float(np.tanh(a @ v) @ b + 0.1 * v @ v)

    start = rng.choice(levels, 5)
    found = descend(cost, start, levels=levels)
    assert found.cost == cost(found.choice) <= cost(start)
    for i, level in itertools.product(range(5), levels):
        changed = found.choice.copy()
        changed[i] = level
        assert cost(changed) >= found.cost


@given(SEEDS)
@settings(max_examples=20)
def test_without_correlation_nearest_is_best_and_all_find_it(seed):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=6)
    qubo = rounding_qubo(w, np.array(0.5), np.diag(rng.uniform(0.5, 2, 6)))
    nearest = (w / 0.5 % 1 >= 0.5).astype(float)
    for found in (exhaustive(qubo, 6, levels=BITS), one_by_one(qubo),
                  descend(qubo, rng.integers(0, 2, 6), levels=BITS)):
        assert np.array_equal(found.choice, nearest)


def test_one_by_one_is_better_than_nearest_on_average_and_not_always():
    """Geometric mean of the cost over the best, 200 problems of eight correlated weights."""
    ours, nearest = [], []
    for seed in range(200):
        _, w, step, qubo = layer(seed)
        ours.append(one_by_one(qubo).cost)
        nearest.append(qubo((w / step % 1 >= 0.5).astype(float)))
    ratio = np.log(np.array(ours) / nearest)
    assert np.exp(ratio.mean()) < 0.8
    assert ratio.max() > 0


@given(SEEDS)
@settings(max_examples=20)
def test_each_step_of_one_by_one_is_best_if_the_rest_were_real(seed):
    """Both bits by brute force, the later variables minimized in closed form."""
    *_, qubo = layer(seed, n=4)
    bits, fraction = one_by_one(qubo).choice, np.linalg.solve(qubo.matrix, -qubo.linear / 2)
    for i in range(4):
        options = []
        for bit in (0.0, 1.0):
            e = np.append(bits[:i], bit) - fraction[: i + 1]
            m, k = qubo.matrix, i + 1
            rest = -np.linalg.solve(m[k:, k:], m[k:, :k] @ e)
            whole = np.concatenate([e, rest])
            options.append(whole @ m @ whole)
        assert bits[i] == np.argmin(options)


def test_annealing_leaves_valleys_where_descent_stays():
    """A cost with a barrier: from all ones, every single flip hurts, all zeros is best."""
    def cost(v):
        return float(min(v.sum() + 0.0, 6 - v.sum() + 0.5))

    start = np.ones(6)
    stuck = descend(cost, start, levels=BITS)
    assert np.array_equal(stuck.choice, start)
    free = anneal(cost, start, levels=BITS, steps=400, hot=2.0, cold=0.1,
                  rng=np.random.default_rng(0))
    assert free.cost == 0
    assert not free.choice.any()


def test_twelve_binary_weights_of_a_small_network_are_learned_by_search():
    """2-3-1 with signs: trying all 2**12 finds 0 errors; descent from ten starts comes close."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    planted = rng.choice(SIGNS, 12)

    def network(v):
        hidden = np.where(x @ v[:6].reshape(3, 2).T + v[6:9] * 0.5 >= 0, 1, -1)
        return np.where(hidden @ v[9:12] >= 0, 1, -1)

    y = network(planted)

    def errors(v):
        return float((network(v) != y).mean())

    best = exhaustive(errors, 12, levels=SIGNS)
    assert best.cost == 0
    tries = [descend(errors, rng.choice(SIGNS, 12), levels=SIGNS) for _ in range(10)]
    assert min(t.cost for t in tries) <= 0.05
    assert sum(t.calls for t in tries) < best.calls


def test_nothing_is_mutated_and_no_variables_are_no_problem():
    start = np.zeros(3)
    descend(lambda v: -v.sum(), start, levels=BITS)
    assert not start.any()
    assert descend(lambda v: 1.0, np.zeros(0), levels=BITS).calls == 1


def test_bad_input_is_refused():
    w = np.zeros(3)
    with pytest.raises(ValueError, match=r"`hessian` must have shape \(3, 3\)"):
        rounding_qubo(w, np.array(1.0), np.eye(2))
    with pytest.raises(ValueError, match="`hessian` must be symmetric"):
        rounding_qubo(w, np.array(1.0), np.triu(np.ones((3, 3))))
    with pytest.raises(ValueError, match="`step` must be positive"):
        rounding_qubo(w, np.array(0.0), np.eye(3))
    with pytest.raises(ValueError, match=r"`n` must leave at most 2\*\*20 choices; got 2\*\*21"):
        exhaustive(lambda v: 0.0, 21, levels=BITS)
    with pytest.raises(ValueError, match="`hot` must be positive"):
        anneal(lambda v: 0.0, w, levels=BITS, steps=1, hot=0.0, cold=1.0,
               rng=np.random.default_rng(0))
    with pytest.raises(np.linalg.LinAlgError):
        one_by_one(Qubo(-np.eye(2), np.zeros(2), 0.0))
