"""A neuron that fires at random: exact expectations over both outcomes, then draws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refquant.qat.stochastic_neuron import (
    best_baseline,
    fire,
    firing_probability,
    round_stochastically,
    score,
    score_variance,
    sloped,
    smooth_part,
    straight_through,
)

REALS = st.floats(-3, 3)
BOTH = np.array([0.0, 1.0])                     # b off, b on


def weights(a):
    p = 1 / (1 + np.exp(-a))
    return np.array([1 - p, p])


class Fixed:
    """A generator whose draws are given."""

    def __init__(self, draw):
        self.draw = draw

    def random(self, shape):
        return np.full(shape, self.draw)


def outcomes(estimator, a):
    """Value and pullback of both outcomes: draws just below and just above p."""
    on = estimator(np.array([a]), rng=Fixed(0.0))
    off = estimator(np.array([a]), rng=Fixed(1.0))
    return off, on


@given(REALS, REALS, REALS, REALS)
def test_the_score_is_unbiased_for_every_baseline(a, loss_off, loss_on, c):
    """Expectation over the two outcomes against p (1 - p) (L(1) - L(0))."""
    loss, w = np.array([loss_off, loss_on]), weights(a)
    g = score(loss, BOTH, np.full(2, a), baseline=np.array(c))
    assert np.isclose(w @ g, w[0] * w[1] * (loss_on - loss_off), atol=1e-12)
    variance = w @ (g - w @ g) ** 2
    stated = score_variance(*(np.array(v) for v in (a, loss_off, loss_on, c)))
    assert np.isclose(variance, stated, atol=1e-12)


@given(REALS, REALS, REALS)
def test_one_neuron_has_no_variance_at_the_best_baseline(a, loss_off, loss_on):
    p = weights(a)[1]
    c = (1 - p) * loss_on + p * loss_off
    assert score_variance(*(np.array(v) for v in (a, loss_off, loss_on, c))) < 1e-28


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_best_baseline_has_less_variance_than_its_neighbours(seed):
    """Over the very draws it was found on: a quadratic in c, minimal there up to the mean term."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(1, 4))
    fired = fire(np.repeat(a, 4000, 0), rng=rng)
    loss = ((fired @ rng.normal(size=4) - 1) ** 2)[:, None]
    c = best_baseline(loss, fired, a)
    assert c.shape == (4,)

    def second_moment(c):
        return (score(loss, fired, a, baseline=c) ** 2).mean(0)

    for d in (-0.1, 0.1):
        assert (second_moment(c) <= second_moment(c + d)).all()


def test_with_several_neurons_variance_is_left():
    """Eight outcomes of three neurons, enumerated: the others' noise is what remains."""
    a = np.array([0.3, -0.5, 1.0])
    p = firing_probability(a)
    b = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], float)
    w = np.prod(np.where(b == 1, p, 1 - p), 1)
    loss = ((b.sum(1) - 1.2) ** 2)[:, None]
    c = (w[:, None] * (b - p) ** 2 * loss).sum(0) / (w[:, None] * (b - p) ** 2).sum(0)
    g = score(loss, b, a, baseline=c)
    mean = w @ g
    assert (w @ (g - mean) ** 2 > 1e-3).all()
    assert (w @ (g - mean) ** 2 < w @ (score(loss, b, a, baseline=np.zeros(3)) - mean) ** 2).all()


def test_the_published_example_of_bias():
    """b ~ Bernoulli(sigmoid(0.4)), L = (b - 0.3)**2: true 0.0961, identity 0.597, sloped 0.144."""
    a, w = 0.4, weights(0.4)

    def mean_gradient(estimator):
        off, on = outcomes(estimator, a)
        return sum(p * pullback(2 * (b - 0.3))[0].item()
                   for p, (b, pullback) in zip(w, (off, on), strict=True))

    true = w[0] * w[1] * (0.49 - 0.09)
    assert round(true, 4) == 0.0961
    assert round(mean_gradient(straight_through), 3) == 0.597
    assert round(mean_gradient(sloped), 3) == 0.144


@given(REALS, REALS)
def test_the_sloped_gradient_is_exact_for_linear_losses(a, slope):
    off, on = outcomes(sloped, a)
    w = weights(a)
    mean = sum(p * pullback(np.array([slope]))[0] for p, (_, pullback)
               in zip(w, (off, on), strict=True))
    assert np.isclose(mean.item(), slope * w[0] * w[1], atol=1e-12)


@given(REALS)
def test_smooth_times_stochastic_has_the_derivative_of_its_smooth_part(a):
    off, on = outcomes(smooth_part, a)
    p = weights(a)[1]
    assert off[0] == 0
    assert off[1](np.ones(1))[0] == 0
    assert np.isclose(on[0].item(), np.sqrt(p))
    h = 1e-6
    difference = (np.sqrt(weights(a + h)[1]) - np.sqrt(weights(a - h)[1])) / (2 * h)
    assert np.isclose(on[1](np.ones(1))[0].item(), difference, atol=1e-8)
    mean = p * on[1](np.ones(1))[0].item()      # a third of d E[h] / da, h = p**1.5 on average
    assert np.isclose(mean, (weights(a + h)[1] ** 1.5 - weights(a - h)[1] ** 1.5) / (6 * h),
                      atol=1e-8)


def test_it_fires_with_its_probability():
    """40,000 draws each; five standard errors."""
    a = np.array([-3.0, -0.5, 0.0, 2.0])
    p = firing_probability(a)
    share = fire(np.tile(a, (40_000, 1)), rng=np.random.default_rng(0)).mean(0)
    assert (np.abs(share - p) < 5 * np.sqrt(p * (1 - p) / 40_000)).all()
    assert fire(np.array([-800.0, 800.0]), rng=np.random.default_rng(0)).tolist() == [0, 1]


@given(st.floats(-2, 2), st.floats(0.1, 1))
def test_stochastic_rounding_differentiates_the_loss_without_its_ripple(x, step):
    """The two outcomes enumerated: E[L(q)] for L = q**2 and the gradient 2 q on average."""
    below = np.floor(x / step) * step
    f = (x - below) / step
    levels, w = np.array([below, below + step]), np.array([1 - f, f])
    assert np.isclose(w @ levels**2, x**2 + step**2 * f * (1 - f))
    assert np.isclose(w @ (2 * levels), 2 * x)
    q, pullback = round_stochastically(
        np.full(50, x), step=np.array(step), rng=np.random.default_rng(0))
    assert all(np.isclose(np.abs(levels - v).min(), 0, atol=1e-9) for v in q)
    assert pullback(np.array(2.0))[0] == 2


def test_the_mean_of_stochastic_rounding_is_x():
    x = np.linspace(-1, 1, 9)
    q, _ = round_stochastically(np.tile(x, (20_000, 1)), step=np.array(0.5),
                                rng=np.random.default_rng(0))
    assert (np.abs(q.mean(0) - x) < 5 * 0.25 / np.sqrt(20_000)).all()


def test_dtype_is_kept_and_bad_input_refused():
    a, rng = np.zeros(3, np.float32), np.random.default_rng(0)
    for op in (straight_through, sloped, smooth_part):
        value, pullback = op(a, rng=rng)
        assert value.dtype == pullback(np.ones(3, np.float32))[0].dtype == np.float32
    assert round_stochastically(a, step=np.array(0.5), rng=rng)[0].dtype == np.float32
    with pytest.raises(ValueError, match="`step` must be positive and finite; got 0"):
        round_stochastically(a, step=np.array(0.0), rng=rng)
    with pytest.raises(ValueError, match="`step` must broadcast"):
        round_stochastically(a, step=np.ones(2), rng=rng)
