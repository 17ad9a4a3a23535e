"""Learned bits: gradients that are derivatives, and an allocation that the prices decide."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from refquant.mixed_precision.learned_bits import (
    Learned,
    clipped,
    learn_bits,
    resting_bits,
    wave_penalty,
)


def waveq(w, beta):
    """The wave of the paper and its derivatives, in formulas."""
    waves, size = 2**beta - 1, 2**beta
    sine, double = np.sin(np.pi * w * waves), np.sin(2 * np.pi * w * waves)

    def pullback(g):
        by_beta = math.log(2) * (np.pi * w * double - sine**2 / size)
        return g * np.pi * waves * double / size, np.sum(g * by_beta, keepdims=True)

    return sine**2 / size, pullback


def bell(n=20_001):
    """The quantiles of a normal law: any grid finds all phases, and nothing is left to chance."""
    return norm.ppf((np.arange(n) + 0.5) / n)


@pytest.mark.parametrize("beta", [3.0, 5.0, 6.5])
def test_wide_layers_come_to_rest_where_wave_and_price_balance(beta):
    price = math.log(2) / 2 / 2**beta
    assert resting_bits(1.0, price) == pytest.approx(beta)
    found = learn_bits([bell()], waveq, strength=1.0, price=price, steps=300, rate=0.05)
    assert isinstance(found, Learned)
    # The quantiles are spaced widely at the ends: a last ripple of a twentieth of a bit is left.
    assert found.beta[0] == pytest.approx(beta, abs=0.1)


def test_ripples_stop_the_bits_of_a_small_layer_that_chance_has_drawn():
    """144 weights: from about log2(144) / 2 = 3.6 bits up the slope is chance."""
    price = math.log(2) / 2 / 2**2.5
    ends = [learn_bits([np.random.default_rng(seed).normal(size=144)], waveq, strength=1.0,
                       price=price, steps=300, rate=0.05).beta[0] for seed in range(8)]
    assert np.ptp(ends) > 0.3
    assert min(ends) > 2.5


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1.0))
def test_at_rest_the_mean_slope_is_zero(strength, price):
    beta = float(resting_bits(strength, price))
    assert strength * -math.log(2) * 0.5 / 2**beta + price == pytest.approx(0, abs=1e-9 * price)


def test_prices_and_strengths_order_the_bits_of_equal_layers():
    layer = bell(4000)
    found = learn_bits([layer] * 3, waveq, strength=[1.0, 4.0, 1.0], price=[0.02, 0.02, 0.005],
                       steps=200, rate=0.05)
    assert found.beta[1] > found.beta[0] + 1
    assert found.beta[2] > found.beta[0] + 1
    assert found.path.shape == (201, 3)
    assert np.array_equal(found.path[0], [8, 8, 8])
    assert np.array_equal(found.path[-1], found.beta)
    assert np.array_equal(found.bits, np.ceil(found.beta))


@pytest.mark.parametrize(("price", "end"), [(10.0, 2.5), (1e-9, 7.0)])
def test_bits_stay_between_low_and_high(price, end):
    found = learn_bits([bell(500)], waveq, strength=1.0, price=price, low=2.5, high=7.0)
    assert found.beta == end
    assert (found.path >= 2.5).all()


def test_it_is_deterministic_and_tells_of_each_step():
    heard = []
    runs = [learn_bits([bell(100)], waveq, strength=1.0, price=0.01, steps=5,
                       progress=lambda *news: heard.append(news)) for _ in range(2)]
    assert np.array_equal(runs[0].path, runs[1].path)
    assert heard[:5] == [(i + 1, 5) for i in range(5)]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_the_gradients_of_the_penalty_are_its_derivatives(seed):
    rng = np.random.default_rng(seed)
    parameters = {"a": rng.normal(size=(3, 4)), "a.beta": rng.uniform(2, 5, 1),
                  "b": rng.normal(size=5), "b.beta": rng.uniform(2, 5, 1), "c": np.ones(2)}
    add = wave_penalty(["a", "b"], waveq, strength=lambda step: [0.5 * step, 3.0],
                       price=lambda step: 0.1)
    value, gradients = add(parameters, 4)
    assert set(gradients) == {"a", "b", "a.beta", "b.beta"}
    means = [waveq(parameters[n] / np.abs(parameters[n]).max(), parameters[f"{n}.beta"])[0].mean()
             for n in "ab"]
    bits = float(parameters["a.beta"][0] + parameters["b.beta"][0])
    assert value == pytest.approx(2.0 * means[0] + 3.0 * means[1] + 0.1 * bits)
    for name in ("a", "a.beta", "b", "b.beta"):
        # The largest magnitude counts as a constant: do not move the weight that has it.
        at = int(np.abs(parameters[name]).argmin()) if "beta" not in name else 0
        moved = []
        for sign in (1, -1):
            other = parameters[name].copy()
            other.flat[at] += sign * 1e-6
            moved.append(add({**parameters, name: other}, 4)[0])
        slope = (moved[0] - moved[1]) / 2e-6
        assert gradients[name].flat[at] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_gradients_have_the_dtype_of_their_parameters():
    parameters = {"a": np.array([0.5, -1.0], np.float32), "a.beta": np.array([3.0], np.float32)}
    _, gradients = wave_penalty(["a"], waveq, strength=lambda step: 1.0,
                                price=lambda step: 1.0)(parameters, 0)
    assert gradients["a"].dtype == gradients["a.beta"].dtype == np.float32


def test_clipping_leaves_the_weights_alone():
    w = np.array([-9.0, 9.0])
    out = clipped({"w": w, "w.beta": np.array([1.0])}, low=3.0, high=4.0)
    assert out["w"] is w
    assert out["w.beta"] == 3


@pytest.mark.parametrize(("weights", "settings", "message"), [
    ([], {}, "at least one layer"),
    ([np.zeros(3)], {}, "`weights` must not be all zero"),
    ([np.array([1.0, np.nan])], {}, "`weights` must be finite"),
    ([np.ones(3)], {"price": 0.0}, "`price` must be positive"),
    ([np.ones(3)], {"strength": [1.0, 2.0]}, "one for each of 1 layers"),
    ([np.ones(3)], {"low": 5.0, "high": 4.0}, "`low` and `high`"),
    ([np.ones(3)], {"steps": -1}, "`steps`"),
])
def test_what_does_not_fit_is_refused(weights, settings, message):
    with pytest.raises(ValueError, match=message):
        learn_bits(weights, waveq, **{"strength": 1.0, "price": 0.01, **settings})
