"""DDPG: its gradients, its noise, its memory, and that it learns."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm

from refquant.mixed_precision.environment import LayerShape, layer_states, make_environment
from refquant.mixed_precision.reinforcement import (
    Ddpg,
    actor,
    ddpg,
    perceptron,
    perceptron_size,
    truncated_normal,
)
from refquant.mixed_precision.search import search

SIZES = (4, 7, 5, 2)


def finite_difference(f, x, g, step=1e-6):
    """Gradient of <g, f(x)> by central differences."""
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += step
        down[i] -= step
        out[i] = ((f(up) - f(down)) * g).sum() / (2 * step)
    return out


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.parametrize(("op", "sizes"), [(perceptron, SIZES), (actor, (4, 6, 6, 1))])
def test_pullbacks_agree_with_finite_differences(op, sizes, seed):
    rng = np.random.default_rng(seed)
    x, theta = rng.standard_normal((3, 4)), rng.standard_normal(perceptron_size(sizes))
    value, pullback = op(x, theta, sizes=sizes)
    g = rng.standard_normal(value.shape)
    g_x, g_theta = pullback(g)
    # A kink between the two points spoils a difference: three in a row never did.
    assert np.allclose(
        g_x, finite_difference(lambda x: op(x, theta, sizes=sizes)[0], x, g), atol=1e-6, rtol=1e-5)
    assert np.allclose(
        g_theta, finite_difference(lambda t: op(x, t, sizes=sizes)[0], theta, g), atol=1e-6,
        rtol=1e-5)


def test_a_perceptron_is_affine_maps_and_positive_parts():
    rng = np.random.default_rng(0)
    w = [rng.standard_normal(s) for s in ((3, 4), (4, 2))]
    b = [rng.standard_normal(s) for s in (4, 2)]
    theta = np.concatenate([w[0].ravel(), b[0], w[1].ravel(), b[1]])
    x = rng.standard_normal((5, 3))
    value, _ = perceptron(x, theta, sizes=(3, 4, 2))
    assert np.allclose(value, np.maximum(x @ w[0] + b[0], 0) @ w[1] + b[1])
    assert theta.size == perceptron_size((3, 4, 2))
    with pytest.raises(ValueError, match=r"`theta` must have shape \(26,\)"):
        perceptron(x, theta[1:], sizes=(3, 4, 2))


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 0.5), (0.02, 0.3), (1.0, 0.1), (0.3, 1e-4)])
def test_noise_is_a_truncated_normal(mean, spread):
    rng = np.random.default_rng(0)
    drawn = np.array([truncated_normal(mean, spread, rng=rng) for _ in range(4000)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    law = truncnorm(-mean / spread, (1 - mean) / spread, mean, spread)
    assert abs(drawn.mean() - law.mean()) < 4 * law.std() / 4000**0.5
    assert abs(drawn.std() - law.std()) < 0.05 * law.std()


SHAPES = [LayerShape(i % 2 == 1, 4 + i, 8, 1, 3, 100 * i + 50, 64) for i in range(5)]
WEIGHTS = np.array([s.weights for s in SHAPES])
ENV = make_environment(range(2, 9), lambda bits: float(bits @ WEIGHTS), slots=5, budget=5000)
STATES = layer_states(SHAPES)


def played(episodes, **settings):
    agent, rng = ddpg(ENV, STATES, Ddpg(hidden=8, batch=4, **settings)), np.random.default_rng(0)
    memory = agent.start(rng)
    for episode in range(episodes):
        policy, memory = agent.ask(memory, rng)
        memory = agent.tell(memory, policy, float(-episode), rng)
    return memory


def test_the_buffer_holds_whole_episodes_with_one_reward_and_an_end():
    memory = played(3, warm_up=9)
    buffer = memory["buffer"]
    assert buffer.shape == (15, 9 + 1 + 1 + 9 + 1)
    assert buffer[:, 10].tolist() == [0] * 5 + [-1] * 5 + [-2] * 5
    assert buffer[:, -1].tolist() == [1, 1, 1, 1, 0] * 3
    assert np.array_equal(buffer[:4, 11:20], buffer[1:5, :9])      # the next state
    assert buffer[10, 8] == 1                                      # nothing before the first
    before = np.clip(np.rint(7 * buffer[10:14, 9] - 0.5), 0, 6) + 2
    assert np.allclose(buffer[11:15, 8], before / 8)
    assert memory["updates"] == 0
    assert np.array_equal(memory["actor"], memory["actor.slow"])


def test_it_forgets_the_oldest_and_learns_once_per_transition_after_the_warm_up():
    memory = played(6, warm_up=2, memory=3)
    assert len(memory["buffer"]) == 15
    assert memory["buffer"][0, 10] == -3
    assert memory["updates"] == 4 * 5
    assert memory["episode"] == 6


def test_slow_copies_follow_slowly():
    before, after = played(2, warm_up=2), played(3, warm_up=2, slowness=0.25)
    for name in ("actor", "critic"):
        moved = np.abs(after[name] - before[name]).max()
        assert 0 < np.abs(after[f"{name}.slow"] - before[name]).max() < moved


def test_actions_of_a_fresh_actor_are_near_one_half():
    agent, rng = ddpg(ENV, STATES, Ddpg(warm_up=0, noise=1e-3)), np.random.default_rng(0)
    _, memory = agent.ask(agent.start(rng), rng)
    assert np.abs(memory["actions"] - 0.5).max() < 0.05


def test_the_critic_learns_the_reward_and_the_actor_goes_uphill():
    """Reward is minus what is missing to eight bits, on average over the slots."""
    env = make_environment(range(2, 9), lambda bits: 0.0, slots=5, budget=1)
    settings = Ddpg(hidden=16, warm_up=20, actor_rate=1e-3)
    found = search(ddpg(env, STATES, settings), lambda bits: -float(np.abs(8 - bits).mean()),
                   evaluations=120, rng=np.random.default_rng(0))
    warm, last = found.rewards[:20].mean(), found.rewards[-20:].mean()
    assert last > warm + 1
    assert found.reward >= -0.3


def test_every_policy_satisfies_the_budget():
    agent = ddpg(ENV, STATES, Ddpg(hidden=8, warm_up=5))
    found = search(agent, lambda bits: float(bits @ [1, 1, 2, 3, 3]), evaluations=40,
                   rng=np.random.default_rng(1))
    assert all(ENV.cost(bits) <= ENV.budget for bits in found.policies)


def test_states_must_have_a_row_per_slot():
    with pytest.raises(ValueError, match=r"`states` must have shape \(5, 9\)"):
        ddpg(ENV, STATES[:4])
    with pytest.raises(ValueError, match="`states` must have the column of the action before"):
        ddpg(ENV, STATES[:, :8])
    with pytest.raises(ValueError, match=r"`settings\.noise` must be positive"):
        ddpg(ENV, STATES, Ddpg(noise=0.0))


@pytest.mark.parametrize("slots", [1, 2])
def test_the_last_step_expects_nothing_of_what_comes_after(slots):
    """With a single slot every step is the last: the slow critic must not matter at all."""
    env = make_environment([2, 4], lambda bits: 0.0, slots=slots, budget=1)
    agent = ddpg(env, STATES[:slots], Ddpg(hidden=4, warm_up=0, batch=4))

    def critic_after(shift):
        rng = np.random.default_rng(0)
        memory = agent.start(rng)
        memory["critic.slow"] = memory["critic.slow"] + shift
        policy, memory = agent.ask(memory, rng)
        return agent.tell(memory, policy, -1.0, rng)["critic"]

    assert np.array_equal(critic_after(0.0), critic_after(5.0)) == (slots == 1)
