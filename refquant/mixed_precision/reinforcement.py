r"""DDPG, the agent of HAQ: an actor proposes the next bit-width, a critic says what it is worth.

The *actor* maps the state of a slot to an action in [0, 1]; the *critic* maps a state and an
action to the reward that it expects. Transitions of past episodes lie in a replay buffer. For a
batch of them the critic is moved towards

.. math:: Q(s, a) \approx R - \bar R + \gamma\, m\, Q'(s', \mu'(s'))

and the actor uphill, by the gradient of :math:`Q(s, \mu(s))` through the action. Q' and
:math:`\mu'` are slow copies, m is 0 after the last slot and 1 before, and
:math:`\bar R` is a running mean of the rewards.

Every network is one flat vector of parameters, so that Adam and the slow copies are a line each.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.special import expit, ndtr, ndtri

from refquant._types import Array, Codes
from refquant._validate import require_int, require_positive, require_same_shape
from refquant.mixed_precision.environment import Environment, action_bits, within_budget
from refquant.mixed_precision.search import Agent, Memory

__all__ = ["Ddpg", "actor", "ddpg", "perceptron", "perceptron_size", "truncated_normal"]

Sizes: TypeAlias = tuple[int, ...]

_BEFORE = 8                                     # column of the width of the action before
Pullback: TypeAlias = Callable[[Array], tuple[Array, Array]]


class Ddpg(NamedTuple):
    r"""Settings of the agent; those of the paper are the defaults, but for `hidden`.

    Attributes
    ----------
    hidden : int
        Width of both hidden layers; 300 in the paper.
    actor_rate, critic_rate : float
        Of Adam.
    discount : float
        :math:`\gamma`.
    slowness : float
        Share of the new parameters that the slow copies take over at each update.
    batch : int
        Transitions per update; one update per transition.
    memory : int
        Transitions kept, per slot.
    warm_up : int
        Episodes of random actions at first, in which nothing is learned.
    noise, noise_decay : float
        Spread of the exploring actions after the warm-up, and its factor per episode.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.6; Lillicrap et al., 2016,
    arXiv:1509.02971, section 7.
    """

    hidden: int = 64
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    discount: float = 1.0
    slowness: float = 0.01
    batch: int = 64
    memory: int = 128
    warm_up: int = 20
    noise: float = 0.5
    noise_decay: float = 0.99


def ddpg(environment: Environment, states: Array, settings: Ddpg = Ddpg()) -> Agent:  # noqa: B008
    """An agent that walks through the slots once per policy, and learns from what it earned.

    Parameters
    ----------
    environment : Environment
    states : ndarray of float64, shape (slots, features)
        From `layer_states`; the column of the action before is the ninth.
    settings : Ddpg

    Returns
    -------
    Agent

    Notes
    -----
    Every transition of an episode carries the whole reward and the discount is 1, so Q counts
    it once for each slot that is left: a ranking, not an expected reward. The buffer keeps the
    actions that were taken, before the budget was enforced, as the released code does. That
    code acts at random in one episode more, and does not use its setting for the size of the
    last layer; here it is uniform in 0.003, as in the paper that introduced DDPG.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.6; Lillicrap et al., 2016,
    arXiv:1509.02971, algorithm 1.

    Examples
    --------
    >>> from refquant.mixed_precision.environment import make_environment
    >>> env = make_environment([2, 4, 8], lambda bits: float(bits.sum()), slots=2, budget=10)
    >>> agent = ddpg(env, np.ones((2, 9)))
    >>> rng = np.random.default_rng(0)
    >>> policy, memory = agent.ask(agent.start(rng), rng)
    >>> policy, memory["actions"].round(2)
    (array([8, 2], dtype=int32), array([0.71, 0.17]))
    """
    require_same_shape("states", states, (environment.slots, states.shape[-1]))
    slots, features = states.shape
    if features <= _BEFORE:
        raise ValueError(f"`states` must have the column of the action before, the ninth; "
                         f"got {features} columns")
    require_positive("settings.noise", np.asarray(settings.noise))
    h = require_int("hidden", settings.hidden, 1)
    actor_sizes, critic_sizes = (features, h, h, 1), (features + 1, h, h, 1)
    capacity = settings.memory * slots

    def start(rng: np.random.Generator) -> Memory:
        memory = {"buffer": np.zeros((0, 2 * features + 3)), "baseline": np.array(np.nan),
                  "episode": np.array(0), "updates": np.array(0)}
        for name, sizes in (("actor", actor_sizes), ("critic", critic_sizes)):
            theta = _initial(sizes, rng)
            memory |= {name: theta, f"{name}.slow": theta,
                       f"{name}.first": 0 * theta, f"{name}.second": 0 * theta}
        return memory

    def ask(memory: Memory, rng: np.random.Generator) -> tuple[Codes, Memory]:
        episode = int(memory["episode"]) - settings.warm_up
        seen, actions = states.copy(), np.empty(slots)
        for slot in range(slots):
            if slot:
                before = action_bits(actions[slot - 1], environment.choices)
                seen[slot, _BEFORE] = before / environment.choices[-1]
            if episode < 0:
                actions[slot] = rng.random()
            else:
                mean, _ = actor(seen[slot : slot + 1], memory["actor"], sizes=actor_sizes)
                spread = settings.noise * settings.noise_decay**episode
                actions[slot] = truncated_normal(float(mean[0, 0]), spread, rng=rng)
        bits = action_bits(actions, environment.choices)
        return within_budget(bits, environment), {**memory, "actions": actions, "seen": seen}

    def tell(memory: Memory, policy: Codes, reward: float, rng: np.random.Generator) -> Memory:
        learning = int(memory["episode"]) >= settings.warm_up
        after = np.vstack([memory["seen"][1:], memory["seen"][-1:]])
        going_on = (np.arange(slots) < slots - 1).astype(float)
        rows = np.column_stack([memory["seen"], memory["actions"], np.full(slots, reward), after,
                                going_on])
        for row in rows:
            buffer = np.vstack([memory["buffer"], row])[-capacity:]
            memory = {**memory, "buffer": buffer}
            if learning:
                memory = update(memory, rng)
        return {**memory, "episode": memory["episode"] + 1}

    def update(memory: Memory, rng: np.random.Generator) -> Memory:
        """One step of critic and actor on a batch of the buffer."""
        buffer = memory["buffer"]
        rows = buffer[rng.choice(len(buffer), settings.batch, replace=len(buffer) < settings.batch)]
        state, action, reward, later, goes_on = np.split(
            rows, np.cumsum([features, 1, 1, features]), axis=1)
        mean, baseline = reward.mean(), memory["baseline"]
        baseline = mean if np.isnan(baseline) else baseline + 0.5 * (mean - baseline)
        next_action, _ = actor(later, memory["actor.slow"], sizes=actor_sizes)
        next_q, _ = perceptron(
            np.hstack([later, next_action]), memory["critic.slow"], sizes=critic_sizes)
        target = reward - baseline + settings.discount * goes_on * next_q
        # The critic: down the gradient of the mean squared error.
        q, back = perceptron(np.hstack([state, action]), memory["critic"], sizes=critic_sizes)
        memory = {**memory, "baseline": np.array(baseline), "updates": memory["updates"] + 1}
        memory = _adam(memory, "critic", back(2 * (q - target) / len(q))[1], settings.critic_rate)
        # The actor: up the gradient of the critic with respect to the action, on from there.
        proposed, into_actor = actor(state, memory["actor"], sizes=actor_sizes)
        _, back = perceptron(np.hstack([state, proposed]), memory["critic"], sizes=critic_sizes)
        uphill = back(np.full_like(q, -1 / len(q)))[0][:, -1:]
        memory = _adam(memory, "actor", into_actor(uphill)[1], settings.actor_rate)
        for name in ("actor", "critic"):
            slow, s = memory[f"{name}.slow"], settings.slowness
            memory = {**memory, f"{name}.slow": (1 - s) * slow + s * memory[name]}
        return memory

    return Agent(f"{settings}: {environment.words}", start, ask, tell)


def perceptron_size(sizes: Sizes) -> int:
    """How many parameters a perceptron has.

    Parameters
    ----------
    sizes : tuple of int
        Inputs, hidden layers, outputs.

    Returns
    -------
    int

    References
    ----------
    Rumelhart, Hinton and Williams, 1986, Nature 323.

    Examples
    --------
    >>> perceptron_size((9, 64, 64, 1))
    4865
    """
    return sum((n + 1) * m for n, m in pairwise(sizes))


def perceptron(x: Array, theta: Array, *, sizes: Sizes) -> tuple[Array, Pullback]:
    """Affine maps with positive parts between them, all parameters in one vector.

    Parameters
    ----------
    x : ndarray of float64, shape (n, inputs)
    theta : ndarray of float64, shape (parameters,)
        Weight (in, out) and bias of each layer, one after the other.
    sizes : tuple of int
        Inputs, hidden layers, outputs.

    Returns
    -------
    value : ndarray, shape (n, outputs)
    pullback : callable
        Gradients of `x` and of `theta`.

    References
    ----------
    Rumelhart, Hinton and Williams, 1986, Nature 323.

    Examples
    --------
    >>> y, pullback = perceptron(np.array([[1.0]]), np.array([2.0, 1.0]), sizes=(1, 1))
    >>> y, pullback(np.array([[1.0]]))
    (array([[3.]]), (array([[2.]]), array([1., 1.])))
    """
    require_same_shape("theta", theta, (perceptron_size(sizes),))
    layers, at = [], 0
    for n, m in pairwise(sizes):
        layers.append((theta[at : at + n * m].reshape(n, m), theta[at + n * m : at + (n + 1) * m]))
        at += (n + 1) * m
    entered = []
    for i, (weight, bias) in enumerate(layers):
        entered.append(np.maximum(x, 0) if i else x)
        x = entered[-1] @ weight + bias

    def pullback(g: Array) -> tuple[Array, Array]:
        parts: list[Array] = []
        for i in reversed(range(len(layers))):
            parts = [(entered[i].T @ g).ravel(), g.sum(0), *parts]
            g = g @ layers[i][0].T
            if i:
                g = g * (entered[i] > 0)
        return g, np.concatenate(parts)

    return x, pullback


def actor(states: Array, theta: Array, *, sizes: Sizes) -> tuple[Array, Pullback]:
    """A perceptron whose output is squeezed into (0, 1) by the logistic function.

    Parameters
    ----------
    states : ndarray of float64, shape (n, features)
    theta : ndarray of float64, shape (parameters,)
    sizes : tuple of int
        Ends in 1.

    Returns
    -------
    value : ndarray, shape (n, 1)
    pullback : callable
        Gradients of `states` and of `theta`.

    References
    ----------
    Wang et al., 2019, arXiv:1811.08886, section 3.6.

    Examples
    --------
    >>> actor(np.array([[1.0]]), np.array([2.0, -2.0]), sizes=(1, 1))[0]
    array([[0.5]])
    """
    z, back = perceptron(states, theta, sizes=sizes)
    a = expit(z)
    return a, lambda g: back(g * a * (1 - a))


def truncated_normal(mean: float, spread: float, *, rng: np.random.Generator) -> float:
    r"""A normal draw, on condition that it lies in [0, 1].

    .. math:: x = \mu + \sigma\, \Phi^{-1}\bigl((1 - u)\, \Phi(-\mu / \sigma)
              + u\, \Phi((1 - \mu) / \sigma)\bigr)

    Parameters
    ----------
    mean : float
        Of the whole distribution, in [0, 1].
    spread : float
        Its standard deviation, > 0.
    rng : numpy.random.Generator
        One uniform draw.

    Returns
    -------
    float

    References
    ----------
    Devroye, 1986, "Non-Uniform Random Variate Generation", section II.2.1 (inversion).

    Examples
    --------
    >>> truncated_normal(0.2, 0.001, rng=np.random.default_rng(0)) < 0.21
    True
    """
    low, high = ndtr(-mean / spread), ndtr((1 - mean) / spread)
    u = rng.random()
    return float(np.clip(mean + spread * ndtri((1 - u) * low + u * high), 0.0, 1.0))


def _initial(sizes: Sizes, rng: np.random.Generator) -> Array:
    """Uniform within 1 / sqrt(inputs); the last layer within 0.003: actions begin near 1/2."""
    parts = []
    for i, (n, m) in enumerate(pairwise(sizes)):
        bound = 0.003 if i == len(sizes) - 2 else n**-0.5
        parts.append(rng.uniform(-bound, bound, (n + 1) * m))
    return np.concatenate(parts)


def _adam(memory: Memory, name: str, g: Array, rate: float) -> Memory:
    """One step of Adam down the gradient g of one network; ``updates`` counts the steps."""
    t = int(memory["updates"])
    first = 0.9 * memory[f"{name}.first"] + 0.1 * g
    second = 0.999 * memory[f"{name}.second"] + 0.001 * g * g
    step = rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    return {**memory, name: memory[name] - step, f"{name}.first": first, f"{name}.second": second}
