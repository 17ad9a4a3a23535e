"""States, actions, budgets and rewards of HAQ."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refquant.mixed_precision.environment import (
    LayerShape,
    accuracy_reward,
    action_bits,
    additive_cost,
    layer_states,
    make_environment,
    within_budget,
)

CHOICES = [2, 3, 4, 6, 8]


@st.composite
def environments(draw):
    """Slots of different size, some fixed, and a budget that can be met."""
    slots = draw(st.integers(1, 7))
    sizes = np.array(draw(st.lists(st.integers(1, 50), min_size=slots, max_size=slots)))
    fixed = draw(st.sets(st.integers(0, slots - 1), max_size=slots))
    cost = additive_cost(CHOICES, np.outer(sizes, CHOICES))
    least = int(sum(8 * s if i in fixed else 2 * s for i, s in enumerate(sizes)))
    budget = draw(st.integers(least, 8 * int(sizes.sum())))
    return make_environment(CHOICES, cost, slots=slots, budget=budget, fixed=fixed)


def policies(env, seed):
    return env.choices[np.random.default_rng(seed).integers(len(env.choices), size=env.slots)]


@given(environments(), st.integers(0, 2**32 - 1))
def test_enforcement_ends_within_the_budget_and_never_adds_a_bit(env, seed):
    bits = policies(env, seed)
    kept = within_budget(bits, env)
    assert env.cost(kept) <= env.budget
    assert (kept[env.free] <= bits[env.free]).all()
    assert (kept[~env.free] == 8).all()
    assert kept.dtype == np.int32
    assert np.array_equal(within_budget(kept, env), kept)


@given(environments(), st.integers(0, 2**32 - 1))
def test_what_fits_is_left_alone(env, seed):
    bits = np.where(env.free, policies(env, seed), 8)
    if env.cost(bits) <= env.budget:
        assert np.array_equal(within_budget(bits, env), bits)


def by_the_released_code(bits, lowest, weights, budget):
    """Weight-only enforcement of mit-han-lab/haq, in its own words: plain lists of ints."""
    strategy = list(bits)
    def size():
        return sum(b * w for b, w in zip(strategy, weights, strict=True))
    while sum(lowest * w for w in weights) < size() and budget < size():
        for i, n_bit in enumerate(reversed(strategy)):
            if n_bit > lowest:
                strategy[-(i + 1)] -= 1
            if budget >= size():
                break
    return strategy


@given(st.lists(st.tuples(st.integers(2, 8), st.integers(1, 9)), min_size=1, max_size=8),
       st.floats(0, 1))
def test_enforcement_is_that_of_the_released_code(layers, share):
    bits, weights = np.array(layers).T
    budget = int(weights.sum() * (2 + 6 * share))
    def cost(b):
        return float(b @ weights)
    env = make_environment(range(2, 9), cost, slots=len(bits), budget=budget)
    expected = by_the_released_code(bits.tolist(), 2, weights.tolist(), budget)
    assert within_budget(bits, env).tolist() == expected


def test_products_of_weight_and_activation_bits_are_enforced_activation_first():
    macs = np.array([100, 100])
    def cost(bits):
        return float((macs * bits[0::2] * bits[1::2]).sum())
    env = make_environment(range(2, 9), cost, slots=4, budget=100 * (64 + 49))
    assert within_budget(np.array([8, 8, 8, 8]), env).tolist() == [8, 8, 7, 7]
    env = make_environment(range(2, 9), cost, slots=4, budget=100 * (64 + 56))
    assert within_budget(np.array([8, 8, 8, 8]), env).tolist() == [8, 8, 8, 7]


def test_a_budget_that_cannot_be_met_is_refused_with_the_least():
    cost = additive_cost(CHOICES, np.outer([10, 30], CHOICES))
    with pytest.raises(ValueError, match="`budget` must be at least 80, the cost of the lowest "
                                         "bits; got 79"):
        make_environment(CHOICES, cost, slots=2, budget=79)
    with pytest.raises(ValueError, match=r"at least 140, .* got 139"):
        make_environment(CHOICES, cost, slots=2, budget=139, fixed=[0])
    env = make_environment(CHOICES, cost, slots=2, budget=80)
    with pytest.raises(ValueError, match=r"at least 80, .* got 79"):
        within_budget(np.array([8, 8]), env._replace(budget=79))
    with pytest.raises(ValueError, match="got nan"):
        make_environment(CHOICES, cost, slots=2, budget=np.nan)


@given(st.integers(2, 9), st.integers(1, 6))
def test_every_width_has_an_equal_share_of_the_actions(count, low):
    choices = np.arange(low, low + count)
    middles = (np.arange(1000 * count) + 0.5) / (1000 * count)
    bits, counts = np.unique(action_bits(middles, choices), return_counts=True)
    assert bits.tolist() == choices.tolist()
    assert np.abs(counts - 1000).max() <= 1
    # The formula of the paper, away from its ties at the ends.
    paper = np.rint((choices[-1] - choices[0] + 1) * middles + choices[0] - 0.5)
    assert np.array_equal(action_bits(middles, choices), paper)
    assert action_bits(np.array([0.0, 1.0]), choices).tolist() == [choices[0], choices[-1]]


def test_states_are_scaled_by_column_and_constant_columns_kept():
    shapes = [LayerShape(False, 1, 16, 1, 3, 144, 64), LayerShape(True, 16, 16, 2, 3, 144, 64),
              LayerShape(False, 64, 10, 0, 1, 640, 1)]
    states = layer_states(shapes)
    assert states.shape == (3, 9)
    assert states[:, 0].tolist() == [0, 1, 0]
    assert states[:, 1] == pytest.approx([0, 15 / 63, 1])
    assert states[:, 7].tolist() == [0, 0.5, 1]
    assert (states[:, 8] == 1).all()
    both = layer_states(shapes, activations=True)
    assert both.shape == (6, 10)
    assert both[:, 9].tolist() == [1, 0] * 3
    assert np.array_equal(both[::2, :9], states)
    assert layer_states(shapes[:1])[0].tolist() == [0, 1, 16, 1, 3, 144, 64, 0, 1]


def test_reward_is_a_tenth_per_point():
    assert accuracy_reward(0.95, 0.98) == pytest.approx(-0.3)
    assert accuracy_reward(0.98, 0.98) == 0
    assert accuracy_reward(0.5, 0.4, factor=1) == pytest.approx(10)


def test_costs_are_looked_up_and_never_interpolated():
    table = np.arange(10).reshape(2, 5) ** 2
    cost = additive_cost(CHOICES, table)
    for i, k in itertools.product(range(5), repeat=2):
        assert cost(np.array([CHOICES[i], CHOICES[k]])) == table[0, i] + table[1, k]
    for bad in (5, 1, 9):
        with pytest.raises(ValueError, match=rf"`bits` must be among .*; got {bad}"):
            cost(np.array([2, bad]))
    with pytest.raises(ValueError, match=r"`costs` must have shape \(slots, 5\)"):
        additive_cost(CHOICES, table.T)
    with pytest.raises(ValueError, match=r"`bits` must have shape \(2,\)"):
        cost(np.array([2]))


def test_wrong_policies_and_choices_are_refused():
    def cost(bits):
        return float(bits.sum())
    env = make_environment(CHOICES, cost, slots=2, budget=10, fixed=[0])
    for bad in ([2, 5], [2, 1], [2, 9]):
        with pytest.raises(ValueError, match="`bits` must be among"):
            within_budget(np.array(bad), env)
    with pytest.raises(ValueError, match=r"`bits` must have shape \(2,\)"):
        within_budget(np.array([2]), env)
    with pytest.raises(ValueError, match="`choices` must increase"):
        make_environment([4, 2], cost, slots=2, budget=10)
    for slots, fixed, name in ((2, [2], "fixed"), (2, [-1], "fixed"), (0, [], "slots")):
        with pytest.raises(ValueError, match=f"`{name}` must be at "):
            make_environment(CHOICES, cost, slots=slots, budget=10, fixed=fixed)
